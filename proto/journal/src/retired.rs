//! The list of segments that were retired, on disk: what may be missing, and nothing else may.
//!
//! Written under a temporary name, fsync'ed, renamed and made durable by an fsync of the folder *before* a
//! segment is unlinked. At start, listed segments that are still there are unlinked, and any other gap is
//! damage.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;

use crate::disk::Disk;
use crate::recover::OpenError;
use crate::scan::is_unreadable;

const NAME: &str = "retired";
const TEMPORARY: &str = "retired.new";
const MAGIC: [u8; 8] = *b"WMALLRET";
const VERSION: u8 = 1;
/// Magic, version, padding, first, count.
const HEAD: usize = 32;

/// Which segments are gone for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retired {
    /// The oldest segment that is kept; all below are gone.
    pub(crate) first: u64,
    /// Those above it that are gone.
    numbers: BTreeSet<u64>,
}

impl Retired {
    pub(crate) fn contains(&self, number: u64) -> bool {
        number < self.first || self.numbers.contains(&number)
    }

    /// The list once `gone` is gone and `kept` is left.
    pub(crate) fn after(before: Option<&Self>, gone: &[u64], kept: impl Iterator<Item = u64>) -> Self {
        let first = kept.min().unwrap_or(0);
        let old = before.into_iter().flat_map(|r| r.numbers.iter());
        let numbers = old.chain(gone).copied().filter(|&n| n > first).collect();
        Self { first, numbers }
    }

    /// The list that explains these numbers, which rise.
    pub(crate) fn between(numbers: &[u64]) -> Self {
        let first = numbers.first().copied().unwrap_or(0);
        let last = numbers.last().copied().unwrap_or(0);
        let numbers = (first..last).filter(|n| numbers.binary_search(n).is_err()).collect();
        Self { first, numbers }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.numbers.len() * 8 + 4);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.resize(16, 0);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&(self.numbers.len() as u64).to_le_bytes());
        self.numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
        if crc32c::crc32c(body).to_le_bytes() != *crc {
            return Err("its checksum does not match");
        }
        let words = body.get(16..).ok_or("it is too short")?;
        if body[..8] != MAGIC || body[8] != VERSION {
            return Err("not a list of this version");
        }
        let mut words = words.chunks_exact(8).map(|w| w.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)));
        let (Some(first), Some(count)) = (words.next(), words.next()) else { return Err("it is too short") };
        let numbers: BTreeSet<u64> = words.collect();
        if numbers.len() as u64 != count {
            return Err("it does not have as many entries as it says");
        }
        Ok(Self { first, numbers })
    }

    pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Self>, OpenError> {
        let file = match disk.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let bytes = match file.read_vec(0, file.size()? as usize) {
            Err(error) if is_unreadable(&error) => {
                return Err(OpenError::Retired(format!("the disk can't read it: {error}")));
            }
            read => read?,
        };
        Self::decode(&bytes).map(Some).map_err(|why| OpenError::Retired(why.into()))
    }

    pub(crate) fn save(&self, disk: &dyn Disk) -> io::Result<()> {
        match disk.remove(TEMPORARY) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let bytes = self.encode();
        let file = disk.create(TEMPORARY, bytes.len() as u64)?;
        file.write_at(&[Bytes::from(bytes)], 0)?;
        file.sync_all()?;
        disk.rename(TEMPORARY, NAME)?;
        disk.sync_dir()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_round_trip_and_no_changed_byte_passes() {
        let list = Retired::after(None, &[3, 5], [2, 4, 6].into_iter());
        assert!(list.contains(1) && !list.contains(2) && list.contains(3) && !list.contains(6));
        let later = Retired::after(Some(&list), &[2], [4, 6].into_iter());
        assert_eq!((later.first, later.numbers.iter().copied().collect::<Vec<_>>()), (4, vec![5]));
        let bytes = list.encode();
        assert_eq!(Retired::decode(&bytes), Ok(list));
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            assert!(Retired::decode(&changed).is_err(), "byte {i}");
            assert!(Retired::decode(&bytes[..i]).is_err(), "cut at {i}");
        }
    }
}
