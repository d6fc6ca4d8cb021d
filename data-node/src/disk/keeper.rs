//! The thread that keeps the index: everything that waits becomes one batch, in the order in which it came.
//! It alone decides what becomes of a piece, so a deletion, a promise and a move of the same piece never
//! overtake each other.
//!
//! A piece goes in this order: trash in the index (nobody sees it any more), tombstone durable in the
//! journal, forgotten by the index. One that is being moved is buried only once the move has ended, up to
//! where it was moved to.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use wmall_journal::{AppendError, Journal, Position, Record};
use wmall_proto::feed::{FeedItem, PiecesKnown, PoolChunk};
use wmall_proto::rpc::DoubtedPiece;
use wmall_proto::{DiskId, ErrorCode, PgId, PoolId, RpcError};
use wmall_runtime::view::StoreError;

use super::books::Books;
use super::index::{Index, IndexBatch, PieceState};
use super::piece::{Entry, KIND_TOMBSTONE, PieceHeader, Tombstone};

/// Entries that one batch of the index takes.
const BATCH: usize = 512;
/// How often the index is written out, which bounds what the next start replays.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// A piece that was copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) key: PoolChunk,
    pub(super) from: Position,
    /// None if the copy did not come about.
    pub(super) to: Option<Position>,
}

/// What the keeper is told.
pub(super) enum Work {
    /// A piece is durable in the journal.
    Piece(PieceHeader, u32, Position, oneshot::Sender<Result<(), RpcError>>),
    /// A promise of a piece to an upload is durable; the answer says whether the piece is still there.
    Stamp(PieceHeader, Position, oneshot::Sender<Result<bool, RpcError>>),
    /// What the feed says to the disk of this number, up to a place of it in a life of the metadata.
    Feed(DiskId, Vec<FeedItem>, Option<(u64, u64)>),
    /// What the metadata nodes know of these pieces.
    Known(Vec<PoolChunk>, PiecesKnown),
    /// A tombstone is durable.
    Buried(Tombstone),
    /// These found no room, or too much was waiting before them.
    Unburied(Vec<Tombstone>),
    /// A piece whose bytes are not what they should be: it goes, whatever holds it, and is reported.
    Rotten(PoolChunk, Position),
    /// Compaction wants to move these; the answer says which are still there.
    BeginMoves(Vec<(PoolChunk, Position)>, mpsc::Sender<Vec<bool>>),
    /// It has, or has given up.
    EndMoves(Vec<Move>, mpsc::Sender<()>),
    /// A segment is about to go: everything before must be in the view on disk.
    Barrier(mpsc::Sender<bool>),
    /// A segment is gone.
    Retired(u64),
    /// The metadata nodes know that something was lost.
    LossReported,
    /// The disk is closed.
    Stop,
}

pub(super) struct Keeper {
    pub(super) index: Index,
    pub(super) journal: Arc<Journal>,
    pub(super) books: Arc<Books>,
    /// The keeper's own way in, for the completions of its tombstones.
    pub(super) work: mpsc::Sender<Work>,
    /// Pieces that are being moved, and whether they are to be buried once that has ended.
    moving: HashMap<PoolChunk, bool>,
    batch: IndexBatch,
    burials: Vec<Tombstone>,
    /// Tombstones that are tried again a little later.
    unburied: Vec<Tombstone>,
}

/// Answers that are due once the batch is in.
enum Reply {
    Piece(oneshot::Sender<Result<(), RpcError>>),
    Stamp(oneshot::Sender<Result<bool, RpcError>>, bool),
    Moves(mpsc::Sender<()>),
}

/// Whether a disk says what it lacks. One that lies about what it has does not, and there is none but in
/// tests.
fn is_honest() -> bool {
    #[cfg(feature = "testing")]
    let honest = !crate::lies::told().false_receipts;
    #[cfg(not(feature = "testing"))]
    let honest = true;
    honest
}

fn overtaken() -> RpcError {
    RpcError::new(ErrorCode::StaleRow, "the slot moved while the piece was written")
        .hint("read the map again")
}

impl Keeper {
    pub(super) fn new(
        index: Index,
        journal: Arc<Journal>,
        books: Arc<Books>,
        work: mpsc::Sender<Work>,
    ) -> Self {
        let (moving, batch) = (HashMap::new(), IndexBatch::default());
        Self { index, journal, books, work, moving, batch, burials: Vec::new(), unburied: Vec::new() }
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Work>) {
        let mut flushed = Instant::now();
        self.bury_what_was_left();
        while let Ok(first) = queue.recv() {
            let mut works = vec![first];
            works.extend(queue.try_iter().take(BATCH - 1));
            let stop = works.iter().any(|w| matches!(w, Work::Stop));
            let mut replies = Vec::new();
            let outcome = self.take_guarded(works, &mut replies);
            self.answer(replies, &outcome);
            self.bury();
            if stop {
                return;
            }
            // Something comes every second: the feed does.
            if flushed.elapsed() >= FLUSH_EVERY {
                self.index.reader().flush();
                flushed = Instant::now();
                self.burials.append(&mut self.unburied);
                self.bury();
            }
        }
    }

    fn answer(&self, replies: Vec<Reply>, outcome: &Result<(), StoreError>) {
        let failed = |e: &StoreError| RpcError::internal(e);
        for reply in replies {
            // A caller that is gone has given up on the answer.
            match reply {
                Reply::Piece(sender) => drop(sender.send(outcome.as_ref().map(|_| ()).map_err(failed))),
                Reply::Stamp(sender, there) => {
                    drop(sender.send(outcome.as_ref().map(|_| there).map_err(failed)));
                }
                Reply::Moves(sender) => drop(sender.send(())),
            }
        }
    }

    /// Once the index has failed, by an error or by sled's panic, nothing is entered any more and every
    /// answer is that error: a batch that was lost must not be followed by one that says how far the index
    /// is.
    fn take_guarded(&mut self, works: Vec<Work>, replies: &mut Vec<Reply>) -> Result<(), StoreError> {
        if self.books.failed() {
            return Err(StoreError("the index failed before".into()));
        }
        let taking = std::panic::AssertUnwindSafe(|| self.take(works, replies));
        let outcome =
            std::panic::catch_unwind(taking).unwrap_or_else(|_| Err(StoreError("the index panicked".into())));
        if let Err(error) = &outcome {
            tracing::error!(%error, "the index failed; it is built anew at the next start");
            self.books.fail();
            self.index.reader().distrust();
            self.burials.clear();
        }
        outcome
    }

    fn take(&mut self, works: Vec<Work>, replies: &mut Vec<Reply>) -> Result<(), StoreError> {
        for work in works {
            self.take_one(work, replies)?;
        }
        self.apply()
    }

    fn apply(&mut self) -> Result<(), StoreError> {
        self.index.apply(std::mem::take(&mut self.batch))?;
        self.books.set(&self.index);
        Ok(())
    }

    fn take_one(&mut self, work: Work, replies: &mut Vec<Reply>) -> Result<(), StoreError> {
        let Self { index, batch, .. } = self;
        match work {
            Work::Piece(header, length, position, reply) => {
                if index.piece(batch, &header, position, length)? {
                    replies.push(Reply::Piece(reply));
                } else {
                    let _ = reply.send(Err(overtaken()));
                }
            }
            Work::Stamp(header, position, reply) => {
                let held = index.held(batch, &header.key())?;
                let there = held.is_some_and(|h| h.located.state != PieceState::Trash);
                replies.push(Reply::Stamp(reply, there));
                index.enter(batch, &Entry::Stamp(header), position, 0)?;
            }
            Work::Feed(own, items, position) => {
                items.iter().try_for_each(|item| self.follow(own, item))?;
                if let Some((position, epoch)) = position {
                    self.index.set_feed(&mut self.batch, position, epoch);
                }
            }
            Work::Known(asked, known) => self.reconcile(&asked, &known)?,
            Work::Buried(tombstone) => index.bury(batch, &tombstone.key, tombstone.up_to)?,
            Work::Unburied(mut tombstones) => self.unburied.append(&mut tombstones),
            Work::Rotten(key, position) => self.discard(&key, position)?,
            Work::BeginMoves(pieces, reply) => {
                let answers = self.begin_moves(&pieces)?;
                let _ = reply.send(answers);
            }
            Work::EndMoves(moves, reply) => {
                moves.iter().try_for_each(|m| self.end_move(m))?;
                replies.push(Reply::Moves(reply));
            }
            Work::Barrier(reply) => {
                self.apply()?;
                self.index.reader().flush();
                let _ = reply.send(!self.books.failed());
            }
            Work::Retired(segment) => index.forget_segment(batch, segment),
            Work::LossReported => {
                index.set_lost(batch, false);
                self.books.set_lost(false);
            }
            Work::Stop => {}
        }
        Ok(())
    }

    fn follow(&mut self, own: DiskId, item: &FeedItem) -> Result<(), StoreError> {
        match item {
            FeedItem::Committed { chunk, counted } => {
                let there = self.index.settle(&mut self.batch, chunk)?;
                if !there && counted.contains(&own) && is_honest() {
                    tracing::error!(chunk = %chunk.chunk, "a piece that a commit counts on is not here");
                    self.books.add_rotten(*chunk);
                }
                if there && self.books.take_replaced(chunk) {
                    self.doubt(chunk)?;
                }
                Ok(())
            }
            FeedItem::Deleted(chunk) => self.release(chunk),
            FeedItem::Released { pool, pg, pg_bits, .. } => self.release_group(*pool, *pg, *pg_bits),
            FeedItem::Fenced { before_ms } => {
                self.index.set_fence(&mut self.batch, *before_ms);
                Ok(())
            }
        }
    }

    /// A commit may stand on a promise of a shard whose place another one has taken. The metadata nodes know
    /// what was committed.
    fn doubt(&self, key: &PoolChunk) -> Result<(), StoreError> {
        if let Some(held) = self.index.held(&self.batch, key)? {
            let (slot, digest) = (held.located.slot, held.located.digest(key));
            self.books.add_doubted(DoubtedPiece { key: *key, slot, digest });
        }
        Ok(())
    }

    fn reconcile(&mut self, asked: &[PoolChunk], known: &PiecesKnown) -> Result<(), StoreError> {
        self.index.set_fence(&mut self.batch, known.fenced_before_ms);
        let committed: std::collections::HashSet<&PoolChunk> = known.committed.iter().collect();
        for key in asked {
            if committed.contains(key) {
                self.index.settle(&mut self.batch, key)?;
            } else if !known.deletion_held {
                self.release(key)?;
            }
        }
        Ok(())
    }

    fn release(&mut self, key: &PoolChunk) -> Result<(), StoreError> {
        if let Some(up_to) = self.index.release(&mut self.batch, key)? {
            self.bury_later(*key, up_to);
        }
        Ok(())
    }

    /// The disk has no more to do with a group: its pieces go, but for those that uploads are promised.
    fn release_group(&mut self, pool: PoolId, pg: PgId, bits: u8) -> Result<(), StoreError> {
        let (low, high) = pg.range(bits);
        let mut keys: BTreeSet<PoolChunk> =
            self.index.changed_between(&self.batch, pool, (low, high)).collect();
        let mut after = None;
        loop {
            let page = self.index.reader().pieces_between(pool, (low, high), after.as_ref(), BATCH)?;
            after = page.last().copied().filter(|_| page.len() == BATCH);
            keys.extend(page);
            if after.is_none() {
                break;
            }
        }
        // Within the batch: its place in the feed goes with it, and nothing is told twice.
        keys.iter().try_for_each(|key| self.release(key))
    }

    fn discard(&mut self, key: &PoolChunk, position: Position) -> Result<(), StoreError> {
        let held = self.index.held(&self.batch, key)?;
        if let Some(held) =
            held.filter(|h| h.located.position == position && h.located.state != PieceState::Trash)
        {
            let up_to = self.index.discard(&mut self.batch, key, held)?;
            self.bury_later(*key, up_to);
            // Not before: its chunk may be committed only now, and a commit of before found the piece here.
            self.books.add_rotten(*key);
        }
        Ok(())
    }

    fn bury_later(&mut self, key: PoolChunk, up_to: Position) {
        match self.moving.get_mut(&key) {
            Some(wanted) => *wanted = true,
            None => self.burials.push(Tombstone { key, up_to }),
        }
    }

    fn begin_moves(&mut self, pieces: &[(PoolChunk, Position)]) -> Result<Vec<bool>, StoreError> {
        let mut answers = Vec::with_capacity(pieces.len());
        for (key, position) in pieces {
            let held = self.index.held(&self.batch, key)?;
            let there =
                held.is_some_and(|h| h.located.position == *position && h.located.state != PieceState::Trash);
            if there {
                self.moving.insert(*key, false);
            }
            answers.push(there);
        }
        Ok(answers)
    }

    fn end_move(&mut self, done: &Move) -> Result<(), StoreError> {
        let bury = self.moving.remove(&done.key).unwrap_or(false);
        if let Some(to) = done.to {
            self.index.moved(&mut self.batch, &done.key, done.from, to)?;
        }
        if bury {
            let copied = done.to.unwrap_or(done.from);
            // It may have come again while it was moved, and then only what was before is over.
            let up_to = match self.index.held(&self.batch, &done.key)? {
                Some(held) if held.located.state == PieceState::Trash => held.located.position.max(copied),
                Some(_) => done.from,
                None => copied,
            };
            self.burials.push(Tombstone { key: done.key, up_to });
        }
        Ok(())
    }

    /// Trash of an earlier run whose tombstones were not written, or not known to be.
    fn bury_what_was_left(&mut self) {
        let left = self.index.reader().trash(usize::MAX).unwrap_or_default();
        for key in left {
            if let Ok(Some(held)) = self.index.held(&self.batch, &key) {
                self.burials.push(Tombstone { key, up_to: held.located.position });
            }
        }
        self.bury();
    }

    /// Appends the tombstones that are due. Those that find no room are tried again; until then their pieces
    /// stay trash.
    fn bury(&mut self) {
        for chunk in self.burials.chunks(BATCH) {
            let tombstones = chunk.to_vec();
            let record =
                |t: &Tombstone| Record { kind: KIND_TOMBSTONE, meta: t.encode(), ..Record::default() };
            let records = tombstones.iter().map(record).collect();
            let work = self.work.clone();
            self.journal.append_maintenance(records, move |outcome: Result<Vec<Position>, AppendError>| {
                match outcome {
                    Ok(_) => tombstones.into_iter().for_each(|t| drop(work.send(Work::Buried(t)))),
                    Err(error) => {
                        tracing::warn!(%error, "tombstones could not be written; they are tried again");
                        let _ = work.send(Work::Unburied(tombstones));
                    }
                }
            });
        }
        self.burials.clear();
    }
}
