//! What everybody may know of a disk at any time, without asking its threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::DoubtedPiece;

use super::index::{Counts, Index};

/// Pieces that may wait to be reported, rotten or absent. Beyond them the disk says that it has lost what it
/// can't name, and has all its groups looked through.
const MAX_ROTTEN: usize = 65_536;
/// Shards that took the place of others, of which it is remembered, and doubted pieces that may wait to be
/// reported. Beyond them only challenges find what is wrong.
const MAX_REPLACED: usize = 4096;

/// Counts and conditions, written by the disk's threads.
#[derive(Default)]
pub(super) struct Books {
    pieces: AtomicU64,
    bytes: AtomicU64,
    /// The last record that is in the index.
    end: Mutex<(u64, u64)>,
    fenced_before_ms: AtomicU64,
    /// Wanted bytes by segment.
    wanted: Mutex<BTreeMap<u64, u64>>,
    /// The index could not be written: nothing is promised any more.
    failed: AtomicBool,
    /// A put found no room, and none has been made since.
    full: AtomicBool,
    /// The place in the feed is lost, and all pieces are being asked about.
    walking: AtomicBool,
    /// Something was lost that can't be named, and the metadata nodes do not know yet.
    lost: AtomicBool,
    rotten: Mutex<Vec<PoolChunk>>,
    /// Pieces whose place another one had that was promised too.
    replaced: Mutex<BTreeSet<PoolChunk>>,
    doubted: Mutex<Vec<DoubtedPiece>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Books {
    pub(super) fn set(&self, index: &Index) {
        self.pieces.store(index.counts.pieces, Ordering::Relaxed);
        self.bytes.store(index.counts.bytes, Ordering::Relaxed);
        *lock(&self.end) = index.end;
        self.fenced_before_ms.store(index.fenced_before_ms, Ordering::Relaxed);
        lock(&self.wanted).clone_from(&index.wanted);
    }

    pub(super) fn counts(&self) -> Counts {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counts { pieces: load(&self.pieces), bytes: load(&self.bytes) }
    }

    pub(super) fn end(&self) -> (u64, u64) {
        *lock(&self.end)
    }

    pub(super) fn fenced_before_ms(&self) -> u64 {
        self.fenced_before_ms.load(Ordering::Relaxed)
    }

    pub(super) fn wanted(&self) -> BTreeMap<u64, u64> {
        lock(&self.wanted).clone()
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Release);
    }

    pub(super) fn set_walking(&self, walking: bool) {
        self.walking.store(walking, Ordering::Release);
    }

    pub(super) fn walking(&self) -> bool {
        self.walking.load(Ordering::Acquire)
    }

    pub(super) fn set_lost(&self, lost: bool) {
        self.lost.store(lost, Ordering::Release);
    }

    pub(super) fn lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(super) fn full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    pub(super) fn add_rotten(&self, key: PoolChunk) {
        let mut rotten = lock(&self.rotten);
        if rotten.len() < MAX_ROTTEN {
            rotten.push(key);
        } else {
            self.set_lost(true);
        }
    }

    pub(super) fn note_replaced(&self, key: PoolChunk) {
        let mut replaced = lock(&self.replaced);
        if replaced.len() >= MAX_REPLACED {
            replaced.pop_first();
        }
        replaced.insert(key);
    }

    pub(super) fn take_replaced(&self, key: &PoolChunk) -> bool {
        lock(&self.replaced).remove(key)
    }

    pub(super) fn add_doubted(&self, piece: DoubtedPiece) {
        let mut doubted = lock(&self.doubted);
        if doubted.len() < MAX_REPLACED {
            doubted.push(piece);
        }
    }

    pub(super) fn take_doubted(&self, limit: usize) -> Vec<DoubtedPiece> {
        let mut doubted = lock(&self.doubted);
        let n = doubted.len().min(limit);
        doubted.drain(..n).collect()
    }

    pub(super) fn take_rotten(&self, limit: usize) -> Vec<PoolChunk> {
        let mut rotten = lock(&self.rotten);
        let n = rotten.len().min(limit);
        rotten.drain(..n).collect()
    }
}
