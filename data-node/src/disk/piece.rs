//! What a disk's journal holds: pieces, and what became of them. Layout in `docs/formats.md`.

use wmall_journal::Position;
use wmall_proto::chunk::Shard;
use wmall_proto::feed::PoolChunk;
use wmall_proto::{ChunkId, PoolId, UploadId};

/// A piece as it came in; its bytes are the payload.
pub(crate) const KIND_PIECE: u8 = 1;
/// A promise to an upload of a piece that was here already.
pub(crate) const KIND_STAMP: u8 = 2;
/// The end of a piece, and of every record of it up to a position.
pub(crate) const KIND_TOMBSTONE: u8 = 3;
/// A piece moved by compaction. It promises nothing where the piece is known.
pub(crate) const KIND_COPY: u8 = 4;

/// Bytes of the header of a copy.
const HEADER: usize = 2 + 32 + 1 + 16 + 8;
/// Bytes that the header of a shard has behind that.
const SHARD: usize = 32 + 4;

/// Bytes of a piece's header.
pub(crate) fn header_length(shard: Option<&Shard>) -> usize {
    HEADER + if shard.is_some() { SHARD } else { 0 }
}

/// The header of a piece, a copy or a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceHeader {
    pub(crate) pool: PoolId,
    pub(crate) chunk: ChunkId,
    pub(crate) slot: u8,
    pub(crate) upload: UploadId,
    pub(crate) row_version: u64,
    /// None for a copy, which hashes to the chunk's id.
    pub(crate) shard: Option<Shard>,
}

impl PieceHeader {
    pub(crate) fn key(&self) -> PoolChunk {
        PoolChunk { pool: self.pool, chunk: self.chunk }
    }

    /// What the piece's bytes hash to.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.shard.map_or(self.chunk.0, |s| s.digest)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(header_length(self.shard.as_ref()));
        out.extend_from_slice(&self.pool.0.to_le_bytes());
        out.extend_from_slice(&self.chunk.0);
        out.push(self.slot);
        out.extend_from_slice(&self.upload.0);
        out.extend_from_slice(&self.row_version.to_le_bytes());
        if let Some(Shard { digest, chunk_length }) = self.shard {
            out.extend_from_slice(&digest);
            out.extend_from_slice(&chunk_length.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (pool, rest) = bytes.split_first_chunk::<2>()?;
        let (chunk, rest) = rest.split_first_chunk::<32>()?;
        let (&[slot], rest) = rest.split_first_chunk::<1>()?;
        let (upload, rest) = rest.split_first_chunk::<16>()?;
        let (row_version, rest) = rest.split_first_chunk::<8>()?;
        let shard = match rest {
            [] => None,
            _ => {
                let (digest, length) = rest.split_first_chunk::<32>()?;
                Some(Shard { digest: *digest, chunk_length: u32::from_le_bytes(length.try_into().ok()?) })
            }
        };
        Some(Self {
            pool: PoolId(u16::from_le_bytes(*pool)),
            chunk: ChunkId(*chunk),
            slot,
            upload: UploadId(*upload),
            row_version: u64::from_le_bytes(*row_version),
            shard,
        })
    }
}

/// The end of a piece. It names the position up to which it counts, so that it may be copied to a later
/// place without ending what came in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) key: PoolChunk,
    pub(crate) up_to: Position,
}

impl Tombstone {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(50);
        out.extend_from_slice(&self.key.pool.0.to_le_bytes());
        out.extend_from_slice(&self.key.chunk.0);
        out.extend_from_slice(&self.up_to.segment.to_le_bytes());
        out.extend_from_slice(&self.up_to.offset.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (pool, rest) = bytes.split_first_chunk::<2>()?;
        let (chunk, rest) = rest.split_first_chunk::<32>()?;
        let (segment, rest) = rest.split_first_chunk::<8>()?;
        let offset: &[u8; 8] = rest.try_into().ok()?;
        let key = PoolChunk { pool: PoolId(u16::from_le_bytes(*pool)), chunk: ChunkId(*chunk) };
        let up_to = Position { segment: u64::from_le_bytes(*segment), offset: u64::from_le_bytes(*offset) };
        Some(Self { key, up_to })
    }
}

/// A record of the journal, as far as its meta tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Piece(PieceHeader),
    Stamp(PieceHeader),
    Copy(PieceHeader),
    Tombstone(Tombstone),
}

impl Entry {
    /// None for a kind or a meta that means nothing here.
    pub(crate) fn decode(kind: u8, meta: &[u8]) -> Option<Self> {
        match kind {
            KIND_PIECE => PieceHeader::decode(meta).map(Self::Piece),
            KIND_STAMP => PieceHeader::decode(meta).map(Self::Stamp),
            KIND_COPY => PieceHeader::decode(meta).map(Self::Copy),
            KIND_TOMBSTONE => Tombstone::decode(meta).map(Self::Tombstone),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_no_other_length_decodes() {
        let header = PieceHeader {
            pool: PoolId(513),
            chunk: ChunkId([7; 32]),
            slot: 2,
            upload: UploadId([9; 16]),
            row_version: 1 << 40,
            shard: None,
        };
        let bytes = header.encode();
        assert_eq!((bytes.len(), header.digest()), (HEADER, [7; 32]));
        assert_eq!(PieceHeader::decode(&bytes), Some(header));
        let shard = Shard { digest: [3; 32], chunk_length: 1 << 20 };
        let striped = PieceHeader { shard: Some(shard), ..header };
        let long = striped.encode();
        assert_eq!((long.len(), striped.digest()), (header_length(Some(&shard)), [3; 32]));
        assert_eq!(PieceHeader::decode(&long), Some(striped));
        assert_eq!(long[..HEADER], bytes);
        assert_eq!(Entry::decode(KIND_STAMP, &bytes), Some(Entry::Stamp(header)));
        let up_to = Position { segment: 7, offset: 1 << 33 };
        let tombstone = Tombstone { key: header.key(), up_to };
        let end = tombstone.encode();
        assert_eq!(Entry::decode(KIND_TOMBSTONE, &end), Some(Entry::Tombstone(tombstone)));
        for (kind, bytes) in [(KIND_PIECE, bytes), (KIND_COPY, long), (KIND_TOMBSTONE, end)] {
            assert_eq!(Entry::decode(kind, &bytes[1..]), None);
            assert_eq!(Entry::decode(kind, &[bytes.as_slice(), &[0]].concat()), None);
            assert_eq!(Entry::decode(99, &bytes), None);
        }
    }
}
