//! The deterministic state machine: typed commands in, answers out, everything kept in one ordered map.
//!
//! Two halves: what is in the map (files, chunks, names, tickets), and what is small and read on every call
//! (topology, counters, answers, the feed), held in memory and rebuilt from the map at start. Applying takes
//! the write lock and queries the read lock, so each sees exactly one index. A dump goes on beside both
//! (`dump.rs`), and a load fills a second map that takes the place of the first in one step.

mod acts;
mod admission;
mod answers;
mod apply;
mod audit;
mod commit;
mod derived;
mod dump;
mod events;
mod feed;
mod garbage;
mod graded;
mod identity;
mod keys;
mod lists;
mod missing;
mod moves;
mod names;
mod nodes;
mod operations;
mod parts;
mod query;
mod ranges;
mod rebuild;
mod recent;
mod samples;
mod stripes;
mod tickets;
mod txn;
mod uploads;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::{LogId, StoredMembership};
use tokio::sync::watch;
use wmall_proto::feed::{FeedItem, FeedPage};
use wmall_proto::pg::PgKey;
use wmall_proto::topology::{EncodedMap, MapChanges};
use wmall_proto::{DiskId, RequestId};

use wmall_runtime::view::{Changes, Pair, Store, StoreError};

use crate::types::Member;
pub use apply::Entry as StateEntry;
pub use audit::{Audit, Auditor};
pub(crate) use derived::Derived;
pub use derived::{Clock, Counters, NO_EPOCH, PoolCounters, Untold};
use dump::Walks;
pub(crate) use identity::LONGEST_LIFE_MS;
pub use missing::Listing;
pub(crate) use moves::clean_groups;
pub(crate) use operations::slots_and_sources;
pub use query::{QueryError, Silent};
pub(crate) use rebuild::{FoundFile, Shards};
pub(crate) use samples::Expected;

/// Where the state machine stands in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Applied {
    /// The last entry that is in the map.
    pub log_id: Option<LogId<u64>>,
    /// The last membership that is.
    pub membership: StoredMembership<u64, Member>,
}

/// The state machine.
pub struct State {
    store: Box<dyn Store>,
    derived: RwLock<Derived>,
    /// Told of each new version of the map.
    map_changed: watch::Sender<u64>,
    /// What in the map made no sense, if anything did.
    damaged: OnceLock<StoreError>,
    /// Held by whoever changes the map or needs it to stand still. Queries go on meanwhile.
    changing: Mutex<()>,
    /// A dump under way, which changes make allowance for.
    walks: Walks,
    /// The clock once more, apart: answers to Raft read it, and must not wait while a snapshot is loaded.
    clock: Mutex<Clock>,
}

impl State {
    /// Reads the small half from the map.
    pub fn open(store: Box<dyn Store>) -> Result<Self, StoreError> {
        let derived = Derived::load(&*store)?;
        let map_changed = watch::Sender::new(derived.topology.version);
        let (damaged, changing) = (OnceLock::new(), Mutex::new(()));
        let clock = Mutex::new(derived.counters.clock);
        let (derived, walks) = (RwLock::new(derived), Walks::default());
        Ok(Self { store, derived, map_changed, damaged, changing, walks, clock })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Derived> {
        self.derived.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Derived> {
        self.derived.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees each new version of the map, and the present one at once.
    pub fn map_versions(&self) -> watch::Receiver<u64> {
        let mut versions = self.map_changed.subscribe();
        versions.mark_changed();
        versions
    }

    /// The map's first error, if there was one.
    pub fn failed(&self) -> Option<StoreError> {
        self.store.failed().or_else(|| self.damaged.get().cloned())
    }

    /// What was read makes no sense: the map is not believed any more, and the next start builds it anew.
    fn condemn(&self, error: &StoreError) {
        if self.damaged.set(error.clone()).is_ok() {
            tracing::error!(%error, "the view is damaged");
            self.store.distrust();
        }
    }

    /// Where it stands.
    pub fn applied(&self) -> Applied {
        self.read().applied.clone()
    }

    /// The cluster's clock as of the last entry.
    pub fn clock(&self) -> Clock {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show_clock(&self, clock: Clock) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    /// Writes the map out, so that the next start has less to replay. No durability hangs on it.
    pub fn flush(&self) {
        self.store.flush();
    }

    /// True if this request has been judged and its answer is kept.
    pub(crate) fn has_answer(&self, request: &RequestId) -> bool {
        self.read().answers.get(request).is_some()
    }

    /// What happened behind `position`, as far as it concerns these disks.
    pub fn feed(&self, (epoch, position): (u64, u64), disks: &[DiskId]) -> (u64, FeedPage) {
        let derived = self.read();
        let now = derived.counters.feed_epoch;
        if now != epoch {
            return (now, FeedPage::Behind { position: derived.index() });
        }
        let topology = derived.topology.clone();
        let page = derived.feed.page(position, |item| match item {
            FeedItem::Released { disk, .. } => disks.contains(disk),
            FeedItem::Fenced { .. } => true,
            FeedItem::Committed { chunk, .. } | FeedItem::Deleted(chunk) => {
                let row = topology.row_of(chunk.pool, &chunk.chunk).map(|(_, row)| row);
                row.is_some_and(|r| r.holders().any(|(_, disk)| disks.contains(&disk)))
            }
        });
        (now, page)
    }

    /// The map as it travels. It is encoded once a version, outside of the lock.
    pub fn encoded_map(&self) -> EncodedMap {
        let (topology, encoded) = {
            let derived = self.read();
            (derived.topology.clone(), derived.encoded.clone())
        };
        encoded.get_or_init(|| EncodedMap::of(&topology)).clone()
    }

    /// What is new in the map since a version of it, if that is less than the map.
    pub fn map_changes(&self, known: u64) -> Option<MapChanges> {
        let derived = self.read();
        derived.recent.since(known, &derived.topology)
    }

    /// Those of the disks that have tickets or dirty groups.
    pub fn work_of(&self, disks: &[DiskId]) -> Vec<DiskId> {
        let derived = self.read();
        let rows = || derived.topology.pools.values().flat_map(|t| &t.rows);
        let dirty = |disk: DiskId| {
            rows().any(|r| r.slot_of(disk).is_some_and(|s| r.dirty_at[usize::from(s)].is_some()))
        };
        // What the source of a move lacks, it need not get.
        let has_slot = |disk: DiskId, (pool, pg): &PgKey| {
            let row = derived.topology.pools.get(pool).and_then(|t| t.rows.get(pg.0 as usize));
            row.is_some_and(|row| row.slot_of(disk).is_some())
        };
        let ticketed = |disk: &DiskId| {
            derived.counters.tickets.get(disk).is_some_and(|&n| n > 0)
                && derived.tickets.iter().any(|((d, group), &n)| d == disk && n > 0 && has_slot(*d, group))
        };
        let believed =
            |disk: &DiskId| derived.topology.disks.get(disk).is_some_and(|d| d.quarantined_ms.is_none());
        disks.iter().copied().filter(believed).filter(|d| ticketed(d) || dirty(*d)).collect()
    }

    /// Hands every pair of the map to `each`, as of the index at which this begins, which is returned.
    /// Entries go on being applied meanwhile.
    pub fn dump(
        &self,
        mut each: impl FnMut(&[u8], &[u8]) -> std::io::Result<()>,
    ) -> Result<Applied, DumpError> {
        let alone = self.walks.none();
        let (walking, applied) = {
            let _still = self.changing();
            (self.walks.begin(alone), self.applied())
        };
        while let Some(page) = walking.page(&*self.store)? {
            for (key, value) in &page {
                each(key, value)?;
            }
        }
        Ok(applied)
    }

    /// Replaces everything by these pairs. Until all of them are there, queries see what was before, and so
    /// does the next start after a crash.
    pub fn load(&self, pairs: impl Iterator<Item = Result<Pair, StoreError>>) -> Result<(), StoreError> {
        let _alone = self.walks.none();
        // What a load of before has left may be large, and applying need not wait for its removal.
        self.store.tidy();
        let still = self.changing();
        let beside = self.store.beside()?;
        let mut changes = Changes::new();
        for pair in pairs {
            let (key, value) = pair?;
            changes.insert(key, Some(value));
            if changes.len() >= 1024 {
                beside.apply(&std::mem::take(&mut changes))?;
            }
        }
        beside.apply(&changes)?;
        beside.flush();
        let loaded = Derived::load(&*beside)?;
        drop(beside);
        let mut derived = self.write();
        self.store.swap_in()?;
        *derived = loaded;
        self.show_clock(derived.counters.clock);
        self.map_changed.send_replace(derived.topology.version);
        drop(derived);
        drop(still);
        self.store.tidy();
        Ok(())
    }
}

/// How far above its versions in the snapshot a restored map goes on, until its life begins: as many as pass
/// in a millisecond at most. Versions further ahead would pass for those by the clock that the life gives its
/// rows (`begin_epoch`), and two restores of one snapshot would have the same ones.
const VERSIONS_AHEAD: u64 = 1 << 16;

impl State {
    /// Makes what was loaded from a snapshot file the beginning of a new life: these members, no join token,
    /// no deletion until an operator allows it, no place in the feed that any data node may go on from, and a
    /// map that is newer than all that were handed out.
    pub fn begin_again(&self, members: openraft::Membership<u64, Member>) -> Result<(), StoreError> {
        let _still = self.changing();
        let mut derived = self.write();
        let at = *derived.applied.membership.log_id();
        derived.applied.membership = StoredMembership::new(at, members);
        derived.counters.deletion_held = true;
        // How long ago the file was written, only the nodes' clocks can tell.
        derived.counters.clock.may_jump = true;
        derived.counters.feed_epoch = NO_EPOCH;
        derived.counters.topology_version += VERSIONS_AHEAD;
        // Slots may have moved since the file was written, and their former disks have dropped what they
        // held. So every disk looks through its groups, and sources count for nothing. And no piece on a disk
        // is by a later row than those that are handed out from now on.
        let mut rows = Changes::new();
        for (&pool, table) in &derived.topology.pools {
            for (number, row) in table.rows.iter().enumerate() {
                let mut row = row.clone();
                row.version += VERSIONS_AHEAD;
                row.dirty_at
                    .iter_mut()
                    .for_each(|mark| *mark = Some(mark.unwrap_or(wmall_proto::pg::UNVERIFIED)));
                row.sources.iter_mut().flatten().for_each(|s| s.vouched = false);
                let key = keys::row(pool, wmall_proto::PgId(number as u32));
                rows.insert(key, Some(wmall_proto::codec::encode(&row)));
            }
        }
        let applied = serde_json::to_vec(&derived.applied).unwrap_or_default();
        let counters = wmall_proto::codec::encode(&derived.counters);
        let mut changes = Changes::from([
            (keys::APPLIED.to_vec(), Some(applied)),
            (keys::COUNTERS.to_vec(), Some(counters)),
        ]);
        changes.extend(rows);
        // Which processes run now, the snapshot does not know.
        let starts = derived.starts.iter().map(|(node, starts)| {
            (keys::starts(node), Some(wmall_proto::codec::encode(&starts.without_process())))
        });
        changes.extend(starts);
        // Some of them have been used since the snapshot was taken.
        changes.extend(derived.join_tokens.keys().map(|id| (keys::token(id), None)));
        self.walks.change(&*self.store, &changes)?;
        *derived = Derived::load(&*self.store)?;
        self.show_clock(derived.counters.clock);
        Ok(())
    }
}

/// Why a dump was not finished.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The map's error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The receiver's error.
    #[error("the dump could not be written")]
    Io(#[from] std::io::Error),
}
