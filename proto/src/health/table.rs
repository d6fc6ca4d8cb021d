//! The table of promises: one row for each code, in the order in which findings of equal severity are shown.
//!
//! A new finding is a new row here, a line in docs/health.md (a test prints it), and a case in `tests.rs`.

use super::room::{backup_low, layout_waiting, metadata_full, metadata_low};
use super::{
    BACKUP_INTERVALS, MEMBER_BEHIND, MEMBER_SILENT_MS, Promise, SLOW_SYNC_MS, SOON_DAYS, Severity,
    UNREACHABLE_CALLS, WRITES_WAIT_MS,
};
use crate::capacity::{CapacityLevel, CapacityReport};
use crate::clock::{CLOCK_SLACK_MS, UPLOAD_SKEW_MS};
use crate::status::{ClusterStatus, DiskStatus, MemberStatus, NodeState, NodeStatus, RefusingPool};

/// Every promise that health looks after.
pub const TABLE: &[Promise] = &[
    Promise {
        code: "CHUNKS_LOST",
        severity: Severity::Error,
        promise: "What was committed can be read",
        known_by: "tickets, dirty groups, and disks that are gone, counted for every chunk",
        advice: "bring back disks that are gone; restore the files from elsewhere",
        broken: |s| (s.chunks.lost > 0).then(|| format!("{} chunks have too few pieces left", s.chunks.lost)),
    },
    Promise {
        code: "CHUNKS_UNAVAILABLE",
        severity: Severity::Error,
        promise: "What was committed can be read now",
        known_by: "chunks that only the disks of silent nodes would make whole enough; these may come back",
        advice: "start the nodes that are down; `wmall node ls`",
        broken: |s| {
            let count = s.chunks.unavailable;
            (count > 0).then(|| format!("{count} chunks can't be read until disks come back"))
        },
    },
    Promise {
        code: "CHUNKS_IN_DANGER",
        severity: Severity::Error,
        promise: "The next loss loses nothing",
        known_by: "chunks that have just as many pieces as it takes to read them",
        advice: "let repairs end before anything else is taken down",
        broken: |s| {
            (s.chunks.danger > 0).then(|| format!("the next loss may lose {} chunks", s.chunks.danger))
        },
    },
    Promise {
        code: "CHUNKS_DEGRADED",
        severity: Severity::Warning,
        promise: "Every chunk has all its pieces",
        known_by: "tickets of readers, scrubs, challenges and comparisons; dirty groups; silent nodes",
        advice: "nothing, if repairs are under way; `wmall events`",
        broken: |s| (s.chunks.warning > 0).then(|| format!("{} chunks miss a piece", s.chunks.warning)),
    },
    Promise {
        code: "WRITES_REFUSED",
        severity: Severity::Error,
        promise: "Every group takes new chunks",
        known_by: "rows with fewer disks that take writes, or in fewer zones, than a quorum of receipts asks for",
        advice: "start the nodes of these groups, or let repairs give their slots to others; `wmall node ls`",
        broken: writes_refused,
    },
    Promise {
        code: "WRITES_FENCED",
        severity: Severity::Error,
        promise: "An upload that begins now may commit",
        known_by: "the fence of the metadata, and those that the disks have been told, held against the cluster's clock",
        advice: "set the nodes' clocks, and wait until the cluster's has passed the fence; or wipe such disks, one after the other",
        broken: writes_fenced,
    },
    Promise {
        code: "WRITES_WAIT",
        severity: Severity::Error,
        promise: "Commits are judged at once after a restore",
        known_by: "how long this leader has been without a life of the metadata of its own",
        advice: "start the other metadata nodes, and most of the data nodes: the clock waits for theirs",
        broken: |s| {
            let waiting = s.writes.waiting_ms.filter(|ms| *ms > WRITES_WAIT_MS)?;
            Some(format!("commits are told to wait since a restore, for {} now", span(waiting)))
        },
    },
    Promise {
        code: "NODES_IN_MAINTENANCE",
        severity: Severity::Warning,
        promise: "No node is expected to be silent",
        known_by: "what operators have announced",
        advice: "end it when it is over: `wmall node maintenance NAME --end`",
        broken: |s| {
            let expected = names(s.nodes.iter().filter(|n| n.maintenance_until_ms.is_some()));
            (!expected.is_empty()).then(|| format!("in maintenance: {expected}"))
        },
    },
    Promise {
        code: "NODES_DOWN",
        severity: Severity::Warning,
        promise: "Every data node is heard of",
        known_by: "heartbeats",
        advice: "start them, or let the others take over what they held",
        broken: nodes_down,
    },
    Promise {
        code: "NODE_UNREACHABLE",
        severity: Severity::Warning,
        promise: "A data node that is heard of can be called",
        known_by: "calls of the leader to the address that the node advertises, every ten seconds",
        advice: "see that UDP reaches this address, and nobody else is there: `advertise` of data-node.toml, firewalls, NAT",
        broken: nodes_unreachable,
    },
    Promise {
        code: "DISKS_FAILED",
        severity: Severity::Warning,
        promise: "Every disk of a node that runs is in use",
        known_by: "heartbeats: a write or its index failed, or the node came up without it",
        advice: "replace them; what they held is made anew elsewhere",
        broken: |s| disks(s, "failed disks", |n, d| (is_heard(n) && d.failed).then(String::new)),
    },
    Promise {
        code: "DISKS_READ_ONLY",
        severity: Severity::Warning,
        promise: "A disk that is well takes writes",
        known_by: "heartbeats: it has no room for another segment",
        advice: "delete something, or add disks or nodes; `df` on the node: others may fill its file system",
        broken: |s| {
            let refuses = |n: &NodeStatus, d: &DiskStatus| is_heard(n) && !d.writable && !d.failed;
            disks(s, "they take no writes, for want of room", |n, d| refuses(n, d).then(String::new))
        },
    },
    Promise {
        code: "DISK_SLOW",
        severity: Severity::Warning,
        promise: "What is written is durable within two seconds",
        known_by: "heartbeats: the second longest write and sync of the last minute, or the one under way",
        advice: "look at the disk: `smartctl -a`, `iostat -x 1`, the kernel's log; drain it if it stays so",
        broken: |s| {
            let slow = |d: &DiskStatus| (d.sync_ms >= SLOW_SYNC_MS).then(|| format!(" ({} ms)", d.sync_ms));
            disks(s, "slow disks", |n, d| if is_heard(n) { slow(d) } else { None })
        },
    },
    Promise {
        code: "DISKS_QUARANTINED",
        severity: Severity::Warning,
        promise: "Disks prove that they have what they said",
        known_by: "challenges: three of the last sixteen failed",
        advice: "find out why, then `wmall disk release NODE/DISK`, or drain it",
        broken: |s| disks(s, "in quarantine, for failing challenges", |_, d| d.quarantined.then(String::new)),
    },
    Promise {
        code: "NODE_CLONED",
        severity: Severity::Warning,
        promise: "A name is one process",
        known_by: "registrations that were refused in the last 30 s, since the name is in use elsewhere",
        advice: "stop one of the two; wipe the disks of a copy before it joins",
        broken: nodes_cloned,
    },
    Promise {
        code: "JOBS_PAUSED",
        severity: Severity::Warning,
        promise: "What was begun goes on",
        known_by: "the records of jobs",
        advice: "`wmall job ls`; resume or cancel them",
        broken: |s| (s.jobs_paused > 0).then(|| format!("{} jobs are paused", s.jobs_paused)),
    },
    Promise {
        code: "REPAIR_HALTED",
        severity: Severity::Error,
        promise: "What is lost is made anew",
        known_by: "more than a quarter of the disks, or more than one zone, vanished together",
        advice: "mend the network, or set [repair] override_halt",
        broken: |s| s.repair.halted.clone(),
    },
    Promise {
        code: "REPAIR_STUCK",
        severity: Severity::Warning,
        promise: "What should move has a place to go",
        known_by: "the last plan of repairs",
        advice: "add nodes or room in the zones that lack it",
        broken: |s| {
            let stuck = s.repair.stuck;
            (stuck > 0).then(|| format!("{stuck} slots should move and have no place"))
        },
    },
    Promise {
        code: "DELETION_HELD",
        severity: Severity::Warning,
        promise: "What was deleted gives its room back",
        known_by: "the mark that a restore leaves",
        advice: "look at the data, then `wmall meta allow-deletion`",
        broken: |s| {
            s.deletion_held.then(|| "nothing is deleted since the metadata were restored".to_string())
        },
    },
    Promise {
        code: "CAPACITY_WARNING",
        severity: Severity::Warning,
        promise: "There is room: the completeness ratio is below 0.70",
        known_by: "needed bytes at full redundancy over usable ones",
        advice: "add disks or nodes; `wmall capacity`",
        broken: |s| fullness(s, |level| level == CapacityLevel::Warning),
    },
    Promise {
        code: "CAPACITY_DANGER",
        severity: Severity::Error,
        promise: "There is room: the completeness ratio is below 0.85",
        known_by: "needed bytes at full redundancy over usable ones",
        advice: "add disks or nodes now; writes stop at 0.90",
        broken: |s| fullness(s, |level| level == CapacityLevel::Danger),
    },
    Promise {
        code: "CAPACITY_FULL",
        severity: Severity::Error,
        promise: "Everybody may write: the completeness ratio is below 0.90",
        known_by: "needed bytes at full redundancy over usable ones",
        advice: "delete something, or add disks or nodes",
        broken: |s| fullness(s, |l| matches!(l, CapacityLevel::WritesStopped | CapacityLevel::LedgerStopped)),
    },
    Promise {
        code: "CAPACITY_SOON",
        severity: Severity::Warning,
        promise: "There will be room for 30 days",
        known_by: "the forecast, from samples of an hour",
        advice: "order disks or nodes; `wmall capacity forecast` says how many",
        broken: capacity_soon,
    },
    Promise {
        code: "MEMBERS_SILENT",
        severity: Severity::Warning,
        promise: "Every metadata node takes part",
        known_by: "when it last answered the leader, which asks three times a second",
        advice: "start them: with a majority gone nothing is written",
        broken: |s| {
            let silent = |m: &MemberStatus| m.silent_ms > MEMBER_SILENT_MS;
            members(s, "metadata nodes that the leader does not hear", |m| {
                silent(m).then(|| format!(", for {}", span(m.silent_ms)))
            })
        },
    },
    Promise {
        code: "MEMBERS_BEHIND",
        severity: Severity::Warning,
        promise: "Every metadata node has the log",
        known_by: "entries of the leader's log that a member has not acknowledged",
        advice: "see whether its disk or its link is slow: with two of three behind, commits wait for them",
        broken: |s| {
            members(s, "metadata nodes that lag", |m| {
                m.behind.filter(|n| *n > MEMBER_BEHIND).map(|n| format!(" by {n} entries"))
            })
        },
    },
    Promise {
        code: "BACKUP_FAILED",
        severity: Severity::Warning,
        promise: "Backups are written, and read back",
        known_by: "the last try of each metadata node with a `[backup]`, and a look at its folder every ten seconds",
        advice: "make room in the folder, or mount it; `wmall meta snapshot ls`; the node tries again by itself",
        broken: |s| {
            members(s, "backups fail", |m| {
                m.backup.as_ref()?.failed.as_ref().map(|why| format!(": {}", why.trim_end_matches('.')))
            })
        },
    },
    Promise {
        code: "BACKUP_OLD",
        severity: Severity::Warning,
        promise: "The newest backup is younger than two intervals",
        known_by: "the time in the name of each member's newest file",
        advice: "see the log of these metadata nodes; is the folder slow, or hung?",
        broken: |s| {
            let old =
                |b: &crate::status::BackupStatus| b.age_ms > b.every_ms.saturating_mul(BACKUP_INTERVALS);
            members(s, "no new backup", |m| {
                let backup = m.backup.as_ref().filter(|b| old(b))?;
                Some(format!(" for {}", span(backup.age_ms)))
            })
        },
    },
    Promise {
        code: "METADATA_FULL",
        severity: Severity::Error,
        promise: "The metadata have room to grow",
        known_by: "the free space that each member says of its own volume: too few of them have room",
        advice: "make room on the volumes of `data_dir`, or enlarge them",
        broken: metadata_full,
    },
    Promise {
        code: "METADATA_VOLUME_LOW",
        severity: Severity::Warning,
        promise: "Each metadata node has room to grow",
        known_by: "the free space that each member says of its own volume",
        advice: "make room on the volume of `data_dir`, or enlarge it",
        broken: metadata_low,
    },
    Promise {
        code: "BACKUP_VOLUME_LOW",
        severity: Severity::Warning,
        promise: "The next backups have room",
        known_by: "the free space that each member says of the volume of its backups",
        advice: "make room there, or keep fewer: [backup] keep",
        broken: backup_low,
    },
    Promise {
        code: "LAYOUT_WAITING",
        severity: Severity::Warning,
        promise: "Nodes have the weights and zones of their configurations",
        known_by: "what they ask for when they register, and may not take by themselves",
        advice: "`wmall layout show`, `wmall layout accept NODE`, `wmall layout apply`; or change its configuration",
        broken: layout_waiting,
    },
    Promise {
        code: "CLOCK_SKEW",
        severity: Severity::Warning,
        promise: "Clocks agree within ten seconds, and the cluster's with most of them within an hour",
        known_by: "heartbeats and answers of members, against the median of all",
        advice: "set these nodes' clocks: `timedatectl`, `chronyc tracking`",
        broken: clock_skew,
    },
];

fn is_heard(node: &NodeStatus) -> bool {
    node.state == NodeState::Up && node.silent_ms.is_some()
}

fn names<'a>(nodes: impl Iterator<Item = &'a NodeStatus>) -> String {
    nodes.map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// A sentence that names the disks of which something is to be said.
fn disks(
    status: &ClusterStatus,
    what: &str,
    of: impl Fn(&NodeStatus, &DiskStatus) -> Option<String>,
) -> Option<String> {
    let all = status.nodes.iter().flat_map(|n| n.disks.iter().map(move |d| (n, d)));
    let named: Vec<String> =
        all.filter_map(|(n, d)| Some(format!("{}/{}{}", n.name, d.name, of(n, d)?))).collect();
    (!named.is_empty()).then(|| format!("{what}: {}", named.join(", ")))
}

/// A sentence that names the metadata nodes of which something is to be said.
fn members(
    status: &ClusterStatus,
    what: &str,
    of: impl Fn(&MemberStatus) -> Option<String>,
) -> Option<String> {
    let named: Vec<String> =
        status.members.iter().filter_map(|m| Some(format!("{}{}", m.name, of(m)?))).collect();
    (!named.is_empty()).then(|| format!("{what}: {}", named.join("; ")))
}

fn writes_refused(status: &ClusterStatus) -> Option<String> {
    let of = |p: &RefusingPool| format!("{} of {} groups of pool {}", p.refusing, p.groups, p.pool);
    let pools: Vec<String> = status.writes.refusing.iter().map(of).collect();
    let told = || format!("too few disks take writes for {}: new chunks there fail", pools.join(", "));
    (!pools.is_empty()).then(told)
}

fn writes_fenced(status: &ClusterStatus) -> Option<String> {
    let ahead = |fence: u64| fence.checked_sub(status.now_ms).filter(|ms| *ms > 0);
    if let Some(ms) = ahead(status.writes.fenced_before_ms) {
        return Some(format!("the fence is {} ahead of the cluster's clock: every put is refused", span(ms)));
    }
    disks(status, "fenced ahead of the cluster's clock, so that they refuse every put", |_, d| {
        Some(format!(" by {}", span(ahead(d.fenced_before_ms)?)))
    })
}

fn nodes_down(status: &ClusterStatus) -> Option<String> {
    let is_down = |n: &&NodeStatus| n.state != NodeState::Up && n.maintenance_until_ms.is_none();
    let count = status.nodes.iter().filter(is_down).count();
    let down = names(status.nodes.iter().filter(is_down));
    (count > 0).then(|| format!("{count} of {} data nodes do not answer: {down}", status.nodes.len()))
}

fn nodes_unreachable(status: &ClusterStatus) -> Option<String> {
    let is_cut_off = |n: &&NodeStatus| n.state == NodeState::Up && n.failed_calls >= UNREACHABLE_CALLS;
    let of = |n: &NodeStatus| format!("{} at {} ({} calls failed)", n.name, n.address, n.failed_calls);
    let nodes: Vec<String> = status.nodes.iter().filter(is_cut_off).map(of).collect();
    (!nodes.is_empty()).then(|| format!("heard of, and can't be called: {}", nodes.join(", ")))
}

fn nodes_cloned(status: &ClusterStatus) -> Option<String> {
    let each = status.clones.iter();
    let each = each.map(|c| format!("{} at {}, while it runs at {}", c.name, c.refused, c.address));
    let each: Vec<String> = each.collect();
    let told = || format!("refused, since another goes by its name: {}", each.join("; "));
    (!each.is_empty()).then(told)
}

fn fullness(status: &ClusterStatus, at: impl Fn(CapacityLevel) -> bool) -> Option<String> {
    let told = || match status.capacity.overall_ppm {
        CapacityReport::NO_ROOM_PPM => {
            "the schemes of the pools do not fit on the nodes there are".to_string()
        }
        _ => format!("the completeness ratio is {:.2}", status.capacity.ratio_ppm as f64 / 1e6),
    };
    at(status.capacity.level).then(told)
}

fn capacity_soon(status: &ClusterStatus) -> Option<String> {
    let left = status.forecast.as_ref().and_then(|f| f.alarm_in_ms(status.now_ms))? / 86_400_000;
    let is_near = left < SOON_DAYS && status.capacity.level == CapacityLevel::Safe;
    is_near.then(|| format!("the completeness ratio may reach 0.70 in {left} days"))
}

fn clock_skew(status: &ClusterStatus) -> Option<String> {
    let off = status.clocks.iter().filter(|c| c.off_ms.unsigned_abs() > CLOCK_SLACK_MS);
    let mut clocks: Vec<String> = off.map(|c| format!("{} by {}", c.name, signed(c.off_ms))).collect();
    if status.clock_behind_ms > UPLOAD_SKEW_MS {
        let behind = span(status.clock_behind_ms);
        clocks.push(format!("the cluster's own by -{behind}, which it makes up for at a second a second"));
    }
    if status.clock_ahead_ms > UPLOAD_SKEW_MS {
        let ahead = span(status.clock_ahead_ms);
        clocks.push(format!("the cluster's own by +{ahead}, for which it stands still"));
    }
    (!clocks.is_empty()).then(|| format!("clocks are off: {}", clocks.join("; ")))
}

/// A number of milliseconds as people write it, with its sign.
pub(super) fn signed(ms: i64) -> String {
    let sign = if ms < 0 { '-' } else { '+' };
    format!("{sign}{}", span(ms.unsigned_abs()))
}

/// A length of time as people write it.
pub(super) fn span(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}
