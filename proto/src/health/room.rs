//! Promises about room, and about what waits for an operator: volumes of metadata nodes, weights, zones.

use crate::status::ClusterStatus;
use crate::volume::{VolumeUse, mebibytes};

pub(super) fn metadata_full(status: &ClusterStatus) -> Option<String> {
    let why = status.metadata_full.as_ref()?;
    Some(format!("{why}; until then nothing is taken that makes them grow"))
}

pub(super) fn metadata_low(status: &ClusterStatus) -> Option<String> {
    low(status, VolumeUse::Metadata)
}

pub(super) fn backup_low(status: &ClusterStatus) -> Option<String> {
    low(status, VolumeUse::Backup)
}

/// Names the volumes with less room than they are to keep; none if there are none.
fn low(status: &ClusterStatus, holds: VolumeUse) -> Option<String> {
    let low = status.volumes.iter().filter(|v| v.holds == holds && v.room.is_low());
    let each = low.map(|v| {
        let (free, bound) = (mebibytes(v.room.free_bytes), mebibytes(v.room.bound_bytes));
        format!("{} has {free} free and is to keep {bound}", v.member)
    });
    let each: Vec<String> = each.collect();
    (!each.is_empty()).then(|| format!("volumes are low: {}", each.join(", ")))
}

/// Lists what nodes ask for by their configurations and do not take by themselves; none if that is nothing.
pub(super) fn layout_waiting(status: &ClusterStatus) -> Option<String> {
    let mut waiting = Vec::new();
    for node in &status.nodes {
        waiting.extend(node.waiting_zone.iter().map(|zone| format!("{} asks for zone {zone}", node.name)));
        let disks = node.disks.iter().filter_map(|disk| {
            let weight = disk.waiting_weight?;
            Some(format!("{}/{} has weight {} and asks for {weight}", node.name, disk.name, disk.weight))
        });
        waiting.extend(disks);
    }
    (!waiting.is_empty()).then(|| format!("an operator is to decide: {}", waiting.join("; ")))
}
