//! The journal: what its owner holds. One thread writes; any thread reads.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::disk::Disk;
use crate::format::{
    KIND_MARK, MAX_META, MAX_PAYLOAD, Position, SEGMENT_FOOTER, SEGMENT_HEADER, SEGMENT_OVERHEAD, record_size,
};
use crate::recover::{Damage, OpenError, Visitor, pass_over, recover};
use crate::scan::{Found, Scanner, Step};
use crate::segment::Segments;
use crate::syncs::Syncs;
use crate::writer::{Append, Limits, Queue, Writer};

/// Draws the nonce of the segment with this number, which nobody who stores bytes in it may be able to guess.
pub type Nonces = fn(u64) -> [u8; 16];

/// How a journal is laid out.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose journal it is; a segment with another identity is refused.
    pub identity: [u8; 16],
    /// What its segments are salted with.
    pub nonce: Nonces,
    /// Bytes of each segment, all allocated at its birth.
    pub segment_bytes: u64,
    /// The most bytes that all segments may take; an append that needs one more is `Full`.
    pub max_bytes: u64,
    /// Bytes of those that only [`Journal::append_maintenance`] may use.
    pub reserve_bytes: u64,
    /// The most bytes of appends that may wait for the writer.
    pub queue_bytes: usize,
    /// Replay starts here; everything, if none.
    pub replay_from: Option<Position>,
    /// Name of the writer's thread.
    pub name: String,
}

/// A record to append.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The owner's kind, below 0xfe.
    pub kind: u8,
    /// The owner's header, covered by the header's checksum.
    pub meta: Vec<u8>,
    /// The content, in as many parts as it came.
    pub payload: Vec<Bytes>,
    /// CRC32C of the payload, if it has been computed on the way in.
    pub payload_crc: Option<u32>,
    /// Nobody will read it soon. A long one is written past the page cache then.
    pub cold: bool,
}

impl Record {
    pub(crate) fn payload_length(&self) -> usize {
        self.payload.iter().map(Bytes::len).sum()
    }

    pub(crate) fn size(&self) -> u64 {
        record_size(self.meta.len(), self.payload_length())
    }
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A write or a sync failed, now or before: this journal takes nothing more.
    #[error("the journal is fenced since a write failed: {0}")]
    Fenced(String),
    /// No room for a new segment; what is there stays readable.
    #[error("the disk is full")]
    Full,
    /// The queue before the writer is full, or the process is short of files or memory: it may pass.
    #[error("the journal can't take it now")]
    Busy,
    /// Beyond the format's limits, or beyond a segment.
    #[error("a record of {0} bytes is too large")]
    TooLarge(u64),
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// What is called once, from the writer's thread, when the records are durable or will never be.
pub(crate) type Completion = Box<dyn FnOnce(Result<Vec<Position>, AppendError>) + Send>;

/// An open journal. Dropping it stops the writer after what is queued.
pub struct Journal {
    segments: Arc<Segments>,
    queue: Arc<Queue>,
    syncs: Arc<Syncs>,
    largest: u64,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the folder, replays its records in order and starts the writer.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        mut replay: impl FnMut(Found<'_>) -> Result<(), String>,
    ) -> Result<Self, OpenError> {
        Self::open_with(disk, options, Visitor { replay: &mut replay, damaged: None })
    }

    /// The same for an owner that can do without single records: what is damaged is told of and passed over.
    /// Segments that are missing or of another journal are still refused.
    pub fn open_damaged(
        disk: Arc<dyn Disk>,
        options: Options,
        mut replay: impl FnMut(Found<'_>) -> Result<(), String>,
        mut damaged: impl FnMut(Damage<'_>),
    ) -> Result<Self, OpenError> {
        Self::open_with(disk, options, Visitor { replay: &mut replay, damaged: Some(&mut damaged) })
    }

    fn open_with(disk: Arc<dyn Disk>, options: Options, mut visitor: Visitor<'_>) -> Result<Self, OpenError> {
        let segments = Arc::new(Segments::new(disk, options.identity, options.nonce));
        let tail = recover(&segments, &options, &mut visitor)?;
        let queue = Arc::new(Queue::new(options.queue_bytes));
        let largest = options.segment_bytes - SEGMENT_OVERHEAD;
        let limits = Limits {
            segment_bytes: options.segment_bytes,
            max_bytes: options.max_bytes,
            reserve_bytes: options.reserve_bytes,
        };
        let syncs = Arc::new(Syncs::new(Instant::now()));
        let writer = Writer::new(segments.clone(), queue.clone(), syncs.clone(), limits, tail);
        let thread = std::thread::Builder::new().name(options.name).spawn(move || writer.run())?;
        Ok(Self { segments, queue, syncs, largest, thread: Some(thread) })
    }

    /// Queues records to become durable together or after one another, in this order, and calls `done`
    /// from the writer's thread. `done` must not block.
    pub fn append(
        &self,
        records: Vec<Record>,
        done: impl FnOnce(Result<Vec<Position>, AppendError>) + Send + 'static,
    ) {
        self.queue(records, Box::new(done), false);
    }

    /// The same for what makes room, which may use the reserve.
    pub fn append_maintenance(
        &self,
        records: Vec<Record>,
        done: impl FnOnce(Result<Vec<Position>, AppendError>) + Send + 'static,
    ) {
        self.queue(records, Box::new(done), true);
    }

    fn queue(&self, records: Vec<Record>, done: Completion, maintenance: bool) {
        let too_large = |r: &&Record| {
            r.meta.len() > MAX_META
                || r.payload_length() > MAX_PAYLOAD
                || r.kind >= KIND_MARK
                || r.size() > self.largest
        };
        if let Some(record) = records.iter().find(too_large) {
            return done(Err(AppendError::TooLarge(record.size())));
        }
        if let Err((append, error)) = self.queue.push(Append { records, done, maintenance }) {
            (append.done)(Err(error));
        }
    }

    /// The same, waiting for the outcome. For tests and for start-up, where nothing runs beside.
    pub fn append_and_wait(&self, records: Vec<Record>) -> Result<Vec<Position>, AppendError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.append(records, move |outcome| {
            // A receiver that is gone has given up on the answer.
            let _ = sender.send(outcome);
        });
        receiver.recv().unwrap_or(Err(AppendError::Closed))
    }

    /// Reads bytes of a segment, such as the payload that a replay or an append told the place of. The
    /// caller checks what they are.
    pub fn read(&self, segment: u64, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.segments.get(segment) {
            Some(file) => file.read_at(buffer, offset),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("no segment {segment}"))),
        }
    }

    /// The same, into a vector of its own.
    pub fn read_vec(&self, segment: u64, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        match self.segments.get(segment) {
            Some(file) => file.read_vec(offset, length),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("no segment {segment}"))),
        }
    }

    /// Has the next read of a range be one of the disk, not of the page cache.
    pub fn forget_cached(&self, segment: u64, offset: u64, length: usize) {
        if let Some(file) = self.segments.get(segment) {
            file.forget_cached(offset, length as u64);
        }
    }

    /// Where the payload of a record starts, from its position and the length of its meta.
    pub fn payload_offset(position: Position, meta_length: usize) -> u64 {
        position.offset + (crate::format::RECORD_FIXED + meta_length + 4) as u64
    }

    /// Bytes that a record takes in its segment.
    pub fn record_bytes(meta_length: usize, payload_length: usize) -> u64 {
        record_size(meta_length, payload_length)
    }

    /// Hands every record of a sealed segment to `visit`, in order. Payloads are not checked; what can't be
    /// made out is told of and passed over.
    pub fn scan(
        &self,
        segment: u64,
        mut visit: impl FnMut(Found<'_>) -> Result<(), String>,
        mut damaged: impl FnMut(Damage<'_>),
    ) -> Result<(), OpenError> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no segment {segment}"));
        let opened = self.segments.segment(segment).ok_or_else(missing)?;
        let Some(salt) = opened.salt else {
            let to = opened.file.size()?.saturating_sub(SEGMENT_FOOTER);
            damaged(Damage::Gap { segment, from: SEGMENT_HEADER, to });
            return Ok(());
        };
        let mut scanner = Scanner::new(&opened, salt, segment, SEGMENT_HEADER, false)?;
        loop {
            let position = Position { segment, offset: scanner.offset };
            match scanner.look()? {
                Step::Record(header) => {
                    if header.kind != KIND_MARK {
                        visit(scanner.found(position, &header))
                            .map_err(|why| OpenError::Rejected { position, why })?;
                    }
                    scanner.offset += header.size();
                }
                Step::Seal => return Ok(()),
                Step::Nothing => pass_over(&mut scanner, segment, &mut damaged)?,
            }
            if scanner.offset >= scanner.size() {
                return Ok(());
            }
        }
    }

    /// Removes one segment, durably; not the newest. What is still wanted of it has been appended anew.
    pub fn retire(&self, segment: u64) -> io::Result<()> {
        match self.segments.numbers().last() {
            Some(&newest) if segment < newest => self.segments.retire(&[segment]),
            _ => Ok(()),
        }
    }

    /// Bytes of a segment; 0 if it is not there.
    pub fn segment_bytes(&self, segment: u64) -> io::Result<u64> {
        self.segments.get(segment).map_or(Ok(0), |file| file.size())
    }

    /// Removes all segments below this one, durably. Never the newest.
    pub fn retire_below(&self, segment: u64) -> io::Result<()> {
        let newest = self.segments.numbers().last().copied().unwrap_or(0);
        self.segments.retire_below(segment.min(newest))
    }

    /// Numbers of the segments there are.
    pub fn segments(&self) -> Vec<u64> {
        self.segments.numbers()
    }

    /// How long writes take to be durable: the second longest of the last minute, or the one under way if
    /// that has lasted longer.
    pub fn slow_sync(&self) -> Duration {
        self.syncs.slow(Instant::now())
    }

    /// The error that fenced the journal, if one did.
    pub fn fenced(&self) -> Option<String> {
        self.queue.fenced()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
