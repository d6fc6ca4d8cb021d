//! Answering calls.
//!
//! Tasks: one per handshake, one per connection and one per call. What each holder of a certificate may have
//! of them, and of bytes of headers and answers, is in `holders.rs`. A handler that outlives
//! [`HANDLER_TIMEOUT`] is cut off, and a reader that takes nothing for [`TAKING_NOTHING`] is let go. Each
//! connection's windows are measured once its holder is known, and again as others come and go (`tuning.rs`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use wmall_proto::codec;
use wmall_proto::identity::Revocation;
use wmall_proto::rpc::{Request, Response};
use wmall_proto::topology::ClusterId;
use wmall_proto::{ErrorCode, RpcError};

use crate::body::Body;
use crate::clock::now_ms;
use crate::endpoint::{Endpoint, server_config};
use crate::holders::{Answers, Client, FREE_ANSWER, FREE_HEADER, Holder, Holders, source};
use crate::identity::Peer;
use crate::pool::{CLOSED_EXPIRED, CLOSED_OTHER_CLUSTER, CLOSED_REVOKED, CLOSED_TOO_MANY, peer_of};
use crate::share::{Place, Room};
use crate::tuning::{FIRST_WINDOW, first_window_of, window_of};

/// Bytes of a header that room is taken for at once, before they are read.
const HEADER_STEP: usize = 256 << 10;
/// How long a handshake may take: who has no certificate holds a place no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection waits for a place among the handshakes: many clients behind one address may begin at
/// once. Quinn bounds how many wait.
const HANDSHAKE_TURN: Duration = Duration::from_secs(1);
/// How long a caller may take to send its request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reader may take nothing of an answer.
pub(crate) const TAKING_NOTHING: Duration = Duration::from_secs(20);
/// How long a call that finds no place may take to hear of it.
const REFUSING: Duration = Duration::from_secs(1);
/// How a stream ends whose reader took nothing.
const NOT_READ: u32 = 2;
/// How long a peer may take to read its last answers once its certificate has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Between looks at how many connections share the windows.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
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
    answers: Answers,
    started: bool,
}

impl Replier {
    /// Answers. A caller that is gone is no concern of the handler's.
    pub async fn send(mut self, answer: Result<Response, RpcError>) {
        let mut frame = Bytes::from(codec::encode_frame(&answer));
        drop(answer);
        let mut place = None;
        if frame.len() > FREE_ANSWER {
            match self.answers.take(frame.len()) {
                Ok(room) => place = Some(room),
                // The answer goes; that there is one is all that is said.
                Err(busy) => frame = Bytes::from(codec::encode_frame(&Err::<Response, _>(busy))),
            }
        }
        if self.write(frame).await.is_err() || self.send.finish().is_err() {
            return;
        }
        // Bytes that were accepted wait in memory until the peer has it.
        if place.is_some() && tokio::time::timeout(TAKING_NOTHING, self.send.stopped()).await.is_err() {
            let _ = self.send.reset(NOT_READ.into());
        }
    }

    /// Room for the bytes of this answer, to be taken before they are made.
    pub fn answers(&self) -> Answers {
        self.answers.clone()
    }

    /// Answers with a header only; the bytes follow by [`Replier::write`], then [`Replier::finish`].
    pub async fn start(&mut self, response: Response) -> Result<(), RpcError> {
        self.started = true;
        self.write(Bytes::from(codec::encode_frame(&Ok::<_, RpcError>(response)))).await
    }

    /// Sends bulk bytes. A reader that takes none of them for [`TAKING_NOTHING`] gets no more.
    pub async fn write(&mut self, mut part: Bytes) -> Result<(), RpcError> {
        while !part.is_empty() {
            let writing = self.send.write_chunks(std::slice::from_mut(&mut part));
            match tokio::time::timeout(TAKING_NOTHING, writing).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let reason = format!("the caller is gone: {error}");
                    return Err(RpcError::new(ErrorCode::Unreachable, reason));
                }
                Err(_) => {
                    let _ = self.send.reset(NOT_READ.into());
                    let reason = format!("the caller took nothing of its answer for {TAKING_NOTHING:?}");
                    return Err(RpcError::new(ErrorCode::Timeout, reason));
                }
            }
        }
        Ok(())
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
        let holders = Holders::default();
        while let Some(incoming) = self.quinn.accept().await {
            let Some(incoming) = validated(incoming) else { continue };
            let Some(tls) = &self.server_tls else { return };
            let config = server_config(tls, incoming.remote_address().ip(), self.small_buffers, FIRST_WINDOW);
            let serving = Serving {
                cluster: self.cluster(),
                revoked: self.revoked.subscribe(),
                holders: holders.clone(),
                handler: handler.clone(),
            };
            tokio::spawn(async move {
                let from = source(incoming.remote_address().ip());
                let place = serving.holders.handshakes().take(from, false, 1, HANDSHAKE_TURN).await;
                let Ok(shaking) = place else { return incoming.refuse() };
                match incoming.accept_with(Arc::new(config)) {
                    Ok(connecting) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await {
                        Ok(Ok(connection)) => {
                            drop(shaking);
                            serving.connection(connection).await;
                        }
                        Ok(Err(error)) => tracing::info!(%error, "a handshake failed"),
                        Err(_) => tracing::info!("a handshake took too long"),
                    },
                    Err(error) => tracing::info!(%error, "a connection was refused"),
                }
            });
        }
    }
}

/// Judges if a connection is worth a handshake: its address is its own, and has a place among `handshakes`,
/// which it holds from then on.
pub(crate) fn admit(
    incoming: quinn::Incoming,
    handshakes: &Room<IpAddr>,
) -> Option<(quinn::Incoming, Place<IpAddr>)> {
    let incoming = validated(incoming)?;
    match handshakes.try_take(source(incoming.remote_address().ip()), false, 1) {
        Ok(place) => Some((incoming, place)),
        Err(_) => {
            incoming.refuse();
            None
        }
    }
}

/// An address that may be forged gets a token first, and no state of ours.
fn validated(incoming: quinn::Incoming) -> Option<quinn::Incoming> {
    if !incoming.remote_address_validated() && incoming.may_retry() {
        let _ = incoming.retry();
        return None;
    }
    Some(incoming)
}

/// What serving a connection takes.
struct Serving<H> {
    cluster: ClusterId,
    revoked: watch::Receiver<Arc<[Revocation]>>,
    holders: Holders,
    handler: Arc<H>,
}

impl<H: Handler> Serving<H> {
    /// Answers calls until the peer goes, or its certificate ends or is revoked.
    async fn connection(mut self, connection: quinn::Connection) {
        let Some(peer) = peer_of(&connection).filter(|p| p.cluster == self.cluster) else {
            return connection.close(CLOSED_OTHER_CLUSTER.into(), b"another cluster");
        };
        let client = self.holders.client(&peer);
        let Ok((_place, own, all)) = client.connect() else {
            tracing::debug!(peer = %client.holder, "too many connections");
            return connection.close(CLOSED_TOO_MANY.into(), b"too many connections");
        };
        let mut window = first_window_of(own, all);
        set_windows(&connection, window);
        let mut measure = tokio::time::interval_at(Instant::now() + MEASURE_EVERY, MEASURE_EVERY);
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                    let replier = Replier { send, answers: client.answers(), started: false };
                    match client.call() {
                        Ok(place) => {
                            let caller = Caller { peer: peer.clone(), client: client.clone(), _place: place };
                            let handler = self.handler.clone();
                            calls.spawn(serve_call_in_time(replier, receive, caller, handler));
                        }
                        Err(busy) => drop(calls.spawn(refuse_call(replier, receive, busy))),
                    }
                }
                Some(_) = calls.join_next() => {}
                _ = self.revoked.changed() => {}
                _ = measure.tick() => {
                    let (own, all) = client.connections();
                    let before = std::mem::replace(&mut window, window_of(own, all));
                    if before != window {
                        set_windows(&connection, window);
                    }
                }
                () = &mut ends => {
                    if !peer.remaining(now_ms()).is_zero() {
                        ends.as_mut().reset(Instant::now() + peer.remaining(now_ms()).min(LONGEST_SLEEP));
                        continue;
                    }
                    // Who renews in time has made another connection long ago; what is under way here ends
                    // well.
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

/// Bytes on the way on a connection, in either direction.
fn set_windows(connection: &quinn::Connection, window: u64) {
    connection.set_send_window(window);
    connection.set_receive_window(VarInt::from_u32(u32::try_from(window).unwrap_or(u32::MAX)));
}

/// The peer that makes a call, with its place.
struct Caller {
    peer: Peer,
    client: Client,
    _place: Place<Holder>,
}

/// Says that there is no place for a call, to whoever listens.
async fn refuse_call(replier: Replier, mut receive: RecvStream, busy: RpcError) {
    let _ = receive.stop(NOT_READ.into());
    let _ = tokio::time::timeout(REFUSING, replier.send(Err(busy))).await;
}

async fn serve_call_in_time<H: Handler>(
    replier: Replier,
    receive: RecvStream,
    caller: Caller,
    handler: Arc<H>,
) {
    let answering = serve_call(replier, receive, caller, handler);
    if tokio::time::timeout(HANDLER_TIMEOUT, answering).await.is_err() {
        tracing::warn!("a call took longer than {HANDLER_TIMEOUT:?} and was cut off");
    }
}

async fn serve_call<H: Handler>(replier: Replier, mut receive: RecvStream, caller: Caller, handler: Arc<H>) {
    let Caller { peer, client, _place } = caller;
    let reading = read_request(&mut receive, &client);
    let (request, _header) = match tokio::time::timeout(HEADER_TIMEOUT, reading).await {
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

/// The request, with the room that its header has until the call has ended. A claimed length takes none: room
/// is taken a step at a time, before the bytes of the step are read.
async fn read_request(
    receive: &mut RecvStream,
    client: &Client,
) -> Result<(Request, Place<Holder>), RpcError> {
    let bad = |why: String| RpcError::new(ErrorCode::BadRequest, why);
    let mut prefix = [0u8; 4];
    receive.read_exact(&mut prefix).await.map_err(|e| bad(e.to_string()))?;
    let length = codec::check_frame_length(prefix).map_err(|e| bad(e.to_string()))?;
    let place = client.header();
    let mut room = FREE_HEADER;
    let mut bytes = Vec::with_capacity(length.min(room));
    while bytes.len() < length {
        if bytes.len() == room {
            let step = HEADER_STEP.min(length - room);
            place.grow(step as u64).map_err(|refusal| client.no_header(refusal))?;
            bytes.reserve_exact(step);
            room += step;
        }
        let chunk = receive.read_chunk(length.min(room) - bytes.len(), true).await;
        match chunk.map_err(|e| bad(e.to_string()))? {
            Some(chunk) => bytes.extend_from_slice(&chunk.bytes),
            None => return Err(bad("the request ends early".into())),
        }
    }
    let request = codec::decode(&bytes).map_err(|e| bad(e.to_string()))?;
    Ok((request, place))
}

#[cfg(test)]
mod tests;
