//! Taking in a chunk: hashed as it comes, relayed to the other slots while it comes, written, promised.
//!
//! Copies are relayed while the chunk comes. Shards are made here, once the whole chunk is known to be what
//! it should be.
//!
//! Bounds: the room of chunks and their pieces that are under way (`room.rs`), one for clients' puts and one
//! for relayed ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wmall_manifest::Stripe;
use wmall_proto::chunk::{MAX_CHUNK_SIZE, Shard};
use wmall_proto::clock::UPLOAD_SKEW_MS;
use wmall_proto::receipt::SignedReceipt;
use wmall_proto::rpc::{Ack, PutOutcome, PutRequest, Request, Response};
use wmall_proto::{ErrorCode, PgRow, Role, RpcError, Scheme};
use wmall_transport::{Body, Endpoint, Holder, Members, check_length};

use crate::disk::{DiskStore, Look, PieceHeader, PieceState};
use crate::map::{Known, Map};
use crate::relay::Relays;
use crate::room::{Berth, IntakeRoom, LOOK, STEP};

/// How long the bytes of a chunk may take to come.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What takes in chunks.
pub(crate) struct Intake {
    endpoint: Endpoint,
    map: Arc<Map>,
    disks: Arc<Vec<Arc<DiskStore>>>,
    metadata: Arc<Members>,
    asking: tokio::sync::Mutex<()>,
    room: Arc<IntakeRoom>,
    /// For what other data nodes relay: a primary waits for its relays, so relays must never wait for
    /// primaries.
    relay_room: Arc<IntakeRoom>,
}

impl Intake {
    pub(crate) fn new(
        endpoint: Endpoint,
        metadata: Arc<Members>,
        map: Arc<Map>,
        disks: Arc<Vec<Arc<DiskStore>>>,
    ) -> Self {
        let (room, relay_room) = (IntakeRoom::of_users(), IntakeRoom::of_relays());
        let asking = tokio::sync::Mutex::new(());
        Self { endpoint, map, disks, metadata, asking, room, relay_room }
    }

    /// Takes in a chunk for one of this node's slots and relays it to those that the caller names.
    pub(crate) async fn put(
        &self,
        holder: &Holder,
        request: PutRequest,
        body: &mut Body,
    ) -> Result<PutOutcome, RpcError> {
        let from = holder.role;
        if request.length == 0 || request.length > MAX_CHUNK_SIZE {
            let reason = format!("a chunk of {} bytes; 1 to {MAX_CHUNK_SIZE}", request.length);
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason));
        }
        if from == Role::Data && !request.relay.is_empty() {
            return Err(RpcError::new(ErrorCode::Denied, "a relayed put is not relayed again"));
        }
        let begun = Instant::now();
        self.map.check_level(from)?;
        let known = self.map_for(&request).await?;
        let row = known.row(request.pool, &request.chunk, request.row_version)?;
        let scheme = known.topology.pools.get(&request.pool).map(|t| t.pool.scheme);
        let scheme = scheme.ok_or_else(|| RpcError::internal("a row without its pool"))?;
        check_form(from, &request, scheme)?;
        let disk = self.disk_of(row, request.slot)?;
        check_upload(&disk, &request, self.map.now_ms())?;
        disk.check_room()?;
        let cuts = scheme.is_striped() && request.shard.is_none();
        let pieces = if cuts { scheme.stored_bytes(u64::from(request.length)) } else { 0 };
        let room = if from == Role::Data { &self.relay_room } else { &self.room };
        let berth = room.begin(holder, u64::from(request.length) + pieces).await?;
        let mut relays = Relays::new(self.endpoint.clone(), berth.clone(), begun);
        let (shard, parts, crc) = if cuts {
            let chunk = receive(&request, body, &relays, &berth).await?;
            berth.reach(u64::from(request.length) + pieces).await;
            let (pieces, shards) = cut(scheme, chunk.parts).await?;
            relays.start(&request, scheme.piece_length(request.length), (&known, row), &shards);
            relays.feed_each(&pieces);
            let own = usize::from(request.slot);
            let piece =
                pieces.get(own).cloned().ok_or_else(|| RpcError::internal("a slot without a piece"))?;
            let crc = crc32c::crc32c(&piece);
            (shards.get(own).copied(), vec![piece], crc)
        } else {
            relays.start(&request, request.length, (&known, row), &[]);
            let Received { parts, crc } = receive(&request, body, &relays, &berth).await?;
            (request.shard, parts, crc)
        };
        berth.has_all();
        relays.close();
        let header = PieceHeader {
            pool: request.pool,
            chunk: request.chunk,
            slot: request.slot,
            upload: request.upload,
            row_version: request.row_version,
            shard,
        };
        let cold = !scheme.is_asked_first(&request.chunk, request.slot);
        relays.write_own(request.slot, async move { write(&disk, header, (parts, crc), cold, cuts).await });
        let wanted = if request.ack == Ack::All { usize::MAX } else { scheme.quorum() };
        let (receipts, failures) = relays.receipts(wanted).await;
        // A disk of its own that refused is the put's error; one that is late is a slot like another.
        let own = failures.iter().find(|f| f.slot == request.slot);
        match own.filter(|f| f.error.code != ErrorCode::Timeout || receipts.is_empty()) {
            Some(refused) => Err(refused.error.clone()),
            None => Ok(PutOutcome { receipts, failures }),
        }
    }

    /// The cluster's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.map.now_ms()
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
                self.map.update(reply)?;
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
}

/// The bytes of a put, hashed.
struct Received {
    parts: Vec<Bytes>,
    crc: u32,
}

/// Receives exactly the announced bytes in time, hands each part to the relays, and checks the hash.
async fn receive(
    request: &PutRequest,
    body: &mut Body,
    relays: &Relays,
    berth: &Berth,
) -> Result<Received, RpcError> {
    let mut hasher = blake3::Hasher::new();
    let (mut crc, mut held) = (0, None::<Bytes>);
    let receiving = take_in(body, request.length as usize, berth, |part: &Bytes| {
        hasher.update(part);
        crc = crc32c::crc32c_append(crc, part);
        // The last part waits for the verdict on the whole, so that no relay completes on bad bytes.
        if let Some(before) = held.replace(part.clone()) {
            relays.feed_all(&before);
        }
    });
    let late = |_| RpcError::new(ErrorCode::Timeout, "the bytes of the chunk come too slowly");
    let parts = tokio::time::timeout(RECEIVE_TIMEOUT, receiving).await.map_err(late)??;
    let digest = request.shard.map_or(request.chunk.0, |s| s.digest);
    if *hasher.finalize().as_bytes() != digest {
        return Err(RpcError::new(ErrorCode::HashMismatch, "the bytes are not those of the chunk"));
    }
    held.iter().for_each(|last| relays.feed_all(last));
    Ok(Received { parts, crc })
}

/// Reads what was announced, never more than there is room for, and gives up on a sender that is too slow for
/// others.
async fn take_in(
    body: &mut Body,
    length: usize,
    berth: &Berth,
    mut each: impl FnMut(&Bytes) + Send,
) -> Result<Vec<Bytes>, RpcError> {
    let (mut parts, mut received, mut room) = (Vec::new(), 0, 0);
    loop {
        if received == room && room < length {
            room = length.min(room + STEP);
            berth.reach(room as u64).await;
        }
        // One byte beyond the end would be one too many, and is asked for so that it is seen.
        let most = (room - received).max(1);
        let next = match tokio::time::timeout(LOOK, body.next_of(most)).await {
            Ok(next) => next?,
            Err(_) => {
                berth.check_pace(received as u64)?;
                continue;
            }
        };
        berth.check_pace(received as u64)?;
        let Some(part) = next else { break };
        received += part.len();
        if received > length {
            break;
        }
        each(&part);
        parts.push(part);
    }
    check_length(received, length).map(|()| parts)
}

/// Cuts a chunk that is known to be what it should be, on a thread that may work for long.
async fn cut(scheme: Scheme, chunk: Vec<Bytes>) -> Result<(Vec<Bytes>, Vec<Shard>), RpcError> {
    let cutting = move || {
        let chunk_length = chunk.iter().map(Bytes::len).sum::<usize>() as u32;
        let stripe = Stripe::new(scheme).map_err(|e| RpcError::new(ErrorCode::Unsupported, e.to_string()))?;
        let cut = stripe.cut_and_hash(&chunk).map_err(RpcError::internal)?;
        Ok(cut.into_iter().map(|(piece, digest)| (piece, Shard { digest, chunk_length })).unzip())
    };
    tokio::task::spawn_blocking(cutting).await.map_err(RpcError::internal)?
}

/// Clients send chunks, and data nodes what the pool keeps: copies or shards.
fn check_form(from: Role, request: &PutRequest, scheme: Scheme) -> Result<(), RpcError> {
    let wrong = |reason: &str| Err(RpcError::new(ErrorCode::BadRequest, reason));
    match request.shard {
        Some(_) if from != Role::Data => Err(RpcError::new(ErrorCode::Denied, "clients never supply shards")),
        Some(_) if !scheme.is_striped() => wrong("a shard for a pool that keeps copies"),
        Some(shard) if scheme.piece_length(shard.chunk_length) != request.length => {
            wrong("a shard of a length that its chunk's shards don't have")
        }
        Some(shard) if shard.chunk_length > MAX_CHUNK_SIZE => wrong("a shard of a chunk that is too long"),
        None if from == Role::Data && scheme.is_striped() => wrong("a chunk that should have been cut"),
        _ => Ok(()),
    }
}

/// An upload that is fenced will not commit, and one from the future would not be fenced when it should.
fn check_upload(disk: &DiskStore, request: &PutRequest, now_ms: u64) -> Result<(), RpcError> {
    let started = request.upload.started_ms();
    if started < disk.fenced_before_ms() {
        let reason = format!("upload {} began too long ago", request.upload);
        return Err(RpcError::new(ErrorCode::UploadFenced, reason).hint("put the file again"));
    }
    if started > now_ms.saturating_add(UPLOAD_SKEW_MS) {
        let reason = format!("upload {} begins more than an hour from now", request.upload);
        return Err(RpcError::new(ErrorCode::BadRequest, reason)
            .hint("begin uploads by the cluster's clock, which comes with the map"));
    }
    Ok(())
}

/// Writes the piece, or promises the good one that is there already. `certain` says that this node has cut
/// the chunk itself, and so knows that the piece is the only right one.
async fn write(
    disk: &Arc<DiskStore>,
    header: PieceHeader,
    (parts, crc): (Vec<Bytes>, u32),
    cold: bool,
    certain: bool,
) -> Result<SignedReceipt, RpcError> {
    let Some(there) = disk.locate(&header.key())? else {
        return disk.put(header, parts, crc, cold).await;
    };
    if let Some(receipt) = disk.stamp(header).await? {
        return Ok(receipt);
    }
    // Cutting a chunk has one result. Of two shards for one slot one is wrong, and which, this node can't
    // tell unless it has cut the chunk itself: then no commit stands on the one that was staged before,
    // whoever was promised it. Otherwise that one stays, as long as it is what it was, and whoever brings the
    // whole chunk here settles it.
    let differs =
        header.shard.is_some() && there.slot == header.slot && there.digest(&header.key()) != header.digest();
    if differs && certain && there.state == PieceState::Staged {
        tracing::warn!(disk = %disk.name, chunk = %header.chunk, "a wrong shard that was staged is replaced");
        disk.note_replaced(header.key());
    } else if differs && let Look::Good(_) = disk.look_in_turn(header.key()).await? {
        let reason = format!("slot {} of chunk {} has another shard already", header.slot, header.chunk);
        return Err(RpcError::new(ErrorCode::BadReceipt, reason));
    }
    disk.put(header, parts, crc, cold).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiskConfig;
    use crate::disk::Superblock;
    use wmall_proto::feed::FeedItem;
    use wmall_proto::topology::ClusterId;
    use wmall_proto::{ChunkId, DiskId, PoolId, UploadId};

    const CHUNK: ChunkId = ChunkId([7; 32]);

    fn shard(content: &[u8]) -> PieceHeader {
        let shard = Shard { digest: *blake3::hash(content).as_bytes(), chunk_length: 64 };
        let upload = UploadId::new(5, [1; 10]);
        PieceHeader { pool: PoolId(1), chunk: CHUNK, slot: 2, upload, row_version: 1, shard: Some(shard) }
    }

    async fn write_shard(
        disk: &Arc<DiskStore>,
        content: &'static [u8],
        certain: bool,
    ) -> Result<[u8; 32], ErrorCode> {
        let parts = (vec![Bytes::from_static(content)], crc32c::crc32c(content));
        let written = write(disk, shard(content), parts, false, certain).await;
        written.map(|signed| signed.receipt.digest).map_err(|e| e.code)
    }

    fn held(disk: &DiskStore) -> [u8; 32] {
        let key = shard(b"").key();
        disk.locate(&key).unwrap().unwrap().digest(&key)
    }

    #[tokio::test]
    async fn a_shard_that_is_known_to_be_right_replaces_a_staged_one_and_no_committed_one() {
        let folder = tempfile::tempdir().unwrap();
        Superblock::format(folder.path()).unwrap();
        let (name, path) = ("d1".parse().unwrap(), folder.path().to_path_buf());
        let config = DiskConfig { name, path, max_bytes: 256 << 20, weight: 100 };
        let disk = Arc::new(DiskStore::open(&config, ClusterId([1; 16])).unwrap());
        disk.set_id(DiskId(4));
        let digest = |content: &[u8]| *blake3::hash(content).as_bytes();
        assert_eq!(write_shard(&disk, b"staged first", false).await, Ok(digest(b"staged first")));
        let relayed = write_shard(&disk, b"relayed", false).await;
        assert_eq!((relayed, held(&disk)), (Err(ErrorCode::BadReceipt), digest(b"staged first")));
        assert_eq!(write_shard(&disk, b"right", true).await, Ok(digest(b"right")));
        assert_eq!(held(&disk), digest(b"right"));
        // A commit that stands on the promise of before is held against what is here now.
        let chunk = shard(b"").key();
        disk.follow(vec![FeedItem::Committed { chunk, counted: vec![DiskId(4)] }], None);
        let deadline = Instant::now() + Duration::from_secs(10);
        let doubted = loop {
            match disk.take_doubted(9) {
                none if none.is_empty() => tokio::task::yield_now().await,
                some => break some,
            }
            assert!(Instant::now() < deadline, "the commit is not noticed");
        };
        assert_eq!(
            doubted.iter().map(|d| (d.key, d.slot, d.digest)).collect::<Vec<_>>(),
            [(chunk, 2, digest(b"right"))]
        );
        assert_eq!(write_shard(&disk, b"another", true).await, Err(ErrorCode::BadReceipt), "it is committed");
        assert_eq!(held(&disk), digest(b"right"));
    }
}
