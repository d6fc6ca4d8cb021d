//! Keeps a process's certificate valid: two thirds into its life a new one is asked for, with the same key, and
//! shown from then on. Nothing under way is broken off.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wmall_proto::join::IssuedCertificate;
use wmall_proto::rpc::{Request, Response};
use wmall_proto::{ErrorCode, RpcError};

use crate::clock::now_ms;
use crate::endpoint::Endpoint;
use crate::identity::Identity;
use crate::issuer::{Issuer, Subject, write_chain};
use crate::join::certificate_request;
use crate::members::Members;

/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between looks at the clock: it may be set meanwhile.
const LOOK: Duration = Duration::from_secs(600);
/// Between tries that fail, at most; a tenth of what is left, if that is less.
const RETRY: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(200);

/// Who issues the new certificate.
pub enum RenewBy {
    /// This process itself: it is a metadata node.
    Issuer(Arc<Issuer>, Duration),
    /// The metadata nodes.
    Members(Arc<Members>),
}

/// Asks for new certificates in time.
pub struct Renewal {
    /// Where the identity is kept.
    pub folder: PathBuf,
    /// Whom to ask.
    pub by: RenewBy,
}

impl Renewal {
    /// Runs as long as it is not aborted; each new identity is shown by `endpoint` and handed to `also`.
    pub async fn run(self, endpoint: Endpoint, also: impl Fn(&Identity) + Send + Sync) {
        loop {
            let (peer, now) = (endpoint.peer(), now_ms());
            let due = Duration::from_millis(peer.renew_at_ms().saturating_sub(now));
            if !due.is_zero() {
                tokio::time::sleep(due.min(LOOK)).await;
                continue;
            }
            match self.renew().await {
                Ok(identity) => {
                    if let Err(error) = endpoint.renew(&identity) {
                        tracing::error!(%error, "the new certificate can't be shown");
                    }
                    also(&identity);
                    tracing::info!(expires_ms = identity.peer().expires_ms, "the certificate was renewed");
                }
                Err(error) => {
                    let left = peer.remaining(now);
                    tracing::warn!(%error, ?left, "the certificate could not be renewed; trying again");
                    tokio::time::sleep((left / 10).clamp(SHORTEST, RETRY)).await;
                }
            }
        }
    }

    /// Gets a new certificate and leaves it in the folder.
    pub async fn renew(&self) -> Result<Identity, RpcError> {
        let identity = Identity::load(&self.folder).map_err(RpcError::internal)?;
        let key = identity.key_pair().map_err(RpcError::internal)?;
        let csr = certificate_request(&key).map_err(RpcError::internal)?;
        let issued = match &self.by {
            RenewBy::Issuer(issuer, lifetime) => {
                let peer = identity.peer();
                let (role, node) = (peer.role, peer.node.clone());
                issuer.answer(&csr, &Subject { role, node, lifetime: *lifetime, not_before_ms: 0 })?
            }
            RenewBy::Members(members) => match members.call_any(&Request::Renew { csr }, TIMEOUT).await? {
                Response::Renewed(issued) => issued,
                _ => return Err(RpcError::internal("the renewal got another answer")),
            },
        };
        self.keep(&identity, &issued)
    }

    fn keep(&self, before: &Identity, issued: &IssuedCertificate) -> Result<Identity, RpcError> {
        let wrong =
            |what| RpcError::new(ErrorCode::BadRequest, format!("the new certificate has another {what}"));
        if issued.ca != before.ca.as_ref() {
            return Err(wrong("CA"));
        }
        let peer =
            crate::Peer::of_certificate(&issued.certificate.as_slice().into()).map_err(RpcError::internal)?;
        if peer.actor() != before.peer().actor() || peer.cluster != before.cluster() {
            return Err(wrong("holder"));
        }
        write_chain(&self.folder, &[&issued.certificate, &issued.issuer]).map_err(RpcError::internal)?;
        Identity::load(&self.folder).map_err(RpcError::internal)
    }
}
