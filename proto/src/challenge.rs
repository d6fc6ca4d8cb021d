//! Random challenges: a metadata node asks a disk for a part of a piece that nobody told it to expect, with a proof that it
//! is what the piece hashes to. A disk that has the bytes answers; one that only says that it has them can't.

use bincode::{Decode, Encode};

use crate::ids::{ChunkId, DiskId, PoolId};
use crate::receipt::SignedAttestation;

/// Bytes of a leaf: what a challenge asks for. The last leaf of a piece may be shorter.
pub const LEAF: usize = 64 << 10;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Challenge {
    /// The disk that is asked.
    pub disk: DiskId,
    /// The chunk's pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The slot whose piece is meant.
    pub slot: u8,
    /// Which leaf, from 0 on.
    pub leaf: u32,
    /// What the answer must carry.
    pub nonce: [u8; 16],
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ChallengeAnswer {
    /// The disk's signature, with the nonce, for that it has the piece.
    pub attested: SignedAttestation,
    /// Bytes of the piece.
    pub piece_length: u32,
    /// The leaf and its way up.
    pub proof: SliceProof,
}

/// A leaf of a BLAKE3 tree and what leads from it to the root: the other half at each node, from the root down
/// (the BLAKE3 paper, section 2.1). No tree is stored; it is made from the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SliceProof {
    /// The leaf's bytes.
    pub bytes: Vec<u8>,
    /// Chaining values of the siblings, from the root's child down to the leaf's own sibling.
    pub siblings: Vec<[u8; 32]>,
}
