//! The bytes on disk. All numbers little-endian; `docs/formats.md` has the tables.
//!
//! A record states its own position, so bytes of an older tail can never pass for a record of a later
//! one. The checksum of its header begins with a nonce that was drawn for its segment, so bytes that a writer
//! stores can't pass for one either.
//!
//! A record also states the offset up to which its segment was durable when it was written. That tells a torn
//! tail from rot: a bad record with a good one behind it that says "everything before me was durable" is
//! damage to acknowledged data, and is never cut off.

use crate::recover::OpenError;

pub(crate) const RECORD_MAGIC: [u8; 4] = *b"WREC";
const SEGMENT_MAGIC: [u8; 8] = *b"WMALLSEG";
const VERSION: u8 = 2;

/// Bytes of a record before its meta.
pub(crate) const RECORD_FIXED: usize = 32;
/// Bytes of a segment before its first record.
pub(crate) const SEGMENT_HEADER: u64 = 64;
/// Bytes of a segment behind its last record: the header once more, since no record can be told without it.
pub(crate) const SEGMENT_FOOTER: u64 = SEGMENT_HEADER;
/// Records start at multiples of this.
pub(crate) const ALIGN: u64 = 8;
/// The kind that says nothing but that everything before it is durable; not for users.
pub(crate) const KIND_MARK: u8 = 0xfe;
/// The kind that closes a segment; not for users.
pub(crate) const KIND_SEAL: u8 = 0xff;
/// Bytes of a segment that records can't have.
pub(crate) const SEGMENT_OVERHEAD: u64 = SEGMENT_HEADER + SEAL_SIZE + SEGMENT_FOOTER;
/// Bytes of a seal.
pub(crate) const SEAL_SIZE: u64 = record_size(0, 0);

/// The most bytes of meta a record may have.
pub const MAX_META: usize = 1024;
/// The most bytes of payload a record may have.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// Where a record is: the segment's number and the byte in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Number of the segment; rises by one with each.
    pub segment: u64,
    /// Byte in the segment.
    pub offset: u64,
}

/// Bytes that a record takes, padding included.
pub(crate) const fn record_size(meta: usize, payload: usize) -> u64 {
    ((RECORD_FIXED + meta + 4 + payload + 4) as u64).next_multiple_of(ALIGN)
}

/// A segment's nonce, as the checksums of its records begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt(u32);

impl Salt {
    pub(crate) fn of(nonce: &[u8; 16]) -> Self {
        Self(crc32c::crc32c(nonce))
    }

    fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// A record's header, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: u8,
    pub(crate) meta_length: usize,
    pub(crate) payload_length: usize,
    pub(crate) position: Position,
    /// Everything before this offset of the segment was durable when the record was written.
    pub(crate) durable_before: u64,
}

impl RecordHeader {
    pub(crate) fn size(&self) -> u64 {
        record_size(self.meta_length, self.payload_length)
    }

    /// Offset in the record of its payload.
    pub(crate) fn payload_start(&self) -> u64 {
        (RECORD_FIXED + self.meta_length + 4) as u64
    }

    /// Header, meta and their checksum.
    pub(crate) fn encode(&self, meta: &[u8], salt: Salt) -> Vec<u8> {
        let mut out = Vec::with_capacity(RECORD_FIXED + meta.len() + 4);
        out.extend_from_slice(&RECORD_MAGIC);
        out.push(VERSION);
        out.push(self.kind);
        out.extend_from_slice(&(self.meta_length as u16).to_le_bytes());
        out.extend_from_slice(&(self.payload_length as u32).to_le_bytes());
        out.extend_from_slice(&(self.position.segment as u32).to_le_bytes());
        out.extend_from_slice(&self.position.offset.to_le_bytes());
        out.extend_from_slice(&self.durable_before.to_le_bytes());
        out.extend_from_slice(meta);
        let crc = salt.checksum(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// The fixed part; the checksum covers the meta too and is [`check_meta`]'s business.
    pub(crate) fn decode(bytes: &[u8; RECORD_FIXED], segment: u64) -> Option<Self> {
        let u32_at = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let u64_at = |i: usize| u64::from(u32_at(i)) | u64::from(u32_at(i + 4)) << 32;
        if bytes[..4] != RECORD_MAGIC || bytes[4] != VERSION || u32_at(12) != segment as u32 {
            return None;
        }
        let meta_length = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        let payload_length = u32_at(8) as usize;
        if meta_length > MAX_META || payload_length > MAX_PAYLOAD {
            return None;
        }
        let position = Position { segment, offset: u64_at(16) };
        Some(Self { kind: bytes[5], meta_length, payload_length, position, durable_before: u64_at(24) })
    }
}

/// Whether header and meta are what was written. `tail` is the meta and its checksum.
pub(crate) fn check_meta(fixed: &[u8; RECORD_FIXED], tail: &[u8], salt: Salt) -> bool {
    let Some((meta, crc)) = tail.split_last_chunk::<4>() else { return false };
    crc32c::crc32c_append(salt.checksum(fixed), meta) == u32::from_le_bytes(*crc)
}

/// A segment's name on disk.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:010}.seg")
}

/// The number of a segment's name; none for other files.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The header of a segment: magic, version, the journal's identity, the number, the nonce.
pub(crate) fn encode_segment_header(
    identity: &[u8; 16],
    number: u64,
    nonce: &[u8; 16],
) -> [u8; SEGMENT_HEADER as usize] {
    let mut out = [0u8; SEGMENT_HEADER as usize];
    out[..8].copy_from_slice(&SEGMENT_MAGIC);
    out[8] = VERSION;
    out[16..32].copy_from_slice(identity);
    out[32..40].copy_from_slice(&number.to_le_bytes());
    out[40..56].copy_from_slice(nonce);
    let crc = crc32c::crc32c(&out[..60]);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks a segment's header against what is expected of it. None if it is not what was written.
pub(crate) fn check_segment_header(
    bytes: &[u8; SEGMENT_HEADER as usize],
    identity: &[u8; 16],
    number: u64,
) -> Result<Option<Salt>, OpenError> {
    let (body, crc) = bytes.split_at(60);
    if crc32c::crc32c(body).to_le_bytes() != crc || body[..8] != SEGMENT_MAGIC {
        return Ok(None);
    }
    if body[8] != VERSION {
        return Err(OpenError::Version { found: body[8], known: VERSION });
    }
    if body[16..32] != *identity {
        return Err(OpenError::WrongIdentity { segment: number });
    }
    if body[32..40] != number.to_le_bytes() {
        let position = Position { segment: number, offset: 0 };
        return Err(OpenError::Corrupt { position, why: "its number is not that of its name".into() });
    }
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&body[40..56]);
    Ok(Some(Salt::of(&nonce)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The vectors of `docs/formats.md`.
    #[test]
    fn headers_are_the_documented_bytes() {
        let nonce: [u8; 16] = std::array::from_fn(|i| i as u8);
        let header = encode_segment_header(&[5; 16], 7, &nonce);
        assert_eq!(hex(&header), SEGMENT_VECTOR);
        let salt = Salt::of(&nonce);
        assert!(matches!(check_segment_header(&header, &[5; 16], 7), Ok(Some(found)) if found == salt));
        let position = Position { segment: 7, offset: 64 };
        let record =
            RecordHeader { kind: 1, meta_length: 2, payload_length: 3, position, durable_before: 64 };
        let bytes = record.encode(b"me", salt);
        assert_eq!(hex(&bytes), RECORD_VECTOR);
        let fixed = bytes.first_chunk::<RECORD_FIXED>().unwrap();
        assert!(check_meta(fixed, &bytes[RECORD_FIXED..], salt));
        assert!(!check_meta(fixed, &bytes[RECORD_FIXED..], Salt::of(&[0; 16])), "of another segment");
    }

    const SEGMENT_VECTOR: &str = "574d414c4c5345470200000000000000050505050505050505050505050505050700000000000000000102030405060708090a0b0c0d0e0f00000000e09c00bc";
    const RECORD_VECTOR: &str =
        "57524543020102000300000007000000400000000000000040000000000000006d657047017a";
}
