//! When so much vanishes at once that it is more likely a cut cable than dead disks, nothing is substituted: copying
//! everything elsewhere would fill what is left, for nothing (the rule of Ceph's `mon_osd_down_out_subtree_limit`).

use std::collections::BTreeSet;

use wmall_proto::DiskId;

use crate::snapshot::{DiskState, Snapshot};

/// What vanished together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// The disks.
    pub disks: Vec<DiskId>,
    /// Their zones.
    pub zones: usize,
    /// Disks that there are.
    pub of: usize,
}

/// Whether more than one zone, as a whole, or more than a quarter of the disks were found down within so short a time.
/// One node is never too much: there would be no repair in small clusters.
pub(crate) fn vanished_together(snapshot: &Snapshot, together_ms: u64) -> Option<Halt> {
    let in_use: BTreeSet<DiskId> = snapshot.groups.iter().flat_map(|g| &g.slots).map(|s| s.disk).collect();
    // What has no slots any more is settled.
    let disks = || snapshot.disks.values().filter(|f| in_use.contains(&f.candidate.disk));
    let mut down: Vec<(u64, DiskId)> = disks()
        .filter(|f| f.state == DiskState::Down)
        .map(|f| (f.down_since_ms.unwrap_or(snapshot.now_ms), f.candidate.disk))
        .collect();
    down.sort_unstable();
    let of = disks().count();
    for (i, &(first, _)) in down.iter().enumerate() {
        let together = down[i..].iter().take_while(|(at, _)| *at <= first.saturating_add(together_ms));
        let together: BTreeSet<DiskId> = together.map(|&(_, disk)| disk).collect();
        let facts = || disks().filter(|f| together.contains(&f.candidate.disk));
        let nodes = facts().map(|f| &f.candidate.node).collect::<BTreeSet<_>>().len();
        let zones: BTreeSet<_> = facts().map(|f| &f.candidate.zone).collect();
        let whole = |zone: &&&wmall_proto::ZoneName| {
            disks().filter(|f| f.candidate.zone == ***zone).all(|f| together.contains(&f.candidate.disk))
        };
        let whole_zones = zones.iter().filter(whole).count();
        if nodes > 1 && (whole_zones > 1 || together.len() * 4 > of) {
            return Some(Halt { disks: together.into_iter().collect(), zones: zones.len(), of });
        }
    }
    None
}

/// Whether so many disks do not answer just now that none of them should be replaced before its grace is over.
pub(crate) fn suspect_together(snapshot: &Snapshot) -> bool {
    let in_use: BTreeSet<DiskId> = snapshot.groups.iter().flat_map(|g| &g.slots).map(|s| s.disk).collect();
    let disks = || snapshot.disks.values().filter(|f| in_use.contains(&f.candidate.disk));
    let suspect = || disks().filter(|f| f.state == DiskState::Suspect);
    let nodes = suspect().map(|f| &f.candidate.node).collect::<BTreeSet<_>>().len();
    nodes > 1 && suspect().count() * 4 > disks().count()
}
