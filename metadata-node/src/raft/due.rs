//! Snapshots that are due by the bytes of the log. openraft counts entries, and an entry has up to 4 MiB: a
//! log of few long entries would fill a small disk, and take long to apply at the next start.
//!
//! One task, which looks at the log once a second. It decides nothing else: openraft takes the snapshot, and
//! purges what a snapshot covers.

use std::sync::Arc;
use std::time::Duration;

use super::log_store::LogStore;
use super::snapshot::SnapshotFolder;
use crate::types::Raft;

/// Bytes of entries behind the last snapshot with which the next one is due.
pub(crate) const SNAPSHOT_BYTES: u64 = 256 << 20;
/// So many times as many bytes no longer wait for a snapshot that is on its way to another member.
const OVERDUE: u64 = 4;
/// Bytes of entries that are kept below a snapshot, for members that lag a little.
pub(crate) const TAIL_BYTES: u64 = 64 << 20;

/// Between looks.
const LOOK: Duration = Duration::from_secs(1);

/// What the log asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) snapshot: bool,
    /// It is to wait for nothing.
    pub(super) overdue: bool,
    /// The entries up to this one may go.
    pub(super) purge: Option<u64>,
}

/// Decides by the lengths of the entries, in order, of which those up to `covered` are in a snapshot and
/// those up to `applied` could be.
pub(super) fn wanted(
    entries: impl DoubleEndedIterator<Item = (u64, u64)>,
    covered: u64,
    applied: u64,
    (snapshot_bytes, tail_bytes): (u64, u64),
) -> Wanted {
    let (mut behind, mut below, mut purge) = (0u64, 0u64, None);
    for (index, length) in entries.rev() {
        if index > applied {
            continue;
        }
        if index > covered {
            behind = behind.saturating_add(length);
            continue;
        }
        below = below.saturating_add(length);
        if below > tail_bytes {
            purge = Some(index);
            break;
        }
    }
    let overdue = behind >= snapshot_bytes.saturating_mul(OVERDUE);
    Wanted { snapshot: behind >= snapshot_bytes, overdue, purge }
}

/// Has snapshots taken and the log purged by its bytes, as long as it is not aborted.
pub(crate) async fn snapshots_by_bytes(raft: Raft, log: LogStore, snapshots: Arc<SnapshotFolder>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let (covered, applied) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            let index = |id: Option<openraft::LogId<u64>>| id.map_or(0, |id| id.index);
            (index(metrics.snapshot), index(metrics.last_applied))
        };
        let Wanted { snapshot, overdue, purge } = log.wanted(covered, applied, (SNAPSHOT_BYTES, TAIL_BYTES));
        snapshots.set_overdue(overdue);
        // Neither does anything while the one before it is under way. Raft itself tells why it has stopped.
        if snapshot && raft.trigger().snapshot().await.is_err() {
            return;
        }
        if let Some(purge) = purge
            && raft.trigger().purge_log(purge).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lengths: &[u64], covered: u64, applied: u64) -> (bool, Option<u64>) {
        let entries = lengths.iter().enumerate().map(|(i, &length)| (i as u64 + 1, length));
        let Wanted { snapshot, purge, .. } = wanted(entries, covered, applied, (100, 20));
        (snapshot, purge)
    }

    #[test]
    fn few_long_entries_make_a_snapshot_due() {
        assert_eq!(of(&[], 0, 0), (false, None));
        assert_eq!(of(&[1; 50], 0, 50), (false, None), "many short ones do not");
        assert_eq!(of(&[40, 40, 40], 0, 3), (true, None));
        assert_eq!(of(&[40, 40, 40], 0, 2), (false, None), "what is not applied can't be in one");
        assert_eq!(of(&[40, 40, 40], 1, 3), (false, Some(1)), "what one covers is not counted again");
    }

    #[test]
    fn a_log_that_has_grown_too_long_waits_for_no_snapshot_under_way() {
        let overdue =
            |bytes: u64, covered| wanted([(1, 10), (2, bytes)].into_iter(), covered, 2, (100, 20)).overdue;
        assert!(!overdue(389, 0) && overdue(390, 0));
        assert!(!overdue(399, 1) && !overdue(400, 2), "what one covers is not counted again");
    }

    #[test]
    fn the_tail_below_a_snapshot_has_a_bound() {
        assert_eq!(of(&[5; 10], 10, 10), (false, Some(6)), "four of five bytes stay");
        assert_eq!(of(&[5, 5, 5, 5], 4, 4), (false, None));
        assert_eq!(of(&[5, 5, 30, 5, 90], 4, 5), (false, Some(3)));
    }
}
