//! A primary's relays: one task for each other slot, fed while the chunk comes (copies) or once it is cut
//! (shards), and one that writes its own piece, whose disk may hang like any other.
//!
//! Bounds: a relay holds parts of its own chunk only, for which its put has taken room, and ends after
//! [`RELAY_TIMEOUT`]; so does the wait for the disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wmall_proto::chunk::Shard;
use wmall_proto::receipt::SignedReceipt;
use wmall_proto::rpc::{PutRequest, Request, Response, SlotFailure};
use wmall_proto::{ErrorCode, PgRow, RpcError};
use wmall_transport::{Endpoint, Target};

use crate::map::Known;
use crate::room::Berth;

/// How long a put with its relays may take, from its beginning: less than the client waits for its answer.
const RELAY_TIMEOUT: Duration = Duration::from_secs(10);
/// What a relay has at least, however late it begins.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a quorum waits for the slots that are late.
const STRAGGLER_GRACE: Duration = Duration::from_millis(300);

/// The relays of one put.
pub(crate) struct Relays {
    endpoint: Endpoint,
    /// Kept by every relay until it ends.
    room: Arc<Berth>,
    begun: Instant,
    feeds: Vec<Feed>,
    running: JoinSet<(u8, Result<SignedReceipt, RpcError>)>,
    failures: Vec<SlotFailure>,
}

/// What a relay is fed through. Dropped, it tells the relay that all has come.
struct Feed {
    slot: u8,
    parts: mpsc::UnboundedSender<Bytes>,
}

impl Relays {
    pub(crate) fn new(endpoint: Endpoint, room: Arc<Berth>, begun: Instant) -> Self {
        Self { endpoint, room, begun, feeds: Vec::new(), running: JoinSet::new(), failures: Vec::new() }
    }

    /// Starts a relay for each slot that the request names, of `length` bytes: of the chunk itself, or of the
    /// slot's own shard.
    pub(crate) fn start(
        &mut self,
        request: &PutRequest,
        length: u32,
        (known, row): (&Known, &PgRow),
        shards: &[Shard],
    ) {
        for &slot in request.relay.iter().take(row.slots.len()) {
            let disk = row.slots.get(usize::from(slot)).copied();
            let unknown = || RpcError::new(ErrorCode::BadRequest, format!("the row has no slot {slot}"));
            match disk.ok_or_else(unknown).and_then(|d| known.target(d)) {
                Ok(target) => {
                    let shard = shards.get(usize::from(slot)).copied();
                    let relayed = PutRequest { slot, length, shard, relay: Vec::new(), ..request.clone() };
                    self.spawn(target, relayed);
                }
                Err(error) => self.failures.push(SlotFailure { slot, error }),
            }
        }
    }

    fn spawn(&mut self, target: Target, relayed: PutRequest) {
        let (slot, endpoint, room) = (relayed.slot, self.endpoint.clone(), self.room.clone());
        let (parts, queue) = mpsc::unbounded_channel::<Bytes>();
        let timeout = self.time_left();
        self.running.spawn(async move {
            let _room = room;
            (slot, relay(&endpoint, &target, relayed, queue, timeout).await)
        });
        self.feeds.push(Feed { slot, parts });
    }

    fn time_left(&self) -> Duration {
        RELAY_TIMEOUT.saturating_sub(self.begun.elapsed()).max(LEAST_TIMEOUT)
    }

    /// Writes the piece of the primary's own slot beside the relays. One whose disk is late goes on by
    /// itself.
    pub(crate) fn write_own(
        &mut self,
        slot: u8,
        writing: impl Future<Output = Result<SignedReceipt, RpcError>> + Send + 'static,
    ) {
        let (room, timeout) = (self.room.clone(), self.time_left());
        self.running.spawn(async move {
            let _room = room;
            let late = |_| RpcError::new(ErrorCode::Timeout, "the primary's own disk is late");
            (slot, tokio::time::timeout(timeout, writing).await.map_err(late).flatten())
        });
    }

    /// Hands a part to all of them.
    pub(crate) fn feed_all(&self, part: &Bytes) {
        for feed in &self.feeds {
            let _ = feed.parts.send(part.clone());
        }
    }

    /// Hands each its own piece.
    pub(crate) fn feed_each(&self, pieces: &[Bytes]) {
        for feed in &self.feeds {
            let _ = pieces.get(usize::from(feed.slot)).map(|piece| feed.parts.send(piece.clone()));
        }
    }

    /// Tells them that all has come.
    pub(crate) fn close(&mut self) {
        self.feeds.clear();
    }

    /// Gathers receipts until `wanted` are there and the rest had its grace, or all have ended.
    pub(crate) async fn receipts(mut self, wanted: usize) -> (Vec<SignedReceipt>, Vec<SlotFailure>) {
        let mut receipts = Vec::new();
        loop {
            let enough = receipts.len() >= wanted;
            let next = self.running.join_next();
            let joined = if enough {
                match tokio::time::timeout(STRAGGLER_GRACE, next).await {
                    Ok(joined) => joined,
                    // Late ones go on by themselves; their pieces become tickets and are found there.
                    Err(_) => {
                        self.running.detach_all();
                        return (receipts, self.failures);
                    }
                }
            } else {
                next.await
            };
            match joined {
                Some(Ok((_, Ok(receipt)))) => receipts.push(receipt),
                Some(Ok((slot, Err(error)))) => self.failures.push(SlotFailure { slot, error }),
                Some(Err(_)) => {}
                None => return (receipts, self.failures),
            }
        }
    }
}

async fn relay(
    endpoint: &Endpoint,
    target: &Target,
    relayed: PutRequest,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    timeout: Duration,
) -> Result<SignedReceipt, RpcError> {
    let length = relayed.length as usize;
    let mut call = endpoint.open(target, &Request::Put(relayed), timeout).await?;
    let mut sent = 0;
    while let Some(part) = queue.recv().await {
        sent += part.len();
        call.write(part).await?;
    }
    if sent != length {
        return Err(RpcError::new(ErrorCode::BadRequest, "the chunk did not come whole"));
    }
    match call.finish().await?.response {
        Response::Put(outcome) => {
            let none = || RpcError::internal(format!("{} gave no receipt", target.node));
            outcome.receipts.into_iter().next().ok_or_else(none)
        }
        _ => Err(RpcError::internal(format!("{} gave another answer", target.node))),
    }
}
