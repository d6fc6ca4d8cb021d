//! Messages between metadata nodes: openraft's, as bytes that the metadata nodes encode and decode among
//! themselves, and the question of a member that starts. Each names the incarnations of both ends, so that a
//! member that lost its memory is not taken for the one that it was.

use bincode::{Decode, Encode};

use crate::ids::Incarnation;
use crate::status::BackupStatus;
use crate::volume::MemberVolumes;

/// A message from one metadata node to another.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RaftCall {
    /// Raft id of the sender.
    pub from: u64,
    /// Incarnation of the sender.
    pub incarnation: Incarnation,
    /// Incarnation that the receiver has in the sender's membership; none where the sender asks for it.
    pub to: Option<Incarnation>,
    /// For each member, the last entry that it has acknowledged to the sender, by Raft id; empty unless the
    /// sender leads.
    pub acknowledged: Vec<(u64, u64)>,
    /// The message itself.
    pub message: RaftRequest,
}

/// A Raft message; each payload is laid out in `metadata-node/src/raft/wire.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RaftRequest {
    /// AppendEntries.
    Append(Vec<u8>),
    /// RequestVote.
    Vote(Vec<u8>),
    /// InstallSnapshot, a piece of it.
    Snapshot(Vec<u8>),
    /// Asks for the receiver's incarnation, and for the cluster that it knows.
    Hello,
}

/// The answer to a [`RaftCall`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RaftAnswer {
    /// Incarnation of the answering member.
    pub incarnation: Incarnation,
    /// Its clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The room on its volumes.
    pub volumes: MemberVolumes,
    /// How its scheduled backups are; none if it has no `[backup]`.
    pub backup: Option<BackupStatus>,
    /// The answer itself.
    pub message: RaftResponse,
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
    /// To [`RaftRequest::Hello`]: the cluster that the member knows; none if it has never taken part in one.
    Hello(Option<KnownCluster>),
}

/// An entry that a member has acknowledged. A member that has voted for a later leader may have had it taken
/// back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Acknowledged {
    /// Term and Raft id of the leader that it was acknowledged to.
    pub leader: (u64, u64),
    /// Index of the entry.
    pub index: u64,
}

/// A cluster as one of its members knows it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KnownCluster {
    /// Raft id and incarnation of each member.
    pub members: Vec<(u64, Incarnation)>,
    /// The last entry that the asking member has acknowledged to a leader, as far as the answering one has
    /// heard.
    pub acknowledged: Option<Acknowledged>,
    /// Whether the answering member has a leader now.
    pub led: bool,
}
