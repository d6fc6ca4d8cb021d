//! Redundancy schemes: how many pieces a chunk has and how many of them bring it back.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ChunkId;

/// The most pieces a chunk may have. A commit of [`crate::chunk::MAX_PIECES_PER_COMMIT`] chunks with a receipt and a
/// digest for each piece must fit in one message.
pub const MAX_WIDTH: u8 = 16;

/// How a pool keeps its chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Scheme {
    /// Whole copies.
    Replicated {
        /// How many.
        copies: u8,
    },
    /// Reed-Solomon shards; any `data` of them bring the chunk back.
    ReedSolomon {
        /// Shards that hold the bytes themselves.
        data: u8,
        /// Shards that are computed from them.
        parity: u8,
    },
}

/// Why a text or a pair of numbers is no scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// Not of the form `3x` or `rs:4+2`.
    #[error("{0:?} is no scheme; write 3x for three copies or rs:4+2 for Reed-Solomon")]
    Malformed(String),
    /// Outside what is supported.
    #[error("{0} is out of bounds: 1 to {MAX_WIDTH} pieces, at least one of each kind")]
    OutOfBounds(Scheme),
}

impl Scheme {
    /// Checks the numbers.
    pub fn validate(self) -> Result<Self, SchemeError> {
        let fine = match self {
            Self::Replicated { copies } => (1..=MAX_WIDTH).contains(&copies),
            Self::ReedSolomon { data, parity } => {
                data >= 1 && parity >= 1 && u16::from(data) + u16::from(parity) <= u16::from(MAX_WIDTH)
            }
        };
        if fine { Ok(self) } else { Err(SchemeError::OutOfBounds(self)) }
    }

    /// Pieces per chunk.
    pub fn width(self) -> usize {
        match self {
            Self::Replicated { copies } => usize::from(copies),
            Self::ReedSolomon { data, parity } => usize::from(data) + usize::from(parity),
        }
    }

    /// Pieces that bring a chunk back.
    pub fn needed(self) -> usize {
        match self {
            Self::Replicated { .. } => 1,
            Self::ReedSolomon { data, .. } => usize::from(data),
        }
    }

    /// The slot that whoever reads a chunk asks first. All ask the same one, so that a chunk is in the memory of one node and not of
    /// several; of shards the first bring the chunk back without being decoded.
    pub fn first_slot(self, chunk: &ChunkId) -> usize {
        match self {
            Self::Replicated { copies } => usize::from(chunk.0[31]) % usize::from(copies).max(1),
            Self::ReedSolomon { .. } => 0,
        }
    }

    /// Whether a slot is asked while all answer. What the others have, nobody reads soon.
    pub fn is_asked_first(self, chunk: &ChunkId, slot: u8) -> bool {
        let first = self.first_slot(chunk);
        (first..first + self.needed()).contains(&usize::from(slot))
    }

    /// Pieces on distinct nodes that `--ack quorum` asks for: enough to read plus one to lose,
    /// or all there are.
    pub fn quorum(self) -> usize {
        (self.needed() + 1).min(self.width())
    }

    /// Bytes of one piece of a chunk of `length` bytes.
    pub fn piece_length(self, length: u32) -> u32 {
        match self {
            Self::Replicated { .. } => length,
            Self::ReedSolomon { data, .. } => length.div_ceil(u32::from(data)),
        }
    }

    /// Whether pieces are shards of a chunk rather than copies of it.
    pub fn is_striped(self) -> bool {
        matches!(self, Self::ReedSolomon { .. })
    }

    /// Bytes that the pieces of a chunk of `length` bytes take together.
    pub fn stored_bytes(self, length: u64) -> u64 {
        match self {
            Self::Replicated { copies } => length * u64::from(copies),
            Self::ReedSolomon { data, .. } => length.div_ceil(u64::from(data)) * self.width() as u64,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replicated { copies } => write!(f, "{copies}x"),
            Self::ReedSolomon { data, parity } => write!(f, "rs:{data}+{parity}"),
        }
    }
}

impl FromStr for Scheme {
    type Err = SchemeError;
    fn from_str(text: &str) -> Result<Self, SchemeError> {
        let malformed = || SchemeError::Malformed(text.chars().take(40).collect());
        let number = |t: &str| t.parse::<u8>().map_err(|_| malformed());
        let scheme = if let Some(rest) = text.strip_prefix("rs:") {
            let (data, parity) = rest.split_once('+').ok_or_else(malformed)?;
            Self::ReedSolomon { data: number(data)?, parity: number(parity)? }
        } else {
            let copies = text.strip_suffix('x').ok_or_else(malformed)?;
            Self::Replicated { copies: number(copies)? }
        };
        scheme.validate()
    }
}

impl Serialize for Scheme {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scheme {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_numbers_are_checked() {
        for (text, needed, width, quorum) in
            [("1x", 1, 1, 1), ("3x", 1, 3, 2), ("rs:4+2", 4, 6, 5), ("rs:1+1", 1, 2, 2)]
        {
            let scheme: Scheme = text.parse().unwrap();
            assert_eq!((scheme.needed(), scheme.width(), scheme.quorum()), (needed, width, quorum));
            assert_eq!(scheme.to_string(), text);
        }
        for text in ["", "x", "0x", "17x", "rs:10+7", "rs:4", "rs:0+2", "rs:4+0", "rs:200+200", "3"] {
            assert!(text.parse::<Scheme>().is_err(), "{text}");
        }
    }

    #[test]
    fn stored_bytes_round_shards_up() {
        let rs: Scheme = "rs:4+2".parse().unwrap();
        assert_eq!(rs.stored_bytes(10), 3 * 6);
        assert_eq!("3x".parse::<Scheme>().unwrap().stored_bytes(10), 30);
    }
}
