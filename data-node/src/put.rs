//! Taking in a chunk: hashed as it comes, relayed to the other slots while it comes, written, promised.
//!
//! Bounds: [`IN_FLIGHT_BYTES`] of chunks at once, half of it for clients' puts and half for relayed ones; a put that finds no room waits
//! [`ROOM_TIMEOUT`] and is then told that the node is busy. A relay holds parts of its own chunk only.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use wmall_proto::chunk::MAX_CHUNK_SIZE;
use wmall_proto::receipt::SignedReceipt;
use wmall_proto::rpc::{Ack, PutOutcome, PutRequest, Request, Response, SlotFailure};
use wmall_proto::{ErrorCode, PgRow, Role, RpcError};
use wmall_runtime::clock::now_ms;
use wmall_transport::{Body, Endpoint, Members, collect};

use crate::disk::{DiskStore, PieceHeader};
use crate::map::{Known, Map};

/// Bytes of chunks that are being taken in.
const IN_FLIGHT_BYTES: usize = 96 << 20;
/// How far ahead a client's clock may be.
const CLOCK_SKEW_MS: u64 = 3_600_000;
/// How long a put waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the bytes of a chunk may take to come.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a relayed put may take in all.
const RELAY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a quorum waits for the slots that are late.
const STRAGGLER_GRACE: Duration = Duration::from_millis(300);

/// What takes in chunks.
pub(crate) struct Intake {
    endpoint: Endpoint,
    map: Arc<Map>,
    disks: Arc<Vec<Arc<DiskStore>>>,
    metadata: Arc<Members>,
    asking: tokio::sync::Mutex<()>,
    room: Arc<Semaphore>,
    /// For what other data nodes relay: a primary waits for its relays, so relays must never wait for
    /// primaries.
    relay_room: Arc<Semaphore>,
}

/// A slot that the chunk is relayed to.
struct Relay {
    parts: mpsc::UnboundedSender<Bytes>,
}

type RelayOutcome = (u8, Result<SignedReceipt, RpcError>);

impl Intake {
    pub(crate) fn new(
        endpoint: Endpoint,
        metadata: Arc<Members>,
        map: Arc<Map>,
        disks: Arc<Vec<Arc<DiskStore>>>,
    ) -> Self {
        let room = || Arc::new(Semaphore::new(IN_FLIGHT_BYTES / 2));
        let asking = tokio::sync::Mutex::new(());
        Self { endpoint, map, disks, metadata, asking, room: room(), relay_room: room() }
    }

    /// Takes in a chunk for one of this node's slots and relays it to those that the caller names.
    pub(crate) async fn put(
        &self,
        from: Role,
        request: PutRequest,
        body: &mut Body,
    ) -> Result<PutOutcome, RpcError> {
        if request.length == 0 || request.length > MAX_CHUNK_SIZE {
            let reason = format!("a chunk of {} bytes; 1 to {MAX_CHUNK_SIZE}", request.length);
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason));
        }
        if from == Role::Data && !request.relay.is_empty() {
            return Err(RpcError::new(ErrorCode::Denied, "a relayed put is not relayed again"));
        }
        let known = self.map_for(&request).await?;
        let row = known.row(request.pool, &request.chunk, request.row_version)?;
        let disk = self.disk_of(row, request.slot)?;
        check_upload(&disk, &request)?;
        disk.check_room()?;
        let room = if from == Role::Data { &self.relay_room } else { &self.room };
        let permit = room.clone().acquire_many_owned(request.length);
        let Ok(Ok(room)) = tokio::time::timeout(ROOM_TIMEOUT, permit).await else {
            return Err(RpcError::new(ErrorCode::Busy, "the data node has too many puts under way"));
        };
        let room = Arc::new(room);
        let mut outcomes = JoinSet::new();
        let mut failures = Vec::new();
        let mut relays = self.start_relays(&request, &known, row, &mut outcomes, &mut failures, &room);
        let receiving = receive(&request, body, &mut relays);
        let late = |_| RpcError::new(ErrorCode::Timeout, "the bytes of the chunk come too slowly");
        let (parts, crc) = tokio::time::timeout(RECEIVE_TIMEOUT, receiving).await.map_err(late)??;
        // Closing the channels tells the relays that all has come, and that it is what it should be.
        drop(relays);
        let header = PieceHeader {
            pool: request.pool,
            chunk: request.chunk,
            slot: request.slot,
            upload: request.upload,
            row_version: request.row_version,
        };
        let mut receipts = vec![write(&disk, header, parts, crc).await?];
        let quorum = known.topology.pools.get(&request.pool).map_or(1, |t| t.pool.scheme.quorum());
        let wanted = if request.ack == Ack::All { usize::MAX } else { quorum };
        await_relays(&mut outcomes, &mut receipts, &mut failures, wanted).await;
        Ok(PutOutcome { receipts, failures })
    }

    /// The node's map.
    pub(crate) fn known(&self) -> Known {
        self.map.get()
    }

    /// The map that the caller placed the chunk by. A caller that knows a later one than this node makes it
    /// ask, rather than wait for the next heartbeat.
    async fn map_for(&self, request: &PutRequest) -> Result<Known, RpcError> {
        let known = self.map.get();
        let row = known.topology.row_of(request.pool, &request.chunk).map(|(_, row)| row.version);
        if row.is_some_and(|version| version >= request.row_version) {
            return Ok(known);
        }
        let _one_at_a_time = self.asking.lock().await;
        let version = known.topology.version;
        if self.map.get().topology.version == version {
            let ask = Request::GetTopology { known: self.map.version() };
            if let Response::Topology(reply) = self.metadata.call(&ask).await? {
                self.map.update(reply);
            }
        }
        Ok(self.map.get())
    }

    fn disk_of(&self, row: &PgRow, slot: u8) -> Result<Arc<DiskStore>, RpcError> {
        let id = row.slots.get(usize::from(slot)).copied();
        let disk = id.and_then(|id| self.disks.iter().find(|d| d.id() == Some(id)));
        let elsewhere = || RpcError::new(ErrorCode::StaleRow, format!("slot {slot} is not on this node"));
        disk.cloned().ok_or_else(elsewhere)
    }

    fn start_relays(
        &self,
        request: &PutRequest,
        known: &Known,
        row: &PgRow,
        outcomes: &mut JoinSet<RelayOutcome>,
        failures: &mut Vec<SlotFailure>,
        room: &Arc<tokio::sync::OwnedSemaphorePermit>,
    ) -> Vec<Relay> {
        let mut relays = Vec::new();
        for &slot in request.relay.iter().take(row.slots.len()) {
            let disk = row.slots.get(usize::from(slot)).copied();
            let unknown = || RpcError::new(ErrorCode::BadRequest, format!("the row has no slot {slot}"));
            let target = match disk.ok_or_else(unknown).and_then(|d| known.target(d)) {
                Ok(target) => target,
                Err(error) => {
                    failures.push(SlotFailure { slot, error });
                    continue;
                }
            };
            let (parts, mut queue) = mpsc::unbounded_channel::<Bytes>();
            let relayed = PutRequest { slot, relay: Vec::new(), ..request.clone() };
            let (endpoint, room) = (self.endpoint.clone(), room.clone());
            outcomes.spawn(async move {
                let _room = room;
                let length = relayed.length as usize;
                let relaying =
                    async {
                        let mut call = endpoint.open(&target, &Request::Put(relayed), RELAY_TIMEOUT).await?;
                        let mut sent = 0;
                        while let Some(part) = queue.recv().await {
                            sent += part.len();
                            call.write(part).await?;
                        }
                        if sent != length {
                            return Err(RpcError::new(ErrorCode::BadRequest, "the chunk did not come whole"));
                        }
                        match call.finish().await?.response {
                            Response::Put(outcome) => outcome.receipts.into_iter().next().ok_or_else(|| {
                                RpcError::internal(format!("{} gave no receipt", target.node))
                            }),
                            _ => Err(RpcError::internal(format!("{} gave another answer", target.node))),
                        }
                    };
                (slot, relaying.await)
            });
            relays.push(Relay { parts });
        }
        relays
    }
}

/// Receives exactly the announced bytes, hands each part to the relays, and checks the hash.
async fn receive(
    request: &PutRequest,
    body: &mut Body,
    relays: &mut Vec<Relay>,
) -> Result<(Vec<Bytes>, u32), RpcError> {
    let mut hasher = blake3::Hasher::new();
    let (mut crc, mut held) = (0, None::<Bytes>);
    let parts = collect(body, request.length as usize, |part: &Bytes| {
        hasher.update(part);
        crc = crc32c::crc32c_append(crc, part);
        // The last part waits for the verdict on the whole, so that no relay completes on bad bytes.
        if let Some(before) = held.replace(part.clone()) {
            for relay in relays.iter() {
                let _ = relay.parts.send(before.clone());
            }
        }
    })
    .await;
    let parts = match parts {
        Ok(parts) if *hasher.finalize().as_bytes() == request.chunk.0 => parts,
        outcome => {
            relays.clear();
            let wrong = || RpcError::new(ErrorCode::HashMismatch, "the bytes are not those of the chunk");
            return Err(outcome.err().unwrap_or_else(wrong));
        }
    };
    for (relay, last) in relays.iter().zip(std::iter::repeat(held)) {
        let _ = last.map(|part| relay.parts.send(part));
    }
    Ok((parts, crc))
}

/// An upload that is fenced will not commit, and one from the future would not be fenced when it should.
fn check_upload(disk: &DiskStore, request: &PutRequest) -> Result<(), RpcError> {
    let started = request.upload.started_ms();
    if started < disk.fenced_before_ms() {
        let reason = format!("upload {} began too long ago", request.upload);
        return Err(RpcError::new(ErrorCode::UploadFenced, reason)
            .hint("put the file again; check this machine's clock"));
    }
    if started > now_ms().saturating_add(CLOCK_SKEW_MS) {
        let reason = format!("upload {} begins more than an hour from now", request.upload);
        return Err(RpcError::new(ErrorCode::BadRequest, reason).hint("check this machine's clock"));
    }
    Ok(())
}

/// Writes the piece, or claims the good one that is there already.
async fn write(
    disk: &Arc<DiskStore>,
    header: PieceHeader,
    parts: Vec<Bytes>,
    crc: u32,
) -> Result<SignedReceipt, RpcError> {
    if disk.locate(&header.key())?.is_some()
        && let Some(receipt) = disk.stamp(header).await?
    {
        return Ok(receipt);
    }
    disk.put(header, parts, crc).await
}

/// Gathers receipts until `wanted` are there and the rest had its grace, or all have ended.
async fn await_relays(
    outcomes: &mut JoinSet<RelayOutcome>,
    receipts: &mut Vec<SignedReceipt>,
    failures: &mut Vec<SlotFailure>,
    wanted: usize,
) {
    loop {
        let enough = receipts.len() >= wanted;
        let next = outcomes.join_next();
        let joined = if enough {
            match tokio::time::timeout(STRAGGLER_GRACE, next).await {
                Ok(joined) => joined,
                // Late ones go on by themselves; their pieces become tickets and are found there.
                Err(_) => {
                    outcomes.detach_all();
                    return;
                }
            }
        } else {
            next.await
        };
        match joined {
            Some(Ok((_, Ok(receipt)))) => receipts.push(receipt),
            Some(Ok((slot, Err(error)))) => failures.push(SlotFailure { slot, error }),
            Some(Err(_)) => {}
            None => return,
        }
    }
}
