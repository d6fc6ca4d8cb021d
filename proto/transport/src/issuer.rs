//! What certificates are issued with: a key whose certificate the CA has signed. The metadata nodes have it;
//! the CA's own key stays with the operator, off the nodes.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use wmall_proto::join::IssuedCertificate;
use wmall_proto::topology::ClusterId;
use wmall_proto::{ErrorCode, NodeName, Role, RpcError};

use crate::authority::{AuthorityError, cluster_of};
use crate::files::{forget, write_private};
use crate::identity::{CA_FILE, CERT_FILE, FORMER_FILE, IdentityError, KEY_FILE, read, role_uri};

pub(crate) const ISSUER_FILE: &str = "issuer.pem";
pub(crate) const ISSUER_KEY_FILE: &str = "issuer.key";
/// No certificate lives longer: what was revoked is forgotten after this.
pub const LONGEST_LIFE: Duration = Duration::from_secs(400 * 86_400);
/// Clocks of peers may differ by this much: a certificate begins so long before it is issued.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Issues certificates of one cluster.
pub struct Issuer {
    cluster: ClusterId,
    ca: CertificateDer<'static>,
    pem: String,
    key_pem: String,
    certificate: CertificateDer<'static>,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

/// Whom a certificate is for, and for how long.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What they are.
    pub role: Role,
    /// Their name.
    pub node: NodeName,
    /// How long it is valid.
    pub lifetime: Duration,
    /// Version of the map by which it is issued: a later revocation of its holder refuses it. 0 where no map
    /// is known.
    pub map_version: u64,
}

impl Issuer {
    /// Loads the issuer of this folder, with the CA's certificate beside it.
    pub fn load(folder: &Path) -> Result<Self, AuthorityError> {
        let text = |name| read(folder, name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let malformed = |name: &str, what| IdentityError::Malformed {
            path: folder.join(name).display().to_string(),
            what,
        };
        let (ca, pem, key_pem) = (text(CA_FILE)?, text(ISSUER_FILE)?, text(ISSUER_KEY_FILE)?);
        let cluster = cluster_of(&ca).ok_or_else(|| malformed(CA_FILE, "certificate of a wmall cluster"))?;
        let ca =
            CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|_| malformed(CA_FILE, "certificate"))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| malformed(ISSUER_FILE, "certificate"))?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&key_pem)?)?;
        Ok(Self { cluster, ca, pem, key_pem, certificate, issuer })
    }

    /// Whether this folder holds one.
    pub fn exists(folder: &Path) -> bool {
        folder.join(ISSUER_KEY_FILE).exists()
    }

    /// Its certificate and key, both PEM.
    pub fn to_pem(&self) -> (String, String) {
        (self.pem.clone(), self.key_pem.clone())
    }

    /// Writes an issuer that came as PEM beside the CA's certificate.
    pub fn save(folder: &Path, certificate: &str, key: &str) -> Result<(), AuthorityError> {
        write_private(&folder.join(ISSUER_FILE), certificate.as_bytes())?;
        // Last: it is what `exists` looks for.
        write_private(&folder.join(ISSUER_KEY_FILE), key.as_bytes())
    }

    /// Answers a certificate request (PKCS #10, DER). What it asks for is ignored but for the key, whose
    /// possession its signature proves.
    pub fn answer(&self, csr: &[u8], subject: &Subject) -> Result<IssuedCertificate, RpcError> {
        self.answer_at(csr, subject, SystemTime::now())
    }

    /// The same by another clock.
    pub(crate) fn answer_at(
        &self,
        csr: &[u8],
        subject: &Subject,
        now: SystemTime,
    ) -> Result<IssuedCertificate, RpcError> {
        let request = read_request(csr)?;
        let certificate = self.sign(subject, &request.public_key, now).map_err(RpcError::internal)?;
        Ok(IssuedCertificate {
            certificate: certificate.to_vec(),
            issuer: self.certificate.to_vec(),
            ca: self.ca.to_vec(),
        })
    }

    /// Makes a key and a certificate, and writes them to a folder that [`crate::Identity::load`] reads.
    pub fn issue(
        &self,
        folder: &Path,
        role: Role,
        node: &NodeName,
        lifetime: Duration,
    ) -> Result<(), AuthorityError> {
        let subject = Subject { role, node: node.clone(), lifetime, map_version: 0 };
        self.issue_at(folder, &subject, SystemTime::now())
    }

    /// The same by another clock.
    pub(crate) fn issue_at(
        &self,
        folder: &Path,
        subject: &Subject,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = self.sign(subject, &key, now)?;
        forget(&folder.join(FORMER_FILE))?;
        write_private(&folder.join(KEY_FILE), key.serialize_pem().as_bytes())?;
        write_chain(folder, CERT_FILE, &[certificate.as_ref(), self.certificate.as_ref()])?;
        write_private(&folder.join(CA_FILE), pem(&self.ca).as_bytes())
    }

    fn sign(
        &self,
        subject: &Subject,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let Subject { role, node, lifetime, map_version } = subject;
        let mut params = CertificateParams::new(vec![node.to_string()])?;
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        let uri = role_uri(&self.cluster, *role, node);
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(serial(*map_version, now));
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + (*lifetime).min(LONGEST_LIFE)).into();
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

/// Version of the map (8 bytes), time of issue in milliseconds (6), and 48 random bits; big-endian, and the
/// 20 bytes that RFC 5280, section 4.1.2.2, allows for.
fn serial(map_version: u64, issued: SystemTime) -> SerialNumber {
    let since = issued.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    // Versions have 63 bits at most, so the number is positive.
    let mut bytes = map_version.to_be_bytes().to_vec();
    bytes.extend_from_slice(&since.to_be_bytes()[2..]);
    let mut random = [0u8; 6];
    // Without randomness, certificates of one millisecond share a number, which nothing here depends on.
    let _ = rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut random);
    bytes.extend_from_slice(&random);
    SerialNumber::from(bytes)
}

/// The public key (SubjectPublicKeyInfo, DER) that a certificate request is for.
pub fn requested_key(csr: &[u8]) -> Result<Vec<u8>, RpcError> {
    let request = read_request(csr)?;
    Ok(request.public_key.subject_public_key_info())
}

/// Checks the signature too.
fn read_request(csr: &[u8]) -> Result<CertificateSigningRequestParams, RpcError> {
    let bad = |e: rcgen::Error| {
        RpcError::new(ErrorCode::BadRequest, format!("the certificate request is no good: {e}"))
    };
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).map_err(bad)
}

/// One certificate as PEM (RFC 7468).
pub(crate) fn pem(der: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der))
}

/// Writes a certificate with the issuer's behind it: one file, so that a crash leaves the old or the new.
pub(crate) fn write_chain(folder: &Path, file: &str, chain: &[&[u8]]) -> Result<(), AuthorityError> {
    let text: String = chain.iter().map(|der| pem(der)).collect();
    write_private(&folder.join(file), text.as_bytes())
}
