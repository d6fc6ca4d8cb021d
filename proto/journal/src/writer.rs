//! The writer's thread and the queue before it.
//!
//! Group commit without a timer: while one batch is being synced the next one gathers, so a lone
//! append waits for nobody and a crowd shares each sync.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::disk::DiskFile;
use crate::format::{
    KIND_MARK, KIND_SEAL, Position, RecordHeader, SEAL_SIZE, SEGMENT_FOOTER, SEGMENT_HEADER,
    SEGMENT_OVERHEAD, Salt,
};
use crate::journal::{AppendError, Completion, Record};
use crate::recover::Tail;
use crate::segment::{Segment, Segments};
use crate::syncs::Syncs;
use crate::trouble::Trouble;

/// A batch is closed once it has this many bytes.
pub(crate) const BATCH_BYTES: u64 = 4 << 20;
/// Or this many appends.
const BATCH_APPENDS: usize = 128;
/// A batch smaller than this has zeros written ahead of it; a larger one is not worth it.
const SMALL_BATCH: u64 = 256 << 10;
/// What is cold goes past the page cache if there is so much of it in one piece.
const LONG: u64 = 256 << 10;
/// How far ahead.
const ZERO_AHEAD: u64 = 2 << 20;
/// So long after the last batch it gets a mark behind it.
const IDLE: Duration = Duration::from_millis(50);
/// Between two words about what the process is short of.
const WARN_EVERY: Duration = Duration::from_secs(1);
/// The most appends that may wait, whatever their size.
const QUEUE_APPENDS: usize = 8192;

pub(crate) struct Append {
    pub(crate) records: Vec<Record>,
    pub(crate) done: Completion,
    /// Whether it may use the reserve.
    pub(crate) maintenance: bool,
}

impl Append {
    fn bytes(&self) -> u64 {
        self.records.iter().map(Record::size).sum()
    }
}

#[derive(Default)]
struct QueueState {
    appends: VecDeque<Append>,
    bytes: u64,
    closed: bool,
    fenced: Option<String>,
}

/// Bounded in appends and bytes; a full queue answers `Busy` at once.
pub(crate) struct Queue {
    limit: u64,
    state: Mutex<QueueState>,
    news: Condvar,
}

impl Queue {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit as u64, state: Mutex::default(), news: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The append comes back with the error, so that its completion is called outside the lock.
    #[allow(clippy::result_large_err)]
    pub(crate) fn push(&self, append: Append) -> Result<(), (Append, AppendError)> {
        let bytes = append.bytes();
        let mut state = self.lock();
        if let Some(why) = &state.fenced {
            let error = AppendError::Fenced(why.clone());
            return Err((append, error));
        }
        if state.closed {
            return Err((append, AppendError::Closed));
        }
        // An append alone in the queue always fits, so the limit never refuses for good.
        let full = !state.appends.is_empty() && state.bytes + bytes > self.limit;
        if full || state.appends.len() >= QUEUE_APPENDS {
            return Err((append, AppendError::Busy));
        }
        state.bytes += bytes;
        state.appends.push_back(append);
        self.news.notify_one();
        Ok(())
    }

    /// Waits for appends and takes a batch of them: an empty one if none has come for a while and `wake` asks
    /// for that; none once closed and empty.
    fn take(&self, wake: bool) -> Option<Vec<Append>> {
        let mut state = self.lock();
        while state.appends.is_empty() {
            if state.closed {
                return None;
            }
            if !wake {
                state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.news.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if waited.1.timed_out() && state.appends.is_empty() && !state.closed {
                return Some(Vec::new());
            }
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = state.appends.front() {
            let size = next.bytes();
            if !batch.is_empty() && (bytes + size > BATCH_BYTES || batch.len() >= BATCH_APPENDS) {
                break;
            }
            bytes += size;
            batch.extend(state.appends.pop_front());
        }
        state.bytes -= bytes;
        Some(batch)
    }

    fn fence(&self, why: &str) -> Vec<Append> {
        let mut state = self.lock();
        state.fenced = Some(why.to_string());
        state.bytes = 0;
        state.appends.drain(..).collect()
    }

    pub(crate) fn fenced(&self) -> Option<String> {
        self.lock().fenced.clone()
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_all();
    }
}

pub(crate) struct Writer {
    segments: Arc<Segments>,
    queue: Arc<Queue>,
    syncs: Arc<Syncs>,
    limits: Limits,
    tail: Option<Tail>,
    /// Up to here the present segment is known to be durable. A mark is behind it.
    synced: u64,
    /// Whether the last batch has no mark behind it.
    unmarked: bool,
    /// Up to here the present segment's blocks have been written once, if only with zeros.
    zeroed: u64,
    /// When it was last said that the process is short of something.
    warned: Option<Instant>,
}

/// The room that a journal has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) segment_bytes: u64,
    pub(crate) max_bytes: u64,
    pub(crate) reserve_bytes: u64,
}

/// What stopped a batch.
enum Stop {
    /// No room for a new segment. The journal is as it was.
    Full,
    /// The process has no file or no memory left for a new segment. The journal is as it was.
    Busy(io::Error),
    /// The tail's content is unknown now.
    Fence(io::Error),
}

impl Writer {
    pub(crate) fn new(
        segments: Arc<Segments>,
        queue: Arc<Queue>,
        syncs: Arc<Syncs>,
        limits: Limits,
        tail: Option<Tail>,
    ) -> Self {
        // Recovery has synced what it found.
        let synced = tail.as_ref().map_or(0, |t| t.offset);
        Self { segments, queue, syncs, limits, tail, synced, unmarked: false, zeroed: 0, warned: None }
    }

    pub(crate) fn run(mut self) {
        while let Some(batch) = self.queue.take(self.unmarked) {
            if batch.is_empty() {
                self.mark();
                continue;
            }
            // What fits in the present segment is one batch with one sync; the rest goes on in a new one.
            let mut rest = VecDeque::from(batch);
            while !rest.is_empty() {
                match self.write_some(&mut rest) {
                    Ok(()) => {}
                    // The next one may be smaller, or allowed to use the reserve.
                    Err(Stop::Full) => {
                        if let Some(append) = rest.pop_front() {
                            (append.done)(Err(AppendError::Full));
                        }
                    }
                    Err(Stop::Busy(error)) => {
                        self.warn(&error);
                        if let Some(append) = rest.pop_front() {
                            (append.done)(Err(AppendError::Busy));
                        }
                    }
                    Err(Stop::Fence(error)) => {
                        self.fence(rest, &error);
                        self.unmarked = false;
                        break;
                    }
                }
            }
        }
        if self.unmarked {
            self.mark();
        }
    }

    /// Writes and syncs as many appends as fit in the segment, and acknowledges them.
    fn write_some(&mut self, appends: &mut VecDeque<Append>) -> Result<(), Stop> {
        let Some(first) = appends.front() else { return Ok(()) };
        self.make_room(first.bytes(), first.maintenance)?;
        let Some(tail) = &mut self.tail else { return Ok(()) };
        let start = tail.offset;
        let (mut runs, mut offset) = (Runs::at(start), start);
        let mut taken = Vec::new();
        while let Some(next) = appends.front() {
            if offset + next.bytes() + SEAL_SIZE > tail.size {
                break;
            }
            let Some(append) = appends.pop_front() else { break };
            let mut positions = Vec::with_capacity(append.records.len());
            for record in &append.records {
                let position = Position { segment: tail.segment, offset };
                encode(record, position, (self.synced, tail.salt), runs.next(record, offset));
                offset += record.size();
                positions.push(position);
            }
            taken.push((append.done, positions));
        }
        // Preallocated blocks that were never written cost a commit of the file system's own journal at
        // each sync. Small batches write zeros ahead, once per few hundred of them, and then overwrite.
        let mut zeroed = self.zeroed.max(offset);
        if offset > self.zeroed && offset - start < SMALL_BATCH {
            let ahead = ZERO_AHEAD.min(tail.size - offset);
            runs.warm(offset).push(Bytes::from(vec![0; ahead as usize]));
            zeroed = offset + ahead;
        }
        let written = self.syncs.time(|| runs.write(&*tail.file).and_then(|()| tail.file.sync_data()));
        match written {
            Ok(()) => {
                tail.offset = offset;
                self.synced = offset;
                self.unmarked = true;
                self.zeroed = zeroed;
                for (done, positions) in taken {
                    done(Ok(positions));
                }
                Ok(())
            }
            Err(error) => {
                let why = error.to_string();
                for (done, _) in taken {
                    done(Err(AppendError::Fenced(why.clone())));
                }
                Err(Stop::Fence(error))
            }
        }
    }

    /// Writes a mark behind the last batch, if there is room. It is not synced: it says nothing that is not
    /// so without it. An error is left to the next batch, which meets it again.
    fn mark(&mut self) {
        self.unmarked = false;
        let Some(tail) = &mut self.tail else { return };
        let record = Record { kind: KIND_MARK, ..Record::default() };
        if tail.offset + record.size() + SEAL_SIZE > tail.size {
            return;
        }
        let mut parts = Vec::new();
        let position = Position { segment: tail.segment, offset: tail.offset };
        encode(&record, position, (self.synced, tail.salt), &mut parts);
        if tail.file.write_at(&parts, tail.offset).is_ok() {
            tail.offset += record.size();
        }
    }

    /// Seals the segment and starts the next if `bytes` do not fit any more.
    fn make_room(&mut self, bytes: u64, maintenance: bool) -> Result<(), Stop> {
        if let Some(tail) = &self.tail
            && tail.offset + bytes + SEAL_SIZE <= tail.size
        {
            return Ok(());
        }
        let number = self.tail.as_ref().map_or(0, |t| t.segment + 1);
        // An append of several records may be longer than a usual segment; it gets one that fits.
        let Limits { segment_bytes, max_bytes, reserve_bytes } = self.limits;
        let size = segment_bytes.max(SEGMENT_OVERHEAD + bytes);
        let count = self.segments.numbers().len() as u64;
        let room = if maintenance { max_bytes } else { max_bytes.saturating_sub(reserve_bytes) };
        if count * segment_bytes + size > room {
            return Err(Stop::Full);
        }
        // Prepared before the old one is sealed: with no room for it, the old one stays open.
        let file = self.segments.create(number, size).map_err(|error| match Trouble::of(&error) {
            Trouble::Full => Stop::Full,
            // Nothing was written yet.
            Trouble::Process => Stop::Busy(error),
            Trouble::Medium | Trouble::Disk => Stop::Fence(error),
        })?;
        let salt = self.segments.prepare(number, size, &file).map_err(|error| match Trouble::of(&error) {
            Trouble::Full => Stop::Full,
            _ => Stop::Fence(error),
        })?;
        if let Some(old) = &self.tail {
            seal(old, self.synced).map_err(Stop::Fence)?;
        }
        let segment = Segment { file: file.clone(), salt: Some(salt) };
        self.segments.publish(number, segment).map_err(Stop::Fence)?;
        let size = size - SEGMENT_FOOTER;
        self.tail = Some(Tail { segment: number, file, salt, offset: SEGMENT_HEADER, size });
        self.synced = SEGMENT_HEADER;
        self.zeroed = 0;
        Ok(())
    }

    /// Tells of what the process is short of, once a second at most.
    fn warn(&mut self, error: &io::Error) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(%error, "no new segment can be made for now; raise the limit of open files, or add memory");
        }
    }

    fn fence(&self, rest: VecDeque<Append>, error: &io::Error) {
        let why = error.to_string();
        tracing::error!(%why, "a write failed; the journal takes nothing more");
        let queued = self.queue.fence(&why);
        for append in rest.into_iter().chain(queued) {
            (append.done)(Err(AppendError::Fenced(why.clone())));
        }
    }
}

/// Closes a segment. One that was recovered with its seal in place has no room left and needs none.
fn seal(tail: &Tail, synced: u64) -> io::Result<()> {
    if tail.offset == tail.size {
        return Ok(());
    }
    let mut parts = Vec::new();
    let position = Position { segment: tail.segment, offset: tail.offset };
    let record = Record { kind: KIND_SEAL, ..Record::default() };
    encode(&record, position, (synced, tail.salt), &mut parts);
    tail.file.write_at(&parts, tail.offset)?;
    tail.file.sync_data()
}

/// What a batch writes, in runs of what is cold and long, and what is not.
struct Runs(Vec<Run>);

struct Run {
    cold: bool,
    offset: u64,
    parts: Vec<Bytes>,
}

impl Runs {
    fn at(offset: u64) -> Self {
        Self(vec![Run { cold: false, offset, parts: Vec::new() }])
    }

    /// Where a record that begins at this offset goes.
    fn next(&mut self, record: &Record, offset: u64) -> &mut Vec<Bytes> {
        self.run(record.cold && record.size() >= LONG, offset)
    }

    fn warm(&mut self, offset: u64) -> &mut Vec<Bytes> {
        self.run(false, offset)
    }

    fn run(&mut self, cold: bool, offset: u64) -> &mut Vec<Bytes> {
        if self.0.last().is_none_or(|run| run.cold != cold) {
            self.0.push(Run { cold, offset, parts: Vec::new() });
        }
        let last = self.0.len() - 1;
        &mut self.0[last].parts
    }

    fn write(&self, file: &dyn DiskFile) -> io::Result<()> {
        self.0.iter().filter(|run| !run.parts.is_empty()).try_for_each(|run| match run.cold {
            true => file.write_past_cache(&run.parts, run.offset),
            false => file.write_at(&run.parts, run.offset),
        })
    }
}

fn encode(record: &Record, position: Position, (durable_before, salt): (u64, Salt), parts: &mut Vec<Bytes>) {
    let payload_length = record.payload_length();
    let header = RecordHeader {
        kind: record.kind,
        meta_length: record.meta.len(),
        payload_length,
        position,
        durable_before,
    };
    parts.push(header.encode(&record.meta, salt).into());
    parts.extend(record.payload.iter().cloned());
    let crc = record
        .payload_crc
        .unwrap_or_else(|| record.payload.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part)));
    let unpadded = header.payload_start() + payload_length as u64 + 4;
    let mut end = crc.to_le_bytes().to_vec();
    end.resize(4 + (header.size() - unpadded) as usize, 0);
    parts.push(end.into());
}
