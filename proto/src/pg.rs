//! Placement groups: the slice of a pool's chunk-id space that shares one row of disks.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::{ChunkId, DiskId, PoolId};

/// The most bits of the id that choose the group: 65,536 groups a pool.
pub const MAX_PG_BITS: u8 = 16;
/// 1,024 groups.
pub const DEFAULT_PG_BITS: u8 = 10;

/// A group's number within its pool.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PgId(pub u32);

impl PgId {
    /// The group of a chunk: the first `bits` bits of its id, big-endian.
    pub fn of(chunk: &ChunkId, bits: u8) -> Self {
        let head = u32::from_be_bytes([chunk.0[0], chunk.0[1], chunk.0[2], chunk.0[3]]);
        let bits = u32::from(bits.min(MAX_PG_BITS));
        Self(if bits == 0 { 0 } else { head >> (32 - bits) })
    }

    /// The smallest and the largest chunk id of the group, both inclusive.
    pub fn range(self, bits: u8) -> (ChunkId, ChunkId) {
        let bits = u32::from(bits.min(MAX_PG_BITS));
        let (mut low, mut high) = ([0u8; 32], [0xffu8; 32]);
        if bits > 0 {
            let first = self.0 << (32 - bits);
            low[..4].copy_from_slice(&first.to_be_bytes());
            high[..4].copy_from_slice(&(first | (u32::MAX >> bits)).to_be_bytes());
        }
        (ChunkId(low), ChunkId(high))
    }
}

/// Where a group's pieces are: slot `i` of every chunk is on `slots[i]`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct PgRow {
    /// Rises with every change; a write that names an older one is refused.
    pub version: u64,
    /// One disk a slot.
    pub slots: Vec<DiskId>,
    /// Per slot, the last Raft index at which something that it should hold went missing without a
    /// ticket (the disk was wiped, or there were too many tickets); none if all of it is vouched for.
    pub dirty_at: Vec<Option<u64>>,
    /// Per slot that is on its way to its disk, where it comes from: the disk that had it last first. At most
    /// [`MAX_SOURCES`]; nothing for a slot that has arrived.
    pub sources: Vec<Vec<Source>>,
}

/// In [`PgRow::dirty_at`]: dirty since the metadata came out of a snapshot file. What the disk holds has not been looked at,
/// and may be all there.
pub const UNVERIFIED: u64 = 0;

/// Disks that a slot may come from at once: it may be moved so often before it has arrived.
pub const MAX_SOURCES: usize = 4;

/// A disk that a moving slot comes from. It keeps its pieces until the slot's disk has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Source {
    /// The disk.
    pub disk: DiskId,
    /// Raft index at which the slot was given away.
    pub since: u64,
    /// Whether everything that was committed by then is vouched for on it, but for its tickets.
    pub vouched: bool,
}

impl PgRow {
    /// A first row.
    pub fn new(slots: Vec<DiskId>) -> Self {
        let (dirty_at, sources) = (vec![None; slots.len()], vec![Vec::new(); slots.len()]);
        Self { version: 1, slots, dirty_at, sources }
    }

    /// Disks that may have pieces by this row, with their slots: first those that have the slots.
    pub fn holders(&self) -> impl Iterator<Item = (u8, DiskId)> + '_ {
        let slots = self.slots.iter().enumerate().map(|(i, &disk)| (i as u8, disk));
        let sources = self.sources.iter().enumerate();
        slots.chain(sources.flat_map(|(i, sources)| sources.iter().map(move |s| (i as u8, s.disk))))
    }

    /// Whether this disk has a slot or is the source of one.
    pub fn involves(&self, disk: DiskId) -> bool {
        self.holders().any(|(_, holder)| holder == disk)
    }

    /// The slot of which this disk is the source, if any.
    pub fn source_slot_of(&self, disk: DiskId) -> Option<u8> {
        self.sources.iter().position(|s| s.iter().any(|s| s.disk == disk)).map(|i| i as u8)
    }

    /// The source that counts for a slot that has not arrived, if there is one.
    pub fn vouching_source(&self, slot: usize) -> Option<Source> {
        self.sources.get(slot)?.iter().find(|s| s.vouched).copied()
    }

    /// The slot that this disk has, if any.
    pub fn slot_of(&self, disk: DiskId) -> Option<u8> {
        self.slots.iter().position(|&d| d == disk).map(|i| i as u8)
    }
}

/// A group in full.
pub type PgKey = (PoolId, PgId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_chunk_lies_in_the_range_of_its_group_and_of_no_other(id: [u8; 32], bits in 0..=MAX_PG_BITS) {
            let chunk = ChunkId(id);
            let pg = PgId::of(&chunk, bits);
            prop_assert!(u64::from(pg.0) < 1 << bits);
            let (low, high) = pg.range(bits);
            prop_assert!(low <= chunk && chunk <= high);
            prop_assert_eq!(PgId::of(&low, bits), pg);
            prop_assert_eq!(PgId::of(&high, bits), pg);
        }
    }
}
