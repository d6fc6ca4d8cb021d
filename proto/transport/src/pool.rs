//! One connection a peer, dialled on first use, dialled again when it breaks.
//!
//! A dial that failed is remembered for [`BACKOFF`]: callers in that time are told at once, so that a
//! dead node costs one of them a timeout and not all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::{ClientConfig, Connection, ConnectionError};
use wmall_proto::{ErrorCode, RpcError};

use crate::identity::Peer;
use crate::outgoing::Target;

/// The longest a handshake may take.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a failed dial is not tried again.
const BACKOFF: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    failed: Option<(Instant, RpcError)>,
}

type Slots = HashMap<(String, SocketAddr), Arc<tokio::sync::Mutex<Slot>>>;
type Configure = Box<dyn Fn(SocketAddr) -> ClientConfig + Send + Sync>;

pub(crate) struct Pool {
    configure: Configure,
    // Bounded by the number of nodes that the topology names.
    slots: Mutex<Slots>,
}

impl Pool {
    pub(crate) fn new(configure: Configure) -> Self {
        Self { configure, slots: Mutex::default() }
    }

    /// A live connection to the target, whose certificate names it.
    pub(crate) async fn get(
        &self,
        quinn: &quinn::Endpoint,
        own: &Peer,
        target: &Target,
    ) -> Result<Connection, RpcError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry((target.node.to_string(), target.address)).or_default().clone()
        };
        // Held across the dial, so that many callers share one.
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.connection.as_ref().filter(|c| c.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        slot.connection = None;
        if let Some((at, error)) = &slot.failed
            && at.elapsed() < BACKOFF
        {
            return Err(error.clone());
        }
        match self.dial(quinn, own, target).await {
            Ok(connection) => {
                *slot = Slot { connection: Some(connection.clone()), failed: None };
                Ok(connection)
            }
            Err(error) => {
                slot.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn dial(
        &self,
        quinn: &quinn::Endpoint,
        own: &Peer,
        target: &Target,
    ) -> Result<Connection, RpcError> {
        let config = (self.configure)(target.address);
        let connecting = quinn
            .connect_with(config, target.address, target.node.as_str())
            .map_err(|e| unreachable(target, &e.to_string()))?;
        let connection = match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(connection_error(target, &error)),
            Err(_) => return Err(unreachable(target, "no answer within 1.5 s")),
        };
        let peer = peer_of(&connection);
        if peer.as_ref().map(|p| p.cluster) != Some(own.cluster) {
            connection.close(1u32.into(), b"another cluster");
            return Err(denied(target, "its certificate is of another cluster"));
        }
        Ok(connection)
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
    RpcError::new(ErrorCode::Denied, format!("{} at {}: {why}", target.node, target.address))
        .hint("check that this identity was issued by the CA of that cluster and is still valid")
}

/// A broken connection, as the caller should see it: a refused certificate is a denial, the rest is a
/// peer that can't be reached.
pub(crate) fn connection_error(target: &Target, error: &ConnectionError) -> RpcError {
    // RFC 9001 section 4.8: a TLS alert travels as transport error 0x0100 plus the alert.
    const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x0100..=0x01ff;
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
