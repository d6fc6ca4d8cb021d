//! A view in memory.

use std::sync::{Arc, RwLock};

use super::{Changes, Pair, Store, StoreError, length};

type Map = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

/// The map in memory, for tests of what stands on it.
#[derive(Default)]
pub struct MemoryStore {
    now: Arc<RwLock<Map>>,
    /// As it was flushed last.
    flushed: RwLock<Map>,
    /// What is to be swapped in.
    beside: Arc<RwLock<Map>>,
}

#[allow(clippy::unwrap_used)] // As below.
impl MemoryStore {
    /// What a process that was killed leaves of it at the least: what was there when it was flushed last.
    pub fn as_flushed(&self) -> Self {
        let flushed = self.flushed.read().unwrap().clone();
        Self { now: Arc::new(flushed.clone().into()), flushed: flushed.into(), beside: Arc::default() }
    }
}

#[allow(clippy::unwrap_used)] // A poisoned lock means that the test has failed already.
impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.now.read().unwrap().get(key).cloned())
    }

    fn scan_within(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        (limit, bytes): (usize, usize),
    ) -> Result<Vec<Pair>, StoreError> {
        let map = self.now.read().unwrap();
        let behind = |k: &Vec<u8>| after.is_none_or(|a| k.as_slice() > a);
        let pairs = map.range(prefix.to_vec()..).take_while(|(k, _)| k.starts_with(prefix));
        let pairs = pairs.filter(|(k, _)| behind(k)).map(|(k, v)| (k.clone(), v.clone()));
        let (mut out, mut taken) = (Vec::new(), 0);
        for pair in pairs.take(limit) {
            taken += length(&pair);
            out.push(pair);
            if taken >= bytes {
                break;
            }
        }
        Ok(out)
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut map = self.now.write().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
        Ok(())
    }

    fn flush(&self) {
        let now = self.now.read().unwrap().clone();
        *self.flushed.write().unwrap() = now;
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.now.write().unwrap().clear();
        Ok(())
    }

    fn beside(&self) -> Result<Box<dyn Store>, StoreError> {
        self.beside.write().unwrap().clear();
        Ok(Box::new(Self { now: self.beside.clone(), ..Self::default() }))
    }

    fn swap_in(&self) -> Result<(), StoreError> {
        *self.now.write().unwrap() = std::mem::take(&mut *self.beside.write().unwrap());
        Ok(())
    }
}
