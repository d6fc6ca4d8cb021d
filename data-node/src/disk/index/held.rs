//! What the index says of a piece: where it is, what it is, and who holds it there.

use wmall_journal::{Journal, Position};
use wmall_proto::chunk::Shard;
use wmall_proto::feed::PoolChunk;

use crate::disk::piece::{PieceHeader, header_length};

/// What a piece is to its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceState {
    /// Received, not known to be committed, or not any more.
    Staged,
    /// Committed.
    Live,
    /// Nothing holds it; its tombstone is on its way.
    Trash,
}

/// Where a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) position: Position,
    pub(crate) length: u32,
    pub(crate) slot: u8,
    /// None for a copy.
    pub(crate) shard: Option<Shard>,
    /// Version of the row that a shard was put by; 0 for a copy, which fits every slot.
    pub(crate) row_version: u64,
    pub(crate) state: PieceState,
}

impl Located {
    /// Whether it serves a slot: a copy is as good in any, a shard only in its own.
    pub(crate) fn fits(&self, slot: u8) -> bool {
        self.shard.is_none() || self.slot == slot
    }

    /// Whether a piece that comes now is of another slot, by a row of before: a write that was under way for long while
    /// the slot moved.
    pub(super) fn is_later_than(&self, header: &PieceHeader) -> bool {
        self.shard.is_some() && self.slot != header.slot && self.row_version > header.row_version
    }

    /// Whether it is the very piece, of a chunk of the same length.
    pub(crate) fn is_what(&self, header: &PieceHeader) -> bool {
        self.digest(&header.key()) == header.digest() && self.shard == header.shard
    }

    /// Where its bytes begin in its segment.
    pub(crate) fn payload_offset(&self) -> u64 {
        Journal::payload_offset(self.position, header_length(self.shard.as_ref()))
    }

    /// What its bytes hash to.
    pub(crate) fn digest(&self, key: &PoolChunk) -> [u8; 32] {
        self.shard.map_or(key.chunk.0, |s| s.digest)
    }

    pub(crate) fn record_bytes(&self) -> u64 {
        Journal::record_bytes(header_length(self.shard.as_ref()), self.length as usize)
    }
}

/// A piece with its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) located: Located,
    /// Latest start of any upload that was promised the piece, in milliseconds since the Unix epoch: the
    /// piece stays until the fence has passed that.
    pub(crate) held_until_ms: u64,
}
