//! Bringing a file in: cut, hashed, each chunk to its row's acting primary, then one commit.
//!
//! A reader that can start again ([`Store::put_again`]) lets chunks be claimed that the cluster has already:
//! their bytes are not sent. If the commit finds that a claim does not hold any more, the file is put once
//! more, and everything is sent.
//!
//! Bounds: [`WINDOW_BYTES`] of chunks are in memory at once, whatever the file's size.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wmall_manifest::{Block, Chunker, Manifest, Stripe, check_chunk_size};
use wmall_proto::chunk::{ChunkCommit, DEFAULT_CHUNK_SIZE, MAX_CHUNKS_PER_COMMIT, PieceDigest};
use wmall_proto::receipt::ReceiptProof;
use wmall_proto::rpc::{
    Ack, CommitOutcome, CommitRequest, Condition, PutOutcome, PutRequest, Query, QueryReply, Request,
    Response,
};
use wmall_proto::{
    BucketName, ChunkId, ErrorCode, FileId, ObjectName, PgRow, PoolId, PoolName, RpcError, Scheme, Topology,
    UploadId,
};

use crate::error::ClientError;
use crate::map::SlotTarget;
use crate::refusals::Refusals;
use crate::store::{Inner, Progress, Store, unexpected};

/// Bytes of chunks on their way.
const WINDOW_BYTES: usize = 48 << 20;
/// Chunks on their way, however small.
const WINDOW_CHUNKS: usize = 64;
/// How long one attempt at a chunk may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(12);
/// How long a chunk may take in all, of the time that this process runs.
const CHUNK_DEADLINE: Duration = Duration::from_secs(40);
/// Chunks smaller than this are sent without asking whether the cluster has them: asking costs as much.
const WORTH_ASKING: usize = 256 << 10;
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// How a file is put.
#[derive(Clone, Default)]
pub struct PutOptions {
    /// Bytes of a chunk; 4 MiB if none.
    pub chunk_size: Option<u32>,
    /// When it counts as done.
    pub ack: Ack,
    /// Where it lives; the bucket's pool, or the only one, if none.
    pub pool: Option<PoolName>,
    /// Its scheme, by which the pool is found if there is only one with it.
    pub scheme: Option<Scheme>,
    /// The name to point to it.
    pub object: Option<(BucketName, ObjectName)>,
    /// What must hold of that name, judged at commit.
    pub condition: Condition,
    /// Told as chunks become durable.
    pub progress: Option<Progress>,
    /// Asked, with the file's id and size, before the commit that makes it visible: an error ends the put,
    /// and nothing points to what was read.
    pub before_commit: Option<BeforeCommit>,
}

/// See [`PutOptions::before_commit`].
pub type BeforeCommit = Arc<dyn Fn(FileId, u64) -> Result<(), ClientError> + Send + Sync>;

/// What a put led to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PutSummary {
    /// The file.
    pub id: FileId,
    /// Its bytes.
    pub size: u64,
    /// Its chunks.
    pub chunks: u64,
    /// Those of them that the cluster had already, so that their bytes were not sent.
    pub known_chunks: u64,
    /// Whether it was not there before.
    pub new: bool,
    /// Slots that had no receipt at commit and will be filled by the cluster.
    pub tickets: u32,
}

/// A put that is under way.
struct Upload {
    store: Arc<Inner>,
    id: UploadId,
    pool: PoolId,
    /// That of the name that it is for.
    bucket: Option<BucketName>,
    ack: Ack,
    /// Whether chunks may be claimed.
    claims: bool,
    claimed: u64,
    /// A part was refused for a claim that does not hold.
    needed: bool,
    room: Arc<Semaphore>,
    running: JoinSet<Result<(usize, ChunkCommit), RpcError>>,
    /// Chunks that are durable and not yet part of a commit, by number.
    done: BTreeMap<usize, ChunkCommit>,
    ids: Vec<ChunkId>,
    committed_parts: u32,
    /// Tickets that they have made.
    tickets: u32,
    progress: Option<Progress>,
    bytes_done: u64,
}

impl Store {
    /// Brings a file in. When this returns, the file is committed and as durable as `options.ack` says.
    pub async fn put<R: AsyncRead + Unpin>(
        &self,
        reader: &mut R,
        options: &PutOptions,
    ) -> Result<PutSummary, ClientError> {
        self.put_all(reader, options, self.new_upload()).await
    }

    fn new_upload(&self) -> UploadId {
        UploadId::new(self.inner.map.now_ms(), wmall_runtime::random::bytes())
    }

    /// Sends everything.
    async fn put_all<R: AsyncRead + Unpin>(
        &self,
        reader: &mut R,
        options: &PutOptions,
        upload: UploadId,
    ) -> Result<PutSummary, ClientError> {
        match self.put_once(reader, options, upload, false).await? {
            Put::Done(summary) => Ok(summary),
            Put::NeedChunks => {
                let reason = "the metadata were restored while the file was put; what was sent may be gone";
                Err(RpcError::new(ErrorCode::UploadFenced, reason).hint("put the file again").into())
            }
        }
    }

    /// The same for a reader that can start again: bytes that the cluster has already are not sent.
    ///
    /// The input must stay as it is meanwhile, which the caller may check in [`PutOptions::before_commit`].
    pub async fn put_again<R: AsyncRead + AsyncSeek + Unpin>(
        &self,
        reader: &mut R,
        options: &PutOptions,
    ) -> Result<PutSummary, ClientError> {
        let failed = |source| ClientError::Local { what: "reading the input", source };
        let start = reader.stream_position().await.map_err(failed)?;
        let upload = self.new_upload();
        if let Put::Done(summary) = self.put_once(reader, options, upload, true).await? {
            return Ok(summary);
        }
        reader.seek(std::io::SeekFrom::Start(start)).await.map_err(failed)?;
        // Under one id the parts of this pass take the places of those before, and count for no quota twice.
        self.put_all(reader, options, upload).await
    }

    async fn put_once<R: AsyncRead + Unpin>(
        &self,
        reader: &mut R,
        options: &PutOptions,
        id: UploadId,
        claims: bool,
    ) -> Result<Put, ClientError> {
        let chunk_size = check_chunk_size(options.chunk_size.unwrap_or(DEFAULT_CHUNK_SIZE))?;
        let pool = match (&options.object, &options.pool) {
            (Some((bucket, _)), None) if options.scheme.is_none() => self.inner.bucket_pool(bucket).await?,
            (_, name) => self.inner.pool(name.as_ref(), options.scheme).await?.id,
        };
        let mut upload = Upload {
            store: self.inner.clone(),
            id,
            pool,
            bucket: options.object.as_ref().map(|(bucket, _)| bucket.clone()),
            ack: options.ack,
            claims,
            claimed: 0,
            needed: false,
            room: Arc::new(Semaphore::new(WINDOW_BYTES)),
            running: JoinSet::new(),
            done: BTreeMap::new(),
            ids: Vec::new(),
            committed_parts: 0,
            tickets: 0,
            progress: options.progress.clone(),
            bytes_done: 0,
        };
        let mut chunker = Chunker::new(chunk_size);
        loop {
            let read = reader.read_buf(&mut chunker.room()).await;
            let read = read.map_err(|source| ClientError::Local { what: "reading the input", source })?;
            if read == 0 {
                break;
            }
            if let Some(chunk) = chunker.take_full() {
                upload.send(chunk).await?;
            }
        }
        let (last, size) = chunker.finish();
        if let Some(chunk) = last {
            upload.send(chunk).await?;
        }
        upload.finish(size, chunk_size, options).await
    }
}

/// What became of a put.
enum Put {
    Done(PutSummary),
    /// A chunk that was claimed is not there, or not safely; or one was sent in a former life of the
    /// metadata.
    NeedChunks,
}

impl Upload {
    /// Starts a chunk on its way, once there is room for it.
    async fn send(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        while self.running.len() >= WINDOW_CHUNKS {
            self.join_one().await?;
        }
        let room = loop {
            match self.room.clone().try_acquire_many_owned(bytes.len() as u32) {
                Ok(room) => break room,
                Err(_) => self.join_one().await?,
            }
        };
        let number = self.ids.len();
        let id = ChunkId::of(&bytes);
        self.ids.push(id);
        let claim = self.claims && bytes.len() >= WORTH_ASKING;
        let put =
            ChunkPut { store: self.store.clone(), upload: self.id, pool: self.pool, ack: self.ack, claim };
        self.running.spawn(async move {
            let _room = room;
            put.run(id, bytes).await.map(|commit| (number, commit))
        });
        // What has ended in the meantime makes room for parts.
        while let Some(joined) = self.running.try_join_next() {
            self.note(joined)?;
        }
        if self.done.len() > MAX_CHUNKS_PER_COMMIT {
            self.commit_full_parts().await?;
        }
        Ok(())
    }

    async fn join_one(&mut self) -> Result<(), ClientError> {
        match self.running.join_next().await {
            Some(joined) => self.note(joined),
            None => Ok(()),
        }
    }

    fn note(
        &mut self,
        joined: Result<Result<(usize, ChunkCommit), RpcError>, tokio::task::JoinError>,
    ) -> Result<(), ClientError> {
        let (number, commit) = joined.map_err(RpcError::internal)??;
        self.bytes_done += u64::from(commit.length);
        self.claimed += u64::from(commit.receipts.is_empty());
        if let Some(progress) = &self.progress {
            progress(self.bytes_done);
        }
        self.done.insert(number, commit);
        Ok(())
    }

    /// Commits parts whose chunks are all durable, as long as chunks are left for the file itself.
    async fn commit_full_parts(&mut self) -> Result<(), ClientError> {
        while self.done.len() > MAX_CHUNKS_PER_COMMIT {
            let first = self.committed_parts as usize * MAX_CHUNKS_PER_COMMIT;
            let numbers = first..first + MAX_CHUNKS_PER_COMMIT;
            if !numbers.clone().all(|n| self.done.contains_key(&n)) {
                return Ok(());
            }
            let ids = self.ids[numbers.clone()].to_vec();
            let mut chunks: Vec<ChunkCommit> = numbers.filter_map(|n| self.done.remove(&n)).collect();
            chunks.push(self.put_block(Block::Part(ids).encode()).await?);
            let part = self.committed_parts;
            self.committed_parts += 1;
            // The file's own commit would miss a part before and say so; to go on would be for nothing.
            if self.needed {
                continue;
            }
            let (upload, pool, ack) = (self.id, self.pool, self.ack);
            let bucket = self.bucket.clone();
            let part = CommitRequest::Part { upload, pool, part, bucket, chunks, ack };
            match self.commit(part).await? {
                Some(outcome) => self.tickets += outcome.tickets,
                None => self.needed = true,
            }
        }
        Ok(())
    }

    async fn finish(mut self, size: u64, chunk_size: u32, options: &PutOptions) -> Result<Put, ClientError> {
        let manifest = Manifest::new(size, chunk_size, self.ids.clone())?;
        // Beside the last chunks: every id is known by now.
        let mut root = JoinSet::new();
        let chunks = self.ids.chunks(MAX_CHUNKS_PER_COMMIT);
        let parts = (self.ids.len().saturating_sub(1)) / MAX_CHUNKS_PER_COMMIT;
        let parts = chunks.take(parts).map(|ids| ChunkId::of(&Block::Part(ids.to_vec()).encode())).collect();
        if let Some(block) = manifest.root_block(parts) {
            root.spawn(self.put_block(block));
        }
        while !self.running.is_empty() {
            self.join_one().await?;
        }
        self.commit_full_parts().await?;
        if self.needed {
            return Ok(Put::NeedChunks);
        }
        let mut chunks: Vec<ChunkCommit> = std::mem::take(&mut self.done).into_values().collect();
        if let Some(stored) = root.join_next().await {
            chunks.push(stored.map_err(RpcError::internal)??);
        }
        if let Some(check) = &options.before_commit {
            check(manifest.id(), size)?;
        }
        let commit = CommitRequest::File {
            upload: self.id,
            pool: self.pool,
            id: manifest.id(),
            size,
            chunk_size,
            object: options.object.clone(),
            condition: options.condition,
            parts: self.committed_parts,
            chunks,
            ack: self.ack,
        };
        let outcome = self.commit(commit).await.inspect_err(|_| {
            // A bucket that was removed and made anew may have another pool.
            options.object.iter().for_each(|(bucket, _)| self.store.forget_bucket(bucket));
        })?;
        let Some(outcome) = outcome else { return Ok(Put::NeedChunks) };
        Ok(Put::Done(PutSummary {
            id: manifest.id(),
            size,
            chunks: manifest.chunks().len() as u64,
            known_chunks: self.claimed,
            new: outcome.new_file,
            tickets: self.tickets + outcome.tickets,
        }))
    }

    /// Stores a block of the manifest: the file's ids, for the day when no metadata node has them any more.
    fn put_block(&self, block: Vec<u8>) -> impl Future<Output = Result<ChunkCommit, RpcError>> + use<> {
        let (store, upload, pool, ack) = (self.store.clone(), self.id, self.pool, self.ack);
        let put = ChunkPut { store, upload, pool, ack, claim: false };
        async move { put.run(ChunkId::of(&block), block.into()).await }
    }

    /// None if chunks that were claimed are needed after all.
    async fn commit(&self, commit: CommitRequest) -> Result<Option<CommitOutcome>, ClientError> {
        match self.store.command(|request| Request::Commit { request, commit }).await {
            Ok(Response::Committed(outcome)) => Ok(Some(outcome)),
            Ok(Response::NeedChunks(_)) => Ok(None),
            Ok(_) => Err(unexpected().into()),
            // A disk was wiped, or a row changed, since it promised; a reader that can start again may.
            Err(error) if self.claims && error.code == ErrorCode::TooFewReceipts => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// One chunk on its way.
struct ChunkPut {
    store: Arc<Inner>,
    upload: UploadId,
    pool: PoolId,
    ack: Ack,
    /// Whether to ask first if the cluster has the chunk.
    claim: bool,
}

impl ChunkPut {
    /// Tries until enough slots have promised, gathering promises over the attempts.
    async fn run(&self, id: ChunkId, bytes: Bytes) -> Result<ChunkCommit, RpcError> {
        if self.claim && self.is_known(id).await {
            let (length, row_version) = (bytes.len() as u32, 0);
            let (digests, receipts) = (Vec::new(), Vec::new());
            return Ok(ChunkCommit { id, length, row_version, digests, receipts });
        }
        let running = &self.store.running;
        let begun = running.now();
        let digests = self.digests(&bytes)?;
        let mut receipts: BTreeMap<u8, ReceiptProof> = BTreeMap::new();
        let (mut version, mut refusals) = (0, Refusals::default());
        loop {
            let topology = self.store.map.topology();
            let Some((_, row)) = topology.row_of(self.pool, &id) else {
                return Err(RpcError::not_found(format!("pool number {}", self.pool.0)));
            };
            if row.version != version {
                version = row.version;
                receipts.clear();
                refusals.clear();
            }
            let attempt = running.now();
            let mut had = Had { receipts: &mut receipts, refusals: &mut refusals };
            let error = match self.attempt(&topology, row, id, &bytes, &digests, &mut had).await {
                Ok(()) if self.enough(&topology, row, &receipts) => {
                    let receipts = receipts.into_values().collect();
                    return Ok(ChunkCommit {
                        id,
                        length: bytes.len() as u32,
                        row_version: version,
                        digests,
                        receipts,
                    });
                }
                Ok(()) => too_few(row, &receipts),
                Err(error) if passes(error.code) => error,
                Err(error) => return Err(error),
            };
            let lacking = (0..row.slots.len() as u8).filter(|slot| !receipts.contains_key(slot));
            if let Some(verdict) = refusals.verdict(lacking) {
                return Err(verdict);
            }
            if running.since(begun) + PAUSE >= CHUNK_DEADLINE {
                let reason = match running.stopped_since(attempt) {
                    Some(time) => format!("this process was stopped for {} s meanwhile", time.as_secs()),
                    None => error.to_string(),
                };
                let reason = format!("chunk {id}: {} of {} slots; {reason}", receipts.len(), row.slots.len());
                return Err(RpcError::new(ErrorCode::TooFewReceipts, reason)
                    .hint("`wmall status` shows which data nodes do not answer"));
            }
            tokio::time::sleep(PAUSE).await;
            // The map may have moved on, and the leader may know by now who is silent.
            let _ = self.store.refresh().await;
        }
    }

    /// What each slot's shard hashes to, where the pool has shards. Whoever cuts the chunk can make no other
    /// ones, so nobody is believed about it.
    fn digests(&self, bytes: &Bytes) -> Result<Vec<PieceDigest>, RpcError> {
        let topology = self.store.map.topology();
        let scheme = topology.pools.get(&self.pool).map(|t| t.pool.scheme);
        let Some(scheme) = scheme.filter(|s| s.is_striped()) else { return Ok(Vec::new()) };
        let stripe = Stripe::new(scheme).map_err(|e| RpcError::new(ErrorCode::Unsupported, e.to_string()))?;
        let cut = stripe.cut_and_hash(std::slice::from_ref(bytes)).map_err(RpcError::internal)?;
        Ok(cut.into_iter().map(|(_, digest)| digest).collect())
    }

    /// Any member may answer: what counts is judged at commit. One that does not answer knows nothing.
    async fn is_known(&self, chunk: ChunkId) -> bool {
        let query = Query::Known { pool: self.pool, chunk };
        matches!(self.store.read_stale(query).await, Ok(QueryReply::Known(true)))
    }

    /// One attempt: the first slot that answers acts as primary for all that lack a receipt.
    async fn attempt(
        &self,
        topology: &Topology,
        row: &PgRow,
        id: ChunkId,
        bytes: &Bytes,
        digests: &[PieceDigest],
        Had { receipts, refusals }: &mut Had<'_>,
    ) -> Result<(), RpcError> {
        let mut slots = self.store.map.slots(topology, row);
        slots.retain(|s| !receipts.contains_key(&s.slot));
        // A slot that refused is asked again when the others have been.
        slots.sort_by_key(|s| refusals.has(s.slot));
        let Some(primary) = slots.first().cloned() else { return Ok(()) };
        let wanted = |s: &&SlotTarget| self.ack == Ack::All || !s.silent;
        let relay = slots[1..].iter().filter(wanted).map(|s| s.slot).collect();
        let request = PutRequest {
            upload: self.upload,
            pool: self.pool,
            chunk: id,
            length: bytes.len() as u32,
            row_version: row.version,
            slot: primary.slot,
            relay,
            ack: self.ack,
            shard: None,
        };
        let begun = self.store.running.now();
        let sent = self.send(&primary, request, bytes).await;
        refusals.hear(primary.slot, sent.as_ref().err());
        // While this process was stopped nobody had a chance to answer it.
        let stopped = self.store.running.stopped_since(begun).is_some();
        match sent {
            Ok(outcome) => {
                for signed in outcome.receipts {
                    let (slot, digest) = (signed.receipt.slot, signed.receipt.digest);
                    let right = digests.get(usize::from(slot)).unwrap_or(&id.0);
                    if digest == *right {
                        receipts.insert(slot, signed.into_proof());
                    } else {
                        tracing::warn!(slot, chunk = %id, "a receipt for other bytes");
                    }
                }
                for failure in outcome.failures.iter().filter(|_| !stopped) {
                    let node = slots.iter().find(|s| s.slot == failure.slot);
                    node.iter().for_each(|s| self.store.map.avoid(&s.target.node));
                }
                Ok(())
            }
            Err(error) => {
                if error.code != ErrorCode::StaleRow && !stopped {
                    self.store.map.avoid(&primary.target.node);
                }
                Err(error)
            }
        }
    }

    async fn send(
        &self,
        primary: &SlotTarget,
        request: PutRequest,
        bytes: &Bytes,
    ) -> Result<PutOutcome, RpcError> {
        let request = Request::Put(request);
        let mut call = self.store.endpoint.open(&primary.target, &request, ATTEMPT_TIMEOUT).await?;
        // A receiver that refuses stops reading; its answer says why.
        let _ = call.write(bytes.clone()).await;
        match call.finish().await?.response {
            Response::Put(outcome) => Ok(outcome),
            _ => Err(unexpected()),
        }
    }

    /// The rule that the metadata nodes will judge by.
    fn enough(&self, topology: &Topology, row: &PgRow, receipts: &BTreeMap<u8, ReceiptProof>) -> bool {
        let scheme = topology.pools.get(&self.pool).map(|t| t.pool.scheme);
        let needed = match self.ack {
            Ack::All => row.slots.len(),
            Ack::Quorum => scheme.map_or(1, Scheme::quorum),
        };
        let zones = |slots: &mut dyn Iterator<Item = u8>| {
            let zone = |slot: u8| topology.node_of(*row.slots.get(usize::from(slot))?).map(|n| &n.zone);
            slots.filter_map(zone).collect::<BTreeSet<_>>().len()
        };
        let wanted = zones(&mut (0..row.slots.len() as u8)).min(2).min(needed);
        receipts.len() >= needed && zones(&mut receipts.keys().copied()) >= wanted
    }
}

/// The state of a chunk over the attempts.
struct Had<'a> {
    receipts: &'a mut BTreeMap<u8, ReceiptProof>,
    refusals: &'a mut Refusals,
}

/// Whether another slot, or a later time, may have another answer.
fn passes(code: ErrorCode) -> bool {
    code.is_own_view()
        || !matches!(code, ErrorCode::Unsupported | ErrorCode::UploadFenced | ErrorCode::ClusterFull)
}

fn too_few(row: &PgRow, receipts: &BTreeMap<u8, ReceiptProof>) -> RpcError {
    let reason = format!("{} of {} slots gave a receipt", receipts.len(), row.slots.len());
    RpcError::new(ErrorCode::TooFewReceipts, reason)
}
