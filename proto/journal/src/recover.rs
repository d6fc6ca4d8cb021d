//! Opening a journal: replay what is there, tell a torn tail from rot, clear the torn tail.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::DiskFile;
use crate::format::{
    ALIGN, MAX_META, MAX_PAYLOAD, Position, SEGMENT_HEADER, check_segment_header, parse_segment_name,
    record_size, segment_name,
};
use crate::journal::Options;
use crate::retired::Retired;
use crate::scan::{Found, Scanner, Step};
use crate::segment::Segments;
use crate::writer::BATCH_BYTES;

/// How far behind a bad record a batch that was being written may reach.
const TORN_REACH: u64 = BATCH_BYTES + record_size(MAX_META, MAX_PAYLOAD);

/// Why a journal does not open. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk's own error.
    #[error("the disk answered with an error")]
    Io(#[from] io::Error),
    /// Bytes that were acknowledged are not there any more.
    #[error("segment {} is damaged at byte {}: {why}", position.segment, position.offset)]
    Corrupt {
        /// Where.
        position: Position,
        /// What is wrong.
        why: String,
    },
    /// Written by another version.
    #[error("format version {found} is not known here; this program writes version {known}")]
    Version {
        /// What the file says.
        found: u8,
        /// What this program knows.
        known: u8,
    },
    /// The list of segments that were retired is not what was written.
    #[error("the list of retired segments is damaged: {0}")]
    Retired(String),
    /// A segment of another journal lies in this folder.
    #[error("segment {segment} belongs to another journal")]
    WrongIdentity {
        /// Its number.
        segment: u64,
    },
    /// The owner could not make sense of a record.
    #[error("the record in segment {} at byte {} means nothing to its owner: {why}", position.segment, position.offset)]
    Rejected {
        /// Where.
        position: Position,
        /// What the owner said.
        why: String,
    },
}

/// Where the next record goes.
pub(crate) struct Tail {
    pub(crate) segment: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// Replays everything from `options.replay_from` on and returns the tail, or none for an empty folder.
pub(crate) fn recover(
    segments: &Segments,
    options: &Options,
    replay: &mut dyn FnMut(Found<'_>) -> Result<(), String>,
) -> Result<Option<Tail>, OpenError> {
    let numbers = list(segments)?;
    let mut tail = None;
    for (i, &number) in numbers.iter().enumerate() {
        let file = segments.disk().open(&segment_name(number))?;
        let mut header = [0u8; SEGMENT_HEADER as usize];
        file.read_at(&mut header, 0)?;
        check_segment_header(&header, &options.identity, number)?;
        segments.add(number, file.clone());
        let last = i + 1 == numbers.len();
        let from = options.replay_from.unwrap_or(Position { segment: 0, offset: 0 });
        let start = match from.segment.cmp(&number) {
            std::cmp::Ordering::Less => SEGMENT_HEADER,
            std::cmp::Ordering::Equal => from.offset.max(SEGMENT_HEADER),
            std::cmp::Ordering::Greater if last => SEGMENT_HEADER,
            std::cmp::Ordering::Greater => continue,
        };
        tail = replay_segment(&file, number, start, last, replay)?;
    }
    Ok(tail)
}

fn list(segments: &Segments) -> Result<Vec<u64>, OpenError> {
    let mut numbers = Vec::new();
    for name in segments.disk().list()? {
        if name.ends_with(".seg.new") {
            // A birth that a crash cut short: it never held a record.
            segments.disk().remove(&name)?;
        }
        numbers.extend(parse_segment_name(&name));
    }
    numbers.sort_unstable();
    let retired = Retired::load(&**segments.disk())?;
    if let Some(retired) = &retired {
        // A retirement that a crash cut short is brought to its end.
        for &number in numbers.iter().filter(|&&n| retired.contains(n)) {
            segments.disk().remove(&segment_name(number))?;
        }
        numbers.retain(|&n| !retired.contains(n));
    }
    let first = retired.as_ref().map(|r| r.first).or(numbers.first().copied()).unwrap_or(0);
    let gone = |n: u64| retired.as_ref().is_some_and(|r| r.contains(n));
    let mut expected = (first..).filter(|&n| !gone(n));
    for &number in &numbers {
        if let Some(missing) = expected.next().filter(|&n| n != number) {
            let position = Position { segment: missing, offset: 0 };
            return Err(OpenError::Corrupt { position, why: "the segment is missing".into() });
        }
    }
    segments.set_retired(retired);
    Ok(numbers)
}

/// Replays one segment. The last one may end in a torn batch, which is cleared; any other must end
/// with its seal. A last segment that is sealed leaves no tail: the next append starts a new one.
fn replay_segment(
    file: &Arc<dyn DiskFile>,
    segment: u64,
    start: u64,
    last: bool,
    replay: &mut dyn FnMut(Found<'_>) -> Result<(), String>,
) -> Result<Option<Tail>, OpenError> {
    // Payloads of sealed segments are checked by whoever reads them; those near the tail here.
    let mut scanner = Scanner::new(file.clone(), segment, start, last)?;
    loop {
        let position = Position { segment, offset: scanner.offset };
        match scanner.look()? {
            Step::Record(header) => {
                replay(scanner.found(position, &header))
                    .map_err(|why| OpenError::Rejected { position, why })?;
                scanner.offset += header.size();
            }
            Step::Seal if last => {
                let size = scanner.size();
                return Ok(Some(Tail { segment, file: file.clone(), offset: size, size }));
            }
            Step::Seal => return Ok(None),
            Step::Nothing if last => {
                clear_torn_tail(&mut scanner, file, segment)?;
                let (offset, size) = (position.offset, scanner.size());
                return Ok(Some(Tail { segment, file: file.clone(), offset, size }));
            }
            Step::Nothing => {
                let why = "a record of a sealed segment does not check out".into();
                return Err(OpenError::Corrupt { position, why });
            }
        }
    }
}

/// Looks behind a place without a record. A record there that was written after this place was
/// durable means rot. Anything else is what a crash left of an unacknowledged batch, and is zeroed so
/// that it can never be taken for a record later.
fn clear_torn_tail(scanner: &mut Scanner, file: &Arc<dyn DiskFile>, segment: u64) -> Result<(), OpenError> {
    let tail = scanner.offset;
    let end = scanner.size().min(tail + TORN_REACH);
    let mut dirty_end = tail;
    let mut at = tail;
    while at + ALIGN <= end {
        let word = scanner.bytes(at, ALIGN as usize)?;
        if word.is_some_and(|w| w.iter().any(|&b| b != 0)) {
            dirty_end = at + ALIGN;
            scanner.offset = at;
            // Only a header can tell; its payload may be torn itself.
            if let Some(durable_before) = scanner.header_at(at)?
                && durable_before > tail
            {
                let position = Position { segment, offset: tail };
                let why = format!("a later record, at byte {at}, says that this place was durable");
                return Err(OpenError::Corrupt { position, why });
            }
        }
        at += ALIGN;
    }
    scanner.offset = tail;
    if dirty_end > tail {
        let zeros = Bytes::from(vec![0u8; (1 << 20).min((dirty_end - tail) as usize)]);
        let mut at = tail;
        while at < dirty_end {
            let n = zeros.len().min((dirty_end - at) as usize);
            file.write_at(&[zeros.slice(..n)], at)?;
            at += n as u64;
        }
        file.sync_data()?;
    }
    Ok(())
}
