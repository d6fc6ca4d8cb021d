//! How full the cluster is, from the map, the counters and the last heartbeats.

use std::collections::HashSet;
use std::time::Instant;

use wmall_placement::{DiskSpace, PoolNeed, capacity, forecast};
use wmall_proto::capacity::{CapacityReport, Forecast, UsageSample};
use wmall_proto::topology::Topology;

use super::Liveness;
use crate::state::Counters;

/// The disks, and what the pools keep.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    pub(crate) disks: Vec<DiskSpace>,
    pub(crate) pools: Vec<PoolNeed>,
}

impl Space {
    /// As of now. A disk counts until it is noted to be down: a node that restarts, or that a new leader has
    /// not heard yet, takes no room away. A disk without slots takes nothing, whatever it says, once there
    /// are pools.
    pub(crate) fn now(topology: &Topology, counters: &Counters, liveness: &Liveness, now: Instant) -> Self {
        let rows = || topology.pools.values().flat_map(|table| &table.rows);
        let in_rows: HashSet<_> = rows().flat_map(|row| &row.slots).collect();
        let space = |disk: &wmall_proto::topology::DiskInfo| {
            let zone = topology.nodes.get(&disk.node)?.zone.clone();
            let (_, _, beats) = liveness.of(&disk.node, now);
            let beat = beats.get(&disk.id);
            Some(DiskSpace {
                disk: disk.id,
                node: disk.node.clone(),
                zone,
                max_bytes: beat.map_or(disk.max_bytes, |b| b.capacity_bytes.min(disk.max_bytes)),
                reserved_bytes: beat.map_or(0, |b| b.reserved_bytes),
                used_bytes: beat.map_or(0, |b| b.used_bytes.saturating_add(b.dead_bytes)),
                dead_bytes: beat.map_or(0, |b| b.dead_bytes),
                counts: (topology.pools.is_empty() || in_rows.contains(&disk.id))
                    && !disk.draining
                    && disk.down_since_ms.is_none()
                    && disk.quarantined_ms.is_none(),
            })
        };
        let need = |(id, pool): (&wmall_proto::PoolId, &crate::state::PoolCounters)| {
            Some(PoolNeed { scheme: topology.pools.get(id)?.pool.scheme, bytes: pool.bytes })
        };
        Self {
            disks: topology.disks.values().filter_map(space).collect(),
            pools: counters.pools.iter().filter_map(need).filter(|p| p.bytes > 0).collect(),
        }
    }

    pub(crate) fn report(&self) -> CapacityReport {
        capacity(&self.disks, &self.pools)
    }

    /// When it will be full, by these samples of the past.
    pub(crate) fn forecast(
        &self,
        samples: &[UsageSample],
        report: &CapacityReport,
        now_ms: u64,
    ) -> Option<Forecast> {
        let space = wmall_placement::Space { disks: &self.disks, pools: &self.pools, report };
        forecast(samples, space, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use wmall_proto::capacity::CapacityLevel;
    use wmall_proto::rpc::{DiskHeartbeat, Heartbeat};
    use wmall_proto::topology::{DiskInfo, NodeInfo, PoolTable};
    use wmall_proto::{DiskId, Incarnation, NodeName, PgRow, Pool, PoolId};

    use super::*;

    /// Three disks of 1,000 bytes by their configurations, of which the first two have the slots.
    fn map() -> Topology {
        let mut map = Topology::empty();
        for i in 1..=3u32 {
            let node = NodeName::new(format!("data-{i}")).unwrap();
            let info = NodeInfo {
                name: node.clone(),
                zone: format!("z{i}").parse().unwrap(),
                address: ([127, 0, 0, 1], 1).into(),
                waiting_zone: None,
                maintenance_until_ms: None,
            };
            map.nodes.insert(node.clone(), info);
            let disk = DiskInfo {
                id: DiskId(i),
                node,
                name: "disk-1".into(),
                weight: 100,
                max_bytes: 1000,
                incarnation: Incarnation([1; 16]),
                public_key: [0; 32],
                configured_weight: 100,
                weight_waits: false,
                draining: false,
                drain_paused: false,
                successor: None,
                quarantined_ms: None,
                down_since_ms: None,
            };
            map.disks.insert(DiskId(i), disk);
        }
        map
    }

    fn beat(disk: u32, capacity_bytes: u64) -> Heartbeat {
        let disk_beat = DiskHeartbeat {
            disk: DiskId(disk),
            incarnation: Incarnation([1; 16]),
            used_bytes: 100,
            segment_bytes: 100,
            dead_bytes: 0,
            reserved_bytes: 0,
            capacity_bytes,
            pieces: 1,
            end: (0, 0),
            writable: true,
            failed: false,
            sync_ms: 0,
            fenced_before_ms: 0,
        };
        Heartbeat {
            node: NodeName::new(format!("data-{disk}")).unwrap(),
            process: [0; 16],
            now_ms: 0,
            disks: vec![disk_beat],
            topology: 0,
            topology_epoch: 0,
            feed: 0,
            feed_epoch: 0,
        }
    }

    #[test]
    fn a_disk_counts_by_its_slots_and_by_what_its_file_system_has() {
        let (mut map, counters, now) = (map(), Counters::default(), Instant::now());
        let liveness = Liveness::new(Duration::from_secs(3), Duration::from_secs(600));
        liveness.leads(true, now);
        let rooms = |map: &Topology| {
            let space = Space::now(map, &counters, &liveness, now);
            space.disks.iter().map(|d| (d.max_bytes, d.counts)).collect::<Vec<_>>()
        };
        assert_eq!(rooms(&map), [(1000, true); 3], "before there are pools all count");
        let pool =
            Pool { id: PoolId(1), name: "p".parse().unwrap(), scheme: "2x".parse().unwrap(), pg_bits: 0 };
        let rows = vec![PgRow::new(vec![DiskId(1), DiskId(2)])];
        map.pools = BTreeMap::from([(PoolId(1), PoolTable { pool, rows })]);
        for (disk, can_have) in [(1, 300), (2, u64::MAX), (3, 1)] {
            liveness.hear(beat(disk, can_have), now);
        }
        assert_eq!(rooms(&map), [(300, true), (1000, true), (1, false)]);
        assert_eq!(Space::now(&map, &counters, &liveness, now).report().level, CapacityLevel::Safe);
    }
}
