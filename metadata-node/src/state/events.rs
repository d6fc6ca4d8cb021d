//! The event log: what the cluster did by itself, in the entry that did it. The last [`MAX_EVENTS`] lines are
//! kept.

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

/// Judges a line that is written once in a while, after `more` of what it tells. Returns when it was written
/// last and how much it has not told, and how much it tells now if it is due.
fn line_due(before: Option<(u64, u64)>, more: u64, now_ms: u64) -> ((u64, u64), Option<u64>) {
    let (last_ms, untold) = before.unzip();
    let untold = untold.unwrap_or(0) + more;
    // A leader whose clock was ahead does not silence the next one.
    let is_due = last_ms.is_none_or(|last| now_ms >= last.saturating_add(LINE_MS) || now_ms < last);
    if !is_due {
        return ((last_ms.unwrap_or(0), untold), None);
    }
    // Nothing to tell leaves the time as it was, so that what comes next is told at once.
    let written = if untold > 0 { now_ms } else { last_ms.unwrap_or(0) };
    ((written, 0), Some(untold))
}

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

    /// Slots were given to other disks. The first line comes at once; what follows within [`LINE_MS`] is told
    /// together.
    pub(super) fn tell_moves(&mut self, reason: Reason, slots: u64) {
        let moves = &mut self.derived.counters.moves.since_line;
        let (line, told) = line_due(moves.get(&reason).copied(), slots, self.now_ms);
        moves.insert(reason, line);
        if let Some(slots) = told {
            self.tell(EventKind::SlotsMove { reason: reason.as_str().into(), slots });
        }
    }

    /// Pieces of a disk are bad. The first line comes at once, and one a minute at most is written of a disk.
    pub(super) fn tell_bad(&mut self, disk: DiskId, pieces: u64) {
        let bad = &mut self.derived.counters.bad_pieces;
        let (line, told) = line_due(bad.get(&disk).copied(), pieces, self.now_ms);
        bad.insert(disk, line);
        if let Some(pieces) = told.filter(|pieces| *pieces > 0) {
            self.tell(EventKind::PiecesBad { disk, pieces });
        }
    }

    /// Tells of bad pieces that have no line yet and have waited long enough. Disks that have none are
    /// forgotten.
    fn tell_late_bad(&mut self) {
        let disks: Vec<DiskId> = self.derived.counters.bad_pieces.keys().copied().collect();
        for disk in disks {
            self.tell_bad(disk, 0);
        }
        let now = self.now_ms;
        let is_recent = |(last, untold): &(u64, u64)| *untold > 0 || now < last.saturating_add(LINE_MS);
        self.derived.counters.bad_pieces.retain(|_, line| is_recent(line));
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

    /// What the leader sees and no command says: how full the cluster is, whether repairs are halted, and
    /// whether anything moves. A line only where it is news, whoever leads.
    pub(super) fn note_conditions(
        &mut self,
        (level, ratio_ppm): (CapacityLevel, u64),
        halted: Option<(u64, u64)>,
        moving: bool,
    ) -> Outcome {
        if !moving {
            self.tell_rest();
        }
        self.tell_late_bad();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_at_once_and_then_once_a_minute_with_all_that_came_between() {
        assert_eq!(line_due(None, 3, 1000), ((1000, 0), Some(3)));
        assert_eq!(line_due(Some((1000, 0)), 5, 1001), ((1000, 5), None));
        assert_eq!(line_due(Some((1000, 5)), 2, 60_999), ((1000, 7), None));
        assert_eq!(line_due(Some((1000, 7)), 1, 61_000), ((61_000, 0), Some(8)));
        assert_eq!(line_due(Some((1000, 7)), 0, 999), ((999, 0), Some(7)), "a clock of before was ahead");
        assert_eq!(line_due(Some((1000, 0)), 0, 99_000), ((1000, 0), Some(0)));
    }
}
