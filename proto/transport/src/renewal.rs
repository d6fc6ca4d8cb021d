//! Keeps a process's certificate valid: two thirds into its life a new one is asked for, with the same key, and
//! shown from then on. Nothing under way is broken off.
//!
//! The folder keeps the certificate before the newest one. It is shown for as long as the newest one lies
//! ahead of this clock: then either this clock is slow, or the clock of the issuer was ahead and the peers
//! refuse that certificate.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wmall_proto::join::IssuedCertificate;
use wmall_proto::rpc::{Request, Response};
use wmall_proto::{ErrorCode, RpcError};

use crate::clock::now_ms;
use crate::endpoint::Endpoint;
use crate::identity::{CERT_FILE, FORMER_FILE, Identity, Peer};
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
            let due = peer.due_in(now);
            if !due.is_zero() {
                tokio::time::sleep(due.min(LOOK)).await;
                continue;
            }
            let left = peer.remaining(now);
            let pause = (left / 10).clamp(SHORTEST, RETRY);
            match self.show_another(&endpoint).await {
                Ok(identity) => {
                    also(&identity);
                    let due = identity.peer().is_due(now_ms());
                    tracing::info!(
                        expires_ms = identity.peer().expires_ms,
                        due,
                        "the certificate was renewed"
                    );
                    if due {
                        tokio::time::sleep(pause).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, ?left, "the certificate could not be renewed; trying again");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Shows the better certificate of the folder, or a new one.
    async fn show_another(&self, endpoint: &Endpoint) -> Result<Identity, RpcError> {
        let identity = match self.better_than(&endpoint.peer()) {
            Some(identity) => identity,
            None => self.renew().await?,
        };
        endpoint.renew(&identity).map_err(RpcError::internal)?;
        Ok(identity)
    }

    /// A valid certificate of the folder that is not shown: the newest one has begun by now, or the clock was
    /// set back behind it and the one before it is good again.
    fn better_than(&self, shown: &Peer) -> Option<Identity> {
        let identity = Identity::load(&self.folder).ok()?;
        let peer = identity.peer();
        let same = peer.actor() == shown.actor() && peer.cluster == shown.cluster;
        (same && peer != shown && peer.is_valid(now_ms())).then_some(identity)
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
                issuer.answer(&csr, &Subject { role, node, lifetime: *lifetime, map_version: 0 })?
            }
            RenewBy::Members(members) => match members.call_around(&Request::Renew { csr }, TIMEOUT).await? {
                Response::Renewed(issued) => issued,
                _ => return Err(RpcError::internal("the renewal got another answer")),
            },
        };
        self.keep(&identity, &issued)
    }

    /// Leaves the new certificate in the folder, and the present one beside it. It is an error if the present
    /// one has to be shown for a while yet.
    fn keep(&self, before: &Identity, issued: &IssuedCertificate) -> Result<Identity, RpcError> {
        let (peer, now) = (check(before, issued)?, now_ms());
        if peer.remaining(now).is_zero() {
            return Err(out_of_step("has ended by the clock here"));
        }
        let early = peer.is_ahead(now).then(|| {
            let seconds = peer.begins_ms.saturating_sub(now).div_ceil(1000);
            out_of_step(&format!("begins {seconds} s from now by the clock here, and is shown from then on"))
        });
        if let Some(error) = &early
            && self.has_waiting_before(&peer, now)
        {
            return Err(error.clone());
        }
        // In this order, so that a crash leaves one that can be shown. One that lies ahead is no help later.
        if !before.peer().is_ahead(now) {
            let former: Vec<&[u8]> = before.chain.iter().map(|der| &der[..]).collect();
            write_chain(&self.folder, FORMER_FILE, &former).map_err(RpcError::internal)?;
        }
        write_chain(&self.folder, CERT_FILE, &[&issued.certificate, &issued.issuer])
            .map_err(RpcError::internal)?;
        match early {
            Some(error) => Err(error),
            None => Identity::load(&self.folder).map_err(RpcError::internal),
        }
    }

    /// Whether a certificate waits in the folder already that begins no later. To put each new one in its
    /// place would put its beginning off for ever.
    fn has_waiting_before(&self, new: &Peer, now_ms: u64) -> bool {
        let waiting = Identity::with(&self.folder, CERT_FILE);
        waiting.is_ok_and(|w| w.peer().is_ahead(now_ms) && w.peer().begins_ms <= new.begins_ms)
    }
}

/// Whom a new certificate names: the same holder as the one before.
fn check(before: &Identity, issued: &IssuedCertificate) -> Result<Peer, RpcError> {
    let wrong =
        |what| RpcError::new(ErrorCode::BadRequest, format!("the new certificate has another {what}"));
    if issued.ca != before.ca.as_ref() {
        return Err(wrong("CA"));
    }
    let peer = Peer::of_certificate(&issued.certificate.as_slice().into()).map_err(RpcError::internal)?;
    if peer.actor() != before.peer().actor() || peer.cluster != before.cluster() {
        return Err(wrong("holder"));
    }
    Ok(peer)
}

fn out_of_step(how: &str) -> RpcError {
    RpcError::new(ErrorCode::BadRequest, format!("the new certificate {how}"))
        .hint("check the clocks here and on the metadata nodes")
}

#[cfg(test)]
mod tests;
