//! The port where those who have a token and no certificate ask for one: TLS from the server's side only, one
//! question a connection, and windows so small that strangers can't fill any memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{ClientConfig, ServerConfig, TransportConfig, VarInt};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use wmall_proto::join::{IssuedCertificate, JoinReply, JoinRequest, JoinToken, MAX_JOIN_MESSAGE};
use wmall_proto::{ErrorCode, NodeName, RpcError, codec};

use crate::authority::AuthorityError;
use crate::clock::now_ms;
use crate::endpoint::BindError;
use crate::files::{forget, write_private};
use crate::identity::{CA_FILE, CERT_FILE, FORMER_FILE, Identity, IdentityError, KEY_FILE};
use crate::issuer::{pem, write_chain};
use crate::said::Said;
use crate::serve::admit;
use crate::share::{Bounds, Room};
use crate::tls::{self, TlsError};

/// Strangers at once, and those of one address.
const MAX_CONNECTIONS: usize = 32;
const STRANGERS: Bounds =
    Bounds { room: MAX_CONNECTIONS as u64, most: MAX_CONNECTIONS as u64 / 2, kept: 8, first: 2, reserve: 0 };
/// How long one may take, handshake and answer together.
const LONGEST: Duration = Duration::from_secs(15);
/// How long handshake and question together may take.
const ASKING: Duration = Duration::from_secs(3);
/// How long all metadata nodes together may take to answer a joiner.
const JOIN_TIMEOUT: Duration = Duration::from_secs(45);
/// Between rounds over them.
const PAUSE: Duration = Duration::from_millis(300);

/// Answers strangers.
pub trait JoinHandler: Send + Sync + 'static {
    /// Answers one question.
    fn join(&self, request: JoinRequest) -> impl Future<Output = JoinReply> + Send;
}

/// A bound join port.
pub struct JoinServer(quinn::Endpoint);

impl JoinServer {
    /// Binds it. Needs a tokio runtime around it.
    pub fn bind(address: SocketAddr, identity: &Identity) -> Result<Self, BindError> {
        let config = server_config(identity)?;
        let failed = |source| BindError::Socket { address, source };
        Ok(Self(quinn::Endpoint::server(config, address).map_err(failed)?))
    }

    /// Shows this identity from now on.
    pub fn renew(&self, identity: &Identity) -> Result<(), BindError> {
        self.0.set_server_config(Some(server_config(identity)?));
        Ok(())
    }

    /// Answers until it is dropped.
    pub async fn serve<H: JoinHandler>(&self, handler: Arc<H>) {
        let places = Room::new(STRANGERS);
        while let Some(incoming) = self.0.accept().await {
            let Some((incoming, place)) = admit(incoming, &places) else { continue };
            let handler = handler.clone();
            tokio::spawn(async move {
                let from = incoming.remote_address();
                match tokio::time::timeout(LONGEST, answer(incoming, &*handler)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::info!(%from, error, "a join request came to nothing"),
                    Err(_) => tracing::info!(%from, "a join request took too long"),
                }
                drop(place);
            });
        }
    }
}

fn server_config(identity: &Identity) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::with_crypto(tls::join_server(identity)?);
    config
        .transport_config(transport())
        .migration(false)
        .max_incoming(MAX_CONNECTIONS)
        .incoming_buffer_size(MAX_JOIN_MESSAGE as u64)
        .incoming_buffer_size_total((MAX_CONNECTIONS * MAX_JOIN_MESSAGE) as u64);
    Ok(config)
}

async fn answer<H: JoinHandler>(incoming: quinn::Incoming, handler: &H) -> Result<(), String> {
    let asking = async {
        let connection = incoming.await.map_err(|e| e.to_string())?;
        let (send, mut receive) = connection.accept_bi().await.map_err(|e| e.to_string())?;
        let bytes = receive.read_to_end(MAX_JOIN_MESSAGE).await.map_err(|e| e.to_string())?;
        Ok::<_, String>((connection, send, bytes))
    };
    // Who has nothing to ask holds a place no longer than that.
    let asked = tokio::time::timeout(ASKING, asking).await;
    let (connection, mut send, bytes) = asked.map_err(|_| "no question came".to_string())??;
    let reply = match JoinRequest::decode(&bytes) {
        Ok(request) => handler.join(request).await,
        Err(error) => Err(RpcError::new(ErrorCode::BadRequest, error.to_string())),
    };
    send.write_all(&codec::encode(&reply)).await.map_err(|e| e.to_string())?;
    send.finish().map_err(|e| e.to_string())?;
    // The asker closes once it has read; the time for all of this is bounded.
    connection.closed().await;
    Ok(())
}

fn transport() -> Arc<TransportConfig> {
    let window = VarInt::from_u32(MAX_JOIN_MESSAGE as u32);
    let mut config = TransportConfig::default();
    config
        .receive_window(window)
        .stream_receive_window(window)
        .send_window(MAX_JOIN_MESSAGE as u64)
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(quinn::IdleTimeout::try_from(LONGEST).ok());
    Arc::new(config)
}

/// Why somebody did not get in.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each is the error of the part it names.
pub enum JoinError {
    #[error("{0} holds an identity already; a second one would replace it")]
    HasIdentity(String),
    #[error("the token is for {0}; leave the name out, or give that one")]
    OtherName(NodeName),
    #[error("the token is for a {token}, not for a {wanted}")]
    OtherRole { token: wmall_proto::Role, wanted: wmall_proto::Role },
    #[error(transparent)]
    Refused(#[from] RpcError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot open a UDP socket")]
    Socket(#[source] std::io::Error),
    #[error("the certificate that came is not for {0}")]
    WrongCertificate(NodeName),
}

/// Gets a certificate with a token, and leaves it as an identity in `folder`. The key is made here, once: who
/// is interrupted asks again with the same key, and the same token is still good for it.
pub async fn join(
    folder: &std::path::Path,
    token: &JoinToken,
    name: &NodeName,
) -> Result<Identity, JoinError> {
    if Identity::exists(folder) {
        return Err(JoinError::HasIdentity(folder.display().to_string()));
    }
    if let Some(bound) = token.name.as_ref().filter(|n| *n != name) {
        return Err(JoinError::OtherName(bound.clone()));
    }
    let key = match crate::identity::read(folder, KEY_FILE) {
        Ok(pem) => KeyPair::from_pem(&String::from_utf8_lossy(&pem)).map_err(AuthorityError::from)?,
        Err(_) => {
            let key = KeyPair::generate().map_err(AuthorityError::from)?;
            write_private(&folder.join(KEY_FILE), key.serialize_pem().as_bytes())?;
            key
        }
    };
    let csr = certificate_request(&key).map_err(AuthorityError::from)?;
    let request = JoinRequest { secret: token.secret, name: name.clone(), csr };
    let issued = ask(token, &request).await?;
    if wmall_proto::ChunkId::of(&issued.ca).0 != token.ca {
        return Err(JoinError::WrongCertificate(name.clone()));
    }
    let peer = crate::Peer::of_certificate(&CertificateDer::from(issued.certificate.as_slice()))?;
    if peer.node != *name || peer.role != token.role || peer.cluster != token.cluster {
        return Err(JoinError::WrongCertificate(name.clone()));
    }
    if peer.is_ahead(now_ms()) {
        tracing::warn!("the certificate lies ahead; check the clocks here and on the metadata nodes");
    }
    write_private(&folder.join(CA_FILE), pem(&issued.ca).as_bytes())?;
    forget(&folder.join(FORMER_FILE))?;
    // Last: with it the identity is whole.
    write_chain(folder, CERT_FILE, &[&issued.certificate, &issued.issuer])?;
    Ok(Identity::load(folder)?)
}

/// A request for a certificate (PKCS #10), signed with the key. It says nothing else: who the holder is, the
/// issuer decides.
pub(crate) fn certificate_request(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    Ok(CertificateParams::new(Vec::new())?.serialize_request(key)?.der().to_vec())
}

/// Asks one metadata node after the other, past every error, until one has issued or their refusal is final.
async fn ask(token: &JoinToken, request: &JoinRequest) -> Result<IssuedCertificate, JoinError> {
    let mut endpoint =
        quinn::Endpoint::client(SocketAddr::from(([0, 0, 0, 0], 0))).map_err(JoinError::Socket)?;
    let mut config = ClientConfig::new(tls::join_client(token.ca)?);
    config.transport_config(transport());
    endpoint.set_default_client_config(config);
    let deadline = Instant::now() + JOIN_TIMEOUT;
    let mut said = Said::default();
    while Instant::now() < deadline {
        let mut words = Said::default();
        for (at, member) in token.metadata.iter().enumerate() {
            match ask_in_time(&endpoint, member, request).await {
                Ok(issued) => {
                    endpoint.close(0u32.into(), b"done");
                    endpoint.wait_idle().await;
                    return Ok(issued);
                }
                Err(error) => words.hear(at, &member.name, error),
            }
        }
        // Only the leader judges a token. The others have no more to say than who that is.
        if words.is_final(token.metadata.len()) || words.leader_refused() {
            return Err(words.error().into());
        }
        said.take(words);
        tokio::time::sleep(PAUSE).await;
    }
    Err(not_taken(&said).into())
}

/// The error for a joiner that gave up.
fn not_taken(said: &Said) -> RpcError {
    let error = said.error();
    if !error.code.is_transient() {
        return error;
    }
    let reason = format!("no metadata node took the token; {}", said.told());
    RpcError::new(ErrorCode::Unreachable, reason)
        .hint("check that the join ports of the metadata nodes can be reached from here, and the clocks")
}

async fn ask_in_time(
    endpoint: &quinn::Endpoint,
    member: &wmall_proto::join::JoinAddress,
    request: &JoinRequest,
) -> JoinReply {
    match tokio::time::timeout(LONGEST, ask_one(endpoint, member, request)).await {
        Ok(reply) => reply,
        Err(_) => {
            let reason = format!("{} at {} did not answer", member.name, member.join);
            Err(RpcError::new(ErrorCode::Timeout, reason))
        }
    }
}

async fn ask_one(
    endpoint: &quinn::Endpoint,
    member: &wmall_proto::join::JoinAddress,
    request: &JoinRequest,
) -> JoinReply {
    let failed = |e: &dyn std::fmt::Display| {
        RpcError::new(ErrorCode::Unreachable, format!("{} at {}: {e}", member.name, member.join))
    };
    let connecting = endpoint.connect(member.join, member.name.as_str()).map_err(|e| failed(&e))?;
    let connection = connecting.await.map_err(|e| failed(&e))?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(|e| failed(&e))?;
    send.write_all(&codec::encode(request)).await.map_err(|e| failed(&e))?;
    send.finish().map_err(|e| failed(&e))?;
    let bytes = receive.read_to_end(MAX_JOIN_MESSAGE).await.map_err(|e| failed(&e))?;
    connection.close(0u32.into(), b"done");
    codec::decode::<JoinReply>(&bytes).map_err(|e| failed(&e))?
}

#[cfg(test)]
mod tests;
