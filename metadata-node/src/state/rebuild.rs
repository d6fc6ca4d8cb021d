//! A state made from what data nodes hold, when there is nothing else: the way of `wmall meta rebuild`.
//!
//! It goes through the same writing of files and chunks as a commit does, with pieces that are there in the
//! place of receipts, so that counters, references and tickets are as a commit would have made them. What no
//! data node knows is not in it: names, buckets, users, tokens, former versions.

use std::collections::HashMap;

use openraft::{CommittedLeaderId, LogId};
use wmall_manifest::{Manifest, file_of_one_chunk, full_parts};
use wmall_proto::chunk::{ChunkRecord, MAX_CHUNKS_PER_COMMIT, PieceDigest, UNKNOWN_DIGEST};
use wmall_proto::file::{FilePage, FileRecord, Pin};
use wmall_proto::rpc::{Ack, Condition};
use wmall_proto::{ChunkId, DiskId, FileId, PgId, PoolId, RpcError, Topology, UploadId};
use wmall_runtime::view::StoreError;

use super::apply::{Context, Refusal};
use super::commit::Judged;
use super::lists::places;
use super::query::QueryError;
use super::recent::Part;
use super::txn::decode;
use super::{State, keys};
use crate::command::FileCommit;

/// Disks by the chunks that they hold.
pub(crate) type Holders = HashMap<(PoolId, ChunkId), Vec<DiskId>>;

/// What the shards of chunks say that they hash to, with their slots. Copies hash to their chunk.
pub(crate) type Shards = HashMap<(PoolId, ChunkId), Vec<(u8, PieceDigest)>>;

/// A file to be written, with what is there of each of its chunks.
pub(crate) struct FoundFile {
    pub(crate) pool: PoolId,
    pub(crate) manifest: Manifest,
}

/// What is on the disks.
struct There<'a> {
    map: &'a Topology,
    holders: &'a Holders,
    shards: &'a Shards,
}

impl There<'_> {
    /// The chunks of a list, each once, as their pieces on the disks have it.
    fn judge(
        &self,
        context: &Context<'_>,
        pool: PoolId,
        ids: &[ChunkId],
        lengths: &[u32],
    ) -> Result<Vec<Judged>, StoreError> {
        let lengths: HashMap<&ChunkId, u32> = ids.iter().zip(lengths.iter().copied()).collect();
        let mut judged = Vec::with_capacity(lengths.len());
        for (chunk, count) in places(ids) {
            let length = lengths.get(&chunk).copied().unwrap_or(0);
            let (digests, slots) = (self.digests(pool, &chunk), self.slots(pool, &chunk));
            let found = context.judge_found(pool, chunk, length, digests, &slots);
            let unknown = || StoreError(format!("the map has no pool number {}", pool.0));
            judged.push(found.ok_or_else(unknown)?.in_places(count));
        }
        Ok(judged)
    }

    fn slots(&self, pool: PoolId, chunk: &ChunkId) -> Vec<u8> {
        let disks = self.holders.get(&(pool, *chunk)).map_or(&[][..], Vec::as_slice);
        let row = self.map.row_of(pool, chunk).map(|(_, row)| row);
        disks.iter().filter_map(|disk| row?.slot_of(*disk)).collect()
    }

    fn digests(&self, pool: PoolId, chunk: &ChunkId) -> Vec<PieceDigest> {
        let scheme = self.map.pools.get(&pool).map(|t| t.pool.scheme);
        let Some(scheme) = scheme.filter(|s| s.is_striped()) else { return Vec::new() };
        let mut digests = vec![UNKNOWN_DIGEST; scheme.width()];
        for (slot, digest) in self.shards.get(&(pool, *chunk)).into_iter().flatten() {
            digests.get_mut(usize::from(*slot)).into_iter().for_each(|d| *d = *digest);
        }
        digests
    }
}

/// The lists that a file is kept as, with the lengths of the chunks: one for every full part, and the rest,
/// each with its block behind it.
fn lists_of(manifest: &Manifest) -> Vec<(Vec<ChunkId>, Vec<u32>)> {
    let (chunks, blocks) = (manifest.chunks(), manifest.blocks());
    let full = full_parts(chunks.len() as u64) as usize;
    let list = |number: usize| {
        let first = number * MAX_CHUNKS_PER_COMMIT;
        let end = if number < full { first + MAX_CHUNKS_PER_COMMIT } else { chunks.len() };
        let in_list = (first..end).map(|i| (chunks[i], manifest.chunk_length(i)));
        let block = blocks.get(number).map(|block| (ChunkId::of(block), block.len() as u32));
        in_list.chain(block).unzip()
    };
    (0..=full).map(list).collect()
}

impl State {
    /// Takes a map over: pools, rows, nodes, disks. What was said of its slots is found anew.
    pub(crate) fn adopt_map(&self, map: &Topology) -> Result<(), StoreError> {
        let index = map.version + 1;
        self.amend(index, |context| {
            let counters = &mut context.derived.counters;
            counters.next_disk = map.disks.keys().map(|d| d.0).max().unwrap_or(0);
            counters.next_pool = map.pools.keys().map(|p| p.0).max().unwrap_or(0);
            for (id, table) in &map.pools {
                context.txn.put(keys::pool(*id), &table.pool);
            }
            for node in map.nodes.values() {
                context.txn.put(keys::node(node.name.as_str()), node);
            }
            for disk in map.disks.values() {
                context.txn.put(keys::disk(disk.id), disk);
            }
            for revocation in &map.revoked {
                context.txn.put(keys::revoked(&revocation.actor), revocation);
            }
            let mut clean = map.clone();
            for (id, table) in &mut clean.pools {
                for (number, row) in table.rows.iter_mut().enumerate() {
                    row.dirty_at.iter_mut().for_each(|mark| *mark = None);
                    row.sources.iter_mut().flatten().for_each(|s| s.vouched = false);
                    context.txn.put(keys::row(*id, PgId(number as u32)), row);
                }
            }
            *context.change_topology(Part::All) = clean;
            context.derived.counters.topology_version = map.version;
            let id = LogId::new(CommittedLeaderId::new(1, 0), index);
            context.derived.applied.log_id = Some(id);
            Ok(())
        })
    }

    /// Writes files, each held as one that was put without a name. What `holders` does not name becomes a
    /// ticket.
    pub(crate) fn adopt_files(
        &self,
        files: &[FoundFile],
        map: &Topology,
        holders: &Holders,
        shards: &Shards,
    ) -> Result<(), StoreError> {
        let index = self.read().index();
        let there = There { map, holders, shards };
        self.amend(index, |context| {
            for FoundFile { pool, manifest } in files {
                let mut lists = lists_of(manifest);
                let Some((rest, rest_lengths)) = lists.pop() else { continue };
                let mut parts = Vec::with_capacity(lists.len());
                for (ids, lengths) in lists {
                    for chunk in there.judge(context, *pool, &ids, &lengths)? {
                        let places = chunk.places;
                        context.write_chunk(*pool, chunk, places)?;
                    }
                    parts.push(context.keep_list(&ids));
                }
                let judged = there.judge(context, *pool, &rest, &rest_lengths)?;
                let commit = FileCommit {
                    upload: UploadId([0; 16]),
                    pool: *pool,
                    id: manifest.id(),
                    size: manifest.size(),
                    chunk_size: manifest.chunk_size(),
                    object: None,
                    condition: Condition::None,
                    parts: 0,
                    ack: Ack::Quorum,
                };
                context.write_file(&commit, *manifest.root(), (parts, rest), judged)?;
            }
            Ok(())
        })
    }

    /// Notes the files that chunks of other files are by themselves, since nothing tells whether they were
    /// put as such too. They are found by their id, and hold nothing.
    pub(crate) fn adopt_derived(&self, chunks: &[(PoolId, ChunkId, u32)]) -> Result<(), StoreError> {
        let index = self.read().index();
        self.amend(index, |context| {
            for (pool, chunk, length) in chunks {
                if let Some(file) = file_of_one_chunk(*chunk, *length) {
                    context.txn.put(keys::derived_file(&file), &(*pool, *chunk));
                }
            }
            Ok(())
        })
    }

    /// A file that one chunk of a rebuilt cluster is by itself.
    pub(super) fn derived_file(&self, id: &FileId, first: u64) -> Result<FilePage, QueryError> {
        let missing = || RpcError::not_found(format!("file {id}"));
        let stored = self.store.get(&keys::derived_file(id))?.ok_or_else(missing)?;
        let (pool, chunk): (PoolId, ChunkId) = decode(&stored)?;
        let record: ChunkRecord = self.chunk_record(pool, &chunk)?.ok_or_else(missing)?;
        let manifest = file_of_one_chunk(chunk, record.length).filter(|found| found == id);
        manifest.ok_or_else(missing)?;
        let record = FileRecord {
            size: u64::from(record.length),
            chunk_size: wmall_proto::chunk::DEFAULT_CHUNK_SIZE,
            merkle_root: wmall_manifest::merkle_root(&[chunk]),
            pools: vec![pool],
            references: 0,
            pin: Pin::None,
            created_ms: 0,
        };
        let chunks = if first == 0 { vec![chunk] } else { Vec::new() };
        Ok(FilePage { id: *id, record, first, chunks })
    }

    /// Changes the state outside of any log, as one batch.
    fn amend(
        &self,
        index: u64,
        change: impl FnOnce(&mut Context<'_>) -> Result<(), Refusal>,
    ) -> Result<(), StoreError> {
        let _still = self.changing();
        let mut derived = self.write();
        let mut context = Context::new(&*self.store, &mut derived, index);
        match change(&mut context) {
            Ok(()) => {}
            Err(Refusal::Store(error)) => return Err(error),
            Err(Refusal::Answer(error)) => return Err(StoreError(error.to_string())),
        }
        // Nobody follows this feed.
        context.feed.clear();
        let changes = context.finish();
        self.walks.change(&*self.store, &changes)
    }
}
