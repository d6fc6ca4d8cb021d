use openraft::storage::{RaftLogStorageExt, RaftStateMachine};
use openraft::{CommittedLeaderId, EntryPayload, LogId};
use wmall_proto::identity::User;
use wmall_proto::{NodeName, codec};
use wmall_runtime::{FolderError, FolderLock};

use super::*;
use crate::command::{Batch, Command, Envelope};
use crate::config::{MemberEntry, RawConfig};
use crate::raft::Machine;
use crate::state::{NO_EPOCH, State};
use crate::types::TypeConfig;
use crate::view;

const CLUSTER: [u8; 16] = [7; 16];
/// Index of the last entry of every log here.
const LAST: u64 = 9;

fn name(i: u64) -> NodeName {
    NodeName::new(format!("metadata-{i}")).unwrap()
}

/// The configuration of member 1 of 3, whose folder is in this one.
fn config_in(folder: &Path) -> Config {
    let address = |i: u64| std::net::SocketAddr::from(([127, 0, 0, 1], i as u16));
    let members = (1..=3).map(|id| MemberEntry { id, name: name(id), address: address(id) }).collect();
    let (data, identity) = (folder.join("data"), folder.join("identity"));
    RawConfig::new(name(1), data, identity, address(1), members).validate().unwrap()
}

/// These are the voters.
fn voters(ids: &[u64]) -> Membership<u64, Member> {
    let member = |id: u64| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 100 + id as u16));
        Member { name: name(id).to_string(), address, ..Member::default() }
    };
    let members: BTreeMap<u64, Member> = ids.iter().map(|&id| (id, member(id))).collect();
    Membership::new(vec![ids.iter().copied().collect()], members)
}

fn entry(index: u64, payload: EntryPayload<TypeConfig>) -> openraft::Entry<TypeConfig> {
    // The leader is another member, and its term changes on the way.
    let log_id = LogId::new(CommittedLeaderId::new(1 + index / 5, 2), index);
    openraft::Entry { log_id, payload }
}

fn user(index: u64) -> NodeName {
    NodeName::new(format!("user-{index}")).unwrap()
}

/// A log that begins with these voters; each later entry makes a user.
fn entries(first: &[u64]) -> Vec<openraft::Entry<TypeConfig>> {
    let make = |index: u64| {
        let command = Command::SetScopes(User { name: user(index), scopes: vec!["b:read".parse().unwrap()] });
        let items = vec![Envelope { request: None, by: None, command }];
        EntryPayload::Normal(codec::encode(&Batch { now_ms: index, items }).into())
    };
    let first = entry(0, EntryPayload::Membership(voters(first)));
    std::iter::once(first).chain((1..=LAST).map(|index| entry(index, make(index)))).collect()
}

/// Makes a member's empty folder.
fn found(config: &Config) {
    crate::init::found(config).unwrap();
}

/// Makes a member's folder with this log, the first entries of which are applied.
async fn make(config: &Config, entries: Vec<openraft::Entry<TypeConfig>>, applied: usize) {
    found(config);
    let folder = &config.raw.data_dir;
    let mut log = LogStore::open(&folder.join("raft"), CLUSTER, config.id, "metadata-1").unwrap();
    log.save_vote(&Vote::new(4, 3)).await.unwrap();
    log.blocking_append(entries.clone()).await.unwrap();
    let snapshots = SnapshotFolder::open(&folder.join("snapshots"), CLUSTER).unwrap();
    let state = std::sync::Arc::new(view::open(folder, &log, &snapshots).unwrap());
    let mut machine = Machine::new(state.clone(), std::sync::Arc::new(snapshots));
    machine.apply(entries.into_iter().take(applied).collect::<Vec<_>>()).await.unwrap();
    state.flush();
}

async fn open(config: &Config) -> Result<Survivor, SurvivorError> {
    Survivor::open_as(config, CLUSTER).await
}

/// The users of all entries up to this one are there, and no others.
fn assert_users_up_to(state: &State, last: u64) {
    for index in 1..=LAST {
        assert_eq!(!state.scopes(&user(index)).unwrap().is_empty(), index <= last, "entry {index}");
    }
}

/// The folder is that of a life which begins with this member alone and all of its log.
async fn assert_recovered(config: &Config) {
    let folder = &config.raw.data_dir;
    let mut log = LogStore::open(&folder.join("raft"), CLUSTER, config.id, "metadata-1").unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(5, 1)), "above every term of before");
    assert_eq!(log.purged().map(|id| id.index), Some(LAST));
    let snapshots = SnapshotFolder::open(&folder.join("snapshots"), CLUSTER).unwrap();
    let state = view::open(folder, &log, &snapshots).unwrap();
    let applied = state.applied();
    assert_eq!(applied.log_id.map(|id| id.index), Some(LAST));
    assert_eq!(applied.membership.voter_ids().collect::<Vec<_>>(), [1]);
    let members: Vec<(u64, Member)> = applied.membership.nodes().map(|(id, m)| (*id, m.clone())).collect();
    assert_eq!((members.len(), members[0].1.address), (1, config.address), "where it listens now");
    let (_, counters) = state.counters();
    assert!(counters.deletion_held && counters.feed_epoch == NO_EPOCH);
    assert_users_up_to(&state, LAST);
}

#[tokio::test]
async fn a_member_alone_begins_with_all_of_its_log_and_the_folder_of_before_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(folder.path());
    make(&config, entries(&[1, 2, 3]), 4).await;
    let survivor = open(&config).await.unwrap();
    let standing = survivor.standing().clone();
    let told = (standing.applied, standing.last, standing.past_applied, standing.last_term, standing.term);
    assert_eq!(told, (3, LAST, LAST - 3, 2, 4));
    assert_eq!(
        standing.members.iter().map(|m| (m.id, m.voter)).collect::<Vec<_>>(),
        [(1, true), (2, true), (3, true)]
    );
    // While it is open, neither a node nor a second one gets the folder.
    assert!(matches!(open(&config).await, Err(SurvivorError::Folder(FolderError::Locked(_)))));
    let recovered = survivor.recover().await.unwrap();
    assert_eq!((&recovered.standing, recovered.snapshot.index), (&standing, LAST));
    assert_eq!(recovered.snapshot.audit.troubles, Vec::<String>::new());
    assert_recovered(&config).await;
    // A view that is lost is built anew from the snapshot, as the new life began.
    std::fs::remove_dir_all(config.raw.data_dir.join("view")).unwrap();
    assert_recovered(&config).await;
    let alone = open(&config).await.unwrap();
    assert!(matches!(alone.may_recover(), Err(RecoverError::Alone(_))));
    // The old folder is as it was.
    let mut before = config.clone();
    before.raw.data_dir = recovered.kept;
    let before = open(&before).await.unwrap();
    assert_eq!(*before.standing(), standing);
    assert_users_up_to(&before.state, 3);
}

#[tokio::test]
async fn a_snapshot_of_a_stopped_member_has_all_of_its_log_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(folder.path());
    make(&config, entries(&[1, 2, 3]), 2).await;
    let out = folder.path().join("saved.snap");
    let summary = open(&config).await.unwrap().save(&out).await.unwrap();
    assert_eq!((summary.index, summary.audit.troubles.len()), (LAST, 0));
    assert_eq!(crate::verify_snapshot(&out).unwrap(), summary);
    let mut left: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["data", "saved.snap"]);
    let survivor = open(&config).await.unwrap();
    assert_eq!((survivor.standing().applied, survivor.standing().past_applied), (1, LAST - 1));
    assert_users_up_to(&survivor.state, 1);
}

/// A crash between any two steps leaves the old folder or the new one in place, and a second run comes to the
/// same end.
#[tokio::test]
async fn a_crash_between_the_steps_leaves_one_of_both_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(folder.path());
    make(&config, entries(&[1, 2, 3]), 4).await;
    let standing = open(&config).await.unwrap().standing().clone();
    let building = folder.path().join("data.recovering");
    // In the middle of the first step.
    std::fs::create_dir_all(building.join("raft")).unwrap();
    std::fs::write(building.join("raft/0000000000.seg"), b"half of a log").unwrap();
    assert_eq!(*open(&config).await.unwrap().standing(), standing);
    std::fs::remove_dir_all(&building).unwrap();
    // Behind the first step, and behind the second.
    let mut survivor = open(&config).await.unwrap();
    let own = survivor.alone().unwrap();
    survivor.begin_in(&building, own).await.unwrap();
    drop(survivor);
    let mut new = config.clone();
    new.raw.data_dir = building.clone();
    assert_recovered(&new).await;
    assert_eq!(*open(&config).await.unwrap().standing(), standing);
    std::fs::rename(&building, folder.path().join("data.before-recover-1")).unwrap();
    assert_eq!(*open(&config).await.unwrap().standing(), standing);
    // A whole new folder that was never put in place is no hindrance.
    std::fs::create_dir(&building).unwrap();
    std::fs::write(building.join("born.json"), b"{}").unwrap();
    let recovered = open(&config).await.unwrap().recover().await.unwrap();
    assert!(!building.exists() && recovered.kept.exists());
    assert_recovered(&config).await;
}

#[tokio::test]
async fn a_folder_that_is_no_survivor_s_is_refused_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(folder.path());
    assert!(matches!(open(&config).await, Err(SurvivorError::NotInitialised(_))));
    found(&config);
    assert!(matches!(open(&config).await, Err(SurvivorError::NeverTookPart(_))));
    let lock = FolderLock::acquire(&config.raw.data_dir).unwrap();
    assert!(matches!(open(&config).await, Err(SurvivorError::Folder(FolderError::Locked(_)))));
    drop(lock);
    // Its own log says that it was let go.
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(folder.path());
    make(&config, entries(&[2, 3, 4]), 4).await;
    let stranger = open(&config).await.unwrap();
    assert!(matches!(stranger.recover().await, Err(RecoverError::NotAMember { id: 1, .. })));
    assert!(!folder.path().join("data.recovering").exists());
    // The first entries of its log are gone, and no snapshot has them.
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(folder.path());
    make(&config, entries(&[1, 2, 3]).split_off(5), 0).await;
    assert!(matches!(open(&config).await, Err(SurvivorError::Hole { entry: 0 })));
}

/// The last membership counts, though it may not have been agreed on, as it does for openraft.
#[tokio::test]
async fn the_last_membership_in_the_log_counts() {
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(folder.path());
    let mut all = entries(&[1, 2, 3]);
    all[LAST as usize] = entry(LAST, EntryPayload::Membership(voters(&[1, 4, 5])));
    make(&config, all, 4).await;
    let survivor = open(&config).await.unwrap();
    let ids: Vec<u64> = survivor.standing().members.iter().map(|m| m.id).collect();
    assert_eq!(ids, [1, 4, 5]);
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(folder.path());
    let mut all = entries(&[1, 2, 3]);
    all[LAST as usize] = entry(LAST, EntryPayload::Membership(voters(&[1])));
    make(&config, all, 4).await;
    assert!(matches!(open(&config).await.unwrap().may_recover(), Err(RecoverError::Alone(_))));
}
