//! Writes past the page cache, of what nobody will read soon: they push out nothing that is read, and cost no memory that would
//! have to be found, filled and given back.
//!
//! Whole pages go straight to the disk, from a buffer that is aligned as the kernel wants it; the rest of the first and the last
//! page goes the usual way, so no page is ever written in both. A file system that has no such writes gets usual ones.
//!
//! Deliberately absent: durability. As after any write, only a sync makes it so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use bytes::Bytes;
use rustix::fs::OFlags;

/// What addresses, offsets and lengths of such writes are multiples of: at least what any disk asks for.
const PAGE: usize = 4096;
/// Bytes of the buffer; longer writes take several turns.
const BUFFER: usize = 4 << 20;

/// A way past the page cache into one file at a time, with a buffer of its own.
#[derive(Debug, Default)]
pub(crate) struct Direct {
    buffer: Vec<u8>,
    /// The file that was written last, by its number; none if its file system has no such writes.
    open: Option<(u64, Option<File>)>,
}

impl Direct {
    /// Writes what of these parts are whole pages, and returns how many bytes before them and behind them are left: the caller
    /// writes those. All are left if this way is not open.
    pub(crate) fn write(
        &mut self,
        (number, file): (u64, &File),
        parts: &[Bytes],
        offset: u64,
    ) -> io::Result<(usize, usize)> {
        let length: usize = parts.iter().map(Bytes::len).sum();
        let head = (PAGE - (offset % PAGE as u64) as usize) % PAGE;
        let middle = length.saturating_sub(head) / PAGE * PAGE;
        if middle == 0 || self.way_into(number, file).is_none() {
            return Ok((length, 0));
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER + PAGE];
        }
        let aligned = self.buffer.as_ptr().align_offset(PAGE);
        let Some((_, Some(way))) = &self.open else { return Ok((length, 0)) };
        let mut rest = Rest { parts, at: 0 };
        rest.skip(head);
        let mut done = 0;
        while done < middle {
            let turn = (middle - done).min(BUFFER);
            let buffer = &mut self.buffer[aligned..aligned + turn];
            rest.fill(buffer);
            match way.write_all_at(buffer, offset + (head + done) as u64) {
                Ok(()) => done += turn,
                // What the disk itself says is final. Anything else may be about the way (lengths, memory, extents to be split):
                // the usual one is tried with all of it, over what is there of it already.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%error, "a write past the page cache failed; it is made the usual way");
                    self.open = Some((number, None));
                    return Ok((length, 0));
                }
            }
        }
        Ok((head, length - head - middle))
    }

    /// Lets go of the file that was written last: one that is removed gives its room back only when nobody has it open.
    pub(crate) fn let_go(&mut self) {
        self.open = None;
    }

    /// Another handle of an open file, whatever its name is by now.
    fn way_into(&mut self, number: u64, file: &File) -> Option<&File> {
        if self.open.as_ref().is_none_or(|(known, _)| *known != number) {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let way = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path);
            if let Err(error) = &way {
                tracing::debug!(%error, "no writes past the page cache here");
            }
            self.open = Some((number, way.ok()));
        }
        self.open.as_ref().and_then(|(_, way)| way.as_ref())
    }
}

/// Parts that are gone through once.
struct Rest<'a> {
    parts: &'a [Bytes],
    /// Bytes of the first that are behind.
    at: usize,
}

impl Rest<'_> {
    fn skip(&mut self, mut count: usize) {
        while let Some(first) = self.parts.first() {
            let left = first.len() - self.at;
            if count < left {
                self.at += count;
                return;
            }
            count -= left;
            (self.parts, self.at) = (&self.parts[1..], 0);
        }
    }

    fn fill(&mut self, mut into: &mut [u8]) {
        while let Some(first) = self.parts.first().filter(|_| !into.is_empty()) {
            let left = &first[self.at..];
            let count = left.len().min(into.len());
            into[..count].copy_from_slice(&left[..count]);
            into = &mut into[count..];
            self.skip(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn all_but_the_ends_goes_straight_to_the_disk() {
        let file = tempfile::tempfile().unwrap();
        let bytes = content(9 << 20 | 123);
        file.set_len(16 << 20).unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        let parts: Vec<Bytes> = bytes.chunks(70_001).map(Bytes::copy_from_slice).collect();
        let mut direct = Direct::default();
        let (head, tail) = direct.write((1, &file), &parts, 5000).unwrap();
        assert_eq!(head, 8192 - 5000, "the temporary files need a file system that has O_DIRECT");
        assert_eq!(tail, (5000 + bytes.len()) % PAGE);
        let mut there = vec![0; bytes.len()];
        file.read_exact_at(&mut there, 5000).unwrap();
        assert_eq!(there[head..bytes.len() - tail], bytes[head..bytes.len() - tail]);
        assert!(there[..head].iter().all(|b| *b == 7), "the rest of the page is another one's");
        assert!(there[bytes.len() - tail..].iter().all(|b| *b == 0));
        // What a reader had in memory is not what it reads afterwards.
        let other = content(bytes.len()).iter().map(|b| !b).collect::<Vec<_>>();
        direct.write((1, &file), &[other.clone().into()], 5000).unwrap();
        file.read_exact_at(&mut there, 5000).unwrap();
        assert_eq!(there[head..bytes.len() - tail], other[head..bytes.len() - tail]);
    }

    #[test]
    fn a_file_system_without_such_writes_leaves_all_to_the_usual_ones() {
        let parts = [Bytes::from(vec![1; 1 << 20])];
        let file = File::open("/proc/self/status").unwrap();
        let left = Direct::default().write((1, &file), &parts, 0).unwrap();
        assert_eq!(left, (1 << 20, 0));
    }

    proptest! {
        #[test]
        fn parts_are_gone_through_in_order(
            lengths in proptest::collection::vec(0usize..50, 0..20),
            skip in 0usize..300,
            turn in 1usize..40,
        ) {
            let all = content(lengths.iter().sum());
            let mut at = 0;
            let parts: Vec<Bytes> = lengths.iter().map(|n| { at += n; Bytes::copy_from_slice(&all[at - n..at]) }).collect();
            let mut rest = Rest { parts: &parts, at: 0 };
            let skip = skip.min(all.len());
            rest.skip(skip);
            let mut seen = Vec::new();
            while seen.len() + turn <= all.len() - skip {
                let mut into = vec![0; turn];
                rest.fill(&mut into);
                seen.extend(into);
            }
            prop_assert_eq!(&seen, &all[skip..skip + seen.len()]);
        }
    }
}
