//! What needs somebody's attention, from a status: findings with codes that stay the same, for people and for alarms.
//!
//! A function of the status, so that every place that prints health prints the same.

mod room;

use serde::{Deserialize, Serialize};

use crate::capacity::{CapacityLevel, CapacityReport};
use crate::clock::{CLOCK_SLACK_MS, UPLOAD_SKEW_MS};
use crate::status::{CloneStatus, ClusterStatus, NodeState, NodeStatus};

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
    /// Whether an operator does not want to hear of it for now: it does not count.
    pub muted: bool,
}

/// All codes there are.
pub const CODES: [&str; 22] = [
    "CHUNKS_LOST",
    "CHUNKS_UNAVAILABLE",
    "CHUNKS_IN_DANGER",
    "CHUNKS_DEGRADED",
    "NODES_DOWN",
    "NODES_IN_MAINTENANCE",
    "DISKS_FAILED",
    "DISKS_QUARANTINED",
    "REPAIR_HALTED",
    "REPAIR_STUCK",
    "JOBS_PAUSED",
    "DELETION_HELD",
    "CAPACITY_WARNING",
    "CAPACITY_DANGER",
    "CAPACITY_FULL",
    "CAPACITY_SOON",
    "MEMBERS_SILENT",
    "CLOCK_SKEW",
    "NODE_CLONED",
    "METADATA_VOLUME_LOW",
    "BACKUP_VOLUME_LOW",
    "LAYOUT_WAITING",
];
/// 0.70 is reached within so many days: it takes time to buy disks.
const SOON_DAYS: u64 = 30;

/// The worst severity that is not muted.
pub fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().filter(|f| !f.muted).map(|f| f.severity).max()
}

/// Everything that needs attention, the worst first and what is muted last.
pub fn health(status: &ClusterStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let muted = |code: &str| status.mutes.iter().any(|m| m.code == code);
    let mut add = |code, severity, what: String, advice| {
        findings.push(Finding { code, severity, what, advice, muted: muted(code) });
    };
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
    let (expected, down): (Vec<_>, Vec<_>) = status
        .nodes
        .iter()
        .filter(|n| n.state != NodeState::Up || n.maintenance_until_ms.is_some())
        .partition(|n| n.maintenance_until_ms.is_some());
    let names = |nodes: &[&NodeStatus]| nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
    if !expected.is_empty() {
        let what = format!("in maintenance: {}", names(&expected));
        add(
            "NODES_IN_MAINTENANCE",
            Severity::Warning,
            what,
            "end it when it is over: `wmall node maintenance NAME --end`",
        );
    }
    if !down.is_empty() {
        let what =
            format!("{} of {} data nodes do not answer: {}", down.len(), status.nodes.len(), names(&down));
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
    let all = || status.nodes.iter().flat_map(|n| n.disks.iter().map(move |d| (n, d)));
    let quarantined: Vec<String> =
        all().filter(|(_, d)| d.quarantined).map(|(n, d)| format!("{}/{}", n.name, d.name)).collect();
    if !quarantined.is_empty() {
        let what = format!("in quarantine, for failing challenges: {}", quarantined.join(", "));
        add(
            "DISKS_QUARANTINED",
            Severity::Warning,
            what,
            "find out why, then `wmall disk release NODE/DISK`, or drain it",
        );
    }
    if status.jobs_paused > 0 {
        let what = format!("{} jobs are paused", status.jobs_paused);
        add("JOBS_PAUSED", Severity::Warning, what, "`wmall job ls`; resume or cancel them");
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
    let soon = status.forecast.as_ref().and_then(|f| f.alarm_in_ms(status.now_ms)).map(|ms| ms / 86_400_000);
    if let Some(days) = soon.filter(|days| *days < SOON_DAYS && status.capacity.level == CapacityLevel::Safe)
    {
        let what = format!("the completeness ratio may reach 0.70 in {days} days");
        add(
            "CAPACITY_SOON",
            Severity::Warning,
            what,
            "order disks or nodes; `wmall capacity forecast` says how many",
        );
    }
    let behind = status.members.len() > 1 && status.members.iter().any(|m| m.matched.is_none());
    if behind {
        let silent: Vec<&str> =
            status.members.iter().filter(|m| m.matched.is_none()).map(|m| m.name.as_str()).collect();
        let what = format!("metadata nodes that the leader does not hear: {}", silent.join(", "));
        add("MEMBERS_SILENT", Severity::Warning, what, "start them: with a majority gone nothing is written");
    }
    let off = status.clocks.iter().filter(|c| c.off_ms.unsigned_abs() > CLOCK_SLACK_MS);
    let mut clocks: Vec<String> = off.map(|c| format!("{} by {}", c.name, seconds(c.off_ms))).collect();
    if status.clock_behind_ms > UPLOAD_SKEW_MS {
        let behind = seconds(-(status.clock_behind_ms.min(i64::MAX as u64) as i64));
        clocks.push(format!("the cluster's own by {behind}, which it makes up for at a second a second"));
    }
    if !clocks.is_empty() {
        let what = format!("clocks are off: {}", clocks.join("; "));
        add(
            "CLOCK_SKEW",
            Severity::Warning,
            what,
            "set these nodes' clocks: `timedatectl`, `chronyc tracking`",
        );
    }
    if !status.clones.is_empty() {
        let each = |c: &CloneStatus| format!("{} at {}, while it runs at {}", c.name, c.refused, c.address);
        let what = format!(
            "refused, since another goes by its name: {}",
            status.clones.iter().map(each).collect::<Vec<_>>().join("; ")
        );
        add(
            "NODE_CLONED",
            Severity::Warning,
            what,
            "stop one of the two; wipe the disks of a copy before it joins",
        );
    }
    for Finding { code, severity, what, advice, .. } in room::findings(status) {
        add(code, severity, what, advice);
    }
    findings.sort_by_key(|f| (f.muted, std::cmp::Reverse(f.severity)));
    findings
}

/// A signed number of milliseconds as people write it.
fn seconds(ms: i64) -> String {
    let (sign, ms) = (if ms < 0 { '-' } else { '+' }, ms.unsigned_abs());
    match ms / 1000 {
        s @ 0..120 => format!("{sign}{s} s"),
        s @ 120..7200 => format!("{sign}{} min", s / 60),
        s @ 7200..172_800 => format!("{sign}{} h", s / 3600),
        s => format!("{sign}{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grade::GradeCounts;
    use crate::status::{ClockStatus, DiskStatus, Mute, RepairStatus};
    use crate::volume::{VolumeRoom, VolumeStatus, VolumeUse};

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
                held_ppm: 1,
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
            forecast: None,
            jobs: 0,
            jobs_paused: 0,
            mutes: vec![],
            now_ms: 0,
            clock_behind_ms: 0,
            clocks: vec![],
            clones: vec![],
            volumes: vec![],
            metadata_full: None,
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

    fn clock(off_ms: i64) -> ClockStatus {
        ClockStatus { name: "data-1".parse().unwrap(), off_ms }
    }

    fn clone() -> CloneStatus {
        let at = |port| ([127, 0, 0, 1], port).into();
        CloneStatus { name: "data-1".parse().unwrap(), address: at(1), refused: at(2) }
    }

    #[test]
    fn a_clock_within_the_slack_is_no_finding_and_one_beyond_it_is_named() {
        let mut status = fine();
        status.clocks = vec![clock(10_000), clock(-10_000)];
        assert_eq!(health(&status), []);
        status.clocks.push(clock(34_560_000_000));
        assert_eq!(health(&status)[0].what, "clocks are off: data-1 by +400 d");
        assert_eq!(
            ["-11 s", "+5 min", "-3 h"],
            [-11_000, 300_000, -10_800_000].map(seconds).each_ref().map(String::as_str)
        );
    }

    /// 40 MiB are free of 256 that are to be.
    fn low(holds: VolumeUse) -> VolumeStatus {
        let room = VolumeRoom { free_bytes: 40 << 20, bound_bytes: 256 << 20 };
        VolumeStatus { member: "meta-2".into(), holds, room }
    }

    fn node(waiting_weight: Option<u32>, waiting_zone: Option<&str>) -> NodeStatus {
        let disk = DiskStatus {
            id: crate::DiskId(7),
            name: "disk-1".into(),
            incarnation: crate::Incarnation([0; 16]),
            weight: 100,
            max_bytes: 1,
            capacity_bytes: 1,
            waiting_weight,
            used_bytes: 0,
            segment_bytes: 0,
            pieces: 0,
            tickets: 0,
            dirty_groups: 0,
            slots: 0,
            draining: false,
            quarantined: false,
            writable: true,
            failed: false,
        };
        NodeStatus {
            name: "data-1".parse().unwrap(),
            zone: "z1".parse().unwrap(),
            waiting_zone: waiting_zone.map(|zone| zone.parse().unwrap()),
            address: ([127, 0, 0, 1], 1).into(),
            state: NodeState::Up,
            maintenance_until_ms: None,
            silent_ms: Some(1),
            disks: vec![disk],
        }
    }

    #[test]
    fn a_volume_that_is_low_is_named_and_is_an_error_once_commands_are_refused() {
        let mut status = fine();
        status.volumes = vec![low(VolumeUse::Metadata)];
        let found = health(&status);
        assert_eq!((found[0].code, found[0].severity), ("METADATA_VOLUME_LOW", Severity::Warning));
        assert!(found[0].what.contains("meta-2 has 40 MiB free and is to keep 256 MiB"), "{}", found[0].what);
        status.metadata_full = Some("x".into());
        assert_eq!(health(&status)[0].severity, Severity::Error);
        status.volumes[0].room.free_bytes = 256 << 20;
        assert_eq!(health(&status), []);
        status.volumes = vec![low(VolumeUse::Backup)];
        assert_eq!(health(&status)[0].code, "BACKUP_VOLUME_LOW");
    }

    #[test]
    fn what_a_node_asks_for_and_may_not_take_waits_for_an_operator() {
        let mut status = fine();
        status.nodes = vec![node(None, None)];
        assert_eq!(health(&status), []);
        status.nodes = vec![node(Some(1_000_000), Some("z9"))];
        let found = health(&status);
        assert_eq!(found[0].code, "LAYOUT_WAITING");
        assert_eq!(
            found[0].what,
            "an operator is to decide: data-1 asks for zone z9; data-1/disk-1 has weight 100 and asks for 1000000"
        );
    }

    #[test]
    fn a_healthy_cluster_has_no_findings_and_each_trouble_has_its_code() {
        assert_eq!(health(&fine()), []);
        type Change = fn(&mut ClusterStatus);
        let changes: [(Change, &str, Severity); 12] = [
            (|s| s.chunks.lost = 1, "CHUNKS_LOST", Severity::Error),
            (|s| s.chunks.unavailable = 1, "CHUNKS_UNAVAILABLE", Severity::Error),
            (|s| s.chunks.danger = 1, "CHUNKS_IN_DANGER", Severity::Error),
            (|s| s.chunks.warning = 1, "CHUNKS_DEGRADED", Severity::Warning),
            (|s| s.repair.halted = Some("x".into()), "REPAIR_HALTED", Severity::Error),
            (|s| s.repair.stuck = 1, "REPAIR_STUCK", Severity::Warning),
            (|s| s.jobs_paused = 1, "JOBS_PAUSED", Severity::Warning),
            (|s| s.deletion_held = true, "DELETION_HELD", Severity::Warning),
            (|s| s.capacity.level = CapacityLevel::Warning, "CAPACITY_WARNING", Severity::Warning),
            (|s| s.clocks = vec![clock(-10_001)], "CLOCK_SKEW", Severity::Warning),
            (|s| s.clock_behind_ms = 3_600_001, "CLOCK_SKEW", Severity::Warning),
            (|s| s.clones = vec![clone()], "NODE_CLONED", Severity::Warning),
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
        assert!(found.len() == 11 && found.is_sorted_by_key(|f| std::cmp::Reverse(f.severity)));
        assert!(found.iter().all(|f| CODES.contains(&f.code)));
        assert_eq!(worst(&found), Some(Severity::Error));
        all.mutes = found
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .map(|f| Mute { code: f.code.into(), until_ms: 1 })
            .collect();
        let found = health(&all);
        assert_eq!((found.len(), worst(&found)), (11, Some(Severity::Warning)), "shown, and not counted");
        assert!(!found[0].muted && found[10].muted);
    }
}
