//! Numbers and names of the protocol. Each is a type of its own, so that a view is never taken for a sequence.

use std::cmp::Ordering;
use std::fmt;

use bincode::{Decode, Encode};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A set of validators and the time of their rule. Votes of one epoch count for nothing in another.
    Epoch, u64
}
number! {
    /// Who is primary, within an epoch (PBFT section 4). It only moves forward.
    View, u64
}
number! {
    /// The place of a proposal in the order of all; 0 is the genesis.
    Sequence, u64
}
number! {
    /// A validator's seat: its place in the set of its epoch.
    Seat, u16
}
number! {
    /// The shell's clock, in milliseconds. An input like any other.
    Time, u64
}
number! {
    /// A number that nobody could foresee, so that an answer is known to be of now.
    Nonce, u64
}

impl View {
    /// The one after it. The last one of all, which only a lie comes near, has none after it.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Sequence {
    /// The one after it.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// So many behind it.
    pub fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

impl Time {
    /// So many milliseconds later.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// A BLAKE3-256 hash.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Digest(pub [u8; 32]);

impl Ord for Digest {
    /// Byte by byte, as it is printed. Hashes mostly differ in the first eight, and every table of batches asks that.
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        let first = |digest: &Self| digest.0.first_chunk().copied().map(u64::from_be_bytes);
        first(self).cmp(&first(other)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Digest {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A chain's name: the digest of its genesis, so that a vote of one chain is none of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainId(pub Digest);
