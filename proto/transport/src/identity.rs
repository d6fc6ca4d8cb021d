//! Who a process is: a key, a certificate with the role in its SAN URI, and the cluster's CA.

use std::fs;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use wmall_proto::ids::parse_hex;
use wmall_proto::topology::ClusterId;
use wmall_proto::{NodeName, Role};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Names of the files in an identity's folder.
pub(crate) const CA_FILE: &str = "ca.pem";
pub(crate) const CERT_FILE: &str = "cert.pem";
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

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The cluster.
    pub cluster: ClusterId,
    /// What the holder is.
    pub role: Role,
    /// Its name.
    pub node: NodeName,
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
        names
            .value
            .general_names
            .iter()
            .find_map(|name| match name {
                GeneralName::URI(uri) => Self::parse_uri(uri),
                _ => None,
            })
            .ok_or(IdentityError::NoRole)
    }

    fn parse_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("wmall://")?.split('/');
        let cluster = ClusterId(parse_hex(parts.next()?)?);
        let role = parts.next()?.parse().ok()?;
        let node = NodeName::new(parts.next()?).ok()?;
        parts.next().is_none().then_some(Self { cluster, role, node })
    }
}

/// A process's own identity, ready for TLS.
#[derive(Debug)]
pub struct Identity {
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
    peer: Peer,
}

impl Identity {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` from a folder.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        let certificate = |name: &str| {
            let (path, pem) = read(folder, name)?;
            CertificateDer::from_pem_slice(&pem)
                .map_err(|_| IdentityError::Malformed { path, what: "certificate" })
        };
        let (ca, own) = (certificate(CA_FILE)?, certificate(CERT_FILE)?);
        let (path, pem) = read(folder, KEY_FILE)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| IdentityError::Malformed { path, what: "private key" })?;
        let peer = Peer::of_certificate(&own)?;
        Ok(Self { ca, certificate: own, key, peer })
    }

    /// Whom it names.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.peer.cluster
    }
}

fn read(folder: &Path, name: &str) -> Result<(String, Vec<u8>), IdentityError> {
    let path = folder.join(name);
    let text = path.display().to_string();
    match fs::read(&path) {
        Ok(bytes) => Ok((text, bytes)),
        Err(source) => Err(IdentityError::Read { path: text, source }),
    }
}
