//! What needs somebody's attention, from a status: findings with codes that stay the same, for people and for alarms.
//!
//! A function of the status, so that every place that prints health prints the same.

use serde::{Deserialize, Serialize};

use crate::capacity::{CapacityLevel, CapacityReport};
use crate::status::{ClusterStatus, NodeState};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is lost or refused now; it may come to that.
    Warning,
    /// Something is lost, unreadable or refused.
    Error,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its code, which does not change between versions.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is the matter.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

/// Everything that needs attention, the worst first.
pub fn health(status: &ClusterStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add =
        |code, severity, what: String, advice| findings.push(Finding { code, severity, what, advice });
    let c = &status.chunks;
    if c.lost > 0 {
        let what = format!("{} chunks have too few pieces left", c.lost);
        add(
            "CHUNKS_LOST",
            Severity::Error,
            what,
            "bring back disks that are gone; restore the files from elsewhere",
        );
    }
    if c.unavailable > 0 {
        let what = format!("{} chunks can't be read until disks come back", c.unavailable);
        add("CHUNKS_UNAVAILABLE", Severity::Error, what, "start the nodes that are down; `wmall node ls`");
    }
    if c.danger > 0 {
        let what = format!("the next loss may lose {} chunks", c.danger);
        add("CHUNKS_IN_DANGER", Severity::Error, what, "let repairs end before anything else is taken down");
    }
    if c.warning > 0 {
        let what = format!("{} chunks miss a piece", c.warning);
        add("CHUNKS_DEGRADED", Severity::Warning, what, "nothing, if repairs are under way; `wmall events`");
    }
    let down: Vec<&str> =
        status.nodes.iter().filter(|n| n.state != NodeState::Up).map(|n| n.name.as_str()).collect();
    if !down.is_empty() {
        let what =
            format!("{} of {} data nodes do not answer: {}", down.len(), status.nodes.len(), down.join(", "));
        add("NODES_DOWN", Severity::Warning, what, "start them, or let the others take over what they held");
    }
    let up = || status.nodes.iter().filter(|n| n.state == NodeState::Up && n.silent_ms.is_some());
    let failed: Vec<String> = up()
        .flat_map(|n| n.disks.iter().filter(|d| d.failed).map(move |d| format!("{}/{}", n.name, d.name)))
        .collect();
    if !failed.is_empty() {
        let what = format!("failed disks: {}", failed.join(", "));
        add("DISKS_FAILED", Severity::Warning, what, "replace them; what they held is made anew elsewhere");
    }
    if let Some(why) = &status.repair.halted {
        add("REPAIR_HALTED", Severity::Error, why.clone(), "mend the network, or set [repair] override_halt");
    }
    if status.repair.stuck > 0 {
        let what = format!("{} slots should move and have no place", status.repair.stuck);
        add("REPAIR_STUCK", Severity::Warning, what, "add nodes or room in the zones that lack it");
    }
    if status.deletion_held {
        let what = "nothing is deleted since the metadata were restored".to_string();
        add("DELETION_HELD", Severity::Warning, what, "look at the data, then `wmall meta allow-deletion`");
    }
    let ratio = match status.capacity.overall_ppm {
        CapacityReport::NO_ROOM_PPM => {
            "the schemes of the pools do not fit on the nodes there are".to_string()
        }
        _ => format!("the completeness ratio is {:.2}", status.capacity.ratio_ppm as f64 / 1e6),
    };
    match status.capacity.level {
        CapacityLevel::Safe => {}
        CapacityLevel::Warning => {
            add("CAPACITY_WARNING", Severity::Warning, ratio, "add disks or nodes; `wmall capacity`");
        }
        CapacityLevel::Danger => {
            add("CAPACITY_DANGER", Severity::Error, ratio, "add disks or nodes now; writes stop at 0.90");
        }
        CapacityLevel::WritesStopped | CapacityLevel::LedgerStopped => {
            add("CAPACITY_FULL", Severity::Error, ratio, "delete something, or add disks or nodes");
        }
    }
    let behind = status.members.len() > 1 && status.members.iter().any(|m| m.matched.is_none());
    if behind {
        let silent: Vec<&str> =
            status.members.iter().filter(|m| m.matched.is_none()).map(|m| m.name.as_str()).collect();
        let what = format!("metadata nodes that the leader does not hear: {}", silent.join(", "));
        add("MEMBERS_SILENT", Severity::Warning, what, "start them: with a majority gone nothing is written");
    }
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grade::GradeCounts;
    use crate::status::RepairStatus;

    fn fine() -> ClusterStatus {
        ClusterStatus {
            cluster: "c".into(),
            summary: String::new(),
            chunks: GradeCounts { stable: 10, ..GradeCounts::default() },
            files: 1,
            objects: 0,
            chunk_bytes: 1,
            redundant_bytes: 3,
            tickets: 0,
            repair: RepairStatus::default(),
            capacity: CapacityReport {
                ratio_ppm: 1,
                overall_ppm: 1,
                fullest_ppm: 1,
                fullest_disk: None,
                level: CapacityLevel::Safe,
                needed_bytes: 3,
                dead_bytes: 0,
                total_bytes: 100,
                raw_bytes: 100,
                without_largest_node: None,
                without_largest_zone: None,
            },
            trash: 0,
            condemned_chunks: 0,
            condemned_bytes: 0,
            deletion_held: false,
            pools: vec![],
            members: vec![],
            nodes: vec![],
            index: 1,
        }
    }

    #[test]
    fn a_healthy_cluster_has_no_findings_and_each_trouble_has_its_code() {
        assert_eq!(health(&fine()), []);
        type Change = fn(&mut ClusterStatus);
        let changes: [(Change, &str, Severity); 8] = [
            (|s| s.chunks.lost = 1, "CHUNKS_LOST", Severity::Error),
            (|s| s.chunks.unavailable = 1, "CHUNKS_UNAVAILABLE", Severity::Error),
            (|s| s.chunks.danger = 1, "CHUNKS_IN_DANGER", Severity::Error),
            (|s| s.chunks.warning = 1, "CHUNKS_DEGRADED", Severity::Warning),
            (|s| s.repair.halted = Some("x".into()), "REPAIR_HALTED", Severity::Error),
            (|s| s.repair.stuck = 1, "REPAIR_STUCK", Severity::Warning),
            (|s| s.deletion_held = true, "DELETION_HELD", Severity::Warning),
            (|s| s.capacity.level = CapacityLevel::Warning, "CAPACITY_WARNING", Severity::Warning),
        ];
        let mut all = fine();
        for (change, code, severity) in changes {
            let mut one = fine();
            change(&mut one);
            change(&mut all);
            let found = health(&one);
            assert_eq!(found.iter().map(|f| (f.code, f.severity)).collect::<Vec<_>>(), [(code, severity)]);
        }
        let found = health(&all);
        assert!(found.len() == 8 && found.is_sorted_by_key(|f| std::cmp::Reverse(f.severity)));
    }
}
