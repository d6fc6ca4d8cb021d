use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload};

use super::*;
use crate::raft::{Machine, SnapshotFolder};
use crate::state::State;
use wmall_journal::sim::{Crash, Fault, SimDisk};
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
    // The end of a segment holds its header once more.
    let written = |bytes: &[u8]| bytes[..bytes.len() - 4096].iter().rposition(|&b| b != 0).unwrap_or(0);
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

/// What a history was told, and what it was about to do when it was cut off.
#[derive(Debug, Default, Clone, PartialEq)]
struct Told {
    vote: Option<Vote<u64>>,
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId<u64>>,
}

#[derive(Debug, Clone)]
enum Step {
    Vote(u64),
    Append(u64, std::ops::RangeInclusive<u64>),
    Truncate(u64),
    Purge(u64),
}

fn steps() -> Vec<Step> {
    use Step::*;
    vec![
        Vote(1),
        Append(1, 1..=4),
        Append(1, 5..=5),
        Vote(2),
        Truncate(4),
        Append(2, 4..=9),
        Purge(3),
        Append(2, 10..=14),
        Vote(5),
        Append(5, 15..=22),
        Purge(13),
        Append(5, 23..=23),
        Truncate(22),
        Append(6, 22..=26),
        Purge(20),
        Vote(7),
    ]
}

/// Segments are so small that purges retire some.
fn open_simulated(disk: &SimDisk) -> Result<LogStore, LogStoreError> {
    LogStore::open_on(Arc::new(disk.clone()), ([1; 16], |n| [n as u8; 16]), (1, "test"), 4096, || ())
}

/// Does as many steps as succeed. Returns what must be there, and what may be there instead.
async fn history(disk: &SimDisk) -> (Told, Told) {
    use openraft::storage::RaftLogStorageExt;
    let mut told = Told::default();
    let Ok(mut log) = open_simulated(disk) else { return (told.clone(), told) };
    for step in steps() {
        let mut next = told.clone();
        let done = match step {
            Step::Vote(term) => {
                next.vote = Some(Vote::new(term, 2));
                log.save_vote(&Vote::new(term, 2)).await.is_ok()
            }
            Step::Append(term, range) => {
                let entries: Vec<Entry> = range.map(|i| entry(term, i, 100 + i as usize * 31)).collect();
                next.entries.extend(entries.iter().map(|e| (e.log_id.index, e.clone())));
                log.blocking_append(entries).await.is_ok()
            }
            Step::Truncate(from) => {
                next.entries.split_off(&from);
                log.truncate(told.entries[&from].log_id).await.is_ok()
            }
            Step::Purge(up_to) => {
                let last = told.entries[&up_to].log_id;
                next.entries = next.entries.split_off(&(up_to + 1));
                next.purged = Some(last);
                log.purge(last).await.is_ok()
            }
        };
        if !done {
            return (told, next);
        }
        told = next;
    }
    (told.clone(), told)
}

async fn found(log: &mut LogStore) -> Told {
    let entries = log.try_get_log_entries(..).await.unwrap();
    let entries = entries.into_iter().map(|e| (e.log_id.index, e)).collect();
    Told { vote: log.read_vote().await.unwrap(), entries, purged: log.purged() }
}

/// What is there is what was acknowledged, or the next step done or done in part.
fn check(told: &Told, next: &Told, there: &Told, context: &str) {
    assert!([told.vote, next.vote].contains(&there.vote), "{context}: {:?}", there.vote);
    assert!([told.purged, next.purged].contains(&there.purged), "{context}: {:?}", there.purged);
    for (index, entry) in &told.entries {
        match there.entries.get(index) {
            Some(found) => assert!(found == entry || next.entries.get(index) == Some(found), "{context}"),
            None => assert!(!next.entries.contains_key(index), "{context}: entry {index} is lost"),
        }
    }
    let known = |(index, entry): (&u64, &Entry)| {
        told.entries.get(index) == Some(entry) || next.entries.get(index) == Some(entry)
    };
    assert!(there.entries.iter().all(known), "{context}: {:?}", there.entries.keys());
    let indices: Vec<u64> = there.entries.keys().copied().collect();
    assert!(indices.windows(2).all(|w| w[0] + 1 == w[1]), "{context}: a hole in {indices:?}");
}

/// Votes, appends, truncations and purges that retire segments, with a power cut at every operation of the
/// disk: what was acknowledged is there, and what is there is that, or the next step done or done in part.
#[tokio::test]
async fn a_power_cut_at_any_operation_breaks_no_promise_of_raft() {
    let whole = SimDisk::new();
    let (told, _) = history(&whole).await;
    assert_eq!((told.entries.len(), told.vote), (6, Some(Vote::new(7, 2))), "the history ends");
    assert!(open_simulated(&whole).unwrap().journal.segments()[0] > 0, "segments are retired");
    for at in 1..=whole.operations() + 2 {
        for how in [Crash::Drop, Crash::Tear, Crash::Reorder] {
            let disk = SimDisk::new();
            disk.fail_at(at, Fault::PowerCut);
            let (told, next) = history(&disk).await;
            let after = disk.crash(how, at);
            let context = format!("power cut at {at}, {how:?}");
            let mut log = open_simulated(&after).unwrap_or_else(|e| panic!("{context}: {e}"));
            let there = found(&mut log).await;
            check(&told, &next, &there, &context);
            drop(log);
            assert_eq!(found(&mut open_simulated(&after).unwrap()).await, there, "{context}: idempotent");
        }
    }
}

/// A sync fails: the log says so once and for all, and what it did not write is not believed by the next
/// process.
#[tokio::test]
async fn a_log_whose_sync_failed_takes_nothing_more_and_believes_nothing_more() {
    let whole = SimDisk::new();
    history(&whole).await;
    for at in 1..=whole.operations() {
        let disk = SimDisk::new();
        disk.fail_at(at, Fault::IoError);
        let (told, next) = history(&disk).await;
        let after = disk.killed();
        let mut log = open_simulated(&after).unwrap_or_else(|e| panic!("error at {at}: {e}"));
        let there = found(&mut log).await;
        check(&told, &next, &there, &format!("error at {at}"));
        drop(log);
        let later = found(&mut open_simulated(&after.crash(Crash::Drop, at)).unwrap()).await;
        assert_eq!(later, there, "error at {at}: believed and gone");
    }
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

#[tokio::test]
async fn a_log_takes_no_entry_over_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let (_published, seen) = watch::channel(Some(0));
    let mut log = LogStore::open(folder.path(), [1; 16], 1, "test").unwrap().purge_behind(seen);
    append(&mut log, (5..=6).map(|i| entry(1, i, 10)).collect()).await;
    use openraft::storage::RaftLogStorageExt;
    for at in [4, 6, 8] {
        let refused = log.blocking_append(vec![entry(1, at, 10)]).await;
        assert!(refused.is_err(), "entry {at} behind entry 6");
    }
    append(&mut log, vec![entry(1, 7, 10)]).await;
    assert_eq!((log.last(), log.try_get_log_entries(..).await.unwrap().len()), (7, 3));
}

/// A snapshot that is being received covers the log once it is durable, and no sooner: a kill before that
/// leaves the log.
#[tokio::test]
async fn a_log_is_purged_behind_a_snapshot_that_is_durable_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let (published, seen) = watch::channel(Some(0));
    let open = || LogStore::open(folder.path(), [1; 16], 1, "test").unwrap();
    let mut log = open().purge_behind(seen);
    append(&mut log, (1..=9).map(|i| entry(1, i, 10)).collect()).await;
    let mut purging = log.clone();
    let purge = tokio::spawn(async move { purging.purge(entry(1, 8, 0).log_id).await.is_ok() });
    published.send_replace(Some(7));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!purge.is_finished() && log.purged().is_none());
    assert_eq!(open_copy(folder.path()).purged(), None, "a kill here leaves all of the log");
    published.send_replace(Some(8));
    assert!(purge.await.unwrap());
    assert_eq!(log.purged(), Some(entry(1, 8, 0).log_id));
    // A state machine that failed purges nothing, and does not hang.
    let mut purging = log.clone();
    let purge = tokio::spawn(async move { purging.purge(entry(1, 9, 0).log_id).await.is_ok() });
    published.send_replace(None);
    assert!(!purge.await.unwrap());
}

/// The log as a kill at this moment would leave it.
fn open_copy(folder: &Path) -> LogStore {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    LogStore::open(copy.path(), [1; 16], 1, "test").unwrap()
}
