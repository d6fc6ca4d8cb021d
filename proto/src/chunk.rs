//! What the metadata nodes know of a chunk, and what a client claims of one at commit.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::grade::Grade;
use crate::ids::{ChunkId, DiskId, Incarnation, PoolId};
use crate::names::NodeName;
use crate::receipt::ReceiptProof;

/// The smallest chunk size a file may have.
pub const MIN_CHUNK_SIZE: u32 = 64 << 10;
/// The largest.
pub const MAX_CHUNK_SIZE: u32 = 16 << 20;
/// What a file has unless told otherwise.
pub const DEFAULT_CHUNK_SIZE: u32 = 4 << 20;
/// The most chunks that one Raft entry may commit; longer files come in parts.
pub const MAX_CHUNKS_PER_COMMIT: usize = 4096;

/// The most pieces that one Raft entry may commit: its chunks, and the block of the manifest with their ids.
pub const MAX_PIECES_PER_COMMIT: usize = MAX_CHUNKS_PER_COMMIT + 1;

/// A chunk in a commit: its id, its length and the receipts that the client holds for it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ChunkCommit {
    /// Name of the bytes.
    pub id: ChunkId,
    /// How many bytes.
    pub length: u32,
    /// The row version that every receipt of it was given under.
    pub row_version: u64,
    /// BLAKE3 of each slot's piece where pieces are shards; nothing where they are copies.
    pub digests: Vec<PieceDigest>,
    /// One promise a slot, at most. None at all claims that the chunk is committed already.
    pub receipts: Vec<ReceiptProof>,
}

/// BLAKE3-256 of a piece that is a shard; a copy's is the chunk's own id.
pub type PieceDigest = [u8; 32];

/// Nobody knows what the piece hashes to: no disk has given a receipt for it, or it was lost with the
/// metadata.
pub const UNKNOWN_DIGEST: PieceDigest = [0; 32];

/// What a shard says of itself, beside whose chunk and which slot it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Shard {
    /// BLAKE3 of its bytes.
    pub digest: PieceDigest,
    /// Bytes of the whole chunk.
    pub chunk_length: u32,
}

/// A committed chunk of a pool, as the state machine keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// Bytes.
    pub length: u32,
    /// How many places in committed files and in parts that wait point here.
    pub references: u64,
    /// Raft index of the entry that first committed it.
    pub committed_at: u64,
    /// Since when nothing points here; none while something does.
    pub condemned: Option<Condemned>,
}

/// A chunk that nothing refers to. It is deleted after a grace, unless a file with it is committed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Condemned {
    /// Raft index of the entry that released the last reference; tells one condemnation from the next.
    pub at: u64,
    /// When that was, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// A durable note: this disk should hold a good piece of this chunk and does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Ticket {
    /// The slot whose piece is missing.
    pub slot: u8,
    /// Raft index at which the note was made.
    pub since: u64,
    /// Why.
    pub reason: TicketReason,
}

/// What led to a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketReason {
    /// The write that committed the chunk had no receipt from this disk.
    MissedWrite,
    /// The disk itself found its piece missing or rotten.
    BadPiece,
}

/// A piece that a disk should fetch: one line of the work that a ticket or a dirty slot makes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MissingPiece {
    /// The chunk's pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its length in bytes: of the chunk, not of the piece.
    pub length: u32,
    /// The slot that the asking disk has for it.
    pub slot: u8,
    /// The row version to put it under.
    pub row_version: u64,
    /// BLAKE3 of each slot's piece where pieces are shards; nothing where they are copies.
    pub digests: Vec<PieceDigest>,
}

/// Where one piece of a chunk should be and whether it counts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct PieceView {
    /// The slot.
    pub slot: u8,
    /// The disk of that slot.
    pub disk: DiskId,
    /// Its node.
    pub node: NodeName,
    /// That disk's present life.
    pub incarnation: Incarnation,
    /// Whether it counts towards the margin now.
    pub state: PieceState,
}

/// Whether a piece counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PieceState {
    /// Promised by receipt, on a disk that answers.
    Live,
    /// Promised, on a disk that does not answer now.
    Suspect,
    /// Known to be missing or bad; a ticket or a dirty slot says so.
    Missing,
}

/// A chunk with the places of its pieces, for `wmall chunk show`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ChunkView {
    /// Its pool.
    pub pool: PoolId,
    /// Its id.
    pub id: ChunkId,
    /// The record.
    pub record: ChunkRecord,
    /// The row version that the places were computed from.
    pub row_version: u64,
    /// BLAKE3 of each slot's piece where pieces are shards; nothing where they are copies.
    pub digests: Vec<PieceDigest>,
    /// One a slot.
    pub pieces: Vec<PieceView>,
    /// What that adds up to.
    pub grade: Grade,
}
