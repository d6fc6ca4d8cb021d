//! Getting one piece that a disk should hold: its own if it is good, the very one from where the slot comes from, a copy
//! from another slot, or a shard that is made from others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use wmall_manifest::Stripe;
use wmall_proto::chunk::{MissingPiece, PieceDigest, Shard, UNKNOWN_DIGEST};
use wmall_proto::receipt::SignedReceipt;
use wmall_proto::rpc::{ReadRequest, Request};
use wmall_proto::{ChunkId, DiskId, ErrorCode, RpcError, Scheme, UploadId};
use wmall_transport::{Target, collect};

use crate::disk::{DiskStore, PieceHeader};
use crate::fill::Filler;

/// How long the reading of one piece may take, without the rests in between.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Pieces fetched for a backfill belong to no upload: only chunks that are committed are fetched, and nothing
/// else has to hold them.
const BACKFILL: UploadId = UploadId([0; 16]);

impl Filler {
    /// Gets one piece: from this disk itself if it has a good one, else as a copy from another slot, or made from the
    /// shards of others. With whether it is new here.
    pub(crate) async fn fetch(
        &self,
        disk: &Arc<DiskStore>,
        piece: &MissingPiece,
    ) -> Result<(SignedReceipt, bool), RpcError> {
        let (digest, begun) = (piece.digests.get(usize::from(piece.slot)).copied(), Instant::now());
        let header = |digest: Option<PieceDigest>| PieceHeader {
            pool: piece.pool,
            chunk: piece.chunk,
            slot: piece.slot,
            upload: BACKFILL,
            row_version: piece.row_version,
            shard: digest.map(|digest| Shard { digest, chunk_length: piece.length }),
        };
        if digest != Some(UNKNOWN_DIGEST)
            && let Some(receipt) = vouched(disk, header(digest)).await?
        {
            // That was a piece read and hashed.
            self.give_way(begun).await;
            return Ok((receipt, false));
        }
        let (parts, crc, digest) = match digest {
            None => self.copy(piece).await.map(|(parts, crc)| (parts, crc, None))?,
            Some(_) => {
                self.rebuild(piece).await.map(|(shard, crc, digest)| (vec![shard], crc, Some(digest)))?
            }
        };
        let (header, begun) = (header(digest), Instant::now());
        // Only now is it known what it should be.
        if let Some(receipt) = vouched(disk, header).await? {
            self.give_way(begun).await;
            return Ok((receipt, false));
        }
        // A disk that is filled must not push out of the cache what clients read.
        let receipt = disk.put(header, parts, crc, true).await?;
        self.give_way(begun).await;
        Ok((receipt, true))
    }

    /// Rests from a step that began then, if clients are served.
    async fn give_way(&self, begun: Instant) {
        let now = Instant::now();
        tokio::time::sleep(self.traffic.rest(now - begun, now)).await;
    }

    /// Reads a piece from another disk and holds it against its digest: in steps, with rests in between, while clients are
    /// served here.
    async fn read(
        &self,
        target: &Target,
        piece: &MissingPiece,
        (disk, slot): (DiskId, Option<u8>),
        length: u32,
    ) -> Result<(Vec<Bytes>, u32), RpcError> {
        let &MissingPiece { pool, chunk, .. } = piece;
        let digest = slot.and_then(|s| piece.digests.get(usize::from(s))).copied().unwrap_or(piece.chunk.0);
        let (mut parts, mut hasher, mut crc, mut at) = (Vec::new(), blake3::Hasher::new(), 0, 0);
        let (mut round_trip, mut left) = (Duration::ZERO, FETCH_TIMEOUT);
        while at < length {
            let begun = Instant::now();
            let step = self.traffic.step(begun, round_trip).min(length - at);
            let read = ReadRequest { pool, chunk, disk: Some(disk), slot, offset: at, length: step };
            let reading = async {
                let call = self.endpoint.open(target, &Request::ReadPiece(read), left).await?;
                round_trip = call.round_trip();
                let mut reply = call.finish().await?;
                let take = |part: &Bytes| {
                    hasher.update(part);
                    crc = crc32c::crc32c_append(crc, part);
                };
                collect(&mut reply.body, step as usize, take).await
            };
            let late = |_| RpcError::new(ErrorCode::Timeout, format!("{} sends too slowly", target.node));
            parts.extend(tokio::time::timeout(left, reading).await.map_err(late)??);
            at += step;
            left = left.saturating_sub(begun.elapsed());
            self.give_way(begun).await;
        }
        if digest == UNKNOWN_DIGEST || *hasher.finalize().as_bytes() == digest {
            return Ok((parts, crc));
        }
        let reason = format!("{} sent bytes that are not those of {}", target.node, piece.chunk);
        Err(RpcError::new(ErrorCode::HashMismatch, reason))
    }

    /// Who may have pieces, of those that are not silent, with their slots: first the disk that the slot comes from, whose
    /// piece is the very one.
    fn others(&self, piece: &MissingPiece) -> Result<Vec<(u8, DiskId, Target)>, RpcError> {
        let known = self.map.get();
        let row = known.row(piece.pool, &piece.chunk, piece.row_version)?;
        let target = |(slot, disk): (u8, DiskId)| Some((slot, disk, known.target(disk).ok()?));
        let own =
            row.sources.get(usize::from(piece.slot)).into_iter().flatten().map(|s| (piece.slot, s.disk));
        let others = row.holders().filter(|(slot, _)| *slot != piece.slot);
        Ok(own.chain(others).filter_map(target).collect())
    }

    /// A copy from the first slot that has a good one.
    async fn copy(&self, piece: &MissingPiece) -> Result<(Vec<Bytes>, u32), RpcError> {
        let mut last = RpcError::new(ErrorCode::Unavailable, "no other slot has the piece");
        for (_, disk, target) in self.others(piece)? {
            match self.read(&target, piece, (disk, None), piece.length).await {
                Ok(copy) => return Ok(copy),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A shard from as many others as the scheme needs, each held against its digest; with what it hashes to.
    async fn rebuild(&self, piece: &MissingPiece) -> Result<(Bytes, u32, PieceDigest), RpcError> {
        let known = self.map.get();
        let unknown = || RpcError::not_found(format!("pool number {}", piece.pool.0));
        let scheme = known.topology.pools.get(&piece.pool).ok_or_else(unknown)?.pool.scheme;
        // Shards of which nobody knows what they hash to come last; with them, the chunk's own hash decides.
        let known = |slot: u8| piece.digests.get(usize::from(slot)).is_some_and(|d| *d != UNKNOWN_DIGEST);
        let mut others = self.others(piece)?;
        others.sort_by_key(|(slot, ..)| (*slot != piece.slot, !known(*slot)));
        let mut waiting = others.into_iter().peekable();
        let mut shards: Vec<Option<Vec<u8>>> = vec![None; scheme.width()];
        // Where the slot comes from, the very shard may be: nothing has to be read but that, and nothing made.
        while let Some((slot, disk, target)) = waiting.next_if(|(slot, ..)| *slot == piece.slot) {
            let length = scheme.piece_length(piece.length);
            let own = self.read(&target, piece, (disk, Some(slot)), length).await;
            let wanted = piece.digests[usize::from(slot)];
            match own {
                Ok((parts, crc)) if wanted != UNKNOWN_DIGEST => {
                    return Ok((parts.concat().into(), crc, wanted));
                }
                Ok((parts, _)) => shards[usize::from(slot)] = Some(parts.concat()),
                Err(error) => tracing::debug!(%error, chunk = %piece.chunk, "not where the slot comes from"),
            }
        }
        let (mut running, mut had) = (JoinSet::new(), shards.iter().flatten().count());
        let mut last = RpcError::new(ErrorCode::Unavailable, "too few other slots answer");
        while had < scheme.needed() {
            while had + running.len() < scheme.needed()
                && let Some((slot, disk, target)) = waiting.next()
            {
                let (filler, piece) = (self.clone(), piece.clone());
                let length = scheme.piece_length(piece.length);
                running.spawn(async move {
                    (slot, filler.read(&target, &piece, (disk, Some(slot)), length).await)
                });
            }
            match running.join_next().await {
                Some(Ok((slot, Ok((parts, _))))) => {
                    let place = &mut shards[usize::from(slot)];
                    had += usize::from(place.is_none());
                    *place = Some(parts.concat());
                }
                Some(Ok((_, Err(error)))) => last = error,
                Some(Err(error)) => last = RpcError::internal(error),
                None => return Err(last),
            }
        }
        let (piece, begun) = (piece.clone(), Instant::now());
        let making = tokio::task::spawn_blocking(move || make(scheme, &piece, shards));
        let made = making.await.map_err(RpcError::internal)?;
        self.give_way(begun).await;
        made
    }
}

/// The shard of the missing piece's slot. If nobody knows what it hashes to, the whole chunk says whether it is right.
fn make(
    scheme: Scheme,
    piece: &MissingPiece,
    shards: Vec<Option<Vec<u8>>>,
) -> Result<(Bytes, u32, PieceDigest), RpcError> {
    let wanted = piece.digests[usize::from(piece.slot)];
    let used = |(slot, shard): (usize, &Option<Vec<u8>>)| {
        shard.is_some() && piece.digests.get(slot) == Some(&UNKNOWN_DIGEST)
    };
    let guessed = wanted == UNKNOWN_DIGEST || shards.iter().enumerate().any(used);
    let stripe = Stripe::new(scheme).map_err(RpcError::internal)?;
    let whole = if guessed {
        Some(stripe.join(shards.clone(), piece.length).map_err(RpcError::internal)?)
    } else {
        None
    };
    let shard = stripe.rebuild(shards, piece.length, usize::from(piece.slot)).map_err(RpcError::internal)?;
    let digest = *blake3::hash(&shard).as_bytes();
    let right = match whole {
        Some(parts) => {
            ChunkId::of(&parts.concat()) == piece.chunk && (wanted == UNKNOWN_DIGEST || digest == wanted)
        }
        None => digest == wanted,
    };
    if !right {
        let reason = format!("good shards of {} make other bytes than were committed", piece.chunk);
        return Err(RpcError::new(ErrorCode::Corrupt, reason));
    }
    let crc = crc32c::crc32c(&shard);
    Ok((shard, crc, digest))
}

/// A receipt for what the disk has already, if it is that.
async fn vouched(disk: &Arc<DiskStore>, header: PieceHeader) -> Result<Option<SignedReceipt>, RpcError> {
    let store = disk.clone();
    tokio::task::spawn_blocking(move || store.vouch(header)).await.map_err(RpcError::internal)?
}
