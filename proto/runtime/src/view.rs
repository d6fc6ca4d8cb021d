//! Views: ordered maps that can always be rebuilt from something durable, and are never believed further
//! than that.
//!
//! sled 0.34 is kept behind this narrow door. Its flush is no fsync and an unflushed tail is gone after
//! a kill, so nothing is acknowledged on its word: every batch carries the position of the log that it
//! belongs to, and the owner replays from there. A view that was written in an earlier boot of the
//! machine, or that sled can't open, is moved aside and built anew.

use std::fs;
use std::path::Path;

use crate::boot::boot_id;

/// sled's page cache; unbounded it takes gigabytes at a few million keys.
const CACHE_BYTES: u64 = 16 << 20;

/// The view can't be used. The process stops; the next start rebuilds it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the view failed: {0}")]
pub struct StoreError(pub String);

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

/// In which boot a view was last written.
const BOOT_KEY: &[u8] = b"\0boot";

/// Changes that take effect together; none removes a key.
pub type Changes = std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// An ordered map of bytes. Keys that start with a zero byte are the view's own.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Keys that start with `prefix` and are greater than `after`, in order, at most `limit`.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError>;
    /// Applies all changes or none.
    fn apply(&self, changes: &Changes) -> Result<(), StoreError>;
    /// Removes everything.
    fn clear(&self) -> Result<(), StoreError>;
    /// Writes out what is in memory, so that the next start has less to replay. No durability hangs on it.
    fn flush(&self) {}
}

/// The map on sled.
pub struct SledStore {
    // Declared before the database: a tree must go first.
    tree: sled::Tree,
    db: sled::Db,
}

impl SledStore {
    /// Opens the view in this folder if it can be trusted as far as its own position says; none if it must
    /// be built anew.
    pub fn open_trusted(folder: &Path) -> Option<Self> {
        let boot = boot_id();
        let store = Self::open(folder).inspect_err(|e| tracing::warn!(%e, "a view does not open")).ok()?;
        let stored = store.get(BOOT_KEY).inspect_err(|e| tracing::warn!(%e, "a view can't be read")).ok()?;
        if stored.is_some_and(|b| b != boot.as_bytes()) {
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
            let tree = db.open_tree("view")?;
            Ok::<_, sled::Error>((tree, db))
        };
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
        match opened {
            Ok(Ok((tree, db))) => Ok(Self { tree, db }),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(StoreError("sled panicked on opening".into())),
        }
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tree.get(key)?.map(|v| v.to_vec()))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        use std::ops::Bound;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            _ if prefix.is_empty() => Bound::Included(vec![1]),
            _ => Bound::Included(prefix.to_vec()),
        };
        let mut out = Vec::new();
        for pair in self.tree.range((start, Bound::Unbounded)).take(limit) {
            let (key, value) = pair?;
            if !key.starts_with(prefix) {
                break;
            }
            out.push((key.to_vec(), value.to_vec()));
        }
        Ok(out)
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        Ok(self.tree.apply_batch(batch)?)
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.tree.clear()?;
        self.mark_boot(&boot_id())
    }

    fn flush(&self) {
        if let Err(error) = self.db.flush() {
            tracing::warn!(%error, "the view could not be flushed; the next start replays more");
        }
    }
}

/// The map in memory, for tests of what stands on it.
#[cfg(any(test, feature = "testing"))]
#[derive(Default)]
pub struct MemoryStore(std::sync::RwLock<std::collections::BTreeMap<Vec<u8>, Vec<u8>>>);

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)] // A poisoned lock means that the test has failed already.
impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.read().unwrap().get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        let map = self.0.read().unwrap();
        let behind = |k: &Vec<u8>| after.is_none_or(|a| k.as_slice() > a);
        let pairs = map.range(prefix.to_vec()..).take_while(|(k, _)| k.starts_with(prefix));
        Ok(pairs.filter(|(k, _)| behind(k)).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut map = self.0.write().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.0.write().unwrap().clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conforms(store: &dyn Store) {
        let mut changes = Changes::new();
        for key in ["a1", "a2", "a3", "b1"] {
            changes.insert(key.into(), Some(format!("v-{key}").into()));
        }
        store.apply(&changes).unwrap();
        assert_eq!(store.get(b"a2").unwrap().unwrap(), b"v-a2");
        let keys = |pairs: Vec<Pair>| -> Vec<String> {
            pairs.into_iter().map(|(k, _)| String::from_utf8(k).unwrap()).collect()
        };
        assert_eq!(keys(store.scan(b"a", None, 10).unwrap()), ["a1", "a2", "a3"]);
        assert_eq!(keys(store.scan(b"a", Some(b"a1"), 1).unwrap()), ["a2"]);
        assert_eq!(keys(store.scan(b"b", Some(b"a9"), 10).unwrap()), ["b1"]);
        store.apply(&Changes::from([(b"a2".to_vec(), None)])).unwrap();
        assert_eq!(store.get(b"a2").unwrap(), None);
        store.clear().unwrap();
        assert!(store.scan(b"", None, 10).unwrap().is_empty());
    }

    #[test]
    fn both_maps_conform() {
        conforms(&MemoryStore::default());
        let folder = tempfile::tempdir().unwrap();
        conforms(&SledStore::open(&folder.path().join("view")).unwrap());
    }

    #[test]
    fn a_damaged_folder_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("conf"), b"\xff\xff nonsense").unwrap();
        assert!(SledStore::open_trusted(folder.path()).is_none());
        let view = folder.path().join("view");
        fs::create_dir(&view).unwrap();
        fs::write(view.join("conf"), b"\xff\xff nonsense").unwrap();
        let anew = SledStore::create_anew(&view).unwrap();
        assert!(anew.scan(b"", None, 1).unwrap().is_empty());
        assert!(folder.path().join("view.broken").exists());
    }
}
