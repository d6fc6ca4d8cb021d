//! A dump of the whole map as of one index, while entries go on being applied.
//!
//! The walk goes over the keys in their order, a page at a time. What an entry changes behind the walk has
//! been dumped already; of what it changes ahead of it, the value of before is put aside first, and dumped in
//! the place of the new one. Of a key that is new, only the key is kept. [`MOST`] says how much may be aside;
//! then applying waits until the walk has come further.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use wmall_runtime::view::{Changes, Pair, Store, StoreError};

/// Pairs and bytes that are read in one step, which applying waits for; the last pair may go beyond.
const PAGE: usize = 1024;
const PAGE_BYTES: usize = 1 << 20;

/// Bytes that may be aside: a bound for former values and one for new keys, so that entries which only add do
/// not wait for a long walk.
const MOST: Bounds = Bounds { former: 128 << 20, new: 256 << 20 };
/// Bytes that a former value takes beside its key and itself, and a new key beside itself.
const FORMER_OVERHEAD: usize = 64;
const NEW_OVERHEAD: usize = 32;

#[derive(Clone, Copy)]
struct Bounds {
    former: usize,
    new: usize,
}

/// How far a walk has come.
enum Place {
    Start,
    /// Up to this key and including it.
    After(Vec<u8>),
    End,
}

/// What was put aside.
#[derive(Default)]
struct Aside {
    /// Values that keys ahead had when the walk began and have no more.
    former: BTreeMap<Vec<u8>, Vec<u8>>,
    former_bytes: usize,
    /// Keys ahead that were not there when the walk began.
    new: BTreeSet<Vec<u8>>,
    new_bytes: usize,
}

impl Aside {
    fn knows(&self, key: &[u8]) -> bool {
        self.former.contains_key(key) || self.new.contains(key)
    }

    fn put(&mut self, key: &[u8], before: Option<Vec<u8>>) {
        match before {
            Some(value) => {
                self.former_bytes += key.len() + value.len() + FORMER_OVERHEAD;
                self.former.insert(key.to_vec(), value);
            }
            None => {
                self.new_bytes += key.len() + NEW_OVERHEAD;
                self.new.insert(key.to_vec());
            }
        }
    }

    fn is_full(&self, most: Bounds) -> bool {
        self.former_bytes >= most.former || self.new_bytes >= most.new
    }

    /// Makes a page that was read now, and reaches up to `last` or to the end, what it was when the walk
    /// began.
    fn restore(&mut self, page: Vec<Pair>, last: Option<&[u8]>) -> Vec<Pair> {
        let is_here = |key: &[u8]| last.is_none_or(|last| key <= last);
        let mut pairs: Option<BTreeMap<Vec<u8>, Vec<u8>>> = None;
        let mut page = Some(page);
        let mut changed = || -> BTreeMap<Vec<u8>, Vec<u8>> { page.take().into_iter().flatten().collect() };
        while let Some(first) = self.former.first_entry().filter(|first| is_here(first.key())) {
            let (key, value) = first.remove_entry();
            self.former_bytes -= key.len() + value.len() + FORMER_OVERHEAD;
            pairs.get_or_insert_with(&mut changed).insert(key, value);
        }
        while self.new.first().is_some_and(|first| is_here(first)) {
            let Some(key) = self.new.pop_first() else { break };
            self.new_bytes -= key.len() + NEW_OVERHEAD;
            pairs.get_or_insert_with(&mut changed).remove(&key);
        }
        match pairs {
            Some(pairs) => pairs.into_iter().collect(),
            None => page.unwrap_or_default(),
        }
    }
}

/// A walk under way.
struct Walk {
    place: Place,
    aside: Aside,
    most: Bounds,
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
            if self.is_ahead(key) && !self.aside.knows(key) {
                self.aside.put(key, store.get(key)?);
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
        let page = store.scan_within(b"", after.as_deref(), (PAGE, PAGE_BYTES))?;
        // A page may be short for its bytes, so that only an empty one is the end.
        let last = page.last().map(|(key, _)| key.clone());
        let pairs = self.aside.restore(page, last.as_deref());
        self.place = last.map_or(Place::End, Place::After);
        Ok(Some(pairs))
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
        self.begin_within(alone, MOST)
    }

    fn begin_within<'a>(&'a self, alone: MutexGuard<'a, ()>, most: Bounds) -> Walking<'a> {
        let (place, aside) = (Place::Start, Aside::default());
        *self.lock() = Some(Walk { place, aside, most });
        Walking { walks: self, _alone: alone }
    }

    /// Waits until more may be put aside.
    pub(super) fn wait_for_room(&self) {
        let is_full = |walk: &mut Option<Walk>| walk.as_ref().is_some_and(|w| w.aside.is_full(w.most));
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
            let walk = walks.lock();
            let aside = &walk.as_ref().unwrap().aside;
            proptest::prop_assert_eq!((aside.former_bytes, aside.new_bytes), (0, 0));
        }
    }

    #[test]
    fn too_much_aside_waits_for_the_walk() {
        let (store, walks) = (MemoryStore::default(), Walks::default());
        store.apply(&(0..3000).map(|n| (key(n), Some(vec![0; 8]))).collect()).unwrap();
        std::thread::scope(|scope| {
            let walking = walks.begin_within(walks.none(), Bounds { former: 100, new: 100 });
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

    #[test]
    fn new_keys_take_no_room_of_former_values() {
        let (store, walks) = (MemoryStore::default(), Walks::default());
        store.apply(&(0..10).map(|n| (key(n), Some(vec![0; 8]))).collect()).unwrap();
        let walking = walks.begin_within(walks.none(), Bounds { former: 100, new: 1000 });
        let is_full = || walks.lock().as_ref().is_some_and(|w| w.aside.is_full(w.most));
        let put = |n: u64| walks.change(&store, &Changes::from([(key(n), Some(vec![1; 9000]))])).unwrap();
        // Six bytes each and 32 beside: the 27th is the one that is too much.
        (100..126).for_each(put);
        assert!(!is_full(), "former values would have waited");
        put(126);
        assert!(is_full(), "they have a bound of their own");
        assert_eq!(walking.page(&store).unwrap().map(|page| page.len()), Some(10));
        while walking.page(&store).unwrap().is_some_and(|page| page.is_empty()) {}
        assert!(!is_full());
        put(127);
        assert!(!is_full(), "the walk is over");
    }

    #[test]
    fn a_page_of_long_values_is_short_and_not_the_last_one() {
        let (store, walks) = (MemoryStore::default(), Walks::default());
        store.apply(&(0..40).map(|n| (key(n), Some(vec![0; 131_000]))).collect()).unwrap();
        let walking = walks.begin(walks.none());
        let mut pages = Vec::new();
        while let Some(page) = walking.page(&store).unwrap() {
            pages.push(page.len());
        }
        // Eight values are a little less than a mebibyte.
        assert_eq!(pages, [9, 9, 9, 9, 4, 0]);
    }
}
