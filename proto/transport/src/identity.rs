//! Who a process is: a key, a certificate with the role in its SAN URI, and the cluster's CA.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use wmall_proto::identity::{Actor, Revocation};
use wmall_proto::ids::parse_hex;
use wmall_proto::topology::ClusterId;
use wmall_proto::{NodeName, Role};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::now_ms;
use crate::credentials::certified;
use crate::issuer::CLOCK_SKEW;

/// Names of the files in an identity's folder. The certificate's file has the issuer's behind its own.
pub(crate) const CA_FILE: &str = "ca.pem";
pub(crate) const CERT_FILE: &str = "cert.pem";
/// The certificate before that one, for as long as the clock does not call the newest one valid.
pub(crate) const FORMER_FILE: &str = "cert.former.pem";
pub(crate) const KEY_FILE: &str = "key.pem";

/// Why an identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path} holds no {what}")]
    Malformed {
        /// Which.
        path: String,
        /// What should be in it.
        what: &'static str,
    },
    /// The certificate does not say who its holder is.
    #[error("the certificate has no SAN URI of the form wmall://<cluster>/<role>/<node>")]
    NoRole,
}

/// Whom a certificate names, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The cluster.
    pub cluster: ClusterId,
    /// What the holder is.
    pub role: Role,
    /// Its name.
    pub node: NodeName,
    /// Version of the map by which the certificate was issued, from its serial number: revocations go by it.
    /// 0 for one that was issued without a cluster at hand.
    pub map_version: u64,
    /// When the certificate was issued, in milliseconds since the Unix epoch: from its serial number. (Its
    /// `notBefore` is earlier, for clocks that are slow.)
    pub issued_ms: u64,
    /// When it begins to be valid, likewise: its `notBefore`.
    pub begins_ms: u64,
    /// When it ends, likewise.
    pub expires_ms: u64,
}

/// The SAN URI of a role.
pub(crate) fn role_uri(cluster: &ClusterId, role: Role, node: &NodeName) -> String {
    format!("wmall://{cluster}/{role}/{node}")
}

impl Peer {
    /// Reads the SAN URI of a certificate that TLS has verified already.
    pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| IdentityError::NoRole)?;
        let names = parsed.subject_alternative_name().ok().flatten().ok_or(IdentityError::NoRole)?;
        let uri = names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (cluster, role, node) = uri.and_then(parse_uri).ok_or(IdentityError::NoRole)?;
        let serial = parsed.raw_serial();
        let (map_version, issued_ms) = parse_serial(serial);
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let begins_ms = ms(parsed.validity().not_before.timestamp());
        let expires_ms = ms(parsed.validity().not_after.timestamp());
        Ok(Self { cluster, role, node, map_version, issued_ms, begins_ms, expires_ms })
    }

    /// The holder, without regard to which of its certificates this is.
    pub fn actor(&self) -> Actor {
        Actor { role: self.role, name: self.node.clone() }
    }

    /// Whether this certificate is refused.
    pub fn is_revoked(&self, revoked: &[Revocation]) -> bool {
        let found = revoked.binary_search_by(|r| (r.actor.role, &r.actor.name).cmp(&(self.role, &self.node)));
        found.is_ok_and(|at| self.map_version < revoked[at].before)
    }

    /// How long until this certificate is due for renewal: two thirds into its life, or at once if it lies
    /// ahead.
    pub fn due_in(&self, now_ms: u64) -> Duration {
        if self.is_ahead(now_ms) {
            return Duration::ZERO;
        }
        // A certificate whose time of issue is far from its beginning was made by two clocks; the earlier one
        // counts.
        let issued = self.issued_ms.min(self.begins_ms.saturating_add(CLOCK_SKEW.as_millis() as u64));
        let life = self.expires_ms.saturating_sub(issued);
        Duration::from_millis((issued + life / 3 * 2).saturating_sub(now_ms))
    }

    /// Whether it is due for renewal.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.due_in(now_ms).is_zero()
    }

    /// Whether it begins only later by this clock: its issuer's clock was ahead by more than the slack, or
    /// this one is slow.
    pub fn is_ahead(&self, now_ms: u64) -> bool {
        self.begins_ms > now_ms
    }

    /// Whether this clock calls it valid.
    pub(crate) fn is_valid(&self, now_ms: u64) -> bool {
        !self.is_ahead(now_ms) && !self.remaining(now_ms).is_zero()
    }

    /// How long it is still valid.
    pub fn remaining(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.expires_ms.saturating_sub(now_ms))
    }
}

/// Version of the map and time of issue, as [`crate::issuer`] puts them into a serial number: a big-endian
/// number, so bytes may be missing in front.
fn parse_serial(serial: &[u8]) -> (u64, u64) {
    let word = |bytes: &[u8]| bytes.iter().fold(0u64, |n, &b| n << 8 | u64::from(b));
    let (rest, _random) = serial.split_at(serial.len().saturating_sub(6));
    let (version, time) = rest.split_at(rest.len().saturating_sub(6));
    (word(version), word(time))
}

fn parse_uri(uri: &str) -> Option<(ClusterId, Role, NodeName)> {
    let mut parts = uri.strip_prefix("wmall://")?.split('/');
    let cluster = ClusterId(parse_hex(parts.next()?)?);
    let role = parts.next()?.parse().ok()?;
    let node = NodeName::new(parts.next()?).ok()?;
    parts.next().is_none().then_some((cluster, role, node))
}

/// A process's own identity, ready for TLS.
#[derive(Debug)]
pub struct Identity {
    pub(crate) ca: CertificateDer<'static>,
    /// Its own certificate, then the issuer's.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    peer: Peer,
}

impl Identity {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` from a folder. Where the clock does not call the certificate
    /// valid, the one before it stands in, if that is.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        Self::load_at(folder, now_ms())
    }

    /// The same by another clock.
    pub(crate) fn load_at(folder: &Path, now_ms: u64) -> Result<Self, IdentityError> {
        let newest = Self::with(folder, CERT_FILE)?;
        if newest.peer.is_valid(now_ms) {
            return Ok(newest);
        }
        // One of another holder or key was left there by somebody who put other files beside it.
        let stands_in = |former: &Self| {
            former.peer.is_valid(now_ms)
                && former.peer.actor() == newest.peer.actor()
                && former.peer.cluster == newest.peer.cluster
                && certified(former).is_ok()
        };
        let former = Self::with(folder, FORMER_FILE).ok().filter(stands_in);
        Ok(former.unwrap_or(newest))
    }

    /// The identity with the certificate of this file.
    pub(crate) fn with(folder: &Path, certificate: &str) -> Result<Self, IdentityError> {
        let malformed = |name: &str, what| IdentityError::Malformed {
            path: folder.join(name).display().to_string(),
            what,
        };
        let ca = CertificateDer::from_pem_slice(&read(folder, CA_FILE)?)
            .map_err(|_| malformed(CA_FILE, "certificate"))?;
        let pem = read(folder, certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let chain = chain.map_err(|_| malformed(certificate, "certificate"))?;
        let own = chain.first().ok_or_else(|| malformed(certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&read(folder, KEY_FILE)?)
            .map_err(|_| malformed(KEY_FILE, "private key"))?;
        let peer = Peer::of_certificate(own)?;
        Ok(Self { ca, chain, key, peer })
    }

    /// Whether this folder holds one.
    pub fn exists(folder: &Path) -> bool {
        folder.join(CERT_FILE).exists()
    }

    /// Whom it names.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.peer.cluster
    }

    /// BLAKE3 of the CA's certificate, as join tokens carry it.
    pub fn ca_fingerprint(&self) -> [u8; 32] {
        wmall_proto::ChunkId::of(&self.ca).0
    }

    /// The key once more, for certificate requests.
    pub(crate) fn key_pair(&self) -> Result<KeyPair, rcgen::Error> {
        KeyPair::try_from(&self.key)
    }
}

pub(crate) fn read(folder: &Path, name: &str) -> Result<Vec<u8>, IdentityError> {
    let path = folder.join(name);
    fs::read(&path).map_err(|source| IdentityError::Read { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests;
