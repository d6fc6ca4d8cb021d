//! `wmall meta rebuild`: metadata from data nodes alone, for the day when every metadata node and every backup is
//! gone. What comes out is a snapshot file; `wmall meta snapshot restore` makes a cluster of it.
//!
//! 1. Each data node is asked for the map that it kept; the newest one has the pools, rows and disks.
//! 2. Each is asked for what its disks hold. A node that does not answer is as good as one whose disks are empty:
//!    its pieces become tickets, and are found again when it is back.
//! 3. Roots of manifests are read, checked by their hashes, and lead to the files of many chunks. Every other chunk
//!    is a file by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use wmall_manifest::{Block, Manifest};
use wmall_proto::chunk::DEFAULT_CHUNK_SIZE;
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::{HeldPiece, PiecePage, ReadRequest, Request, Response};
use wmall_proto::topology::MetadataAddress;
use wmall_proto::{ChunkId, DiskId, ErrorCode, NodeName, PoolId, RpcError, Topology};
use wmall_runtime::view::{Buffered, SledStore, StoreError};
use wmall_transport::{BindError, Endpoint, Identity, IdentityError, Target, collect};

use crate::raft::{SnapshotError, SnapshotFolder};
use crate::state::{BATCH, FoundFile, FoundPieces, State};

/// How long a data node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Files that can't be made whole, as far as they are named.
const MAX_NAMED: usize = 100;

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
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rebuilt {
    /// Data nodes that answered.
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
    /// Roots whose other blocks are missing: files that can't be rebuilt now. At most a hundred are named.
    pub incomplete: Vec<ChunkId>,
}

/// Everything that the data nodes hold.
#[derive(Default)]
struct Found {
    holders: HashMap<(PoolId, ChunkId), Vec<DiskId>>,
    lengths: HashMap<(PoolId, ChunkId), u32>,
    committed: BTreeSet<(PoolId, ChunkId)>,
    blocks: BTreeSet<(PoolId, ChunkId)>,
}

impl Found {
    fn take(&mut self, disk: DiskId, piece: &HeldPiece) {
        let key = (piece.key.pool, piece.key.chunk);
        self.holders.entry(key).or_default().push(disk);
        self.lengths.insert(key, piece.length);
        if piece.committed {
            self.committed.insert(key);
        }
        if piece.block {
            self.blocks.insert(key);
        }
    }
}

/// Asks the data nodes, beginning with `seeds`, and writes what they know to `out`. The identity is an operator's.
pub async fn rebuild(
    identity: &Path,
    seeds: &[MetadataAddress],
    out: &Path,
) -> Result<Rebuilt, RebuildError> {
    let identity = Identity::load(identity)?;
    let cluster = identity.cluster();
    let endpoint = Endpoint::client(&identity)?;
    let (map, answered) = newest_map(&endpoint, seeds).await?;
    let mut report = Rebuilt { nodes: answered, ..Rebuilt::default() };
    let mut found = Found::default();
    for node in map.nodes.values() {
        let target = Target { node: node.name.clone(), address: node.address };
        match list(&endpoint, &map, &target, &mut found).await {
            Ok(pieces) => report.pieces += pieces,
            Err(error) => {
                tracing::warn!(%error, "a data node does not tell what it holds");
                report.nodes.retain(|n| *n != node.name);
                report.silent.push(node.name.clone());
            }
        }
    }
    let blocks = read_blocks(&endpoint, &map, &found).await;
    endpoint.close().await;
    let failed = |source| RebuildError::Folder { path: out.display().to_string(), source };
    let folder = out.with_extension("building");
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let written = write(&folder, cluster.0, out, &map, found, &blocks, &mut report);
    let _ = std::fs::remove_dir_all(&folder);
    written.map(|()| report)
}

/// The newest map that a data node kept. Each map names more of them.
async fn newest_map(
    endpoint: &Endpoint,
    seeds: &[MetadataAddress],
) -> Result<(Topology, Vec<NodeName>), RebuildError> {
    let target = |a: &MetadataAddress| (a.name.clone(), Target { node: a.name.clone(), address: a.address });
    let mut waiting: BTreeMap<NodeName, Target> = seeds.iter().map(target).collect();
    let (mut asked, mut answered) = (BTreeSet::new(), Vec::new());
    let mut newest: Option<Topology> = None;
    let mut last = RpcError::new(ErrorCode::NotFound, "none was asked");
    while let Some((name, target)) = waiting.pop_first() {
        asked.insert(name.clone());
        match endpoint.call(&target, &Request::GetTopology { known: 0 }, TIMEOUT).await {
            Ok(Response::Topology(reply)) => {
                answered.push(name);
                let Some(map) = reply.topology else { continue };
                for node in map.nodes.values().filter(|n| !asked.contains(&n.name)) {
                    let target = Target { node: node.name.clone(), address: node.address };
                    waiting.insert(node.name.clone(), target);
                }
                if newest.as_ref().is_none_or(|n| n.version < map.version) {
                    newest = Some(*map);
                }
            }
            Ok(_) => last = RpcError::internal("the answer is of another kind than the question"),
            Err(error) => last = error,
        }
    }
    newest.map(|map| (map, answered)).ok_or(RebuildError::NoMap(last))
}

/// Takes in what a node's disks hold, and returns how many pieces that was. A disk in another life than the map
/// says has nothing that the map could name.
async fn list(
    endpoint: &Endpoint,
    map: &Topology,
    target: &Target,
    found: &mut Found,
) -> Result<u64, RpcError> {
    let (mut count, mut disk, mut after) = (0, 0, None);
    loop {
        let request = Request::ListPieces { disk, after };
        let Response::Pieces(page) = endpoint.call(target, &request, TIMEOUT).await? else {
            return Err(RpcError::internal("the answer is of another kind than the question"));
        };
        let PiecePage { incarnation, pieces, next, disks } = page;
        if let Some(info) = map.disks.values().find(|d| d.incarnation == incarnation) {
            pieces.iter().for_each(|piece| found.take(info.id, piece));
        }
        count += pieces.len() as u64;
        after = next;
        if after.is_none() {
            disk += 1;
            if disk >= disks {
                return Ok(count);
            }
        }
    }
}

/// Reads the blocks of manifests; each counts only if it hashes to its name.
async fn read_blocks(
    endpoint: &Endpoint,
    map: &Topology,
    found: &Found,
) -> HashMap<(PoolId, ChunkId), Block> {
    let mut blocks = HashMap::new();
    for &(pool, chunk) in &found.blocks {
        for disk in found.holders.get(&(pool, chunk)).into_iter().flatten() {
            let Some(node) = map.node_of(*disk) else { continue };
            let target = Target { node: node.name.clone(), address: node.address };
            match read_piece(endpoint, &target, PoolChunk { pool, chunk }).await {
                Ok(bytes) if ChunkId::of(&bytes) == chunk => {
                    blocks.extend(Block::decode(&bytes).map(|block| ((pool, chunk), block)));
                    break;
                }
                Ok(_) => tracing::warn!(%chunk, node = %target.node, "a block of a manifest is rotten there"),
                Err(error) => tracing::warn!(%error, %chunk, "a block of a manifest can't be read there"),
            }
        }
    }
    blocks
}

async fn read_piece(endpoint: &Endpoint, target: &Target, key: PoolChunk) -> Result<Vec<u8>, RpcError> {
    let request = ReadRequest { pool: key.pool, chunk: key.chunk, offset: 0, length: u32::MAX };
    let mut reply = endpoint.ask(target, &Request::ReadPiece(request), TIMEOUT).await?;
    let Response::Piece { length, .. } = reply.response else {
        return Err(RpcError::internal("the answer is of another kind than the question"));
    };
    let reading = collect(&mut reply.body, length as usize, |_| ());
    let late = |_| RpcError::new(ErrorCode::Timeout, format!("{} sends too slowly", target.node));
    Ok(tokio::time::timeout(TIMEOUT, reading).await.map_err(late)??.concat())
}

/// Makes a state of it all, and a snapshot file of the state.
fn write(
    folder: &Path,
    cluster: [u8; 16],
    out: &Path,
    map: &Topology,
    found: Found,
    blocks: &HashMap<(PoolId, ChunkId), Block>,
    report: &mut Rebuilt,
) -> Result<(), RebuildError> {
    let state = State::open(Box::new(Buffered::new(SledStore::create_anew(&folder.join("view"))?)))?;
    state.adopt_map(map)?;
    let Found { holders, lengths, committed, .. } = found;
    let pieces = FoundPieces { map: Arc::new(map.clone()), holders };
    // Chunks that belong to a file with a manifest, blocks included.
    let mut named: BTreeSet<(PoolId, ChunkId)> = BTreeSet::new();
    let mut files: Vec<FoundFile> = Vec::new();
    for (&(pool, root), block) in blocks {
        if !matches!(block, Block::Root { .. }) {
            continue;
        }
        let found = Manifest::from_root(block, |id| blocks.get(&(pool, *id)).cloned());
        // Bytes that only look like a root: a user's, who put such a file.
        let Ok(found) = found else { continue };
        let Some(manifest) = found.filter(|m| m.block_ids().last() == Some(&root)) else {
            if report.incomplete.len() < MAX_NAMED {
                report.incomplete.push(root);
            }
            continue;
        };
        named.extend(manifest.chunks().iter().chain(&manifest.block_ids()).map(|id| (pool, *id)));
        files.push(FoundFile { pool, manifest });
        report.files_by_manifest += 1;
    }
    let mut derived = Vec::new();
    for (&(pool, chunk), &length) in &lengths {
        if length == 0 || length > DEFAULT_CHUNK_SIZE {
            continue;
        }
        if named.contains(&(pool, chunk)) {
            derived.push((pool, chunk, length));
            continue;
        }
        let Ok(manifest) = Manifest::new(u64::from(length), DEFAULT_CHUNK_SIZE, vec![chunk]) else {
            continue;
        };
        report.files_by_chunk += 1;
        report.uncertain += u64::from(!committed.contains(&(pool, chunk)));
        files.push(FoundFile { pool, manifest });
    }
    for batch in files.chunks(BATCH) {
        state.adopt_files(batch, &pieces)?;
    }
    for batch in derived.chunks(BATCH) {
        state.adopt_derived(batch)?;
    }
    let snapshots = SnapshotFolder::open(&folder.join("snapshots"), cluster).map_err(SnapshotError::Io)?;
    let temporary = out.with_extension("new");
    snapshots.write(&state, &temporary)?;
    let failed = |source| RebuildError::Folder { path: out.display().to_string(), source };
    std::fs::rename(&temporary, out).map_err(failed)
}
