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
    /// As of now. A disk counts until it is noted to be down: a node that restarts, or that a new leader has not heard yet,
    /// takes no room away. A disk without slots takes nothing, whatever it says, once there are pools.
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
