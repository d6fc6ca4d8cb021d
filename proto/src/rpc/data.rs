//! Calls that data nodes answer.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::chunk::{PieceDigest, Shard};
use crate::error::RpcError;
use crate::feed::PoolChunk;
use crate::ids::{ChunkId, DiskId, Incarnation, PoolId, UploadId};
use crate::receipt::SignedReceipt;

/// When a write counts as done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// Two copies, or `data + 1` pieces, on distinct nodes, spanning two zones where the row does.
    #[default]
    Quorum,
    /// Every slot.
    All,
}

/// Stores a piece in a slot and, if asked, has the receiver relay it to other slots while it writes.
/// The bytes of the chunk follow.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PutRequest {
    /// The upload it belongs to.
    pub upload: UploadId,
    /// The chunk's pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// Bytes that follow: the chunk's, or the shard's.
    pub length: u32,
    /// The row version that the caller placed it by.
    pub row_version: u64,
    /// The receiver's slot.
    pub slot: u8,
    /// Slots to relay to; empty when a primary relays.
    pub relay: Vec<u8>,
    /// How long the receiver waits for the slots it relays to.
    pub ack: Ack,
    /// What follows is a shard of the chunk, as only data nodes send it; otherwise it is the chunk.
    pub shard: Option<Shard>,
}

/// What became of a put: a receipt for each slot that holds its piece on disk.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PutOutcome {
    /// The receiver's own first.
    pub receipts: Vec<SignedReceipt>,
    /// Slots that did not make it.
    pub failures: Vec<SlotFailure>,
}

/// Why a slot has no receipt.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SlotFailure {
    /// The slot.
    pub slot: u8,
    /// Why.
    pub error: RpcError,
}

/// Reads a piece.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReadRequest {
    /// The chunk's pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The piece on this disk of the node and no other; on whichever has one, if none.
    pub disk: Option<DiskId>,
    /// The piece of this slot and no other; whatever is there, if none.
    pub slot: Option<u8>,
    /// First byte wanted.
    pub offset: u32,
    /// Bytes wanted; `u32::MAX` for all that is left.
    pub length: u32,
}

/// What a data node found on reading its piece again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PieceCheck {
    /// Its bytes hash to what they should.
    Good,
    /// They do not, or could not be read.
    Bad,
    /// It is not there.
    Absent,
}

/// A shard that is what its disk wrote, and of which somebody says that another one was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct DoubtedPiece {
    /// Of which chunk.
    pub key: PoolChunk,
    /// The slot it was put under.
    pub slot: u8,
    /// BLAKE3 of its bytes.
    pub digest: PieceDigest,
}

/// A piece that a disk holds, as far as its index says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct HeldPiece {
    /// Of which chunk.
    pub key: PoolChunk,
    /// Its bytes.
    pub length: u32,
    /// The slot it was put under.
    pub slot: u8,
    /// What it says of itself if it is a shard.
    pub shard: Option<Shard>,
    /// Whether the disk knows that its chunk is committed. One whose index was built anew does not.
    pub committed: bool,
    /// Whether it begins as a block of a manifest does; of the shards only the first of a chunk may.
    pub block: bool,
}

/// A page of a disk's pieces.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PiecePage {
    /// The disk's present life, by which the map names it.
    pub incarnation: Incarnation,
    /// Pieces, in the order of pool and chunk.
    pub pieces: Vec<HeldPiece>,
    /// Where to go on; none at the end.
    pub next: Option<PoolChunk>,
    /// Disks of the node.
    pub disks: u32,
}
