//! Letting go: files that nothing holds, chunks that no file has, uploads that never ended.
//!
//! A file goes in one step, and its chunks are released with its lists (`lists.rs`). A chunk without
//! references is condemned, and deleted by a later entry once its grace is over, unless a file with it is
//! committed before. Only then do the data nodes hear of it, through the feed. Each step names what the
//! leader saw, and does nothing where that does not hold any more.

use wmall_proto::chunk::{ChunkRecord, Condemned};
use wmall_proto::feed::{FeedItem, PiecesKnown, PoolChunk};
use wmall_proto::file::Pin;
use wmall_proto::rpc::Response;
use wmall_proto::{ChunkId, DiskId, FileId, PoolId, UploadId};

use super::apply::{Context, Outcome};
use super::derived::Derived;
use super::lists::{StoredFile, list_lengths};
use super::txn::decode;
use super::{State, keys};
use crate::command::{CondemnedChunk, Due};
use wmall_runtime::view::StoreError;

impl Context<'_> {
    /// What has fallen due goes, if it is still there as the leader saw it.
    pub(super) fn expire(&mut self, items: Vec<(u64, Due)>) -> Outcome {
        for (at_ms, what) in items {
            if at_ms > self.now_ms || self.txn.get::<()>(&keys::due(at_ms, &what))?.is_none() {
                continue;
            }
            match what {
                Due::Trash(bucket, name, version) => self.drop_version(&bucket, &name, version)?,
                Due::Bucket(name) => self.drop_bucket(at_ms, &name)?,
                Due::Pin(id) => {
                    self.txn.remove(keys::due(at_ms, &Due::Pin(id)));
                    let key = keys::file(&id);
                    let Some(mut file) = self.txn.get::<StoredFile>(&key)? else { continue };
                    file.record.pin = Pin::None;
                    self.txn.put(key, &file);
                    self.release_if_unused(&id)?;
                }
            }
        }
        Ok(Response::Done)
    }

    /// Counts a reference more or less. What should be there and is not is told, and is no reason to stop: a
    /// command that is refused half-way would leave the counters in memory ahead of the map.
    pub(super) fn change_references(&mut self, id: &FileId, change: i64) -> Result<(), StoreError> {
        let key = keys::file(id);
        let Some(mut file) = self.txn.get::<StoredFile>(&key)? else {
            tracing::error!(%id, "a name points to a file that has no record");
            return Ok(());
        };
        file.record.references = file.record.references.saturating_add_signed(change);
        self.txn.put(key, &file);
        self.release_if_unused(id)
    }

    /// Releases a file that nothing holds any more.
    pub(super) fn release_if_unused(&mut self, id: &FileId) -> Result<(), StoreError> {
        let key = keys::file(id);
        let Some(stored) = self.txn.get::<StoredFile>(&key)? else { return Ok(()) };
        let file = &stored.record;
        if file.references > 0 || file.pin != Pin::None {
            return Ok(());
        }
        self.txn.remove(key);
        self.derived.counters.files = self.derived.counters.files.saturating_sub(1);
        for (&list, chunks) in stored.lists.iter().zip(list_lengths(file)) {
            self.let_list_go(list, chunks, &file.pools)?;
        }
        Ok(())
    }

    /// Takes the references of so many places away.
    pub(super) fn release_chunk(
        &mut self,
        pool: PoolId,
        chunk: &ChunkId,
        places: u64,
    ) -> Result<(), StoreError> {
        let key = keys::chunk(pool, chunk);
        let Some(mut record) = self.txn.get::<ChunkRecord>(&key)? else {
            tracing::error!(%chunk, "a file's chunk has no record");
            return Ok(());
        };
        record.references = record.references.saturating_sub(places);
        if record.references == 0 && record.condemned.is_none() {
            record.condemned = Some(Condemned { at: self.index, since_ms: self.now_ms });
            self.txn.put(keys::condemned(self.now_ms, pool, chunk), &self.index);
            let condemned = &mut self.derived.counters.condemned;
            condemned.chunks += 1;
            condemned.bytes += u64::from(record.length);
        }
        self.txn.put(key, &record);
        Ok(())
    }

    /// A condemned chunk is wanted again, or goes for good.
    pub(super) fn lift_sentence(&mut self, pool: PoolId, chunk: &ChunkId, record: &mut ChunkRecord) {
        if let Some(condemned) = record.condemned.take() {
            self.txn.remove(keys::condemned(condemned.since_ms, pool, chunk));
            let counters = &mut self.derived.counters.condemned;
            counters.chunks = counters.chunks.saturating_sub(1);
            counters.bytes = counters.bytes.saturating_sub(u64::from(record.length));
        }
    }

    /// Deletes chunks that are still condemned as the leader saw them.
    pub(super) fn delete_chunks(&mut self, chunks: &[CondemnedChunk]) -> Outcome {
        if self.derived.counters.deletion_held {
            return Ok(Response::Done);
        }
        for &CondemnedChunk { pool, chunk, at } in chunks {
            let key = keys::chunk(pool, &chunk);
            let Some(mut record) = self.txn.get::<ChunkRecord>(&key)? else { continue };
            if record.references > 0 || record.condemned.map(|c| c.at) != Some(at) {
                continue;
            }
            // Pools are never removed, so every chunk has its row.
            let Some((group, row)) = self.derived.topology.row_of(pool, &chunk) else { continue };
            for disk in row.holders().map(|(_, disk)| disk).collect::<Vec<_>>() {
                self.close_ticket(disk, group, &chunk, |_| true)?;
            }
            self.lift_sentence(pool, &chunk, &mut record);
            let count = self.derived.groups.entry(group).or_insert(0);
            *count = count.saturating_sub(1);
            let count = *count;
            self.txn.put(keys::group_count(group.0, group.1), &count);
            let counters = self.derived.counters.pools.entry(pool).or_default();
            counters.chunks = counters.chunks.saturating_sub(1);
            counters.bytes = counters.bytes.saturating_sub(u64::from(record.length));
            self.txn.remove(keys::digests(pool, &chunk));
            self.txn.remove(key);
            self.feed.push(FeedItem::Deleted(PoolChunk { pool, chunk }));
        }
        Ok(Response::Done)
    }

    /// From now on no upload that began before this time commits. The mark only rises.
    pub(super) fn fence_uploads(&mut self, before_ms: u64) -> Outcome {
        let counters = &mut self.derived.counters;
        if !counters.deletion_held && before_ms > counters.fenced_before_ms {
            counters.fenced_before_ms = before_ms;
            self.feed.push(FeedItem::Fenced { before_ms });
        }
        Ok(Response::Done)
    }
}

/// What the leader looks for; each list is in the order of time and at most `limit` long.
impl State {
    /// What has fallen due by now.
    pub fn due(&self, now_ms: u64, limit: usize) -> Result<Vec<(u64, Due)>, StoreError> {
        let _one_index = self.read();
        let page = self.store.scan(keys::DUE, None, limit)?;
        let due = page.iter().filter_map(|(key, _)| keys::parse_due(key));
        Ok(due.take_while(|(at, _)| *at <= now_ms).collect())
    }

    /// Chunks that were condemned up to a time.
    pub fn condemned(&self, up_to_ms: u64, limit: usize) -> Result<Vec<CondemnedChunk>, StoreError> {
        let _one_index = self.read();
        let mut chunks = Vec::new();
        for (key, value) in self.store.scan(keys::CONDEMNED, None, limit)? {
            let Some((since, pool, chunk)) = keys::parse_condemned(&key) else { continue };
            if since > up_to_ms {
                break;
            }
            chunks.push(CondemnedChunk { pool, chunk, at: decode(&value)? });
        }
        Ok(chunks)
    }

    /// Parts of uploads that are fenced.
    pub fn fenced_parts(&self, limit: usize) -> Result<Vec<(UploadId, PoolId, u32)>, StoreError> {
        let derived = self.read();
        let before = derived.counters.fenced_before_ms;
        let page = self.store.scan(keys::UPLOAD_PARTS, None, limit)?;
        let parts = page.iter().filter_map(|(key, _)| keys::parse_upload_part(key));
        Ok(parts.take_while(|(upload, ..)| upload.started_ms() < before).collect())
    }

    /// Those of these chunks that are committed, have a place on this disk, and have no ticket there. Whoever
    /// reports the others, however often, makes no log grow.
    pub fn untold(&self, disk: DiskId, chunks: &[PoolChunk]) -> Result<Vec<PoolChunk>, StoreError> {
        let derived = self.read();
        let mut untold = self.pieces_known_by(&derived, disk, chunks)?.committed;
        let mut failed = None;
        untold.retain(|chunk| {
            let ticket = self.store.get(&keys::ticket(disk, chunk.pool, &chunk.chunk));
            ticket.map_err(|error| failed = Some(error)).is_ok_and(|ticket| ticket.is_none())
        });
        failed.map_or(Ok(untold), Err)
    }

    /// Which of these chunks are committed and have a place on this disk, and what else decides over a piece.
    pub fn pieces_known(&self, disk: DiskId, chunks: &[PoolChunk]) -> Result<PiecesKnown, StoreError> {
        self.pieces_known_by(&self.read(), disk, chunks)
    }

    fn pieces_known_by(
        &self,
        derived: &Derived,
        disk: DiskId,
        chunks: &[PoolChunk],
    ) -> Result<PiecesKnown, StoreError> {
        let mut committed = Vec::new();
        for chunk in chunks {
            let row = derived.topology.row_of(chunk.pool, &chunk.chunk).map(|(_, row)| row);
            if row.is_some_and(|row| row.involves(disk))
                && self.chunk_record(chunk.pool, &chunk.chunk)?.is_some()
            {
                committed.push(*chunk);
            }
        }
        let (fenced_before_ms, deletion_held) =
            (derived.counters.fenced_before_ms, derived.counters.deletion_held);
        Ok(PiecesKnown { committed, fenced_before_ms, deletion_held })
    }
}
