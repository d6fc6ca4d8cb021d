//! Answering challenges: a leaf of a piece, its way up, and the disk's signature over a nonce. The whole
//! piece is read and hashed for it; a disk that finds its own piece rotten says so instead.

use std::sync::Arc;

use wmall_journal::Trouble;
use wmall_manifest::prove_slice;
use wmall_proto::challenge::{Challenge, ChallengeAnswer};
use wmall_proto::feed::PoolChunk;
use wmall_proto::{ErrorCode, RpcError};

use crate::disk::{DiskStore, starved};

/// Looks at a piece that compaction moves between finding and reading it.
const LOOKS: usize = 3;

/// Blocking.
pub(crate) fn answer(disk: &Arc<DiskStore>, challenge: &Challenge) -> Result<ChallengeAnswer, RpcError> {
    let key = PoolChunk { pool: challenge.pool, chunk: challenge.chunk };
    let missing = || RpcError::not_found(format!("piece of chunk {} on disk {}", key.chunk, disk.name));
    let mut before = None;
    for _ in 0..LOOKS {
        let located = disk.locate(&key)?.ok_or_else(missing)?;
        // Copies are the same in every slot, and are kept when a slot goes to another one.
        if !located.fits(challenge.slot) {
            return Err(missing());
        }
        let piece = disk.read(&located, 0, located.length as usize);
        if let Err(error) = &piece
            && Trouble::of(error) == Trouble::Process
        {
            return Err(starved(error));
        }
        let good = piece.ok().filter(|piece| *blake3::hash(piece).as_bytes() == located.digest(&key));
        if let Some(piece) = good {
            let no_leaf =
                || RpcError::new(ErrorCode::RangeOutOfBounds, format!("there is no leaf {}", challenge.leaf));
            let proof = prove_slice(&piece, challenge.leaf).ok_or_else(no_leaf)?;
            let attested = disk.attest(&key, challenge.slot, challenge.nonce)?.ok_or_else(missing)?;
            return Ok(ChallengeAnswer { attested, piece_length: located.length, proof });
        }
        if before == Some(located.position) {
            break;
        }
        before = Some(located.position);
    }
    let reason = format!("disk {}: the piece of chunk {} is rotten", disk.name, key.chunk);
    Err(RpcError::new(ErrorCode::Corrupt, reason))
}
