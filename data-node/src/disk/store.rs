//! The piece store of one disk.
//!
//! Order of a put, none of which is ever skipped: the piece is appended to the journal; the journal's batch
//! is fdatasync'ed; the index has it; the receipt is signed. A piece that is here already is read and hashed,
//! and the promise to the new upload goes the same way. The journal's completions feed one thread that keeps
//! the index (`keeper.rs`), so the index follows the journal in order and in batches.
//!
//! A failed write fences this disk for the life of the process: its puts fail, its reads go on. A full disk
//! takes no puts until compaction (`compact.rs`) has made room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use wmall_journal::{AppendError, Disk, Journal, Nonces, Options, Position, RealDisk, Record};
use wmall_proto::feed::{FeedItem, PiecesKnown, PoolChunk};
use wmall_proto::receipt::{Attestation, Receipt, SignedAttestation, SignedReceipt};
use wmall_proto::topology::ClusterId;
use wmall_proto::{ChunkId, DiskId, ErrorCode, PoolId, RpcError};
use wmall_runtime::FolderLock;
use wmall_runtime::ballast::{self, Ballast};
use wmall_runtime::view::StoreError;
use wmall_runtime::volume;

use super::books::Books;
use super::compact::Compactor;
use super::error::{DiskError, append_failed, fenced, full};
use super::index::{Counts, Index, IndexReader, Located, PieceState};
use super::keeper::{Keeper, Work};
use super::piece::{KIND_PIECE, KIND_STAMP, PieceHeader};
use super::replay::replay;
use super::starts;
use super::superblock::Superblock;
use super::worth::Tight;
use crate::capacity::OnFileSystem;
use crate::config::DiskConfig;

mod findings;
mod looks;

pub(crate) use looks::Look;

/// Bounds of a segment's size: the largest piece must fit, and few files must do.
const MIN_SEGMENT: u64 = 32 << 20;
const MAX_SEGMENT: u64 = 1 << 30;
/// Bytes of appends that may wait for the disk.
const QUEUE_BYTES: usize = 128 << 20;
/// Bytes of the file system that segments leave to the index and to what else is beside them: an index that
/// can't be written fails the disk, and a full disk should only refuse.
pub(crate) const KEPT_FREE: u64 = 32 << 20;

/// What a disk holds and how it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) pieces: u64,
    pub(crate) bytes: u64,
    pub(crate) segment_bytes: u64,
    /// Bytes of records in full segments that nobody wants.
    pub(crate) dead_bytes: u64,
    /// Bytes that are kept for compaction.
    pub(crate) reserved_bytes: u64,
    /// Segment and offset of the last record that is durable.
    pub(crate) end: (u64, u64),
    /// It failed, and takes nothing more in the life of this process.
    pub(crate) failed: bool,
    /// It takes no puts until there is room.
    pub(crate) full: bool,
    /// How long its writes take to be durable, as [`Journal::slow_sync`] says.
    pub(crate) slow_sync: Duration,
}

/// A disk in use.
pub(crate) struct DiskStore {
    pub(crate) name: String,
    pub(crate) config: DiskConfig,
    pub(crate) superblock: Superblock,
    cluster: ClusterId,
    /// Its number, once the metadata nodes have given it.
    id: AtomicU64,
    /// How often it has been opened, this time included.
    starts: AtomicU64,
    reader: IndexReader,
    books: Arc<Books>,
    work: mpsc::Sender<Work>,
    journal: Arc<Journal>,
    /// Turns of those who look at a piece before they promise it again.
    turns: Arc<Semaphore>,
    /// Dropped to stop the compactor.
    compacting: Option<mpsc::Sender<()>>,
    compactor: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    _lock: Option<FolderLock>,
}

/// What a disk is put together from.
struct Parts {
    superblock: Superblock,
    cluster: ClusterId,
    disk: Arc<dyn Disk>,
    index: Index,
    /// How far the index covers the journal.
    replay_from: Option<Position>,
    segment_bytes: u64,
    /// Draws the nonce of a segment.
    nonce: Nonces,
}

/// Bytes of a segment of this disk.
fn segment_size(config: &DiskConfig) -> u64 {
    (config.max_bytes / 64).clamp(MIN_SEGMENT, MAX_SEGMENT)
}

/// No number yet; numbers have 32 bits.
const NO_ID: u64 = u64::MAX;

impl DiskStore {
    /// Opens a formatted disk and replays what its index lacks.
    pub(crate) fn open(config: &DiskConfig, cluster: ClusterId) -> Result<Self, DiskError> {
        let superblock = Superblock::load(&config.path)?;
        let lock = FolderLock::acquire(&config.path)?;
        let (index, replay_from) = Index::open(&config.path.join("index"))?;
        let disk = Arc::new(RealDisk::open(config.path.join("segments"))?.keeping_free(KEPT_FREE));
        let segment_bytes = segment_size(config);
        let nonce = |_| wmall_runtime::random::bytes();
        let parts = Parts { superblock, cluster, disk, index, replay_from, segment_bytes, nonce };
        let mut store = Self::assemble(config, parts)?;
        store._lock = Some(lock);
        store.starts = AtomicU64::new(starts::count(&config.path)?);
        store.start_compactor(Ballast::new(config.path.clone(), segment_bytes, KEPT_FREE / 2))?;
        Ok(store)
    }

    fn assemble(config: &DiskConfig, parts: Parts) -> Result<Self, DiskError> {
        let Parts { superblock, cluster, disk, mut index, replay_from, segment_bytes, nonce } = parts;
        let options = Options {
            identity: superblock.incarnation.0,
            nonce,
            segment_bytes,
            max_bytes: config.max_bytes,
            reserve_bytes: segment_bytes,
            queue_bytes: QUEUE_BYTES,
            replay_from,
            name: format!("disk-{}", config.name),
        };
        let books = Arc::new(Books::default());
        let journal = Arc::new(replay(disk, options, &mut index, replay_from, &books)?);
        let reader = index.reader();
        books.set(&index);
        books.set_lost(reader.lost()?);
        let (work, queue) = mpsc::channel();
        let keeper = Keeper::new(index, journal.clone(), books.clone(), work.clone());
        let keeper = std::thread::Builder::new()
            .name(format!("index-{}", config.name))
            .spawn(move || keeper.run(&queue))?;
        Ok(Self {
            name: config.name.to_string(),
            config: config.clone(),
            superblock,
            cluster,
            id: AtomicU64::new(NO_ID),
            starts: AtomicU64::new(1),
            reader,
            books,
            work,
            journal,
            turns: Arc::new(Semaphore::new(looks::TURNS)),
            compacting: None,
            compactor: None,
            keeper: Some(keeper),
            _lock: None,
        })
    }

    fn compactor(&self, ballast: Ballast) -> Compactor {
        Compactor {
            journal: self.journal.clone(),
            reader: self.reader.clone(),
            books: self.books.clone(),
            work: self.work.clone(),
            ballast,
            name: self.name.clone(),
            room: self.config.max_bytes.saturating_sub(segment_size(&self.config)),
            tight: Tight::default(),
            given_up: Vec::new(),
            first: None,
        }
    }

    fn start_compactor(&mut self, ballast: Ballast) -> Result<(), DiskError> {
        let compactor = self.compactor(ballast);
        let (compacting, stop) = mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("compact-{}", self.name));
        self.compactor = Some(thread.spawn(move || compactor.run(&stop))?);
        self.compacting = Some(compacting);
        Ok(())
    }

    /// Its number, if it is registered.
    pub(crate) fn id(&self) -> Option<DiskId> {
        u32::try_from(self.id.load(Ordering::Acquire)).ok().map(DiskId)
    }

    /// How often it has been opened, or the number that the metadata nodes had it go on with.
    pub(crate) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Acquire)
    }

    /// Goes on with a number of starts that no copy of the disk has had. Blocking.
    pub(crate) fn raise_starts(&self, starts: u64) -> std::io::Result<()> {
        if starts > self.starts() {
            starts::set(&self.config.path, starts)?;
            self.starts.store(starts, Ordering::Release);
        }
        Ok(())
    }

    pub(crate) fn set_id(&self, id: DiskId) {
        self.id.store(u64::from(id.0), Ordering::Release);
    }

    /// What it holds.
    pub(crate) fn usage(&self) -> Usage {
        let Counts { pieces, bytes } = self.books.counts();
        let of = |n: &u64| self.journal.segment_bytes(*n).unwrap_or(0);
        let (segments, wanted) = (self.journal.segments(), self.books.wanted());
        let segment_bytes = segments.iter().map(of).sum();
        // The last one is being filled; what is in it and not wanted shows when it is full.
        let full = segments.split_last().map_or(&[][..], |(_, full)| full);
        let dead = |n: &u64| of(n).saturating_sub(wanted.get(n).copied().unwrap_or(0));
        let dead_bytes = full.iter().map(dead).sum();
        let reserved_bytes = segment_size(&self.config);
        let failed = self.journal.fenced().is_some() || self.books.failed();
        let full = self.books.full();
        let (end, slow_sync) = (self.books.end(), self.journal.slow_sync());
        Usage { pieces, bytes, segment_bytes, dead_bytes, reserved_bytes, end, failed, full, slow_sync }
    }

    /// What the file system says of its folder. Blocking: a disk that hangs does not answer.
    pub(crate) fn on_file_system(&self) -> OnFileSystem {
        let path = &self.config.path;
        OnFileSystem { ballast_bytes: ballast::held_in(path), file_system: volume::of(path).ok() }
    }

    /// An index that can't be read is of no more use: the disk fails, and the next start builds the index
    /// anew.
    fn indexed<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        outcome.inspect_err(|error| {
            tracing::error!(%error, disk = %self.name, "the index can't be read; restart the node to have it built anew");
            self.books.fail();
        })
    }

    /// Where a piece is.
    pub(crate) fn locate(&self, key: &PoolChunk) -> Result<Option<Located>, RpcError> {
        self.indexed(self.reader.get(key)).map_err(RpcError::internal)
    }

    /// No upload that began before this time may bring anything.
    pub(crate) fn fenced_before_ms(&self) -> u64 {
        self.books.fenced_before_ms()
    }

    /// Refuses what can't be taken in now.
    pub(crate) fn check_room(&self) -> Result<(), RpcError> {
        if let Some(why) = self.journal.fenced() {
            return Err(fenced(&self.name, &why));
        }
        if self.books.failed() {
            return Err(fenced(&self.name, "its index failed"));
        }
        if self.books.full() { Err(full(&self.name)) } else { Ok(()) }
    }

    /// Makes a piece durable, enters it in the index and promises to keep it. The caller has hashed it.
    pub(crate) async fn put(
        &self,
        header: PieceHeader,
        parts: Vec<Bytes>,
        crc: u32,
        cold: bool,
    ) -> Result<SignedReceipt, RpcError> {
        let length = parts.iter().map(Bytes::len).sum::<usize>() as u32;
        self.check_room()?;
        #[cfg(feature = "testing")]
        if crate::lies::told().false_receipts {
            return self.promise(header, length);
        }
        let record =
            Record { kind: KIND_PIECE, meta: header.encode(), payload: parts, payload_crc: Some(crc), cold };
        self.append(record, move |at, reply| Work::Piece(header, length, at, reply)).await?;
        self.promise(header, length)
    }

    /// Promises an upload to keep a piece that is here, durably. None if the piece is not here any more, or
    /// is not what it should be.
    pub(crate) async fn stamp(
        self: &Arc<Self>,
        header: PieceHeader,
    ) -> Result<Option<SignedReceipt>, RpcError> {
        // A promise is for bytes that were seen, not for an entry of an index.
        let Look::Good(located) = self.look_in_turn(header.key()).await? else { return Ok(None) };
        if located.slot != header.slot || !located.is_what(&header) {
            return Ok(None);
        }
        let record = Record { kind: KIND_STAMP, meta: header.encode(), ..Record::default() };
        let there = self.append(record, move |at, reply| Work::Stamp(header, at, reply)).await?;
        if there { self.promise(header, located.length).map(Some) } else { Ok(None) }
    }

    /// Appends a record and waits until the keeper has entered it.
    async fn append<T: Send + 'static>(
        &self,
        record: Record,
        entered: impl FnOnce(Position, oneshot::Sender<Result<T, RpcError>>) -> Work + Send + 'static,
    ) -> Result<T, RpcError> {
        let (sender, receiver) = oneshot::channel();
        let (work, name, books) = (self.work.clone(), self.name.clone(), self.books.clone());
        self.journal.append(vec![record], move |outcome| match outcome {
            // One record, one position. Without the keeper nothing is promised.
            Ok(positions) => {
                if let Some(&at) = positions.first() {
                    let _ = work.send(entered(at, sender));
                }
            }
            Err(error) => {
                if error == AppendError::Full {
                    books.set_full(true);
                }
                let _ = sender.send(Err(append_failed(&name, &error)));
            }
        });
        let stopped = |_| RpcError::new(ErrorCode::ShuttingDown, "the data node is stopping");
        receiver.await.map_err(stopped)?
    }

    /// Signs a receipt for a piece of a committed chunk, if it is here and good. Blocking.
    pub(crate) fn vouch(&self, header: PieceHeader) -> Result<Option<SignedReceipt>, RpcError> {
        let key = header.key();
        let there = self.locate(&key)?;
        let there = there.filter(|l| l.slot == header.slot && l.is_what(&header));
        if there.is_none() {
            return Ok(None);
        }
        match self.look(&key)? {
            Look::Good(seen) if seen.slot == header.slot && seen.is_what(&header) => {
                self.promise(header, seen.length).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Signs that a piece is here now for a slot, by the index: a copy is as good in any, a shard in its own.
    pub(crate) fn attest(
        &self,
        key: &PoolChunk,
        slot: u8,
        nonce: [u8; 16],
    ) -> Result<Option<SignedAttestation>, RpcError> {
        let fitting = self.locate(key)?.filter(|l| l.fits(slot));
        let (Some(located), Some(disk)) = (fitting, self.id()) else { return Ok(None) };
        let attestation = Attestation {
            disk,
            incarnation: self.superblock.incarnation,
            nonce,
            pool: key.pool,
            chunk: key.chunk,
            slot,
            length: located.length,
        };
        Ok(Some(attestation.sign(&self.cluster, &self.superblock.key)))
    }

    /// Signs a receipt for a piece that is durable and whose content is known to be good.
    fn promise(&self, header: PieceHeader, length: u32) -> Result<SignedReceipt, RpcError> {
        let unregistered = || RpcError::new(ErrorCode::Busy, "the disk is not registered yet");
        let receipt = Receipt {
            disk: self.id().ok_or_else(unregistered)?,
            incarnation: self.superblock.incarnation,
            upload: header.upload,
            pool: header.pool,
            row_version: header.row_version,
            chunk: header.chunk,
            slot: header.slot,
            digest: header.digest(),
            length: header.shard.map_or(length, |s| s.chunk_length),
        };
        Ok(receipt.sign(&self.cluster, &self.superblock.key))
    }

    /// Reads a range of a piece. Blocking; the reader of the bytes hashes them.
    pub(crate) fn read(&self, located: &Located, offset: u32, length: usize) -> std::io::Result<Vec<u8>> {
        let start = located.payload_offset() + u64::from(offset);
        self.journal.read_vec(located.position.segment, start, length)
    }

    /// What the feed says, and how far it has been read. Takes effect in order, soon.
    pub(crate) fn follow(&self, mut items: Vec<FeedItem>, position: Option<(u64, u64)>) {
        // A disk without a number has no place in any row.
        let Some(own) = self.id() else { return };
        items.retain(|item| !matches!(item, FeedItem::Released { disk, .. } if *disk != own));
        let _ = self.work.send(Work::Feed(own, items, position));
    }

    /// What the metadata nodes know of these pieces. Takes effect in order, soon.
    pub(crate) fn reconcile(&self, asked: Vec<PoolChunk>, known: PiecesKnown) {
        let _ = self.work.send(Work::Known(asked, known));
    }

    /// How far the feed has been read, and in which life of the metadata; none if it never was.
    pub(crate) fn feed(&self) -> Result<Option<(u64, u64)>, StoreError> {
        self.indexed(self.reader.feed())
    }

    /// Whether what the metadata nodes knew at this index is known here too: the feed has been read up to it,
    /// and no walk over all pieces is under way.
    pub(crate) fn is_abreast(&self, index: u64) -> bool {
        !self.books.walking() && matches!(self.reader.feed(), Ok(Some((position, _))) if position >= index)
    }

    /// A walk over all pieces begins, or has ended.
    pub(crate) fn set_walking(&self, walking: bool) {
        self.books.set_walking(walking);
    }

    /// How far the feed has been read; none while that is not the whole of it.
    pub(crate) fn feed_position(&self) -> Option<u64> {
        if self.books.walking() {
            return None;
        }
        self.feed().ok().flatten().map(|(position, _)| position)
    }

    /// Chunks of which this slot's piece is here and committed, from one id to another, both inclusive.
    /// Copies are as good in any slot. Blocking.
    pub(crate) fn live_between(
        &self,
        pool: PoolId,
        range: (ChunkId, ChunkId),
        slot: u8,
    ) -> Result<Vec<ChunkId>, StoreError> {
        const PAGE: usize = 1024;
        let (mut live, mut after) = (Vec::new(), None);
        loop {
            let page = self.indexed(self.reader.pieces_between(pool, range, after.as_ref(), PAGE))?;
            for key in &page {
                let located = self.indexed(self.reader.get(key))?;
                if located.is_some_and(|l| l.state == PieceState::Live && l.fits(slot)) {
                    live.push(key.chunk);
                }
            }
            after = page.last().copied().filter(|_| page.len() == PAGE);
            if after.is_none() {
                return Ok(live);
            }
        }
    }

    /// Pieces that are not known to be committed.
    pub(crate) fn staged(
        &self,
        after: Option<&PoolChunk>,
        limit: usize,
    ) -> Result<Vec<PoolChunk>, StoreError> {
        self.indexed(self.reader.staged(after, limit))
    }

    /// All pieces.
    pub(crate) fn pieces(
        &self,
        after: Option<&PoolChunk>,
        limit: usize,
    ) -> Result<Vec<PoolChunk>, StoreError> {
        self.indexed(self.reader.pieces(after, limit))
    }

    pub(crate) fn flush(&self) {
        self.reader.flush();
    }
}

impl Drop for DiskStore {
    /// The compactor first, then the keeper that it talks to; the journal's writer goes with the journal.
    fn drop(&mut self) {
        drop(self.compacting.take());
        if let Some(thread) = self.compactor.take() {
            let _ = thread.join();
        }
        let _ = self.work.send(Work::Stop);
        if let Some(thread) = self.keeper.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
