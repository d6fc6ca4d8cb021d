//! Answers calls. Reads go to the page cache or the disk on blocking threads, at most [`READS`] at once.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use wmall_proto::challenge::Challenge;
use wmall_proto::chunk::PieceDigest;
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::{PieceCheck, ReadRequest, Request, Response, TopologyReply};
use wmall_proto::{ChunkId, DiskId, ErrorCode, NodeName, PoolId, Role, RpcError};
use wmall_runtime::metrics::CallMetrics;
use wmall_transport::{Handler, Incoming, Replier};

use crate::challenge;
use crate::disk::{DiskStore, Located};
use crate::inventory;
use crate::put::Intake;
use crate::traffic::Traffic;

/// Reads under way.
const READS: usize = 64;
/// Bytes that are read and sent at once.
const READ_PART: usize = 1 << 20;

/// A piece that turned out to be bad.
pub(crate) type BadPiece = (Arc<DiskStore>, PoolId, ChunkId);

/// Everything a call may need.
pub(crate) struct Service {
    pub(crate) disks: Arc<Vec<Arc<DiskStore>>>,
    pub(crate) intake: Intake,
    pub(crate) reads: Arc<Semaphore>,
    pub(crate) calls: Option<CallMetrics>,
    pub(crate) bad: mpsc::Sender<BadPiece>,
    pub(crate) traffic: Arc<Traffic>,
}

impl Service {
    pub(crate) fn read_places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(READS))
    }

    /// The disk that has a piece of this chunk, of this slot if one is named. Copies are the same in every slot.
    /// The piece on the disk that was asked for, and on whichever has one if none was. A disk whose number is not known yet
    /// may be that one.
    fn find(
        &self,
        key: &PoolChunk,
        disk: Option<DiskId>,
        slot: Option<u8>,
    ) -> Result<Option<(Arc<DiskStore>, Located)>, RpcError> {
        let asked = |store: &&Arc<DiskStore>| disk.is_none() || store.id().is_none_or(|id| Some(id) == disk);
        for disk in self.disks.iter().filter(asked) {
            let fits = |l: &Located| slot.is_none_or(|slot| l.fits(slot));
            if let Some(located) = disk.locate(key)?.filter(fits) {
                return Ok(Some((disk.clone(), located)));
            }
        }
        Ok(None)
    }

    async fn read(
        &self,
        by: &NodeName,
        request: &ReadRequest,
        replier: &mut Replier,
    ) -> Result<(), RpcError> {
        let key = PoolChunk { pool: request.pool, chunk: request.chunk };
        self.deny(&key)?;
        let found = self.find(&key, request.disk, request.slot)?;
        let missing = || {
            self.report_if_ours(by, key, request.disk, request.slot);
            RpcError::not_found(format!("piece of chunk {} on this node", request.chunk))
        };
        let (disk, located) = found.ok_or_else(missing)?;
        let left = located.length.checked_sub(request.offset).ok_or_else(|| {
            let reason = format!("offset {} in a piece of {} bytes", request.offset, located.length);
            RpcError::new(ErrorCode::RangeOutOfBounds, reason)
        })?;
        let length = left.min(request.length);
        // The first part is read before anything is said, so that a disk's error is still an answer.
        let mut at = request.offset;
        let end = request.offset + length;
        let mut next = self.read_part(&key, &disk, located, at, end).await?;
        replier.start(Response::Piece { length, piece_length: located.length }).await?;
        while let Some(part) = next.take() {
            at += part.len() as u32;
            // Reading ahead by one part keeps disk and network busy together.
            let (sent, read) =
                tokio::join!(replier.write(part), self.read_part(&key, &disk, located, at, end));
            sent?;
            next = read?;
        }
        Ok(())
    }

    /// A piece is denied that is here: a lie, of which there is none but in tests.
    fn deny(&self, key: &PoolChunk) -> Result<(), RpcError> {
        #[cfg(feature = "testing")]
        if crate::lies::told().withhold {
            return Err(RpcError::not_found(format!("piece of chunk {} on this node", key.chunk)));
        }
        let _ = key;
        Ok(())
    }

    async fn challenge(&self, challenge: Challenge) -> Result<Response, RpcError> {
        let key = PoolChunk { pool: challenge.pool, chunk: challenge.chunk };
        self.deny(&key)?;
        let disk = self.disk(challenge.disk)?.clone();
        let stopping = |_| RpcError::new(ErrorCode::ShuttingDown, "the data node is stopping");
        let _place = self.reads.acquire().await.map_err(stopping)?;
        let store = disk.clone();
        let answering = move || challenge::answer(&store, &challenge);
        let answer = tokio::task::spawn_blocking(answering).await.map_err(RpcError::internal)?;
        if answer.as_ref().is_err_and(|e| e.code == ErrorCode::Corrupt) {
            self.report(disk, key.pool, key.chunk);
        }
        #[cfg(feature = "testing")]
        let answer = answer.map(|mut answer| {
            if crate::lies::told().wrong_bytes
                && let Some(byte) = answer.proof.bytes.first_mut()
            {
                *byte ^= 1;
            }
            answer
        });
        answer.map(Response::Challenged)
    }

    fn disk(&self, id: DiskId) -> Result<&Arc<DiskStore>, RpcError> {
        let disk = self.disks.iter().find(|d| d.id() == Some(id));
        disk.ok_or_else(|| match self.disks.iter().all(|d| d.id().is_some()) {
            true => RpcError::not_found(id),
            false => RpcError::new(ErrorCode::Busy, "the node is not registered yet"),
        })
    }

    fn attest(
        &self,
        by: &NodeName,
        key: PoolChunk,
        (disk, slot): (DiskId, u8),
        nonce: [u8; 16],
    ) -> Result<Response, RpcError> {
        let signed = self.disk(disk)?.attest(&key, slot, nonce)?;
        let missing = || {
            self.report_if_ours(by, key, Some(disk), Some(slot));
            RpcError::not_found(format!("piece of chunk {} on {disk}", key.chunk))
        };
        signed.map(Response::Attested).ok_or_else(missing)
    }

    async fn check(
        &self,
        by: &NodeName,
        key: PoolChunk,
        disk: Option<DiskId>,
        slot: Option<u8>,
        digest: Option<PieceDigest>,
    ) -> Result<Response, RpcError> {
        let Some((disk, located)) = self.find(&key, disk, slot)? else {
            self.report_if_ours(by, key, disk, slot);
            return Ok(Response::Checked(PieceCheck::Absent));
        };
        let stopping = |_| RpcError::new(ErrorCode::ShuttingDown, "the data node is stopping");
        let _place = self.reads.acquire().await.map_err(stopping)?;
        let store = disk.clone();
        let looked = tokio::task::spawn_blocking(move || store.check(&key)).await;
        let mut found = looked.map_err(RpcError::internal)??;
        // A shard that is what its own header says may be another one than was committed. Whoever lies here makes the disk
        // look once more: it holds the shard against what the metadata nodes say.
        if found == PieceCheck::Good
            && digest.is_some_and(|d| located.shard.is_some() && d != located.digest(&key))
        {
            found = PieceCheck::Bad;
        }
        if found == PieceCheck::Bad {
            tracing::error!(disk = %disk.name, chunk = %key.chunk, "a piece is rotten");
            self.report(disk, key.pool, key.chunk);
        }
        Ok(Response::Checked(found))
    }

    /// A full queue is no loss: whoever reads the piece next reports it again.
    fn report(&self, disk: Arc<DiskStore>, pool: PoolId, chunk: ChunkId) {
        let _ = self.bad.try_send((disk, pool, chunk));
    }

    /// A piece is not here. If the row says that it should be, the metadata nodes decide whether its chunk
    /// is committed at all, and only then make a ticket of it. A slot that is another node's is no business of ours,
    /// and one that is not vouched for is being looked through anyway.
    fn report_if_ours(&self, by: &NodeName, key: PoolChunk, disk: Option<DiskId>, slot: Option<u8>) {
        let known = self.intake.known();
        let Some((_, row)) = known.topology.row_of(key.pool, &key.chunk) else { return };
        let striped = known.topology.pools.get(&key.pool).is_some_and(|t| t.pool.scheme.is_striped());
        let ours = |store: &&Arc<DiskStore>| {
            let id = store.id().filter(|&id| disk.is_none_or(|disk| disk == id));
            let own = id.and_then(|id| row.slot_of(id));
            own.is_some_and(|own| {
                row.dirty_at[usize::from(own)].is_none() && (!striped || slot.is_none_or(|slot| slot == own))
            })
        };
        if let Some(disk) = self.disks.iter().find(ours) {
            disk.lacks(key, by);
        }
    }

    /// Reads the next part; the place among the readers is held no longer than that, however slowly the
    /// caller takes it. A piece that cannot be read is reported like a rotten one.
    async fn read_part(
        &self,
        key: &PoolChunk,
        disk: &Arc<DiskStore>,
        located: Located,
        at: u32,
        end: u32,
    ) -> Result<Option<Bytes>, RpcError> {
        if at >= end {
            return Ok(None);
        }
        let stopping = |_| RpcError::new(ErrorCode::ShuttingDown, "the data node is stopping");
        let _place = self.reads.acquire().await.map_err(stopping)?;
        let (store, key) = (disk.clone(), *key);
        let reading = tokio::task::spawn_blocking(move || {
            let length = READ_PART.min((end - at) as usize);
            let first = store.read(&located, at, length);
            // It may have been moved, and its old place removed, since it was found.
            let read = match (&first, store.locate(&key)) {
                (Err(_), Ok(Some(now))) if now.position != located.position => store.read(&now, at, length),
                _ => first,
            };
            read.map(Bytes::from)
        });
        let failed = |why: String| RpcError::new(ErrorCode::Corrupt, format!("disk {}: {why}", disk.name));
        let read = reading.await.map_err(|e| failed(e.to_string()))?;
        #[cfg(feature = "testing")]
        let read = read.map(|bytes| if crate::lies::told().wrong_bytes { flipped(&bytes) } else { bytes });
        read.map(Some).map_err(|error| {
            tracing::error!(%error, disk = %disk.name, chunk = %key.chunk, "a piece cannot be read");
            self.report(disk.clone(), key.pool, key.chunk);
            failed(error.to_string())
        })
    }
}

#[cfg(feature = "testing")]
fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes.iter_mut().take(1).for_each(|b| *b ^= 1);
    bytes.into()
}

impl Handler for Service {
    async fn handle(&self, call: Incoming) {
        let Incoming { peer, request, mut body, mut replier } = call;
        let (kind, started) = (request.kind(), Instant::now());
        // Relays are part of a client's put; reads by other data nodes are backfill themselves.
        // Calls of metadata nodes are no client's business either.
        if !matches!(peer.role, Role::Data | Role::Metadata) || matches!(request, Request::Put(_)) {
            self.traffic.note(started);
        }
        let ok = match request {
            Request::Put(put) => {
                let answer = self.intake.put(peer.role, put, &mut body).await.map(Response::Put);
                let ok = answer.is_ok();
                replier.send(answer).await;
                ok
            }
            Request::ReadPiece(read) => {
                let sent = self.read(&peer.node, &read, &mut replier).await;
                replier.conclude(sent).await
            }
            Request::Attest { disk, slot, pool, chunk, nonce } => {
                let answer = self.attest(&peer.node, PoolChunk { pool, chunk }, (disk, slot), nonce);
                let ok = answer.is_ok();
                replier.send(answer).await;
                ok
            }
            Request::Challenge(challenge) => {
                let answer = self.challenge(challenge).await;
                let ok = answer.is_ok();
                replier.send(answer).await;
                ok
            }
            Request::GetTopology { known } => {
                let map = self.intake.known().topology;
                let topology = (map.version > known).then(|| Box::new((*map).clone()));
                let reply = TopologyReply { topology, suspects: None, now_ms: self.intake.now_ms() };
                replier.send(Ok(Response::Topology(reply))).await;
                true
            }
            Request::ListPieces { disk, after } => {
                let disks = self.disks.clone();
                let listing = move || inventory::page(&disks, disk, after.as_ref());
                let listed = tokio::task::spawn_blocking(listing).await.map_err(RpcError::internal);
                let answer = listed.and_then(|page| page).map(Response::Pieces);
                let ok = answer.is_ok();
                replier.send(answer).await;
                ok
            }
            Request::CheckPiece { pool, chunk, disk, slot, digest } => {
                let answer = self.check(&peer.node, PoolChunk { pool, chunk }, disk, slot, digest).await;
                let ok = answer.is_ok();
                replier.send(answer).await;
                ok
            }
            _ => {
                let reason = "a data node keeps no metadata; this call is for a metadata node";
                replier.send(Err(RpcError::new(ErrorCode::BadRequest, reason))).await;
                false
            }
        };
        if let Some(calls) = &self.calls {
            calls.record(kind.as_str(), ok, started);
        }
    }
}
