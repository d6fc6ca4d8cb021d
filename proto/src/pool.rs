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
}
