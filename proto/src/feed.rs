//! The ordered feed of what was committed, from the metadata leader to each data node.
//!
//! A data node keeps pieces as `staged` until the feed says that their chunk is committed. The
//! leader holds the last stretch of the feed in memory; a node that is behind it reads the
//! groups it holds instead ([`FeedPage::Behind`]).

use bincode::{Decode, Encode};

use crate::ids::{ChunkId, PoolId};

/// One committed chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct CommittedChunk {
    /// Its pool.
    pub pool: PoolId,
    /// Its id.
    pub chunk: ChunkId,
}

/// A stretch of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FeedPage {
    /// Everything after the asked position up to and with `position`.
    Items {
        /// Raft index that this page reaches.
        position: u64,
        /// What was committed, in that order, as far as it concerns the asking node.
        items: Vec<CommittedChunk>,
        /// Whether there is more already.
        more: bool,
    },
    /// The asked position is older than what the leader holds: read the groups, then go on from
    /// `position`.
    Behind {
        /// Where the feed stands.
        position: u64,
    },
}
