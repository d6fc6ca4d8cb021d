//! The state machine behind openraft's traits.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, ErrorSubject, ErrorVerb, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, StorageError, StorageIOError, StoredMembership,
};

use super::snapshot::SnapshotFolder;
use super::wire::Entry;
use crate::state::{State, StateEntry};
use crate::types::{Member, TypeConfig};
use wmall_runtime::view::StoreError;

/// A new snapshot waits for no longer while the one before it is on its way to another member, and looks so
/// often whether it is. A log that grows long meanwhile ends the wait (`due.rs`).
const LONGEST_HOLD: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(1);

/// Entries in one atomic batch of the view.
const PIECE: usize = 64;

/// The adapter; clones share the state.
#[derive(Clone)]
pub struct Machine {
    state: Arc<State>,
    snapshots: Arc<SnapshotFolder>,
}

impl Machine {
    /// An adapter for this state.
    pub fn new(state: Arc<State>, snapshots: Arc<SnapshotFolder>) -> Self {
        Self { state, snapshots }
    }
}

fn failed(verb: ErrorVerb, error: &(impl std::error::Error + 'static)) -> StorageError<u64> {
    StorageIOError::new(ErrorSubject::StateMachine, verb, AnyError::new(error)).into()
}

fn broken_off() -> io::Error {
    io::Error::other("the snapshot's thread ended early")
}

/// After a start there may be thousands of entries at once; each piece is one atomic batch.
fn apply_in_pieces(state: &State, entries: Vec<(LogId<u64>, StateEntry)>) -> Result<Vec<Bytes>, StoreError> {
    let mut answers = Vec::with_capacity(entries.len());
    let mut entries = entries.into_iter().peekable();
    while entries.peek().is_some() {
        answers.extend(state.apply(entries.by_ref().take(PIECE).collect())?);
    }
    Ok(answers)
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let until = Instant::now() + LONGEST_HOLD;
        while self.snapshots.holds_next() && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        let (state, snapshots) = (self.state.clone(), self.snapshots.clone());
        let saved = tokio::task::spawn_blocking(move || snapshots.save(&state)).await;
        let saved = saved.map_err(|_| failed(ErrorVerb::Write, &broken_off()))?;
        let (meta, file) = saved.map_err(|e| failed(ErrorVerb::Write, &e))?;
        Ok(Snapshot { meta, snapshot: Box::new(tokio::fs::File::from_std(file)) })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Member>), StorageError<u64>> {
        let applied = self.state.applied();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Bytes>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries
            .into_iter()
            .map(|entry| {
                let content = match entry.payload {
                    EntryPayload::Blank => StateEntry::Blank,
                    EntryPayload::Normal(bytes) => StateEntry::Commands(bytes),
                    EntryPayload::Membership(membership) => StateEntry::Membership(membership),
                };
                (entry.log_id, content)
            })
            .collect::<Vec<_>>();
        // On a thread that may block: the view's disk holds applying off, and must not hold off everything
        // else.
        let state = self.state.clone();
        let applied = tokio::task::spawn_blocking(move || apply_in_pieces(&state, entries)).await;
        let applied = applied.map_err(|_| failed(ErrorVerb::Write, &broken_off()))?;
        applied.map_err(|e| failed(ErrorVerb::Write, &e))
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<tokio::fs::File>, StorageError<u64>> {
        let path = self.snapshots.receiving();
        let options = || File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = options().map_err(|e| failed(ErrorVerb::Write, &e))?;
        Ok(Box::new(tokio::fs::File::from_std(file)))
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta<u64, Member>,
        mut snapshot: Box<tokio::fs::File>,
    ) -> Result<(), StorageError<u64>> {
        use tokio::io::AsyncWriteExt;
        snapshot.flush().await.map_err(|e| failed(ErrorVerb::Write, &e))?;
        let mut received = snapshot.into_std().await;
        let (state, snapshots) = (self.state.clone(), self.snapshots.clone());
        let folder = snapshots.clone();
        let installed = tokio::task::spawn_blocking(move || {
            let path = snapshots.accept(&mut received)?;
            snapshots.restore(&path, &state)
        })
        .await;
        // The purge of the log below it waits for it.
        if !matches!(installed, Ok(Ok(_))) {
            folder.fail();
        }
        let installed = installed.map_err(|_| failed(ErrorVerb::Write, &broken_off()))?;
        installed.map(|_| ()).map_err(|e| failed(ErrorVerb::Write, &e))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        let newest = self.snapshots.newest().map_err(|e| failed(ErrorVerb::Read, &e))?;
        let Some((meta, path)) = newest else { return Ok(None) };
        let file = File::open(path).map_err(|e| failed(ErrorVerb::Read, &e))?;
        Ok(Some(Snapshot { meta, snapshot: Box::new(tokio::fs::File::from_std(file)) }))
    }
}
