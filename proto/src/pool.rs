//! Pools and buckets: what an operator creates before the first file goes in.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::PoolId;
use crate::names::{BucketName, PoolName};
use crate::scheme::Scheme;

/// A scheme, a zone rule and a table of placement groups of its own.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Pool {
    /// Its number.
    pub id: PoolId,
    /// Its name.
    pub name: PoolName,
    /// How it keeps chunks.
    pub scheme: Scheme,
    /// Its table has `1 << pg_bits` rows.
    pub pg_bits: u8,
}

/// A flat namespace of objects.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Bucket {
    /// Its name.
    pub name: BucketName,
    /// Where its objects' chunks live.
    pub pool: PoolId,
    /// Objects in it now.
    pub objects: u64,
    /// The sizes of those objects, added up.
    pub bytes: u64,
    /// When it was made, in milliseconds since the Unix epoch, by the leader's clock.
    pub created_ms: u64,
    /// What its owner asked of it.
    pub rules: BucketRules,
    /// Former versions of its names that can still be had back.
    pub trash: u64,
    /// Their sizes, added up.
    pub trash_bytes: u64,
    /// Bytes of parts of long files that wait for the rest of them.
    pub staged_bytes: u64,
    /// The command that made it: Raft index of its entry, shifted by 16 bits, and its place in that. It tells
    /// buckets of one name apart, whatever the clock says.
    #[serde(skip)]
    pub made_at: u64,
    /// It was removed, and its former versions go step by step. Nobody is shown such a bucket.
    #[serde(skip)]
    pub removing: bool,
}

impl Bucket {
    /// Bytes that count for its quota: of its objects, of former versions, and of parts that wait.
    pub fn all_bytes(&self) -> u64 {
        self.bytes.saturating_add(self.trash_bytes).saturating_add(self.staged_bytes)
    }
}

/// How long removed objects can be had back, unless the bucket says otherwise: a day.
pub const DEFAULT_UNDELETE_MS: u64 = 86_400_000;

/// What a bucket's owner may ask of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct BucketRules {
    /// For so long after it was written no object may be removed or pointed elsewhere. Once set, it may be
    /// lengthened and never shortened. 0 for none.
    pub retention_ms: u64,
    /// For so long a removed object can be had back.
    pub undelete_ms: u64,
    /// The most objects it may hold, former versions included; none for no bound.
    pub max_objects: Option<u64>,
    /// The most bytes that its objects may add up to, with former versions and parts that wait; none for no
    /// bound.
    pub max_bytes: Option<u64>,
}

impl Default for BucketRules {
    fn default() -> Self {
        Self { retention_ms: 0, undelete_ms: DEFAULT_UNDELETE_MS, max_objects: None, max_bytes: None }
    }
}

/// A change of a bucket's rules; what is none stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct BucketChange {
    /// See [`BucketRules::retention_ms`].
    pub retention_ms: Option<u64>,
    /// See [`BucketRules::undelete_ms`].
    pub undelete_ms: Option<u64>,
    /// See [`BucketRules::max_objects`]; the inner none lifts the bound.
    pub max_objects: Option<Option<u64>>,
    /// See [`BucketRules::max_bytes`]; the inner none lifts the bound.
    pub max_bytes: Option<Option<u64>>,
}
