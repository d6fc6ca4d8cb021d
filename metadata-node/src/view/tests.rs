//! A member is killed while a snapshot from the leader is installed. The folder is copied after each step, as
//! the kill would leave it, and opened anew.

use std::collections::BTreeMap;
use std::fs::{self, File};

use bytes::Bytes;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload, LogId};
use wmall_proto::identity::User;
use wmall_proto::{NodeName, codec};

use super::*;
use crate::command::{Batch, Command, Envelope};
use crate::state::StateEntry;
use crate::types::TypeConfig;

const CLUSTER: [u8; 16] = [1; 16];
/// The last entry that the member has, and the one that the leader's snapshot is as of.
const OWN: u64 = 10;
const INSTALLED: u64 = 30;

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// An entry that adds a hundred keys, so that a load takes several batches.
fn entry(index: u64) -> (LogId<u64>, Bytes) {
    let item = |n: u64| {
        let name = NodeName::new(format!("user-{}", index * 100 + n)).unwrap();
        let command = Command::SetScopes(User { name, scopes: vec!["b:read".parse().unwrap()] });
        Envelope { request: None, by: None, command }
    };
    let batch = Batch { now_ms: index, items: (0..100).map(item).collect() };
    (LogId::new(CommittedLeaderId::new(1, 1), index), codec::encode(&batch).into())
}

fn apply(state: &State, up_to: u64) {
    for (id, bytes) in (1..=up_to).map(entry) {
        state.apply(vec![(id, StateEntry::Commands(bytes))]).unwrap();
    }
}

fn pairs(state: &State) -> Pairs {
    let mut pairs = Pairs::new();
    let each = |key: &[u8], value: &[u8]| {
        pairs.insert(key.to_vec(), value.to_vec());
        Ok(())
    };
    state.dump(each).unwrap();
    pairs
}

fn open_parts(folder: &Path) -> (LogStore, SnapshotFolder) {
    let log = LogStore::open(&folder.join("raft"), CLUSTER, 1, "test").unwrap();
    (log, SnapshotFolder::open(&folder.join("snapshots"), CLUSTER).unwrap())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        match file.file_type().unwrap().is_dir() {
            true => copy(&file.path(), &to),
            false => drop(fs::copy(file.path(), to).unwrap()),
        }
    }
}

/// What each image opens to.
struct Expected {
    before: Pairs,
    after: Pairs,
}

impl Expected {
    /// Opens a copy of the folder. With `suspect` the mark is there that a swap sets for its duration.
    fn check(&self, step: &str, folder: &Path, suspect: bool, index: u64) {
        let image = tempfile::tempdir().unwrap();
        copy(folder, image.path());
        if suspect {
            fs::write(image.path().join("view.suspect"), b"").unwrap();
        }
        let (log, snapshots) = open_parts(image.path());
        let state = open(image.path(), &log, &snapshots).unwrap_or_else(|e| panic!("{step}: {e}"));
        assert_eq!(state.applied().log_id.map(|id| id.index), Some(index), "{step}");
        let expected = if index == OWN { &self.before } else { &self.after };
        assert!(pairs(&state) == *expected, "{step}: neither that of the snapshot nor of before");
        let left = fs::read_dir(image.path().join("snapshots")).unwrap();
        let left = left.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "new"));
        assert_eq!(left.count(), 0, "{step}: half a file stays");
    }
}

#[tokio::test]
async fn a_crash_at_each_step_of_an_install_restarts() {
    let (leader, member) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The leader's snapshot.
    let (log, snapshots) = open_parts(leader.path());
    let state = open(leader.path(), &log, &snapshots).unwrap();
    apply(&state, INSTALLED);
    let (meta, _) = snapshots.save(&state).unwrap();
    let sent = fs::read(snapshots.folder().join(&meta.snapshot_id)).unwrap();
    let after = pairs(&state);
    // The member, which is behind.
    let folder = member.path();
    let (mut log, snapshots) = open_parts(folder);
    let entries = (1..=OWN).map(entry).map(|(log_id, bytes)| openraft::Entry::<TypeConfig> {
        log_id,
        payload: EntryPayload::Normal(bytes),
    });
    log.blocking_append(entries.collect::<Vec<_>>()).await.unwrap();
    let state = open(folder, &log, &snapshots).unwrap();
    apply(&state, OWN);
    state.flush();
    let expected = Expected { before: pairs(&state), after };
    expected.check("nothing has come", folder, false, OWN);

    fs::write(snapshots.receiving(), &sent[..sent.len() / 2]).unwrap();
    expected.check("half of it is received", folder, false, OWN);
    fs::write(snapshots.receiving(), &sent).unwrap();
    fs::write(snapshots.folder().join("accepting.new"), &sent).unwrap();
    expected.check("it is copied and has no name", folder, false, OWN);
    let path = snapshots.accept(&mut File::open(snapshots.receiving()).unwrap()).unwrap();
    expected.check("it has its name", folder, false, OWN);

    // As `SnapshotFolder::restore` does it, with a look on the way.
    let mut count = 0;
    let loading = expected.after.clone().into_iter().map(|pair| {
        count += 1;
        if count == 2500 {
            expected.check("a part of it is loaded", folder, false, OWN);
        }
        Ok(pair)
    });
    state.load(loading).unwrap();
    assert!(count > 2500, "{count} pairs");
    expected.check("it is loaded", folder, false, INSTALLED);
    expected.check("it is being swapped in", folder, true, INSTALLED);
    log.purge(entry(INSTALLED).0).await.unwrap();
    expected.check("the log is purged", folder, false, INSTALLED);
    expected.check("the log is purged, and the view is not trusted", folder, true, INSTALLED);

    // The only thing that is in the way of a start: the log is cut off, and nothing reaches as far.
    fs::remove_file(path).unwrap();
    let image = tempfile::tempdir().unwrap();
    copy(folder, image.path());
    fs::write(image.path().join("view.suspect"), b"").unwrap();
    let (log, snapshots) = open_parts(image.path());
    assert!(matches!(open(image.path(), &log, &snapshots), Err(ViewError::Gap { purged: INSTALLED })));
}

/// The log is purged as soon as the snapshot is durable, which may be before the view is loaded.
#[tokio::test]
async fn a_view_that_is_older_than_the_log_is_built_anew_from_the_snapshot() {
    let (leader, member) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (log, snapshots) = open_parts(leader.path());
    let state = open(leader.path(), &log, &snapshots).unwrap();
    apply(&state, INSTALLED);
    let (meta, _) = snapshots.save(&state).unwrap();
    let sent = snapshots.folder().join(&meta.snapshot_id);
    let (mut log, snapshots) = open_parts(member.path());
    let own = open(member.path(), &log, &snapshots).unwrap();
    apply(&own, OWN);
    own.flush();
    snapshots.accept(&mut File::open(sent).unwrap()).unwrap();
    log.purge(entry(INSTALLED).0).await.unwrap();
    let expected = Expected { before: pairs(&own), after: pairs(&state) };
    expected.check("it has its name and the log is purged", member.path(), false, INSTALLED);
}
