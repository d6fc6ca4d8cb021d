//! Making files visible: receipts judged against the rows as they are now, references counted, tickets
//! written for every slot without a receipt.

use std::collections::BTreeSet;

use wmall_manifest::{Manifest, has_blocks};
use wmall_proto::chunk::{
    ChunkRecord, MAX_CHUNKS_PER_COMMIT, MAX_PIECES_PER_COMMIT, PieceDigest, Ticket, TicketReason,
    UNKNOWN_DIGEST,
};
use wmall_proto::feed::{FeedItem, PoolChunk};
use wmall_proto::file::{FileRecord, Pin};
use wmall_proto::identity::Actor;
use wmall_proto::pg::{MAX_SOURCES, PgKey};
use wmall_proto::rpc::{Ack, CommitOutcome, Response};
use wmall_proto::{ChunkId, DiskId, ErrorCode, PoolId, RpcError, UploadId};

use super::apply::{Context, Outcome, Refusal};
use super::derived::NO_EPOCH;
use super::keys;
use crate::command::{FileCommit, PromisedChunk};

/// Parts that an upload may have: files of some four million chunks.
const MAX_PARTS: u32 = 1024;
/// Chunks that an answer names as needed.
const MAX_NEEDED: usize = 16;
/// Chunk ids per stored page of a file.
pub(super) const LEAVES_PER_PAGE: usize = MAX_CHUNKS_PER_COMMIT;

/// A chunk that has been judged: what to write for it.
pub(super) struct Judged {
    group: PgKey,
    chunk: ChunkId,
    length: u32,
    /// What its pieces hash to, where they are shards; not for a chunk that is there already.
    digests: Vec<PieceDigest>,
    /// Slots without a receipt.
    missing: Vec<u8>,
    /// Slots with one.
    held: Vec<u8>,
    /// Slots without one, with a disk that had the slot before and has promised the piece.
    former: Vec<(u8, DiskId)>,
    /// The disks whose pieces the chunk is committed on the strength of.
    counted: Vec<DiskId>,
}

/// What became of a look at all chunks of a commit.
enum Verdict {
    Good(Vec<Judged>),
    /// These were claimed to be there and are not, or not safely.
    Need(Vec<ChunkId>),
}

/// Bytes that a part takes in the map.
fn encoded_length(chunks: &[PromisedChunk]) -> u64 {
    let each = |c: &PromisedChunk| {
        size_of::<ChunkId>() + 4 + 8 + 8 + c.digests.len() * 32 + 8 + c.promises.len() * (1 + 4 + 16)
    };
    chunks.iter().map(|c| each(c) as u64).sum()
}

impl Context<'_> {
    /// Keeps a part with its upload. Its chunks are judged now and referenced when the file comes.
    pub(super) fn commit_part(
        &mut self,
        owner: &Actor,
        upload: UploadId,
        pool: PoolId,
        part: u32,
        chunks: Vec<PromisedChunk>,
        ack: Ack,
    ) -> Outcome {
        if chunks.len() != MAX_PIECES_PER_COMMIT {
            let reason = format!(
                "a part has exactly {MAX_CHUNKS_PER_COMMIT} chunks and their block, not {}",
                chunks.len()
            );
            return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
        }
        if part >= MAX_PARTS {
            let reason = format!("part {part}; an upload has at most {MAX_PARTS}");
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason).hint("choose larger chunks").into());
        }
        self.check_fence(&upload)?;
        let place = self.admit_part(owner, (upload, pool, part), encoded_length(&chunks))?;
        if let Verdict::Need(chunks) = self.judge_all(pool, &chunks, ack)? {
            return Ok(Response::NeedChunks(chunks));
        }
        self.txn.put(keys::upload_part(&upload, pool, part), &chunks);
        self.note_part((upload, pool, part), &place)?;
        Ok(Response::Committed(CommitOutcome { index: self.index, new_file: false, tickets: 0 }))
    }

    /// Makes a file visible.
    pub(super) fn commit_file(&mut self, file: FileCommit, chunks: Vec<PromisedChunk>) -> Outcome {
        self.check_fence(&file.upload)?;
        let (chunks, blocks) = self.with_parts(&file, chunks)?;
        let mut judged = Vec::with_capacity(chunks.len() + blocks.len());
        for pieces in [&chunks, &blocks] {
            match self.judge_all(file.pool, pieces, file.ack)? {
                Verdict::Good(good) => judged.extend(good),
                Verdict::Need(chunks) => return Ok(Response::NeedChunks(chunks)),
            }
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
        let block_ids = manifest.block_ids();
        if !blocks.iter().map(|b| b.id).eq(block_ids.iter().copied()) {
            let reason = "the blocks of the manifest are not those of this file";
            return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
        }
        if let Some(place) = &file.object {
            let bucket = self.bucket(&place.0)?;
            if bucket.pool != file.pool {
                let reason = format!("bucket {} belongs to another pool", bucket.name);
                return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
            }
            self.check_point(place, file.condition, &file.id, file.size)?;
        }
        let (new_file, tickets) = self.write_file(&file, &manifest, &block_ids, judged)?;
        if let Some(place) = &file.object {
            self.point(place, file.id, file.size)?;
        }
        for part in 0..file.parts {
            self.txn.remove(keys::upload_part(&file.upload, file.pool, part));
            self.forget_part(&file.upload, file.pool, part)?;
        }
        Ok(Response::Committed(CommitOutcome { index: self.index, new_file, tickets }))
    }

    /// All chunks of a file, and the blocks of its manifest.
    fn with_parts(
        &self,
        file: &FileCommit,
        mut last: Vec<PromisedChunk>,
    ) -> Result<(Vec<PromisedChunk>, Vec<PromisedChunk>), Refusal> {
        let (mut all, mut blocks) = (Vec::new(), Vec::new());
        for part in 0..file.parts {
            let stored: Option<Vec<PromisedChunk>> =
                self.txn.get(&keys::upload_part(&file.upload, file.pool, part))?;
            let missing = || RpcError::not_found(format!("part {part} of upload {}", file.upload));
            let mut stored = stored.ok_or_else(missing)?;
            blocks.extend(stored.pop());
            all.extend(stored);
        }
        if has_blocks(file.size, file.chunk_size) {
            blocks.extend(last.pop());
        }
        all.extend(last);
        Ok((all, blocks))
    }

    /// What was promised to an upload that is fenced may be gone, and its receipts are void.
    fn check_fence(&self, upload: &UploadId) -> Result<(), Refusal> {
        if self.derived.counters.feed_epoch == NO_EPOCH {
            let reason = "the metadata nodes come out of a restore";
            return Err(RpcError::new(ErrorCode::Busy, reason).hint("try again").into());
        }
        if upload.started_ms() >= self.derived.counters.fenced_before_ms {
            return Ok(());
        }
        let reason = format!("upload {upload} began too long ago; what it brought may be gone");
        Err(RpcError::new(ErrorCode::UploadFenced, reason).hint("put the file again").into())
    }

    fn judge_all(&self, pool: PoolId, chunks: &[PromisedChunk], ack: Ack) -> Result<Verdict, Refusal> {
        let (mut judged, mut need) = (Vec::with_capacity(chunks.len()), Vec::new());
        for chunk in chunks {
            let found = if chunk.promises.is_empty() {
                self.judge_known(pool, chunk)?
            } else if chunk.row_version < self.derived.counters.rows_from {
                // Promised in a former life of the metadata, and maybe deleted in it.
                None
            } else {
                Some(self.judge(pool, chunk, ack)?)
            };
            match found {
                Some(found) => judged.push(found),
                // The answer is kept, so it names a few; its receiver sends everything.
                None if need.len() < MAX_NEEDED => need.push(chunk.id),
                None => {}
            }
        }
        Ok(if need.is_empty() { Verdict::Good(judged) } else { Verdict::Need(need) })
    }

    /// A chunk that is claimed to be there: it is, nothing has condemned it, and enough of its pieces are
    /// not known to be missing.
    fn judge_known(&self, pool: PoolId, chunk: &PromisedChunk) -> Result<Option<Judged>, Refusal> {
        let record: Option<ChunkRecord> = self.txn.get(&keys::chunk(pool, &chunk.id))?;
        let topology = &self.derived.topology;
        let (Some(record), Some((group, row)), Some(table)) =
            (record, topology.row_of(pool, &chunk.id), topology.pools.get(&pool))
        else {
            return Ok(None);
        };
        if record.condemned.is_some() || record.length != chunk.length {
            return Ok(None);
        }
        let mut counted = Vec::with_capacity(row.slots.len());
        for slot in 0..row.slots.len() {
            // The source of a move counts until its slot's disk does, for what it held when it gave the slot away.
            let source = row.vouching_source(slot).filter(|s| record.committed_at <= s.since);
            let disk = match (row.dirty_at[slot], source) {
                (None, _) => row.slots[slot],
                (Some(_), Some(source)) => source.disk,
                (Some(_), None) => continue,
            };
            let ticket: Option<Ticket> = self.txn.get(&keys::ticket(disk, pool, &chunk.id))?;
            let believed = topology.disks.get(&disk).is_some_and(|d| d.quarantined_ms.is_none());
            counted.extend((ticket.is_none() && believed).then_some(disk));
        }
        let readable = counted.len() >= table.pool.scheme.needed();
        let (missing, held) = (Vec::new(), Vec::new());
        let (digests, former) = (Vec::new(), Vec::new());
        let PromisedChunk { id: chunk, length, .. } = *chunk;
        let known = Judged { group, chunk, length, digests, missing, held, former, counted };
        Ok(readable.then_some(known))
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
        let promised = |slot: u8, disk: DiskId| {
            chunk.promises.iter().any(|p| {
                p.slot == slot
                    && p.disk == disk
                    && topology
                        .disks
                        .get(&p.disk)
                        .is_some_and(|d| d.incarnation == p.incarnation && d.quarantined_ms.is_none())
            })
        };
        let stands = |slot: u8| promised(slot, row.slots[usize::from(slot)]);
        let (held, missing): (Vec<u8>, Vec<u8>) = (0..row.slots.len() as u8).partition(|&slot| stands(slot));
        self.check_digests((pool, table.pool.scheme), &chunk.id, &chunk.digests, &held)?;
        // A put that began before a move has the source's promise. It keeps its pieces until the slot's disk has them.
        let by_source = |slot: &u8| {
            row.sources[usize::from(*slot)].iter().map(|s| s.disk).find(|disk| promised(*slot, *disk))
        };
        let counted = held.iter().map(|slot| row.slots[usize::from(*slot)]);
        let mut counted: Vec<DiskId> = counted.chain(missing.iter().filter_map(by_source)).collect();
        // And one that has ended, those of disks that have nothing to do with the row any more. They keep for this upload
        // what they promised it; their disks become sources again, so that it is found.
        let mut former = Vec::new();
        for &slot in missing.iter().filter(|slot| by_source(slot).is_none()) {
            let others =
                counted.iter().chain(&row.slots).filter(|d| row.slots.get(usize::from(slot)) != Some(d));
            let nodes: BTreeSet<_> = others.filter_map(|d| topology.disks.get(d)).map(|d| &d.node).collect();
            let fits = |disk: DiskId| topology.disks.get(&disk).is_some_and(|d| !nodes.contains(&d.node));
            let had =
                chunk.promises.iter().find(|p| p.slot == slot && promised(slot, p.disk) && fits(p.disk));
            if let Some(had) = had.filter(|_| row.sources[usize::from(slot)].len() < MAX_SOURCES) {
                counted.push(had.disk);
                former.push((slot, had.disk));
            }
        }
        let needed = match ack {
            Ack::All => row.slots.len(),
            Ack::Quorum => table.pool.scheme.quorum(),
        };
        let zones_wanted = self.zones(&row.slots).min(2).min(needed);
        let zones_held = self.zones(&counted);
        if counted.len() < needed || zones_held < zones_wanted {
            let reason = format!(
                "chunk {} has {} of {needed} receipts, in {zones_held} of {zones_wanted} zones",
                chunk.id,
                counted.len(),
            );
            return Err(RpcError::new(ErrorCode::TooFewReceipts, reason).into());
        }
        let stored: Option<ChunkRecord> = self.txn.get(&keys::chunk(pool, &chunk.id))?;
        if stored.is_some_and(|record| record.length != chunk.length) {
            let reason = format!("chunk {} has another length than {}", chunk.id, chunk.length);
            return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
        }
        // What no receipt signs is the client's word alone, and is not bound: whoever makes the piece will tell.
        let mut digests = chunk.digests.clone();
        for &slot in &missing {
            digests.get_mut(usize::from(slot)).into_iter().for_each(|d| *d = UNKNOWN_DIGEST);
        }
        let PromisedChunk { id: chunk, length, .. } = *chunk;
        Ok(Judged { group, chunk, length, digests, missing, held, former, counted })
    }

    /// A chunk that was found on the disks of these slots, with nobody's receipt.
    pub(super) fn judge_found(
        &self,
        pool: PoolId,
        chunk: ChunkId,
        length: u32,
        digests: Vec<PieceDigest>,
        slots: &[u8],
    ) -> Option<Judged> {
        let (group, row) = self.derived.topology.row_of(pool, &chunk)?;
        let (held, missing): (Vec<u8>, _) = (0..row.slots.len() as u8).partition(|slot| slots.contains(slot));
        let former = Vec::new();
        let counted = held.iter().map(|slot| row.slots[usize::from(*slot)]).collect();
        Some(Judged { group, chunk, length, digests, missing, held, former, counted })
    }

    /// Distinct zones of some disks.
    fn zones(&self, disks: &[DiskId]) -> usize {
        let topology = &self.derived.topology;
        let zone = |disk: &DiskId| topology.node_of(*disk).map(|n| &n.zone);
        disks.iter().filter_map(zone).collect::<BTreeSet<_>>().len()
    }

    /// Writes the file's record, its leaves and its chunks. Returns whether it is new and how many
    /// tickets it made.
    pub(super) fn write_file(
        &mut self,
        file: &FileCommit,
        manifest: &Manifest,
        blocks: &[ChunkId],
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
            pin: Pin::None,
            created_ms: self.now_ms,
        });
        let new_in_pool = !record.pools.contains(&file.pool);
        let mut tickets = 0;
        for chunk in judged {
            tickets += self.write_chunk(file, chunk, new_in_pool)?;
        }
        if new_in_pool {
            record.pools.push(file.pool);
        }
        if file.object.is_none() {
            // Nothing else would hold the file.
            self.forget_due(&file.id, &record);
            record.pin = Pin::Held;
        }
        if new_file {
            self.derived.counters.files += 1;
            for (page, ids) in manifest.chunks().chunks(LEAVES_PER_PAGE).enumerate() {
                self.txn.put(keys::leaves(&file.id, page as u32), &ids.to_vec());
            }
            if !blocks.is_empty() {
                self.txn.put(keys::blocks(&file.id), &blocks.to_vec());
            }
        }
        self.txn.put(key, &record);
        Ok((new_file, tickets))
    }

    fn write_chunk(&mut self, file: &FileCommit, judged: Judged, reference: bool) -> Result<u32, Refusal> {
        let pool = file.pool;
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
            if !judged.digests.is_empty() {
                self.txn.put(keys::digests(pool, &judged.chunk), &judged.digests);
            }
            for &(slot, disk) in &judged.former {
                self.adopt_source(judged.group, slot, disk);
            }
            for &slot in &judged.missing {
                let ticket = Ticket { slot, since: self.index, reason: TicketReason::MissedWrite };
                let row = self.derived.topology.row_of(pool, &judged.chunk).map(|(_, row)| row);
                let disk = row.and_then(|row| row.slots.get(usize::from(slot)).copied());
                if let Some(disk) = disk {
                    let new = self.open_ticket(judged.group, disk, &judged.chunk, ticket)?;
                    tickets += u32::from(new);
                }
            }
        }
        // What a write missed before may be there now. A piece that was found bad since its receipt was
        // given stays so until its disk says otherwise.
        for &slot in &judged.held {
            let digest = judged.digests.get(usize::from(slot)).unwrap_or(&judged.chunk.0);
            if self.learn_digest(pool, &judged.chunk, slot, digest)? {
                self.close_ticket_of_slot(judged.group, &judged.chunk, slot)?;
            }
        }
        let mut record = stored.unwrap_or(ChunkRecord {
            length: judged.length,
            references: 0,
            committed_at: self.index,
            condemned: None,
        });
        self.lift_sentence(pool, &judged.chunk, &mut record);
        record.references = record.references.saturating_add(u32::from(reference));
        self.txn.put(key, &record);
        let chunk = PoolChunk { pool, chunk: judged.chunk };
        self.feed.push(FeedItem::Committed { chunk, counted: judged.counted });
        Ok(tickets)
    }
}
