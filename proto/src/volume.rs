//! The room on the volumes of metadata members. Each member says its own; the leader judges by all of them.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// The room on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct VolumeRoom {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Bytes that are to stay free.
    pub bound_bytes: u64,
}

impl VolumeRoom {
    /// True if less is free than is to stay so.
    pub fn is_low(&self) -> bool {
        self.free_bytes < self.bound_bytes
    }
}

/// The room on the volumes of a member; none where it could not be told, or there is no such folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct MemberVolumes {
    /// Of its data.
    pub data: Option<VolumeRoom>,
    /// Of its backups.
    pub backup: Option<VolumeRoom>,
}

/// For which of a member's folders a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeUse {
    /// Its log, its view and its snapshots.
    Metadata,
    /// Its backups.
    Backup,
}

/// A volume of a member, as the leader heard of it last.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// The member's name.
    pub member: String,
    /// Use of the volume.
    pub holds: VolumeUse,
    /// Its room.
    pub room: VolumeRoom,
}

/// Bytes as people write them, rounded down.
pub fn mebibytes(bytes: u64) -> String {
    match bytes >> 20 {
        mib @ 0..10_240 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}
