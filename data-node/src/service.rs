//! Answers calls. Reads go to the page cache or the disk on blocking threads, as many at once as [`READS`]
//! says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use wmall_journal::Trouble;
use wmall_proto::challenge::Challenge;
use wmall_proto::chunk::PieceDigest;
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::{DoubtedPiece, PieceCheck, ReadRequest, Request, Response, TopologyReply};
use wmall_proto::{DiskId, ErrorCode, NodeName, Role, RpcError};
use wmall_runtime::metrics::CallMetrics;
use wmall_transport::{
    Answers, Bounds, Handler, Holder, Incoming, Place, Rate, Rates, Replier, Room, is_privileged,
};

use crate::challenge;
use crate::disk::{DiskStore, Located, starved};
use crate::inventory;
use crate::put::Intake;
use crate::traffic::Traffic;

/// Parts that are read at once.
const READS: Bounds = Bounds { room: 64, most: 40, kept: 24, first: 4, reserve: 16 };
/// Pieces that are read whole and hashed at once, because somebody asked for it.
const CHECKS: Bounds = Bounds { room: 16, most: 4, kept: 8, first: 2, reserve: 4 };
/// How long one of these waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Doubts of callers about pieces that are what the disk wrote, as they are passed on to the metadata nodes.
const DOUBTS: Rate = Rate { a_second: 5, burst: 100 };
/// Bytes that are read and sent at once.
const READ_PART: usize = 1 << 20;

/// A piece that turned out to be bad, or that somebody doubts.
pub(crate) struct BadPiece {
    pub(crate) disk: Arc<DiskStore>,
    pub(crate) key: PoolChunk,
    /// Where the metadata nodes have to say whether it is bad.
    pub(crate) doubted: Option<DoubtedPiece>,
}

/// Turns at the disks.
pub(crate) struct ReadRooms {
    reads: Room<Holder>,
    checks: Room<Holder>,
    doubts: Mutex<Rates<()>>,
}

impl ReadRooms {
    pub(crate) fn new() -> Self {
        Self { reads: Room::new(READS), checks: Room::new(CHECKS), doubts: Mutex::default() }
    }
}

/// A turn of one's own, or of the cluster's nodes, after those before it. It goes to the thread that reads: a
/// caller that gives up must not make room for another while a disk that hangs still has the thread.
async fn turn(room: &Room<Holder>, holder: &Holder) -> Result<Place<Holder>, RpcError> {
    let turn = room.take(holder.clone(), is_privileged(holder.role), 1, TURN).await;
    let busy = |_| {
        RpcError::new(ErrorCode::Busy, format!("{holder} has too many reads under way at this data node"))
    };
    turn.map_err(busy).map_err(|e| e.hint("ask for less at once, and try again"))
}

/// Everything a call may need.
pub(crate) struct Service {
    pub(crate) disks: Arc<Vec<Arc<DiskStore>>>,
    pub(crate) intake: Intake,
    pub(crate) rooms: ReadRooms,
    pub(crate) calls: Option<CallMetrics>,
    pub(crate) bad: mpsc::Sender<BadPiece>,
    pub(crate) traffic: Arc<Traffic>,
}

impl Service {
    /// The disk that has a piece of this chunk, of this slot if one is named. Copies are the same in every
    /// slot. The piece on the disk that was asked for, and on whichever has one if none was. A disk whose
    /// number is not known yet may be that one.
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
        holder: &Holder,
        request: &ReadRequest,
        replier: &mut Replier,
    ) -> Result<(), RpcError> {
        let key = PoolChunk { pool: request.pool, chunk: request.chunk };
        self.deny(&key)?;
        let found = self.find(&key, request.disk, request.slot)?;
        let missing = || {
            self.report_if_ours(&holder.name, key, request.disk, request.slot);
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
        let answers = replier.answers();
        let reader = (holder, &answers);
        let mut next = self.read_part(reader, &key, &disk, located, at, end).await?;
        replier.start(Response::Piece { length, piece_length: located.length }).await?;
        while let Some((part, room)) = next.take() {
            at += part.len() as u32;
            let sending = async {
                let sent = replier.write(part).await;
                drop(room);
                sent
            };
            // Reading ahead by one part keeps disk and network busy together.
            let reading = self.read_part(reader, &key, &disk, located, at, end);
            let (sent, read) = tokio::join!(sending, reading);
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

    async fn challenge(&self, holder: &Holder, challenge: Challenge) -> Result<Response, RpcError> {
        let key = PoolChunk { pool: challenge.pool, chunk: challenge.chunk };
        self.deny(&key)?;
        let disk = self.disk(challenge.disk)?.clone();
        let turn = turn(&self.rooms.reads, holder).await?;
        let store = disk.clone();
        let answering = move || {
            let answer = challenge::answer(&store, &challenge);
            drop(turn);
            answer
        };
        let answer = tokio::task::spawn_blocking(answering).await.map_err(RpcError::internal)?;
        if answer.as_ref().is_err_and(|e| e.code == ErrorCode::Corrupt) {
            self.report(disk, key, None);
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
        holder: &Holder,
        key: PoolChunk,
        disk: Option<DiskId>,
        slot: Option<u8>,
        digest: Option<PieceDigest>,
    ) -> Result<Response, RpcError> {
        let Some((disk, located)) = self.find(&key, disk, slot)? else {
            self.report_if_ours(&holder.name, key, disk, slot);
            return Ok(Response::Checked(PieceCheck::Absent));
        };
        let turn = turn(&self.rooms.checks, holder).await?;
        let store = disk.clone();
        let checking = move || {
            let checked = store.check(&key);
            drop(turn);
            checked
        };
        let looked = tokio::task::spawn_blocking(checking).await;
        let found = looked.map_err(RpcError::internal)??;
        if found == PieceCheck::Bad {
            tracing::error!(disk = %disk.name, chunk = %key.chunk, "a piece is rotten");
            self.report(disk, key, None);
        } else if located.shard.is_some() && digest.is_some_and(|d| d != located.digest(&key)) {
            // A shard that is what its own header says may be another one than was committed. The caller gets
            // the answer to its own question. What becomes of the shard, the metadata nodes say by what was
            // committed.
            self.doubt(disk, key, &located);
            return Ok(Response::Checked(PieceCheck::Bad));
        }
        Ok(Response::Checked(found))
    }

    /// Has the metadata nodes hold a piece against what was committed; not for every question of a caller who
    /// asks many.
    fn doubt(&self, disk: Arc<DiskStore>, key: PoolChunk, located: &Located) {
        let mut doubts = self.rooms.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        if doubts.take(&(), DOUBTS) {
            let doubted = DoubtedPiece { key, slot: located.slot, digest: located.digest(&key) };
            self.report(disk, key, Some(doubted));
        }
    }

    /// A full queue is no loss: whoever reads the piece next reports it again.
    fn report(&self, disk: Arc<DiskStore>, key: PoolChunk, doubted: Option<DoubtedPiece>) {
        let _ = self.bad.try_send(BadPiece { disk, key, doubted });
    }

    /// A piece is not here. If the row says that it should be, the metadata nodes decide whether its chunk is
    /// committed at all, and only then make a ticket of it. A slot that is another node's is no business of
    /// ours, and one that is not vouched for is being looked through anyway.
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
        (holder, answers): (&Holder, &Answers),
        key: &PoolChunk,
        disk: &Arc<DiskStore>,
        located: Located,
        at: u32,
        end: u32,
    ) -> Result<Option<(Bytes, Place<Holder>)>, RpcError> {
        if at >= end {
            return Ok(None);
        }
        let room = answers.room(READ_PART.min((end - at) as usize)).await?;
        let turn = turn(&self.rooms.reads, holder).await?;
        let (store, key) = (disk.clone(), *key);
        let reading = tokio::task::spawn_blocking(move || {
            let length = READ_PART.min((end - at) as usize);
            let first = store.read(&located, at, length);
            // It may have been moved, and its old place removed, since it was found.
            let read = match (&first, store.locate(&key)) {
                (Err(_), Ok(Some(now))) if now.position != located.position => store.read(&now, at, length),
                _ => first,
            };
            drop(turn);
            read.map(|bytes| (Bytes::from(bytes), room))
        });
        let failed = |why: String| RpcError::new(ErrorCode::Corrupt, format!("disk {}: {why}", disk.name));
        let read = reading.await.map_err(|e| failed(e.to_string()))?;
        #[cfg(feature = "testing")]
        let read = read.map(|(bytes, room)| {
            (if crate::lies::told().wrong_bytes { flipped(&bytes) } else { bytes }, room)
        });
        read.map(Some).map_err(|error| {
            if Trouble::of(&error) == Trouble::Process {
                return starved(&error);
            }
            tracing::error!(%error, disk = %disk.name, chunk = %key.chunk, "a piece cannot be read");
            self.report(disk.clone(), key, None);
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
        let (kind, started, holder) = (request.kind(), Instant::now(), Arc::new(peer.actor()));
        // Relays are part of a client's put; reads by other data nodes are backfill themselves.
        // Calls of metadata nodes are no client's business either.
        if !matches!(peer.role, Role::Data | Role::Metadata) || matches!(request, Request::Put(_)) {
            self.traffic.note(started);
        }
        let ok = match request {
            Request::Put(put) => {
                let answer = self.intake.put(&holder, put, &mut body).await.map(Response::Put);
                let ok = answer.is_ok();
                replier.send(answer).await;
                ok
            }
            Request::ReadPiece(read) => {
                let sent = self.read(&holder, &read, &mut replier).await;
                replier.conclude(sent).await
            }
            Request::Attest { disk, slot, pool, chunk, nonce } => {
                let answer = self.attest(&peer.node, PoolChunk { pool, chunk }, (disk, slot), nonce);
                let ok = answer.is_ok();
                replier.send(answer).await;
                ok
            }
            Request::Challenge(challenge) => {
                let answer = self.challenge(&holder, challenge).await;
                let ok = answer.is_ok();
                replier.send(answer).await;
                ok
            }
            Request::GetTopology { known } => {
                let map = self.intake.known();
                let topology = (map.topology.version > known).then(|| map.encoded());
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
                let answer = self.check(&holder, PoolChunk { pool, chunk }, disk, slot, digest).await;
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
