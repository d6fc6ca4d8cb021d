//! Changes of a batch of commands, laid over the store: a later command sees what an earlier one wrote,
//! and a command that fails leaves nothing.

use bincode::{Decode, Encode};
use wmall_proto::codec;

use wmall_runtime::view::{Changes, Store, StoreError};

/// Keys that are looked at together.
const PAGE: usize = 256;

pub(super) struct Txn<'a> {
    store: &'a dyn Store,
    kept: Changes,
    pending: Changes,
}

impl<'a> Txn<'a> {
    pub(super) fn new(store: &'a dyn Store) -> Self {
        Self { store, kept: Changes::new(), pending: Changes::new() }
    }

    pub(super) fn get<T: Decode<()>>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let bytes = match self.pending.get(key).or_else(|| self.kept.get(key)) {
            Some(changed) => changed.clone(),
            None => self.store.get(key)?,
        };
        bytes.map(|b| decode(&b)).transpose()
    }

    /// The greatest key under a prefix, changes included.
    pub(super) fn last_under(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let (mut last, mut after) = (None, None);
        loop {
            let page = self.store.scan(prefix, after.as_deref(), PAGE)?;
            let Some((end, _)) = page.last() else { break };
            after = Some(end.clone());
            let stays = |key: &Vec<u8>| match self.pending.get(key).or_else(|| self.kept.get(key)) {
                Some(changed) => changed.is_some(),
                None => true,
            };
            last = page.into_iter().map(|(key, _)| key).rfind(stays).or(last);
        }
        for changes in [&self.kept, &self.pending] {
            let under = changes.range(prefix.to_vec()..).take_while(|(k, _)| k.starts_with(prefix));
            for (key, value) in under {
                let removed = self.pending.get(key).is_some_and(Option::is_none);
                if value.is_some() && !removed {
                    last = last.max(Some(key.clone()));
                }
            }
        }
        Ok(last)
    }

    /// The first keys under a prefix, changes included.
    pub(super) fn first_under(&self, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let (mut found, mut after) = (std::collections::BTreeSet::new(), None);
        let changed = |key: &Vec<u8>| self.pending.get(key).or_else(|| self.kept.get(key));
        while found.len() < limit {
            let page = self.store.scan(prefix, after.as_deref(), PAGE)?;
            let Some((end, _)) = page.last() else { break };
            after = Some(end.clone());
            found.extend(
                page.into_iter().map(|(key, _)| key).filter(|k| changed(k).is_none_or(Option::is_some)),
            );
        }
        for changes in [&self.kept, &self.pending] {
            let under = changes.range(prefix.to_vec()..).take_while(|(k, _)| k.starts_with(prefix));
            let stays = under.filter(|(key, _)| changed(key).is_some_and(Option::is_some));
            found.extend(stays.map(|(key, _)| key.clone()));
        }
        Ok(found.into_iter().take(limit).collect())
    }

    /// The keys of one length from `low` to `high`, both inclusive and under the prefix, changes included.
    pub(super) fn keys_between(
        &self,
        prefix: &[u8],
        low: &[u8],
        high: &[u8],
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut found = std::collections::BTreeSet::new();
        let mut after = super::tickets::below(low);
        'pages: loop {
            let page = self.store.scan(prefix, Some(&after), PAGE)?;
            let Some((end, _)) = page.last() else { break };
            after.clone_from(end);
            for (key, _) in page {
                if key.as_slice() > high {
                    break 'pages;
                }
                found.insert(key);
            }
        }
        for changes in [&self.kept, &self.pending] {
            for (key, value) in changes.range(low.to_vec()..=high.to_vec()) {
                if value.is_some() {
                    found.insert(key.clone())
                } else {
                    found.remove(key)
                };
            }
        }
        Ok(found.into_iter().collect())
    }

    pub(super) fn put<T: Encode>(&mut self, key: Vec<u8>, value: &T) {
        self.pending.insert(key, Some(codec::encode(value)));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.pending.insert(key, None);
    }

    /// The command succeeded.
    pub(super) fn keep(&mut self) {
        self.kept.append(&mut self.pending);
    }

    /// The command failed.
    pub(super) fn discard(&mut self) {
        self.pending.clear();
    }

    pub(super) fn into_changes(mut self) -> Changes {
        self.keep();
        self.kept
    }
}

/// Decodes a stored value; one that does not decode means a damaged view.
pub(super) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, StoreError> {
    codec::decode(bytes).map_err(|e| StoreError(format!("a stored value is damaged: {e}")))
}
