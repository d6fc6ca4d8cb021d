//! Keys of the state machine's map. One letter a kind, then big-endian numbers, so that order in the map
//! is order of the thing.

use wmall_proto::{BucketName, ChunkId, DiskId, FileId, ObjectName, PgId, PoolId, UploadId};

pub(super) const APPLIED: &[u8] = b"a";
pub(super) const BUILDING: &[u8] = b"!";
pub(super) const COUNTERS: &[u8] = b"k";
pub(super) const POOLS: &[u8] = b"p";
pub(super) const ROWS: &[u8] = b"r";
pub(super) const NODES: &[u8] = b"n";
pub(super) const DISKS: &[u8] = b"d";
pub(super) const BUCKETS: &[u8] = b"b";
pub(super) const ANSWERS: &[u8] = b"q";
pub(super) const GROUP_COUNTS: &[u8] = b"g";
pub(super) const TICKETS: &[u8] = b"t";

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![kind];
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out
}

pub(super) fn pool(id: PoolId) -> Vec<u8> {
    key(b'p', &[&id.0.to_be_bytes()])
}

pub(super) fn row(pool: PoolId, pg: PgId) -> Vec<u8> {
    key(b'r', &[&pool.0.to_be_bytes(), &pg.0.to_be_bytes()])
}

pub(super) fn group_count(pool: PoolId, pg: PgId) -> Vec<u8> {
    key(b'g', &[&pool.0.to_be_bytes(), &pg.0.to_be_bytes()])
}

pub(super) fn parse_group(key: &[u8]) -> Option<(PoolId, PgId)> {
    let pool = u16::from_be_bytes(*key.get(1..)?.first_chunk()?);
    let pg = u32::from_be_bytes(*key.get(3..)?.first_chunk()?);
    Some((PoolId(pool), PgId(pg)))
}

pub(super) fn node(name: &str) -> Vec<u8> {
    key(b'n', &[name.as_bytes()])
}

pub(super) fn disk(id: DiskId) -> Vec<u8> {
    key(b'd', &[&id.0.to_be_bytes()])
}

pub(super) fn bucket(name: &BucketName) -> Vec<u8> {
    key(b'b', &[name.as_str().as_bytes()])
}

/// A bucket's name has no zero byte, so the separator can't be part of it.
pub(super) fn objects(bucket: &BucketName) -> Vec<u8> {
    key(b'o', &[bucket.as_str().as_bytes(), &[0]])
}

pub(super) fn object(bucket: &BucketName, name: &ObjectName) -> Vec<u8> {
    let mut out = objects(bucket);
    out.extend_from_slice(name.as_str().as_bytes());
    out
}

pub(super) fn file(id: &FileId) -> Vec<u8> {
    key(b'f', &[&id.0])
}

pub(super) fn leaves(id: &FileId, page: u32) -> Vec<u8> {
    key(b'l', &[&id.0, &page.to_be_bytes()])
}

pub(super) fn chunk(pool: PoolId, id: &ChunkId) -> Vec<u8> {
    key(b'c', &[&pool.0.to_be_bytes(), &id.0])
}

pub(super) fn chunks(pool: PoolId) -> Vec<u8> {
    key(b'c', &[&pool.0.to_be_bytes()])
}

/// The pool is part of it: a part's receipts were verified for that pool and no other.
pub(super) fn upload_part(upload: &UploadId, pool: PoolId, part: u32) -> Vec<u8> {
    key(b'u', &[&upload.0, &pool.0.to_be_bytes(), &part.to_be_bytes()])
}

pub(super) fn answers(index: u64) -> Vec<u8> {
    key(b'q', &[&index.to_be_bytes()])
}

pub(super) fn tickets_of(disk: DiskId) -> Vec<u8> {
    key(b't', &[&disk.0.to_be_bytes()])
}

pub(super) fn ticket(disk: DiskId, pool: PoolId, chunk: &ChunkId) -> Vec<u8> {
    key(b't', &[&disk.0.to_be_bytes(), &pool.0.to_be_bytes(), &chunk.0])
}

pub(super) fn parse_ticket(key: &[u8]) -> Option<(DiskId, PoolId, ChunkId)> {
    let disk = u32::from_be_bytes(*key.get(1..)?.first_chunk()?);
    let pool = u16::from_be_bytes(*key.get(5..)?.first_chunk()?);
    let chunk: [u8; 32] = key.get(7..)?.try_into().ok()?;
    Some((DiskId(disk), PoolId(pool), ChunkId(chunk)))
}
