//! TLS 1.3 with certificates on both sides, no resumption and no early data. The join port is the exception:
//! there the caller has no certificate yet, and knows the cluster by the fingerprint of its CA.

use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use wmall_proto::Role;
use wmall_proto::join::JOIN_ALPN;

use crate::credentials::Credentials;
use crate::identity::{Identity, Peer};

/// Why an identity makes no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refused the certificate or the key.
    #[error("the certificate or key is not usable: {0}")]
    Rustls(#[from] rustls::Error),
    /// The CA's certificate can't verify anybody.
    #[error("the CA's certificate is not usable: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The cryptography lacks what QUIC needs.
    #[error("no cipher suite for QUIC: {0}")]
    Cipher(#[from] NoInitialCipherSuite),
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    Ok(Arc::new(roots))
}

pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

fn without_memory(mut config: rustls::ServerConfig, alpn: &[u8]) -> Result<Arc<QuicServerConfig>, TlsError> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(QuicServerConfig::try_from(config)?))
}

pub(crate) fn server(
    identity: &Identity,
    credentials: Arc<Credentials>,
) -> Result<Arc<QuicServerConfig>, TlsError> {
    let provider = Arc::new(provider());
    let roots = roots(&identity.ca)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(credentials);
    without_memory(config, wmall_proto::ALPN)
}

pub(crate) fn client(
    identity: &Identity,
    credentials: Arc<Credentials>,
) -> Result<Arc<QuicClientConfig>, TlsError> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(&identity.ca)?)
        .with_client_cert_resolver(credentials);
    config.alpn_protocols = vec![wmall_proto::ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(QuicClientConfig::try_from(config)?))
}

/// For the join port: no certificate is asked for, and the CA's own is shown behind the chain, so that a
/// caller who knows its fingerprint can verify the rest.
pub(crate) fn join_server(identity: &Identity) -> Result<Arc<QuicServerConfig>, TlsError> {
    let mut chain = identity.chain.clone();
    chain.push(identity.ca.clone());
    let provider = provider();
    let key = CertifiedKey::from_der(chain, identity.key.clone_key(), &provider)?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    without_memory(config, JOIN_ALPN)
}

pub(crate) fn join_client(ca_fingerprint: [u8; 32]) -> Result<Arc<QuicClientConfig>, TlsError> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(PinnedCa { fingerprint: ca_fingerprint, provider: provider.clone() });
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(QuicClientConfig::try_from(config)?))
}

/// Trusts the one certificate with this fingerprint as a CA, when the server shows it, and then verifies as
/// ever: the signatures up to it, the name, the time.
#[derive(Debug)]
struct PinnedCa {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Tokens are for metadata nodes to see; another node of the cluster has no business at a join port.
        let peer =
            Peer::of_certificate(end_entity).map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        if peer.role != Role::Metadata {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        let pinned = |c: &&CertificateDer<'_>| wmall_proto::ChunkId::of(c).0 == self.fingerprint;
        let ca = intermediates.iter().find(pinned).ok_or(CertificateError::UnknownIssuer)?;
        let roots = roots(&ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
