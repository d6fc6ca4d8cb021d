//! A manifest whose full parts are known by their sums only: what it takes to check a long file's id without
//! its ids. The tree of RFC 9162 over all chunks is the tree over the roots of aligned runs of
//! [`MAX_CHUNKS_PER_COMMIT`] chunks, since that is a power of two.

use rs_merkle::MerkleTree;
use wmall_proto::chunk::MAX_CHUNKS_PER_COMMIT;
use wmall_proto::{ChunkId, FileId};

use crate::block::{Block, has_blocks};
use crate::manifest::{ManifestError, check_chunk_size, chunk_length, file_id};
use crate::merkle::{NodeHasher, empty_root, merkle_root};

/// A full part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartSum {
    /// Root of the tree over its chunks.
    pub root: [u8; 32],
    /// Name of the block with their ids.
    pub block: ChunkId,
}

/// A manifest with its last chunks only. A value of this type is consistent: the count fits the size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    size: u64,
    chunk_size: u32,
    parts: Vec<PartSum>,
    rest: Vec<ChunkId>,
    root: [u8; 32],
}

/// Full parts of a file of so many chunks: the last chunk is in none.
pub fn full_parts(chunks: u64) -> u64 {
    chunks.saturating_sub(1) / MAX_CHUNKS_PER_COMMIT as u64
}

impl Outline {
    /// Checks bounds, counts, and that all of it is the file that somebody says it is.
    pub fn verified(
        id: FileId,
        size: u64,
        chunk_size: u32,
        parts: Vec<PartSum>,
        rest: Vec<ChunkId>,
    ) -> Result<Self, ManifestError> {
        check_chunk_size(chunk_size)?;
        let expected = size.div_ceil(u64::from(chunk_size));
        let found = parts.len() as u64 * MAX_CHUNKS_PER_COMMIT as u64 + rest.len() as u64;
        if found != expected || parts.len() as u64 != full_parts(expected) {
            return Err(ManifestError::ChunkCount { size, chunk_size, expected, found });
        }
        let mut roots: Vec<[u8; 32]> = parts.iter().map(|part| part.root).collect();
        if !rest.is_empty() {
            roots.push(merkle_root(&rest));
        }
        let root = MerkleTree::<NodeHasher>::from_leaves(&roots).root().unwrap_or_else(empty_root);
        match file_id(size, chunk_size, &root) {
            found if found == id => Ok(Self { size, chunk_size, parts, rest, root }),
            found => Err(ManifestError::WrongFile { expected: id, found }),
        }
    }

    /// Root of the tree over all chunks.
    pub fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// Bytes of chunk `index` behind the full parts; 0 beyond the end.
    pub fn rest_length(&self, index: usize) -> u32 {
        let first = self.parts.len() * MAX_CHUNKS_PER_COMMIT;
        chunk_length(self.size, self.chunk_size, (first + index) as u64)
    }

    /// Name of the root of the file's blocks; none for a file that needs none.
    pub fn root_block(&self) -> Option<ChunkId> {
        has_blocks(self.size, self.chunk_size).then(|| {
            let parts = self.parts.iter().map(|part| part.block).collect();
            let rest = self.rest.clone();
            let root = Block::Root { size: self.size, chunk_size: self.chunk_size, parts, rest };
            ChunkId::of(&root.encode())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;
    use wmall_proto::chunk::MIN_CHUNK_SIZE;

    #[test]
    fn an_outline_says_what_the_manifest_says() {
        const FULL: usize = MAX_CHUNKS_PER_COMMIT;
        for count in [0, 1, 2, FULL - 1, FULL, FULL + 1, 2 * FULL, 2 * FULL + 3, 5 * FULL + 1] {
            let chunks: Vec<ChunkId> = (0..count as u64).map(|n| ChunkId::of(&n.to_le_bytes())).collect();
            let size = (count as u64 * u64::from(MIN_CHUNK_SIZE)).saturating_sub(7);
            let manifest = Manifest::new(size, MIN_CHUNK_SIZE, chunks.clone()).unwrap();
            let blocks = manifest.block_ids();
            let full = full_parts(count as u64) as usize;
            let (in_parts, rest) = chunks.split_at(full * FULL);
            let sums = in_parts.chunks(FULL).zip(&blocks);
            let parts = sums.map(|(ids, block)| PartSum { root: merkle_root(ids), block: *block }).collect();
            let outline =
                Outline::verified(manifest.id(), size, MIN_CHUNK_SIZE, parts, rest.to_vec()).unwrap();
            assert_eq!(outline.root(), manifest.root(), "{count} chunks");
            assert_eq!(outline.root_block(), blocks.last().copied(), "{count} chunks");
            if !rest.is_empty() {
                let last = rest.len() - 1;
                assert_eq!(outline.rest_length(last), manifest.chunk_length(count - 1), "{count} chunks");
            }
        }
    }

    #[test]
    fn a_part_too_few_or_too_many_is_no_file() {
        let chunks: Vec<ChunkId> = (0..3u8).map(|n| ChunkId::of(&[n])).collect();
        let size = 3 * u64::from(MIN_CHUNK_SIZE);
        let id = Manifest::new(size, MIN_CHUNK_SIZE, chunks.clone()).unwrap().id();
        let verified = |parts, rest| Outline::verified(id, size, MIN_CHUNK_SIZE, parts, rest);
        assert!(verified(vec![], chunks.clone()).is_ok());
        let part = PartSum { root: merkle_root(&chunks), block: chunks[0] };
        assert!(matches!(verified(vec![part], chunks.clone()), Err(ManifestError::ChunkCount { .. })));
        assert!(matches!(verified(vec![], chunks[..2].to_vec()), Err(ManifestError::ChunkCount { .. })));
        let turned = chunks.iter().rev().copied().collect();
        assert!(matches!(verified(vec![], turned), Err(ManifestError::WrongFile { .. })));
    }
}
