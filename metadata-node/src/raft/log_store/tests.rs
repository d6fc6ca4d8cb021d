use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload};

use super::*;
use crate::raft::{Machine, SnapshotFolder};
use crate::state::State;
use wmall_runtime::view::SledStore;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<u64>> {
        let folder = tempfile::tempdir().unwrap();
        let log = LogStore::open(&folder.path().join("raft"), [1; 16], 1, "test").unwrap();
        let store = SledStore::create_anew(&folder.path().join("view")).unwrap();
        let state = Arc::new(State::open(Box::new(store)).unwrap());
        let snapshots = SnapshotFolder::open(&folder.path().join("snapshots"), [1; 16]).unwrap();
        Ok((folder, log, Machine::new(state, Arc::new(snapshots))))
    }
}

#[test]
fn openraft_s_own_storage_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    let log_id = LogId::new(CommittedLeaderId::new(term, 1), index);
    Entry { log_id, payload: EntryPayload::Normal(Bytes::from(vec![index as u8; size])) }
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    use openraft::storage::RaftLogStorageExt;
    log.blocking_append(entries).await.unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = || LogStore::open(folder.path(), [1; 16], 1, "test").unwrap();
    let mut log = open();
    assert!(log.is_pristine());
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    append(&mut log, (1..=6).map(|i| entry(1, i, 100)).collect()).await;
    log.truncate(entry(1, 5, 0).log_id).await.unwrap();
    append(&mut log, vec![entry(2, 5, 10)]).await;
    log.purge(entry(1, 2, 0).log_id).await.unwrap();
    drop(log);
    let mut log = open();
    assert!(!log.is_pristine());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(entry(1, 2, 0).log_id));
    assert_eq!(state.last_log_id, Some(entry(2, 5, 0).log_id));
    let entries = log.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, vec![entry(1, 3, 100), entry(1, 4, 100), entry(2, 5, 10)]);
}

#[tokio::test]
async fn a_retired_segment_takes_no_vote_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path(), [1; 16], 1, "test").unwrap();
    log.save_vote(&Vote::new(7, 1)).await.unwrap();
    for i in 1..=20 {
        append(&mut log, vec![entry(1, i, 8 << 20)]).await;
    }
    log.purge(entry(1, 19, 0).log_id).await.unwrap();
    assert!(log.journal.segments()[0] > 0, "the first segments are gone");
    drop(log);
    let mut log = LogStore::open(folder.path(), [1; 16], 1, "test").unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(7, 1)));
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 1);
}

/// A thousand single-byte flips in the log's file: it refuses to open, or nothing of it has changed. A log
/// that is one entry shorter, and says nothing, would be a broken promise.
#[tokio::test]
async fn a_flipped_byte_is_refused_or_of_no_consequence() {
    let folder = tempfile::tempdir().unwrap();
    let open = || LogStore::open(folder.path(), [1; 16], 1, "test");
    let mut log = open().unwrap();
    log.save_vote(&Vote::new(3, 2)).await.unwrap();
    for i in 1..=40 {
        append(&mut log, vec![entry(1, i, 20 + (i as usize * 37) % 200)]).await;
    }
    // The last batch gets its mark once nothing has come for a moment.
    let path = folder.path().join("0000000000.seg");
    let written = |bytes: &[u8]| bytes.iter().rposition(|&b| b != 0).unwrap_or(0);
    let length = written(&std::fs::read(&path).unwrap());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let content = loop {
        let content = std::fs::read(&path).unwrap();
        if written(&content) > length + 8 {
            break content[..written(&content) + 64].to_vec();
        }
        assert!(std::time::Instant::now() < deadline, "no mark is written");
        tokio::task::yield_now().await;
    };
    drop(log);
    let restore = |bytes: &[u8]| {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    };
    let mut log = open().unwrap();
    let (whole, vote) = (log.try_get_log_entries(..).await.unwrap(), log.read_vote().await.unwrap());
    assert_eq!(whole.len(), 40);
    drop(log);
    let mut refused = 0;
    for flip in 0..1000usize {
        let mut rotten = content.clone();
        // A prime step, so that every part of the file has its turn.
        let at = flip * 7919 % length;
        rotten[at] ^= 1 << (flip % 8);
        restore(&rotten);
        match open() {
            Ok(mut log) => {
                assert_eq!(log.try_get_log_entries(..).await.unwrap(), whole, "flip at {at}");
                assert_eq!(log.read_vote().await.unwrap(), vote, "flip at {at}");
            }
            Err(LogStoreError::Journal(_)) => refused += 1,
            Err(error) => panic!("flip at {at}: {error}"),
        }
    }
    restore(&content);
    open().unwrap();
    assert!(refused > 900, "{refused} of 1000 refused; padding is of no consequence");
}

/// openraft would resume a leader's old term with a read index that its view may be behind of.
#[tokio::test]
async fn a_leader_that_restarts_does_not_lead() {
    let folder = tempfile::tempdir().unwrap();
    let open = |id| LogStore::open(folder.path(), [1; 16], id, "test").unwrap();
    open(1).save_vote(&Vote::new_committed(5, 1)).await.unwrap();
    assert_eq!(open(1).read_vote().await.unwrap(), Some(Vote::new(5, 1)), "its own leadership has ended");
    assert_eq!(open(2).read_vote().await.unwrap(), Some(Vote::new_committed(5, 1)), "another's has not");
}
