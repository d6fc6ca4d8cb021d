//! The event log: what the cluster did by itself, in the entry that did it. The last [`MAX_EVENTS`] lines are kept.

use wmall_placement::Reason;
use wmall_proto::DiskId;
use wmall_proto::capacity::CapacityLevel;
use wmall_proto::event::{Event, EventKind, MAX_EVENTS};
use wmall_proto::rpc::Response;

use super::apply::{Context, Outcome};
use super::derived::Untold;
use super::keys;

/// At least so long, in milliseconds, between two lines about slots that move for the same reason.
const LINE_MS: u64 = 60_000;

impl Context<'_> {
    /// Adds a line.
    pub(super) fn tell(&mut self, what: EventKind) {
        let counters = &mut self.derived.counters;
        counters.events += 1;
        let event = Event { number: counters.events, at_ms: self.now_ms, what };
        if let Some(old) = event.number.checked_sub(MAX_EVENTS).filter(|n| *n > 0) {
            self.txn.remove(keys::event(old));
        }
        self.txn.put(keys::event(event.number), &event);
    }

    /// Slots were given to other disks. The first line comes at once; what follows within [`LINE_MS`] is told together.
    pub(super) fn tell_moves(&mut self, reason: Reason, slots: u64) {
        let moves = &mut self.derived.counters.moves.since_line;
        let (last_ms, untold) = moves.get(&reason).copied().unzip();
        let untold = untold.unwrap_or(0) + slots;
        // A leader whose clock was ahead does not silence the next one.
        let is_due =
            last_ms.is_none_or(|last| self.now_ms >= last.saturating_add(LINE_MS) || self.now_ms < last);
        moves.insert(reason, if is_due { (self.now_ms, 0) } else { (last_ms.unwrap_or(0), untold) });
        if is_due {
            self.tell(EventKind::SlotsMove { reason: reason.as_str().into(), slots: untold });
        }
    }

    /// A slot has arrived.
    pub(super) fn note_arrival(&mut self, disk: DiskId) {
        *self.derived.counters.moves.arrived.entry(disk).or_default() += 1;
    }

    /// All is at rest: what has no line yet gets one.
    fn tell_rest(&mut self) {
        let Untold { since_line, arrived } = std::mem::take(&mut self.derived.counters.moves);
        for (reason, (_, slots)) in since_line.into_iter().filter(|(_, (_, slots))| *slots > 0) {
            self.tell(EventKind::SlotsMove { reason: reason.as_str().into(), slots });
        }
        for (disk, slots) in arrived {
            self.tell(EventKind::MovesArrived { disk, slots });
        }
    }

    /// What the leader sees and no command says: how full the cluster is, whether repairs are halted, and whether anything
    /// moves. A line only where it is news, whoever leads.
    pub(super) fn note_conditions(
        &mut self,
        (level, ratio_ppm): (CapacityLevel, u64),
        halted: Option<(u64, u64)>,
        moving: bool,
    ) -> Outcome {
        if !moving {
            self.tell_rest();
        }
        let counters = &mut self.derived.counters;
        let (level_before, halted_before) = (counters.level, counters.halted);
        (counters.level, counters.halted) = (level, halted.is_some());
        if level_before != level {
            self.tell(EventKind::Capacity { level, ratio_ppm });
        }
        match halted {
            Some((disks, of)) if !halted_before => self.tell(EventKind::RepairHalted { disks, of }),
            None if halted_before => self.tell(EventKind::RepairResumed),
            _ => {}
        }
        Ok(Response::Done)
    }
}
