//! A bound socket with an identity: it dials, keeps connections, and serves if asked.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use wmall_proto::identity::Revocation;
use wmall_proto::topology::ClusterId;

use quinn::{ClientConfig, Runtime, ServerConfig, TokioRuntime};

use crate::credentials::Credentials;
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
    pub(crate) credentials: Arc<Credentials>,
    cluster: ClusterId,
    ca_fingerprint: [u8; 32],
    /// Whose certificates are refused. What has changed is looked at by every connection that stands.
    pub(crate) revoked: Arc<watch::Sender<Arc<[Revocation]>>>,
    pub(crate) server_tls: Option<Arc<quinn::crypto::rustls::QuicServerConfig>>,
    pub(crate) small_buffers: bool,
    pub(crate) pool: Arc<Pool>,
}

impl Endpoint {
    /// Binds a socket that [`Endpoint::serve`] will answer on. Needs a tokio runtime around it.
    pub fn server(address: SocketAddr, identity: &Identity) -> Result<Self, BindError> {
        let credentials = Credentials::new(identity)?;
        let tls = tls::server(identity, credentials.clone())?;
        Self::bind(address, identity, credentials, Some(tls))
    }

    /// Binds a socket that only calls.
    pub fn client(identity: &Identity) -> Result<Self, BindError> {
        let credentials = Credentials::new(identity)?;
        Self::bind(SocketAddr::from(([0, 0, 0, 0], 0)), identity, credentials, None)
    }

    fn bind(
        address: SocketAddr,
        identity: &Identity,
        credentials: Arc<Credentials>,
        server_tls: Option<Arc<quinn::crypto::rustls::QuicServerConfig>>,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Socket { address, source };
        let socket = tuning::bind(address).map_err(failed)?;
        let client_tls = tls::client(identity, credentials.clone())?;
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
        let configure = move |address: SocketAddr| {
            let mut config = ClientConfig::new(client_tls.clone());
            config.transport_config(tuning::transport(address.ip(), small_buffers, tuning::FULL_WINDOW));
            config
        };
        let revoked = Arc::new(watch::Sender::new(Arc::from([])));
        let pool = Arc::new(Pool::new(Box::new(configure), credentials.clone(), revoked.subscribe()));
        let (cluster, ca_fingerprint) = (identity.cluster(), identity.ca_fingerprint());
        Ok(Self { quinn, credentials, cluster, ca_fingerprint, revoked, server_tls, small_buffers, pool })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.quinn.local_addr()
    }

    /// Who it is, by its present certificate.
    pub fn peer(&self) -> Peer {
        self.credentials.peer()
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// BLAKE3 of the CA's certificate, as join tokens carry it.
    pub fn ca_fingerprint(&self) -> [u8; 32] {
        self.ca_fingerprint
    }

    /// Shows this identity from now on. Calls under way end on the connections that they began on; the next
    /// ones are made on new ones.
    pub fn renew(&self, identity: &Identity) -> Result<(), BindError> {
        Ok(self.credentials.renew(identity)?)
    }

    /// Refuses these certificates from now on, and ends the connections that were made with them. The list is
    /// in the order of its holders.
    pub fn set_revoked(&self, revoked: &[Revocation]) {
        let news = self.revoked.send_if_modified(|now| {
            let news = **now != *revoked;
            if news {
                *now = revoked.into();
            }
            news
        });
        if news {
            self.pool.drop_revoked();
        }
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
