//! Lists of chunks, as which files are kept: one for every full part, and one for the rest with the root of
//! the file's blocks. A list has a number, is written once, and holds a reference to each of its chunks for
//! each of its places, from when it is kept to when it is released.
//!
//! A list belongs to a staged part, to a file, or to nothing. In the last case it waits for the leader's
//! collector to have it released, one bounded step after the other; a short one is released at once. So no
//! entry touches more chunks than one part has, however long the file.

use bincode::{Decode, Encode};
use wmall_manifest::{full_parts, has_blocks};
use wmall_proto::chunk::{MAX_CHUNKS_PER_COMMIT, MAX_PIECES_PER_COMMIT};
use wmall_proto::file::FileRecord;
use wmall_proto::rpc::Response;
use wmall_proto::{ChunkId, PoolId};

use super::apply::{Context, Outcome};
use super::txn::decode;
use super::{State, keys};
use wmall_runtime::view::StoreError;

/// Chunks of a list that is released in the entry that lets it go.
const RELEASED_AT_ONCE: u64 = 32;

/// Lists that the collector looks at together.
const PAGE: usize = 256;

/// A file as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct StoredFile {
    pub(super) record: FileRecord,
    /// Numbers of its lists, in the order of its chunks.
    pub(super) lists: Vec<u64>,
}

/// A list that nothing has any more.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Release {
    /// Pools in which it holds references.
    pub(super) pools: Vec<PoolId>,
    /// Its chunks.
    pub(super) chunks: u64,
}

/// Chunks and blocks in each list of a file.
pub(super) fn list_lengths(record: &FileRecord) -> impl Iterator<Item = u64> + use<> {
    let full = full_parts(record.chunk_count());
    let rest = record.chunk_count() - full * MAX_CHUNKS_PER_COMMIT as u64;
    let root = u64::from(has_blocks(record.size, record.chunk_size));
    (0..full).map(|_| MAX_PIECES_PER_COMMIT as u64).chain([rest + root])
}

/// How often each id is there, in the order of the ids.
pub(super) fn places(ids: &[ChunkId]) -> std::collections::BTreeMap<ChunkId, u64> {
    let mut places = std::collections::BTreeMap::new();
    ids.iter().for_each(|id| *places.entry(*id).or_insert(0) += 1);
    places
}

impl Context<'_> {
    /// Keeps a list whose chunks have their references, and returns its number.
    pub(super) fn keep_list(&mut self, ids: &Vec<ChunkId>) -> u64 {
        self.derived.counters.next_list += 1;
        let list = self.derived.counters.next_list;
        self.txn.put(keys::list(list), ids);
        list
    }

    /// Nothing has this list any more: its references go, now or soon.
    pub(super) fn let_list_go(&mut self, list: u64, chunks: u64, pools: &[PoolId]) -> Result<(), StoreError> {
        if chunks <= RELEASED_AT_ONCE {
            return self.release_list(list, pools);
        }
        self.txn.put(keys::release(list), &Release { pools: pools.to_vec(), chunks });
        Ok(())
    }

    /// Releases lists that wait for it.
    pub(super) fn release_lists(&mut self, lists: &[u64]) -> Outcome {
        for &list in lists {
            let key = keys::release(list);
            let Some(release) = self.txn.get::<Release>(&key)? else { continue };
            self.release_list(list, &release.pools)?;
            self.txn.remove(key);
        }
        Ok(Response::Done)
    }

    fn release_list(&mut self, list: u64, pools: &[PoolId]) -> Result<(), StoreError> {
        let ids: Vec<ChunkId> = self.txn.get(&keys::list(list))?.unwrap_or_default();
        for (chunk, places) in places(&ids) {
            for &pool in pools {
                self.release_chunk(pool, &chunk, places)?;
            }
        }
        self.txn.remove(keys::list(list));
        Ok(())
    }
}

impl State {
    /// Lists that wait to be released, with about so many chunks in all; one at least if there is one.
    pub fn waiting_lists(&self, chunks: u64) -> Result<Vec<u64>, StoreError> {
        let _one_index = self.read();
        let (mut lists, mut left) = (Vec::new(), chunks);
        for (key, value) in self.store.scan(keys::RELEASES, None, PAGE)? {
            let Some(list) = keys::parse_release(&key) else { continue };
            let release: Release = decode(&value)?;
            let work = release.chunks * release.pools.len() as u64;
            if work > left && !lists.is_empty() {
                break;
            }
            lists.push(list);
            left = left.saturating_sub(work);
        }
        Ok(lists)
    }
}
