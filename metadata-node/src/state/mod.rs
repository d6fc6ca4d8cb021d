//! The deterministic state machine: typed commands in, answers out, everything kept in one ordered map.
//!
//! Two halves: what is in the map (files, chunks, names, tickets), and what is small and read on every
//! call (topology, counters, answers, the feed), held in memory and rebuilt from the map at start.
//! Applying takes the write lock; queries and dumps take the read lock, so each sees exactly one index.

mod apply;
mod commit;
mod derived;
mod feed;
mod keys;
mod query;
mod store;
mod tickets;
mod txn;

#[cfg(test)]
mod tests;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::{LogId, StoredMembership};

use crate::types::Member;
pub use apply::Entry as StateEntry;
pub(crate) use apply::groups_of;
pub use derived::Counters;
pub(crate) use derived::Derived;
pub use query::{QueryError, Silent};
pub use store::{Changes, SledStore, Store, StoreError};

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
}

impl State {
    /// Reads the small half from the map.
    pub fn open(store: Box<dyn Store>) -> Result<Self, StoreError> {
        let derived = Derived::load(&*store)?;
        Ok(Self { store, derived: RwLock::new(derived) })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Derived> {
        self.derived.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Derived> {
        self.derived.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it stands.
    pub fn applied(&self) -> Applied {
        self.read().applied.clone()
    }

    /// Hands every pair of the map to `each`, as of one index, which is returned.
    pub fn dump(
        &self,
        mut each: impl FnMut(&[u8], &[u8]) -> std::io::Result<()>,
    ) -> Result<Applied, DumpError> {
        let derived = self.read();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan(b"", after.as_deref(), 4096)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in &page {
                if key != keys::BOOT {
                    each(key, value)?;
                }
            }
        }
        Ok(derived.applied.clone())
    }

    /// Replaces everything by these pairs. A crash in between leaves a mark that makes the next start
    /// begin again.
    pub fn load(
        &self,
        pairs: impl Iterator<Item = Result<store::Pair, StoreError>>,
    ) -> Result<(), StoreError> {
        let mut derived = self.write();
        let mark = Changes::from([(keys::BUILDING.to_vec(), Some(Vec::new()))]);
        self.store.apply(&mark)?;
        self.store.clear()?;
        self.store.apply(&mark)?;
        let mut changes = Changes::new();
        for pair in pairs {
            let (key, value) = pair?;
            changes.insert(key, Some(value));
            if changes.len() >= 1024 {
                self.store.apply(&std::mem::take(&mut changes))?;
            }
        }
        changes.insert(keys::BUILDING.to_vec(), None);
        self.store.apply(&changes)?;
        *derived = Derived::load(&*self.store)?;
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

/// Whether a store was left half-built, or written in an earlier boot, and must be built anew.
pub fn must_rebuild(store: &dyn Store, boot_id: &str) -> Result<bool, StoreError> {
    let same_boot = store.get(keys::BOOT)?.is_none_or(|stored| stored == boot_id.as_bytes());
    Ok(!same_boot || store.get(keys::BUILDING)?.is_some())
}

/// Notes in which boot the store is written.
pub fn mark_boot(store: &dyn Store, boot_id: &str) -> Result<(), StoreError> {
    store.apply(&Changes::from([(keys::BOOT.to_vec(), Some(boot_id.as_bytes().to_vec()))]))
}
