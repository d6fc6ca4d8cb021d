//! Files and objects, as the metadata nodes answer for them.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::{ChunkId, FileId, PoolId};
use crate::names::ObjectName;

/// A committed file: what its id binds, and where it lives.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct FileRecord {
    /// Bytes.
    pub size: u64,
    /// Bytes of every chunk but the last.
    pub chunk_size: u32,
    /// Root of the Merkle tree over its chunk ids.
    pub merkle_root: [u8; 32],
    /// Pools that hold its chunks.
    pub pools: Vec<PoolId>,
    /// Objects that point to it, those in the trash included.
    pub references: u64,
    /// Whether it was put without a name, which holds it until it is let go by its id.
    pub pin: Pin,
    /// When it was first committed, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl FileRecord {
    /// How many chunks it has.
    pub fn chunk_count(&self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk_size.max(1)))
    }
}

/// A file's record with a page of its chunk ids.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FilePage {
    /// The file.
    pub id: FileId,
    /// Its record.
    pub record: FileRecord,
    /// Number of the first chunk of this page.
    pub first: u64,
    /// Its chunk ids from there on, as many as a page holds.
    pub chunks: Vec<ChunkId>,
}

/// An object: a name that points to a file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// What it points to.
    pub file: FileId,
    /// That file's size in bytes.
    pub size: u64,
    /// When it was last pointed there, in milliseconds since the Unix epoch.
    pub modified_ms: u64,
}

/// What holds a file that has no name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// Nothing.
    #[default]
    None,
    /// It was put so.
    Held,
    /// It was let go, and can be had back until then (milliseconds since the Unix epoch).
    Until(u64),
}

/// What a name pointed to until it was removed or pointed elsewhere; kept for a grace.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct TrashRecord {
    /// What it was. Its reference to the file is held.
    pub object: ObjectRecord,
    /// When it went.
    pub removed_ms: u64,
    /// When its grace ends.
    pub due_ms: u64,
}

/// A line of a listing of the trash.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct TrashEntry {
    /// The name it had.
    pub name: ObjectName,
    /// Raft index at which it went; tells versions of a name apart.
    pub version: u64,
    /// What it was.
    #[serde(flatten)]
    pub record: TrashRecord,
}

/// A line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ObjectEntry {
    /// Its name in the bucket.
    pub name: ObjectName,
    /// What it points to.
    #[serde(flatten)]
    pub record: ObjectRecord,
}
