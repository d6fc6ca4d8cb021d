//! RBFT, the ledger's consensus. So far: how many replicas make a quorum.
//!
//! Pure: no I/O, no clock, no randomness.

#![warn(missing_docs)]

mod quorum;

pub use quorum::{Quorum, QuorumError};
