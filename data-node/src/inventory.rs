//! Lists what a disk holds, for those who have lost the metadata. Nothing else asks.

use std::sync::Arc;

use wmall_manifest::{begins_block, may_be_block};
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::{HeldPiece, PieceCheck, PiecePage};
use wmall_proto::{ErrorCode, RpcError};

use crate::disk::{DiskStore, Located, PieceState};

/// Pieces on a page.
const PAGE: usize = 1024;
/// Bytes that tell a block of a manifest from other pieces.
const HEAD: usize = 16;

/// A page of the pieces of disk number `disk`. Reads the beginning of those whose length a block may have, so it is
/// for a thread that may block.
pub(crate) fn page(
    disks: &[Arc<DiskStore>],
    disk: u32,
    after: Option<&PoolChunk>,
) -> Result<PiecePage, RpcError> {
    let store = disks.get(disk as usize).ok_or_else(|| RpcError::not_found(format!("disk number {disk}")))?;
    let failed = |e: &dyn std::fmt::Display| {
        RpcError::new(ErrorCode::Corrupt, format!("disk {}: its index: {e}", store.name))
    };
    let keys = store.pieces(after, PAGE).map_err(|e| failed(&e))?;
    let next = keys.last().copied().filter(|_| keys.len() == PAGE);
    let mut pieces = Vec::with_capacity(keys.len());
    for key in keys {
        // Trash is about to go, and is passed over.
        let Some(located) = store.locate(&key)? else { continue };
        pieces.push(HeldPiece {
            key,
            length: located.length,
            slot: located.slot,
            shard: located.shard,
            committed: located.state == PieceState::Live,
            block: is_block(store, &key, &located),
        });
    }
    let incarnation = store.superblock.incarnation;
    Ok(PiecePage { incarnation, pieces, next, disks: disks.len() as u32 })
}

/// Whether it begins as a block does. A copy that can't be read does not: others may be good. The first shard of a chunk
/// speaks for all of it, so it says no only if it is what it should be and long enough to tell.
fn is_block(store: &DiskStore, key: &PoolChunk, located: &Located) -> bool {
    let chunk_length = located.shard.map_or(located.length, |s| s.chunk_length);
    if !may_be_block(chunk_length) || !located.fits(0) {
        return false;
    }
    let begins = || store.read(located, 0, HEAD).is_ok_and(|bytes| begins_block(&bytes));
    let short = (located.length as usize) < HEAD;
    let doubtful = || located.shard.is_some() && (short || !matches!(store.check(key), Ok(PieceCheck::Good)));
    begins() || doubtful()
}
