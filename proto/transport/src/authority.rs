//! The cluster's own certificate authority, as `wmall cluster init` makes it. Its key signs issuers and
//! nothing else, and is needed again only when one has to be replaced or a node was off for so long that its
//! certificate ended.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use wmall_proto::topology::ClusterId;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::write_private;
use crate::identity::{CA_FILE, IdentityError};
use crate::issuer::{CLOCK_SKEW, Issuer};

const CA_KEY_FILE: &str = "ca.key";
/// Ten years: CA and issuer are renewed by hand.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why the authority could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already, and a second would lock the first one's nodes out.
    #[error("{0} holds a certificate authority already")]
    Exists(String),
    /// The disk's error.
    #[error("cannot write {path}")]
    Write {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its files do not load.
    #[error(transparent)]
    Load(#[from] IdentityError),
    /// The certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Makes a CA for a new cluster in this folder, `ca.pem` and `ca.key`, and an issuer beside it, which is
/// returned.
pub fn create_authority(folder: &Path, cluster: ClusterId) -> Result<Issuer, AuthorityError> {
    if folder.join(CA_KEY_FILE).exists() {
        return Err(AuthorityError::Exists(folder.display().to_string()));
    }
    let key = KeyPair::generate()?;
    let params = ca_params(&format!("wmall {cluster}"), 1)?;
    let pem = params.self_signed(&key)?.pem();
    write_private(&folder.join(CA_KEY_FILE), key.serialize_pem().as_bytes())?;
    write_private(&folder.join(CA_FILE), pem.as_bytes())?;
    create_issuer(folder)
}

/// Makes another issuer with the CA of this folder.
pub fn create_issuer(folder: &Path) -> Result<Issuer, AuthorityError> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path)
            .map_err(|source| IdentityError::Read { path: path.display().to_string(), source })
    };
    let (pem, key) = (read(CA_FILE)?, read(CA_KEY_FILE)?);
    let cluster = cluster_of(&pem).ok_or_else(|| IdentityError::Malformed {
        path: folder.join(CA_FILE).display().to_string(),
        what: "certificate of a wmall cluster",
    })?;
    let ca = rcgen::Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&key)?)?;
    let own = KeyPair::generate()?;
    let params = ca_params(&format!("wmall issuer {cluster}"), 0)?;
    let certificate = params.signed_by(&own, &ca)?.pem();
    Issuer::save(folder, &certificate, &own.serialize_pem())?;
    Issuer::load(folder)
}

fn ca_params(name: &str, below: u8) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + CA_LIFETIME).into();
    Ok(params)
}

pub(crate) fn cluster_of(pem: &str) -> Option<ClusterId> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    wmall_proto::ids::parse_hex(name.strip_prefix("wmall ")?).map(ClusterId)
}
