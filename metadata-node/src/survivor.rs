//! A member's folder, opened while its node does not run: its standing, and its state up to the end of its
//! log.
//!
//! Entries behind the last applied one count. Only a majority could tell whether they were agreed on, and
//! there is none to ask. The member may yet come back among the others, so its own view never gets these
//! entries: the state is brought up in another folder. Its own folder is left as a start of the node would
//! leave it.
//!
//! Deliberately absent: the new life that may begin with that state (`recover.rs`).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, Membership, RaftLogReader, StorageError};
use serde::Serialize;
use wmall_runtime::view::{Buffered, SledStore, StoreError};
use wmall_runtime::{FolderError, FolderLock, OutFile, ScratchFolder};
use wmall_transport::{Identity, IdentityError};

use crate::born::Born;
use crate::config::Config;
use crate::raft::{LogStore, LogStoreError, Machine, SnapshotError, SnapshotFolder, SnapshotSummary};
use crate::state::State;
use crate::types::{Member, TypeConfig};
use crate::view::{self, ViewError};

type Entry = openraft::Entry<TypeConfig>;

/// Why a stopped member's folder can't be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each is the error of the part it names.
pub enum SurvivorError {
    #[error("{0} holds no metadata node")]
    NotInitialised(String),
    #[error("the folder is of member {found}, and the configuration of member {expected}")]
    WrongMember { found: u64, expected: u64 },
    #[error("the metadata node in {0} has never been part of a cluster, so there is nothing to read")]
    NeverTookPart(String),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Log(#[from] LogStoreError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the Raft log cannot be read or applied: {0}")]
    Raft(String),
    #[error("entry {entry} is missing from the Raft log")]
    Hole { entry: u64 },
    #[error("cannot use {path}")]
    Io { path: String, source: io::Error },
}

impl From<StorageError<u64>> for SurvivorError {
    fn from(error: StorageError<u64>) -> Self {
        Self::Raft(error.to_string())
    }
}

/// A member, as the last membership knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownMember {
    /// Its Raft id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it votes. One that does not was being taken in.
    pub voter: bool,
}

/// Where a stopped member stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Its name.
    pub member: String,
    /// Its Raft id.
    pub id: u64,
    /// Index of the last entry that is in its view, and so was agreed on.
    pub applied: u64,
    /// Index of the last entry of its log.
    pub last: u64,
    /// Term of that entry.
    pub last_term: u64,
    /// The latest term that it has heard of.
    pub term: u64,
    /// Entries behind the applied one, of which it does not know whether they were agreed on.
    pub past_applied: u64,
    /// The members, by the last membership in its log.
    pub members: Vec<KnownMember>,
}

/// An opened folder. Locked as long as this value is there.
pub struct Survivor {
    pub(crate) config: Config,
    pub(crate) cluster: [u8; 16],
    pub(crate) log: LogStore,
    pub(crate) snapshots: SnapshotFolder,
    pub(crate) state: State,
    pub(crate) standing: Standing,
    /// The last membership in its log, agreed on or not, as openraft counts it too.
    pub(crate) membership: Membership<u64, Member>,
    /// Index of the first entry that is not in the view, and of the one behind the log's last.
    unapplied: std::ops::Range<u64>,
    /// Let go of last, when all files are closed.
    pub(crate) lock: FolderLock,
}

impl Survivor {
    /// Opens the folder that a configuration names, unless its node runs.
    pub async fn open(config: &Config) -> Result<Self, SurvivorError> {
        let cluster = Identity::load(&config.raw.identity_dir)?.cluster();
        Self::open_as(config, cluster.0).await
    }

    /// The same for a known cluster.
    pub(crate) async fn open_as(config: &Config, cluster: [u8; 16]) -> Result<Self, SurvivorError> {
        let folder = &config.raw.data_dir;
        let read = |source| SurvivorError::Io { path: folder.display().to_string(), source };
        let no_member = || SurvivorError::NotInitialised(folder.display().to_string());
        let born = Born::load(folder).map_err(read)?.ok_or_else(no_member)?;
        if born.id != config.id {
            return Err(SurvivorError::WrongMember { found: born.id, expected: config.id });
        }
        let lock = FolderLock::acquire(folder)?;
        let mut log = LogStore::open(&folder.join("raft"), cluster, config.id, config.raw.name.as_str())?;
        if log.is_pristine() {
            return Err(SurvivorError::NeverTookPart(folder.display().to_string()));
        }
        let snapshots =
            SnapshotFolder::open(&folder.join("snapshots"), cluster).map_err(SnapshotError::Io)?;
        let state = view::open(folder, &log, &snapshots)?;
        let applied = state.applied();
        let last = log.get_log_state().await?.last_log_id.max(applied.log_id);
        let behind = |id: Option<openraft::LogId<u64>>| id.map_or(0, |id| id.index + 1);
        let unapplied = behind(applied.log_id)..behind(last);
        let later = last_membership(&mut log, unapplied.clone()).await?;
        let membership = later.unwrap_or_else(|| applied.membership.membership().clone());
        let last_term = last.map_or(0, |id| id.leader_id.term);
        let voted = log.read_vote().await?.map_or(0, |vote| vote.leader_id.term);
        let standing = Standing {
            member: config.raw.name.to_string(),
            id: config.id,
            applied: applied.log_id.map_or(0, |id| id.index),
            last: last.map_or(0, |id| id.index),
            last_term,
            term: voted.max(last_term),
            past_applied: unapplied.end.saturating_sub(unapplied.start),
            members: known(&membership),
        };
        let config = config.clone();
        Ok(Self { config, cluster, log, snapshots, state, standing, membership, unapplied, lock })
    }

    /// Where it stands.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Makes a view and a folder of snapshots in `folder`, with the state up to the end of this member's log.
    pub(crate) async fn carry_over(
        &mut self,
        folder: &Path,
    ) -> Result<(Arc<SnapshotFolder>, Arc<State>), SurvivorError> {
        let snapshots = SnapshotFolder::open(&folder.join("snapshots"), self.cluster);
        let snapshots = Arc::new(snapshots.map_err(SnapshotError::Io)?);
        // Use a name that passes for no snapshot: a start must never go back to it.
        let base = snapshots.exporting(wmall_runtime::random::bytes());
        self.snapshots.write(&self.state, &base)?;
        let state = State::open(Box::new(Buffered::new(SledStore::create_anew(&folder.join("view"))?)))?;
        snapshots.restore(&base, &state)?;
        fs::remove_file(&base).map_err(SnapshotError::Io)?;
        let state = Arc::new(state);
        let mut machine = Machine::new(state.clone(), snapshots.clone());
        let mut next = self.unapplied.start;
        while next < self.unapplied.end {
            let entries = page(&mut self.log, next..self.unapplied.end).await?;
            next += entries.len() as u64;
            machine.apply(entries).await?;
        }
        state.failed().map_or(Ok((snapshots, state)), |error| Err(error.into()))
    }

    /// Writes the state up to the end of this member's log to a snapshot file, as [`crate::restore`] takes
    /// it. The file has its name once it is whole, checked, and on disk.
    pub async fn save(mut self, out: &Path) -> Result<SnapshotSummary, SurvivorError> {
        let building = ScratchFolder::beside(out).map_err(cannot_write(out))?;
        let file = OutFile::create(out).map_err(cannot_write(out))?;
        let (snapshots, state) = self.carry_over(building.path()).await?;
        let staged = file.staged(&building);
        snapshots.write(&state, &staged)?;
        let summary = SnapshotFolder::summary(&staged)?;
        file.publish_staged(&building).map_err(cannot_write(out))?;
        Ok(summary)
    }
}

/// Entries of a range from its beginning on, as many as one message would carry.
async fn page(log: &mut LogStore, range: std::ops::Range<u64>) -> Result<Vec<Entry>, SurvivorError> {
    let entries = log.limited_get_log_entries(range.start, range.end).await?;
    let mut places = (range.start..).zip(&entries);
    let missing = places.find(|(index, entry)| entry.log_id.index != *index).map(|(index, _)| index);
    match missing {
        Some(entry) => Err(SurvivorError::Hole { entry }),
        None if entries.is_empty() => Err(SurvivorError::Hole { entry: range.start }),
        None => Ok(entries),
    }
}

/// The last membership among these entries, all of which have to be there.
async fn last_membership(
    log: &mut LogStore,
    mut range: std::ops::Range<u64>,
) -> Result<Option<Membership<u64, Member>>, SurvivorError> {
    let mut last = None;
    while !range.is_empty() {
        for entry in page(log, range.clone()).await? {
            range.start = entry.log_id.index + 1;
            if let EntryPayload::Membership(membership) = entry.payload {
                last = Some(membership);
            }
        }
    }
    Ok(last)
}

fn known(membership: &Membership<u64, Member>) -> Vec<KnownMember> {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(&id, member): (&u64, &Member)| KnownMember {
        id,
        name: member.name.clone(),
        address: member.address,
        voter: voters.contains(&id),
    };
    membership.nodes().map(member).collect()
}

/// A path with something behind its last name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes durable what happened to a name.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> SurvivorError + '_ {
    move |source| SurvivorError::Io { path: path.display().to_string(), source }
}
