//! The numbers from which something is a finding. Each is named in docs/health.md.

/// A metadata node that has not answered the leader for so long, in milliseconds, is silent. The leader asks
/// three times a second.
pub const MEMBER_SILENT_MS: u64 = 5_000;
/// Entries of the log that a metadata node may be behind: those further behind may need a whole snapshot.
pub const MEMBER_BEHIND: u64 = 2_000;
/// Calls in a row that fail while heartbeats come, until a node counts as unreachable.
pub const UNREACHABLE_CALLS: u64 = 3;
/// A disk whose writes take so long to be durable, in milliseconds, is slow.
pub const SLOW_SYNC_MS: u64 = 2_000;
/// How long commits may be told to wait after a restore, in milliseconds.
pub const WRITES_WAIT_MS: u64 = 10_000;
/// The newest backup may be as old as so many intervals.
pub const BACKUP_INTERVALS: u64 = 2;
/// A ratio of 0.70 that is reached within so many days is a finding: it takes time to buy disks.
pub const SOON_DAYS: u64 = 30;
