//! openraft's messages, as bytes that the metadata nodes encode and decode among themselves.

use bincode::{Decode, Encode};

/// A Raft message; each payload is laid out in `metadata-node/src/raft/wire.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RaftRequest {
    /// AppendEntries.
    Append(Vec<u8>),
    /// RequestVote.
    Vote(Vec<u8>),
    /// InstallSnapshot, a piece of it.
    Snapshot(Vec<u8>),
}

/// The answer to the message of the same kind.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RaftResponse {
    /// To AppendEntries.
    Append(Vec<u8>),
    /// To RequestVote.
    Vote(Vec<u8>),
    /// To InstallSnapshot.
    Snapshot(Vec<u8>),
}
