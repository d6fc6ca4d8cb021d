//! The ordered feed of what became of chunks, from the metadata leader to each data node.
//!
//! A data node keeps a piece as `staged` until the feed says that its chunk is committed, and removes it
//! only because the feed says so. The leader holds the last stretch of the feed in memory; a node that is
//! behind it asks about the pieces it holds instead ([`FeedPage::Behind`]).

use bincode::{Decode, Encode};

use crate::ids::{ChunkId, DiskId, PoolId};
use crate::pg::PgId;

/// A chunk of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PoolChunk {
    /// Its pool.
    pub pool: PoolId,
    /// Its id.
    pub chunk: ChunkId,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FeedItem {
    /// A file with this chunk was committed.
    Committed {
        /// The chunk.
        chunk: PoolChunk,
        /// The disks whose pieces the commit counts on. One of them that lacks its piece reports that, which
        /// becomes a ticket.
        counted: Vec<DiskId>,
    },
    /// Nothing refers to this chunk any more and its grace is over. A piece stays that was promised to an
    /// upload which may still commit.
    Deleted(PoolChunk),
    /// A slot of this group has reached its new disk: the one that it came from keeps nothing of the group
    /// but what uploads are promised.
    Released {
        /// The group's pool.
        pool: PoolId,
        /// Its number.
        pg: PgId,
        /// Bits of a chunk id that number the pool's groups.
        pg_bits: u8,
        /// The disk.
        disk: DiskId,
    },
    /// No upload that began before this time will ever commit; promises to them are void.
    Fenced {
        /// Milliseconds since the Unix epoch.
        before_ms: u64,
    },
}

impl FeedItem {
    /// The chunk it is about; none if it is about all.
    pub fn chunk(&self) -> Option<&PoolChunk> {
        match self {
            Self::Committed { chunk, .. } | Self::Deleted(chunk) => Some(chunk),
            Self::Released { .. } | Self::Fenced { .. } => None,
        }
    }
}

/// A stretch of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FeedPage {
    /// Everything after the asked position up to and with `position`.
    Items {
        /// Raft index that this page reaches.
        position: u64,
        /// What happened, in that order, as far as it concerns the asking node.
        items: Vec<FeedItem>,
        /// Whether there is more already.
        more: bool,
    },
    /// The asked position is older than what the leader holds: ask about every piece, then go on from
    /// `position`.
    Behind {
        /// Where the feed stands.
        position: u64,
    },
}

impl FeedPage {
    /// Empties the page for an answer that has no room for it: nothing yet, and more to come at once.
    pub fn put_off(self, position: u64) -> Self {
        match self {
            Self::Items { items, .. } if !items.is_empty() => {
                Self::Items { position, items: Vec::new(), more: true }
            }
            page => page,
        }
    }
}

/// What the metadata nodes know of pieces that a data node asked about.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PiecesKnown {
    /// Those of the chunks that are committed, in the order asked.
    pub committed: Vec<PoolChunk>,
    /// No upload that began before this time will ever commit.
    pub fenced_before_ms: u64,
    /// Nothing may be deleted now: the cluster's metadata came out of a backup, and an operator has not yet
    /// confirmed that it is whole.
    pub deletion_held: bool,
}
