//! Findings about room and about what waits for an operator: volumes of metadata nodes, weights, zones.

use super::{Finding, Severity};
use crate::status::ClusterStatus;
use crate::volume::{VolumeUse, mebibytes};

/// Finds what needs attention in a status. The caller knows what is muted.
pub(super) fn findings(status: &ClusterStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |code, severity, what: String, advice| {
        findings.push(Finding { code, severity, what, advice, muted: false });
    };
    if let Some(low) = low(status, VolumeUse::Metadata) {
        let (severity, refused) = match status.metadata_full {
            Some(_) => (Severity::Error, "; until then only deletes are taken"),
            None => (Severity::Warning, ""),
        };
        let what = format!("volumes of metadata nodes are low: {low}{refused}");
        add("METADATA_VOLUME_LOW", severity, what, "make room on the volume of `data_dir`, or enlarge it");
    }
    if let Some(low) = low(status, VolumeUse::Backup) {
        let what = format!("volumes of backups are low: {low}");
        add("BACKUP_VOLUME_LOW", Severity::Warning, what, "make room there, or keep fewer: [backup] keep");
    }
    let waiting = waiting(status);
    if !waiting.is_empty() {
        let what = format!("an operator is to decide: {}", waiting.join("; "));
        let advice = "`wmall layout show`, `wmall layout accept NODE`, `wmall layout apply`; or change its configuration";
        add("LAYOUT_WAITING", Severity::Warning, what, advice);
    }
    findings
}

/// The volumes with less room than they are to keep; none if there are none.
fn low(status: &ClusterStatus, holds: VolumeUse) -> Option<String> {
    let low = status.volumes.iter().filter(|v| v.holds == holds && v.room.is_low());
    let each = low.map(|v| {
        let (free, bound) = (mebibytes(v.room.free_bytes), mebibytes(v.room.bound_bytes));
        format!("{} has {free} free and is to keep {bound}", v.member)
    });
    let each: Vec<String> = each.collect();
    (!each.is_empty()).then(|| each.join(", "))
}

/// Lists what nodes ask for by their configurations and do not take by themselves.
fn waiting(status: &ClusterStatus) -> Vec<String> {
    let mut waiting = Vec::new();
    for node in &status.nodes {
        waiting.extend(node.waiting_zone.iter().map(|zone| format!("{} asks for zone {zone}", node.name)));
        let disks = node.disks.iter().filter_map(|disk| {
            let weight = disk.waiting_weight?;
            Some(format!("{}/{} has weight {} and asks for {weight}", node.name, disk.name, disk.weight))
        });
        waiting.extend(disks);
    }
    waiting
}
