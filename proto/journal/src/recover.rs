//! Opening a journal: replay what is there, tell a torn tail from rot, clear the torn tail.
//!
//! Rot is refused, or told of and passed over, as the owner wishes: a Raft log must be whole, while a disk's
//! pieces can be had from elsewhere one by one. Passing over goes on at the next record that states its own
//! position, so bytes of a payload are never taken for a record.
//!
//! What the disk can't read is passed over or refused as rot is, and never taken for a torn tail: an
//! acknowledged record may have been there.
//!
//! What a killed process had written and not synced looks durable to whoever reads it now; and what a sync
//! failed to write looks so too, to reads and to later syncs alike, since the kernel reports that once and
//! counts the pages as clean from then on. So the last segment is synced, and what is kept of it in memory
//! let go of, before it is read: what is replayed is what the disk has.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::DiskFile;
use crate::format::{
    ALIGN, KIND_MARK, MAX_META, MAX_PAYLOAD, Position, SEAL_SIZE, SEGMENT_FOOTER, SEGMENT_HEADER, Salt,
    check_segment_header, parse_segment_name, record_size, segment_name,
};
use crate::journal::Options;
use crate::retired::Retired;
use crate::scan::{Found, PIECE, Scanner, Step, is_unreadable};
use crate::segment::{Segment, Segments};
use crate::writer::BATCH_BYTES;

/// How far behind a bad record a batch that was being written may reach.
const TORN_REACH: u64 = BATCH_BYTES + record_size(MAX_META, MAX_PAYLOAD);

/// Bytes that are zeroed at once: a number of whole pieces.
const CLEAR_STEP: u64 = 1 << 20;

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

/// What was passed over.
#[derive(Debug)]
pub enum Damage<'a> {
    /// A record whose payload is not what was written.
    Payload(Found<'a>),
    /// Bytes in which no record can be made out.
    Gap {
        /// The segment.
        segment: u64,
        /// First byte.
        from: u64,
        /// First byte behind it.
        to: u64,
    },
    /// The list of retired segments, for this reason. It was made anew from what is there, so a segment whose
    /// retirement a crash had cut short may be back.
    Retired(String),
}

/// What the owner does with what is found.
pub(crate) struct Visitor<'a> {
    pub(crate) replay: &'a mut dyn FnMut(Found<'_>) -> Result<(), String>,
    /// None: rot is an error.
    pub(crate) damaged: Option<&'a mut dyn FnMut(Damage<'_>)>,
}

/// Where the next record goes.
pub(crate) struct Tail {
    pub(crate) segment: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) salt: Salt,
    pub(crate) offset: u64,
    /// Where records end at the latest.
    pub(crate) size: u64,
}

/// Replays everything from `options.replay_from` on and returns the tail, or none for an empty folder.
pub(crate) fn recover(
    segments: &Segments,
    options: &Options,
    visitor: &mut Visitor<'_>,
) -> Result<Option<Tail>, OpenError> {
    let numbers = list(segments, visitor)?;
    let mut tail = None;
    for (i, &number) in numbers.iter().enumerate() {
        let file = segments.disk().open(&segment_name(number))?;
        let last = i + 1 == numbers.len();
        if last {
            // One that was sealed was synced as a whole before that.
            file.sync_data()?;
            file.forget_cached(0, file.size()?);
        }
        let (salt, whole) = read_header(&file, options, number)?;
        let segment = Segment { file, salt };
        segments.add(number, segment.clone());
        let from = options.replay_from.unwrap_or(Position { segment: 0, offset: 0 });
        let Some(salt) = salt else {
            // Nothing in it can be told, and it takes no more records. What a later replay begins behind is
            // known already.
            let size = lose_segment(&segment, number, last || from.segment <= number, visitor)?;
            let salt = Salt::of(&[0; 16]);
            tail = last.then(|| Tail { segment: number, file: segment.file, salt, offset: size, size });
            continue;
        };
        let start = match from.segment.cmp(&number) {
            std::cmp::Ordering::Less => SEGMENT_HEADER,
            std::cmp::Ordering::Equal => from.offset.max(SEGMENT_HEADER),
            std::cmp::Ordering::Greater if last => SEGMENT_HEADER,
            std::cmp::Ordering::Greater => continue,
        };
        tail = replay_segment((&segment, salt), number, start, last, visitor)?;
        if let Some(tail) = tail.as_mut().filter(|_| !whole) {
            // With one header left, it is sealed before anything else comes.
            tail.size = tail.size.min(tail.offset + SEAL_SIZE);
        }
    }
    if let Some(tail) = &tail {
        tail.file.sync_data()?;
        segments.disk().sync_dir()?;
    }
    Ok(tail)
}

/// What a segment's header says, or its copy behind the records; and whether both are as they were written.
fn read_header(
    file: &Arc<dyn DiskFile>,
    options: &Options,
    number: u64,
) -> Result<(Option<Salt>, bool), OpenError> {
    let size = file.size()?;
    let mut found = [None, None];
    for (found, at) in found.iter_mut().zip([0, size.saturating_sub(SEGMENT_FOOTER)]) {
        let mut header = [0u8; SEGMENT_HEADER as usize];
        match file.read_at(&mut header, at) {
            Err(error) if is_unreadable(&error) || error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => {
                read?;
                *found = check_segment_header(&header, &options.identity, number)?;
            }
        }
    }
    let [first, second] = found;
    // The piece that the copy is in can't be appended to, if it can't be read.
    let footer = size.saturating_sub(SEGMENT_FOOTER) / PIECE * PIECE;
    let appendable = match file.read_vec(footer, (size - footer) as usize) {
        Err(error) if is_unreadable(&error) => false,
        read => read.map(|_| true)?,
    };
    if first.is_none() || first != second {
        tracing::error!(segment = number, "a header of a segment is damaged");
    }
    Ok((first.or(second), appendable && first.is_some() && first == second))
}

/// A segment without a header: all of it is a gap, of which is told if it is to be replayed. Returns where
/// records end at the latest.
fn lose_segment(
    segment: &Segment,
    number: u64,
    is_replayed: bool,
    visitor: &mut Visitor<'_>,
) -> Result<u64, OpenError> {
    let Some(damaged) = &mut visitor.damaged else {
        let position = Position { segment: number, offset: 0 };
        return Err(OpenError::Corrupt { position, why: "neither of its headers checks out".into() });
    };
    let to = segment.file.size()?.saturating_sub(SEGMENT_FOOTER);
    if is_replayed {
        damaged(Damage::Gap { segment: number, from: SEGMENT_HEADER, to });
    }
    Ok(to)
}

fn list(segments: &Segments, visitor: &mut Visitor<'_>) -> Result<Vec<u64>, OpenError> {
    let mut numbers = Vec::new();
    for name in segments.disk().list()? {
        if name.ends_with(".seg.new") {
            // A birth that a crash cut short: it never held a record.
            segments.disk().remove(&name)?;
        }
        numbers.extend(parse_segment_name(&name));
    }
    numbers.sort_unstable();
    let retired = match (Retired::load(&**segments.disk()), &mut visitor.damaged) {
        (Err(OpenError::Retired(why)), Some(damaged)) if !numbers.is_empty() => {
            let anew = Retired::between(&numbers);
            anew.save(&**segments.disk())?;
            damaged(Damage::Retired(why));
            Some(anew)
        }
        (loaded, _) => loaded?,
    };
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
    if let Some(retired) = retired.as_ref().filter(|_| numbers.is_empty()) {
        // The newest segment is never retired, so a list without segments is what is left of a journal.
        let position = Position { segment: retired.first, offset: 0 };
        return Err(OpenError::Corrupt { position, why: "all segments are missing".into() });
    }
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
    (opened, salt): (&Segment, Salt),
    segment: u64,
    start: u64,
    last: bool,
    visitor: &mut Visitor<'_>,
) -> Result<Option<Tail>, OpenError> {
    // Payloads of sealed segments are checked by whoever reads them; those near the tail here.
    let mut scanner = Scanner::new(opened, salt, segment, start, last)?;
    let tail = |offset, size| Some(Tail { segment, file: opened.file.clone(), salt, offset, size });
    loop {
        let position = Position { segment, offset: scanner.offset };
        match scanner.look()? {
            Step::Record(header) => {
                if header.kind != KIND_MARK {
                    (visitor.replay)(scanner.found(position, &header))
                        .map_err(|why| OpenError::Rejected { position, why })?;
                }
                scanner.offset += header.size();
            }
            Step::Seal if last => {
                return Ok(tail(scanner.size(), scanner.size()));
            }
            Step::Seal => return Ok(None),
            Step::Nothing => {
                let ending = match last {
                    _ if scanner.met_unreadable() => Ending::Unreadable,
                    true => torn_or_rotten(&mut scanner)?,
                    false => Ending::Rotten(position.offset),
                };
                match (ending, &mut visitor.damaged) {
                    (Ending::Torn(dirty_end), _) => {
                        clear(&opened.file, position.offset, dirty_end)?;
                        return Ok(tail(position.offset, scanner.size()));
                    }
                    (Ending::Rotten(_) | Ending::Unreadable, Some(damaged)) => {
                        pass_over(&mut scanner, segment, damaged)?
                    }
                    (Ending::Rotten(witness), None) => return Err(rotten(position, witness)),
                    (Ending::Unreadable, None) => {
                        return Err(OpenError::Corrupt { position, why: "the disk can't read it".into() });
                    }
                }
                // Nothing more can be made out in this segment: it takes no more records.
                if scanner.offset >= scanner.size() {
                    return Ok(tail(scanner.size(), scanner.size()).filter(|_| last));
                }
            }
        }
    }
}

/// What a place without a record means in the last segment.
enum Ending {
    /// The end of what was acknowledged; bytes up to this one are what a crash left.
    Torn(u64),
    /// Damage: a record at this place says that what is before it was durable.
    Rotten(u64),
    /// The disk can't read it, so an acknowledged record may have been there.
    Unreadable,
}

fn rotten(position: Position, witness: u64) -> OpenError {
    let why = if witness == position.offset {
        "a record of a sealed segment does not check out".into()
    } else {
        format!("a later record, at byte {witness}, says that this place was durable")
    };
    OpenError::Corrupt { position, why }
}

/// Moves the scanner behind what can't be read: to the end of a record whose header stands, else to the next
/// place where a record says that it is there, else to the end.
pub(crate) fn pass_over(
    scanner: &mut Scanner,
    segment: u64,
    damaged: &mut dyn FnMut(Damage<'_>),
) -> Result<(), OpenError> {
    let from = scanner.offset;
    if let Some(header) = scanner.record_at(from)? {
        let position = Position { segment, offset: from };
        damaged(Damage::Payload(scanner.found(position, &header)));
        scanner.offset = from + header.size();
        return Ok(());
    }
    let mut at = from + ALIGN;
    while at < scanner.size() && scanner.record_at(at)?.is_none() {
        at += ALIGN;
    }
    let to = at.min(scanner.size());
    damaged(Damage::Gap { segment, from, to });
    scanner.offset = to;
    Ok(())
}

/// Looks behind a place without a record. A record there that was written after this place was
/// durable means rot. Anything else is what a crash left of an unacknowledged batch.
fn torn_or_rotten(scanner: &mut Scanner) -> Result<Ending, OpenError> {
    let tail = scanner.offset;
    let end = scanner.size().min(tail + TORN_REACH);
    let mut dirty_end = tail;
    let mut at = tail;
    while at + ALIGN <= end {
        let word = scanner.bytes(at, ALIGN as usize)?;
        if word.is_none() {
            // Overwritten as a whole, for the disk to find another place for it. The last one has the
            // header's copy, and its segment is sealed anyway.
            let whole = at / PIECE * PIECE + PIECE;
            dirty_end = if whole <= scanner.size() { whole } else { dirty_end };
        } else if word.is_some_and(|w| w.iter().any(|&b| b != 0)) {
            dirty_end = at + ALIGN;
            // Only a header can tell; its payload may be torn itself.
            if scanner.record_at(at)?.is_some_and(|header| header.durable_before > tail) {
                return Ok(Ending::Rotten(at));
            }
        }
        at += ALIGN;
    }
    Ok(Ending::Torn(dirty_end))
}

/// Zeroes what a crash left, so that it can never be taken for a record later.
fn clear(file: &Arc<dyn DiskFile>, tail: u64, dirty_end: u64) -> Result<(), OpenError> {
    if dirty_end > tail {
        let zeros = Bytes::from(vec![0u8; CLEAR_STEP.min(dirty_end - tail) as usize]);
        let mut at = tail;
        while at < dirty_end {
            // Every step but the first begins with a page: one that can't be read is overwritten as a whole,
            // or not at all.
            let n = (at / PIECE * PIECE + CLEAR_STEP).min(dirty_end) - at;
            file.write_at(&[zeros.slice(..n as usize)], at)?;
            at += n;
        }
        file.sync_data()?;
    }
    Ok(())
}
