//! Decides what a data node may take of the placement by itself. Its configuration asks for weights and names
//! a zone. It gets what is usual in the cluster, and the rest waits for an operator (`wmall layout accept`,
//! docs/adr/0027). So a node that was let in draws three times the usual share at most to itself, whatever it
//! writes, and empties no other.
//!
//! Functions of values, and of the map.

use std::collections::{BTreeMap, BTreeSet};

use wmall_placement::ZoneRule;
use wmall_proto::rpc::Registration;
use wmall_proto::topology::{DiskInfo, MAX_DISKS, MAX_DISKS_PER_NODE, NodeInfo, Topology};
use wmall_proto::{ErrorCode, NodeName, RpcError, ZoneName};

use super::State;

/// A disk may have so many times the usual weight by itself.
const DISK_FACTOR: u64 = 2;
/// All disks of a node may have so many times what those of a node usually have: nodes differ in their disks.
const NODE_FACTOR: u64 = 3;
/// The usual weight where no other node has any: that of a configuration which names none.
const FIRST_WEIGHT: u64 = 100;
/// Of the other nodes, one in so many may be unusual: the largest of them say nothing.
const UNUSUAL_PART: usize = 4;

/// Weights that are usual among the other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usual {
    /// The weight of a disk.
    disk: u64,
    /// The weight of all disks of a node; none where there is no other.
    node: Option<u64>,
}

impl Usual {
    /// By the nodes but this one, those of their disks that have a weight.
    pub(super) fn beside(node: &NodeName, topology: &Topology) -> Self {
        let mut others: BTreeMap<&NodeName, (u64, u64)> = BTreeMap::new();
        for disk in topology.disks.values().filter(|d| d.node != *node && d.weight > 0) {
            let (largest, sum) = others.entry(&disk.node).or_default();
            (*largest, *sum) = ((*largest).max(u64::from(disk.weight)), *sum + u64::from(disk.weight));
        }
        let disk = usual(others.values().map(|(largest, _)| *largest)).unwrap_or(FIRST_WEIGHT);
        Self { disk, node: usual(others.values().map(|(_, sum)| *sum)) }
    }

    /// The weight that a disk takes by itself of the one that it asks for, and whether the rest waits. The
    /// node's other disks have `of_others`, and a disk that is known has `present`.
    pub(super) fn admit(&self, asked: u32, of_others: u64, present: Option<u32>) -> (u32, bool) {
        let most = self.node.map_or(u64::MAX, |node| (node * NODE_FACTOR).saturating_sub(of_others));
        let within = u64::from(asked) <= (self.disk * DISK_FACTOR).min(most);
        match present {
            // Less than it has draws nothing.
            Some(present) if asked <= present => (asked, false),
            _ if within => (asked, false),
            Some(present) => (present, true),
            None => (u32::try_from(self.disk.min(most).min(u64::from(asked))).unwrap_or(asked), true),
        }
    }
}

/// The largest but for the unusual ones; none of none.
fn usual(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let unusual = values.len() / UNUSUAL_PART;
    values.iter().rev().nth(unusual).copied()
}

/// True if a node in this zone would change how many slots of a row the other zones may have: one node would
/// get a part of every group at once.
pub(super) fn zone_changes_rows(node: &NodeName, zone: &ZoneName, topology: &Topology) -> bool {
    let of_others = topology.disks.values().filter(|d| d.node != *node && d.weight > 0);
    let zones: BTreeSet<&ZoneName> =
        of_others.filter_map(|d| Some(&topology.nodes.get(&d.node)?.zone)).collect();
    let before = zones.len();
    let per_zone = |width, zones| ZoneRule::new(width, zones).per_zone;
    let widths = topology.pools.values().map(|table| table.pool.scheme.width());
    let mut changed = widths.filter(|&width| per_zone(width, before + 1) != per_zone(width, before));
    before > 0 && !zones.contains(zone) && changed.next().is_some()
}

/// Refuses more disks than a node, or the cluster, may have: before anything of them is registered.
pub(super) fn check_disks(registration: &Registration, topology: &Topology) -> Result<(), RpcError> {
    let refused = |reason: String| Err(RpcError::new(ErrorCode::OutOfBounds, reason));
    if registration.disks.is_empty() {
        return refused(format!("a node registers 1 to {MAX_DISKS_PER_NODE} disks"));
    }
    let known: BTreeSet<&str> = of_node(topology, &registration.node).map(|d| d.name.as_str()).collect();
    let named: BTreeSet<&str> = registration.disks.iter().map(|d| d.name.as_str()).collect();
    if named.len() < registration.disks.len() {
        return refused("two disks of one name".into());
    }
    let new = named.difference(&known).count();
    let (of_node, all) = (known.len() + new, topology.disks.len() + new);
    if of_node > MAX_DISKS_PER_NODE {
        return refused(format!(
            "{} would have {of_node} disks; {MAX_DISKS_PER_NODE} at most",
            registration.node
        ))
        .map_err(|e: RpcError| e.hint("let go of those that are gone: `wmall disk rm NODE/DISK`"));
    }
    if new > 0 && all > MAX_DISKS {
        return refused(format!("the cluster would have {all} disks; {MAX_DISKS} at most"))
            .map_err(|e: RpcError| e.hint("let go of those that are gone: `wmall disk rm NODE/DISK`"));
    }
    Ok(())
}

pub(super) fn of_node<'a>(topology: &'a Topology, node: &'a NodeName) -> impl Iterator<Item = &'a DiskInfo> {
    topology.disks.values().filter(move |d| d.node == *node)
}

/// The zone that a node says it is in: what waits, or else what counts.
pub(super) fn said_zone(node: &NodeInfo) -> &ZoneName {
    node.waiting_zone.as_ref().unwrap_or(&node.zone)
}

impl State {
    /// Refuses a registration with more disks than there may be.
    pub(crate) fn check_disks(&self, registration: &Registration) -> Result<(), RpcError> {
        check_disks(registration, &self.read().topology)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_is_what_all_but_the_largest_quarter_keep_to() {
        assert_eq!(usual([].into_iter()), None);
        assert_eq!(usual([7].into_iter()), Some(7));
        assert_eq!(usual([100, 900, 100].into_iter()), Some(900), "one of three is no exception");
        assert_eq!(usual([100, 900, 100, 100].into_iter()), Some(100));
        // Not even two that lift each other.
        assert_eq!(usual([100, 100, 100, 100, 100, 100, 200, 400].into_iter()), Some(100));
    }

    #[test]
    fn twice_the_usual_is_taken_and_what_is_above_it_waits() {
        let usual = Usual { disk: 100, node: Some(200) };
        assert_eq!(usual.admit(200, 0, None), (200, false));
        assert_eq!(usual.admit(201, 0, None), (100, true), "it begins with the usual");
        assert_eq!(usual.admit(1_000_000, 550, None), (50, true), "as far as the node's share goes");
        assert_eq!(usual.admit(100, 600, None), (0, true), "and that is used up");
        assert_eq!(usual.admit(1_000_000, 0, Some(100)), (100, true), "a known one keeps what it has");
        assert_eq!(usual.admit(150, 0, Some(100)), (150, false));
        assert_eq!(usual.admit(500, 9000, Some(900)), (500, false), "an operator gave it more");
        let first = Usual { disk: FIRST_WEIGHT, node: None };
        assert_eq!(first.admit(100, 6300, None), (100, false));
        assert_eq!(first.admit(1_000_000, 0, None), (100, true));
    }
}
