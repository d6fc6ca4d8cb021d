//! The ordered map under the state machine. A view: everything in it can be rebuilt from the newest
//! snapshot and the Raft log, and nothing is acknowledged on its word.
//!
//! sled 0.34 is kept behind this narrow door. Its flush is no fsync and an unflushed tail is gone after
//! a kill, so every batch carries the log position it belongs to, and the owner replays from there.

use std::path::{Path, PathBuf};

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

/// Changes that take effect together; none removes a key.
pub type Changes = std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// An ordered map of bytes.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Keys that start with `prefix` and are greater than `after`, in order, at most `limit`.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError>;
    /// Applies all changes or none.
    fn apply(&self, changes: &Changes) -> Result<(), StoreError>;
    /// Removes everything.
    fn clear(&self) -> Result<(), StoreError>;
}

/// The map on sled.
pub struct SledStore {
    // Declared before the database: a tree must go first.
    tree: sled::Tree,
    db: sled::Db,
    folder: PathBuf,
}

impl SledStore {
    /// Opens or makes the map in this folder. Whatever sled does with damaged files, panics included, is
    /// an error here.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .print_profile_on_drop(false);
        let open = move || {
            let db = config.open()?;
            let tree = db.open_tree("state")?;
            Ok::<_, sled::Error>((tree, db))
        };
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
        match opened {
            Ok(Ok((tree, db))) => Ok(Self { tree, db, folder: folder.to_path_buf() }),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(StoreError("sled panicked on opening".into())),
        }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes out what is in memory, so that the next start has less to replay. No durability hangs on it.
    pub fn flush(&self) {
        if let Err(error) = self.db.flush() {
            tracing::warn!(%error, "the view could not be flushed; the next start replays more");
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
        Ok(self.tree.clear()?)
    }
}

/// The map in memory, for tests of what stands on it.
#[cfg(test)]
#[derive(Default)]
pub struct MemoryStore(std::sync::RwLock<std::collections::BTreeMap<Vec<u8>, Vec<u8>>>);

#[cfg(test)]
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
        assert!(SledStore::open(folder.path()).is_err());
    }
}
