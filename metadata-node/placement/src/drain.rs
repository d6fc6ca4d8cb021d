//! What emptying disks would come to, before anybody decides it.

use std::collections::BTreeSet;

use wmall_proto::DiskId;

use crate::repair::{Budget, Policy, Snapshot, plan_repairs};

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

/// Plans the drain of these disks as if there were no budget.
pub fn preview_drain(snapshot: &Snapshot, disks: &BTreeSet<DiskId>) -> DrainPreview {
    let mut drained = snapshot.clone();
    for (disk, fact) in &mut drained.disks {
        fact.draining |= disks.contains(disk);
    }
    let all = Budget { to_disk: usize::MAX, from_disk: usize::MAX };
    let plan = plan_repairs(&drained, &Policy { together_ms: 0, override_halt: true }, &all);
    let mut preview = DrainPreview::default();
    for group in &snapshot.groups {
        let slots = group.slots.iter().filter(|s| disks.contains(&s.disk)).count() as u64;
        preview.slots += slots;
        preview.bytes += slots * group.slot_bytes;
    }
    preview.stuck = plan.stuck_on.iter().filter(|(disk, _)| disks.contains(disk)).map(|(_, n)| n).sum();
    preview
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
}
