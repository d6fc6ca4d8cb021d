//! Keys of the state machine's map. One letter a kind, then big-endian numbers, so that order in the map
//! is order of the thing.

use crate::command::Due;
use wmall_proto::identity::{Actor, TokenId};
use wmall_proto::{BucketName, ChunkId, DiskId, FileId, NodeName, ObjectName, PgId, PoolId, UploadId};

pub(super) const APPLIED: &[u8] = b"a";
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

/// A list of chunks, as which files are kept.
pub(super) fn list(number: u64) -> Vec<u8> {
    key(b'l', &[&number.to_be_bytes()])
}

/// Lists that wait to be released, the oldest first.
pub(super) const RELEASES: &[u8] = b"R";

pub(super) fn release(list: u64) -> Vec<u8> {
    key(b'R', &[&list.to_be_bytes()])
}

pub(super) fn parse_release(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

/// What a chunk is as a file by itself, in a state that was rebuilt.
pub(super) fn derived_file(id: &FileId) -> Vec<u8> {
    key(b'y', &[&id.0])
}

pub(super) fn chunk(pool: PoolId, id: &ChunkId) -> Vec<u8> {
    key(b'c', &[&pool.0.to_be_bytes(), &id.0])
}

/// What the pieces of a chunk hash to, where they are shards.
pub(super) fn digests(pool: PoolId, id: &ChunkId) -> Vec<u8> {
    key(b's', &[&pool.0.to_be_bytes(), &id.0])
}

pub(super) fn chunks(pool: PoolId) -> Vec<u8> {
    key(b'c', &[&pool.0.to_be_bytes()])
}

/// The pool is part of it: a part's receipts were verified for that pool and no other.
pub(super) fn upload_part(upload: &UploadId, pool: PoolId, part: u32) -> Vec<u8> {
    key(b'u', &[&upload.0, &pool.0.to_be_bytes(), &part.to_be_bytes()])
}

/// Former versions of a bucket's names.
pub(super) fn trash_of(bucket: &BucketName) -> Vec<u8> {
    key(b'x', &[bucket.as_str().as_bytes(), &[0]])
}

/// Neither bucket names nor object names have a zero byte.
pub(super) fn trash(bucket: &BucketName, name: &ObjectName, version: u64) -> Vec<u8> {
    let mut out = trash_of(bucket);
    out.extend_from_slice(name.as_str().as_bytes());
    out.push(0);
    out.extend_from_slice(&version.to_be_bytes());
    out
}

pub(super) fn parse_trash(key: &[u8]) -> Option<(BucketName, ObjectName, u64)> {
    let (rest, version) = key.get(1..)?.split_last_chunk::<8>()?;
    let (bucket, name) = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?.split_once('\0')?;
    Some((BucketName::new(bucket).ok()?, ObjectName::new(name).ok()?, u64::from_be_bytes(*version)))
}

/// What falls due, in the order of time: a former version of a name, or a file that was let go.
pub(super) const DUE: &[u8] = b"e";

pub(super) fn due(at_ms: u64, what: &Due) -> Vec<u8> {
    match what {
        Due::Trash(bucket, name, version) => {
            key(b'e', &[&at_ms.to_be_bytes(), &trash(bucket, name, *version)])
        }
        Due::Pin(file) => key(b'e', &[&at_ms.to_be_bytes(), b"f", &file.0]),
        Due::Bucket(name) => key(b'e', &[&at_ms.to_be_bytes(), b"b", name.as_str().as_bytes()]),
    }
}

pub(super) fn parse_due(key: &[u8]) -> Option<(u64, Due)> {
    let (at, rest) = key.get(1..)?.split_first_chunk::<8>()?;
    let what = match rest.first()? {
        b'f' => Due::Pin(FileId(rest[1..].try_into().ok()?)),
        b'b' => Due::Bucket(BucketName::new(std::str::from_utf8(&rest[1..]).ok()?).ok()?),
        _ => {
            let (bucket, name, version) = parse_trash(rest)?;
            Due::Trash(bucket, name, version)
        }
    };
    Some((u64::from_be_bytes(*at), what))
}

/// Condemned chunks, in the order of time.
pub(super) const CONDEMNED: &[u8] = b"w";

pub(super) fn condemned(since_ms: u64, pool: PoolId, chunk: &ChunkId) -> Vec<u8> {
    key(b'w', &[&since_ms.to_be_bytes(), &pool.0.to_be_bytes(), &chunk.0])
}

pub(super) fn parse_condemned(key: &[u8]) -> Option<(u64, PoolId, ChunkId)> {
    let since = u64::from_be_bytes(*key.get(1..)?.first_chunk()?);
    let pool = u16::from_be_bytes(*key.get(9..)?.first_chunk()?);
    Some((since, PoolId(pool), ChunkId(key.get(11..)?.try_into().ok()?)))
}

/// Parts of uploads, in the order in which the uploads began.
pub(super) const UPLOAD_PARTS: &[u8] = b"u";

pub(super) fn parse_upload_part(key: &[u8]) -> Option<(UploadId, PoolId, u32)> {
    let upload = UploadId(*key.get(1..)?.first_chunk()?);
    let pool = u16::from_be_bytes(*key.get(17..)?.first_chunk()?);
    let part = u32::from_be_bytes(key.get(19..)?.try_into().ok()?);
    Some((upload, PoolId(pool), part))
}

/// Owners of parts, in the same order.
pub(super) const PART_OWNERS: &[u8] = b"O";

/// As long as the part's own key, with the same numbers in it.
pub(super) fn part_owner(upload: &UploadId, pool: PoolId, part: u32) -> Vec<u8> {
    key(b'O', &[&upload.0, &pool.0.to_be_bytes(), &part.to_be_bytes()])
}

pub(super) const TOKENS: &[u8] = b"j";
pub(super) const USERS: &[u8] = b"i";
pub(super) const REVOKED: &[u8] = b"v";
pub(super) const ACTS: &[u8] = b"z";

pub(super) fn token(id: &TokenId) -> Vec<u8> {
    key(b'j', &[&id.0])
}

pub(super) fn user(name: &NodeName) -> Vec<u8> {
    key(b'i', &[name.as_str().as_bytes()])
}

pub(super) fn revoked(actor: &Actor) -> Vec<u8> {
    key(b'v', &[actor.role.as_str().as_bytes(), &[0], actor.name.as_str().as_bytes()])
}

pub(super) fn act(number: u64) -> Vec<u8> {
    key(b'z', &[&number.to_be_bytes()])
}

/// Somebody who has gone by this name in this role.
pub(super) fn holder(actor: &Actor) -> Vec<u8> {
    key(b'H', &[actor.role.as_str().as_bytes(), &[0], actor.name.as_str().as_bytes()])
}

pub(super) const STARTS: &[u8] = b"S";

pub(super) fn starts(node: &NodeName) -> Vec<u8> {
    key(b'S', &[node.as_str().as_bytes()])
}

pub(super) fn parse_starts(key: &[u8]) -> Option<NodeName> {
    NodeName::new(std::str::from_utf8(key.get(1..)?).ok()?).ok()
}

pub(super) const EVENTS: &[u8] = b"h";

pub(super) fn event(number: u64) -> Vec<u8> {
    key(b'h', &[&number.to_be_bytes()])
}

pub(super) const JOBS: &[u8] = b"J";
pub(super) const MUTES: &[u8] = b"M";
pub(super) const USAGE: &[u8] = b"U";
pub(super) const LAYOUT_DRAFT: &[u8] = b"L";

pub(super) fn job(number: u64) -> Vec<u8> {
    key(b'J', &[&number.to_be_bytes()])
}

pub(super) fn mute(code: &str) -> Vec<u8> {
    key(b'M', &[code.as_bytes()])
}

pub(super) fn usage(at_ms: u64) -> Vec<u8> {
    key(b'U', &[&at_ms.to_be_bytes()])
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
