//! The cluster's own certificate authority, as `wmall cluster init` makes it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use wmall_proto::topology::ClusterId;
use wmall_proto::{NodeName, Role};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{CA_FILE, CERT_FILE, IdentityError, KEY_FILE, role_uri};

const CA_KEY_FILE: &str = "ca.key";
/// Ten years: the CA itself is renewed by hand.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks of peers may differ by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

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

/// A CA that signs the identities of one cluster.
pub struct CertificateAuthority {
    cluster: ClusterId,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes a CA for a new cluster in this folder: `ca.pem`, and `ca.key` for its owner only.
    pub fn create(folder: &Path, cluster: ClusterId) -> Result<Self, AuthorityError> {
        if folder.join(CA_KEY_FILE).exists() {
            return Err(AuthorityError::Exists(folder.display().to_string()));
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, format!("wmall {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, CA_LIFETIME);
        let pem = params.self_signed(&key)?.pem();
        write_private(&folder.join(CA_KEY_FILE), key.serialize_pem().as_bytes())?;
        write_private(&folder.join(CA_FILE), pem.as_bytes())?;
        Ok(Self { cluster, issuer: Issuer::new(params, key), pem })
    }

    /// Loads the CA of this folder.
    pub fn load(folder: &Path) -> Result<Self, AuthorityError> {
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
        let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&key)?)?;
        Ok(Self { cluster, pem, issuer })
    }

    /// The cluster whose identities it signs.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Makes a key and a certificate for a process and writes them, with the CA's certificate, to a
    /// folder that [`crate::Identity::load`] reads.
    pub fn issue(
        &self,
        folder: &Path,
        role: Role,
        node: &NodeName,
        lifetime: Duration,
    ) -> Result<(), AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![node.to_string()])?;
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        let uri = role_uri(&self.cluster, role, node);
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        valid_for(&mut params, lifetime);
        let certificate = params.signed_by(&key, &self.issuer)?;
        write_private(&folder.join(KEY_FILE), key.serialize_pem().as_bytes())?;
        write_private(&folder.join(CERT_FILE), certificate.pem().as_bytes())?;
        write_private(&folder.join(CA_FILE), self.pem.as_bytes())
    }
}

fn valid_for(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
}

fn cluster_of(pem: &str) -> Option<ClusterId> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    wmall_proto::ids::parse_hex(name.strip_prefix("wmall ")?).map(ClusterId)
}

/// Writes a file that only its owner may read, durably and never half.
fn write_private(path: &Path, content: &[u8]) -> Result<(), AuthorityError> {
    let failed = |source| AuthorityError::Write { path: path.display().to_string(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    let folder = path.parent().map(fs::File::open).transpose().map_err(failed)?;
    folder.map_or(Ok(()), |f| f.sync_all()).map_err(failed)
}
