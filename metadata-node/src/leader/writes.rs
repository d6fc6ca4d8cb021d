//! Tells which groups take no new chunks: by their rows, and by the disks that take writes. A function of
//! values; nothing is written to find out.

use std::collections::{BTreeSet, HashSet};

use wmall_proto::status::RefusingPool;
use wmall_proto::topology::{PoolTable, Topology};
use wmall_proto::{DiskId, PgRow, ZoneName};

/// Pools with groups in which a put can't get the receipts that a commit of a quorum asks for
/// (`state/commit.rs`), when only these disks give any.
pub(crate) fn refusing_pools(topology: &Topology, takes: &HashSet<DiskId>) -> Vec<RefusingPool> {
    let of_pool = |table: &PoolTable| {
        let quorum = table.pool.scheme.quorum();
        let refusing =
            table.rows.iter().filter(|row| !has_quorum(topology, row, quorum, takes)).count() as u64;
        let (pool, groups) = (table.pool.name.clone(), table.rows.len() as u64);
        (refusing > 0).then_some(RefusingPool { pool, refusing, groups })
    };
    topology.pools.values().filter_map(of_pool).collect()
}

fn has_quorum(topology: &Topology, row: &PgRow, quorum: usize, takes: &HashSet<DiskId>) -> bool {
    let zones = |disks: &mut dyn Iterator<Item = &DiskId>| {
        let zones = disks.filter_map(|disk| topology.node_of(*disk).map(|node| &node.zone));
        zones.collect::<BTreeSet<&ZoneName>>().len()
    };
    let wanted = zones(&mut row.slots.iter()).min(2).min(quorum);
    let taking = || row.slots.iter().filter(|disk| takes.contains(disk));
    taking().count() >= quorum && zones(&mut taking()) >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use wmall_proto::topology::{DiskInfo, NodeInfo};
    use wmall_proto::{Incarnation, Pool, PoolId};

    /// Six nodes of one disk each, two to a zone.
    fn topology(scheme: &str, rows: &[&[u32]]) -> Topology {
        let mut topology = Topology::empty();
        for i in 1..=6u32 {
            let name: wmall_proto::NodeName = format!("data-{i}").parse().unwrap();
            let node = NodeInfo {
                name: name.clone(),
                zone: format!("zone-{}", i.div_ceil(2)).parse().unwrap(),
                address: ([127, 0, 0, 1], i as u16).into(),
                waiting_zone: None,
                maintenance_until_ms: None,
            };
            topology.nodes.insert(name.clone(), node);
            let disk = DiskInfo {
                id: DiskId(i),
                node: name,
                name: "disk-1".into(),
                weight: 100,
                configured_weight: 100,
                weight_waits: false,
                max_bytes: 1,
                incarnation: Incarnation([0; 16]),
                public_key: [0; 32],
                draining: false,
                drain_paused: false,
                successor: None,
                quarantined_ms: None,
                down_since_ms: None,
            };
            topology.disks.insert(DiskId(i), disk);
        }
        let rows = rows.iter().map(|row| PgRow::new(row.iter().map(|d| DiskId(*d)).collect())).collect();
        let (id, name) = (PoolId(1), "p".parse().unwrap());
        let pool = Pool { id, name, scheme: scheme.parse().unwrap(), pg_bits: 2 };
        topology.pools = BTreeMap::from([(id, PoolTable { pool, rows })]);
        topology
    }

    fn refusing(topology: &Topology, without: &[u32]) -> u64 {
        let takes = (1..=6).filter(|d| !without.contains(d)).map(DiskId).collect();
        refusing_pools(topology, &takes).first().map_or(0, |pool| {
            assert_eq!((pool.pool.as_str(), pool.groups), ("p", 4));
            pool.refusing
        })
    }

    #[test]
    fn groups_refuse_from_where_a_commit_would() {
        // Disks 1 and 2 are in one zone, 3 and 4 in another.
        let copies = topology("3x", &[&[1, 3, 5], &[2, 4, 6], &[1, 2, 3], &[3, 5, 6]]);
        assert_eq!(refusing(&copies, &[]), 0);
        assert_eq!(refusing(&copies, &[1]), 0);
        assert_eq!(refusing(&copies, &[3]), 2, "two that are left in one zone are no quorum");
        assert_eq!(refusing(&copies, &[1, 3]), 3);
        assert_eq!(refusing(&copies, &[1, 2, 3, 4, 5, 6]), 4);
        let single = topology("1x", &[&[1], &[1], &[2], &[3]]);
        assert_eq!(refusing(&single, &[1]), 2);
        let all: &[u32] = &[1, 2, 3, 4, 5, 6];
        let shards = topology("rs:4+2", &[all; 4]);
        assert_eq!((refusing(&shards, &[1]), refusing(&shards, &[1, 2])), (0, 4), "five of six");
    }
}
