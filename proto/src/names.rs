//! Names that people give. Each is checked once, where it enters, and is plain text from then on.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a {kind} name must not be empty")]
    Empty {
        /// What was being named.
        kind: &'static str,
    },
    /// Longer than the limit.
    #[error("a {kind} name has at most {limit} bytes; this one has {length}")]
    TooLong {
        /// What was being named.
        kind: &'static str,
        /// The most bytes it may have.
        limit: usize,
        /// How many this one has.
        length: usize,
    },
    /// A character that the kind of name does not allow.
    #[error("a {kind} name has {allowed}; {found:?} is not allowed")]
    Character {
        /// What was being named.
        kind: &'static str,
        /// The rule, in words.
        allowed: &'static str,
        /// The first character that breaks it.
        found: char,
    },
}

const LABEL_RULE: &str = "lower-case letters, digits, '-' and '.', and starts with a letter or digit";

fn check_label(kind: &'static str, text: &str) -> Result<(), NameError> {
    check_length(kind, text, 63)?;
    let allowed = |(i, c): (usize, char)| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || (i > 0 && (c == '-' || c == '.'))
    };
    match text.char_indices().find(|&at| !allowed(at)) {
        Some((_, found)) => Err(NameError::Character { kind, allowed: LABEL_RULE, found }),
        None => Ok(()),
    }
}

fn check_object(kind: &'static str, text: &str) -> Result<(), NameError> {
    check_length(kind, text, 1024)?;
    match text.chars().find(|c| c.is_control()) {
        Some(found) => {
            Err(NameError::Character { kind, allowed: "any character but control characters", found })
        }
        None => Ok(()),
    }
}

fn check_length(kind: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty { kind }),
        length if length > limit => Err(NameError::TooLong { kind, limit, length }),
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks the text and takes it.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                $check($kind, &text)?;
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        // Names off the wire pass the same check as names from a keyboard.
        impl<C> Decode<C> for $name {
            fn decode<D: bincode::de::Decoder<Context = C>>(
                d: &mut D,
            ) -> Result<Self, bincode::error::DecodeError> {
                Self::new(String::decode(d)?)
                    .map_err(|e| bincode::error::DecodeError::OtherString(e.to_string()))
            }
        }
        bincode::impl_borrow_decode!($name);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A node of the cluster: `metadata-1`, `data-2`; also the DNS name in its certificate.
    NodeName, "node", check_label
);
name!(
    /// A pool: `3x`, `rs-4-2`.
    PoolName, "pool", check_label
);
name!(
    /// A bucket: a flat namespace of objects that belongs to one pool.
    BucketName, "bucket", check_label
);
name!(
    /// A zone: a failure domain, as the operator draws it.
    ZoneName, "zone", check_label
);
name!(
    /// An object's name within its bucket: any UTF-8 without control characters, up to 1024 bytes.
    ObjectName, "object", check_object
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_strict_and_object_names_are_free_but_for_controls() {
        assert!(NodeName::new("metadata-1").is_ok());
        assert_eq!(PoolName::new(""), Err(NameError::Empty { kind: "pool" }));
        assert!(matches!(BucketName::new("-a"), Err(NameError::Character { found: '-', .. })));
        assert!(matches!(BucketName::new("Blocks"), Err(NameError::Character { found: 'B', .. })));
        assert!(ObjectName::new("a/b c/日本.blk").is_ok());
        assert!(matches!(ObjectName::new("a\nb"), Err(NameError::Character { found: '\n', .. })));
        assert!(matches!(
            ObjectName::new("x".repeat(10_000)),
            Err(NameError::TooLong { limit: 1024, length: 10_000, .. })
        ));
    }

    #[test]
    fn a_bad_name_does_not_come_in_over_the_wire() {
        let bytes = crate::codec::encode(&"a\u{7}b".to_string());
        assert!(crate::codec::decode::<ObjectName>(&bytes).is_err());
    }
}
