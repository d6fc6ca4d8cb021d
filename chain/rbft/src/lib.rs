//! RBFT, the ledger's consensus: PBFT with batches, checkpoints, view change by signed certificates, recovery by the white
//! paper's steps, and changes of the validators at epochs. README.md maps every rule to its source.
//!
//! [`Rbft::step`] is all of it: an input and a time lead to outputs. [`verify`] checks what takes keys, beside it. Pure: no
//! I/O, no clock, no randomness, no order that depends on memory.

#![warn(missing_docs)]
// Nothing that a peer says may stop a validator.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::iter_over_hash_type
    )
)]

mod batches;
#[cfg(feature = "testing")]
mod bug;
mod certificate;
mod change;
mod checkpoint;
mod codec;
mod config;
mod core;
mod durable;
mod held;
mod ids;
mod io;
mod listed;
mod log;
mod message;
mod normal;
mod outcome;
mod proposal;
mod quorum;
mod recovery;
mod reports;
mod sets;
mod signature;
mod validators;
mod verify;
mod vote;
mod wishes;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use crate::core::Rbft;
#[cfg(feature = "testing")]
pub use bug::Bug;
pub use certificate::{BadCertificate, Certificate};
pub use codec::{CodecError, MAX_MESSAGE};
pub use config::{Config, ConfigError};
pub use durable::{Durable, Record};
pub use ids::{ChainId, Digest, Epoch, Nonce, Seat, Sequence, Time, View};
pub use io::{Input, KnownBatch, Output, SetChange, To};
pub use listed::{Places, Proposed};
pub use message::{Committed, MAX_DIGESTS, MAX_PQC, Message, NewView, PqcEntry, Prepared, ViewChange};
pub use outcome::Outcome;
pub use proposal::{Batch, Evidence, MAX_BATCH_BYTES, Proposal};
pub use quorum::{Quorum, QuorumError};
pub use sets::ValidatorSets;
pub use signature::{Checker, Ed25519Signer, PublicKey, Signature, Signer, Zip215};
pub use validators::{MAX_VALIDATORS, ValidatorSet, ValidatorSetError};
pub use verify::{Rejected, Rules, Verified, verify};
pub use vote::{BadVote, SignedVote, Vote, VoteKind};
