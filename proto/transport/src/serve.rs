//! Answering calls.
//!
//! Tasks: one per connection (at most [`MAX_CONNECTIONS`]) and one per call (bounded by the stream
//! limit of `tuning.rs`). A handler that outlives [`HANDLER_TIMEOUT`] is cut off. Headers beyond
//! [`FREE_HEADER`] share [`HEADER_BYTES`] among all callers; each connection's window is the tuned one or its
//! share of [`WINDOW_BUDGET`], whichever is smaller.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use wmall_proto::codec;
use wmall_proto::identity::Revocation;
use wmall_proto::rpc::{Request, Response};
use wmall_proto::topology::ClusterId;
use wmall_proto::{ErrorCode, Role, RpcError};

use crate::body::Body;
use crate::clock::now_ms;
use crate::endpoint::{Endpoint, server_config};
use crate::identity::Peer;
use crate::pool::{CLOSED_EXPIRED, CLOSED_OTHER_CLUSTER, CLOSED_REVOKED, peer_of};

/// Peers that may be connected at once.
const MAX_CONNECTIONS: usize = 1024;
/// Bytes that windows of all peers are measured by. A connection gets its share at the time it is made, so
/// that a thousand of them together have some four times this.
const WINDOW_BUDGET: u64 = 512 << 20;
/// Connections that are counted as there at least, so that the first gets no more than the tuned window.
const FEW_CONNECTIONS: u64 = 8;
/// Bytes of large headers that are being received at once from users, and as many from nodes: users must not
/// hold Raft's messages off.
const HEADER_BYTES: usize = 64 << 20;
/// A header up to this size needs no place.
const FREE_HEADER: usize = 64 << 10;
/// How long a handshake may take: who has no certificate holds a place no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a caller may take to send its request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take to read its last answers once its certificate has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Timers reach no further than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(86_400);
/// How long any call may take.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(120);

/// What answers calls.
pub trait Handler: Send + Sync + 'static {
    /// Answers one call. The role of the caller has been checked.
    fn handle(&self, call: Incoming) -> impl Future<Output = ()> + Send;
}

/// A call to answer.
pub struct Incoming {
    /// Who calls.
    pub peer: Peer,
    /// What it asks.
    pub request: Request,
    /// The bytes behind the request.
    pub body: Body,
    /// The way back.
    pub replier: Replier,
}

/// The way back to a caller.
pub struct Replier {
    send: SendStream,
    started: bool,
}

impl Replier {
    /// Answers. A caller that is gone is no concern of the handler's.
    pub async fn send(mut self, answer: Result<Response, RpcError>) {
        let frame = Bytes::from(codec::encode_frame(&answer));
        if self.send.write_chunk(frame).await.is_ok() {
            let _ = self.send.finish();
        }
    }

    /// Answers with a header only; the bytes follow by [`Replier::write`], then [`Replier::finish`].
    pub async fn start(&mut self, response: Response) -> Result<(), RpcError> {
        self.started = true;
        self.write(Bytes::from(codec::encode_frame(&Ok::<_, RpcError>(response)))).await
    }

    /// Sends bulk bytes.
    pub async fn write(&mut self, part: Bytes) -> Result<(), RpcError> {
        let gone = |e| RpcError::new(ErrorCode::Unreachable, format!("the caller is gone: {e}"));
        self.send.write_chunk(part).await.map_err(gone)
    }

    /// Ends the bulk bytes.
    pub fn finish(mut self) {
        let _ = self.send.finish();
    }

    /// Answers with an error if nothing has been said yet; else breaks the answer off, so that the caller
    /// knows it is not whole.
    pub async fn refuse(mut self, error: RpcError) {
        if self.started {
            let _ = self.send.reset(1u32.into());
        } else {
            self.send(Err(error)).await;
        }
    }

    /// Ends the bulk bytes, whole or broken off. True if whole.
    pub async fn conclude(self, outcome: Result<(), RpcError>) -> bool {
        let ok = outcome.is_ok();
        match outcome {
            Ok(()) => self.finish(),
            Err(error) => self.refuse(error).await,
        }
        ok
    }
}

impl Endpoint {
    /// Answers calls until the endpoint is closed.
    pub async fn serve<H: Handler>(&self, handler: Arc<H>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let headers = Headers::default();
        while let Some(incoming) = self.quinn.accept().await {
            let Some((incoming, place)) = admit(incoming, &places) else { continue };
            let Some(tls) = &self.server_tls else { return };
            let others = (MAX_CONNECTIONS - places.available_permits()) as u64;
            let window = WINDOW_BUDGET / others.max(FEW_CONNECTIONS);
            let config = server_config(tls, incoming.remote_address().ip(), self.small_buffers, window);
            let serving = Serving {
                cluster: self.cluster(),
                revoked: self.revoked.subscribe(),
                headers: headers.clone(),
                handler: handler.clone(),
            };
            tokio::spawn(async move {
                match incoming.accept_with(Arc::new(config)) {
                    Ok(connecting) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await {
                        Ok(Ok(connection)) => serving.connection(connection).await,
                        Ok(Err(error)) => tracing::info!(%error, "a handshake failed"),
                        Err(_) => tracing::info!("a handshake took too long"),
                    },
                    Err(error) => tracing::info!(%error, "a connection was refused"),
                }
                drop(place);
            });
        }
    }
}

/// Whether a connection is worth a handshake: its address is its own, and one of `places` is free, which it
/// holds from then on.
pub(crate) fn admit(
    incoming: quinn::Incoming,
    places: &Arc<Semaphore>,
) -> Option<(quinn::Incoming, OwnedSemaphorePermit)> {
    // An address that may be forged gets a token first, and no state of ours.
    if !incoming.remote_address_validated() && incoming.may_retry() {
        let _ = incoming.retry();
        return None;
    }
    match places.clone().try_acquire_owned() {
        Ok(place) => Some((incoming, place)),
        Err(_) => {
            incoming.refuse();
            None
        }
    }
}

/// Places for large headers.
#[derive(Clone)]
struct Headers {
    nodes: Arc<Semaphore>,
    users: Arc<Semaphore>,
}

impl Default for Headers {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(HEADER_BYTES));
        Self { nodes: places(), users: places() }
    }
}

impl Headers {
    fn of(&self, role: Role) -> Arc<Semaphore> {
        match role {
            Role::Metadata | Role::Data => self.nodes.clone(),
            Role::Validator | Role::Client | Role::Admin => self.users.clone(),
        }
    }
}

/// What serving a connection takes.
struct Serving<H> {
    cluster: ClusterId,
    revoked: watch::Receiver<Arc<[Revocation]>>,
    headers: Headers,
    handler: Arc<H>,
}

impl<H: Handler> Serving<H> {
    /// Answers calls until the peer goes, or its certificate ends or is revoked.
    async fn connection(mut self, connection: quinn::Connection) {
        let Some(peer) = peer_of(&connection).filter(|p| p.cluster == self.cluster) else {
            return connection.close(CLOSED_OTHER_CLUSTER.into(), b"another cluster");
        };
        let ends = tokio::time::sleep(peer.remaining(now_ms()).min(LONGEST_SLEEP));
        tokio::pin!(ends);
        let mut calls = JoinSet::new();
        loop {
            if peer.is_revoked(&self.revoked.borrow_and_update()) {
                tracing::info!(peer = %peer.actor(), "closing the connection of a revoked certificate");
                calls.abort_all();
                return connection.close(CLOSED_REVOKED.into(), b"revoked");
            }
            tokio::select! {
                stream = connection.accept_bi() => {
                    let Ok((send, receive)) = stream else { break };
                    let (headers, handler) = (self.headers.of(peer.role), self.handler.clone());
                    calls.spawn(serve_call_in_time(send, receive, peer.clone(), headers, handler));
                }
                Some(_) = calls.join_next() => {}
                _ = self.revoked.changed() => {}
                () = &mut ends => {
                    if !peer.remaining(now_ms()).is_zero() {
                        ends.as_mut().reset(tokio::time::Instant::now() + peer.remaining(now_ms()).min(LONGEST_SLEEP));
                        continue;
                    }
                    // Who renews in time has made another connection long ago; what is under way here ends well.
                    while calls.join_next().await.is_some() {}
                    // The peer reads the last answers and lets go; who does not is made to.
                    let _ = tokio::time::timeout(LAST_ANSWERS, connection.closed()).await;
                    return connection.close(CLOSED_EXPIRED.into(), b"expired");
                }
            }
        }
        // The peer is gone; what it began is still brought to its end.
        calls.detach_all();
    }
}

async fn serve_call_in_time<H: Handler>(
    send: SendStream,
    receive: RecvStream,
    peer: Peer,
    headers: Arc<Semaphore>,
    handler: Arc<H>,
) {
    let answering = serve_call(send, receive, peer, headers, handler);
    if tokio::time::timeout(HANDLER_TIMEOUT, answering).await.is_err() {
        tracing::warn!("a call took longer than {HANDLER_TIMEOUT:?} and was cut off");
    }
}

async fn serve_call<H: Handler>(
    send: SendStream,
    mut receive: RecvStream,
    peer: Peer,
    headers: Arc<Semaphore>,
    handler: Arc<H>,
) {
    let replier = Replier { send, started: false };
    let request = match tokio::time::timeout(HEADER_TIMEOUT, read_request(&mut receive, &headers)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => return replier.send(Err(error)).await,
        Err(_) => return,
    };
    let kind = request.kind();
    if !peer.role.may_call(kind) {
        let reason = format!("a {} may not call {}", peer.role, kind.as_str());
        return replier.send(Err(RpcError::new(ErrorCode::Denied, reason))).await;
    }
    handler.handle(Incoming { peer, request, body: Body::new(receive), replier }).await;
}

async fn read_request(receive: &mut RecvStream, headers: &Semaphore) -> Result<Request, RpcError> {
    let bad = |why: String| RpcError::new(ErrorCode::BadRequest, why);
    let mut prefix = [0u8; 4];
    receive.read_exact(&mut prefix).await.map_err(|e| bad(e.to_string()))?;
    let length = codec::check_frame_length(prefix).map_err(|e| bad(e.to_string()))?;
    let wanted = if length > FREE_HEADER { length as u32 } else { 0 };
    let full = |_| RpcError::new(ErrorCode::Busy, "too many large requests are being received");
    let _place = headers.try_acquire_many(wanted).map_err(full)?;
    // Grown as bytes arrive: a claimed length allocates nothing by itself.
    let mut bytes = Vec::with_capacity(length.min(64 << 10));
    while bytes.len() < length {
        let chunk = receive.read_chunk(length - bytes.len(), true).await;
        match chunk.map_err(|e| bad(e.to_string()))? {
            Some(chunk) => bytes.extend_from_slice(&chunk.bytes),
            None => return Err(bad("the request ends early".into())),
        }
    }
    codec::decode(&bytes).map_err(|e| bad(e.to_string()))
}
