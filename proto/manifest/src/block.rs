//! A manifest as pieces: what lets a cluster whose metadata are lost find its files again.
//!
//! A file's chunk ids go into *blocks*, which are stored as chunks of its own: one for every full
//! [`MAX_CHUNKS_PER_COMMIT`] chunks, and a *root* that names these, the remaining chunks, size and chunk size.
//! They are made of nothing but the manifest, so the same file has the same blocks wherever it is put. A file
//! of one chunk of the usual size has none: its chunk says it all. Layout in `docs/formats.md`.

use wmall_proto::chunk::{DEFAULT_CHUNK_SIZE, MAX_CHUNKS_PER_COMMIT};
use wmall_proto::{ChunkId, FileId};

use crate::manifest::{Manifest, ManifestError, check_chunk_size};

const MAGIC: &[u8; 8] = b"WMALLMAN";
const VERSION: u8 = 1;
/// Magic, version, kind and zeros: what every block begins with, in multiples of 8.
const HEAD: usize = 16;
const PART: u8 = 1;
const ROOT: u8 = 2;
/// Behind the head of a root: size, chunk size, number of parts.
const ROOT_HEAD: usize = 16;
/// Parts that a root may name: as many as an upload may have.
const MAX_PARTS: usize = 1024;

/// A block, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Ids of exactly [`MAX_CHUNKS_PER_COMMIT`] chunks.
    Part(Vec<ChunkId>),
    /// The block that stands for the file.
    Root {
        /// Bytes of the file.
        size: u64,
        /// Bytes of every chunk but the last.
        chunk_size: u32,
        /// The blocks before this one, in order.
        parts: Vec<ChunkId>,
        /// The chunks that no part has.
        rest: Vec<ChunkId>,
    },
}

/// Whether files of these numbers have blocks.
pub fn has_blocks(size: u64, chunk_size: u32) -> bool {
    chunk_size != DEFAULT_CHUNK_SIZE || size == 0 || size > u64::from(chunk_size)
}

/// Whether a piece of this length may be a block; nearly all others are told apart by it.
pub fn may_be_block(length: u32) -> bool {
    const PART_LENGTH: usize = HEAD + 32 * MAX_CHUNKS_PER_COMMIT;
    const LONGEST_ROOT: usize = HEAD + ROOT_HEAD + 32 * (MAX_PARTS + MAX_CHUNKS_PER_COMMIT);
    let length = length as usize;
    let root =
        (HEAD + ROOT_HEAD..=LONGEST_ROOT).contains(&length) && (length - HEAD - ROOT_HEAD).is_multiple_of(32);
    length == PART_LENGTH || root
}

/// Whether a piece that begins so is a block.
pub fn begins_block(bytes: &[u8]) -> bool {
    bytes.len() >= HEAD && bytes.starts_with(MAGIC) && bytes[8] == VERSION
}

impl Block {
    /// The bytes that are stored.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, lists): (u8, [&[ChunkId]; 2]) = match self {
            Self::Part(chunks) => (PART, [chunks, &[]]),
            Self::Root { parts, rest, .. } => (ROOT, [parts, rest]),
        };
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[VERSION, kind, 0, 0, 0, 0, 0, 0]);
        if let Self::Root { size, chunk_size, parts, .. } = self {
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&chunk_size.to_le_bytes());
            out.extend_from_slice(&(parts.len() as u32).to_le_bytes());
        }
        lists.iter().flat_map(|l| l.iter()).for_each(|id| out.extend_from_slice(&id.0));
        out
    }

    /// Takes a block apart; none if these bytes are not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_first_chunk::<HEAD>()?;
        if head[..8] != *MAGIC || head[8] != VERSION || head[10..] != [0; 6] {
            return None;
        }
        match head[9] {
            PART => Some(Self::Part(ids(body)?)).filter(|_| body.len() == 32 * MAX_CHUNKS_PER_COMMIT),
            ROOT => {
                let (numbers, body) = body.split_first_chunk::<ROOT_HEAD>()?;
                let (size, numbers) = numbers.split_first_chunk::<8>()?;
                let (chunk_size, parts) = numbers.split_first_chunk::<4>()?;
                let parts = u32::from_le_bytes(parts.try_into().ok()?) as usize;
                let mut parts_and_rest = ids(body)?;
                if parts > MAX_PARTS || parts > parts_and_rest.len() {
                    return None;
                }
                let rest = parts_and_rest.split_off(parts);
                let (size, chunk_size) = (u64::from_le_bytes(*size), u32::from_le_bytes(*chunk_size));
                (rest.len() <= MAX_CHUNKS_PER_COMMIT).then_some(Self::Root {
                    size,
                    chunk_size,
                    parts: parts_and_rest,
                    rest,
                })
            }
            _ => None,
        }
    }
}

fn ids(bytes: &[u8]) -> Option<Vec<ChunkId>> {
    let (ids, []) = bytes.as_chunks::<32>() else { return None };
    Some(ids.iter().copied().map(ChunkId).collect())
}

impl Manifest {
    /// The root of the blocks; none for a file that needs none. `parts` are the names of the others, in order.
    pub fn root_block(&self, parts: Vec<ChunkId>) -> Option<Vec<u8>> {
        let full = parts.len() * MAX_CHUNKS_PER_COMMIT;
        let root = Block::Root {
            size: self.size(),
            chunk_size: self.chunk_size(),
            parts,
            rest: self.chunks().get(full..)?.to_vec(),
        };
        has_blocks(self.size(), self.chunk_size()).then(|| root.encode())
    }

    /// The blocks, the root last; none for a file that needs none.
    pub fn blocks(&self) -> Vec<Vec<u8>> {
        if !has_blocks(self.size(), self.chunk_size()) {
            return Vec::new();
        }
        let chunks = self.chunks();
        // The root always has a chunk of its own, as the last commit of an upload has.
        let full = chunks.len().saturating_sub(1) / MAX_CHUNKS_PER_COMMIT * MAX_CHUNKS_PER_COMMIT;
        let parts = chunks[..full].chunks(MAX_CHUNKS_PER_COMMIT).map(|c| Block::Part(c.to_vec()).encode());
        let mut blocks: Vec<Vec<u8>> = parts.collect();
        let ids = blocks.iter().map(|b| ChunkId::of(b)).collect();
        blocks.extend(self.root_block(ids));
        blocks
    }

    /// Names of the blocks.
    pub fn block_ids(&self) -> Vec<ChunkId> {
        self.blocks().iter().map(|b| ChunkId::of(b)).collect()
    }

    /// The manifest of a root; `part` finds the blocks that it names.
    ///
    /// A part that can't be found, or is none, is `Ok(None)`.
    pub fn from_root(
        root: &Block,
        mut part: impl FnMut(&ChunkId) -> Option<Block>,
    ) -> Result<Option<Self>, ManifestError> {
        let Block::Root { size, chunk_size, parts, rest } = root else { return Ok(None) };
        // Before anything is gathered: a root may say what it likes.
        check_chunk_size(*chunk_size)?;
        let expected = size.div_ceil(u64::from(*chunk_size));
        let found = (parts.len() * MAX_CHUNKS_PER_COMMIT + rest.len()) as u64;
        if expected != found {
            return Err(ManifestError::ChunkCount { size: *size, chunk_size: *chunk_size, expected, found });
        }
        let mut chunks = Vec::new();
        for id in parts {
            match part(id) {
                Some(Block::Part(ids)) => chunks.extend(ids),
                _ => return Ok(None),
            }
        }
        chunks.extend_from_slice(rest);
        Self::new(*size, *chunk_size, chunks).map(Some)
    }
}

/// The name of the file that a chunk of this length is by itself, at the usual chunk size.
pub fn file_of_one_chunk(chunk: ChunkId, length: u32) -> Option<FileId> {
    if length == 0 || length > DEFAULT_CHUNK_SIZE {
        return None;
    }
    Manifest::new(u64::from(length), DEFAULT_CHUNK_SIZE, vec![chunk]).ok().map(|m| m.id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use wmall_proto::chunk::MIN_CHUNK_SIZE;

    fn manifest(count: usize) -> Manifest {
        let chunks = (0..count).map(|i| ChunkId::of(&i.to_le_bytes())).collect();
        Manifest::new(count as u64 * u64::from(MIN_CHUNK_SIZE), MIN_CHUNK_SIZE, chunks).unwrap()
    }

    #[test]
    fn blocks_lead_back_to_the_manifest() {
        let m = MAX_CHUNKS_PER_COMMIT;
        for (count, blocks) in [(0, 1), (1, 1), (m, 1), (m + 1, 2), (2 * m, 2), (2 * m + 1, 3)] {
            let manifest = manifest(count);
            let stored: HashMap<ChunkId, Vec<u8>> =
                manifest.blocks().into_iter().map(|b| (ChunkId::of(&b), b)).collect();
            assert_eq!(stored.len(), blocks, "{count} chunks");
            for block in stored.values() {
                assert!(may_be_block(block.len() as u32) && begins_block(block));
                assert_eq!(Block::decode(block).unwrap().encode(), *block);
            }
            let root = Block::decode(&stored[manifest.block_ids().last().unwrap()]).unwrap();
            let found = Manifest::from_root(&root, |id| Block::decode(stored.get(id)?)).unwrap();
            assert_eq!(found, Some(manifest));
            let none = Manifest::from_root(&root, |_| None).unwrap();
            assert_eq!(none.is_some(), blocks == 1, "a part is missing");
        }
    }

    #[test]
    fn a_file_of_one_usual_chunk_needs_no_block() {
        let chunk = ChunkId::of(b"x");
        let one = Manifest::new(1, DEFAULT_CHUNK_SIZE, vec![chunk]).unwrap();
        assert!(one.blocks().is_empty());
        assert_eq!(file_of_one_chunk(chunk, 1), Some(one.id()));
        assert!(!has_blocks(u64::from(DEFAULT_CHUNK_SIZE), DEFAULT_CHUNK_SIZE));
        assert!(has_blocks(u64::from(DEFAULT_CHUNK_SIZE) + 1, DEFAULT_CHUNK_SIZE));
        assert!(has_blocks(0, DEFAULT_CHUNK_SIZE), "the empty file has no chunk that could stand for it");
        assert!(has_blocks(1, MIN_CHUNK_SIZE), "another chunk size is another file");
    }

    #[test]
    fn the_layout_is_pinned() {
        let chunks = vec![ChunkId([1; 32]), ChunkId([2; 32])];
        let manifest = Manifest::new(100_000, MIN_CHUNK_SIZE, chunks).unwrap();
        let blocks = manifest.blocks();
        let mut expected = b"WMALLMAN\x01\x02\0\0\0\0\0\0".to_vec();
        expected.extend_from_slice(&[0xa0, 0x86, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[1; 32]);
        expected.extend_from_slice(&[2; 32]);
        assert_eq!(blocks, [expected]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_block_or_none(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), real in any::<bool>()) {
            if real {
                bytes.splice(0..0, *b"WMALLMAN\x01\x02\0\0\0\0\0\0");
            }
            if let Some(block) = Block::decode(&bytes) {
                prop_assert_eq!(block.encode(), bytes);
            }
        }
    }
}
