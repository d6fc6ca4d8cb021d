//! A piece's record in the journal: which piece of which chunk it is. Layout in `docs/formats.md`.

use wmall_proto::{ChunkId, PoolId, UploadId};

/// Journal kind of a piece.
pub(crate) const KIND_PIECE: u8 = 1;
/// Bytes of the header.
pub(crate) const HEADER: usize = 2 + 32 + 1 + 16 + 8;

/// What the header of a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceHeader {
    pub(crate) pool: PoolId,
    pub(crate) chunk: ChunkId,
    pub(crate) slot: u8,
    pub(crate) upload: UploadId,
    pub(crate) row_version: u64,
}

impl PieceHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(&self.pool.0.to_le_bytes());
        out.extend_from_slice(&self.chunk.0);
        out.push(self.slot);
        out.extend_from_slice(&self.upload.0);
        out.extend_from_slice(&self.row_version.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (pool, rest) = bytes.split_first_chunk::<2>()?;
        let (chunk, rest) = rest.split_first_chunk::<32>()?;
        let (&[slot], rest) = rest.split_first_chunk::<1>()?;
        let (upload, rest) = rest.split_first_chunk::<16>()?;
        let row_version: &[u8; 8] = rest.try_into().ok()?;
        Some(Self {
            pool: PoolId(u16::from_le_bytes(*pool)),
            chunk: ChunkId(*chunk),
            slot,
            upload: UploadId(*upload),
            row_version: u64::from_le_bytes(*row_version),
        })
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
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER);
        assert_eq!(PieceHeader::decode(&bytes), Some(header));
        assert_eq!(PieceHeader::decode(&bytes[1..]), None);
        assert_eq!(PieceHeader::decode(&[bytes.as_slice(), &[0]].concat()), None);
    }
}
