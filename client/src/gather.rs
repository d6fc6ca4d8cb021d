//! A chunk from Reed-Solomon pieces.
//!
//! The first `data` pieces are the chunk: as long as they come, they are put together and hashed as one, and no
//! metadata are asked for. If one is late, missing or wrong, the digests of the pieces are fetched once, each piece is
//! held against its own, and the rest is computed. Either way the chunk's hash decides.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;
use wmall_manifest::Stripe;
use wmall_proto::chunk::{PieceDigest, UNKNOWN_DIGEST};
use wmall_proto::rpc::{Query, QueryReply};
use wmall_proto::{ChunkId, DiskId, ErrorCode, PoolId, RpcError, Scheme};

use crate::get::{SLOT_TIMEOUT, Wanted};
use crate::map::SlotTarget;
use crate::store::{Inner, unexpected};

/// What has come of a chunk.
struct Gathering {
    scheme: Scheme,
    pool: PoolId,
    chunk: ChunkId,
    length: u32,
    /// By slot; none of them verified yet.
    pieces: Vec<Option<Vec<Bytes>>>,
    /// By slot: which disk it came from. A slot that moves has two.
    from: Vec<Option<DiskId>>,
    /// By slot, once they were needed.
    digests: Option<Vec<PieceDigest>>,
    /// Pieces of which nobody knows what they should be have been tried, and made no chunk.
    doubted: bool,
}

impl Gathering {
    fn wanted(&self, slot: u8) -> Wanted {
        let length = self.scheme.piece_length(self.length);
        Wanted { pool: self.pool, chunk: self.chunk, slot: Some(slot), length, digest: None }
    }

    fn had(&self) -> usize {
        self.pieces.iter().flatten().count()
    }

    /// The chunk, if the pieces that are its own bytes are there and right.
    fn plain(&self) -> Option<Vec<Bytes>> {
        let mut left = self.length as usize;
        let mut hasher = blake3::Hasher::new();
        let mut out = Vec::new();
        for piece in &self.pieces[..self.scheme.needed()] {
            for part in piece.as_ref()? {
                let part = part.slice(..part.len().min(left));
                left -= part.len();
                hasher.update(&part);
                out.push(part);
            }
        }
        (*hasher.finalize().as_bytes() == self.chunk.0).then_some(out)
    }

    /// Drops the pieces that are not what they should be, and returns their slots. Those of which nobody knows what they
    /// should be stay, unless they have failed already: the chunk's hash tells.
    fn drop_wrong(&mut self, digests: &[PieceDigest]) -> Vec<u8> {
        let mut wrong = Vec::new();
        for (slot, piece) in self.pieces.iter_mut().enumerate() {
            let Some(parts) = piece else { continue };
            if digests.get(slot) == Some(&UNKNOWN_DIGEST) && !self.doubted {
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            parts.iter().for_each(|part| {
                hasher.update(part);
            });
            if digests.get(slot) != Some(hasher.finalize().as_bytes()) {
                wrong.push(slot as u8);
                *piece = None;
            }
        }
        wrong
    }

    /// The chunk, computed from pieces that are right.
    async fn computed(&self) -> Result<Vec<Bytes>, RpcError> {
        let (scheme, chunk, length) = (self.scheme, self.chunk, self.length);
        let pieces: Vec<Option<Vec<u8>>> =
            self.pieces.iter().map(|p| p.as_ref().map(|parts| parts.concat())).collect();
        let computing = move || {
            let stripe =
                Stripe::new(scheme).map_err(|e| RpcError::new(ErrorCode::Unsupported, e.to_string()))?;
            let parts = stripe.join(pieces, length).map_err(RpcError::internal)?;
            let mut hasher = blake3::Hasher::new();
            parts.iter().for_each(|part| {
                hasher.update(part);
            });
            if *hasher.finalize().as_bytes() == chunk.0 {
                return Ok(parts);
            }
            let reason = format!("the pieces of chunk {chunk} are what was committed, and make other bytes");
            Err(RpcError::new(ErrorCode::Corrupt, reason))
        };
        tokio::task::spawn_blocking(computing).await.map_err(RpcError::internal)?
    }
}

impl Inner {
    /// A chunk's bytes, hashed, from as few slots as it takes. Slots come in the order in which they are to be asked.
    pub(crate) async fn gather(
        self: &Arc<Self>,
        slots: Vec<SlotTarget>,
        scheme: Scheme,
        pool: PoolId,
        chunk: ChunkId,
        length: u32,
    ) -> Result<Vec<Bytes>, RpcError> {
        let pieces = vec![None; scheme.width()];
        let (from, digests) = (vec![None; scheme.width()], None);
        let mut gathering = Gathering { scheme, pool, chunk, length, pieces, from, digests, doubted: false };
        let mut waiting = slots.iter();
        let mut running = JoinSet::new();
        let mut last = RpcError::new(ErrorCode::Unavailable, "the row has too few slots");
        // Reads that are late have company by others.
        let mut late = 0;
        loop {
            if gathering.had() >= scheme.needed()
                && let Some(parts) = self.assemble(&mut gathering, &slots).await?
            {
                return Ok(parts);
            }
            while gathering.had() + running.len() < scheme.needed() + late
                && let Some(slot) = waiting.next()
            {
                let (store, slot, wanted) = (self.clone(), slot.clone(), gathering.wanted(slot.slot));
                running.spawn(async move { (slot.slot, slot.disk, store.read_slot(&slot, wanted).await) });
            }
            if running.is_empty() {
                return Err(last);
            }
            let piece_length = scheme.piece_length(length);
            let hedge = if waiting.len() == 0 { SLOT_TIMEOUT } else { self.map.late_after(piece_length) };
            match tokio::time::timeout(hedge, running.join_next()).await {
                Ok(Some(Ok((slot, disk, Ok(parts))))) => {
                    gathering.pieces[usize::from(slot)] = Some(parts);
                    gathering.from[usize::from(slot)] = Some(disk);
                }
                Ok(Some(Ok((_, _, Err(error))))) => last = error,
                Ok(Some(Err(error))) => last = RpcError::internal(error),
                Ok(None) => {}
                Err(_) => late += 1,
            }
        }
    }

    /// The chunk from what has come; none if some of it was wrong and more is needed.
    async fn assemble(
        &self,
        gathering: &mut Gathering,
        slots: &[SlotTarget],
    ) -> Result<Option<Vec<Bytes>>, RpcError> {
        if let Some(parts) = gathering.plain() {
            return Ok(Some(parts));
        }
        let digests = match gathering.digests.take() {
            Some(digests) => digests,
            None => self.digests(gathering.pool, gathering.chunk).await?,
        };
        for slot in gathering.drop_wrong(&digests) {
            tracing::warn!(slot, chunk = %gathering.chunk, "a wrong piece; asking for another one");
            let from = gathering.from.get(usize::from(slot)).copied().flatten();
            if let Some(target) = slots.iter().find(|s| s.slot == slot && Some(s.disk) == from) {
                let digest = digests.get(usize::from(slot)).copied().filter(|d| *d != UNKNOWN_DIGEST);
                self.have_checked(target, &Wanted { digest, ..gathering.wanted(slot) });
            }
        }
        let guessed = (0..digests.len()).any(|slot| {
            digests[slot] == UNKNOWN_DIGEST && gathering.pieces.get(slot).is_some_and(Option::is_some)
        });
        gathering.digests = Some(digests);
        if gathering.had() < gathering.scheme.needed() {
            return Ok(None);
        }
        match gathering.computed().await {
            Err(error) if error.code == ErrorCode::Corrupt && guessed && !gathering.doubted => {
                gathering.doubted = true;
                let digests = gathering.digests.take().unwrap_or_default();
                gathering.drop_wrong(&digests);
                gathering.digests = Some(digests);
                Ok(None)
            }
            outcome => outcome.map(Some),
        }
    }

    /// What the pieces of a chunk hash to. Any member may tell: who believes a wrong one gets no chunk.
    async fn digests(&self, pool: PoolId, chunk: ChunkId) -> Result<Vec<PieceDigest>, RpcError> {
        let query = Query::Chunk(chunk);
        let reply = match self.read_stale(query.clone()).await {
            Err(error) if error.code == ErrorCode::NotFound => self.read(query).await?,
            reply => reply?,
        };
        let QueryReply::Chunk(views) = reply else { return Err(unexpected()) };
        let view = views.into_iter().find(|v| v.pool == pool);
        view.map(|v| v.digests).ok_or_else(|| RpcError::not_found(format!("chunk {chunk}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathering(chunk: &[u8]) -> (Gathering, Vec<Bytes>) {
        let scheme: Scheme = "rs:4+2".parse().unwrap();
        let pieces = Stripe::new(scheme).unwrap().cut(&[Bytes::copy_from_slice(chunk)]).unwrap();
        let (id, length) = (ChunkId::of(chunk), chunk.len() as u32);
        let empty = vec![None; 6];
        let (pool, digests, doubted) = (PoolId(1), None, false);
        let from = vec![None; scheme.width()];
        (Gathering { scheme, pool, chunk: id, length, pieces: empty, from, digests, doubted }, pieces)
    }

    #[test]
    fn data_pieces_are_the_chunk_without_their_filling() {
        let chunk: Vec<u8> = (0..=200).collect();
        let (mut gathering, pieces) = gathering(&chunk);
        for (slot, piece) in pieces.iter().enumerate().take(4) {
            assert_eq!(gathering.plain(), None);
            gathering.pieces[slot] = Some(vec![piece.slice(..10), piece.slice(10..)]);
        }
        assert_eq!(gathering.plain().unwrap().concat(), chunk);
        gathering.pieces[2] = Some(vec![pieces[3].clone()]);
        assert_eq!(gathering.plain(), None, "a wrong piece");
    }

    #[tokio::test]
    async fn a_wrong_piece_is_dropped_and_the_rest_makes_the_chunk() {
        let chunk: Vec<u8> = (0..=200).collect();
        let (mut gathering, pieces) = gathering(&chunk);
        let digests: Vec<PieceDigest> = pieces.iter().map(|p| *blake3::hash(p).as_bytes()).collect();
        for slot in [0, 1, 3, 5] {
            gathering.pieces[slot] = Some(vec![pieces[slot].clone()]);
        }
        gathering.pieces[2] = Some(vec![pieces[4].clone()]);
        assert_eq!(gathering.drop_wrong(&digests), [2]);
        assert_eq!(gathering.computed().await.unwrap().concat(), chunk);
        gathering.pieces[5] = Some(vec![pieces[4].clone()]);
        let wrong = gathering.computed().await.unwrap_err();
        assert_eq!(wrong.code, ErrorCode::Corrupt, "undetected, a wrong piece makes no wrong chunk");
    }
}
