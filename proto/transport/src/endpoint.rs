//! A bound socket with an identity: it dials, keeps connections, and serves if asked.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{ClientConfig, Runtime, ServerConfig, TokioRuntime};

use crate::identity::{Identity, Peer};
use crate::pool::Pool;
use crate::socket::Compact;
use crate::tls::{self, TlsError};
use crate::tuning;

/// Handshakes that may wait to be looked at.
const MAX_INCOMING: usize = 1024;
/// Bytes that one of them may buffer, and all together.
const INCOMING_BUFFER: u64 = 64 << 10;
const INCOMING_BUFFER_TOTAL: u64 = 16 << 20;

/// Why an endpoint can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken or not ours.
    #[error("cannot listen on UDP {address}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The identity is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// One UDP socket for all connections of a process.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) quinn: quinn::Endpoint,
    pub(crate) identity: Arc<Identity>,
    pub(crate) server_tls: Option<Arc<quinn::crypto::rustls::QuicServerConfig>>,
    pub(crate) small_buffers: bool,
    pub(crate) pool: Arc<Pool>,
}

impl Endpoint {
    /// Binds a socket that [`Endpoint::serve`] will answer on. Needs a tokio runtime around it.
    pub fn server(address: SocketAddr, identity: Arc<Identity>) -> Result<Self, BindError> {
        let tls = tls::server(&identity)?;
        Self::bind(address, identity, Some(tls))
    }

    /// Binds a socket that only calls.
    pub fn client(identity: Arc<Identity>) -> Result<Self, BindError> {
        Self::bind(SocketAddr::from(([0, 0, 0, 0], 0)), identity, None)
    }

    fn bind(
        address: SocketAddr,
        identity: Arc<Identity>,
        server_tls: Option<Arc<quinn::crypto::rustls::QuicServerConfig>>,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Socket { address, source };
        let socket = tuning::bind(address).map_err(failed)?;
        let client_tls = tls::client(&identity)?;
        // Each connection gets the settings for its own peer; these are for what comes before.
        let server = server_tls
            .as_ref()
            .map(|tls| server_config(tls, address.ip(), socket.small_buffers, tuning::FULL_WINDOW));
        let wrapped = TokioRuntime.wrap_udp_socket(socket.socket).map_err(failed)?;
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            tuning::endpoint_config(),
            server,
            Arc::new(Compact(wrapped)),
            Arc::new(TokioRuntime),
        )
        .map_err(failed)?;
        let small_buffers = socket.small_buffers;
        let pool = Arc::new(Pool::new(Box::new(move |address: SocketAddr| {
            let mut config = ClientConfig::new(client_tls.clone());
            config.transport_config(tuning::transport(address.ip(), small_buffers, tuning::FULL_WINDOW));
            config
        })));
        Ok(Self { quinn, identity, server_tls, small_buffers, pool })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.quinn.local_addr()
    }

    /// Who it is.
    pub fn peer(&self) -> &Peer {
        self.identity.peer()
    }

    /// Closes every connection and waits, briefly, until the peers have heard.
    pub async fn close(&self) {
        self.quinn.close(0u32.into(), b"closing");
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), self.quinn.wait_idle()).await;
    }
}

pub(crate) fn server_config(
    tls: &Arc<quinn::crypto::rustls::QuicServerConfig>,
    peer: std::net::IpAddr,
    small_buffers: bool,
    window: u64,
) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(tls.clone());
    config
        .transport_config(tuning::transport(peer, small_buffers, window))
        .migration(false)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL);
    config
}
