//! Inclusion proofs: chunk `i` of `n` of this file, checked with nothing but the file's id.

use rs_merkle::MerkleProof;
use serde::{Deserialize, Serialize};
use wmall_proto::ids::{parse_hex, to_hex};
use wmall_proto::{ChunkId, FileId};

use crate::manifest::{check_chunk_size, chunk_length, file_id};
use crate::merkle::{NodeHasher, leaf};

/// Version of the serialised form.
const VERSION: u32 = 1;

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Written by a version that this one does not know.
    #[error("the proof has format version {0}; this program knows version {VERSION}")]
    Version(u32),
    /// A chunk size outside the format's bounds.
    #[error("the proof names a chunk size of {0} bytes, which no file has")]
    ChunkSize(u32),
    /// The index lies beyond the file.
    #[error("the proof is for chunk {index} of a file of {count} chunks")]
    Index {
        /// The chunk's number, from 0.
        index: u64,
        /// How many the file has.
        count: u64,
    },
    /// More or fewer hashes than the path from that leaf to the root has.
    #[error("the path has {found} hashes where {expected} are needed")]
    PathLength {
        /// As many as the tree's shape asks for.
        expected: usize,
        /// As many as there are.
        found: usize,
    },
    /// It leads to another file.
    #[error("the proof leads to file {found}, not to {expected}")]
    WrongFile {
        /// The file that it was to be checked against.
        expected: FileId,
        /// Where it leads.
        found: FileId,
    },
    /// The bytes are not the chunk's.
    #[error("the bytes hash to {found}; the proof is for {expected}")]
    WrongBytes {
        /// The chunk that is proven.
        expected: ChunkId,
        /// What the bytes are.
        found: ChunkId,
    },
    /// The bytes have another length than this chunk of the file.
    #[error("the chunk has {expected} bytes in this file; {found} were given")]
    WrongLength {
        /// As the file's size says.
        expected: u32,
        /// As given.
        found: u64,
    },
}

/// A value that serialises to JSON and verifies offline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InclusionProof {
    version: u32,
    size: u64,
    chunk_size: u32,
    index: u64,
    chunk: ChunkId,
    #[serde(with = "hex_path")]
    path: Vec<[u8; 32]>,
}

impl InclusionProof {
    pub(crate) fn new(size: u64, chunk_size: u32, index: u64, chunk: ChunkId, path: Vec<[u8; 32]>) -> Self {
        Self { version: VERSION, size, chunk_size, index, chunk, path }
    }

    /// The chunk that is proven.
    pub fn chunk(&self) -> ChunkId {
        self.chunk
    }

    /// Its number in the file, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many chunks the file has.
    pub fn count(&self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk_size.max(1)))
    }

    /// Checks that this chunk is in that place of that file.
    pub fn verify(&self, file: FileId) -> Result<(), ProofError> {
        if self.version != VERSION {
            return Err(ProofError::Version(self.version));
        }
        check_chunk_size(self.chunk_size).map_err(|_| ProofError::ChunkSize(self.chunk_size))?;
        let (index, count) = (self.index, self.count());
        if index >= count {
            return Err(ProofError::Index { index, count });
        }
        // rs_merkle accepts a path with hashes to spare, so the length is checked exactly.
        let expected = path_length(index, count);
        if self.path.len() != expected {
            return Err(ProofError::PathLength { expected, found: self.path.len() });
        }
        let found = self.root().map(|root| file_id(self.size, self.chunk_size, &root));
        match found {
            Some(found) if found == file => Ok(()),
            Some(found) => Err(ProofError::WrongFile { expected: file, found }),
            None => Err(ProofError::PathLength { expected, found: self.path.len() }),
        }
    }

    /// Checks the place and that these are the chunk's bytes.
    pub fn verify_bytes(&self, file: FileId, bytes: &[u8]) -> Result<(), ProofError> {
        self.verify(file)?;
        let expected = chunk_length(self.size, self.chunk_size, self.index);
        if bytes.len() as u64 != u64::from(expected) {
            return Err(ProofError::WrongLength { expected, found: bytes.len() as u64 });
        }
        match ChunkId::of(bytes) {
            found if found == self.chunk => Ok(()),
            found => Err(ProofError::WrongBytes { expected: self.chunk, found }),
        }
    }

    fn root(&self) -> Option<[u8; 32]> {
        let (index, count) = (usize::try_from(self.index).ok()?, usize::try_from(self.count()).ok()?);
        MerkleProof::<NodeHasher>::new(self.path.clone()).root(&[index], &[leaf(&self.chunk)], count).ok()
    }
}

/// Hashes on the way from leaf `index` of `count` to the root: one a level, but for the levels where
/// the node has no sibling and is promoted.
fn path_length(mut index: u64, mut count: u64) -> usize {
    let mut length = 0;
    while count > 1 {
        if index ^ 1 < count {
            length += 1;
        }
        index /= 2;
        count = count.div_ceil(2);
    }
    length
}

mod hex_path {
    use super::{parse_hex, to_hex};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// A path longer than this fits no file: 2^64 bytes in the smallest chunks make 2^48 leaves.
    const MAX_PATH: usize = 48;

    pub(super) fn serialize<S: Serializer>(path: &[[u8; 32]], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(path.iter().map(|h| to_hex(h)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<[u8; 32]>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        if texts.len() > MAX_PATH {
            return Err(D::Error::custom("the path is longer than any tree is deep"));
        }
        let hash = |t: &String| parse_hex(t).ok_or_else(|| D::Error::custom("not 64 hex digits"));
        texts.iter().map(hash).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;
    use proptest::prelude::*;

    fn manifest(n: u64) -> Manifest {
        let chunks = (0..n).map(|i| ChunkId::of(&i.to_le_bytes())).collect();
        Manifest::new(n * 65_536, 65_536, chunks).unwrap()
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proven_and_survives_json() {
        for n in 1..=40 {
            let m = manifest(n);
            for i in 0..n as usize {
                let json = serde_json::to_string(&m.prove(i).unwrap()).unwrap();
                let proof: InclusionProof = serde_json::from_str(&json).unwrap();
                assert_eq!(proof.verify(m.id()), Ok(()), "leaf {i} of {n}");
            }
            assert_eq!(m.prove(n as usize), None);
        }
    }

    #[test]
    fn a_path_with_hashes_to_spare_or_missing_is_refused() {
        let m = manifest(5);
        for i in 0..5 {
            let mut proof = m.prove(i).unwrap();
            let expected = proof.path.len();
            proof.path.push([0; 32]);
            let found = expected + 1;
            assert_eq!(proof.verify(m.id()), Err(ProofError::PathLength { expected, found }));
            proof.path.truncate(expected - 1);
            let found = expected - 1;
            assert_eq!(proof.verify(m.id()), Err(ProofError::PathLength { expected, found }));
        }
    }

    #[test]
    fn bytes_are_held_against_the_chunk_and_its_length() {
        let bytes = vec![7u8; 65_536];
        let m = Manifest::new(65_536, 65_536, vec![ChunkId::of(&bytes)]).unwrap();
        let proof = m.prove(0).unwrap();
        assert_eq!(proof.verify_bytes(m.id(), &bytes), Ok(()));
        assert!(matches!(
            proof.verify_bytes(m.id(), &bytes[1..]),
            Err(ProofError::WrongLength { expected: 65_536, found: 65_535 })
        ));
        let mut wrong = bytes;
        wrong[9] ^= 1;
        assert!(matches!(proof.verify_bytes(m.id(), &wrong), Err(ProofError::WrongBytes { .. })));
    }

    proptest! {
        #[test]
        fn any_change_breaks_it(n in 1u64..64, pick: u64, what in 0..5, at: usize) {
            let m = manifest(n);
            let mut proof = m.prove((pick % n) as usize).unwrap();
            match what {
                0 => proof.size += 1,
                1 => proof.chunk_size += 1,
                2 => proof.index = (proof.index + 1 + at as u64 % 7) % (n + 8),
                3 => proof.chunk.0[at % 32] ^= 1,
                _ if proof.path.is_empty() => proof.version += 1,
                _ => { let i = at % proof.path.len(); proof.path[i][at % 32] ^= 1; }
            }
            if proof != m.prove((pick % n) as usize).unwrap() {
                prop_assert!(proof.verify(m.id()).is_err());
            }
        }
    }
}
