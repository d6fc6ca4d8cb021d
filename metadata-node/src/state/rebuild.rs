//! A state made from what data nodes hold, when there is nothing else: the way of `wmall meta rebuild`.
//!
//! It goes through the same writing of files and chunks as a commit does, with pieces that are there in the place
//! of receipts, so that counters, references and tickets are as a commit would have made them. What no data node
//! knows is not in it: names, buckets, users, tokens, former versions.

use std::collections::HashMap;

use openraft::{CommittedLeaderId, LogId};
use wmall_manifest::{Manifest, file_of_one_chunk};
use wmall_proto::chunk::{ChunkRecord, PieceDigest, UNKNOWN_DIGEST};
use wmall_proto::file::{FilePage, FileRecord, Pin};
use wmall_proto::rpc::{Ack, Condition};
use wmall_proto::{ChunkId, DiskId, FileId, PgId, PoolId, RpcError, Topology, UploadId};
use wmall_runtime::view::StoreError;

use super::apply::Refusal;
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

    /// Writes files, each held as one that was put without a name. What `holders` does not name becomes a ticket.
    pub(crate) fn adopt_files(
        &self,
        files: &[FoundFile],
        map: &Topology,
        holders: &Holders,
        shards: &Shards,
    ) -> Result<(), StoreError> {
        let index = self.read().index();
        let slots = |pool: PoolId, chunk: &ChunkId| -> Vec<u8> {
            let disks = holders.get(&(pool, *chunk)).map_or(&[][..], Vec::as_slice);
            let row = map.row_of(pool, chunk).map(|(_, row)| row);
            disks.iter().filter_map(|disk| row?.slot_of(*disk)).collect()
        };
        let digests = |pool: PoolId, chunk: &ChunkId| -> Vec<PieceDigest> {
            let scheme = map.pools.get(&pool).map(|t| t.pool.scheme);
            let Some(scheme) = scheme.filter(|s| s.is_striped()) else { return Vec::new() };
            let mut digests = vec![UNKNOWN_DIGEST; scheme.width()];
            for (slot, digest) in shards.get(&(pool, *chunk)).into_iter().flatten() {
                digests.get_mut(usize::from(*slot)).into_iter().for_each(|d| *d = *digest);
            }
            digests
        };
        self.amend(index, |context| {
            for found in files {
                let FoundFile { pool, manifest } = found;
                let blocks = manifest.blocks();
                let block_ids: Vec<ChunkId> = blocks.iter().map(|b| ChunkId::of(b)).collect();
                let chunks = manifest.chunks().iter().enumerate();
                let chunks = chunks.map(|(i, chunk)| (*chunk, manifest.chunk_length(i)));
                let blocks = block_ids.iter().copied().zip(blocks.iter().map(|b| b.len() as u32));
                let mut judged = Vec::with_capacity(manifest.chunks().len() + 1);
                for (chunk, length) in chunks.chain(blocks) {
                    let digests = digests(*pool, &chunk);
                    let one = context.judge_found(*pool, chunk, length, digests, &slots(*pool, &chunk));
                    let unknown = || StoreError(format!("the map has no pool number {}", pool.0));
                    judged.push(one.ok_or_else(unknown)?);
                }
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
                context.write_file(&commit, manifest, &block_ids, judged)?;
            }
            Ok(())
        })
    }

    /// Notes the files that chunks of other files are by themselves, since nothing tells whether they were put as
    /// such too. They are found by their id, and hold nothing.
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
        change: impl FnOnce(&mut super::apply::Context<'_>) -> Result<(), Refusal>,
    ) -> Result<(), StoreError> {
        let _still = self.changing();
        let mut derived = self.write();
        let mut context = super::apply::Context::new(&*self.store, &mut derived, index);
        match change(&mut context) {
            Ok(()) => {}
            Err(Refusal::Store(error)) => return Err(error),
            Err(Refusal::Answer(error)) => return Err(StoreError(error.to_string())),
        }
        // Nobody follows this feed.
        context.feed.clear();
        self.store.apply(&context.finish())
    }
}
