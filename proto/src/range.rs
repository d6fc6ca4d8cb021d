//! Fingerprints over ranges of chunk ids, by which a data node finds out cheaply whether it has what it should have: the
//! same sum is taken over what the metadata say and over what the disk's index says, and only where they differ is the
//! range cut and looked at again. A fingerprint proves presence, never content; scrub and challenges do that.

use bincode::{Decode, Encode};

use crate::ids::{ChunkId, DiskId, PoolId};

/// A range as long as this is listed id by id instead of being cut again.
pub const LISTED: u64 = 256;
/// Parts that a range is cut into where it differs.
pub const PARTS: u16 = 16;

/// A range of a pool's chunk ids, both ends inclusive.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Range {
    /// The pool.
    pub pool: PoolId,
    /// The first id.
    pub low: ChunkId,
    /// The last id.
    pub high: ChunkId,
}

impl Range {
    /// The range in equal parts, by the 16 bits behind those that both ends share. A range of one id is one part.
    pub fn cut(&self) -> Vec<Self> {
        let (low, high) = (head(&self.low), head(&self.high));
        // Ids are hashes: 64 bits are enough to cut by, and a range that is equal in them is not worth it.
        let width = (high - low) / u64::from(PARTS);
        if width == 0 {
            return vec![self.clone()];
        }
        let begin = |part: u64| ChunkId(with_head(low + part * width, 0));
        let parts = u64::from(PARTS);
        let part = |i: u64| Self {
            pool: self.pool,
            low: if i == 0 { self.low } else { begin(i) },
            high: if i + 1 == parts {
                self.high
            } else {
                ChunkId(with_head(low + (i + 1) * width - 1, 0xff))
            },
        };
        (0..parts).map(part).collect()
    }
}

fn head(id: &ChunkId) -> u64 {
    id.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn with_head(head: u64, rest: u8) -> [u8; 32] {
    let mut id = [rest; 32];
    id[..8].copy_from_slice(&head.to_be_bytes());
    id
}

/// How many chunks, and the sum of a hash of each, so that neither order nor grouping matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct RangeSum {
    /// How many.
    pub count: u64,
    /// The sum, modulo 2^128, of the first 16 bytes, little-endian, of BLAKE3("wmall.range.v1" ‖ id).
    pub sum: u128,
}

impl RangeSum {
    /// Adds a chunk.
    pub fn add(&mut self, chunk: &ChunkId) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"wmall.range.v1");
        hasher.update(&chunk.0);
        let hash = hasher.finalize();
        let part = hash.as_bytes().first_chunk::<16>().map_or(0, |bytes| u128::from_le_bytes(*bytes));
        self.count += 1;
        self.sum = self.sum.wrapping_add(part);
    }
}

/// A disk's claim of what it has of a range.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RangeClaim {
    /// The disk.
    pub disk: DiskId,
    /// The range.
    pub range: Range,
    /// Place in the feed up to which the disk has followed.
    pub feed: u64,
    /// What it has.
    pub sum: RangeSum,
}

/// What the metadata say to that.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RangeVerdict {
    /// It is what should be there.
    Same,
    /// It is not, in one of these parts.
    Differs,
    /// It is not, and these are the chunks that should be there: at most [`LISTED`].
    Chunks(Vec<ChunkId>),
    /// It can't be told now: something of the range has just changed, or is on its way to the disk.
    NotNow,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fingerprint_is_pinned() {
        let mut sum = RangeSum::default();
        sum.add(&ChunkId([7; 32]));
        assert_eq!(sum, RangeSum { count: 1, sum: 93_744_635_977_919_074_559_466_529_500_130_001_880 });
    }

    proptest! {
        #[test]
        fn the_parts_of_a_range_are_the_range(low: u64, high: u64, id: [u8; 32]) {
            let (low, high) = (low.min(high), low.max(high));
            let pool = PoolId(1);
            let whole = Range { pool, low: ChunkId(with_head(low, 0)), high: ChunkId(with_head(high, 0xff)) };
            let parts = whole.cut();
            prop_assert_eq!(parts[0].low, whole.low);
            prop_assert_eq!(parts[parts.len() - 1].high, whole.high);
            let chunk = ChunkId(id);
            let holding = parts.iter().filter(|r| r.low <= chunk && chunk <= r.high).count();
            let inside = whole.low <= chunk && chunk <= whole.high;
            prop_assert_eq!(holding, usize::from(inside));
        }

        #[test]
        fn sums_do_not_depend_on_order(mut ids in proptest::collection::vec(any::<[u8; 32]>(), 0..20)) {
            let sum = |ids: &[[u8; 32]]| {
                let mut sum = RangeSum::default();
                ids.iter().for_each(|id| sum.add(&ChunkId(*id)));
                sum
            };
            let before = sum(&ids);
            ids.reverse();
            prop_assert_eq!(sum(&ids), before);
        }
    }
}
