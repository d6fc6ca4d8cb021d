//! Proofs that 64 KiB are a certain part of what a BLAKE3 hash names. BLAKE3 is a Merkle tree itself (its paper, section
//! 2.1): the left subtree of `n` bytes is the largest power of two that is less than `n`. So the id of a chunk vouches
//! for its parts, and nothing has to be stored beside it.

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use wmall_proto::challenge::{LEAF, SliceProof};

/// How many leaves a piece of this length has; one that is empty has one.
pub fn leaves(length: u32) -> u32 {
    length.div_ceil(LEAF as u32).max(1)
}

/// The proof of leaf number `leaf`; none if there is no such leaf.
pub fn prove_slice(piece: &[u8], leaf: u32) -> Option<SliceProof> {
    let at = (leaf as usize).checked_mul(LEAF)?;
    if at >= piece.len().max(1) {
        return None;
    }
    let (mut rest, mut offset, mut siblings) = (piece, 0, Vec::new());
    while rest.len() > LEAF {
        let (left, right) = rest.split_at(left_subtree_len(rest.len() as u64) as usize);
        let middle = offset + left.len();
        if at < middle {
            siblings.push(chaining_value(right, middle));
            rest = left;
        } else {
            siblings.push(chaining_value(left, offset));
            (rest, offset) = (right, middle);
        }
    }
    Some(SliceProof { bytes: rest.to_vec(), siblings })
}

/// Whether this is leaf number `leaf` of what `digest` names. That it has `length` bytes the caller knows; a proof of one
/// leaf does not show it.
pub fn verify_slice(digest: &[u8; 32], length: u32, leaf: u32, proof: &SliceProof) -> bool {
    let Some(at) = (leaf as usize).checked_mul(LEAF) else { return false };
    let (mut length, mut offset) = (length as usize, 0);
    if at >= length.max(1) {
        return false;
    }
    // Which way it goes at each node follows from the length alone.
    let mut turns = Vec::new();
    while length > LEAF {
        let left = left_subtree_len(length as u64) as usize;
        let goes_left = at < offset + left;
        turns.push(goes_left);
        if goes_left {
            length = left;
        } else {
            (length, offset) = (length - left, offset + left);
        }
    }
    if proof.bytes.len() != length || proof.siblings.len() != turns.len() {
        return false;
    }
    if turns.is_empty() {
        return blake3::hash(&proof.bytes) == *digest;
    }
    let mut value = chaining_value(&proof.bytes, offset);
    for (depth, (goes_left, sibling)) in turns.iter().zip(&proof.siblings).enumerate().rev() {
        let (left, right) = if *goes_left { (&value, sibling) } else { (sibling, &value) };
        if depth == 0 {
            return merge_subtrees_root(left, right, Mode::Hash) == *digest;
        }
        value = merge_subtrees_non_root(left, right, Mode::Hash);
    }
    false
}

fn chaining_value(subtree: &[u8], offset: usize) -> [u8; 32] {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset as u64);
    hasher.update(subtree);
    hasher.finalize_non_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
    }

    #[test]
    fn every_leaf_of_every_shape_is_proven_and_no_other() {
        let around = [1, 2, 3, 4, 5, 7, 8, 9, 16, 63, 64, 65].map(|n| n * LEAF);
        let lengths = around.into_iter().flat_map(|n| [n - 1, n, n + 1]).chain([0, 1, 1023, 1024, 1025]);
        for length in lengths {
            let bytes = piece(length);
            let digest = *blake3::hash(&bytes).as_bytes();
            let count = leaves(length as u32);
            for leaf in
                [0, 1, count / 2, count.saturating_sub(2), count - 1].into_iter().filter(|l| *l < count)
            {
                let proof = prove_slice(&bytes, leaf).unwrap();
                assert!(verify_slice(&digest, length as u32, leaf, &proof), "{length} {leaf}");
                assert!(!verify_slice(&digest, length as u32, leaf + 1, &proof));
                let mut other = digest;
                other[31] ^= 1;
                assert!(!verify_slice(&other, length as u32, leaf, &proof));
                let mut wrong = proof.clone();
                if let Some(byte) = wrong.bytes.last_mut() {
                    *byte ^= 1;
                    assert!(!verify_slice(&digest, length as u32, leaf, &wrong), "{length} {leaf}");
                }
                for i in 0..proof.siblings.len() {
                    let mut wrong = proof.clone();
                    wrong.siblings[i][0] ^= 1;
                    assert!(!verify_slice(&digest, length as u32, leaf, &wrong));
                }
            }
            assert_eq!(prove_slice(&bytes, count), None);
        }
    }
}
