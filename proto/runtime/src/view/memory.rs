//! A view in memory.

use super::{Changes, Pair, Store, StoreError};

/// The map in memory, for tests of what stands on it.
#[derive(Default)]
pub struct MemoryStore(std::sync::RwLock<std::collections::BTreeMap<Vec<u8>, Vec<u8>>>);

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
