//! Identifiers. Content ids are BLAKE3-256 digests and print as CIDv1; the rest are numbers
//! that the metadata nodes hand out or random values that their owner draws.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use cid::Cid;
use multihash::Multihash;
use serde::{Deserialize, Serialize};

/// Multicodec of BLAKE3 as a multihash.
const MULTIHASH_BLAKE3: u64 = 0x1e;
/// Multicodec `raw`: the digest is of the bytes themselves.
const CODEC_RAW: u64 = 0x55;
/// A codec from the private-use range: a file's digest is not the digest of its bytes.
const CODEC_WMALL_FILE: u64 = 0x30_0001;

/// Why a text is no id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Neither a CID nor 64 hexadecimal digits.
    #[error("not a CID and not 64 hex digits")]
    Malformed,
    /// A CID whose multihash is not a 32-byte BLAKE3 digest.
    #[error("the CID's hash is not BLAKE3-256 (multihash 0x1e, 32 bytes)")]
    WrongHash,
    /// A CID that names another kind of thing.
    #[error("the CID names a {found}, not a {wanted}")]
    WrongCodec {
        /// What the caller asked for.
        wanted: &'static str,
        /// What the CID's codec says it is.
        found: &'static str,
    },
}

fn codec_name(codec: u64) -> &'static str {
    match codec {
        CODEC_RAW => "chunk",
        CODEC_WMALL_FILE => "file",
        _ => "thing of another system",
    }
}

fn to_cid(codec: u64, digest: &[u8; 32]) -> String {
    match Multihash::<64>::wrap(MULTIHASH_BLAKE3, digest) {
        Ok(hash) => Cid::new_v1(codec, hash).to_string(),
        // `wrap` only refuses digests longer than the 64 bytes it was given room for.
        Err(_) => to_hex(digest),
    }
}

fn parse_digest(text: &str, codec: u64, wanted: &'static str) -> Result<[u8; 32], ParseIdError> {
    // A file's CID happens to have 64 characters too, so hex is tried and not inferred from the length.
    if let Some(digest) = parse_hex(text) {
        return Ok(digest);
    }
    // A CID of ours is 60 characters or so; refuse to hand a megabyte to the decoder.
    if text.len() > 128 {
        return Err(ParseIdError::Malformed);
    }
    let cid = Cid::try_from(text).map_err(|_| ParseIdError::Malformed)?;
    if cid.hash().code() != MULTIHASH_BLAKE3 {
        return Err(ParseIdError::WrongHash);
    }
    if cid.codec() != codec {
        return Err(ParseIdError::WrongCodec { wanted, found: codec_name(cid.codec()) });
    }
    cid.hash().digest().try_into().map_err(|_| ParseIdError::WrongHash)
}

/// Lower-case hexadecimal of any bytes.
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// The inverse of [`to_hex`] for a fixed length; `None` for any other text.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = text.as_bytes();
    if bytes.len() != N * 2 {
        return None;
    }
    let mut out = [0u8; N];
    for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        let digit = |b: u8| (b as char).to_digit(16);
        *slot = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(out)
}

macro_rules! content_id {
    ($(#[$doc:meta])* $name:ident, $codec:expr, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The digest itself.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_cid($codec, &self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, ":{}"), to_hex(&self.0[..6]))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_digest(text, $codec, $word).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

content_id!(
    /// A chunk's name: the BLAKE3-256 digest of its bytes, as a CID with codec `raw`.
    ChunkId, CODEC_RAW, "chunk"
);
content_id!(
    /// A file's name: binds its size, chunk size and Merkle root (see `wmall-manifest`).
    FileId, CODEC_WMALL_FILE, "file"
);

impl ChunkId {
    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), to_hex(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self).ok_or(ParseIdError::Malformed)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

random_id!(
    /// One attempt to bring a file in; drawn by the client, bound into every receipt of it. Its first six
    /// bytes say when it began, so that one number fences all uploads that began before it.
    UploadId
);

impl UploadId {
    /// An upload that begins at this time, in milliseconds since the Unix epoch.
    pub fn new(now_ms: u64, random: [u8; 10]) -> Self {
        let mut out = [0u8; 16];
        out[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
        out[6..].copy_from_slice(&random);
        Self(out)
    }

    /// When it began, by the clock of whoever drew it.
    pub fn started_ms(&self) -> u64 {
        self.0[..6].iter().fold(0, |ms, &b| ms << 8 | u64::from(b))
    }
}
random_id!(
    /// Names one command of one caller: the same id gets the same answer, however often it is sent. Its first
    /// six bytes say when it was born, so that one number tells all requests whose answers may be forgotten.
    RequestId
);

impl RequestId {
    /// A request that is born at this time of the cluster's clock, in milliseconds since the Unix epoch.
    pub fn new(now_ms: u64, random: [u8; 10]) -> Self {
        Self(UploadId::new(now_ms, random).0)
    }

    /// When it was born, by the cluster's clock as its caller had heard it.
    pub fn born_ms(&self) -> u64 {
        UploadId(self.0).started_ms()
    }
}

random_id!(
    /// One life of a disk or of a metadata node, drawn when its folder is made. A wiped one has a new
    /// incarnation, and what the old one promised is void.
    Incarnation
);

/// A disk's number in this cluster, assigned when it registers and never given again.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct DiskId(pub u32);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk-{}", self.0)
    }
}

/// Where a listing of missing pieces goes on: opaque to the caller, who sends it back as it came.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IdPage {
    /// The pool of the last piece.
    pub pool: PoolId,
    /// The chunk of the last piece.
    pub chunk: ChunkId,
}

/// A pool's number in this cluster.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PoolId(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_are_pinned() {
        let chunk = ChunkId::of(b"");
        assert_eq!(to_hex(&chunk.0), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(chunk.to_string(), "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi");
        assert_eq!(FileId(chunk.0).to_string().parse(), Ok(FileId(chunk.0)));
        assert_eq!(to_hex(&chunk.0).parse(), Ok(chunk), "hex is accepted on input");
    }

    #[test]
    fn a_wrong_kind_of_cid_says_which_kind_it_is() {
        let file = FileId([7; 32]).to_string();
        assert_eq!(file.parse::<ChunkId>(), Err(ParseIdError::WrongCodec { wanted: "chunk", found: "file" }));
        // sha2-256, codec dag-pb: an ordinary IPFS name.
        let ipfs = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";
        assert_eq!(ipfs.parse::<FileId>(), Err(ParseIdError::WrongHash));
    }

    #[test]
    fn an_upload_tells_when_it_began_and_sorts_by_it() {
        let at = |ms| UploadId::new(ms, [7; 10]);
        assert_eq!(at(1_700_000_000_123).started_ms(), 1_700_000_000_123);
        assert!(at(1) < at(2) && at(255) < at(256));
        let request = |ms| RequestId::new(ms, [7; 10]);
        assert_eq!(request(1_700_000_000_123).born_ms(), 1_700_000_000_123);
        assert!(request(255) < request(256));
    }

    #[test]
    fn garbage_is_malformed() {
        for text in ["", "x", "zz", &"a".repeat(63), &"g".repeat(64), &"b".repeat(1 << 20)] {
            assert_eq!(text.parse::<FileId>(), Err(ParseIdError::Malformed), "{:.20}", text);
        }
    }
}
