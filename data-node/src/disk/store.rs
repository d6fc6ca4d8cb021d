//! The piece store of one disk.
//!
//! Order of a put, none of which is ever skipped: the piece is appended to the journal; the journal's
//! batch is fdatasync'ed; the index has it; the receipt is signed. The journal's completions feed one
//! thread that writes the index, so the index follows the journal in order and in batches.
//!
//! A failed write fences this disk for the life of the process: its puts fail, its reads go on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;
use wmall_journal::{AppendError, Journal, OpenError, Options, Position, RealDisk, Record};
use wmall_proto::feed::CommittedChunk;
use wmall_proto::receipt::{Receipt, SignedReceipt};
use wmall_proto::topology::ClusterId;
use wmall_proto::{ChunkId, DiskId, ErrorCode, PoolId, RpcError};
use wmall_runtime::view::StoreError;
use wmall_runtime::{FolderError, FolderLock};

use super::index::{Counts, Index, IndexBatch, IndexReader, Located, PieceState};
use super::piece::{HEADER, KIND_PIECE, PieceHeader};
use super::superblock::{FormatError, Superblock};
use crate::config::DiskConfig;

/// Bounds of a segment's size: the largest piece must fit, and few files must do.
const MIN_SEGMENT: u64 = 32 << 20;
const MAX_SEGMENT: u64 = 1 << 30;
/// Bytes of appends that may wait for the disk.
const QUEUE_BYTES: usize = 128 << 20;
/// Entries that one batch of the index takes.
const INDEX_BATCH: usize = 512;
/// How often the index is written out, which bounds what the next start replays.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// Why a disk is not in use.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each is the error of the part it names.
pub enum DiskError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("the disk's journal does not open")]
    Journal(#[from] OpenError),
    #[error("the disk's folder cannot be used")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Index(#[from] StoreError),
}

/// What a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) pieces: u64,
    pub(crate) bytes: u64,
    pub(crate) writable: bool,
}

enum IndexWork {
    /// A piece is durable in the journal.
    Piece(PieceHeader, u32, Position, oneshot::Sender<Result<(), RpcError>>),
    /// Chunks are committed, up to this place of the feed.
    Committed(Vec<CommittedChunk>, Option<u64>),
}

/// A disk in use.
pub(crate) struct DiskStore {
    pub(crate) name: String,
    pub(crate) config: DiskConfig,
    pub(crate) superblock: Superblock,
    cluster: ClusterId,
    /// Its number, once the metadata nodes have given it.
    id: AtomicU64,
    reader: IndexReader,
    counts: Arc<SharedCounts>,
    work: mpsc::Sender<IndexWork>,
    // Dropped before the lock; its completions go to `work`, whose thread ends when they do.
    journal: Journal,
    _lock: FolderLock,
}

/// The index's counts, for everybody to see.
#[derive(Default)]
struct SharedCounts {
    pieces: AtomicU64,
    bytes: AtomicU64,
    /// The index could not be written: nothing is promised any more.
    failed: AtomicBool,
}

impl SharedCounts {
    fn set(&self, counts: Counts) {
        self.pieces.store(counts.pieces, Ordering::Relaxed);
        self.bytes.store(counts.bytes, Ordering::Relaxed);
    }

    fn get(&self) -> Counts {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counts { pieces: load(&self.pieces), bytes: load(&self.bytes) }
    }
}

/// No number yet; numbers have 32 bits.
const NO_ID: u64 = u64::MAX;

impl DiskStore {
    /// Opens a formatted disk and replays what its index lacks.
    pub(crate) fn open(config: &DiskConfig, cluster: ClusterId) -> Result<Self, DiskError> {
        let superblock = Superblock::load(&config.path)?;
        let lock = FolderLock::acquire(&config.path)?;
        let (mut index, replay_from) = Index::open(&config.path.join("index"))?;
        let disk = Arc::new(RealDisk::open(config.path.join("segments"))?);
        let options = Options {
            identity: superblock.incarnation.0,
            segment_bytes: (config.max_bytes / 64).clamp(MIN_SEGMENT, MAX_SEGMENT),
            max_bytes: config.max_bytes,
            queue_bytes: QUEUE_BYTES,
            replay_from,
            name: format!("disk-{}", config.name),
        };
        let journal = replay(disk, options, &mut index)?;
        let reader = index.reader();
        let counts = Arc::new(SharedCounts::default());
        counts.set(index.counts);
        let (work, queue) = mpsc::channel();
        let shared = counts.clone();
        std::thread::Builder::new()
            .name(format!("index-{}", config.name))
            .spawn(move || write_index(index, &shared, &queue))?;
        Ok(Self {
            name: config.name.to_string(),
            config: config.clone(),
            superblock,
            cluster,
            id: AtomicU64::new(NO_ID),
            reader,
            counts,
            work,
            journal,
            _lock: lock,
        })
    }

    /// Its number, if it is registered.
    pub(crate) fn id(&self) -> Option<DiskId> {
        u32::try_from(self.id.load(Ordering::Acquire)).ok().map(DiskId)
    }

    pub(crate) fn set_id(&self, id: DiskId) {
        self.id.store(u64::from(id.0), Ordering::Release);
    }

    /// What it holds.
    pub(crate) fn usage(&self) -> Usage {
        let Counts { pieces, bytes } = self.counts.get();
        let writable = self.journal.fenced().is_none() && !self.counts.failed.load(Ordering::Acquire);
        Usage { pieces, bytes, writable }
    }

    /// Where a piece is.
    pub(crate) fn locate(&self, pool: PoolId, chunk: &ChunkId) -> Result<Option<Located>, RpcError> {
        self.reader.get(pool, chunk).map_err(RpcError::internal)
    }

    /// Refuses what does not fit any more.
    pub(crate) fn check_room(&self, length: u32) -> Result<(), RpcError> {
        if let Some(why) = self.journal.fenced() {
            return Err(fenced(&self.name, &why));
        }
        let bytes = self.counts.get().bytes;
        if bytes + u64::from(length) > self.config.max_bytes {
            return Err(full(&self.name));
        }
        Ok(())
    }

    /// Makes a piece durable, enters it in the index and promises to keep it. The caller has hashed it.
    pub(crate) async fn put(
        &self,
        header: PieceHeader,
        parts: Vec<Bytes>,
        crc: u32,
    ) -> Result<SignedReceipt, RpcError> {
        let length = parts.iter().map(Bytes::len).sum::<usize>() as u32;
        self.check_room(length)?;
        let record =
            Record { kind: KIND_PIECE, meta: header.encode(), payload: parts, payload_crc: Some(crc) };
        let (sender, receiver) = oneshot::channel();
        let (work, name) = (self.work.clone(), self.name.clone());
        self.journal.append(vec![record], move |outcome| match outcome {
            // One record, one position. Without the index thread nothing is promised.
            Ok(positions) => {
                let entry = |&at| IndexWork::Piece(header, length, at, sender);
                let _ = positions.first().map(entry).map(|piece| work.send(piece));
            }
            Err(error) => {
                let _ = sender.send(Err(append_failed(&name, &error)));
            }
        });
        let stopped = |_| RpcError::new(ErrorCode::ShuttingDown, "the data node is stopping");
        receiver.await.map_err(stopped)??;
        self.promise(header, length)
    }

    /// Signs a receipt for a piece that is durable and whose content is known to be good.
    pub(crate) fn promise(&self, header: PieceHeader, length: u32) -> Result<SignedReceipt, RpcError> {
        let unregistered = || RpcError::new(ErrorCode::Busy, "the disk is not registered yet");
        let receipt = Receipt {
            disk: self.id().ok_or_else(unregistered)?,
            incarnation: self.superblock.incarnation,
            upload: header.upload,
            pool: header.pool,
            row_version: header.row_version,
            chunk: header.chunk,
            slot: header.slot,
            digest: header.chunk.0,
            length,
        };
        Ok(receipt.sign(&self.cluster, &self.superblock.key))
    }

    /// Reads a range of a piece. Blocking; the reader of the bytes hashes them.
    pub(crate) fn read(&self, located: &Located, offset: u32, length: usize) -> std::io::Result<Vec<u8>> {
        let start = Journal::payload_offset(located.position, HEADER) + u64::from(offset);
        self.journal.read_vec(located.position.segment, start, length)
    }

    /// Reads a whole piece and hashes it. Blocking.
    pub(crate) fn is_good(&self, chunk: &ChunkId, located: &Located) -> bool {
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < located.length {
            let n = (located.length - at).min(1 << 20);
            match self.read(located, at, n as usize) {
                Ok(bytes) => hasher.update(&bytes),
                Err(_) => return false,
            };
            at += n;
        }
        *hasher.finalize().as_bytes() == chunk.0
    }

    /// Marks pieces as committed and notes how far the feed has been read. Takes effect in order, soon.
    pub(crate) fn committed(&self, chunks: Vec<CommittedChunk>, feed: Option<u64>) {
        let _ = self.work.send(IndexWork::Committed(chunks, feed));
    }

    /// How far the feed had been read when the index was last written.
    pub(crate) fn feed(&self) -> Result<u64, StoreError> {
        self.reader.feed()
    }

    pub(crate) fn staged(
        &self,
        after: Option<(PoolId, ChunkId)>,
        limit: usize,
    ) -> Result<Vec<(PoolId, ChunkId)>, StoreError> {
        self.reader.staged(after, limit)
    }

    pub(crate) fn flush(&self) {
        self.reader.flush();
    }
}

/// Opens the journal and brings the index up to it.
fn replay(disk: Arc<RealDisk>, options: Options, index: &mut Index) -> Result<Journal, DiskError> {
    let mut batch = IndexBatch::default();
    let mut waiting = 0;
    let journal = Journal::open(disk, options, |found| {
        if found.kind != KIND_PIECE {
            return Err(format!("unknown kind {}", found.kind));
        }
        let header = PieceHeader::decode(found.meta).ok_or("a piece without its header")?;
        let located = Located {
            position: found.position,
            length: found.payload_length,
            slot: header.slot,
            state: PieceState::Staged,
        };
        index.insert(&mut batch, (header.pool, header.chunk), located).map_err(|e| e.to_string())?;
        waiting += 1;
        if waiting >= INDEX_BATCH {
            waiting = 0;
            index.apply(std::mem::take(&mut batch)).map_err(|e| e.to_string())?;
        }
        Ok(())
    })?;
    index.apply(batch)?;
    Ok(journal)
}

/// The index thread: everything that waits becomes one batch. Ends when the disk is dropped.
fn write_index(mut index: Index, counts: &SharedCounts, queue: &mpsc::Receiver<IndexWork>) {
    let mut flushed = Instant::now();
    while let Ok(first) = queue.recv() {
        let mut works = vec![first];
        works.extend(queue.try_iter().take(INDEX_BATCH - 1));
        let mut replies = Vec::new();
        let outcome = enter(&mut index, works, &mut replies);
        counts.set(index.counts);
        if let Err(error) = &outcome {
            tracing::error!(%error, "the index failed; it is rebuilt at the next start");
            counts.failed.store(true, Ordering::Release);
        }
        for reply in replies {
            let _ = reply.send(outcome.clone().map_err(RpcError::internal));
        }
        if flushed.elapsed() >= FLUSH_EVERY {
            index.reader().flush();
            flushed = Instant::now();
        }
    }
}

fn enter(
    index: &mut Index,
    works: Vec<IndexWork>,
    replies: &mut Vec<oneshot::Sender<Result<(), RpcError>>>,
) -> Result<(), StoreError> {
    let mut batch = IndexBatch::default();
    for work in works {
        match work {
            IndexWork::Piece(header, length, position, reply) => {
                replies.push(reply);
                let state = PieceState::Staged;
                let located = Located { position, length, slot: header.slot, state };
                index.insert(&mut batch, (header.pool, header.chunk), located)?;
            }
            IndexWork::Committed(chunks, feed) => {
                // Marking reads what is there, so what waits goes in first.
                index.apply(std::mem::take(&mut batch))?;
                for chunk in chunks {
                    index.mark_live(&mut batch, chunk.pool, &chunk.chunk)?;
                }
                if let Some(position) = feed {
                    index.set_feed(&mut batch, position);
                }
            }
        }
    }
    index.apply(batch)
}

fn append_failed(name: &str, error: &AppendError) -> RpcError {
    match error {
        AppendError::Fenced(why) => fenced(name, why),
        AppendError::Full => full(name),
        AppendError::Busy => RpcError::new(ErrorCode::Busy, format!("disk {name} has too much waiting")),
        AppendError::Closed => RpcError::new(ErrorCode::ShuttingDown, "the data node is stopping"),
        AppendError::TooLarge(_) => RpcError::new(ErrorCode::OutOfBounds, error.to_string()),
    }
}

fn fenced(name: &str, why: &str) -> RpcError {
    RpcError::new(ErrorCode::DiskFailed, format!("disk {name} takes no more writes: {why}"))
        .hint("replace the disk, or restart the node to have it checked")
}

fn full(name: &str) -> RpcError {
    RpcError::new(ErrorCode::DiskFull, format!("disk {name} is full")).hint("add disks or nodes")
}

#[cfg(test)]
mod tests;
