//! Writes go to memory first and to sled in large batches, by a thread of its own: sled's cost is by the
//! batch and by the key, and keys such as counters are written again with every entry.
//!
//! Nothing is lost by it that sled would have kept: a view is believed only as far as the position in it
//! says, and the position travels with what it covers. Bounds: [`MAX_BYTES`] wait in memory; then writers
//! wait for the thread.

use std::ops::Bound;
use std::sync::{Arc, Condvar, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Changes, Pair, SledStore, Store, StoreError, length};

/// Bytes of changes that may wait in memory.
const MAX_BYTES: usize = 4 << 20;
/// Bytes of changes that are written out at once, without waiting for the next round.
const ENOUGH: usize = 1 << 20;
/// Between rounds.
const ROUND: Duration = Duration::from_millis(250);

#[derive(Default)]
struct Tables {
    active: Changes,
    bytes: usize,
    /// On their way to sled; read before it until they are there.
    frozen: Arc<Changes>,
}

#[derive(Default)]
struct Signal {
    wanted: bool,
    closed: bool,
    failed: Option<StoreError>,
}

struct Shared {
    sled: SledStore,
    tables: RwLock<Tables>,
    signal: Mutex<Signal>,
    changed: Condvar,
    /// Held by whoever writes to sled, so that batches go in one after another.
    writing: Mutex<()>,
}

/// A view with a write buffer.
pub struct Buffered {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) -> MutexGuard<'_, Signal> {
        self.signal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes out what waits now.
    fn drain(&self) -> Result<(), StoreError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // What could not be written stays where readers find it, and nothing is written behind it.
        if let Some(error) = self.signal().failed.clone() {
            return Err(error);
        }
        let frozen = {
            let mut tables = self.write();
            tables.bytes = 0;
            tables.frozen = Arc::new(std::mem::take(&mut tables.active));
            tables.frozen.clone()
        };
        self.changed.notify_all();
        let outcome = if frozen.is_empty() { Ok(()) } else { self.sled.apply(&frozen) };
        match &outcome {
            Ok(()) => self.write().frozen = Arc::default(),
            // What is frozen stays readable; the owner stops at its next write.
            Err(error) => {
                self.signal().failed = Some(error.clone());
                self.changed.notify_all();
            }
        }
        outcome
    }

    /// The thread: a round whenever there is enough, or time.
    fn run(&self) {
        loop {
            let closed = {
                let signal = self.signal();
                let idle = |s: &mut Signal| !s.wanted && !s.closed;
                let waited = self.changed.wait_timeout_while(signal, ROUND, idle);
                let mut signal = waited.unwrap_or_else(PoisonError::into_inner).0;
                signal.wanted = false;
                signal.closed
            };
            if self.drain().is_err() || closed {
                return;
            }
        }
    }
}

impl Buffered {
    /// A buffer before this view.
    pub fn new(sled: SledStore) -> Self {
        let shared = Arc::new(Shared {
            sled,
            tables: RwLock::default(),
            signal: Mutex::default(),
            changed: Condvar::new(),
            writing: Mutex::default(),
        });
        let worker = shared.clone();
        let thread = std::thread::Builder::new().name("view".into()).spawn(move || worker.run());
        // Without a thread every write goes through at once: slow, and as good.
        Self { shared, thread: thread.ok() }
    }

    /// Waits until there is room, unless the view has failed.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        loop {
            let mut signal = self.shared.signal();
            if let Some(error) = &signal.failed {
                return Err(error.clone());
            }
            if self.shared.read().bytes < MAX_BYTES {
                return Ok(());
            }
            signal.wanted = true;
            self.shared.changed.notify_all();
            let waited = self.shared.changed.wait_timeout(signal, ROUND);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            if self.thread.is_none() {
                self.shared.drain()?;
            }
        }
    }
}

impl Store for Buffered {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        {
            let tables = self.shared.read();
            if let Some(value) = tables.active.get(key).or_else(|| tables.frozen.get(key)) {
                return Ok(value.clone());
            }
        }
        // What was in neither table is in sled by now, or nowhere.
        self.shared.sled.get(key)
    }

    fn scan_within(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        (limit, bytes): (usize, usize),
    ) -> Result<Vec<Pair>, StoreError> {
        // Held to the end, so that no batch moves from the tables to sled between the looks at both. A batch
        // that sled is taking in is in `frozen` too, which goes first, so a half-applied one is never seen.
        let tables = self.shared.read();
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            _ if prefix.is_empty() => Bound::Included(vec![1]),
            _ => Bound::Included(prefix.to_vec()),
        };
        let range = (start, Bound::Unbounded);
        let mut active = tables.active.range::<Vec<u8>, _>(range.clone()).peekable();
        let mut frozen = tables.frozen.range::<Vec<u8>, _>(range).peekable();
        let mut sled = SledPages::new(&self.shared.sled, prefix, after, (limit, bytes));
        let (mut out, mut taken) = (Vec::new(), 0);
        while out.len() < limit && taken < bytes {
            let below = sled.peek()?.map(|(key, _)| key.clone());
            let heads = [active.peek().map(|(k, _)| *k), frozen.peek().map(|(k, _)| *k), below.as_ref()];
            let Some(key) = heads.into_iter().flatten().min().cloned() else { break };
            if !key.starts_with(prefix) {
                break;
            }
            let newest = active.next_if(|(k, _)| **k == key).map(|(_, v)| v.clone());
            let newer = frozen.next_if(|(k, _)| **k == key).map(|(_, v)| v.clone());
            let stored = sled.next_if(&key);
            if let Some(value) = newest.or(newer).unwrap_or(stored) {
                let pair = (key, value);
                taken += length(&pair);
                out.push(pair);
            }
        }
        Ok(out)
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        self.wait_for_room()?;
        let mut tables = self.shared.write();
        for (key, value) in changes {
            tables.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            tables.active.insert(key.clone(), value.clone());
        }
        let enough = tables.bytes >= ENOUGH;
        drop(tables);
        if enough {
            self.shared.signal().wanted = true;
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        let _one = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables = self.shared.write();
        *tables = Tables::default();
        self.shared.sled.clear()
    }

    fn beside(&self) -> Result<Box<dyn Store>, StoreError> {
        self.shared.sled.beside()
    }

    fn swap_in(&self) -> Result<(), StoreError> {
        // No batch is on its way to the tree that goes.
        let _one = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables = self.shared.write();
        *tables = Tables::default();
        self.shared.sled.swap_in()
    }

    fn tidy(&self) {
        self.shared.sled.tidy();
    }

    fn flush(&self) {
        if self.shared.drain().is_ok() {
            self.shared.sled.flush();
        }
    }

    fn distrust(&self) {
        self.shared.sled.distrust();
    }

    fn trust(&self) {
        self.shared.sled.trust();
    }

    fn failed(&self) -> Option<StoreError> {
        self.shared.sled.failed()
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        self.shared.signal().closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// sled's pairs under a prefix, read a page at a time.
struct SledPages<'a> {
    sled: &'a SledStore,
    prefix: &'a [u8],
    after: Option<Vec<u8>>,
    page: std::collections::VecDeque<Pair>,
    /// Pairs and bytes of a page.
    bounds: (usize, usize),
    ended: bool,
}

impl<'a> SledPages<'a> {
    fn new(
        sled: &'a SledStore,
        prefix: &'a [u8],
        after: Option<&[u8]>,
        (pairs, bytes): (usize, usize),
    ) -> Self {
        let (after, page) = (after.map(<[u8]>::to_vec), std::collections::VecDeque::new());
        Self { sled, prefix, after, page, bounds: (pairs.max(1), bytes), ended: false }
    }

    fn peek(&mut self) -> Result<Option<&Pair>, StoreError> {
        if self.page.is_empty() && !self.ended {
            let page = self.sled.scan_within(self.prefix, self.after.as_deref(), self.bounds)?;
            let (pairs, bytes) = self.bounds;
            self.ended = page.len() < pairs && page.iter().map(length).sum::<usize>() < bytes;
            self.after = page.last().map(|(key, _)| key.clone()).or(self.after.take());
            self.page = page.into();
        }
        Ok(self.page.front())
    }

    fn next_if(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let same = self.page.front().is_some_and(|(k, _)| k == key);
        if same { self.page.pop_front().map(|(_, value)| value) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::MemoryStore;

    /// The same random history on both, with the buffer written out at random moments.
    #[test]
    fn a_buffer_makes_no_difference() {
        let folder = tempfile::tempdir().unwrap();
        let buffered = Buffered::new(SledStore::create_anew(&folder.path().join("view")).unwrap());
        let memory = MemoryStore::default();
        let mut state = 7u64;
        let mut dice = |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        let key = |n: u64| format!("{}{:02}", if n < 30 { 'a' } else { 'b' }, n).into_bytes();
        for step in 0..2000 {
            let mut changes = Changes::new();
            for _ in 0..=dice(4) {
                let value = (dice(3) > 0).then(|| format!("{step}").into_bytes());
                changes.insert(key(dice(60)), value);
            }
            buffered.apply(&changes).unwrap();
            memory.apply(&changes).unwrap();
            if dice(20) == 0 {
                buffered.flush();
            }
            let at = key(dice(60));
            assert_eq!(buffered.get(&at).unwrap(), memory.get(&at).unwrap());
            let (prefix, limit) = ([&b"a"[..], b"b", b""][dice(3) as usize], 1 + dice(40) as usize);
            let after = (dice(2) == 0).then(|| key(dice(60)));
            assert_eq!(
                buffered.scan(prefix, after.as_deref(), limit).unwrap(),
                memory.scan(prefix, after.as_deref(), limit).unwrap(),
                "step {step}"
            );
            let bounds = (limit, 1 + dice(60) as usize);
            assert_eq!(
                buffered.scan_within(prefix, after.as_deref(), bounds).unwrap(),
                memory.scan_within(prefix, after.as_deref(), bounds).unwrap(),
                "step {step}"
            );
        }
        drop(buffered);
        let again = SledStore::open_trusted(&folder.path().join("view")).unwrap();
        assert_eq!(again.scan(b"", None, 100).unwrap(), memory.scan(b"", None, 100).unwrap());
    }
}
