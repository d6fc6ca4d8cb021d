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

/// Bytes of a pair's key and value.
fn length((key, value): &Pair) -> usize {
    key.len() + value.len()
}

/// An ordered map of bytes. Keys that start with a zero byte are the view's own.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Keys that start with `prefix` and are greater than `after`, in order, at most `limit`.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.scan_within(prefix, after, (limit, usize::MAX))
    }
    /// The same, bounded by bytes too: ends behind the pair with which so many bytes of keys and values are
    /// reached. So a page can be short and not the last one; only an empty one says that nothing follows.
    fn scan_within(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        bounds: (usize, usize),
    ) -> Result<Vec<Pair>, StoreError>;
    /// Applies all changes or none.
    fn apply(&self, changes: &Changes) -> Result<(), StoreError>;
    /// Removes everything.
    fn clear(&self) -> Result<(), StoreError>;
    /// An empty map beside this one, to be filled and swapped in. There is one at most, and this one goes on
    /// meanwhile.
    fn beside(&self) -> Result<Box<dyn Store>, StoreError>;
    /// Puts what [`Self::beside`] was filled with in the place of everything, in one short step. Nobody reads
    /// or writes this map meanwhile.
    fn swap_in(&self) -> Result<(), StoreError>;
    /// Removes what a swap has left, which may take a while.
    fn tidy(&self) {}
    /// Writes out what is in memory, so that the next start has less to replay. No durability hangs on it.
    fn flush(&self) {}
    /// Notes, beside the view, that it must be built anew by the next start: it has failed, or it is being
    /// built and is not whole.
    fn distrust(&self) {}
    /// Takes that back: it is whole.
    fn trust(&self) {}
    /// Its first error or panic, if there was one: it is of no more use to this process.
    fn failed(&self) -> Option<StoreError> {
        None
    }
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
        // A pair has six bytes.
        let within = |after: &[u8], bounds| keys(store.scan_within(b"a", Some(after), bounds).unwrap());
        assert_eq!(within(b"a0", (10, 6)), ["a1"]);
        assert_eq!(within(b"a0", (10, 7)), ["a1", "a2"]);
        assert_eq!(within(b"a0", (1, 7)), ["a1"]);
        assert_eq!(within(b"a2", (10, 1)), ["a3"], "one at the least");
        assert!(within(b"a3", (10, 1)).is_empty());
        store.apply(&Changes::from([(b"a2".to_vec(), None)])).unwrap();
        assert_eq!(store.get(b"a2").unwrap(), None);
        let beside = store.beside().unwrap();
        beside.apply(&Changes::from([(b"c1".to_vec(), Some(b"new".to_vec()))])).unwrap();
        assert_eq!(store.get(b"c1").unwrap(), None, "not yet");
        assert_eq!(store.get(b"a1").unwrap().unwrap(), b"v-a1");
        drop(beside);
        // One that was begun and left leaves nothing to the next.
        let beside = store.beside().unwrap();
        assert!(beside.scan(b"", None, 10).unwrap().is_empty());
        beside.apply(&Changes::from([(b"d1".to_vec(), Some(b"new".to_vec()))])).unwrap();
        beside.flush();
        drop(beside);
        store.swap_in().unwrap();
        store.tidy();
        assert_eq!(keys(store.scan(b"", None, 10).unwrap()), ["d1"]);
        store.apply(&Changes::from([(b"d2".to_vec(), Some(b"newer".to_vec()))])).unwrap();
        store.flush();
        assert_eq!(keys(store.scan(b"", None, 10).unwrap()), ["d1", "d2"]);
        store.clear().unwrap();
        assert!(store.scan(b"", None, 10).unwrap().is_empty());
    }

    #[test]
    fn what_was_swapped_in_is_there_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let view = folder.path().join("view");
        let put = |store: &dyn Store, key: &str| {
            store.apply(&Changes::from([(key.into(), Some(b"v".to_vec()))])).unwrap();
        };
        let keys = |store: &dyn Store| -> Vec<Vec<u8>> {
            store.scan(b"", None, 10).unwrap().into_iter().map(|(key, _)| key).collect()
        };
        for round in 0..3 {
            let store = match round {
                0 => SledStore::create_anew(&view).unwrap(),
                _ => SledStore::open_trusted(&view).unwrap(),
            };
            let store = Buffered::new(store);
            put(&store, "before");
            let beside = store.beside().unwrap();
            put(&*beside, &format!("round-{round}"));
            drop(beside);
            store.swap_in().unwrap();
            store.tidy();
            put(&store, "after");
            drop(store);
            let again = SledStore::open_trusted(&view).unwrap();
            assert_eq!(keys(&again), [b"after".to_vec(), format!("round-{round}").into_bytes()]);
        }
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

    /// What the view holds after so many batches, each of which says how many there were.
    fn after(batches: u32) -> Vec<Pair> {
        let mut map = std::collections::BTreeMap::new();
        for batch in 1..=batches {
            map.extend(batch_of(batch));
        }
        map.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    fn batch_of(n: u32) -> Changes {
        let mut changes = Changes::from([(b"position".to_vec(), Some(n.to_le_bytes().to_vec()))]);
        for i in 0..8 {
            let key = format!("key-{:03}", (n * 37 + i * 11) % 200).into_bytes();
            let value = !(i + n).is_multiple_of(5);
            changes.insert(key, value.then(|| format!("{n}-{i}").repeat(20).into_bytes()));
        }
        changes
    }

    /// A thousand single-byte flips in sled's files: what is read is what was written, up to the batch that
    /// the view says it stands at, or it is an error and the view is built anew.
    #[test]
    fn a_flipped_byte_in_a_view_is_never_read_as_something_else() {
        const BATCHES: u32 = 150;
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        {
            let store = SledStore::create_anew(&whole).unwrap();
            for n in 1..=BATCHES {
                store.apply(&batch_of(n)).unwrap();
                if n.is_multiple_of(50) {
                    store.flush();
                }
            }
        }
        let copy = |to: &std::path::Path| {
            let _ = fs::remove_dir_all(to);
            let _ = fs::remove_file(to.with_extension("suspect"));
            fs::create_dir(to).unwrap();
            let mut files = Vec::new();
            for entry in fs::read_dir(&whole).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                    files.push(to.join(entry.file_name()));
                }
            }
            files.sort();
            files
        };
        let mut state = 5u64;
        let mut dice = |sides: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % sides
        };
        let (mut refused, mut shorter) = (0, 0);
        let to = folder.path().join("view");
        for flip in 0..1000 {
            let files = copy(&to);
            // Half of them in the first file, which is short and says how to read the rest.
            let file = &files[if flip % 2 == 0 { 0 } else { dice(files.len()) }];
            let mut bytes = fs::read(file).unwrap();
            // Where something is written: the rest of the log is zeros that nobody reads.
            let written = bytes.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
            if written == 0 {
                continue;
            }
            let at = dice(written);
            bytes[at] ^= 1 << dice(8);
            fs::write(file, bytes).unwrap();
            let Some(store) = SledStore::open_trusted(&to) else {
                refused += 1;
                continue;
            };
            let read =
                store.get(b"position").and_then(|position| Ok((position, store.scan(b"", None, 1000)?)));
            let (position, pairs) = match read {
                Ok((position, pairs)) => (position, pairs),
                Err(_) => {
                    assert!(store.failed().is_some());
                    drop(store);
                    assert!(
                        SledStore::open_trusted(&to).is_none(),
                        "flip {flip}: it failed and is trusted again"
                    );
                    refused += 1;
                    continue;
                }
            };
            let position = position.map_or(0, |p| u32::from_le_bytes(p.try_into().unwrap()));
            assert_eq!(pairs, after(position), "flip {flip}: byte {at} of {}", file.display());
            shorter += u32::from(position < BATCHES);
        }
        assert!(refused + shorter > 50, "{refused} refused, {shorter} shorter");
    }
}
