//! Counts and conditions of a disk that everybody may know without asking its threads, and findings to be
//! reported.
//!
//! `rotten` has what the disk has seen for itself (scrubs, compaction, replay, the feed), `asked` what a
//! caller asked for and the disk lacks. The next heartbeat takes both along (`control.rs`), and the metadata
//! nodes decide what becomes a ticket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wmall_proto::NodeName;
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::DoubtedPiece;

use super::index::{Counts, Index};

/// Pieces that may wait to be reported, rotten or absent. Beyond them the disk says that it has lost what it
/// can't name, and has all its groups looked through.
const MAX_ROTTEN: usize = 65_536;
/// Shards that took the place of others, of which it is remembered, and doubted pieces that may wait to be
/// reported. Beyond them only challenges find what is wrong.
const MAX_REPLACED: usize = 4096;
/// Pieces that callers asked for and that wait to be reported, of all callers and of one. Others are dropped:
/// what callers ask for must not make a disk lose anything, and whoever asks again is heard again.
const MAX_ASKED: usize = 1024;
const MAX_ASKED_BY_ONE: usize = 64;

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
    /// With the caller that asked.
    asked: Mutex<BTreeMap<PoolChunk, NodeName>>,
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

    /// A piece is not here that the disk should have, by its map, and that a caller asked for.
    pub(super) fn add_asked(&self, key: PoolChunk, by: &NodeName) {
        let mut asked = lock(&self.asked);
        let has_room = asked.len() < MAX_ASKED
            && asked.values().filter(|caller| *caller == by).count() < MAX_ASKED_BY_ONE;
        if has_room {
            asked.entry(key).or_insert_with(|| by.clone());
        }
    }

    pub(super) fn take_rotten(&self, limit: usize) -> Vec<PoolChunk> {
        let mut rotten = lock(&self.rotten);
        let n = rotten.len().min(limit);
        rotten.drain(..n).collect()
    }

    /// Pieces that callers asked for, each once.
    pub(super) fn take_asked(&self) -> Vec<PoolChunk> {
        std::mem::take(&mut *lock(&self.asked)).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wmall_proto::{ChunkId, PoolId};

    fn key(n: u32) -> PoolChunk {
        PoolChunk { pool: PoolId(1), chunk: ChunkId::of(&n.to_le_bytes()) }
    }

    #[test]
    fn what_callers_ask_for_is_bounded_for_each_and_loses_nothing() {
        let (books, name) = (Books::default(), |n: u32| NodeName::new(format!("user-{n}")).unwrap());
        (0..1000).for_each(|n| books.add_asked(key(n), &name(0)));
        books.add_asked(key(5000), &name(1));
        assert_eq!(books.take_asked().len(), MAX_ASKED_BY_ONE + 1, "one caller has its share");
        for caller in 0..100 {
            (0..100).for_each(|n| books.add_asked(key(caller * 100 + n), &name(caller)));
        }
        assert_eq!(books.take_asked().len(), MAX_ASKED);
        assert!(!books.lost() && books.take_asked().is_empty(), "no groups are looked through for it");
        books.add_asked(key(7), &name(1));
        books.add_asked(key(7), &name(2));
        assert_eq!((books.take_asked(), books.take_rotten(9)), (vec![key(7)], vec![]));
    }

    #[test]
    fn a_disk_that_has_seen_more_than_it_can_list_has_lost_it() {
        let books = Books::default();
        (0..MAX_ROTTEN as u32).for_each(|n| books.add_rotten(key(n)));
        assert!(!books.lost());
        books.add_rotten(key(1 << 30));
        assert!(books.lost());
        assert_eq!(books.take_rotten(1000).len(), 1000);
        assert_eq!(books.take_rotten(usize::MAX).len(), MAX_ROTTEN - 1000);
    }
}
