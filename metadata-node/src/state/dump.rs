//! A dump of the whole map as of one index, while entries go on being applied.
//!
//! The walk goes over the keys in their order, a page at a time. What an entry changes behind the walk has been
//! dumped already; of what it changes ahead of it, the value of before is put aside first, and dumped in the
//! place of the new one. [`MAX_ASIDE`] bytes may be aside; then applying waits until the walk is over.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use wmall_runtime::view::{Changes, Pair, Store, StoreError};

/// Pairs that are read in one step, which applying waits for.
const PAGE: usize = 1024;
/// Bytes of former values that may be aside.
const MAX_ASIDE: usize = 128 << 20;
/// Bytes that one takes beside its key and itself.
const OVERHEAD: usize = 64;

/// How far a walk has come.
enum Place {
    Start,
    /// Up to this key and including it.
    After(Vec<u8>),
    End,
}

/// A walk under way.
struct Walk {
    place: Place,
    /// What keys ahead had when the walk began and have no more.
    aside: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    max_bytes: usize,
}

impl Walk {
    fn is_ahead(&self, key: &[u8]) -> bool {
        match &self.place {
            Place::Start => true,
            Place::After(last) => key > last.as_slice(),
            Place::End => false,
        }
    }

    /// Puts aside what these changes are about to overwrite.
    fn put_aside(&mut self, store: &dyn Store, changes: &Changes) -> Result<(), StoreError> {
        for key in changes.keys() {
            if self.is_ahead(key) && !self.aside.contains_key(key) {
                let before = store.get(key)?;
                self.bytes += key.len() + before.as_ref().map_or(0, Vec::len) + OVERHEAD;
                self.aside.insert(key.clone(), before);
            }
        }
        Ok(())
    }

    /// The next pairs as they were when the walk began; none at the end.
    fn page(&mut self, store: &dyn Store) -> Result<Option<Vec<Pair>>, StoreError> {
        let after = match &self.place {
            Place::Start => None,
            Place::After(last) => Some(last.clone()),
            Place::End => return Ok(None),
        };
        let page = store.scan(b"", after.as_deref(), PAGE)?;
        let last = page.last().filter(|_| page.len() == PAGE).map(|(key, _)| key.clone());
        let aside = match &last {
            Some(last) => {
                let mut ahead = self.aside.split_off(last);
                let at_last = ahead.remove_entry(last);
                let mut here = std::mem::replace(&mut self.aside, ahead);
                here.extend(at_last);
                here
            }
            None => std::mem::take(&mut self.aside),
        };
        self.place = last.map_or(Place::End, Place::After);
        if aside.is_empty() {
            return Ok(Some(page));
        }
        let mut pairs: BTreeMap<Vec<u8>, Vec<u8>> = page.into_iter().collect();
        for (key, before) in aside {
            self.bytes -= key.len() + before.as_ref().map_or(0, Vec::len) + OVERHEAD;
            match before {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
        }
        Ok(Some(pairs.into_iter().collect()))
    }
}

/// The walk under way, if there is one.
#[derive(Default)]
pub(super) struct Walks {
    walk: Mutex<Option<Walk>>,
    room: Condvar,
    /// Held by whoever walks, and by whoever needs that nobody does.
    one: Mutex<()>,
}

impl Walks {
    fn lock(&self) -> MutexGuard<'_, Option<Walk>> {
        self.walk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the walk that is under way; no other begins before this is dropped.
    pub(super) fn none(&self) -> MutexGuard<'_, ()> {
        self.one.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a walk; the map must stand still meanwhile.
    pub(super) fn begin<'a>(&'a self, alone: MutexGuard<'a, ()>) -> Walking<'a> {
        self.begin_within(alone, MAX_ASIDE)
    }

    fn begin_within<'a>(&'a self, alone: MutexGuard<'a, ()>, max_bytes: usize) -> Walking<'a> {
        let (place, aside) = (Place::Start, BTreeMap::new());
        *self.lock() = Some(Walk { place, aside, bytes: 0, max_bytes });
        Walking { walks: self, _alone: alone }
    }

    /// Waits until more may be put aside.
    pub(super) fn wait_for_room(&self) {
        let is_full = |walk: &mut Option<Walk>| walk.as_ref().is_some_and(|w| w.bytes >= w.max_bytes);
        drop(self.room.wait_while(self.lock(), is_full).unwrap_or_else(PoisonError::into_inner));
    }

    /// Applies changes to the map that is walked over.
    pub(super) fn change(&self, store: &dyn Store, changes: &Changes) -> Result<(), StoreError> {
        let mut walk = self.lock();
        if let Some(walk) = &mut *walk {
            walk.put_aside(store, changes)?;
        }
        store.apply(changes)
    }
}

/// A walk, which ends with this value.
pub(super) struct Walking<'a> {
    walks: &'a Walks,
    _alone: MutexGuard<'a, ()>,
}

impl Walking<'_> {
    /// The next pairs as they were when the walk began; none at the end.
    pub(super) fn page(&self, store: &dyn Store) -> Result<Option<Vec<Pair>>, StoreError> {
        let page = self.walks.lock().as_mut().map(|walk| walk.page(store));
        self.walks.room.notify_all();
        page.transpose().map(Option::flatten)
    }
}

impl Drop for Walking<'_> {
    fn drop(&mut self) {
        *self.walks.lock() = None;
        self.walks.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wmall_runtime::view::MemoryStore;

    fn key(n: u64) -> Vec<u8> {
        format!("k{n:05}").into_bytes()
    }

    fn all(store: &MemoryStore) -> Vec<Pair> {
        store.scan(b"", None, usize::MAX).unwrap()
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]
        /// Whatever is written between the pages: the dump is the map as it was when the walk began.
        #[test]
        fn a_dump_is_of_its_beginning(
            there in proptest::collection::btree_map(0u64..6000, 0u8..255, 0..4000),
            batches in proptest::collection::vec(
                proptest::collection::vec((0u64..6000, proptest::option::of(0u8..255)), 0..60), 0..8),
        ) {
            let (store, walks) = (MemoryStore::default(), Walks::default());
            let first = there.iter().map(|(n, v)| (key(*n), Some(vec![*v]))).collect();
            store.apply(&first).unwrap();
            let expected = all(&store);
            let walking = walks.begin(walks.none());
            let (mut dumped, mut batches) = (Vec::new(), batches.into_iter());
            loop {
                for batch in batches.by_ref().take(2) {
                    let changes = batch.into_iter().map(|(n, v)| (key(n), v.map(|v| vec![v, 1]))).collect();
                    walks.change(&store, &changes).unwrap();
                }
                let Some(page) = walking.page(&store).unwrap() else { break };
                dumped.extend(page);
            }
            proptest::prop_assert_eq!(dumped, expected);
            proptest::prop_assert_eq!(walks.lock().as_ref().unwrap().bytes, 0);
        }
    }

    #[test]
    fn too_much_aside_waits_for_the_walk() {
        let (store, walks) = (MemoryStore::default(), Walks::default());
        store.apply(&(0..3000).map(|n| (key(n), Some(vec![0; 8]))).collect()).unwrap();
        std::thread::scope(|scope| {
            let walking = walks.begin_within(walks.none(), 100);
            walks.wait_for_room();
            walks.change(&store, &Changes::from([(key(2900), None), (key(2901), None)])).unwrap();
            let waiting = scope.spawn(|| walks.wait_for_room());
            let mut dumped = 0;
            while let Some(page) = walking.page(&store).unwrap() {
                dumped += page.len();
            }
            waiting.join().unwrap();
            assert_eq!(dumped, 3000);
        });
        walks.wait_for_room();
    }
}
