//! `wmall meta recover`: a new life of the metadata, from the one member that is left when a majority is
//! lost.
//!
//! It begins as a restored cluster does (`State::begin_again`), with this member as the only one. Entries
//! that the lost members alone had acknowledged are not in it, and can't be had. The order, each step durable
//! before the next:
//!
//! 1. Make `DIR.recovering`, with the born record as its last file. The node never looks at it. One that an
//!    earlier run left is removed first.
//! 2. Rename it to `DIR.before-recover-MS`.
//! 3. Have that and `DIR` change places, in one step of the file system.
//!
//! `DIR` is the old folder up to the third step, and the whole new one from then on, whenever a crash comes.
//! The old folder is never removed. A crash before the third step may leave a new folder under one of the
//! other names, where it is of no use and does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use openraft::storage::RaftLogStorage;
use openraft::{Membership, Vote};
use serde::Serialize;
use wmall_runtime::clock::now_ms;
use wmall_runtime::folder::exchange;
use wmall_runtime::view::StoreError;

use crate::born::Born;
use crate::config::Config;
use crate::init::InitError;
use crate::raft::{LogStore, LogStoreError, SnapshotError, SnapshotFolder, SnapshotSummary};
use crate::survivor::{Standing, Survivor, SurvivorError, beside, sync_parent};
use crate::types::Member;

/// Why no new life was begun.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each is the error of the part it names.
pub enum RecoverError {
    #[error("{name} with id {id} is none of the members that its own log knows ({members})")]
    NotAMember { name: String, id: u64, members: String },
    #[error("{0} is the only member already, and needs no other to go on")]
    Alone(String),
    #[error(transparent)]
    Survivor(#[from] SurvivorError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogStoreError),
    #[error("the vote or the beginning of the log could not be written: {0}")]
    Raft(String),
    #[error("cannot change {path}")]
    Io { path: String, source: io::Error },
    #[error("{folder} and the new folder, {new}, can't change places; {folder} is as it was")]
    Exchange { folder: String, new: String, source: io::Error },
}

/// A new life that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Where the member stood before.
    #[serde(flatten)]
    pub standing: Standing,
    /// Where it listens in the new life.
    pub address: SocketAddr,
    /// The folder of before.
    pub kept: PathBuf,
    /// The snapshot that the new life begins with.
    pub snapshot: SnapshotSummary,
}

impl Survivor {
    /// Checks that this member is one of several by its own log, so that a new life may begin with it.
    pub fn may_recover(&self) -> Result<(), RecoverError> {
        self.alone().map(|_| ())
    }

    /// This member as the last membership knows it, where its configuration says that it listens now.
    fn alone(&self) -> Result<Member, RecoverError> {
        let (id, name) = (self.config.id, self.config.raw.name.as_str());
        let Some(own) = self.membership.get_node(&id).filter(|own| own.name == name) else {
            let known = self.standing.members.iter().map(|m| format!("{} {}", m.id, m.name));
            let members = known.collect::<Vec<_>>().join(", ");
            return Err(RecoverError::NotAMember { name: name.to_string(), id, members });
        };
        if self.membership.voter_ids().all(|voter| voter == id) {
            return Err(RecoverError::Alone(name.to_string()));
        }
        let mut own = own.clone();
        own.address = self.config.address;
        Ok(own)
    }

    /// Begins the new life, and keeps the folder of before beside it.
    pub async fn recover(mut self) -> Result<Recovered, RecoverError> {
        let own = self.alone()?;
        let address = own.address;
        // Follow links: a link stays one, and the folders change places where they are.
        let folder = &self.config.raw.data_dir;
        let folder = fs::canonicalize(folder).map_err(cannot_change(folder))?;
        let building = beside(&folder, ".recovering");
        if building.exists() {
            fs::remove_dir_all(&building).map_err(cannot_change(&building))?;
        }
        let begun = self.begin_in(&building, own).await;
        let snapshot = begun.inspect_err(|_| {
            let _ = fs::remove_dir_all(&building);
        })?;
        let permissions = fs::metadata(&folder).map(|m| m.permissions());
        let same = permissions.and_then(|p| fs::set_permissions(&building, p));
        same.map_err(cannot_change(&building))?;
        // Close all files before the folder changes its name: a view may make files by their paths.
        let Self { lock: _lock, log, snapshots, state, standing, .. } = self;
        drop((log, snapshots, state));
        let kept = swap(&folder, &building)?;
        Ok(Recovered { standing, address, kept, snapshot })
    }

    /// Makes the whole folder of the new life.
    async fn begin_in(&mut self, folder: &Path, mut own: Member) -> Result<SnapshotSummary, RecoverError> {
        let mut config: Config = self.config.clone();
        config.raw.data_dir = folder.to_path_buf();
        let id = config.id;
        // Should the lost majority come back, it knows another life of this member, and lets it be.
        let born = Born::new(id);
        own.incarnation = born.incarnation;
        crate::init::prepare(&config)?;
        let (snapshots, state) = self.carry_over(folder).await?;
        state.begin_again(Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, own)])))?;
        let (meta, _) = snapshots.save(&state)?;
        let summary = SnapshotFolder::summary(&snapshots.folder().join(&meta.snapshot_id))?;
        state.flush();
        if let Some(error) = state.failed() {
            return Err(error.into());
        }
        // Close the view before the folder gets another name.
        drop(state);
        let failed = |e: openraft::StorageError<u64>| RecoverError::Raft(e.to_string());
        let mut log = LogStore::open(&folder.join("raft"), self.cluster, id, config.raw.name.as_str())?;
        // Have elections go on above every term that this member has heard of.
        log.save_vote(&Vote::new(self.standing.term + 1, id)).await.map_err(failed)?;
        // Have the log begin behind the snapshot, so that a view which ends before it is not believed.
        if let Some(last) = meta.last_log_id {
            log.purge(last).await.map_err(failed)?;
        }
        drop(log);
        crate::init::finish(&config, born)?;
        Ok(summary)
    }
}

/// Puts the new folder in the place of the old one, and returns where the old one is.
fn swap(folder: &Path, new: &Path) -> Result<PathBuf, RecoverError> {
    let kept = beside(folder, &format!(".before-recover-{}", now_ms()));
    let named = fs::rename(new, &kept).and_then(|()| sync_parent(folder));
    named.map_err(cannot_change(new))?;
    if let Err(source) = exchange(folder, &kept) {
        let back = fs::rename(&kept, new);
        let new = if back.is_ok() { new } else { kept.as_path() };
        let [folder, new] = [folder, new].map(|path| path.display().to_string());
        return Err(RecoverError::Exchange { folder, new, source });
    }
    sync_parent(folder).map_err(cannot_change(folder))?;
    Ok(kept)
}

fn cannot_change(path: &Path) -> impl FnOnce(io::Error) -> RecoverError + '_ {
    move |source| RecoverError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests;
