//! `wmall meta rebuild`: metadata from data nodes alone, for the day when every metadata node and every backup is
//! gone. What comes out is a snapshot file; `wmall meta snapshot restore` makes a cluster of it.
//!
//! 1. Each data node is asked for the map that it kept; the newest one has the pools, rows and disks.
//! 2. Each is asked for what its disks hold. One that does not answer holds the rebuild up, unless the operator goes
//!    on without it: files that only it could name are not in the result.
//! 3. Roots of manifests are read, checked by their hashes, and lead to the files of many chunks. Every other chunk
//!    is a file by itself.
//!
//! Memory: some 400 bytes a chunk, in the operator's process (`docs/limits.md`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use wmall_manifest::{Block, Manifest};
use wmall_proto::chunk::{DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE};
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::{HeldPiece, PiecePage, ReadRequest, Request, Response};
use wmall_proto::topology::MetadataAddress;
use wmall_proto::{ChunkId, DiskId, ErrorCode, NodeName, PoolId, Role, RpcError, Topology};
use wmall_runtime::view::{Buffered, SledStore, StoreError};
use wmall_transport::{BindError, Endpoint, Identity, IdentityError, Target, collect};

use crate::raft::{SnapshotError, SnapshotFolder};
use crate::state::{FoundFile, State};

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
    #[error("a recount of what was made finds: {0}")]
    Inconsistent(String),
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rebuilt {
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
    /// Chunks of files with a manifest that may have been files of one chunk too: found by their id, and held by
    /// nothing but those files.
    pub derived: u64,
    /// Chunks of which no piece was found.
    pub chunks_without_piece: u64,
    /// Pieces of pools that the map does not know; left alone.
    pub unknown_pool: u64,
    /// Blocks of manifests from which no file could be made: other blocks or chunks are missing, and nobody knows
    /// them to be committed; or they could not be read. At most a hundred are named.
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

/// Asks the data nodes, beginning with `seeds`, and writes what they know to `out`, with a list of the files beside it
/// (`out` and `.files`). The identity is an operator's.
pub async fn rebuild(
    identity: &Path,
    seeds: &[MetadataAddress],
    without_silent: bool,
    out: &Path,
) -> Result<Rebuilt, RebuildError> {
    let identity = Identity::load(identity)?;
    let cluster = identity.cluster();
    let endpoint = Endpoint::client(&identity)?;
    let seeds: Addresses = seeds.iter().map(|s| (s.name.clone(), s.address)).collect();
    let map = newest_map(&endpoint, &seeds).await?;
    let (mut report, mut found) = (Rebuilt::default(), Found::default());
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
    let blocks = read_blocks(&endpoint, &map, &seeds, &found).await;
    endpoint.close().await;
    let failed = |source| RebuildError::Folder { path: out.display().to_string(), source };
    let folder = out.with_extension("building");
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let written = write(&folder, cluster.0, out, &map, found, &blocks, &mut report);
    let _ = std::fs::remove_dir_all(&folder);
    written.map(|()| report)
}

type Addresses = BTreeMap<NodeName, SocketAddr>;

/// Where a node is: where the operator says, or where the map says.
fn target_of(map: &Topology, node: &NodeName, seeds: &Addresses) -> Target {
    let known = map.nodes.get(node).map(|n| n.address);
    let address = seeds.get(node).copied().or(known).unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    Target { role: Role::Data, node: node.clone(), address }
}

/// The newest map that a data node kept. Each map names more of them.
async fn newest_map(endpoint: &Endpoint, seeds: &Addresses) -> Result<Topology, RebuildError> {
    let mut waiting = seeds.clone();
    let mut asked = BTreeSet::new();
    let mut newest: Option<Topology> = None;
    let mut last = RpcError::new(ErrorCode::NotFound, "none was asked");
    while let Some((node, address)) = waiting.pop_first() {
        asked.insert(node.clone());
        let target = Target { role: Role::Data, node, address };
        match endpoint.call(&target, &Request::GetTopology { known: 0 }, TIMEOUT).await {
            Ok(Response::Topology(reply)) => {
                let Some(map) = reply.topology else { continue };
                let more = map.nodes.values().filter(|n| !asked.contains(&n.name));
                for node in more.map(|n| n.name.clone()).collect::<Vec<_>>() {
                    waiting.insert(node.clone(), target_of(&map, &node, seeds).address);
                }
                if newest.as_ref().is_none_or(|n| n.version < map.version) {
                    newest = Some(*map);
                }
            }
            Ok(_) => last = RpcError::internal("the answer is of another kind than the question"),
            Err(error) => last = error,
        }
    }
    newest.ok_or(RebuildError::NoMap(last))
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
        let PiecePage { incarnation, pieces, next, disks } = list_page(endpoint, target, disk, after).await?;
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

async fn list_page(
    endpoint: &Endpoint,
    target: &Target,
    disk: u32,
    after: Option<PoolChunk>,
) -> Result<PiecePage, RpcError> {
    let mut last = RpcError::internal("no try was made");
    for _ in 0..TRIES {
        match endpoint.call(target, &Request::ListPieces { disk, after }, TIMEOUT).await {
            Ok(Response::Pieces(page)) => return Ok(page),
            Ok(_) => return Err(RpcError::internal("the answer is of another kind than the question")),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads the blocks of manifests; each counts only if it hashes to its name.
async fn read_blocks(
    endpoint: &Endpoint,
    map: &Topology,
    seeds: &Addresses,
    found: &Found,
) -> HashMap<(PoolId, ChunkId), Block> {
    let mut blocks = HashMap::new();
    for &(pool, chunk) in &found.blocks {
        for disk in found.holders.get(&(pool, chunk)).into_iter().flatten() {
            let Some(node) = map.node_of(*disk) else { continue };
            let target = target_of(map, &node.name, seeds);
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

/// Makes a state of it all, and a snapshot file of the state, which is checked before it has its name.
fn write(
    folder: &Path,
    cluster: [u8; 16],
    out: &Path,
    map: &Topology,
    found: Found,
    blocks: &HashMap<(PoolId, ChunkId), Block>,
    report: &mut Rebuilt,
) -> Result<(), RebuildError> {
    let failed = |source| RebuildError::Folder { path: out.display().to_string(), source };
    let state = State::open(Box::new(Buffered::new(SledStore::create_anew(&folder.join("view"))?)))?;
    state.adopt_map(map)?;
    let list = File::create(out.with_extension("files")).map_err(failed)?;
    let mut writer = Writer {
        state: &state,
        found: &found,
        map,
        files: Vec::new(),
        chunks: 0,
        list: BufWriter::new(list),
    };
    let named = writer.add_manifests(blocks, report).map_err(|e| e.at(out))?;
    writer.add_chunks(&named, report).map_err(|e| e.at(out))?;
    writer.flush().map_err(|e| e.at(out))?;
    writer.list.flush().map_err(failed)?;
    let snapshots = SnapshotFolder::open(&folder.join("snapshots"), cluster).map_err(SnapshotError::Io)?;
    let temporary = out.with_extension("new");
    snapshots.write(&state, &temporary)?;
    let troubles = SnapshotFolder::summary(&temporary)?.audit.troubles;
    if !troubles.is_empty() {
        return Err(RebuildError::Inconsistent(troubles.join("; ")));
    }
    std::fs::rename(&temporary, out).map_err(failed)
}

/// What writing may run into, before the path is added.
enum WriteError {
    Store(StoreError),
    List(std::io::Error),
}

impl WriteError {
    fn at(self, out: &Path) -> RebuildError {
        match self {
            Self::Store(error) => error.into(),
            Self::List(source) => RebuildError::Folder { path: out.display().to_string(), source },
        }
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        Self::List(error)
    }
}

/// Writes files in batches, and a line for each.
struct Writer<'a> {
    state: &'a State,
    found: &'a Found,
    map: &'a Topology,
    files: Vec<FoundFile>,
    chunks: usize,
    list: BufWriter<File>,
}

impl Writer<'_> {
    fn add(&mut self, pool: PoolId, manifest: Manifest, how: &str) -> Result<(), WriteError> {
        let name = self.map.pools.get(&pool).map_or("-", |t| t.pool.name.as_str());
        writeln!(self.list, "{} {name} {} {how}", manifest.id(), manifest.size())?;
        self.chunks += manifest.chunks().len();
        self.files.push(FoundFile { pool, manifest });
        if self.chunks >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        self.chunks = 0;
        Ok(self.state.adopt_files(&std::mem::take(&mut self.files), self.map, &self.found.holders)?)
    }

    /// Files by their roots. Returns the chunks that belong to one, blocks included.
    fn add_manifests(
        &mut self,
        blocks: &HashMap<(PoolId, ChunkId), Block>,
        report: &mut Rebuilt,
    ) -> Result<BTreeSet<(PoolId, ChunkId)>, WriteError> {
        let mut named = BTreeSet::new();
        let mut roots: BTreeSet<&(PoolId, ChunkId)> = self.found.blocks.iter().collect();
        roots.retain(|key| !matches!(blocks.get(*key), Some(Block::Part(_))));
        for &&(pool, root) in &roots {
            if !self.map.pools.contains_key(&pool) {
                continue;
            }
            let made = blocks
                .get(&(pool, root))
                .map(|block| Manifest::from_root(block, |id| blocks.get(&(pool, *id)).cloned()));
            let manifest = match made {
                // Bytes that only look like a root: a user's, who put such a file.
                Some(Err(_)) => continue,
                Some(Ok(Some(manifest))) if manifest.block_ids().last() == Some(&root) => manifest,
                Some(Ok(_)) | None => {
                    report.incomplete.push(root);
                    continue;
                }
            };
            let length = |i: usize, chunk: &ChunkId| {
                let there = self.found.lengths.get(&(pool, *chunk));
                (there.copied(), manifest.chunk_length(i))
            };
            let lengths = manifest.chunks().iter().enumerate().map(|(i, chunk)| length(i, chunk));
            // As above: no file of ours says another length than its chunks have.
            if lengths.clone().any(|(there, said)| there.is_some_and(|there| there != said)) {
                continue;
            }
            let missing = lengths.filter(|(there, _)| there.is_none()).count() as u64;
            if missing > 0 && !self.found.committed.contains(&(pool, root)) {
                report.incomplete.push(root);
                continue;
            }
            report.chunks_without_piece += missing;
            named.extend(manifest.chunks().iter().chain(&manifest.block_ids()).map(|id| (pool, *id)));
            report.files_by_manifest += 1;
            self.add(pool, manifest, "manifest")?;
        }
        report.incomplete.truncate(MAX_NAMED);
        Ok(named)
    }

    /// Every other chunk is a file by itself; one that is too long for the usual chunk size, of the largest.
    fn add_chunks(
        &mut self,
        named: &BTreeSet<(PoolId, ChunkId)>,
        report: &mut Rebuilt,
    ) -> Result<(), WriteError> {
        let mut derived = Vec::new();
        for (&(pool, chunk), &length) in &self.found.lengths {
            if !self.map.pools.contains_key(&pool) {
                report.unknown_pool += 1;
                continue;
            }
            if named.contains(&(pool, chunk)) {
                if (1..=DEFAULT_CHUNK_SIZE).contains(&length) {
                    derived.push((pool, chunk, length));
                }
                continue;
            }
            let size = if length <= DEFAULT_CHUNK_SIZE { DEFAULT_CHUNK_SIZE } else { MAX_CHUNK_SIZE };
            let Ok(manifest) = Manifest::new(u64::from(length), size, vec![chunk]) else { continue };
            report.files_by_chunk += 1;
            let certain = self.found.committed.contains(&(pool, chunk));
            report.uncertain += u64::from(!certain);
            self.add(pool, manifest, if certain { "chunk" } else { "uncertain" })?;
        }
        report.derived = derived.len() as u64;
        for batch in derived.chunks(BATCH) {
            self.state.adopt_derived(batch)?;
        }
        Ok(())
    }
}
