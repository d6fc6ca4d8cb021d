//! The event log: what the cluster did by itself, in the entry that did it. The last [`MAX_EVENTS`] lines are kept.

use wmall_proto::capacity::CapacityLevel;
use wmall_proto::event::{Event, EventKind, MAX_EVENTS};
use wmall_proto::rpc::Response;

use super::apply::{Context, Outcome};
use super::keys;

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

    /// What the leader sees and no command says: how full the cluster is, and whether repairs are halted. A line only where
    /// it is news, whoever leads.
    pub(super) fn note_conditions(
        &mut self,
        (level, ratio_ppm): (CapacityLevel, u64),
        halted: Option<(u64, u64)>,
    ) -> Outcome {
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
