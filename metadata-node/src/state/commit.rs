//! Making files visible: receipts judged against the rows as they are now, references counted, tickets
//! written for every slot without a receipt.

use std::collections::{BTreeMap, BTreeSet};

use wmall_manifest::{Outline, has_blocks};
use wmall_proto::chunk::{
    ChunkRecord, MAX_CHUNKS_PER_COMMIT, MAX_PIECES_PER_COMMIT, PieceDigest, Ticket, TicketReason,
    UNKNOWN_DIGEST,
};
use wmall_proto::feed::{FeedItem, PoolChunk};
use wmall_proto::file::{FileRecord, Pin};
use wmall_proto::pg::{MAX_SOURCES, PgKey};
use wmall_proto::rpc::{Ack, CommitOutcome, Response};
use wmall_proto::{ChunkId, DiskId, ErrorCode, PoolId, RpcError, UploadId};

use super::apply::{Context, Outcome, Refusal};
use super::derived::NO_EPOCH;
use super::keys;
use super::lists::StoredFile;
use super::parts::StagedPart;
use crate::command::{FileCommit, PromisedChunk};

/// Chunks that an answer names as needed.
const MAX_NEEDED: usize = 16;

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
    /// In how many places of what is committed it is.
    pub(super) places: u64,
}

impl Judged {
    pub(super) fn in_places(self, places: u64) -> Self {
        Self { places, ..self }
    }
}

/// What became of a look at all chunks of a commit.
pub(super) enum Verdict {
    Good(Vec<Judged>),
    /// These were claimed to be there and are not, or not safely.
    Need(Vec<ChunkId>),
}

impl Context<'_> {
    /// Makes a file visible.
    pub(super) fn commit_file(&mut self, file: FileCommit, chunks: Vec<PromisedChunk>) -> Outcome {
        self.check_fence(&file.upload)?;
        let parts = self.staged_parts(&file)?;
        let root = check_manifest(&file, &parts, &chunks)?;
        // What was promised to a part of a former life of the metadata may have been deleted in it.
        let rows_from = self.derived.counters.rows_from;
        if let Some(part) = parts.iter().find(|part| part.rows_from != rows_from) {
            return Ok(Response::NeedChunks(vec![part.block]));
        }
        let judged = match self.judge_all(file.pool, &chunks, file.ack)? {
            Verdict::Good(judged) => judged,
            Verdict::Need(chunks) => return Ok(Response::NeedChunks(chunks)),
        };
        if let Some(place) = &file.object {
            let bucket = self.bucket_in(&place.0, file.pool)?;
            let counts = |part: &&StagedPart| part.bucket.as_ref().is_some_and(|b| b.1 == bucket.made_at);
            let staged = parts.iter().filter(counts).map(StagedPart::bytes).sum();
            self.check_point(place, file.condition, (&file.id, file.size), (0, staged))?;
        }
        for (number, part) in parts.iter().enumerate() {
            self.txn.remove(keys::upload_part(&file.upload, file.pool, number as u32));
            self.forget_part(&file.upload, file.pool, number as u32)?;
            self.unstage(part)?;
        }
        let lists: Vec<u64> = parts.iter().map(|part| part.list).collect();
        let rest = chunks.iter().map(|chunk| chunk.id).collect();
        let (new_file, tickets) = self.write_file(&file, root, (lists, rest), judged)?;
        if let Some(place) = &file.object {
            self.point(place, file.id, file.size)?;
        }
        Ok(Response::Committed(CommitOutcome { index: self.index, new_file, tickets }))
    }

    /// What was promised to an upload that is fenced may be gone, and its receipts are void.
    pub(super) fn check_fence(&self, upload: &UploadId) -> Result<(), Refusal> {
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

    /// Judges each chunk once, however many places it has.
    pub(super) fn judge_all(
        &self,
        pool: PoolId,
        chunks: &[PromisedChunk],
        ack: Ack,
    ) -> Result<Verdict, Refusal> {
        let (mut judged, mut need) = (Vec::with_capacity(chunks.len()), Vec::new());
        for (chunk, places) in distinct(chunks)? {
            let found = if chunk.promises.is_empty() {
                self.judge_known(pool, chunk)?
            } else if chunk.row_version < self.derived.counters.rows_from {
                // Promised in a former life of the metadata, and maybe deleted in it.
                None
            } else {
                Some(self.judge(pool, chunk, ack)?)
            };
            match found {
                Some(found) => judged.push(found.in_places(places)),
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
            // The source of a move counts until its slot's disk does, for what it held when it gave the slot
            // away.
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
        let known = Judged { group, chunk, length, digests, missing, held, former, counted, places: 1 };
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
        // A put that began before a move has the source's promise. It keeps its pieces until the slot's disk
        // has them.
        let by_source = |slot: &u8| {
            row.sources[usize::from(*slot)].iter().map(|s| s.disk).find(|disk| promised(*slot, *disk))
        };
        let counted = held.iter().map(|slot| row.slots[usize::from(*slot)]);
        let mut counted: Vec<DiskId> = counted.chain(missing.iter().filter_map(by_source)).collect();
        // And one that has ended, those of disks that have nothing to do with the row any more. They keep for
        // this upload what they promised it; their disks become sources again, so that it is found.
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
        // What no receipt signs is the client's word alone, and is not bound: whoever makes the piece will
        // tell.
        let mut digests = chunk.digests.clone();
        for &slot in &missing {
            digests.get_mut(usize::from(slot)).into_iter().for_each(|d| *d = UNKNOWN_DIGEST);
        }
        let PromisedChunk { id: chunk, length, .. } = *chunk;
        Ok(Judged { group, chunk, length, digests, missing, held, former, counted, places: 1 })
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
        Some(Judged { group, chunk, length, digests, missing, held, former, counted, places: 1 })
    }

    /// Distinct zones of some disks.
    fn zones(&self, disks: &[DiskId]) -> usize {
        let topology = &self.derived.topology;
        let zone = |disk: &DiskId| topology.node_of(*disk).map(|n| &n.zone);
        disks.iter().filter_map(zone).collect::<BTreeSet<_>>().len()
    }

    /// Writes the file's record, and what is not in the lists of its parts: the rest of its chunks with the
    /// root of its blocks. Returns whether it is new and how many tickets it made.
    pub(super) fn write_file(
        &mut self,
        file: &FileCommit,
        merkle_root: [u8; 32],
        (parts, rest): (Vec<u64>, Vec<ChunkId>),
        judged: Vec<Judged>,
    ) -> Result<(bool, u32), Refusal> {
        let key = keys::file(&file.id);
        let before: Option<StoredFile> = self.txn.get(&key)?;
        let new_file = before.is_none();
        let new_in_pool = before.as_ref().is_none_or(|b| !b.record.pools.contains(&file.pool));
        let mut tickets = 0;
        for chunk in judged {
            let places = if new_in_pool { chunk.places } else { 0 };
            tickets += self.write_chunk(file.pool, chunk, places)?;
        }
        let mut stored = match before {
            Some(before) => {
                self.drop_copies(&parts, file.pool, new_in_pool)?;
                before
            }
            None => {
                self.derived.counters.files += 1;
                let mut lists = parts;
                lists.push(self.keep_list(&rest));
                let record = FileRecord {
                    size: file.size,
                    chunk_size: file.chunk_size,
                    merkle_root,
                    pools: Vec::new(),
                    references: 0,
                    pin: Pin::None,
                    created_ms: self.now_ms,
                };
                StoredFile { record, lists }
            }
        };
        if new_in_pool {
            stored.record.pools.push(file.pool);
        }
        if file.object.is_none() {
            // Nothing else would hold the file.
            self.forget_due(&file.id, &stored.record);
            stored.record.pin = Pin::Held;
        }
        self.txn.put(key, &stored);
        Ok((new_file, tickets))
    }

    /// The file has lists with the same content. In a pool that is new to it these hold the references that
    /// the copies have taken there.
    fn drop_copies(&mut self, parts: &[u64], pool: PoolId, new_in_pool: bool) -> Result<(), Refusal> {
        for &list in parts {
            if new_in_pool {
                self.txn.remove(keys::list(list));
            } else {
                self.let_list_go(list, MAX_PIECES_PER_COMMIT as u64, &[pool])?;
            }
        }
        Ok(())
    }

    /// Writes a chunk with references for so many places. Returns how many tickets it made.
    pub(super) fn write_chunk(
        &mut self,
        pool: PoolId,
        judged: Judged,
        references: u64,
    ) -> Result<u32, Refusal> {
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
        record.references = record.references.saturating_add(references);
        self.txn.put(key, &record);
        let chunk = PoolChunk { pool, chunk: judged.chunk };
        self.feed.push(FeedItem::Committed { chunk, counted: judged.counted });
        Ok(tickets)
    }
}

/// Holds what a commit says of its file against its chunks and its parts, and returns the root of the tree
/// over all chunks.
fn check_manifest(
    file: &FileCommit,
    parts: &[StagedPart],
    chunks: &[PromisedChunk],
) -> Result<[u8; 32], RpcError> {
    let bad = |reason: String| RpcError::new(ErrorCode::BadRequest, reason);
    let (rest, blocks) = match chunks.split_last() {
        Some((root, rest)) if has_blocks(file.size, file.chunk_size) => (rest, Some(root.id)),
        _ => (chunks, None),
    };
    let sums = parts.iter().map(StagedPart::sum).collect();
    let ids = rest.iter().map(|chunk| chunk.id).collect();
    let outline =
        Outline::verified(file.id, file.size, file.chunk_size, sums, ids).map_err(|e| bad(e.to_string()))?;
    if let Some(i) = (0..rest.len()).find(|&i| outline.rest_length(i) != rest[i].length) {
        let (wanted, found) = (outline.rest_length(i), rest[i].length);
        let number = parts.len() * MAX_CHUNKS_PER_COMMIT + i;
        return Err(bad(format!("chunk {number} of this file has {wanted} bytes, not {found}")));
    }
    if blocks != outline.root_block() {
        return Err(bad("the blocks of the manifest are not those of this file".into()));
    }
    Ok(*outline.root())
}

/// Each chunk once, in the order of its first place, with the number of its places. Of several promises for
/// one chunk those by the latest row count, and of these the most.
fn distinct(chunks: &[PromisedChunk]) -> Result<Vec<(&PromisedChunk, u64)>, RpcError> {
    let (mut at, mut all) = (BTreeMap::new(), Vec::<(&PromisedChunk, u64)>::new());
    for chunk in chunks {
        let number = *at.entry(chunk.id).or_insert(all.len());
        let Some((best, places)) = all.get_mut(number) else {
            all.push((chunk, 1));
            continue;
        };
        if best.length != chunk.length {
            let reason = format!("chunk {} has {} bytes, and {}", chunk.id, best.length, chunk.length);
            return Err(RpcError::new(ErrorCode::BadRequest, reason));
        }
        let weight =
            |chunk: &PromisedChunk| (!chunk.promises.is_empty(), chunk.row_version, chunk.promises.len());
        *places += 1;
        if weight(chunk) > weight(best) {
            *best = chunk;
        }
    }
    Ok(all)
}
