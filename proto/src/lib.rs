//! The words every part of the cluster shares: ids, schemes, pools, placement-group rows,
//! receipts, grades, RPC messages, error codes, and the one codec that carries them.
//!
//! Everything here is a value. Nothing in this crate opens a file, reads a clock, draws a
//! random number or talks to a socket; clippy's `disallowed-methods` and the table in
//! `tests/` hold it to that.

#![warn(missing_docs)]

pub mod access;
pub mod capacity;
pub mod challenge;
pub mod chunk;
pub mod clock;
pub mod codec;
pub mod error;
pub mod event;
pub mod feed;
pub mod file;
pub mod grade;
pub mod health;
pub mod identity;
pub mod ids;
pub mod job;
pub mod join;
pub mod layout;
pub mod names;
pub mod pg;
pub mod pool;
pub mod range;
pub mod receipt;
pub mod rpc;
pub mod scheme;
pub mod status;
pub mod topology;
pub mod volume;

pub use access::Role;
pub use error::{ErrorCode, RpcError};
pub use ids::{ChunkId, DiskId, FileId, Incarnation, PoolId, RequestId, UploadId};
pub use names::{BucketName, NodeName, ObjectName, PoolName, ZoneName};
pub use pg::{PgId, PgRow};
pub use pool::Pool;
pub use receipt::Receipt;
pub use scheme::Scheme;
pub use topology::Topology;

/// Version of the wire protocol. A peer that speaks another one is refused by name (ALPN)
/// before a byte of a message is read.
pub const PROTOCOL_VERSION: u16 = 1;

/// ALPN token of that version.
pub const ALPN: &[u8] = b"wmall/1";
