//! A data node that lies, for tests of those who must not believe it. Not part of any build that is used: the
//! feature `testing` is on for the workspace's own tests only.

use std::sync::OnceLock;

use wmall_proto::rpc::DiskHeartbeat;

/// What to lie about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lies {
    /// Readers get a byte of each part changed.
    pub wrong_bytes: bool,
    /// Pieces are promised and not stored.
    pub false_receipts: bool,
    /// Pieces that are there are denied.
    pub withhold: bool,
    /// Disks are said to be full, and full of what nobody wants.
    pub full: bool,
}

static LIES: OnceLock<Lies> = OnceLock::new();

/// From now on, for the life of the process.
pub fn tell(lies: Lies) {
    let _ = LIES.set(lies);
}

pub(crate) fn told() -> Lies {
    LIES.get().copied().unwrap_or_default()
}

/// Heartbeats as this node sends them.
pub(crate) fn heartbeats(mut disks: Vec<DiskHeartbeat>) -> Vec<DiskHeartbeat> {
    if told().full {
        disks.iter_mut().for_each(|beat| {
            (beat.used_bytes, beat.dead_bytes, beat.writable) = (u64::MAX, u64::MAX, false);
        });
    }
    disks
}
