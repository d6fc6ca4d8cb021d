//! Who may be in the cluster and what they may do: users' scopes, join tokens, revocations, and the
//! record of what operators did.
//!
//! The certificate says who somebody is (`access.rs` has what their role may call at all); what a user may do
//! with which bucket is kept by the metadata nodes, so that it can be changed without a new certificate.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::names::{BucketName, NodeName};
use crate::{ErrorCode, Role};

/// Scopes that one user may have.
pub const MAX_SCOPES: usize = 256;

/// Somebody, as a certificate names them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct Actor {
    /// What they are.
    pub role: Role,
    /// Their name.
    pub name: NodeName,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// What a user may do with a bucket; each includes those before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// List and read.
    Read,
    /// Put, remove, have back.
    Write,
    /// Change the bucket's rules, purge its trash.
    Admin,
}

impl Access {
    /// As scopes are written: `read`, `write` or `admin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// What a user may do where. Text form `BUCKET:read`, with `*` for every bucket, and for files put without a
/// name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Scope {
    /// The bucket; none for all.
    pub bucket: Option<BucketName>,
    /// What.
    pub access: Access,
}

impl Scope {
    /// Whether this allows `access` to `bucket`; none asks for all of them.
    pub fn allows(&self, bucket: Option<&BucketName>, access: Access) -> bool {
        self.access >= access && (self.bucket.is_none() || self.bucket.as_ref() == bucket)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.bucket.as_ref().map_or("*", BucketName::as_str);
        write!(f, "{bucket}:{}", self.access.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text:?} is no scope; write BUCKET:read, BUCKET:write or BUCKET:admin");
        let (bucket, access) = text.rsplit_once(':').ok_or_else(malformed)?;
        let access = [Access::Read, Access::Write, Access::Admin].into_iter().find(|a| a.as_str() == access);
        let bucket = match bucket {
            "*" => None,
            name => Some(BucketName::new(name).map_err(|e| e.to_string())?),
        };
        Ok(Self { bucket, access: access.ok_or_else(malformed)? })
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A user and what they may do. Users without an entry may do nothing.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct User {
    /// Their name, as in their certificate.
    pub name: NodeName,
    /// At most [`MAX_SCOPES`].
    pub scopes: Vec<Scope>,
}

/// Certificates of this holder that were issued by an earlier map are refused everywhere. Versions of the map
/// only rise, also over restores, so no clock has a say in this.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Revocation {
    /// Whose.
    #[serde(flatten)]
    pub actor: Actor,
    /// Version of the map that it came with; [`Revocation::FOR_GOOD`] refuses all certificates, also later
    /// ones.
    pub before: u64,
    /// When that was, in milliseconds since the Unix epoch by the cluster's clock.
    pub at_ms: u64,
}

impl Revocation {
    /// For holders that could issue themselves another certificate.
    pub const FOR_GOOD: u64 = u64::MAX;
}

/// Names a token without giving away its secret: BLAKE3 of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct TokenId(pub [u8; 32]);

impl TokenId {
    /// The id of the token with this secret.
    pub fn of(secret: &[u8; 32]) -> Self {
        Self(blake3::derive_key("wmall 2026 join token id v1", secret))
    }

    /// The short form that people use.
    pub fn short(&self) -> String {
        crate::ids::to_hex(&self.0[..6])
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({})", self.short())
    }
}

impl Serialize for TokenId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct TokenRecord {
    /// Which.
    pub id: TokenId,
    /// What its holder becomes.
    pub role: Role,
    /// Under which name; none leaves the choice of an unused one to the holder.
    pub name: Option<NodeName>,
    /// What the new user may do.
    pub scopes: Vec<Scope>,
    /// Until when it is good.
    pub expires_ms: u64,
    /// Who made it.
    pub created_by: Option<Actor>,
    /// True if every disk of the data node that joins with it waits for an operator's layout.
    pub wait_for_layout: bool,
    /// The name that it was used for, and BLAKE3 of the key: the same key may ask again, since an answer may
    /// have been lost on the way.
    pub used: Option<(NodeName, [u8; 32])>,
}

/// A line of the audit log: what an operator did, or tried to do.
///
/// Each line carries the hash of the one before it, so that a line that was changed or taken out later shows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct AuditRecord {
    /// Its number, from 1 on without gaps.
    pub number: u64,
    /// When, by the cluster's clock.
    pub at_ms: u64,
    /// Who; none for what a token's holder did.
    pub by: Option<Actor>,
    /// What.
    pub act: String,
    /// Why it was refused; none if it was done.
    pub refused: Option<ErrorCode>,
    /// [`AuditRecord::hash`] of the line before; zeros for the first.
    #[serde(serialize_with = "as_hex")]
    pub before: [u8; 32],
}

fn as_hex<S: serde::Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&crate::ids::to_hex(bytes))
}

impl AuditRecord {
    /// BLAKE3 over the line; every part with its length before it. `docs/formats.md` has the layout.
    pub fn hash(&self) -> [u8; 32] {
        let by = self.by.as_ref().map(Actor::to_string).unwrap_or_default();
        let refused = self.refused.map_or("", ErrorCode::as_str);
        let mut hasher = blake3::Hasher::new_derive_key("wmall 2026 audit record v1");
        hasher.update(&self.number.to_le_bytes());
        hasher.update(&self.at_ms.to_le_bytes());
        for text in [by.as_str(), self.act.as_str(), refused] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&self.before);
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_allows_what_it_says_and_less() {
        let (blocks, other) = (BucketName::new("blocks").unwrap(), BucketName::new("other").unwrap());
        let write = scope("blocks:write");
        assert!(write.allows(Some(&blocks), Access::Read) && write.allows(Some(&blocks), Access::Write));
        assert!(!write.allows(Some(&blocks), Access::Admin));
        assert!(!write.allows(Some(&other), Access::Read), "another bucket");
        assert!(!write.allows(None, Access::Read), "all buckets");
        assert!(
            scope("*:read").allows(None, Access::Read) && scope("*:read").allows(Some(&other), Access::Read)
        );
        assert!(!scope("*:read").allows(Some(&other), Access::Write));
        for text in ["blocks:write", "*:admin"] {
            assert_eq!(scope(text).to_string(), text);
        }
        for bad in ["blocks", "blocks:delete", "Blocks:read", ":read", "**:read"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_of_the_audit_log_commits_to_each_of_its_parts() {
        let by = Some(Actor { role: Role::Admin, name: NodeName::new("ops").unwrap() });
        let line = AuditRecord {
            number: 2,
            at_ms: 3,
            by,
            act: "bucket rm logs".into(),
            refused: None,
            before: [9; 32],
        };
        let hex = crate::ids::to_hex(&line.hash());
        assert_eq!(
            hex, "289a8b3774c6940d4295f2782f214cff47454cab3795b3b9d87129cddbd1c59a",
            "golden vector of docs/formats.md"
        );
        let changes: [fn(&mut AuditRecord); 6] = [
            |l| l.number += 1,
            |l| l.at_ms += 1,
            |l| l.by = None,
            |l| l.act.push('x'),
            |l| l.refused = Some(ErrorCode::NotEmpty),
            |l| l.before[0] ^= 1,
        ];
        for change in changes {
            let mut other = line.clone();
            change(&mut other);
            assert_ne!(other.hash(), line.hash(), "{other:?}");
        }
    }
}
