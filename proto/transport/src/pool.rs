//! One connection a peer, dialled on first use, dialled again when it breaks.
//!
//! A dial that failed is remembered for [`BACKOFF`]: callers in that time are told at once, so that a
//! dead node costs one of them a timeout and not all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::{ClientConfig, Connection, ConnectionError};
use tokio::sync::watch;
use wmall_proto::identity::Revocation;
use wmall_proto::{ErrorCode, RpcError};

use crate::credentials::Credentials;
use crate::identity::Peer;
use crate::outgoing::Target;

/// Why a connection was closed, as the other side reads it.
pub(crate) const CLOSED_OTHER_CLUSTER: u32 = 1;
pub(crate) const CLOSED_REVOKED: u32 = 2;
pub(crate) const CLOSED_EXPIRED: u32 = 3;
pub(crate) const CLOSED_TOO_MANY: u32 = 4;

/// The longest a handshake may take.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a failed dial is not tried again.
const BACKOFF: Duration = Duration::from_millis(500);

/// A connection, to whom, and with which of our certificates it was made.
#[derive(Clone)]
struct Made {
    connection: Connection,
    peer: Peer,
    generation: u64,
}

#[derive(Default)]
struct Slot {
    made: Option<Made>,
    failed: Option<(Instant, RpcError)>,
}

type Slots = HashMap<(String, SocketAddr), Arc<tokio::sync::Mutex<Slot>>>;
type Configure = Box<dyn Fn(SocketAddr) -> ClientConfig + Send + Sync>;

pub(crate) struct Pool {
    configure: Configure,
    credentials: Arc<Credentials>,
    revoked: watch::Receiver<Arc<[Revocation]>>,
    // Bounded by the number of nodes that the topology names.
    slots: Mutex<Slots>,
}

impl Pool {
    pub(crate) fn new(
        configure: Configure,
        credentials: Arc<Credentials>,
        revoked: watch::Receiver<Arc<[Revocation]>>,
    ) -> Self {
        Self { configure, credentials, revoked, slots: Mutex::default() }
    }

    fn is_revoked(&self, peer: &Peer) -> bool {
        peer.is_revoked(&self.revoked.borrow())
    }

    /// Ends the connections to those whose certificates are refused. One that is being dialled is looked at
    /// when it stands.
    pub(crate) fn drop_revoked(&self) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.values() {
            let Ok(mut slot) = slot.try_lock() else { continue };
            if let Some(made) = slot.made.take_if(|m| self.is_revoked(&m.peer)) {
                made.connection.close(CLOSED_REVOKED.into(), b"revoked");
            }
        }
    }

    /// A live connection to the target, whose certificate names it.
    pub(crate) async fn get(&self, quinn: &quinn::Endpoint, target: &Target) -> Result<Connection, RpcError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry((target.node.to_string(), target.address)).or_default().clone()
        };
        // Held across the dial, so that many callers share one.
        let mut slot = slot.lock().await;
        let generation = self.credentials.generation();
        let fit = |m: &&Made| {
            m.connection.close_reason().is_none() && m.generation == generation && !self.is_revoked(&m.peer)
        };
        if let Some(made) = slot.made.as_ref().filter(fit) {
            return Ok(made.connection.clone());
        }
        // Made before our certificate was renewed, and still good for a while: what the next dial falls back
        // to.
        let former =
            slot.made.take().filter(|m| m.connection.close_reason().is_none() && !self.is_revoked(&m.peer));
        if let Some((at, error)) = &slot.failed
            && at.elapsed() < BACKOFF
        {
            let (error, fallen_back) = (error.clone(), former.as_ref().map(|m| m.connection.clone()));
            slot.made = former;
            return fallen_back.ok_or(error);
        }
        match self.dial(quinn, target).await {
            Ok((connection, peer)) => {
                let made = Made { connection: connection.clone(), peer, generation };
                *slot = Slot { made: Some(made), failed: None };
                Ok(connection)
            }
            Err(error) => {
                slot.failed = Some((Instant::now(), error.clone()));
                let fallen_back = former.as_ref().map(|m| m.connection.clone());
                slot.made = former;
                fallen_back.ok_or(error)
            }
        }
    }

    async fn dial(&self, quinn: &quinn::Endpoint, target: &Target) -> Result<(Connection, Peer), RpcError> {
        let config = (self.configure)(target.address);
        let connecting = quinn
            .connect_with(config, target.address, target.node.as_str())
            .map_err(|e| unreachable(target, &e.to_string()))?;
        let connection = match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(connection_error(target, &error)),
            Err(_) => return Err(unreachable(target, "no answer within 1.5 s")),
        };
        let cluster = self.credentials.peer().cluster;
        let Some(peer) = peer_of(&connection).filter(|p| p.cluster == cluster) else {
            connection.close(CLOSED_OTHER_CLUSTER.into(), b"another cluster");
            return Err(denied(target, "its certificate is of another cluster"));
        };
        if peer.role != target.role {
            connection.close(CLOSED_OTHER_CLUSTER.into(), b"another role");
            return Err(denied(target, &format!("it is a {} and not a {}", peer.role, target.role)));
        }
        if self.is_revoked(&peer) {
            connection.close(CLOSED_REVOKED.into(), b"revoked");
            // As good as gone: another node will do.
            return Err(unreachable(target, "its certificate was revoked"));
        }
        Ok((connection, peer))
    }
}

/// Whom the other end's certificate names.
pub(crate) fn peer_of(connection: &Connection) -> Option<Peer> {
    let certificates =
        connection.peer_identity()?.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok()?;
    Peer::of_certificate(certificates.first()?).ok()
}

fn unreachable(target: &Target, why: &str) -> RpcError {
    RpcError::new(ErrorCode::Unreachable, format!("{} at {}: {why}", target.node, target.address))
}

fn denied(target: &Target, why: &str) -> RpcError {
    RpcError::new(ErrorCode::Denied, format!("{} at {}: {why}", target.node, target.address)).hint(
        "check the clocks, and that this identity was issued by the CA of that cluster and is still valid",
    )
}

/// A broken connection, as the caller should see it: a refused certificate is a denial, the rest is a
/// peer that can't be reached.
pub(crate) fn connection_error(target: &Target, error: &ConnectionError) -> RpcError {
    // RFC 9001 section 4.8: a TLS alert travels as transport error 0x0100 plus the alert.
    const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x0100..=0x01ff;
    if let ConnectionError::ApplicationClosed(close) = error {
        match u32::try_from(close.error_code.into_inner()) {
            Ok(CLOSED_OTHER_CLUSTER) => return denied(target, "it is of another cluster"),
            Ok(CLOSED_REVOKED) => {
                return RpcError::new(
                    ErrorCode::Denied,
                    format!("{} at {}: our certificate was revoked", target.node, target.address),
                )
                .hint("ask an operator for a new token: `wmall node token create`");
            }
            Ok(CLOSED_TOO_MANY) => {
                let reason =
                    format!("{} at {} has no room for more connections", target.node, target.address);
                return RpcError::new(ErrorCode::Busy, reason)
                    .hint("end other processes that use this certificate, and try again");
            }
            _ => return unreachable(target, &error.to_string()),
        }
    }
    let code = match error {
        ConnectionError::TransportError(e) => Some(u64::from(e.code)),
        ConnectionError::ConnectionClosed(close) => Some(u64::from(close.error_code)),
        _ => None,
    };
    match code {
        Some(code) if CRYPTO_ERRORS.contains(&code) => denied(target, &error.to_string()),
        _ => unreachable(target, &error.to_string()),
    }
}
