//! The identity that a process shows now. It is renewed while the process runs: handshakes take the newest,
//! connections that stand go on with what they began with.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::identity::{Identity, Peer};
use crate::tls::{TlsError, provider};

struct Current {
    key: Arc<CertifiedKey>,
    peer: Peer,
    /// Counts renewals; connections that were dialled before the last one are dialled anew.
    generation: u64,
}

pub(crate) struct Credentials(RwLock<Current>);

impl Credentials {
    pub(crate) fn new(identity: &Identity) -> Result<Arc<Self>, TlsError> {
        let current = Current { key: certified(identity)?, peer: identity.peer().clone(), generation: 0 };
        Ok(Arc::new(Self(RwLock::new(current))))
    }

    pub(crate) fn peer(&self) -> Peer {
        self.0.read().unwrap_or_else(PoisonError::into_inner).peer.clone()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// From now on, this one.
    pub(crate) fn renew(&self, identity: &Identity) -> Result<(), TlsError> {
        let key = certified(identity)?;
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *current = Current { key, peer: identity.peer().clone(), generation: current.generation + 1 };
        Ok(())
    }

    fn key(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).key.clone()
    }
}

/// Certificate and key, which must belong together.
pub(crate) fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, TlsError> {
    let key = CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider())?;
    Ok(Arc::new(key))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.peer())
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
