//! What the pieces of a chunk hash to, in pools whose pieces are shards.
//!
//! A digest is bound when a disk's receipt for that slot is first committed. Cutting a chunk has one result
//! only, so whoever comes later has the same list or is wrong. The digest of a slot without a receipt, and in
//! a cluster that was rebuilt of a slot whose piece was lost, is [`UNKNOWN_DIGEST`] until its disk has made
//! the piece, which it holds against the chunk's id.

use wmall_proto::chunk::{PieceDigest, UNKNOWN_DIGEST};
use wmall_proto::rpc::DoubtedPiece;
use wmall_proto::{ChunkId, ErrorCode, PoolId, RpcError, Scheme};
use wmall_runtime::view::StoreError;

use super::apply::{Context, Refusal};
use super::txn::decode;
use super::{State, keys};

impl Context<'_> {
    /// Refuses digests that can't be those of this chunk: as far as disks have signed for them now, or had to
    /// before.
    pub(super) fn check_digests(
        &self,
        (pool, scheme): (PoolId, Scheme),
        chunk: &ChunkId,
        digests: &[PieceDigest],
        held: &[u8],
    ) -> Result<(), Refusal> {
        let wanted = if scheme.is_striped() { scheme.width() } else { 0 };
        if digests.len() != wanted {
            let reason =
                format!("chunk {chunk} comes with {} digests of pieces, not {wanted}", digests.len());
            return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
        }
        if wanted == 0 {
            return Ok(());
        }
        let bound: Option<Vec<PieceDigest>> = self.txn.get(&keys::digests(pool, chunk))?;
        let differs = |slot: &&u8| {
            let (slot, known) = (usize::from(**slot), bound.as_deref().unwrap_or_default());
            let known = known.get(slot).filter(|d| **d != UNKNOWN_DIGEST);
            digests[slot] == UNKNOWN_DIGEST || known.is_some_and(|known| *known != digests[slot])
        };
        if let Some(slot) = held.iter().find(differs) {
            let reason = format!("slot {slot} of chunk {chunk} is committed with another piece than this");
            return Err(RpcError::new(ErrorCode::BadReceipt, reason).into());
        }
        Ok(())
    }

    /// Whether a piece of this slot may hash to this; what was unknown is known from now on.
    pub(super) fn learn_digest(
        &mut self,
        pool: PoolId,
        chunk: &ChunkId,
        slot: u8,
        digest: &PieceDigest,
    ) -> Result<bool, Refusal> {
        let key = keys::digests(pool, chunk);
        let Some(mut bound): Option<Vec<PieceDigest>> = self.txn.get(&key)? else {
            return Ok(*digest == chunk.0);
        };
        let Some(known) = bound.get_mut(usize::from(slot)) else { return Ok(false) };
        if *known == UNKNOWN_DIGEST {
            *known = *digest;
            self.txn.put(key, &bound);
            return Ok(true);
        }
        Ok(known == digest)
    }
}

impl State {
    /// True if another piece was committed than this one. A piece of an unknown digest contradicts none.
    pub(crate) fn contradicts(&self, piece: &DoubtedPiece) -> Result<bool, StoreError> {
        let _one_index = self.read();
        let committed = self.digests(piece.key.pool, &piece.key.chunk)?;
        let committed = committed.get(usize::from(piece.slot));
        Ok(committed.is_some_and(|digest| *digest != UNKNOWN_DIGEST && *digest != piece.digest))
    }

    /// What a chunk's pieces hash to; nothing where they are copies.
    pub(super) fn digests(&self, pool: PoolId, chunk: &ChunkId) -> Result<Vec<PieceDigest>, StoreError> {
        let stored = self.store.get(&keys::digests(pool, chunk))?;
        Ok(stored.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
    }
}
