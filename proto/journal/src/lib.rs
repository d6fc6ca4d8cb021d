//! An append-only, checksummed log in preallocated segments, with group commit.
//!
//! The Raft log, a data node's pieces and (later) a validator's WAL are all this one format, so there
//! is one recovery and one scanner to get right. The order of every acknowledged append is
//!
//! 1. the record's bytes are written at the tail of the newest segment,
//! 2. the batch that it is in is fdatasync'ed, once,
//! 3. only then its completion is called.
//!
//! When nothing has come for a moment, a mark is written behind the last batch. Nobody waits for it, and it
//! may be lost; if it is there, rot in the last batch can be told from a torn tail too.
//!
//! A new segment is preallocated under a temporary name and fsync'ed; then the old one is sealed; then
//! the new one is renamed and made durable by an fsync of its folder, all before its first record is
//! acknowledged.
//!
//! An error of a write or of a sync *fences* the journal for the life of the process: nothing is
//! retried and nothing is acknowledged after it, since the kernel may have dropped what it could not
//! write. What the owner does then (stop, or go on with its other disks) is the owner's decision.
//!
//! A segment of which nothing is wanted any more is retired: its number goes into a list that is made
//! durable first (`retired.rs`), so that a segment which is missing for another reason is never overlooked.
//!
//! Deliberately absent: any knowledge of what records mean, and deletion of single records.

#![warn(missing_docs)]

mod direct;
mod disk;
mod format;
mod journal;
mod real;
mod recover;
mod retired;
mod scan;
mod segment;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod syncs;
mod trouble;
mod writer;

pub use disk::{Disk, DiskFile};
pub use format::{MAX_META, MAX_PAYLOAD, Position};
pub use journal::{AppendError, Journal, Nonces, Options, Record};
pub use real::RealDisk;
pub use recover::{Damage, OpenError};
pub use scan::Found;
pub use trouble::Trouble;

/// The checksum of payloads: CRC32C (RFC 3720 appendix B.4).
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
