//! The Raft log and vote, in the journal.
//!
//! Order: an entry is acknowledged to openraft from the journal's completion, that is after its fdatasync; a
//! vote, a truncation and a purge are awaited. A purge waits for a published snapshot that reaches as far:
//! openraft asks for it while a snapshot that it received is still being checked, and a log that is cut off
//! before that is durable would leave nothing to start from. Votes and the purge mark are written again
//! before the segments that hold their last copies are retired. A failed sync ends the process: Raft has no
//! use for a member that forgot what it promised.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, RaftLogReader, StorageError,
    StorageIOError, Vote,
};
use tokio::sync::watch;
use wmall_journal::{
    AppendError, Disk, Found, Journal, Nonces, OpenError, Options, Position, RealDisk, Record,
};

use super::wire::{
    BLANK, Entry, MEMBERSHIP, NORMAL, decode_log_id, decode_payload, encode_log_id, encode_payload,
};
use crate::types::TypeConfig;

const VOTE: u8 = 16;
const TRUNCATE: u8 = 17;
const PURGE: u8 = 18;

/// Bytes of a log segment.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes of appends that may wait.
const QUEUE_BYTES: usize = 256 << 20;
/// Bytes of recent entries that are kept in memory for replication and applying.
const CACHE_BYTES: usize = 16 << 20;

/// Bytes of entries that one message to a follower carries, unless a single entry has more.
const MESSAGE_BYTES: usize = 1 << 20;

/// Why the log does not open.
#[derive(Debug, thiserror::Error)]
pub enum LogStoreError {
    /// The folder can't be used.
    #[error("the Raft log's folder cannot be opened")]
    Folder(#[from] io::Error),
    /// The journal refuses: see its reason. Acknowledged entries are never cut off to make it open.
    #[error(
        "the Raft log does not open; nothing was changed. If a majority of the others is up, let this member go \
         (`wmall meta member rm ID`), empty its folder and take it in again under a new id; else restore the \
         folder, or the cluster from a snapshot"
    )]
    Journal(#[from] OpenError),
}

/// Where an entry is.
struct Located {
    log_id: LogId<u64>,
    kind: u8,
    /// Not yet known while it is being written.
    place: Option<Position>,
    length: u32,
    /// Recent entries, and all that are being written.
    cached: Option<Bytes>,
}

#[derive(Default)]
struct Index {
    entries: BTreeMap<u64, Located>,
    cached_bytes: usize,
    /// Entries below this have lost their cached bytes.
    evicted_below: u64,
    vote: Option<Vote<u64>>,
    purged: Option<LogId<u64>>,
}

/// The log; clones share it.
#[derive(Clone)]
pub struct LogStore {
    id: u64,
    journal: Arc<Journal>,
    index: Arc<Mutex<Index>>,
    /// Ends the process once a write or a sync has failed.
    stop: fn(),
    /// Index of the newest snapshot that is durable; none where nothing is purged but by a test.
    published: Option<watch::Receiver<Option<u64>>>,
}

impl Index {
    fn last(&self) -> Option<u64> {
        let purged = self.purged.map(|id| id.index);
        self.entries.last_key_value().map(|(&index, _)| index).max(purged)
    }

    fn replay(&mut self, found: &Found<'_>, payload: Option<Vec<u8>>) -> Result<(), String> {
        match found.kind {
            BLANK | NORMAL | MEMBERSHIP => {
                let head: &[u8; 24] = found.meta.try_into().map_err(|_| "an entry without its place")?;
                let log_id = decode_log_id(head);
                self.entries.split_off(&log_id.index);
                let (place, length) = (Some(found.position), found.payload_length);
                let located = Located { log_id, kind: found.kind, place, length, cached: None };
                self.entries.insert(log_id.index, located);
                self.evicted_below = log_id.index + 1;
            }
            VOTE => {
                let bytes = payload.ok_or("a vote without content")?;
                self.vote = Some(serde_json::from_slice(&bytes).map_err(|e| e.to_string())?);
            }
            TRUNCATE | PURGE => {
                let head: &[u8; 24] = found.meta.try_into().map_err(|_| "a mark without its place")?;
                let log_id = decode_log_id(head);
                if found.kind == TRUNCATE {
                    self.entries.split_off(&log_id.index);
                } else {
                    self.entries = self.entries.split_off(&(log_id.index + 1));
                    self.purged = Some(log_id);
                }
            }
            other => return Err(format!("unknown kind {other}")),
        }
        Ok(())
    }

    /// Drops the bytes of the oldest entries beyond the cache's bound; only of those that are on disk.
    fn evict(&mut self) {
        while self.cached_bytes > CACHE_BYTES {
            let Some((&at, located)) = self.entries.range_mut(self.evicted_below..).next() else { return };
            if located.place.is_none() {
                return;
            }
            self.evicted_below = at + 1;
            self.cached_bytes -= located.cached.take().map_or(0, |b| b.len());
        }
    }

    fn drop_from(&mut self, at: u64) {
        let gone = self.entries.split_off(&at);
        self.cached_bytes -= gone.values().filter_map(|l| l.cached.as_ref()).map(Bytes::len).sum::<usize>();
        self.evicted_below = self.evicted_below.min(at);
    }

    fn drop_up_to(&mut self, at: u64) {
        let kept = self.entries.split_off(&(at + 1));
        let gone = std::mem::replace(&mut self.entries, kept);
        self.cached_bytes -= gone.values().filter_map(|l| l.cached.as_ref()).map(Bytes::len).sum::<usize>();
    }
}

impl LogStore {
    /// Opens the log of member `id` in this folder.
    pub fn open(folder: &Path, identity: [u8; 16], id: u64, name: &str) -> Result<Self, LogStoreError> {
        let (disk, nonce) = (Arc::new(RealDisk::open(folder)?), |_| wmall_runtime::random::bytes());
        Self::open_on(disk, (identity, nonce), (id, name), SEGMENT_BYTES, abort)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        (identity, nonce): ([u8; 16], Nonces),
        (id, name): (u64, &str),
        segment_bytes: u64,
        stop: fn(),
    ) -> Result<Self, LogStoreError> {
        let options = Options {
            identity,
            nonce,
            segment_bytes,
            max_bytes: u64::MAX,
            reserve_bytes: 0,
            queue_bytes: QUEUE_BYTES,
            replay_from: None,
            name: format!("raft-log-{name}"),
        };
        let mut index = Index::default();
        let reader = disk.clone();
        let journal = Journal::open(disk, options, |found| {
            // Votes are the only records whose content is needed at once.
            let payload = (found.kind == VOTE).then(|| read_payload(&*reader, &found)).transpose();
            index.replay(&found, payload.map_err(|e| e.to_string())?)
        })?;
        let (journal, index) = (Arc::new(journal), Arc::new(Mutex::new(index)));
        Ok(Self { id, journal, index, stop, published: None })
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Purges only what the newest snapshot that is durable covers, from now on.
    pub fn purge_behind(mut self, published: watch::Receiver<Option<u64>>) -> Self {
        self.published = Some(published);
        self
    }

    /// Index of the last entry, or of the last that was purged; 0 if there was none.
    pub fn last(&self) -> u64 {
        self.lock().last().unwrap_or(0)
    }

    /// What the lengths of the entries ask for; see [`super::due::wanted`].
    pub(super) fn wanted(&self, covered: u64, applied: u64, bounds: (u64, u64)) -> super::due::Wanted {
        let index = self.lock();
        let entries = index.entries.iter().map(|(&at, located)| (at, u64::from(located.length)));
        super::due::wanted(entries, covered, applied, bounds)
    }

    /// The vote that was written last.
    pub fn vote(&self) -> Option<Vote<u64>> {
        self.lock().vote
    }

    /// Whether this member has ever taken part.
    pub fn is_pristine(&self) -> bool {
        let index = self.lock();
        index.vote.is_none() && index.entries.is_empty() && index.purged.is_none()
    }

    /// The last purged entry: a state machine behind it can't be brought up from this log.
    pub fn purged(&self) -> Option<LogId<u64>> {
        self.lock().purged
    }

    async fn write(&self, record: Record) -> Result<(), StorageError<u64>> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.journal.append(vec![record], move |outcome| {
            let _ = sender.send(outcome.map(|_| ()));
        });
        match receiver.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(write_error(&stop_if_fenced(error, self.stop))),
            Err(_) => Err(write_error(&AppendError::Closed)),
        }
    }

    fn vote_record(vote: &Vote<u64>) -> Record {
        let payload = super::wire::to_json(vote);
        Record { kind: VOTE, payload: vec![payload.into()], ..Record::default() }
    }

    fn read_entry(&self, located: &Located) -> io::Result<Entry> {
        let bytes = match (&located.cached, located.place) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some(place)) => {
                let mut bytes = vec![0u8; located.length as usize + 4];
                let offset = Journal::payload_offset(place, 24);
                self.journal.read(place.segment, offset, &mut bytes)?;
                let stored = bytes.split_off(located.length as usize);
                if wmall_journal::checksum(&bytes).to_le_bytes() != *stored {
                    let what = format!("entry {} of the Raft log is damaged on disk", located.log_id);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                bytes.into()
            }
            (None, None) => return Err(io::Error::other("an entry without bytes")),
        };
        let payload = decode_payload(located.kind, bytes).map_err(io::Error::other)?;
        Ok(Entry { log_id: located.log_id, payload })
    }
}

fn read_payload(disk: &dyn Disk, found: &Found<'_>) -> io::Result<Vec<u8>> {
    let file = disk.open(&format!("{:010}.seg", found.position.segment))?;
    let mut bytes = vec![0u8; found.payload_length as usize];
    file.read_at(&mut bytes, found.payload_offset)?;
    Ok(bytes)
}

/// A log whose sync failed may have lost what was promised with it; the process must not go on.
fn stop_if_fenced(error: AppendError, stop: fn()) -> AppendError {
    if let AppendError::Fenced(why) = &error {
        tracing::error!(%why, "the Raft log cannot be written; stopping");
        stop();
    }
    error
}

fn abort() {
    std::process::abort();
}

/// Entries that do not follow the last one: openraft, or its leader, believes in a log that is not this one.
#[derive(Debug, thiserror::Error)]
#[error("entry {next} of the Raft log does not follow entry {last}")]
struct Gap {
    last: u64,
    next: u64,
}

/// No snapshot reaches as far as what is to be purged.
#[derive(Debug, thiserror::Error)]
#[error("the log is not purged up to entry {0}: no snapshot that reaches as far became durable")]
struct Uncovered(u64);

fn write_error(error: &(impl std::error::Error + 'static)) -> StorageError<u64> {
    StorageIOError::new(ErrorSubject::Logs, ErrorVerb::Write, AnyError::new(error)).into()
}

fn read_error(error: &io::Error) -> StorageError<u64> {
    StorageIOError::new(ErrorSubject::Logs, ErrorVerb::Read, AnyError::new(error)).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError<u64>> {
        let range: (Bound<u64>, Bound<u64>) = (range.start_bound().cloned(), range.end_bound().cloned());
        let index = self.lock();
        let entries: io::Result<Vec<Entry>> =
            index.entries.range(range).map(|(_, located)| self.read_entry(located)).collect();
        entries.map_err(|e| read_error(&e))
    }

    /// As many as fit in a message, and at least one.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError<u64>> {
        let index = self.lock();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for located in index.entries.range(start..end).map(|(_, l)| l) {
            bytes += located.length as usize;
            if !entries.is_empty() && bytes > MESSAGE_BYTES {
                break;
            }
            entries.push(self.read_entry(located).map_err(|e| read_error(&e))?);
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<u64>> {
        let index = self.lock();
        let last = index.entries.values().next_back().map(|l| l.log_id);
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: last.or(index.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        self.write(Self::vote_record(vote)).await?;
        self.lock().vote = Some(*vote);
        Ok(())
    }

    /// A leader that restarts stands for election again. openraft would let it lead on in its old term, with
    /// the first entry of that term as the lower bound of a read index and the view's position as what is
    /// committed; a view that a kill left behind would then answer linearizable reads with the past.
    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        let own = |vote: &Vote<u64>| vote.leader_id.voted_for() == Some(self.id);
        let step_down = |vote: Vote<u64>| Vote { committed: vote.committed && !own(&vote), ..vote };
        Ok(self.lock().vote.map(step_down))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut records, mut indices) = (Vec::new(), Vec::new());
        {
            let mut index = self.lock();
            for entry in entries {
                let (kind, payload) = encode_payload(&entry.payload);
                let log_id = entry.log_id;
                // openraft's own storage suite, which purges without snapshots, appends out of order too.
                let gap = |last: &u64| self.published.is_some() && log_id.index != last + 1;
                if let Some(last) = index.last().filter(gap) {
                    return Err(write_error(&Gap { last, next: log_id.index }));
                }
                let meta = encode_log_id(&log_id).to_vec();
                let length = payload.len() as u32;
                index.cached_bytes += payload.len();
                let located = Located { log_id, kind, place: None, length, cached: Some(payload.clone()) };
                index.entries.insert(log_id.index, located);
                indices.push(log_id);
                records.push(Record { kind, meta, payload: vec![payload], ..Record::default() });
            }
        }
        let (shared, stop) = (self.index.clone(), self.stop);
        self.journal.append(records, move |outcome| match outcome {
            Ok(positions) => {
                let mut index = shared.lock().unwrap_or_else(PoisonError::into_inner);
                for (log_id, position) in indices.into_iter().zip(positions) {
                    // It may have been truncated, and even replaced, in the meantime.
                    if let Some(located) = index.entries.get_mut(&log_id.index)
                        && located.log_id == log_id
                    {
                        located.place = Some(position);
                    }
                }
                index.evict();
                drop(index);
                callback.log_io_completed(Ok(()));
            }
            Err(error) => callback.log_io_completed(Err(io::Error::other(stop_if_fenced(error, stop)))),
        });
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        let meta = encode_log_id(&log_id).to_vec();
        self.write(Record { kind: TRUNCATE, meta, ..Record::default() }).await?;
        self.lock().drop_from(log_id.index);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        if let Some(published) = &mut self.published {
            let covered =
                published.wait_for(|reached| reached.is_none_or(|reached| reached >= log_id.index)).await;
            // A snapshot that could not be taken in fails the state machine as well, and the process ends.
            covered.ok().and_then(|reached| *reached).ok_or_else(|| write_error(&Uncovered(log_id.index)))?;
        }
        let meta = encode_log_id(&log_id).to_vec();
        self.write(Record { kind: PURGE, meta, ..Record::default() }).await?;
        let (vote, oldest) = {
            let mut index = self.lock();
            index.drop_up_to(log_id.index);
            index.purged = Some(log_id);
            // An entry without a place yet is in the newest segment, which is never retired.
            let oldest = index.entries.values().find_map(|l| l.place).map(|p| p.segment);
            (index.vote, oldest)
        };
        let newest = self.journal.segments().last().copied().unwrap_or(0);
        let keep_from = oldest.unwrap_or(newest);
        if self.journal.segments().first().is_some_and(|&first| first < keep_from) {
            if let Some(vote) = vote {
                self.write(Self::vote_record(&vote)).await?;
            }
            self.journal.retire_below(keep_from).map_err(|e| read_error(&e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
