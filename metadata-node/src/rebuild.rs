//! `wmall meta rebuild`: metadata from data nodes alone, for the day when every metadata node and every
//! backup is gone. What comes out is a snapshot file; `wmall meta snapshot restore` makes a cluster of it.
//!
//! 1. Each data node is asked for the map that it kept; the newest one that two of them have alike, or that the
//!    operator chooses, has the pools, rows and disks.
//! 2. Each is asked for what its disks hold. One that does not answer holds the rebuild up, unless the operator goes
//!    on without it: files that only it could name are not in the result.
//! 3. Roots of manifests are read, checked by their hashes, and lead to the files of many chunks. Every other chunk
//!    is a file by itself.
//!
//! Memory: some 400 bytes a chunk, in the operator's process (`docs/limits.md`).

mod agree;
mod ask;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use wmall_manifest::{Block, may_be_block};
use wmall_proto::rpc::HeldPiece;
use wmall_proto::topology::MetadataAddress;
use wmall_proto::{ChunkId, DiskId, NodeName, PoolId, RpcError, Topology};
use wmall_runtime::view::{Buffered, SledStore, StoreError};
use wmall_runtime::{OutFile, ScratchFolder};
use wmall_transport::{BindError, Endpoint, Identity, IdentityError};

use crate::raft::{SnapshotError, SnapshotFolder};
use crate::state::{Shards, State};
pub use agree::OtherMap;
use agree::{Agreed, agree};
use ask::{Addresses, all_maps, list, read_blocks, target_of};
use write::Writer;

/// How long a data node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Tries at a page of pieces.
const TRIES: usize = 3;
/// Roots that can't be made files of, as far as they are named.
const MAX_NAMED: usize = 100;
/// Chunks after which files are written.
const BATCH: usize = 4096;

/// Why nothing was rebuilt.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each is the error of the part it names.
pub enum RebuildError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot use {path}")]
    Folder { path: String, source: std::io::Error },
    #[error("no data node that answers has a map; name more of them with --data. The last answer: {0}")]
    NoMap(RpcError),
    #[error(
        "{nodes} did not tell what they hold (the last answer: {last}); start them, or name their present addresses \
         with --data. --without-silent goes on without them, and without the files that only they can name"
    )]
    Silent { nodes: String, last: RpcError },
    #[error(
        "no two data nodes have the same map ({0}); start more of them, name them with --data, or choose whose map \
         counts with --map-of NODE"
    )]
    NoAgreement(String),
    #[error("{0} did not tell its map; name its present address with --data, or choose another one's")]
    NoChoice(NodeName),
    #[error("a recount of what was made finds: {0}")]
    Inconsistent(String),
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rebuilt {
    /// Version of the map that it goes by.
    pub map_version: u64,
    /// Data nodes that have this map.
    pub map_of: Vec<NodeName>,
    /// Data nodes that have another one: an older one if they were off when it changed.
    pub other_maps: Vec<OtherMap>,
    /// Data nodes that told what they hold.
    pub nodes: Vec<NodeName>,
    /// Data nodes that the map names and that did not.
    pub silent: Vec<NodeName>,
    /// Pieces on their disks.
    pub pieces: u64,
    /// Files of several chunks, and others with a manifest.
    pub files_by_manifest: u64,
    /// Files of one chunk.
    pub files_by_chunk: u64,
    /// Of these, the ones that no data node knows to be committed: put at the very end, or never.
    pub uncertain: u64,
    /// Chunks of files with a manifest that may have been files of one chunk too: found by their id, and held
    /// by nothing but those files.
    pub derived: u64,
    /// Chunks of which no piece was found.
    pub chunks_without_piece: u64,
    /// Pieces of pools that the map does not know; left alone.
    pub unknown_pool: u64,
    /// Blocks of manifests from which no file could be made: other blocks or chunks are missing, and nobody
    /// knows them to be committed; or they could not be read. At most a hundred are named.
    pub incomplete: Vec<ChunkId>,
}

/// Everything that the data nodes hold.
#[derive(Default)]
struct Found {
    holders: HashMap<(PoolId, ChunkId), Vec<DiskId>>,
    lengths: HashMap<(PoolId, ChunkId), u32>,
    committed: BTreeSet<(PoolId, ChunkId)>,
    blocks: BTreeSet<(PoolId, ChunkId)>,
    /// Of pieces that are shards: what they hash to, and where they are.
    shards: Shards,
    shard_holders: HashMap<(PoolId, ChunkId), Vec<(u8, DiskId)>>,
    /// Chunks that may be blocks and whose first shard, which would tell, has not been seen.
    untold: BTreeSet<(PoolId, ChunkId)>,
}

impl Found {
    fn take(&mut self, map: &Topology, disk: DiskId, piece: &HeldPiece) {
        let key = (piece.key.pool, piece.key.chunk);
        match piece.shard {
            None => self.holders.entry(key).or_default().push(disk),
            Some(shard) => {
                // One that was put for another slot than its disk has now is of use to readers only.
                let row = map.row_of(key.0, &key.1).map(|(_, row)| row);
                if row.and_then(|row| row.slot_of(disk)) == Some(piece.slot) {
                    self.holders.entry(key).or_default().push(disk);
                }
                self.shards.entry(key).or_default().push((piece.slot, shard.digest));
                let holders = self.shard_holders.entry(key).or_default();
                if piece.slot == 0 {
                    self.untold.remove(&key);
                } else if may_be_block(shard.chunk_length) && holders.iter().all(|(slot, _)| *slot != 0) {
                    self.untold.insert(key);
                }
                holders.push((piece.slot, disk));
            }
        }
        self.lengths.insert(key, piece.shard.map_or(piece.length, |s| s.chunk_length));
        if piece.committed {
            self.committed.insert(key);
        }
        if piece.block {
            self.blocks.insert(key);
        }
    }
}

/// Asks the data nodes, beginning with `seeds`, and writes what they know to `out`, with a list of the files
/// beside it (`out` and `.files`). The identity is an operator's. `map_of` is the node whose map counts, if
/// the operator has chosen one.
pub async fn rebuild(
    identity: &Path,
    seeds: &[MetadataAddress],
    map_of: Option<&NodeName>,
    without_silent: bool,
    out: &Path,
) -> Result<Rebuilt, RebuildError> {
    let identity = Identity::load(identity)?;
    let cluster = identity.cluster();
    let endpoint = Endpoint::client(&identity)?;
    let seeds: Addresses = seeds.iter().map(|s| (s.name.clone(), s.address)).collect();
    let told = all_maps(&endpoint, &seeds).await?;
    let agreed = agree(told, map_of).map_err(|told| match map_of {
        Some(node) => RebuildError::NoChoice(node.clone()),
        None => {
            let told: Vec<String> =
                told.iter().map(|m| format!("{}: version {}", m.node, m.version)).collect();
            RebuildError::NoAgreement(told.join(", "))
        }
    })?;
    for OtherMap { node, version } in &agreed.others {
        tracing::warn!(%node, version, by = agreed.map.version, "a data node has another map than the rebuild's");
    }
    let Agreed { map, by: map_of, others: other_maps } = agreed;
    let mut found = Found::default();
    let mut report = Rebuilt { map_version: map.version, map_of, other_maps, ..Rebuilt::default() };
    let mut last = None;
    for node in map.nodes.values() {
        match list(&endpoint, &map, &target_of(&map, &node.name, &seeds), &mut found).await {
            Ok(pieces) => {
                report.pieces += pieces;
                report.nodes.push(node.name.clone());
            }
            Err(error) => {
                tracing::warn!(%error, node = %node.name, "a data node does not tell what it holds");
                report.silent.push(node.name.clone());
                last = Some(error);
            }
        }
    }
    if let Some(last) = last.filter(|_| !without_silent || report.nodes.is_empty()) {
        let nodes: Vec<&str> = report.silent.iter().map(NodeName::as_str).collect();
        return Err(RebuildError::Silent { nodes: nodes.join(", "), last });
    }
    let untold = std::mem::take(&mut found.untold);
    found.blocks.extend(untold);
    let blocks = read_blocks(&endpoint, &map, &seeds, &mut found).await;
    endpoint.close().await;
    let failed = |source| RebuildError::Folder { path: out.display().to_string(), source };
    let folder = ScratchFolder::beside(out).map_err(failed)?;
    write(&folder, cluster.0, out, &map, found, &blocks, &mut report)?;
    Ok(report)
}

/// Makes a state of it all, and a snapshot file of the state, which is checked before it has its name.
fn write(
    folder: &ScratchFolder,
    cluster: [u8; 16],
    out: &Path,
    map: &Topology,
    found: Found,
    blocks: &HashMap<(PoolId, ChunkId), Block>,
    report: &mut Rebuilt,
) -> Result<(), RebuildError> {
    let failed = |source| RebuildError::Folder { path: out.display().to_string(), source };
    let state = State::open(Box::new(Buffered::new(SledStore::create_anew(&folder.path().join("view"))?)))?;
    state.adopt_map(map)?;
    let mut list = OutFile::create(&out.with_extension("files")).map_err(failed)?;
    let mut writer = Writer {
        state: &state,
        found: &found,
        map,
        files: Vec::new(),
        chunks: 0,
        list: BufWriter::new(list.file().try_clone().map_err(failed)?),
    };
    let named = writer.add_manifests(blocks, report).map_err(|e| e.at(out))?;
    writer.add_chunks(&named, report).map_err(|e| e.at(out))?;
    writer.flush().map_err(|e| e.at(out))?;
    writer.list.flush().map_err(failed)?;
    let snapshots =
        SnapshotFolder::open(&folder.path().join("snapshots"), cluster).map_err(SnapshotError::Io)?;
    let file = OutFile::create(out).map_err(failed)?;
    let staged = file.staged(folder);
    snapshots.write(&state, &staged)?;
    let troubles = SnapshotFolder::summary(&staged)?.audit.troubles;
    if !troubles.is_empty() {
        return Err(RebuildError::Inconsistent(troubles.join("; ")));
    }
    list.publish().map_err(failed)?;
    file.publish_staged(folder).map_err(failed)
}
