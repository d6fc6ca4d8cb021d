//! Reading a segment from a given place on, record by record.
//!
//! A read that the disk answers with an error of its medium is repeated in pieces of 4 KiB. What can't be
//! read even then is a hole: no record that touches it checks out, and all others do. A segment with too many
//! holes is given up, since its disk fails as a whole.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::format::{
    KIND_SEAL, Position, RECORD_FIXED, RECORD_MAGIC, RecordHeader, SEGMENT_FOOTER, Salt, check_meta,
};
use crate::segment::Segment;
use crate::trouble::Trouble;

/// How much is read ahead at once; most small records need no read of their own.
const READ_AHEAD: usize = 256 << 10;

/// What is tried again by itself where a read fails: the least that disks have trouble with.
pub(crate) const PIECE: u64 = 4096;
/// Pieces of a segment that may be unreadable.
const MAX_UNREADABLE: usize = 1024;

/// A record as a scan finds it.
#[derive(Debug)]
pub struct Found<'a> {
    /// Where it starts.
    pub position: Position,
    /// The owner's kind.
    pub kind: u8,
    /// The owner's header bytes.
    pub meta: &'a [u8],
    /// Where its payload starts in the segment.
    pub payload_offset: u64,
    /// Bytes of the payload.
    pub payload_length: u32,
}

/// What is at a place of a segment.
pub(crate) enum Step {
    /// A good record, now in the scanner's hands.
    Record(RecordHeader),
    /// The seal: the segment ends here.
    Seal,
    /// No record that checks out.
    Nothing,
}

pub(crate) struct Scanner {
    file: Arc<dyn DiskFile>,
    salt: Salt,
    segment: u64,
    size: u64,
    window: Vec<u8>,
    window_start: u64,
    /// Pieces that the disk can't read, by the offset of their first byte.
    unreadable: BTreeSet<u64>,
    /// Whether the last look met one of them.
    met_unreadable: bool,
    pub(crate) offset: u64,
    pub(crate) meta: Vec<u8>,
    verify_payload: bool,
}

impl Scanner {
    pub(crate) fn new(
        Segment { file, .. }: &Segment,
        salt: Salt,
        segment: u64,
        offset: u64,
        verify_payload: bool,
    ) -> io::Result<Self> {
        let size = file.size()?.saturating_sub(SEGMENT_FOOTER);
        Ok(Self {
            file: file.clone(),
            salt,
            segment,
            size,
            window: Vec::new(),
            window_start: 0,
            unreadable: BTreeSet::new(),
            met_unreadable: false,
            offset,
            meta: Vec::new(),
            verify_payload,
        })
    }

    /// Where records end at the latest.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the disk could not read all of what the last look needed.
    pub(crate) fn met_unreadable(&self) -> bool {
        self.met_unreadable
    }

    /// Looks at the present offset without moving.
    pub(crate) fn look(&mut self) -> io::Result<Step> {
        self.met_unreadable = false;
        let here = self.record_at(self.offset)?;
        let Some(header) = here.filter(|h| h.durable_before <= h.position.offset) else {
            return Ok(Step::Nothing);
        };
        if self.verify_payload && !self.payload_checks_out(&header)? {
            return Ok(Step::Nothing);
        }
        Ok(if header.kind == KIND_SEAL { Step::Seal } else { Step::Record(header) })
    }

    /// The record at a place, as its owner sees it; its meta is in the scanner's hands.
    pub(crate) fn found(&self, position: Position, header: &RecordHeader) -> Found<'_> {
        Found {
            position,
            kind: header.kind,
            meta: &self.meta,
            payload_offset: position.offset + header.payload_start(),
            payload_length: header.payload_length as u32,
        }
    }

    /// The record header at this place, if one checks out; its meta is in the scanner's hands then. The
    /// payload is not looked at.
    pub(crate) fn record_at(&mut self, at: u64) -> io::Result<Option<RecordHeader>> {
        // What is readable and no record is told from what can't be read.
        if self.bytes(at, RECORD_MAGIC.len())?.is_none_or(|magic| magic != RECORD_MAGIC) {
            return Ok(None);
        }
        let Some(fixed) = self.bytes(at, RECORD_FIXED)? else { return Ok(None) };
        let Some(fixed) = fixed.first_chunk::<RECORD_FIXED>().copied() else { return Ok(None) };
        let Some(header) = RecordHeader::decode(&fixed, self.segment) else { return Ok(None) };
        let salt = self.salt;
        if header.position.offset != at || at + header.size() > self.size {
            return Ok(None);
        }
        let tail = self.bytes(at + RECORD_FIXED as u64, header.meta_length + 4)?;
        let Some(tail) = tail.filter(|t| check_meta(&fixed, t, salt)) else { return Ok(None) };
        self.meta = tail[..header.meta_length].to_vec();
        Ok(Some(header))
    }

    fn payload_checks_out(&mut self, header: &RecordHeader) -> io::Result<bool> {
        let start = header.position.offset + header.payload_start();
        let mut left = header.payload_length;
        let (mut at, mut crc) = (start, 0);
        while left > 0 {
            let n = left.min(READ_AHEAD);
            let Some(bytes) = self.bytes(at, n)? else { return Ok(false) };
            crc = crc32c::crc32c_append(crc, bytes);
            at += n as u64;
            left -= n;
        }
        Ok(self.bytes(at, 4)?.is_some_and(|stored| stored == crc.to_le_bytes()))
    }

    /// `n` bytes at `at`, from the window if they are in it; none beyond the end of the segment, or if the
    /// disk can't read them.
    pub(crate) fn bytes(&mut self, at: u64, n: usize) -> io::Result<Option<&[u8]>> {
        if at + n as u64 > self.size {
            return Ok(None);
        }
        let inside = at >= self.window_start && at + n as u64 <= self.window_start + self.window.len() as u64;
        if !inside {
            let want = (n.max(READ_AHEAD) as u64).min(self.size - at) as usize;
            self.window.resize(want, 0);
            self.window_start = at;
            match self.file.read_at(&mut self.window, at) {
                Err(error) if is_unreadable(&error) => self.read_in_pieces(&error)?,
                read => read?,
            }
        }
        if self.is_unreadable(at, n) {
            self.met_unreadable = true;
            return Ok(None);
        }
        let start = (at - self.window_start) as usize;
        Ok(Some(&self.window[start..start + n]))
    }

    /// Whether any of these bytes are in a piece that the disk could not read.
    pub(crate) fn is_unreadable(&self, at: u64, n: usize) -> bool {
        let first = at / PIECE * PIECE;
        n > 0 && self.unreadable.range(first..at + n as u64).next().is_some()
    }

    fn read_in_pieces(&mut self, why: &io::Error) -> io::Result<()> {
        let (start, end) = (self.window_start, self.window_start + self.window.len() as u64);
        let mut at = start;
        while at < end {
            let next = (at / PIECE * PIECE + PIECE).min(end);
            let piece = &mut self.window[(at - start) as usize..(next - start) as usize];
            match self.file.read_at(piece, at) {
                Err(error) if is_unreadable(&error) => {
                    piece.fill(0);
                    if self.unreadable.insert(at / PIECE * PIECE) {
                        tracing::error!(%error, segment = self.segment, at, "the disk can't read a piece of a segment");
                    }
                    if self.unreadable.len() > MAX_UNREADABLE {
                        return Err(io::Error::new(why.kind(), format!("too much can't be read: {why}")));
                    }
                }
                read => read?,
            }
            at = next;
        }
        Ok(())
    }
}

pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    Trouble::of(error) == Trouble::Medium
}
