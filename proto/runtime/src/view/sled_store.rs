//! The view on sled.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::{Changes, Pair, Store, StoreError, length};
use crate::boot::boot_id;

/// sled's page cache; unbounded it takes gigabytes at a few million keys.
const CACHE_BYTES: u64 = 16 << 20;

/// The trees that take turns at being the map, and the key that says which one is it, beside both.
const TREES: [&str; 2] = ["view", "view-2"];
const CURRENT: &[u8] = b"current";

/// Keys in one batch of a tree's removal.
const REMOVED_AT_ONCE: usize = 1000;

/// In which boot a view was last written.
const BOOT_KEY: &[u8] = b"\0boot";

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

/// The map on sled.
pub struct SledStore {
    // Declared before the database: a tree must go first.
    tree: RwLock<sled::Tree>,
    db: sled::Db,
    folder: PathBuf,
    /// The first error or panic.
    failed: Arc<OnceLock<StoreError>>,
}

impl SledStore {
    /// Opens the view in this folder if it can be trusted as far as its own position says; none if it must
    /// be built anew.
    pub fn open_trusted(folder: &Path) -> Option<Self> {
        let boot = boot_id();
        if boot.is_empty() || suspect_mark(folder).exists() {
            tracing::warn!("a view failed before, or the boot cannot be told; it is built anew");
            return None;
        }
        let store = Self::open(folder).inspect_err(|e| tracing::warn!(%e, "a view does not open")).ok()?;
        let stored = store.get(BOOT_KEY).inspect_err(|e| tracing::warn!(%e, "a view can't be read")).ok()?;
        // Without a mark it was never written whole, unless it is new.
        let same = stored.as_deref().map(|b| b == boot.as_bytes());
        if !same.unwrap_or(store.tree().is_empty()) {
            tracing::info!("the machine was started anew since the view was written");
            return None;
        }
        store.mark_boot(&boot).ok()?;
        Some(store)
    }

    /// Makes an empty view. One that is there is moved aside, not deleted: whoever looks into the cause
    /// needs it. One such is kept.
    pub fn create_anew(folder: &Path) -> Result<Self, StoreError> {
        let failed = |e: std::io::Error| StoreError(format!("its folder cannot be changed: {e}"));
        if folder.exists() {
            let aside = folder.with_extension("broken");
            if aside.exists() {
                fs::remove_dir_all(&aside).map_err(failed)?;
            }
            fs::rename(folder, &aside).map_err(failed)?;
        }
        match fs::remove_file(suspect_mark(folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let store = Self::open(folder)?;
        store.mark_boot(&boot_id())?;
        Ok(store)
    }

    fn mark_boot(&self, boot: &str) -> Result<(), StoreError> {
        self.apply(&Changes::from([(BOOT_KEY.to_vec(), Some(boot.as_bytes().to_vec()))]))
    }

    /// Whatever sled does with damaged files, panics included, is an error here.
    fn open(folder: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .print_profile_on_drop(false);
        let open = move || {
            let db = config.open()?;
            let current = db.get(CURRENT)?;
            let name = TREES.iter().find(|name| current.as_deref() == Some(name.as_bytes()));
            let tree = db.open_tree(name.unwrap_or(&TREES[0]))?;
            Ok::<_, sled::Error>((tree, db))
        };
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
        match opened {
            Ok(Ok((tree, db))) => {
                let (tree, failed) = (RwLock::new(tree), Arc::default());
                Ok(Self { tree, db, folder: folder.to_path_buf(), failed })
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(StoreError("sled panicked on opening".into())),
        }
    }

    fn tree(&self) -> sled::Tree {
        self.tree.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tree whose turn is next.
    fn other(&self) -> &'static str {
        if self.tree().name() == TREES[0].as_bytes() { TREES[1] } else { TREES[0] }
    }

    /// sled drops a tree under one pin of the epoch, and frees nothing before its end: a tree of millions of
    /// keys would be in memory as a whole. So it is emptied first, in batches.
    fn remove_tree(&self, name: &str) -> Result<(), sled::Error> {
        use std::ops::Bound;
        if !self.db.tree_names().iter().any(|there| there == name.as_bytes()) {
            return Ok(());
        }
        let tree = self.db.open_tree(name)?;
        let mut start = Bound::Unbounded;
        loop {
            let (mut batch, mut removed, mut last) = (sled::Batch::default(), 0, None);
            let rest = tree.range::<sled::IVec, _>((start, Bound::Unbounded));
            for key in rest.keys().take(REMOVED_AT_ONCE) {
                let key = key?;
                batch.remove(key.clone());
                (removed, last) = (removed + 1, Some(key));
            }
            let Some(last) = last else { break };
            tree.apply_batch(batch)?;
            collect_garbage(removed);
            start = Bound::Excluded(last);
        }
        drop(tree);
        self.db.drop_tree(name).map(|_| ())
    }

    /// sled panics where others return errors. After either, nothing that it says is believed: the next start
    /// builds the view anew.
    fn guard<T>(&self, what: &str, work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StoreError> {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let outcome = match outcome {
            Ok(outcome) => outcome.map_err(StoreError::from),
            Err(_) => Err(StoreError(format!("sled panicked on {what}"))),
        };
        outcome.inspect_err(|error| {
            if self.failed.set(error.clone()).is_ok() {
                tracing::error!(%error, what, "a view failed; it is built anew at the next start");
                self.distrust();
            }
        })
    }
}

/// Has what a batch left behind freed.
///
/// sled pins the epoch once for a whole batch, each change of which leaves a former version of a page; and a
/// pin frees at most eight bags of 64 such. Batches of thousands make garbage faster than that: measured, 13
/// KiB stayed for each key, 2.6 GiB after 600,000 keys, whatever the cache's bound. With this it is 0.15 GiB,
/// and as fast.
fn collect_garbage(changes: usize) {
    const FREED_BY_A_FLUSH: usize = 128;
    for _ in 0..changes / FREED_BY_A_FLUSH + 1 {
        crossbeam_epoch::pin().flush();
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.guard("reading", || Ok(self.tree().get(key)?.map(|v| v.to_vec())))
    }

    fn scan_within(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        (limit, bytes): (usize, usize),
    ) -> Result<Vec<Pair>, StoreError> {
        use std::ops::Bound;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            _ if prefix.is_empty() => Bound::Included(vec![1]),
            _ => Bound::Included(prefix.to_vec()),
        };
        self.guard("listing", || {
            let (mut out, mut taken) = (Vec::new(), 0);
            for pair in self.tree().range((start, Bound::Unbounded)).take(limit) {
                let (key, value) = pair?;
                if !key.starts_with(prefix) {
                    break;
                }
                let pair = (key.to_vec(), value.to_vec());
                taken += length(&pair);
                out.push(pair);
                if taken >= bytes {
                    break;
                }
            }
            Ok(out)
        })
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        self.guard("writing", || self.tree().apply_batch(batch))?;
        collect_garbage(changes.len());
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.guard("clearing", || self.tree().clear())?;
        self.mark_boot(&boot_id())
    }

    fn beside(&self) -> Result<Box<dyn Store>, StoreError> {
        self.tidy();
        let tree = self.guard("opening", || self.db.open_tree(self.other()))?;
        let (db, folder, failed) = (self.db.clone(), self.folder.clone(), self.failed.clone());
        let beside = Self { tree: RwLock::new(tree), db, folder, failed };
        beside.mark_boot(&boot_id())?;
        Ok(Box::new(beside))
    }

    /// A crash on the way leaves the view distrusted, since sled does not say what of it is on disk.
    fn swap_in(&self) -> Result<(), StoreError> {
        self.distrust();
        let name = self.other();
        let tree = self.guard("swapping", || {
            self.db.insert(CURRENT, name)?;
            self.db.flush()?;
            self.db.open_tree(name)
        })?;
        *self.tree.write().unwrap_or_else(PoisonError::into_inner) = tree;
        // One that fails meanwhile, on another thread, sets the mark once it has told of it.
        if self.failed().is_none() {
            self.trust();
        }
        if self.failed().is_some() {
            self.distrust();
        }
        Ok(())
    }

    fn tidy(&self) {
        // A failure is the view's, and its owner hears of it.
        let _ = self.guard("removing a tree", || self.remove_tree(self.other()));
    }

    fn distrust(&self) {
        if let Err(error) = fs::write(suspect_mark(&self.folder), b"") {
            tracing::error!(%error, "a view could not be marked; remove its folder before the next start");
        }
    }

    fn failed(&self) -> Option<StoreError> {
        self.failed.get().cloned()
    }

    fn trust(&self) {
        if let Err(error) = fs::remove_file(suspect_mark(&self.folder))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a view's mark stays; the next start builds it anew");
        }
    }

    fn flush(&self) {
        if let Err(error) = self.guard("flushing", || self.db.flush()) {
            tracing::warn!(%error, "the view could not be flushed; the next start replays more");
        }
    }
}

/// Beside the view's folder, which is sled's.
fn suspect_mark(folder: &Path) -> PathBuf {
    folder.with_extension("suspect")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trees(store: &SledStore) -> usize {
        store.db.tree_names().iter().filter(|name| TREES.iter().any(|t| **name == t.as_bytes())).count()
    }

    #[test]
    fn a_tree_of_several_batches_is_removed_and_the_other_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::create_anew(&folder.path().join("view")).unwrap();
        let changes =
            |keys: usize| (0..keys).map(|n| (format!("k{n:05}").into(), Some(vec![1; 9]))).collect();
        store.apply(&changes(2 * REMOVED_AT_ONCE + 500)).unwrap();
        let beside = store.beside().unwrap();
        beside.apply(&changes(3)).unwrap();
        drop(beside);
        store.swap_in().unwrap();
        assert_eq!(trees(&store), 2);
        store.tidy();
        assert_eq!(trees(&store), 1);
        store.tidy();
        assert_eq!((store.scan(b"", None, 10).unwrap().len(), store.failed().is_none()), (3, true));
        assert!(store.beside().unwrap().scan(b"", None, 10).unwrap().is_empty());
    }

    #[test]
    fn a_view_that_has_failed_is_not_trusted_for_a_swap() {
        let folder = tempfile::tempdir().unwrap();
        let view = folder.path().join("view");
        let store = SledStore::create_anew(&view).unwrap();
        drop(store.beside().unwrap());
        store.swap_in().unwrap();
        assert!(!suspect_mark(&view).exists());
        store.tidy();
        drop(store.beside().unwrap());
        store.failed.set(StoreError("it failed".into())).unwrap();
        store.swap_in().unwrap();
        assert!(suspect_mark(&view).exists());
    }
}
