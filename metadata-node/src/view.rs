//! Opening the view: as it is if it can be trusted, else anew from the newest snapshot. The Raft log
//! brings it from there to the present.

use std::path::Path;

use wmall_runtime::view::{Buffered, SledStore, StoreError};

use crate::raft::{LogStore, SnapshotError, SnapshotFolder};
use crate::state::State;

#[cfg(test)]
mod tests;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The map can't be made even in an empty folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The newest snapshot can't be loaded.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log below this entry is gone, and no snapshot reaches it.
    #[error(
        "the log was cut off up to entry {purged}, and no usable snapshot reaches that far; restore this node's \
         folder, or remove this member and add it anew"
    )]
    Gap {
        /// Index of the last entry that is gone.
        purged: u64,
    },
}

/// Opens the state of a node.
pub fn open(folder: &Path, log: &LogStore, snapshots: &SnapshotFolder) -> Result<State, ViewError> {
    let path = folder.join("view");
    let purged = log.purged().map_or(0, |id| id.index);
    if let Some(state) = open_trusted(&path) {
        if state.applied().log_id.map_or(0, |id| id.index) >= purged {
            return Ok(state);
        }
        tracing::warn!("the view is older than the log reaches; rebuilding it from the newest snapshot");
    }
    rebuild(&path, purged, snapshots)
}

fn open_trusted(path: &Path) -> Option<State> {
    let store = SledStore::open_trusted(path)?;
    State::open(Box::new(Buffered::new(store)))
        .inspect_err(|e| tracing::warn!(%e, "the view is damaged"))
        .ok()
}

fn rebuild(path: &Path, purged: u64, snapshots: &SnapshotFolder) -> Result<State, ViewError> {
    let state = State::open(Box::new(Buffered::new(SledStore::create_anew(path)?)))?;
    let mut reached = 0;
    if let Some((meta, file)) = snapshots.newest()? {
        snapshots.restore(&file, &state)?;
        reached = meta.last_log_id.map_or(0, |id| id.index);
    }
    if reached < purged {
        return Err(ViewError::Gap { purged });
    }
    Ok(state)
}
