//! Views: ordered maps that can always be rebuilt from something durable, and are never believed further
//! than that.
//!
//! sled 0.34 is kept behind this narrow door (`sled_store.rs`), and written in large batches
//! (`buffered.rs`). Its flush is no fsync and an unflushed tail is gone after
//! a kill, so nothing is acknowledged on its word: every batch carries the position of the log that it
//! belongs to, and the owner replays from there. A view that was written in an earlier boot of the
//! machine, or that sled can't open, is moved aside and built anew.

mod buffered;
#[cfg(any(test, feature = "testing"))]
mod memory;
mod sled_store;

pub use buffered::Buffered;
#[cfg(any(test, feature = "testing"))]
pub use memory::MemoryStore;
pub use sled_store::SledStore;

/// The view can't be used. The process stops; the next start rebuilds it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the view failed: {0}")]
pub struct StoreError(pub String);

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
    /// Notes, beside the view, that it must be built anew by the next start: it has failed, or it is being
    /// built and is not whole.
    fn distrust(&self) {}
    /// Takes that back: it is whole.
    fn trust(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
    fn all_maps_conform() {
        conforms(&MemoryStore::default());
        let folder = tempfile::tempdir().unwrap();
        let sled = SledStore::create_anew(&folder.path().join("view")).unwrap();
        conforms(&sled);
        conforms(&Buffered::new(sled));
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
