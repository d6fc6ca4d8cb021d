//! The tree over a file's chunk ids: the shape of RFC 9162 section 2.1 (a lone node is promoted),
//! with BLAKE3 and the same domain separation, built by rs_merkle.
//!
//! rs_merkle by itself separates no domains, so the hasher here prefixes inner nodes with 0x01 and
//! leaves are hashed with 0x00 before they are handed over.

use rs_merkle::{Hasher, MerkleTree};
use wmall_proto::ChunkId;

/// Inner nodes: `H(0x01 ‖ left ‖ right)`; a node without a sibling moves up as it is.
#[derive(Clone)]
pub(crate) struct NodeHasher;

impl Hasher for NodeHasher {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        *blake3::hash(data).as_bytes()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        let Some(right) = right else { return *left };
        let mut input = [0u8; 65];
        input[0] = 0x01;
        input[1..33].copy_from_slice(left);
        input[33..].copy_from_slice(right);
        Self::hash(&input)
    }
}

/// `H(0x00 ‖ ChunkId)`.
pub(crate) fn leaf(chunk: &ChunkId) -> [u8; 32] {
    let mut input = [0u8; 33];
    input[1..].copy_from_slice(&chunk.0);
    NodeHasher::hash(&input)
}

pub(crate) fn tree(chunks: &[ChunkId]) -> MerkleTree<NodeHasher> {
    let leaves: Vec<[u8; 32]> = chunks.iter().map(leaf).collect();
    MerkleTree::from_leaves(&leaves)
}

/// Root of a file without chunks: the hash of nothing (RFC 9162 section 2.1.1).
pub fn empty_root() -> [u8; 32] {
    NodeHasher::hash(&[])
}

/// Root of the tree over these chunks, in order.
pub fn merkle_root(chunks: &[ChunkId]) -> [u8; 32] {
    tree(chunks).root().unwrap_or_else(empty_root)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 9162 section 2.1.1, word for word, as a second opinion.
    fn reference(chunks: &[ChunkId]) -> [u8; 32] {
        match chunks.len() {
            0 => NodeHasher::hash(&[]),
            1 => leaf(&chunks[0]),
            n => {
                let k = n.next_power_of_two() / 2;
                let (l, r) = (reference(&chunks[..k]), reference(&chunks[k..]));
                NodeHasher::concat_and_hash(&l, Some(&r))
            }
        }
    }

    #[test]
    fn the_shape_is_that_of_rfc_9162() {
        let chunks: Vec<ChunkId> = (0..70u8).map(|i| ChunkId::of(&[i])).collect();
        for n in 0..=chunks.len() {
            assert_eq!(merkle_root(&chunks[..n]), reference(&chunks[..n]), "{n} leaves");
        }
    }

    #[test]
    fn a_node_is_no_leaf() {
        let chunks: Vec<ChunkId> = (0..2u8).map(|i| ChunkId::of(&[i])).collect();
        assert_ne!(merkle_root(&[ChunkId(merkle_root(&chunks))]), merkle_root(&chunks));
    }
}
