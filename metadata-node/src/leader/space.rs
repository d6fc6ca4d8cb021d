//! How full the cluster is, from the map, the counters and the last heartbeats.

use std::time::Instant;

use wmall_placement::{DiskSpace, PoolNeed, capacity};
use wmall_proto::capacity::CapacityReport;
use wmall_proto::topology::Topology;

use super::Liveness;
use crate::state::Counters;

/// The report of now. A disk counts until it is noted to be down: a node that restarts, or that a new leader has not heard
/// yet, takes no room away.
pub(crate) fn report(
    topology: &Topology,
    counters: &Counters,
    liveness: &Liveness,
    now: Instant,
) -> CapacityReport {
    let space = |disk: &wmall_proto::topology::DiskInfo| {
        let zone = topology.nodes.get(&disk.node)?.zone.clone();
        let (_, _, beats) = liveness.of(&disk.node, now);
        let beat = beats.get(&disk.id);
        Some(DiskSpace {
            disk: disk.id,
            node: disk.node.clone(),
            zone,
            max_bytes: disk.max_bytes,
            reserved_bytes: beat.map_or(0, |b| b.reserved_bytes),
            used_bytes: beat.map_or(0, |b| b.used_bytes.saturating_add(b.dead_bytes)),
            dead_bytes: beat.map_or(0, |b| b.dead_bytes),
            counts: !disk.draining && disk.down_since_ms.is_none(),
        })
    };
    let disks: Vec<DiskSpace> = topology.disks.values().filter_map(space).collect();
    let need = |(id, pool): (&wmall_proto::PoolId, &crate::state::PoolCounters)| {
        Some(PoolNeed { scheme: topology.pools.get(id)?.pool.scheme, bytes: pool.bytes })
    };
    let pools: Vec<PoolNeed> = counters.pools.iter().filter_map(need).filter(|p| p.bytes > 0).collect();
    capacity(&disks, &pools)
}
