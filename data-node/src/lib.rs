//! A data node: holds pieces on its disks, promises by signed receipt to keep them, hands them out.
//!
//! The way of a put: `service.rs` checks it against the node's map; `put.rs` hashes the bytes as they come,
//! cuts them into shards where the pool has such, and `relay.rs` sends them to the other slots;
//! `disk/store.rs` appends them to the journal, enters them in the index and signs the receipt. Beside it,
//! `control.rs` keeps the node registered and heard of, `fill.rs` fetches what its disks should hold and do
//! not, and `scrub.rs` reads everything again. Deliberately absent: any decision about placement or deletion.
//! A data node does what rows and feeds say.

mod capacity;
mod challenge;
mod config;
mod control;
mod disk;
mod fetch;
mod fill;
mod gauge;
mod init;
mod inventory;
mod kept_map;
mod left_out;
#[cfg(feature = "testing")]
mod lies;
mod map;
mod metrics;
mod node;
mod put;
mod ranges;
mod relay;
mod room;
mod scrub;
mod service;
mod traffic;
mod turns;

pub use config::{COMPARE_MS, Config, DiskConfig, RawConfig, SCRUB_PASS_MS};
#[cfg(feature = "testing")]
pub use disk::scan_any_segment;
pub use init::{InitError, init, replace};
#[cfg(feature = "testing")]
pub use lies::{Lies, tell};
pub use node::{RunError, run};
