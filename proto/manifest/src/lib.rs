//! From bytes to names and back: cutting a file into chunks, the Merkle tree over their ids, the file id that
//! binds both, and proofs that a chunk is number `i` of a file. Beside it, a chunk as Reed-Solomon pieces and
//! back.
//!
//! Pure: no I/O and no hashing in the background. Who reads the file and who hashes the chunks, and
//! on how many cores, is the caller's business.

#![warn(missing_docs)]

mod block;
mod chunker;
mod erasure;
mod manifest;
mod merkle;
mod outline;
mod proof;
mod slice;
mod spare;
mod stripe;

pub use block::{Block, begins_block, file_of_one_chunk, has_blocks, may_be_block};
pub use chunker::Chunker;
pub use erasure::ErasureCode;
pub use manifest::{Manifest, ManifestError, check_chunk_size, file_id};
pub use merkle::{empty_root, merkle_root};
pub use outline::{Outline, PartSum, full_parts};
pub use proof::{InclusionProof, ProofError};
pub use slice::{leaves, prove_slice, verify_slice};
pub use stripe::{Stripe, StripeError};
