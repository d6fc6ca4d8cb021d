//! What emptying disks would come to, before anybody decides it.

use std::collections::BTreeSet;

use wmall_proto::DiskId;

use crate::budget::Budget;
use crate::layout::arrive;
use crate::repair::{Policy, Reason, plan_repairs};
use crate::snapshot::{DiskState, GroupFact, Snapshot};

/// What a drain would move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainPreview {
    /// Slots that the disks have now.
    pub slots: u64,
    /// About so many bytes.
    pub bytes: u64,
    /// Slots for which there is no other disk under the zone rule, with room.
    pub stuck: u64,
}

/// Plans that are made; a row moves one slot at a time.
const MAX_PLANS: usize = 64;

/// Plans the drain of these disks to its end, as if there were no budget. What is still on them then has nowhere to go: it
/// would be so in the end.
pub fn preview_drain(snapshot: &Snapshot, disks: &BTreeSet<DiskId>) -> DrainPreview {
    let mut drained = snapshot.clone();
    for (disk, fact) in &mut drained.disks {
        if disks.contains(disk) {
            (fact.draining, fact.drain_paused) = (true, false);
        }
    }
    // What is on its way to a disk that answers will have arrived by then.
    let up: BTreeSet<DiskId> =
        drained.disks.iter().filter(|(_, fact)| fact.state == DiskState::Up).map(|(disk, _)| *disk).collect();
    for slot in drained.groups.iter_mut().flat_map(|g| &mut g.slots).filter(|s| up.contains(&s.disk)) {
        slot.sources.clear();
        slot.arriving = false;
    }
    let all = Budget::ALL;
    let policy = Policy { together_ms: 0, override_halt: true };
    for _ in 0..MAX_PLANS {
        let plan = plan_repairs(&drained, &policy, &all);
        // Balance comes last, and is no part of a drain.
        let moves = plan.moves.iter().filter(|m| m.reason != Reason::Balance);
        let mut moved = false;
        for planned in moves {
            let at = drained.groups.binary_search_by_key(&planned.group, |g| g.key);
            let Some(group) = at.ok().and_then(|at| drained.groups.get_mut(at)) else { continue };
            arrive(&mut drained.disks, group, planned);
            moved = true;
        }
        if !moved {
            break;
        }
    }
    let slots_on = |snapshot: &Snapshot| {
        let of = |g: &GroupFact| g.slots.iter().filter(|s| disks.contains(&s.disk)).count() as u64;
        let bytes = snapshot.groups.iter().map(|g| of(g) * g.slot_bytes).sum::<u64>();
        (snapshot.groups.iter().map(of).sum::<u64>(), bytes)
    };
    let (slots, bytes) = slots_on(snapshot);
    DrainPreview { slots, bytes, stuck: slots_on(&drained).0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::tests::cluster;

    #[test]
    fn a_drain_that_cannot_end_is_seen_before_it_begins() {
        let rows: &[&[u32]] = &[&[1, 2, 3], &[1, 2, 4], &[2, 3, 4]];
        let four = cluster(&[1, 2, 3, 4], rows);
        let of = |c: &Snapshot, d: u32| preview_drain(c, &BTreeSet::from([DiskId(d)]));
        assert_eq!(of(&four, 1), DrainPreview { slots: 2, bytes: 200, stuck: 0 });
        let mut three = cluster(&[1, 2, 3], &[&[1, 2, 3]]);
        assert_eq!(of(&three, 1), DrainPreview { slots: 1, bytes: 100, stuck: 1 });
        three.groups.clear();
        assert_eq!(of(&three, 1), DrainPreview::default());
    }

    #[test]
    fn what_is_on_its_way_is_no_obstacle() {
        let rows: &[&[u32]] = &[&[1, 2, 3], &[1, 2, 4], &[2, 3, 4]];
        let mut four = cluster(&[1, 2, 3, 4], rows);
        // A slot of the first row comes to disk 1 from disk 4, one of the last to disk 4 from disk 1.
        (four.groups[0].slots[0].sources, four.groups[0].slots[0].arriving) = (vec![DiskId(4)], true);
        (four.groups[2].slots[2].sources, four.groups[2].slots[2].arriving) = (vec![DiskId(1)], true);
        let preview = preview_drain(&four, &BTreeSet::from([DiskId(1)]));
        assert_eq!(preview, DrainPreview { slots: 2, bytes: 200, stuck: 0 });
    }

    #[test]
    fn a_drain_beside_another_one_is_looked_at_to_its_end() {
        // Four nodes: one may go, and with it gone no other one.
        let rows: &[&[u32]] = &[&[1, 2, 3], &[1, 2, 4], &[2, 3, 4], &[1, 3, 4]];
        let mut four = cluster(&[1, 2, 3, 4], rows);
        four.disks.get_mut(&DiskId(4)).unwrap().draining = true;
        assert!(preview_drain(&four, &BTreeSet::from([DiskId(1)])).stuck > 0);
        let both = preview_drain(&cluster(&[1, 2, 3, 4], rows), &BTreeSet::from([DiskId(1), DiskId(4)]));
        assert!(both.stuck > 0 && both.slots == 6, "{both:?}");
        let five = cluster(&[1, 2, 3, 4, 5], rows);
        assert_eq!(preview_drain(&five, &BTreeSet::from([DiskId(1), DiskId(4)])).stuck, 0);
    }
}
