//! A file's manifest: its size, its chunk size and the ids of its chunks, in order.

use wmall_proto::chunk::{MAX_CHUNK_SIZE, MIN_CHUNK_SIZE};
use wmall_proto::{ChunkId, FileId};

use crate::merkle::{merkle_root, tree};
use crate::proof::InclusionProof;

/// Domain separator of the file id.
const DOMAIN: &[u8] = b"wmall.file.v1";

/// Why these numbers and ids are no file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A chunk size outside the format's bounds.
    #[error("a chunk size of {0} bytes is out of bounds: {MIN_CHUNK_SIZE} to {MAX_CHUNK_SIZE}")]
    ChunkSize(u32),
    /// More or fewer chunks than the size asks for.
    #[error("a file of {size} bytes in chunks of {chunk_size} has {expected} chunks, not {found}")]
    ChunkCount {
        /// Bytes of the file.
        size: u64,
        /// Bytes of a chunk.
        chunk_size: u32,
        /// How many chunks that makes.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// They hash to another id.
    #[error("the chunks belong to file {found}, not to {expected}")]
    WrongFile {
        /// The id that was named.
        expected: FileId,
        /// The id that they have.
        found: FileId,
    },
}

/// Checks the bounds of the format.
pub fn check_chunk_size(chunk_size: u32) -> Result<u32, ManifestError> {
    if (MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&chunk_size) {
        Ok(chunk_size)
    } else {
        Err(ManifestError::ChunkSize(chunk_size))
    }
}

/// `H("wmall.file.v1" ‖ size ‖ chunk_size ‖ merkle_root)`, numbers little-endian.
pub fn file_id(size: u64, chunk_size: u32, root: &[u8; 32]) -> FileId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN);
    hasher.update(&size.to_le_bytes());
    hasher.update(&chunk_size.to_le_bytes());
    hasher.update(root);
    FileId(*hasher.finalize().as_bytes())
}

/// All that a file's id binds. A value of this type is consistent: the count fits the size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    size: u64,
    chunk_size: u32,
    chunks: Vec<ChunkId>,
    root: [u8; 32],
}

impl Manifest {
    /// Checks the bounds and the count, and computes the root.
    pub fn new(size: u64, chunk_size: u32, chunks: Vec<ChunkId>) -> Result<Self, ManifestError> {
        check_chunk_size(chunk_size)?;
        let expected = size.div_ceil(u64::from(chunk_size));
        if expected != chunks.len() as u64 {
            let found = chunks.len() as u64;
            return Err(ManifestError::ChunkCount { size, chunk_size, expected, found });
        }
        let root = merkle_root(&chunks);
        Ok(Self { size, chunk_size, chunks, root })
    }

    /// The same, for chunks that somebody says are this file's.
    pub fn verified(
        id: FileId,
        size: u64,
        chunk_size: u32,
        chunks: Vec<ChunkId>,
    ) -> Result<Self, ManifestError> {
        let manifest = Self::new(size, chunk_size, chunks)?;
        match manifest.id() {
            found if found == id => Ok(manifest),
            found => Err(ManifestError::WrongFile { expected: id, found }),
        }
    }

    /// The file's name.
    pub fn id(&self) -> FileId {
        file_id(self.size, self.chunk_size, &self.root)
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of every chunk but the last.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Its chunks, in order.
    pub fn chunks(&self) -> &[ChunkId] {
        &self.chunks
    }

    /// Root of the tree over them.
    pub fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// Bytes of chunk `index`; 0 beyond the end.
    pub fn chunk_length(&self, index: usize) -> u32 {
        chunk_length(self.size, self.chunk_size, index as u64)
    }

    /// A proof that chunk `index` is where it is; none beyond the end.
    pub fn prove(&self, index: usize) -> Option<InclusionProof> {
        let chunk = *self.chunks.get(index)?;
        let path = tree(&self.chunks).proof(&[index]).proof_hashes().to_vec();
        Some(InclusionProof::new(self.size, self.chunk_size, index as u64, chunk, path))
    }
}

/// Bytes of chunk `index` of a file; 0 beyond the end.
pub(crate) fn chunk_length(size: u64, chunk_size: u32, index: u64) -> u32 {
    let start = index.saturating_mul(u64::from(chunk_size));
    size.saturating_sub(start).min(u64::from(chunk_size)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use wmall_proto::chunk::DEFAULT_CHUNK_SIZE;

    #[test]
    fn ids_are_pinned() {
        let empty = Manifest::new(0, DEFAULT_CHUNK_SIZE, vec![]).unwrap();
        let one = Manifest::new(5, DEFAULT_CHUNK_SIZE, vec![ChunkId::of(b"hello")]).unwrap();
        let chunks = vec![ChunkId::of(&[1; 65536]), ChunkId::of(&[2; 65536]), ChunkId::of(&[3; 10])];
        let three = Manifest::new(131_082, 65_536, chunks).unwrap();
        let ids = [empty.id(), one.id(), three.id()].map(|id| id.to_string());
        // Computed by a second implementation (docs/formats.md says how).
        assert_eq!(
            ids,
            [
                "bagaybqabdyqmrxctvc6vikxrealnpiazzhmuav5hab7ytq43n26efqeiekzqkpy",
                "bagaybqabdyqkxw4awugc4exe65bqg7p522eptegl5bb53k4dieltqbsp6zimiba",
                "bagaybqabdyqigx3so2lli2m6wtm7thoufbz6552w4bygjn7tw2xngwnhpccheqq"
            ]
        );
    }

    #[test]
    fn the_count_and_the_bounds_are_checked() {
        assert_eq!(Manifest::new(0, 1, vec![]), Err(ManifestError::ChunkSize(1)));
        assert_eq!(check_chunk_size((16 << 20) + 1), Err(ManifestError::ChunkSize((16 << 20) + 1)));
        assert!(matches!(
            Manifest::new(65_537, 65_536, vec![ChunkId([0; 32])]),
            Err(ManifestError::ChunkCount { expected: 2, found: 1, .. })
        ));
    }

    #[test]
    fn size_and_chunk_size_are_part_of_the_name() {
        let chunks = vec![ChunkId::of(b"x")];
        let a = Manifest::new(1, 65_536, chunks.clone()).unwrap();
        let b = Manifest::new(1, 131_072, chunks.clone()).unwrap();
        let c = Manifest::new(2, 65_536, chunks).unwrap();
        assert!(a.id() != b.id() && a.id() != c.id());
        assert_eq!(
            Manifest::verified(b.id(), 1, 65_536, a.chunks().to_vec()),
            Err(ManifestError::WrongFile { expected: b.id(), found: a.id() })
        );
    }
}
