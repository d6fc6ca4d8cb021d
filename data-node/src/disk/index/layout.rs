//! The index's keys and values, in its view. Nothing outside the view depends on them: an index that can't be
//! read is built anew from the journal.

use wmall_journal::Position;
use wmall_proto::chunk::Shard;
use wmall_proto::feed::PoolChunk;
use wmall_proto::{ChunkId, PoolId};

use super::{Held, Located, PieceState};

/// How far the journal is in the index.
pub(super) const POSITION_KEY: &[u8] = b"\x01position";
/// How far the feed has been read.
pub(super) const FEED_KEY: &[u8] = b"\x01feed";
/// Before which time uploads are fenced.
pub(super) const FENCE_KEY: &[u8] = b"\x01fence";
/// Something was lost that can't be named, and the metadata nodes have not been told yet.
pub(super) const LOSS_KEY: &[u8] = b"\x01loss";
pub(super) const COUNTS_KEY: &[u8] = b"\x01usage";
/// Pieces.
pub(super) const PIECES: u8 = b'p';
/// Pieces that are staged, so that they are found without a walk over all.
pub(super) const STAGED: u8 = b's';
/// Pieces that are trash, likewise.
pub(super) const TRASH: u8 = b't';
/// Bytes of records that are wanted, by segment.
pub(super) const SEGMENTS: u8 = b'u';

pub(super) fn kind_key(kind: u8, key: &PoolChunk) -> Vec<u8> {
    let mut out = Vec::with_capacity(35);
    out.push(kind);
    out.extend_from_slice(&key.pool.0.to_be_bytes());
    out.extend_from_slice(&key.chunk.0);
    out
}

pub(super) fn piece_key(key: &PoolChunk) -> Vec<u8> {
    kind_key(PIECES, key)
}

pub(super) fn segment_key(segment: u64) -> Vec<u8> {
    [&[SEGMENTS], segment.to_be_bytes().as_slice()].concat()
}

pub(super) fn parse_key(key: &[u8]) -> Option<PoolChunk> {
    let pool = u16::from_be_bytes(*key.get(1..)?.first_chunk()?);
    Some(PoolChunk { pool: PoolId(pool), chunk: ChunkId(key.get(3..)?.try_into().ok()?) })
}

pub(super) fn encode_pair(a: u64, b: u64) -> Vec<u8> {
    [a.to_le_bytes(), b.to_le_bytes()].concat()
}

pub(super) fn decode_pair(bytes: &[u8]) -> Option<(u64, u64)> {
    let (a, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*a), u64::from_le_bytes(rest.try_into().ok()?)))
}

/// In the byte of the state: the piece is a shard, and its digest, its chunk's length and its row's version stand before
/// the mark.
const IS_SHARD: u8 = 0x80;

pub(super) fn encode_held(held: &Held) -> Vec<u8> {
    let located = &held.located;
    let mut out = encode_pair(located.position.segment, located.position.offset);
    out.extend_from_slice(&located.length.to_le_bytes());
    out.push(located.slot);
    out.push(located.state as u8 | if located.shard.is_some() { IS_SHARD } else { 0 });
    if let Some(Shard { digest, chunk_length }) = located.shard {
        out.extend_from_slice(&digest);
        out.extend_from_slice(&chunk_length.to_le_bytes());
        out.extend_from_slice(&located.row_version.to_le_bytes());
    }
    out.extend_from_slice(&held.held_until_ms.to_le_bytes());
    out
}

pub(super) fn decode_held(bytes: &[u8]) -> Option<Held> {
    let (segment, offset) = decode_pair(bytes.get(..16)?)?;
    let (&[a, b, c, d, slot, flags], mut mark) = bytes.get(16..)?.split_first_chunk::<6>()?;
    let (mut shard, mut row_version) = (None, 0);
    if flags & IS_SHARD != 0 {
        let (digest, rest) = mark.split_first_chunk::<32>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (version, rest) = rest.split_first_chunk::<8>()?;
        row_version = u64::from_le_bytes(*version);
        shard = Some(Shard { digest: *digest, chunk_length: u32::from_le_bytes(*length) });
        mark = rest;
    }
    let state = match flags & !IS_SHARD {
        0 => PieceState::Staged,
        1 => PieceState::Live,
        2 => PieceState::Trash,
        _ => return None,
    };
    let held_until_ms = u64::from_le_bytes(mark.try_into().ok()?);
    let length = u32::from_le_bytes([a, b, c, d]);
    let position = Position { segment, offset };
    Some(Held { located: Located { position, length, slot, shard, row_version, state }, held_until_ms })
}
