//! Messages as bytes: bincode with fixed-width integers, as everywhere in this project. What is *signed* never passes through
//! here: signed bytes are laid out by hand.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};

use crate::message::Message;

/// The most bytes that a message may have. The longest that is meant is the new view of [`crate::MAX_VALIDATORS`] with a full
/// window of proposals of 64 batches, by the default checkpoint interval: 27 MB.
pub const MAX_MESSAGE: usize = 32 << 20;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// They do not decode, are more than a message may have, or claim to be.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// They decode, and some are left.
    #[error("malformed message: {0} bytes after its end")]
    Trailing(usize),
}

fn config() -> Configuration<LittleEndian, Fixint, Limit<MAX_MESSAGE>> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_MESSAGE>()
}

impl Message {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        // The writer is a vector and nothing in a message refuses to be written, so there is no error to report; no bytes at
        // all are refused by every decoder.
        bincode::encode_to_vec(self, bincode::config::standard().with_fixed_int_encoding())
            .unwrap_or_default()
    }

    /// The message that these bytes are, all of them. Nothing is allocated for lengths beyond [`MAX_MESSAGE`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (message, used) =
            bincode::decode_from_slice(bytes, config()).map_err(|e| CodecError::Malformed(e.to_string()))?;
        match bytes.len() - used {
            0 => Ok(message),
            extra => Err(CodecError::Trailing(extra)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Digest, Epoch, Nonce, Sequence};
    use proptest::prelude::*;

    /// Pinned: peers of other versions must read it.
    #[test]
    fn the_layout_is_pinned() {
        let asked = Message::FetchPqc { from: Sequence(3), to: Sequence(258) };
        assert_eq!(asked.encode(), [14, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        let negotiate = Message::Negotiate { nonce: Nonce(1), epoch: Epoch(2), view: crate::View(3) };
        assert_eq!(
            negotiate.encode(),
            [10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn lengths_that_are_not_there_and_bytes_too_many_are_refused() {
        let stored = Message::Stored(vec![Digest([7; 32])]).encode();
        assert_eq!(Message::decode(&stored), Ok(Message::Stored(vec![Digest([7; 32])])));
        let mut long = stored.clone();
        long.push(0);
        assert_eq!(Message::decode(&long), Err(CodecError::Trailing(1)));
        let mut claims = stored;
        claims[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(Message::decode(&claims), Err(CodecError::Malformed(_))));
        assert!(matches!(Message::decode(&[]), Err(CodecError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_are_refused(tag in 0u8..18, bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let bytes = [&[tag, 0, 0, 0][..], &bytes].concat();
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
