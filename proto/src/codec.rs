//! The one codec: bincode's native derive with fixed-width integers and a size limit.
//!
//! A message comes off the wire or off the disk only through [`decode`], which refuses lengths
//! beyond the limit before it allocates and bytes that are left over. What is *signed* never
//! passes through here: signed bytes are laid out by hand.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

/// The most bytes a message header may have, encoded; bulk bytes travel behind the header.
pub const MAX_MESSAGE: usize = 8 << 20;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More bytes than a message may have.
    #[error("a message of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// How many there are, or are claimed to be.
        length: usize,
        /// How many there may be.
        limit: usize,
    },
    /// They do not decode, or claim lengths beyond the limit.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// They decode and some are left.
    #[error("malformed message: {extra} bytes after its end")]
    Trailing {
        /// How many are left.
        extra: usize,
    },
}

type Config = Configuration<LittleEndian, Fixint, Limit<MAX_MESSAGE>>;

fn config() -> Config {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_MESSAGE>()
}

/// Encodes a value. Values of this crate's types always encode.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    // The writer is a vector and no type of ours has a fallible `Encode`, so there is no error to
    // report; an empty message would be refused by every decoder.
    bincode::encode_to_vec(value, bincode::config::standard().with_fixed_int_encoding()).unwrap_or_default()
}

/// Decodes a value from exactly these bytes.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge { length: bytes.len(), limit: MAX_MESSAGE });
    }
    let (value, used) =
        bincode::decode_from_slice(bytes, config()).map_err(|e| CodecError::Malformed(e.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        extra => Err(CodecError::Trailing { extra }),
    }
}

/// Checks the length prefix of a frame before anything is allocated for it.
pub fn check_frame_length(prefix: [u8; 4]) -> Result<usize, CodecError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MAX_MESSAGE {
        return Err(CodecError::TooLarge { length, limit: MAX_MESSAGE });
    }
    Ok(length)
}

/// Encodes a value as a frame: its length as a little-endian u32, then its bytes.
pub fn encode_frame<T: Encode>(value: &T) -> Vec<u8> {
    let body = encode(value);
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{Request, Response};
    use proptest::prelude::*;

    #[test]
    fn hostile_lengths_are_refused_before_they_are_believed() {
        // A vector that claims 2^60 entries, in sixteen bytes.
        let mut bytes = (1u64 << 60).to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 8]);
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(CodecError::Malformed(_))));
        assert!(matches!(decode::<Vec<String>>(&bytes), Err(CodecError::Malformed(_))));
        assert_eq!(
            check_frame_length(u32::MAX.to_le_bytes()),
            Err(CodecError::TooLarge { length: u32::MAX as usize, limit: MAX_MESSAGE })
        );
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let mut bytes = encode(&7u32);
        bytes.push(0);
        assert_eq!(decode::<u32>(&bytes), Err(CodecError::Trailing { extra: 1 }));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Result<Response, crate::RpcError>>(&bytes);
        }
    }
}
