//! Looks at pieces: reads the bytes that the index points to and hashes them. Owns nothing but the turns.
//!
//! A finding is of the place that was looked at. A piece may be replaced while its former bytes are read, and
//! what was found of those says nothing about the new ones.
//!
//! Deliberately absent: any repair. The keeper takes away what is bad, and the metadata nodes have it made
//! anew.

use std::sync::Arc;
use std::time::Duration;

use wmall_journal::{Position, Trouble};
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::PieceCheck;
use wmall_proto::{ErrorCode, RpcError};

use super::{DiskStore, Located, PieceState, Work};
use crate::disk::error::starved;

/// Looks at a piece that is moved between finding and reading it.
const LOOKS: usize = 3;
/// Threads that may look at pieces of this disk for puts. A disk that hangs keeps so many, and no more.
pub(super) const TURNS: usize = 16;
/// How long a put waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// A finding about a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is what it should be, here.
    Good(Located),
    /// The bytes at this place are not what they should be, or can't be read.
    Bad(Position),
    /// It is not on this disk.
    Absent,
}

impl DiskStore {
    /// Reads a whole piece and hashes it. Blocking. One that is moved meanwhile is looked for again.
    pub(crate) fn look(&self, key: &PoolChunk) -> Result<Look, RpcError> {
        let mut before = None;
        for _ in 0..LOOKS {
            let Some(located) = self.locate(key)? else { return Ok(Look::Absent) };
            if self.hashes_to(key, &located)? {
                return Ok(Look::Good(located));
            }
            if before.replace(located.position) == Some(located.position) {
                break;
            }
        }
        Ok(before.map_or(Look::Absent, Look::Bad))
    }

    /// The same, with the bytes read from the disk rather than from the page cache. Blocking.
    pub(crate) fn look_cold(&self, key: &PoolChunk) -> Result<Look, RpcError> {
        self.forget_cached(key)?;
        self.look(key)
    }

    /// Looks at a piece for a put, after those before it. The turn ends when the disk has answered, even if
    /// the caller has given up before that.
    pub(crate) async fn look_in_turn(self: &Arc<Self>, key: PoolChunk) -> Result<Look, RpcError> {
        let busy = || {
            let reason = format!("disk {} has {TURNS} looks at pieces under way", self.name);
            RpcError::new(ErrorCode::Busy, reason).hint("try again; a disk that stays so may hang")
        };
        let turn = tokio::time::timeout(TURN, self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| busy())?.map_err(RpcError::internal)?;
        let store = self.clone();
        let looking = move || {
            let looked = store.look(&key);
            drop(turn);
            looked
        };
        tokio::task::spawn_blocking(looking).await.map_err(RpcError::internal)?
    }

    /// The same, without the place. Blocking.
    pub(crate) fn check(&self, key: &PoolChunk) -> Result<PieceCheck, RpcError> {
        self.look(key).map(|look| match look {
            Look::Good(_) => PieceCheck::Good,
            Look::Bad(_) => PieceCheck::Bad,
            Look::Absent => PieceCheck::Absent,
        })
    }

    /// Lets the page cache have the room of a piece that nobody is likely to read soon.
    fn forget_cached(&self, key: &PoolChunk) -> Result<(), RpcError> {
        if let Some(located) = self.locate(key)? {
            let (segment, length) = (located.position.segment, located.length as usize);
            self.journal.forget_cached(segment, located.payload_offset(), length);
        }
        Ok(())
    }

    /// Whether a piece is what it should be; it is not, if it can't be read.
    fn hashes_to(&self, key: &PoolChunk, located: &Located) -> Result<bool, RpcError> {
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < located.length {
            let n = (located.length - at).min(1 << 20);
            match self.read(located, at, n as usize) {
                Ok(bytes) => hasher.update(&bytes),
                Err(error) if Trouble::of(&error) == Trouble::Process => return Err(starved(&error)),
                Err(error) => {
                    tracing::warn!(%error, disk = %self.name, chunk = %key.chunk, "a piece can't be read");
                    return Ok(false);
                }
            };
            at += n;
        }
        Ok(*hasher.finalize().as_bytes() == located.digest(key))
    }

    /// Looks at a piece that is said to be bad, and takes care of it if that is so and its chunk is not known
    /// to be committed. False if it is to be reported as it is. Blocking.
    pub(crate) fn drops_bad(&self, key: &PoolChunk) -> Result<bool, RpcError> {
        let staged = self.locate(key)?.is_some_and(|located| located.state == PieceState::Staged);
        if !staged {
            return Ok(false);
        }
        let Look::Bad(at) = self.look(key)? else { return Ok(false) };
        self.found_bad(*key, at);
        Ok(true)
    }

    /// A piece was found bad at this place. One whose chunk is committed is reported, and stays until another
    /// takes its place. Any other goes, and its absence is reported when a commit counts on it: the metadata
    /// nodes don't know its chunk yet. One that is elsewhere by now, or gone, is not what was looked at.
    pub(crate) fn found_bad(&self, key: PoolChunk, at: Position) {
        match self.locate(&key) {
            Ok(Some(located)) if located.position != at => {}
            Ok(Some(located)) if located.state == PieceState::Staged => {
                let _ = self.work.send(Work::Rotten(key, at));
            }
            Ok(Some(_)) => self.books.add_rotten(key),
            // An index that can't be read has failed its disk.
            Ok(None) | Err(_) => {}
        }
    }
}
