use super::table::{signed, span};
use super::*;
use crate::capacity::{CapacityLevel, CapacityReport, Crossing, Forecast, PeerAdvice};
use crate::grade::GradeCounts;
use crate::ids::{DiskId, Incarnation};
use crate::status::{
    BackupStatus, ClockStatus, CloneStatus, DiskStatus, MemberStatus, Mute, NodeState, NodeStatus,
    RefusingPool, RepairStatus, WriteStatus,
};
use crate::volume::{VolumeRoom, VolumeStatus, VolumeUse};

const NOW: u64 = 1_700_000_000_000;

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
        now_ms: NOW,
        clock_behind_ms: 0,
        clock_ahead_ms: 0,
        clocks: vec![clock(10_000), clock(-10_000)],
        clones: vec![],
        volumes: vec![],
        metadata_full: None,
        writes: WriteStatus { fenced_before_ms: NOW, ..WriteStatus::default() },
        trash: 0,
        condemned_chunks: 0,
        condemned_bytes: 0,
        deletion_held: false,
        pools: vec![],
        members: vec![member("metadata-1", 0), member("metadata-2", MEMBER_SILENT_MS)],
        nodes: vec![node("data-1", 7001), node("data-2", 7002)],
        index: 1,
    }
}

fn member(name: &str, silent_ms: u64) -> MemberStatus {
    let backup = BackupStatus { every_ms: 1000, age_ms: 2000, failed: None };
    MemberStatus {
        id: 1,
        name: name.into(),
        address: "127.0.0.1:1".into(),
        leader: silent_ms == 0,
        matched: Some(7),
        behind: Some(MEMBER_BEHIND),
        silent_ms,
        backup: Some(backup),
    }
}

fn node(name: &str, port: u16) -> NodeStatus {
    let disk = DiskStatus {
        id: DiskId(1),
        name: "disk-1".into(),
        incarnation: Incarnation([0; 16]),
        weight: 100,
        max_bytes: 1,
        capacity_bytes: 1,
        waiting_weight: None,
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
        sync_ms: SLOW_SYNC_MS - 1,
        fenced_before_ms: NOW,
    };
    NodeStatus {
        name: name.parse().unwrap(),
        zone: "z".parse().unwrap(),
        waiting_zone: None,
        address: ([127, 0, 0, 1], port).into(),
        state: NodeState::Up,
        maintenance_until_ms: None,
        silent_ms: Some(1000),
        failed_calls: UNREACHABLE_CALLS - 1,
        disks: vec![disk],
    }
}

fn clock(off_ms: i64) -> ClockStatus {
    ClockStatus { name: "data-1".parse().unwrap(), off_ms }
}

fn forecast(days: u64) -> Forecast {
    let at = Some(NOW + days * 86_400_000);
    let crossing = Crossing { ratio_ppm: CapacityLevel::WARNING_PPM, reached: false, p50_ms: at, p90_ms: at };
    let peers = PeerAdvice { peer_bytes: 1, now: None, in_90_days: None };
    let (crossings, growth) = (vec![crossing], 1);
    Forecast { samples: 2, span_ms: 1, growth_per_day: growth, growth_per_day_p90: growth, crossings, peers }
}

fn backup(status: &mut ClusterStatus) -> &mut BackupStatus {
    status.members[1].backup.as_mut().unwrap()
}

/// 40 MiB are free of 256 that are to be.
fn low(holds: VolumeUse) -> VolumeStatus {
    let room = VolumeRoom { free_bytes: 40 << 20, bound_bytes: 256 << 20 };
    VolumeStatus { member: "metadata-2".into(), holds, room }
}

type Break = fn(&mut ClusterStatus);

/// A way to break each promise, and what is said then.
const BROKEN: &[(&str, Break, &str)] = &[
    ("CHUNKS_LOST", |s| s.chunks.lost = 1, "1 chunks have too few pieces left"),
    ("CHUNKS_UNAVAILABLE", |s| s.chunks.unavailable = 2, "2 chunks can't be read until disks come back"),
    ("CHUNKS_IN_DANGER", |s| s.chunks.danger = 3, "the next loss may lose 3 chunks"),
    ("CHUNKS_DEGRADED", |s| s.chunks.warning = 4, "4 chunks miss a piece"),
    (
        "WRITES_REFUSED",
        |s| {
            let refusing = |pool: &str| RefusingPool { pool: pool.parse().unwrap(), refusing: 3, groups: 64 };
            s.writes.refusing = vec![refusing("a"), refusing("b")];
        },
        "too few disks take writes for 3 of 64 groups of pool a, 3 of 64 groups of pool b: new chunks there fail",
    ),
    (
        "WRITES_FENCED",
        |s| s.writes.fenced_before_ms = NOW + 3_600_000,
        "the fence is 60 min ahead of the cluster's clock: every put is refused",
    ),
    (
        "WRITES_FENCED",
        |s| s.nodes[1].disks[0].fenced_before_ms = NOW + 365 * 86_400_000,
        "fenced ahead of the cluster's clock, so that they refuse every put: data-2/disk-1 by 365 d",
    ),
    (
        "WRITES_WAIT",
        |s| s.writes.waiting_ms = Some(WRITES_WAIT_MS + 1000),
        "commits are told to wait since a restore, for 11 s now",
    ),
    ("NODES_IN_MAINTENANCE", |s| s.nodes[0].maintenance_until_ms = Some(NOW + 1), "in maintenance: data-1"),
    ("NODES_DOWN", |s| s.nodes[1].state = NodeState::Suspect, "1 of 2 data nodes do not answer: data-2"),
    (
        "NODE_UNREACHABLE",
        |s| s.nodes[1].failed_calls = UNREACHABLE_CALLS,
        "heard of, and can't be called: data-2 at 127.0.0.1:7002 (3 calls failed)",
    ),
    ("DISKS_FAILED", |s| s.nodes[0].disks[0].failed = true, "failed disks: data-1/disk-1"),
    (
        "DISKS_READ_ONLY",
        |s| s.nodes[0].disks[0].writable = false,
        "they take no writes, for want of room: data-1/disk-1",
    ),
    ("DISK_SLOW", |s| s.nodes[0].disks[0].sync_ms = 20_000, "slow disks: data-1/disk-1 (20000 ms)"),
    (
        "DISKS_QUARANTINED",
        |s| s.nodes[0].disks[0].quarantined = true,
        "in quarantine, for failing challenges: data-1/disk-1",
    ),
    (
        "NODE_CLONED",
        |s| {
            let at = |port| ([127, 0, 0, 1], port).into();
            let name = "data-1".parse().unwrap();
            s.clones = vec![CloneStatus { name, address: at(1), refused: at(2) }];
        },
        "refused, since another goes by its name: data-1 at 127.0.0.1:2, while it runs at 127.0.0.1:1",
    ),
    ("JOBS_PAUSED", |s| s.jobs_paused = 1, "1 jobs are paused"),
    ("REPAIR_HALTED", |s| s.repair.halted = Some("x".into()), "x"),
    ("REPAIR_STUCK", |s| s.repair.stuck = 1, "1 slots should move and have no place"),
    ("DELETION_HELD", |s| s.deletion_held = true, "nothing is deleted since the metadata were restored"),
    ("CAPACITY_WARNING", |s| at(s, CapacityLevel::Warning, 700_000), "the completeness ratio is 0.70"),
    ("CAPACITY_DANGER", |s| at(s, CapacityLevel::Danger, 850_000), "the completeness ratio is 0.85"),
    ("CAPACITY_FULL", |s| at(s, CapacityLevel::WritesStopped, 900_000), "the completeness ratio is 0.90"),
    (
        "CAPACITY_FULL",
        |s| {
            at(s, CapacityLevel::LedgerStopped, 950_000);
            s.capacity.overall_ppm = CapacityReport::NO_ROOM_PPM;
        },
        "the schemes of the pools do not fit on the nodes there are",
    ),
    (
        "CAPACITY_SOON",
        |s| s.forecast = Some(forecast(SOON_DAYS - 1)),
        "the completeness ratio may reach 0.70 in 29 days",
    ),
    (
        "MEMBERS_SILENT",
        |s| s.members[1].silent_ms = 7_400_000,
        "metadata nodes that the leader does not hear: metadata-2, for 2 h",
    ),
    (
        "MEMBERS_BEHIND",
        |s| s.members[1].behind = Some(MEMBER_BEHIND + 1),
        "metadata nodes that lag: metadata-2 by 2001 entries",
    ),
    (
        "BACKUP_FAILED",
        |s| backup(s).failed = Some("No space left on device (os error 28)".into()),
        "backups fail: metadata-2: No space left on device (os error 28)",
    ),
    ("BACKUP_OLD", |s| backup(s).age_ms = 200_000, "no new backup: metadata-2 for 3 min"),
    (
        "METADATA_FULL",
        |s| s.metadata_full = Some("metadata-1 and metadata-2 have too little room".into()),
        "metadata-1 and metadata-2 have too little room; until then nothing is taken that makes them grow",
    ),
    (
        "METADATA_VOLUME_LOW",
        |s| s.volumes = vec![low(VolumeUse::Metadata)],
        "volumes are low: metadata-2 has 40 MiB free and is to keep 256 MiB",
    ),
    (
        "BACKUP_VOLUME_LOW",
        |s| s.volumes = vec![low(VolumeUse::Backup)],
        "volumes are low: metadata-2 has 40 MiB free and is to keep 256 MiB",
    ),
    (
        "LAYOUT_WAITING",
        |s| {
            s.nodes[0].waiting_zone = Some("z9".parse().unwrap());
            s.nodes[0].disks[0].waiting_weight = Some(1_000_000);
        },
        "an operator is to decide: data-1 asks for zone z9; data-1/disk-1 has weight 100 and asks for 1000000",
    ),
    ("CLOCK_SKEW", |s| s.clocks.push(clock(34_560_000_000)), "clocks are off: data-1 by +400 d"),
    ("CLOCK_SKEW", |s| s.clocks.push(clock(-10_001)), "clocks are off: data-1 by -10 s"),
    (
        "CLOCK_SKEW",
        |s| s.clock_behind_ms = 3_600_001,
        "clocks are off: the cluster's own by -60 min, which it makes up for at a second a second",
    ),
    (
        "CLOCK_SKEW",
        |s| s.clock_ahead_ms = 3_600_001,
        "clocks are off: the cluster's own by +60 min, for which it stands still",
    ),
];

fn at(status: &mut ClusterStatus, level: CapacityLevel, ppm: u64) {
    (status.capacity.level, status.capacity.ratio_ppm, status.capacity.overall_ppm) = (level, ppm, ppm);
}

#[test]
fn each_promise_can_be_broken_and_its_code_comes_and_goes() {
    for (code, breaks, what) in BROKEN {
        let mut status = fine();
        assert_eq!(health(&status), [], "a healthy cluster");
        breaks(&mut status);
        let row = TABLE.iter().find(|row| row.code == *code).unwrap();
        let (severity, advice) = (row.severity, row.advice);
        let expected = Finding { code, severity, what: what.to_string(), advice, muted: false };
        assert_eq!(health(&status), [expected]);
    }
    for code in CODES {
        assert!(BROKEN.iter().any(|(of, _, _)| *of == code), "nothing breaks {code}");
    }
}

#[test]
fn nothing_is_said_of_what_the_leader_cannot_know() {
    let mut status = fine();
    // A node that this leader has yet to hear, and a disk of one that is down.
    status.nodes[0].silent_ms = None;
    status.nodes[0].disks[0].writable = false;
    status.nodes[0].disks[0].sync_ms = 90_000;
    assert_eq!(health(&status), []);
    status.nodes[0].silent_ms = Some(9000);
    status.nodes[0].state = NodeState::Down;
    status.nodes[0].failed_calls = 9;
    let codes = |status: &ClusterStatus| health(status).iter().map(|f| f.code).collect::<Vec<_>>();
    assert_eq!(codes(&status), ["NODES_DOWN"]);
    status.members[1].backup = None;
    status.members[1].behind = None;
    status.writes.waiting_ms = Some(WRITES_WAIT_MS);
    assert_eq!(codes(&status), ["NODES_DOWN"]);
}

#[test]
fn the_worst_comes_first_and_what_is_muted_last() {
    let mut all = fine();
    for (code, breaks, _) in BROKEN {
        // The capacity has one level at a time, and a near forecast counts at the lowest only.
        if !code.starts_with("CAPACITY") {
            breaks(&mut all);
        }
    }
    let found = health(&all);
    let rank = |f: &Finding| std::cmp::Reverse(f.severity);
    assert!(found.len() > 20 && found.is_sorted_by_key(rank), "{found:?}");
    assert_eq!(worst(&found), Some(Severity::Error));
    let errors = found.iter().filter(|f| f.severity == Severity::Error);
    all.mutes = errors.map(|f| Mute { code: f.code.into(), until_ms: 1 }).collect();
    let muted = health(&all);
    assert_eq!((muted.len(), worst(&muted)), (found.len(), Some(Severity::Warning)), "shown, not counted");
    assert!(!muted[0].muted && muted[found.len() - 1].muted);
}

#[test]
fn lengths_of_time_are_written_in_one_unit() {
    let spans = [0, 119_999, 120_000, 7_199_999, 7_200_000, 172_800_000].map(span);
    assert_eq!(spans, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    assert_eq!([-11_000, 300_000, -10_800_000].map(signed), ["-11 s", "+5 min", "-3 h"]);
}

/// The table as docs/health.md has it.
fn markdown() -> String {
    let severity = |row: &Promise| match row.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let row = |row: &Promise| {
        let (code, promise, known, advice) = (row.code, row.promise, row.known_by, row.advice);
        format!("| `{code}` | {} | {promise} | {known} | {advice} |\n", severity(row))
    };
    let head =
        "| code | severity | promise | how it is known to be broken | what to do |\n|---|---|---|---|---|\n";
    head.to_string() + &TABLE.iter().map(row).collect::<String>()
}

#[test]
fn the_documentation_has_the_table_as_it_is() {
    let (told, table) = (include_str!("../../../docs/health.md"), markdown());
    assert!(told.contains(&table), "docs/health.md is to have this table:\n\n{table}");
    for bound in [
        ("MEMBER_SILENT_MS", MEMBER_SILENT_MS),
        ("MEMBER_BEHIND", MEMBER_BEHIND),
        ("UNREACHABLE_CALLS", UNREACHABLE_CALLS),
        ("SLOW_SYNC_MS", SLOW_SYNC_MS),
        ("WRITES_WAIT_MS", WRITES_WAIT_MS),
        ("BACKUP_INTERVALS", BACKUP_INTERVALS),
        ("SOON_DAYS", SOON_DAYS),
    ] {
        let line = format!("| `{}` | {} |", bound.0, bound.1);
        assert!(told.contains(&line), "docs/health.md is to have this line: {line}");
    }
    let codes: std::collections::BTreeSet<_> = CODES.into_iter().collect();
    assert_eq!(codes.len(), CODES.len(), "a code is a row of its own");
}
