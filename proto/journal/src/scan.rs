//! Reading a segment from a given place on, record by record.

use std::io;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::format::{KIND_SEAL, Position, RECORD_FIXED, RecordHeader, check_meta};

/// How much is read ahead at once; most small records need no read of their own.
const READ_AHEAD: usize = 256 << 10;

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
    segment: u64,
    size: u64,
    window: Vec<u8>,
    window_start: u64,
    pub(crate) offset: u64,
    pub(crate) meta: Vec<u8>,
    verify_payload: bool,
}

impl Scanner {
    pub(crate) fn new(
        file: Arc<dyn DiskFile>,
        segment: u64,
        offset: u64,
        verify_payload: bool,
    ) -> io::Result<Self> {
        let size = file.size()?;
        let (window, window_start) = (Vec::new(), 0);
        Ok(Self { file, segment, size, window, window_start, offset, meta: Vec::new(), verify_payload })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Looks at the present offset without moving.
    pub(crate) fn look(&mut self) -> io::Result<Step> {
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

    /// The record header at this place, if one checks out; its meta is in the scanner's hands then. The payload
    /// is not looked at.
    pub(crate) fn record_at(&mut self, at: u64) -> io::Result<Option<RecordHeader>> {
        let Some(fixed) = self.bytes(at, RECORD_FIXED)? else { return Ok(None) };
        let Some(fixed) = fixed.first_chunk::<RECORD_FIXED>().copied() else { return Ok(None) };
        let Some(header) = RecordHeader::decode(&fixed, self.segment) else { return Ok(None) };
        let fits = header.position.offset == at && at + header.size() <= self.size;
        let tail = self.bytes(at + RECORD_FIXED as u64, header.meta_length + 4)?;
        let Some(tail) = tail.filter(|t| fits && check_meta(&fixed, t)) else { return Ok(None) };
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

    /// `n` bytes at `at`, from the window if they are in it; none beyond the end of the segment.
    pub(crate) fn bytes(&mut self, at: u64, n: usize) -> io::Result<Option<&[u8]>> {
        if at + n as u64 > self.size {
            return Ok(None);
        }
        let inside = at >= self.window_start && at + n as u64 <= self.window_start + self.window.len() as u64;
        if !inside {
            let want = (n.max(READ_AHEAD) as u64).min(self.size - at) as usize;
            self.window.resize(want, 0);
            self.window_start = at;
            self.file.read_at(&mut self.window, at)?;
        }
        let start = (at - self.window_start) as usize;
        Ok(Some(&self.window[start..start + n]))
    }
}
