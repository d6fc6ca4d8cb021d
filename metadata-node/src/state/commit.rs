//! Making files visible: receipts judged against the rows as they are now, references counted, tickets
//! written for every slot without a receipt.

use std::collections::BTreeSet;

use wmall_manifest::Manifest;
use wmall_proto::chunk::{ChunkRecord, MAX_CHUNKS_PER_COMMIT, Ticket, TicketReason};
use wmall_proto::feed::CommittedChunk;
use wmall_proto::file::{FileRecord, ObjectRecord};
use wmall_proto::pg::{PgKey, PgRow};
use wmall_proto::rpc::{Ack, CommitOutcome, Response};
use wmall_proto::{BucketName, ChunkId, ErrorCode, FileId, ObjectName, PoolId, RpcError, UploadId};

use super::apply::{Context, Outcome, Refusal};
use super::keys;
use crate::command::PromisedChunk;

/// Chunk ids per stored page of a file.
pub(super) const LEAVES_PER_PAGE: usize = MAX_CHUNKS_PER_COMMIT;

/// A `CommitFile` without its chunks.
pub(super) struct FileCommit {
    pub(super) upload: UploadId,
    pub(super) pool: PoolId,
    pub(super) id: FileId,
    pub(super) size: u64,
    pub(super) chunk_size: u32,
    pub(super) object: Option<(BucketName, ObjectName)>,
    pub(super) parts: u32,
    pub(super) ack: Ack,
}

/// A chunk that has been judged: what to write for it.
struct Judged {
    group: PgKey,
    chunk: ChunkId,
    length: u32,
    /// Slots without a receipt.
    missing: Vec<u8>,
    /// Slots with one.
    held: Vec<u8>,
}

impl Context<'_> {
    /// Keeps a part with its upload. Its chunks are judged now and referenced when the file comes.
    pub(super) fn commit_part(
        &mut self,
        upload: UploadId,
        pool: PoolId,
        part: u32,
        chunks: Vec<PromisedChunk>,
        ack: Ack,
    ) -> Outcome {
        if chunks.len() != MAX_CHUNKS_PER_COMMIT {
            let reason = format!("a part has exactly {MAX_CHUNKS_PER_COMMIT} chunks, not {}", chunks.len());
            return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
        }
        for chunk in &chunks {
            self.judge(pool, chunk, ack)?;
        }
        self.txn.put(keys::upload_part(&upload, pool, part), &chunks);
        Ok(Response::Committed(CommitOutcome { index: self.index, new_file: false, tickets: 0 }))
    }

    /// Makes a file visible.
    pub(super) fn commit_file(&mut self, file: FileCommit, chunks: Vec<PromisedChunk>) -> Outcome {
        let chunks = self.with_parts(&file, chunks)?;
        let mut judged = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            judged.push(self.judge(file.pool, chunk, file.ack)?);
        }
        let ids = chunks.iter().map(|c| c.id).collect();
        let manifest = Manifest::verified(file.id, file.size, file.chunk_size, ids)
            .map_err(|e| RpcError::new(ErrorCode::BadRequest, e.to_string()))?;
        if let Some(i) = (0..chunks.len()).find(|&i| manifest.chunk_length(i) != chunks[i].length) {
            let reason = format!(
                "chunk {i} of this file has {} bytes, not {}",
                manifest.chunk_length(i),
                chunks[i].length
            );
            return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
        }
        if let Some((bucket, _)) = &file.object {
            let bucket = self.bucket(bucket)?;
            if bucket.pool != file.pool {
                let reason = format!("bucket {} belongs to another pool", bucket.name);
                return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
            }
        }
        let (new_file, tickets) = self.write_file(&file, &manifest, judged)?;
        if let Some((bucket, name)) = &file.object {
            self.point(bucket, name, &file)?;
        }
        for part in 0..file.parts {
            self.txn.remove(keys::upload_part(&file.upload, file.pool, part));
        }
        Ok(Response::Committed(CommitOutcome { index: self.index, new_file, tickets }))
    }

    fn with_parts(&self, file: &FileCommit, last: Vec<PromisedChunk>) -> Result<Vec<PromisedChunk>, Refusal> {
        let mut all = Vec::new();
        for part in 0..file.parts {
            let stored: Option<Vec<PromisedChunk>> =
                self.txn.get(&keys::upload_part(&file.upload, file.pool, part))?;
            let missing = || RpcError::not_found(format!("part {part} of upload {}", file.upload));
            all.extend(stored.ok_or_else(missing)?);
        }
        all.extend(last);
        Ok(all)
    }

    /// Holds a chunk's promises against its row as it is now. Promises of disks that have no slot in it,
    /// or from an earlier life, count for nothing.
    fn judge(&self, pool: PoolId, chunk: &PromisedChunk, ack: Ack) -> Result<Judged, Refusal> {
        let topology = &self.derived.topology;
        let table = topology
            .pools
            .get(&pool)
            .ok_or_else(|| RpcError::not_found(format!("pool number {}", pool.0)))?;
        let (group, row) = topology
            .row_of(pool, &chunk.id)
            .ok_or_else(|| RpcError::internal("a pool without the row of a chunk"))?;
        let stands = |slot: u8| {
            chunk.promises.iter().any(|p| {
                p.slot == slot
                    && row.slots.get(usize::from(slot)) == Some(&p.disk)
                    && topology.disks.get(&p.disk).is_some_and(|d| d.incarnation == p.incarnation)
            })
        };
        let (held, missing): (Vec<u8>, Vec<u8>) = (0..row.slots.len() as u8).partition(|&slot| stands(slot));
        let needed = match ack {
            Ack::All => row.slots.len(),
            Ack::Quorum => table.pool.scheme.quorum(),
        };
        let zones_wanted = self.zones(row, 0..row.slots.len() as u8).min(2).min(needed);
        let zones_held = self.zones(row, held.iter().copied());
        if held.len() < needed || zones_held < zones_wanted {
            let reason = format!(
                "chunk {} has {} of {needed} receipts, in {zones_held} of {zones_wanted} zones",
                chunk.id,
                held.len(),
            );
            return Err(RpcError::new(ErrorCode::TooFewReceipts, reason).into());
        }
        Ok(Judged { group, chunk: chunk.id, length: chunk.length, missing, held })
    }

    /// Distinct zones of some slots of a row.
    fn zones(&self, row: &PgRow, slots: impl Iterator<Item = u8>) -> usize {
        let topology = &self.derived.topology;
        let zone = |slot: u8| topology.node_of(*row.slots.get(usize::from(slot))?).map(|n| &n.zone);
        slots.filter_map(zone).collect::<BTreeSet<_>>().len()
    }

    /// Writes the file's record, its leaves and its chunks. Returns whether it is new and how many
    /// tickets it made.
    fn write_file(
        &mut self,
        file: &FileCommit,
        manifest: &Manifest,
        judged: Vec<Judged>,
    ) -> Result<(bool, u32), Refusal> {
        let key = keys::file(&file.id);
        let stored: Option<FileRecord> = self.txn.get(&key)?;
        let new_file = stored.is_none();
        let mut record = stored.unwrap_or_else(|| FileRecord {
            size: file.size,
            chunk_size: file.chunk_size,
            merkle_root: *manifest.root(),
            pools: Vec::new(),
            references: 0,
            created_ms: self.now_ms,
        });
        let new_in_pool = !record.pools.contains(&file.pool);
        let mut tickets = 0;
        for chunk in judged {
            tickets += self.write_chunk(file.pool, chunk, new_in_pool)?;
        }
        if new_in_pool {
            record.pools.push(file.pool);
        }
        if file.object.is_none() {
            // A put without a name is a reference of its own: nothing else would hold the file.
            record.references += 1;
        }
        if new_file {
            self.derived.counters.files += 1;
            for (page, ids) in manifest.chunks().chunks(LEAVES_PER_PAGE).enumerate() {
                self.txn.put(keys::leaves(&file.id, page as u32), &ids.to_vec());
            }
        }
        self.txn.put(key, &record);
        Ok((new_file, tickets))
    }

    fn write_chunk(&mut self, pool: PoolId, judged: Judged, reference: bool) -> Result<u32, Refusal> {
        let key = keys::chunk(pool, &judged.chunk);
        let stored: Option<ChunkRecord> = self.txn.get(&key)?;
        let mut tickets = 0;
        if stored.is_none() {
            let count = self.derived.groups.entry(judged.group).or_insert(0);
            *count += 1;
            let count = *count;
            self.txn.put(keys::group_count(judged.group.0, judged.group.1), &count);
            let counters = self.derived.counters.pools.entry(pool).or_default();
            counters.chunks += 1;
            counters.bytes += u64::from(judged.length);
            for &slot in &judged.missing {
                let ticket = Ticket { slot, since: self.index, reason: TicketReason::MissedWrite };
                tickets += u32::from(self.open_ticket(judged.group, &judged.chunk, ticket)?);
            }
        }
        // What a write missed before may be there now. A piece that was found bad since its receipt was
        // given stays so until its disk says otherwise.
        for &slot in &judged.held {
            self.close_ticket_of_slot(judged.group, &judged.chunk, slot)?;
        }
        let mut record =
            stored.unwrap_or(ChunkRecord { length: judged.length, references: 0, committed_at: self.index });
        record.references += u32::from(reference);
        self.txn.put(key, &record);
        self.committed.push(CommittedChunk { pool, chunk: judged.chunk });
        Ok(tickets)
    }

    /// Points a name to a file; what it pointed to before loses a reference.
    fn point(&mut self, bucket: &BucketName, name: &ObjectName, file: &FileCommit) -> Result<(), Refusal> {
        let key = keys::object(bucket, name);
        let before: Option<ObjectRecord> = self.txn.get(&key)?;
        let mut record = self.bucket(bucket)?;
        match &before {
            Some(old) => record.bytes = record.bytes.saturating_sub(old.size),
            None => {
                record.objects += 1;
                self.derived.counters.objects += 1;
            }
        }
        record.bytes += file.size;
        self.txn.put(keys::bucket(bucket), &record);
        if before.as_ref().map(|o| o.file) != Some(file.id) {
            self.add_references(&file.id, 1)?;
            if let Some(old) = &before {
                self.add_references(&old.file, -1)?;
            }
        }
        let object = ObjectRecord { file: file.id, size: file.size, modified_ms: self.now_ms };
        self.txn.put(key, &object);
        Ok(())
    }

    fn add_references(&mut self, id: &FileId, change: i64) -> Result<(), Refusal> {
        let key = keys::file(id);
        if let Some(mut record) = self.txn.get::<FileRecord>(&key)? {
            record.references = record.references.saturating_add_signed(change);
            self.txn.put(key, &record);
        }
        Ok(())
    }
}
