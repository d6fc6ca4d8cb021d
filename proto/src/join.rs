//! How somebody without a certificate gets one: a token, given by an operator, and the one question that is
//! answered to strangers. It has an ALPN, a port and messages of its own; nothing else is offered there.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;

use crate::codec;
use crate::identity::TokenId;
use crate::names::NodeName;
use crate::topology::{ClusterId, MetadataAddress};
use crate::{Role, RpcError};

/// ALPN token of the port where strangers ask.
pub const JOIN_ALPN: &[u8] = b"wmall-join/1";
/// The most bytes that a question or an answer on that port may have.
pub const MAX_JOIN_MESSAGE: usize = 16 << 10;
/// Metadata nodes that a token may name.
const MAX_ADDRESSES: usize = 8;
const PREFIX: &str = "wmall-join-1.";

/// A metadata node as a token names it: calls go to `address`, strangers to `join`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinAddress {
    /// Its name.
    pub name: NodeName,
    /// Where it answers calls.
    pub address: SocketAddr,
    /// Where it answers strangers.
    pub join: SocketAddr,
}

/// A token, as an operator hands it over. It is a secret until it has been used.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinToken {
    /// The cluster.
    pub cluster: ClusterId,
    /// BLAKE3 of the cluster's CA certificate: who can't show that one is not the cluster.
    pub ca: [u8; 32],
    /// What makes it good.
    pub secret: [u8; 32],
    /// What its holder becomes.
    pub role: Role,
    /// Under which name, if that is fixed.
    pub name: Option<NodeName>,
    /// Whom to ask.
    pub metadata: Vec<JoinAddress>,
}

impl JoinToken {
    /// Its id, by which operators and metadata nodes know it.
    pub fn id(&self) -> TokenId {
        TokenId::of(&self.secret)
    }

    /// Where the cluster's calls go, for a configuration.
    pub fn addresses(&self) -> Vec<MetadataAddress> {
        let address = |m: &JoinAddress| MetadataAddress { name: m.name.clone(), address: m.address };
        self.metadata.iter().map(address).collect()
    }
}

// Not the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, {})", self.id(), self.role)
    }
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as one.
    #[error("this is no join token; it begins with {PREFIX}")]
    Prefix,
    /// Characters are missing, added or changed.
    #[error("the join token is damaged; copy it whole")]
    Damaged,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = codec::encode(self);
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > MAX_JOIN_MESSAGE {
            return Err(TokenError::Damaged);
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| TokenError::Damaged)?;
        let (bytes, check) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if blake3::hash(bytes).as_bytes()[..4] != *check {
            return Err(TokenError::Damaged);
        }
        let token: Self = codec::decode(bytes).map_err(|_| TokenError::Damaged)?;
        let fine = (1..=MAX_ADDRESSES).contains(&token.metadata.len());
        fine.then_some(token).ok_or(TokenError::Damaged)
    }
}

/// The one question that strangers may ask.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinRequest {
    /// The token's secret.
    pub secret: [u8; 32],
    /// The name that the certificate should have.
    pub name: NodeName,
    /// A PKCS #10 request (RFC 2986), DER: its signature proves that the asker has the key.
    pub csr: Vec<u8>,
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinRequest({}, {})", TokenId::of(&self.secret), self.name)
    }
}

impl JoinRequest {
    /// Decodes what a stranger sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        if bytes.len() > MAX_JOIN_MESSAGE {
            return Err(codec::CodecError::TooLarge { length: bytes.len(), limit: MAX_JOIN_MESSAGE });
        }
        codec::decode(bytes)
    }
}

/// A certificate with what it takes to use it; each DER.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// That of the issuer, which the CA has signed.
    pub issuer: Vec<u8>,
    /// That of the CA.
    pub ca: Vec<u8>,
}

/// The answer to a [`JoinRequest`].
pub type JoinReply = Result<IssuedCertificate, RpcError>;

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            cluster: ClusterId([1; 16]),
            ca: [2; 32],
            secret: [3; 32],
            role: Role::Data,
            name: Some(NodeName::new("data-6").unwrap()),
            metadata: vec![JoinAddress {
                name: NodeName::new("metadata-1").unwrap(),
                address: "10.0.0.1:7001".parse().unwrap(),
                join: "10.0.0.1:7002".parse().unwrap(),
            }],
        }
    }

    #[test]
    fn a_token_survives_being_copied_and_no_damage() {
        let text = token().to_string();
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
        assert_eq!("hello".parse::<JoinToken>(), Err(TokenError::Prefix));
        for cut in PREFIX.len()..text.len() {
            assert_eq!(text[..cut].parse::<JoinToken>(), Err(TokenError::Damaged), "cut at {cut}");
        }
        for at in PREFIX.len()..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(other.parse::<JoinToken>(), Err(TokenError::Damaged), "changed at {at}");
        }
        let golden = "wmall-join-1.AQEBAQEBAQEBAQEBAQEBAQICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMBAAAAAQYAAAAAAAAAZGF0YS02AQAAAAAAAAAKAAAAAAAAAG1ldGFkYXRhLTEAAAAACgAAAVkbAAAAAAoAAAFaG4Uoizs";
        assert_eq!(text, golden, "golden vector of docs/formats.md");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let request =
            JoinRequest { secret: [0x33; 32], name: NodeName::new("data-6").unwrap(), csr: Vec::new() };
        for text in [format!("{:?}", token()), format!("{request:?}")] {
            assert!(!text.contains("3333") && !text.contains("51, 51"), "{text}");
        }
    }
}
