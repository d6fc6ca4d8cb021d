//! Compaction: what is still wanted of a segment of which enough is dead (`worth.rs`) is copied to the tail,
//! and the segment goes.
//!
//! Order: the copies are durable; the index points to them; the index is written out; the segment is listed
//! as retired; it is unlinked. A tombstone is carried along as long as an older segment is there that may
//! hold what it ended. A piece that turns out rotten or unreadable is not copied: it is reported and goes.
//! Where records can't be made out, the index says which pieces are there.
//!
//! One thread a disk. At most [`BATCH_BYTES`] are in memory. Between batches it rests as long as the last
//! one took, unless the disk is short of room: foreground requests go first.

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use wmall_journal::{Damage, Journal, OpenError, Position, Record, Trouble};
use wmall_proto::feed::PoolChunk;

use super::books::Books;
use super::index::{Held, IndexReader, PieceState};
use super::keeper::{Move, Work};
use super::piece::{Entry, KIND_COPY, KIND_STAMP, KIND_TOMBSTONE, PieceHeader, Tombstone, header_length};
use super::worth::{AT_EASE, Sealed, Tight, least_garbage, victim};
use wmall_proto::UploadId;
use wmall_runtime::view::StoreError;

/// Bytes that are copied together.
const BATCH_BYTES: u64 = 8 << 20;
/// Records that are copied together: fewer than the journal's queue takes.
const BATCH_RECORDS: usize = 1024;
/// A segment that could not be compacted is left alone for so long.
const GIVE_UP_FOR: Duration = Duration::from_secs(60);
/// A disk that was found full is given a try after so long: room may have come from elsewhere.
const FULL_FOR: Duration = Duration::from_secs(30);
/// Pieces that are looked through at once for those of a damaged place.
const PAGE: usize = 4096;
/// Bytes that a tombstone takes in a segment.
const TOMBSTONE_BYTES: u64 = 96;
/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Compactor {
    pub(super) journal: Arc<Journal>,
    pub(super) reader: IndexReader,
    pub(super) books: Arc<Books>,
    pub(super) work: mpsc::Sender<Work>,
    /// Makes room for copies when the file system itself is full.
    pub(super) ballast: wmall_runtime::ballast::Ballast,
    pub(super) name: String,
    /// Bytes that the segments may take, but for those that are kept for compaction.
    pub(super) room: u64,
    /// Segments with too little garbage.
    pub(super) tight: Tight,
    /// Segments that could not be compacted, and when.
    pub(super) given_up: Vec<(u64, Instant)>,
    /// The segment that must go first, since it keeps too many tombstones alive.
    pub(super) first: Option<u64>,
}

/// Why a segment was left as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Left {
    #[error("it cannot be read")]
    Read(#[from] OpenError),
    #[error("a piece cannot be read: {0}")]
    Piece(std::io::Error),
    #[error("a copy could not be written: {0}")]
    Append(#[from] wmall_journal::AppendError),
    #[error("the index cannot be read: {0}")]
    Index(#[from] StoreError),
    #[error("it could not be removed: {0}")]
    Retire(std::io::Error),
    #[error("something in it is still wanted")]
    StillWanted,
    #[error("it is mostly tombstones, which the oldest segment keeps alive")]
    OldestFirst(u64),
    #[error("only a part of {0} of it is garbage")]
    Tight(f64),
    #[error("the disk is being closed")]
    Closing,
}

/// A record to carry over.
pub(super) enum Carried {
    Piece(PieceHeader, Position, u32),
    Stamp(PieceHeader),
    Tombstone(Tombstone),
}

impl Compactor {
    /// Runs until the other end of `stop` is dropped.
    pub(super) fn run(mut self, stop: &mpsc::Receiver<()>) {
        let mut looked = Instant::now();
        while let Err(mpsc::RecvTimeoutError::Timeout) = stop.recv_timeout(LOOK_EVERY) {
            self.given_up.retain(|(_, at)| at.elapsed() < GIVE_UP_FOR);
            if self.ballast.relieve() {
                looked = Instant::now();
                self.books.set_full(true);
            }
            if looked.elapsed() >= FULL_FOR {
                looked = Instant::now();
                self.books.set_full(false);
            }
            if self.sweep(stop).is_break() {
                return;
            }
            self.ballast.restore();
        }
    }

    /// Compacts as long as something is worth it. Breaks if the disk is being closed.
    pub(super) fn sweep(&mut self, stop: &mpsc::Receiver<()>) -> ControlFlow<()> {
        while let Some((victim, least)) = self.victim() {
            let segment = victim.number;
            match self.compact(segment, least, stop) {
                Ok(()) => {
                    self.books.set_full(false);
                    tracing::info!(disk = %self.name, segment, "a segment was compacted away");
                }
                Err(Left::Closing) => return ControlFlow::Break(()),
                // If that one can't go, neither can this.
                Err(Left::OldestFirst(oldest)) if self.is_given_up(oldest) => {
                    self.given_up.push((segment, Instant::now()));
                }
                Err(Left::OldestFirst(oldest)) => self.first = Some(oldest),
                Err(Left::Tight(garbage)) => self.tight.note(victim, self.oldest(), garbage),
                Err(error) => {
                    tracing::warn!(%error, disk = %self.name, segment, "a segment stays as it is");
                    self.given_up.push((segment, Instant::now()));
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// What is compacted next, and what part of it has to be garbage.
    fn victim(&mut self) -> Option<(Sealed, f64)> {
        if self.books.failed() || self.journal.fenced().is_some() {
            return None;
        }
        let mut segments = self.journal.segments();
        let newest = segments.pop()?;
        let wanted = self.books.wanted();
        let of = |number: u64| wanted.get(&number).copied().unwrap_or(0);
        let sealed = |&number: &u64| {
            let size = self.journal.segment_bytes(number).unwrap_or(0);
            Sealed { number, size, wanted: of(number) }
        };
        let segments: Vec<Sealed> = segments.iter().map(sealed).collect();
        if let Some(first) = self.first.take() {
            return segments.iter().find(|s| s.number == first).map(|s| (*s, 0.0));
        }
        let used = segments.iter().map(|s| s.size).sum::<u64>() + of(newest);
        let least = least_garbage(used as f64 / self.room.max(1) as f64, self.books.full());
        let candidates: Vec<Sealed> = segments.into_iter().filter(|s| !self.is_given_up(s.number)).collect();
        let oldest = self.oldest();
        victim(&candidates, oldest, &mut self.tight, least).map(|segment| (segment, least))
    }

    fn is_given_up(&self, segment: u64) -> bool {
        self.given_up.iter().any(|(given, _)| *given == segment)
    }

    fn oldest(&self) -> u64 {
        self.journal.segments().first().copied().unwrap_or_default()
    }

    /// Carries over what is wanted of a segment and removes it, if at least this part of it is garbage.
    pub(super) fn compact(&self, segment: u64, least: f64, stop: &mpsc::Receiver<()>) -> Result<(), Left> {
        // Records of a segment that was sealed a moment ago may still be on their way into the index.
        self.catch_up()?;
        let (carried, garbage) = self.wanted_of(segment)?;
        let oldest = self.oldest();
        let stones = carried.iter().filter(|c| matches!(c, Carried::Tombstone(_))).count() as u64;
        let size = self.journal.segment_bytes(segment).unwrap_or(u64::MAX) as f64;
        let (garbage, stones) = (garbage as f64 / size, (stones * TOMBSTONE_BYTES) as f64 / size);
        // Others are moved for the sake of tombstones only where much would go with these.
        if segment != oldest && stones > 0.25 && garbage + stones >= least.max(AT_EASE) {
            return Err(Left::OldestFirst(oldest));
        }
        if garbage < least && !carried.is_empty() {
            return Err(Left::Tight(garbage));
        }
        let mut rest = carried.as_slice();
        while !rest.is_empty() {
            let batch;
            (batch, rest) = rest.split_at(batch_length(rest));
            let started = Instant::now();
            self.carry(batch)?;
            let pause = if self.books.full() { Duration::ZERO } else { started.elapsed() };
            if !matches!(stop.recv_timeout(pause), Err(mpsc::RecvTimeoutError::Timeout)) {
                return Err(Left::Closing);
            }
        }
        self.finish(segment)
    }

    /// What of a segment must be carried over, and how many bytes of it are garbage.
    pub(super) fn wanted_of(&self, segment: u64) -> Result<(Vec<Carried>, u64), Left> {
        let (mut carried, mut garbage, mut gaps) = (Vec::new(), 0, Vec::new());
        let (oldest, mut failed) = (self.oldest(), None);
        let visit = |found: wmall_journal::Found<'_>| {
            let Some(entry) = Entry::decode(found.kind, found.meta) else { return Err("unknown".into()) };
            match self.wanted(&entry, found.position, found.payload_length, oldest) {
                Ok(Some(wanted)) => carried.push(wanted),
                Ok(None) => garbage += Journal::record_bytes(found.meta.len(), found.payload_length as usize),
                Err(error) => failed = Some(error),
            }
            Ok(())
        };
        let damaged = |damage: Damage<'_>| {
            tracing::error!(?damage, disk = %self.name, "a damaged place in a segment");
            if let Damage::Gap { from, to, .. } = damage {
                gaps.push(from..to);
            }
        };
        self.journal.scan(segment, visit, damaged)?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if !gaps.is_empty() {
            let in_gap =
                |at: &Position| at.segment == segment && gaps.iter().any(|gap| gap.contains(&at.offset));
            self.pieces_at(in_gap, &mut carried)?;
        }
        Ok((carried, garbage))
    }

    /// Pieces whose headers can't be made out any more, and marks whose records may have been there. The
    /// index knows all that a copy or a stamp needs but the upload; one that began at the mark holds them as
    /// long.
    fn pieces_at(
        &self,
        there: impl Fn(&Position) -> bool,
        carried: &mut Vec<Carried>,
    ) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.reader.pieces(after.as_ref(), PAGE)?;
            for key in &page {
                let Some(Held { located, held_until_ms }) = self.reader.held(key)? else { continue };
                let is_there = there(&located.position);
                let is_held = held_until_ms >= self.books.fenced_before_ms();
                if located.state == PieceState::Trash || !(is_there || is_held) {
                    continue;
                }
                let header = PieceHeader {
                    pool: key.pool,
                    chunk: key.chunk,
                    slot: located.slot,
                    upload: UploadId::new(held_until_ms, [0; 10]),
                    row_version: located.row_version,
                    shard: located.shard,
                };
                carried.push(match is_there {
                    true => Carried::Piece(header, located.position, located.length),
                    // A promise that is known from elsewhere too is made once more, which changes nothing.
                    false => Carried::Stamp(header),
                });
            }
            after = page.last().copied();
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Waits until all that the keeper has been told is in the index.
    fn catch_up(&self) -> Result<(), Left> {
        let (sender, done) = mpsc::channel();
        self.tell(Work::EndMoves(Vec::new(), sender))?;
        done.recv().map_err(|_| Left::Closing)
    }

    /// What of a record must be carried over, if anything.
    fn wanted(
        &self,
        entry: &Entry,
        position: Position,
        length: u32,
        oldest: u64,
    ) -> Result<Option<Carried>, StoreError> {
        let held = |header: &PieceHeader| self.reader.held(&header.key());
        Ok(match entry {
            Entry::Piece(header) | Entry::Copy(header) => {
                let Some(held) = held(header)?.filter(|h| h.located.state != PieceState::Trash) else {
                    return Ok(None);
                };
                if held.located.position == position {
                    return Ok(Some(Carried::Piece(*header, position, length)));
                }
                // A later piece has replaced it, and its upload may still commit.
                self.marks(&held, header).then_some(Carried::Stamp(*header))
            }
            Entry::Stamp(header) => {
                let marks = held(header)?.is_some_and(|held| self.marks(&held, header));
                marks.then_some(Carried::Stamp(*header))
            }
            Entry::Tombstone(tombstone) => {
                // A piece that is there now replaces what was, on every replay; else the end must stand as
                // long as there is something before it.
                let absent = self.reader.get(&tombstone.key)?.is_none();
                let needed = absent && oldest < position.segment && oldest <= tombstone.up_to.segment;
                needed.then_some(Carried::Tombstone(*tombstone))
            }
        })
    }

    /// Whether a record is what a piece's mark is known from. A later one than the mark is on its way into
    /// the index.
    fn marks(&self, held: &Held, header: &PieceHeader) -> bool {
        let started = header.upload.started_ms();
        started >= held.held_until_ms.max(self.books.fenced_before_ms())
    }

    pub(super) fn carry(&self, batch: &[Carried]) -> Result<(), Left> {
        let pieces: Vec<(PoolChunk, Position)> = batch
            .iter()
            .filter_map(|c| match c {
                Carried::Piece(header, position, _) => Some((header.key(), *position)),
                _ => None,
            })
            .collect();
        let (sender, answers) = mpsc::channel();
        self.tell(Work::BeginMoves(pieces, sender))?;
        let mut still = answers.recv().map_err(|_| Left::Closing)?.into_iter();
        let (mut records, mut moves) = (Vec::new(), Vec::new());
        let mut trouble = None;
        for carried in batch {
            match carried {
                Carried::Piece(header, position, length) => {
                    if !still.next().unwrap_or(false) {
                        // A piece that came meanwhile has its place; what this one was promised for stands.
                        let held = self.reader.held(&header.key());
                        match held.map(|held| held.is_some_and(|held| self.marks(&held, header))) {
                            Ok(true) => records.push((None, stamp(header))),
                            Ok(false) => {}
                            Err(error) => trouble = Some(error.into()),
                        }
                        continue;
                    }
                    moves.push(Move { key: header.key(), from: *position, to: None });
                    match self.read(header, *position, *length) {
                        Ok(Some(record)) => records.push((Some(moves.len() - 1), record)),
                        Ok(None) => self.report(header, *position)?,
                        Err(error) => trouble = Some(Left::Piece(error)),
                    }
                }
                Carried::Stamp(header) => records.push((None, stamp(header))),
                Carried::Tombstone(tombstone) => {
                    let meta = tombstone.encode();
                    records.push((None, Record { kind: KIND_TOMBSTONE, meta, ..Record::default() }));
                }
            }
        }
        let outcome = match trouble {
            Some(trouble) => Err(trouble),
            None => self.append(records, &mut moves),
        };
        // Whatever came of it, the pieces are not being moved any more.
        let (sender, ended) = mpsc::channel();
        self.tell(Work::EndMoves(moves, sender))?;
        let _ = ended.recv();
        outcome
    }

    /// Appends the copies, one record after another, and notes where they went.
    fn append(&self, records: Vec<(Option<usize>, Record)>, moves: &mut [Move]) -> Result<(), Left> {
        let (of, mut records): (Vec<_>, Vec<_>) = records.into_iter().unzip();
        if records.is_empty() {
            return Ok(());
        }
        let mut positions = self.append_once(records.clone());
        if matches!(positions, Err(wmall_journal::AppendError::Full)) && self.ballast.drop_it() {
            positions = self.append_once(std::mem::take(&mut records));
        }
        for (of, position) in of.into_iter().zip(positions?) {
            if let Some(i) = of {
                moves[i].to = Some(position);
            }
        }
        Ok(())
    }

    fn append_once(&self, records: Vec<Record>) -> Result<Vec<Position>, wmall_journal::AppendError> {
        // Each record is an append of its own, so that none needs a segment for all of them.
        let mut waiting = Vec::with_capacity(records.len());
        for record in records {
            let (sender, receiver) = mpsc::channel();
            self.journal.append_maintenance(vec![record], move |outcome| {
                let _ = sender.send(outcome);
            });
            waiting.push(receiver);
        }
        let mut positions = Vec::with_capacity(waiting.len());
        for receiver in waiting {
            positions.extend(receiver.recv().unwrap_or(Err(wmall_journal::AppendError::Closed))?);
        }
        Ok(positions)
    }

    /// A piece's copy; none if its bytes are not what they should be, or can't be read.
    fn read(&self, header: &PieceHeader, position: Position, length: u32) -> std::io::Result<Option<Record>> {
        let start = Journal::payload_offset(position, header_length(header.shard.as_ref()));
        let bytes = match self.journal.read_vec(position.segment, start, length as usize) {
            Err(error) if Trouble::of(&error) == Trouble::Medium => return Ok(None),
            read => read?,
        };
        if *blake3::hash(&bytes).as_bytes() != header.digest() {
            return Ok(None);
        }
        let payload = vec![bytes.into()];
        Ok(Some(Record { kind: KIND_COPY, meta: header.encode(), payload, payload_crc: None, cold: true }))
    }

    fn report(&self, header: &PieceHeader, position: Position) -> Result<(), Left> {
        tracing::error!(disk = %self.name, chunk = %header.chunk, "a piece is rotten");
        self.tell(Work::Rotten(header.key(), position))
    }

    /// Everything is carried over: the index is written out, then the segment goes.
    pub(super) fn finish(&self, segment: u64) -> Result<(), Left> {
        let (sender, written) = mpsc::channel();
        self.tell(Work::Barrier(sender))?;
        if !written.recv().map_err(|_| Left::Closing)? {
            return Err(Left::Closing);
        }
        if self.books.wanted().get(&segment).copied().unwrap_or(0) > 0 {
            return Err(Left::StillWanted);
        }
        self.journal.retire(segment).map_err(Left::Retire)?;
        self.tell(Work::Retired(segment))
    }

    fn tell(&self, work: Work) -> Result<(), Left> {
        self.work.send(work).map_err(|_| Left::Closing)
    }
}

fn stamp(header: &PieceHeader) -> Record {
    Record { kind: KIND_STAMP, meta: header.encode(), ..Record::default() }
}

/// How many records are carried together.
fn batch_length(carried: &[Carried]) -> usize {
    let mut bytes = 0;
    let fits = |c: &&Carried| {
        bytes += match c {
            Carried::Piece(_, _, length) => u64::from(*length),
            _ => 64,
        };
        bytes <= BATCH_BYTES
    };
    carried.iter().take(BATCH_RECORDS).take_while(fits).count().max(1)
}
