//! What other weights would come to, before anybody decides them: the moves that balancing would make, one
//! plan after another, until there are no more.

use std::collections::{BTreeMap, BTreeSet};

use wmall_proto::chunk::PieceState;
use wmall_proto::{DiskId, NodeName, ZoneName};

use crate::budget::Budget;
use crate::repair::{PlannedMove, Policy, plan_repairs};
use crate::snapshot::{DiskFact, DiskState, GroupFact, Snapshot};

/// Plans that are made; what is not even by then stays so.
const MAX_PLANS: usize = 64;

/// What would become of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskChange {
    /// Slots that it has.
    pub slots: u64,
    /// Slots that it would have.
    pub draft_slots: u64,
    /// Bytes that would come, about.
    pub bytes_in: u64,
    /// Bytes that would go, about.
    pub bytes_out: u64,
    /// Why it would have none, if so.
    pub why_nothing: Option<&'static str>,
}

/// What would become of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayoutPreview {
    /// Disk by disk.
    pub disks: BTreeMap<DiskId, DiskChange>,
    /// Slots that would move.
    pub slots: u64,
    /// Bytes that would move, about.
    pub bytes: u64,
    /// Slots that should move and would have no place.
    pub stuck: u64,
}

/// Changes of a draft.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drafted {
    /// Weights of disks.
    pub weights: BTreeMap<DiskId, u32>,
    /// Zones of nodes.
    pub zones: BTreeMap<NodeName, ZoneName>,
}

/// Plans with these weights and zones in the place of those that there are, as if there were no budget.
pub fn preview_layout(snapshot: &Snapshot, draft: &Drafted) -> LayoutPreview {
    let mut drafted = snapshot.clone();
    for (disk, weight) in &draft.weights {
        if let Some(fact) = drafted.disks.get_mut(disk) {
            fact.candidate.weight = *weight;
        }
    }
    for fact in drafted.disks.values_mut() {
        if let Some(zone) = draft.zones.get(&fact.candidate.node) {
            fact.candidate.zone = zone.clone();
        }
    }
    if *draft != Drafted::default() {
        let weighted = drafted.disks.values().filter(|fact| fact.candidate.weight > 0);
        drafted.zones = weighted.map(|fact| &fact.candidate.zone).collect::<BTreeSet<_>>().len();
    }
    let all = Budget::ALL;
    let policy = Policy { together_ms: 0, override_halt: true };
    let mut stuck = 0;
    for _ in 0..MAX_PLANS {
        let plan = plan_repairs(&drafted, &policy, &all);
        stuck = plan.stuck.values().sum();
        if plan.moves.is_empty() {
            break;
        }
        // Everything arrives at once.
        for planned in &plan.moves {
            let at = drafted.groups.binary_search_by_key(&planned.group, |g| g.key);
            let Some(group) = at.ok().and_then(|at| drafted.groups.get_mut(at)) else { continue };
            arrive(&mut drafted.disks, group, planned);
        }
    }
    compare(snapshot, &drafted, stuck)
}

/// A slot has moved, with all that is in it, and its room with it.
pub(crate) fn arrive(disks: &mut BTreeMap<DiskId, DiskFact>, group: &mut GroupFact, planned: &PlannedMove) {
    let Some(slot) = group.slots.get_mut(usize::from(planned.slot)) else { return };
    slot.disk = planned.to;
    (slot.arriving, slot.piece) = (false, PieceState::Live);
    slot.sources.clear();
    for (disk, gives) in [(planned.from, true), (planned.to, false)] {
        if let Some(fact) = disks.get_mut(&disk) {
            for room in [&mut fact.free_bytes, &mut fact.last_bytes] {
                let bytes = group.slot_bytes;
                *room = if gives { room.saturating_add(bytes) } else { room.saturating_sub(bytes) };
            }
        }
    }
}

fn compare(before: &Snapshot, after: &Snapshot, stuck: u64) -> LayoutPreview {
    let mut preview = LayoutPreview { stuck, ..LayoutPreview::default() };
    for disk in before.disks.keys() {
        preview.disks.insert(*disk, DiskChange::default());
    }
    for (old, new) in before.groups.iter().zip(&after.groups) {
        for (from, to) in old.slots.iter().zip(&new.slots) {
            let moves = from.disk != to.disk;
            let bytes = if moves { old.slot_bytes } else { 0 };
            let leaves = preview.disks.entry(from.disk).or_default();
            (leaves.slots, leaves.bytes_out) = (leaves.slots + 1, leaves.bytes_out + bytes);
            let comes = preview.disks.entry(to.disk).or_default();
            (comes.draft_slots, comes.bytes_in) = (comes.draft_slots + 1, comes.bytes_in + bytes);
            (preview.slots, preview.bytes) = (preview.slots + u64::from(moves), preview.bytes + bytes);
        }
    }
    for (disk, change) in preview.disks.iter_mut().filter(|(_, c)| c.draft_slots == 0) {
        let fact = &after.disks[disk];
        change.why_nothing = Some(match fact.state {
            _ if before.groups.is_empty() => "there are no pools",
            DiskState::Down | DiskState::Suspect => "it does not answer",
            DiskState::Up if fact.draining => "it is to be emptied",
            DiskState::Up if fact.candidate.weight == 0 => "it has no weight",
            DiskState::Up if fact.free_bytes == 0 => "it is full, or takes no writes",
            DiskState::Up => "its share is less than a group, or the zone rule leaves it nothing",
        });
    }
    preview
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::tests::cluster;

    #[test]
    fn a_layout_is_previewed_to_its_end_and_moves_no_more_than_it_must() {
        // Twelve groups of one copy, all on two of three disks.
        let rows: Vec<Vec<u32>> = (0..12).map(|i| vec![1 + i % 2]).collect();
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let c = cluster(&[1, 1, 1], &rows);
        let even = preview_layout(&c, &Drafted::default());
        let slots =
            |p: &LayoutPreview| p.disks.values().map(|d| (d.slots, d.draft_slots)).collect::<Vec<_>>();
        assert!(even.slots <= 4 && even.disks[&DiskId(3)].draft_slots >= 3, "{even:?}");
        // Half the weight of the others.
        let weights = BTreeMap::from([(DiskId(3), 1), (DiskId(1), 2), (DiskId(2), 2)]);
        let light = preview_layout(&c, &Drafted { weights, ..Drafted::default() });
        assert!(light.disks[&DiskId(3)].draft_slots < 4, "{:?}", slots(&light));
        assert_eq!(light.bytes, light.slots * 100);
        let sum = |of: fn(&DiskChange) -> u64| light.disks.values().map(of).sum::<u64>();
        assert_eq!((sum(|d| d.bytes_in), sum(|d| d.bytes_out)), (light.bytes, light.bytes));
        assert_eq!(sum(|d| d.draft_slots), 12);
    }

    #[test]
    fn a_disk_that_gets_nothing_has_a_reason() {
        let mut c = cluster(&[1, 2, 3, 4], &[&[1, 2, 3]]);
        let why =
            |c: &Snapshot| preview_layout(c, &Drafted::default()).disks[&DiskId(4)].why_nothing.unwrap();
        assert!(why(&c).contains("less than a group"));
        c.disks.get_mut(&DiskId(4)).unwrap().free_bytes = 0;
        assert!(why(&c).contains("full"));
        c.disks.get_mut(&DiskId(4)).unwrap().draining = true;
        assert!(why(&c).contains("emptied"));
        c.disks.get_mut(&DiskId(4)).unwrap().state = DiskState::Down;
        assert!(why(&c).contains("answer"));
    }
}
