//! The index: which piece is where in the journal. A view on sled, rebuilt from the journal whenever it
//! can't be trusted; the position up to which it covers the journal travels in every batch.

use std::path::Path;
use std::sync::Arc;

use wmall_journal::Position;
use wmall_proto::{ChunkId, PoolId};
use wmall_runtime::view::{Buffered, Changes, SledStore, Store, StoreError};

/// How far the journal is in the index.
const POSITION_KEY: &[u8] = b"\x01position";
/// How far the feed of commits has been read.
const FEED_KEY: &[u8] = b"\x01feed";
const USAGE_KEY: &[u8] = b"\x01usage";
/// Pieces.
const PIECES: u8 = b'p';
/// Pieces that are staged, so that they are found without a walk over all.
const STAGED: u8 = b's';

/// What a piece is to its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceState {
    /// Received, not known to be committed.
    Staged,
    /// Committed.
    Live,
}

/// Where a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) position: Position,
    pub(crate) length: u32,
    pub(crate) slot: u8,
    pub(crate) state: PieceState,
}

/// Exact counts, kept as pieces come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) pieces: u64,
    pub(crate) bytes: u64,
}

/// Looks things up; clones share the view, and no lock is between them and the writer.
#[derive(Clone)]
pub(crate) struct IndexReader(Arc<Buffered>);

/// The writer's side. One thread has it.
pub(crate) struct Index {
    reader: IndexReader,
    pub(crate) counts: Counts,
}

/// Changes that become visible together.
#[derive(Default)]
pub(crate) struct IndexBatch {
    changes: Changes,
    counts: Option<Counts>,
}

impl IndexReader {
    pub(crate) fn get(&self, pool: PoolId, chunk: &ChunkId) -> Result<Option<Located>, StoreError> {
        let Some(bytes) = self.0.get(&piece_key(pool, chunk))? else { return Ok(None) };
        decode_located(&bytes).map(Some).ok_or_else(|| StoreError("an index entry is damaged".into()))
    }

    /// The staged pieces behind this one, at most `limit`.
    pub(crate) fn staged(
        &self,
        after: Option<(PoolId, ChunkId)>,
        limit: usize,
    ) -> Result<Vec<(PoolId, ChunkId)>, StoreError> {
        let after = after.map(|(pool, chunk)| staged_key(pool, &chunk));
        let pairs = self.0.scan(&[STAGED], after.as_deref(), limit)?;
        Ok(pairs.iter().filter_map(|(key, _)| parse_key(key)).collect())
    }

    pub(crate) fn feed(&self) -> Result<u64, StoreError> {
        Ok(self.0.get(FEED_KEY)?.and_then(|b| decode_pair(&b)).map_or(0, |p| p.0))
    }

    pub(crate) fn flush(&self) {
        self.0.flush();
    }
}

impl Index {
    /// Opens the index and says from where the journal must be replayed into it.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Option<Position>), StoreError> {
        if let Some(store) = SledStore::open_trusted(folder)
            && let Ok(opened) = Self::load(store)
        {
            return Ok(opened);
        }
        Self::load(SledStore::create_anew(folder)?)
    }

    fn load(store: SledStore) -> Result<(Self, Option<Position>), StoreError> {
        let position = store.get(POSITION_KEY)?.and_then(|b| decode_pair(&b));
        let position = position.map(|(segment, offset)| Position { segment, offset });
        let counts = store.get(USAGE_KEY)?.and_then(|b| decode_pair(&b));
        let counts = counts.map(|(pieces, bytes)| Counts { pieces, bytes }).unwrap_or_default();
        Ok((Self { reader: IndexReader(Arc::new(Buffered::new(store))), counts }, position))
    }

    pub(crate) fn reader(&self) -> IndexReader {
        self.reader.clone()
    }

    /// Enters a piece that the journal holds at this position. One that was there before is replaced and
    /// keeps its state.
    pub(crate) fn insert(
        &self,
        batch: &mut IndexBatch,
        (pool, chunk): (PoolId, ChunkId),
        mut located: Located,
    ) -> Result<(), StoreError> {
        let key = piece_key(pool, &chunk);
        let before = match batch.changes.get(&key) {
            Some(changed) => changed.as_deref().and_then(decode_located),
            None => self.reader.get(pool, &chunk)?,
        };
        let mut counts = batch.counts.unwrap_or(self.counts);
        match before {
            Some(old) => {
                located.state = old.state;
                counts.bytes = counts.bytes - u64::from(old.length) + u64::from(located.length);
            }
            None => {
                counts.pieces += 1;
                counts.bytes += u64::from(located.length);
                batch.changes.insert(staged_key(pool, &chunk), Some(Vec::new()));
            }
        }
        batch.counts = Some(counts);
        batch.changes.insert(key, Some(encode_located(&located)));
        let position = encode_pair(located.position.segment, located.position.offset);
        batch.changes.insert(POSITION_KEY.to_vec(), Some(position));
        Ok(())
    }

    /// Marks a staged piece as committed; one that is not there is no concern of the index.
    pub(crate) fn mark_live(
        &self,
        batch: &mut IndexBatch,
        pool: PoolId,
        chunk: &ChunkId,
    ) -> Result<(), StoreError> {
        if let Some(mut located) = self.reader.get(pool, chunk)?
            && located.state == PieceState::Staged
        {
            located.state = PieceState::Live;
            batch.changes.insert(piece_key(pool, chunk), Some(encode_located(&located)));
            batch.changes.insert(staged_key(pool, chunk), None);
        }
        Ok(())
    }

    pub(crate) fn set_feed(&self, batch: &mut IndexBatch, position: u64) {
        batch.changes.insert(FEED_KEY.to_vec(), Some(encode_pair(position, 0)));
    }

    pub(crate) fn apply(&mut self, batch: IndexBatch) -> Result<(), StoreError> {
        let IndexBatch { mut changes, counts } = batch;
        if let Some(counts) = counts {
            changes.insert(USAGE_KEY.to_vec(), Some(encode_pair(counts.pieces, counts.bytes)));
        }
        if !changes.is_empty() {
            self.reader.0.apply(&changes)?;
        }
        self.counts = counts.unwrap_or(self.counts);
        Ok(())
    }
}

fn key(kind: u8, pool: PoolId, chunk: &ChunkId) -> Vec<u8> {
    let mut out = Vec::with_capacity(35);
    out.push(kind);
    out.extend_from_slice(&pool.0.to_be_bytes());
    out.extend_from_slice(&chunk.0);
    out
}

fn piece_key(pool: PoolId, chunk: &ChunkId) -> Vec<u8> {
    key(PIECES, pool, chunk)
}

fn staged_key(pool: PoolId, chunk: &ChunkId) -> Vec<u8> {
    key(STAGED, pool, chunk)
}

fn parse_key(key: &[u8]) -> Option<(PoolId, ChunkId)> {
    let pool = u16::from_be_bytes(*key.get(1..)?.first_chunk()?);
    Some((PoolId(pool), ChunkId(key.get(3..)?.try_into().ok()?)))
}

fn encode_pair(a: u64, b: u64) -> Vec<u8> {
    [a.to_le_bytes(), b.to_le_bytes()].concat()
}

fn decode_pair(bytes: &[u8]) -> Option<(u64, u64)> {
    let (a, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*a), u64::from_le_bytes(rest.try_into().ok()?)))
}

fn encode_located(located: &Located) -> Vec<u8> {
    let mut out = encode_pair(located.position.segment, located.position.offset);
    out.extend_from_slice(&located.length.to_le_bytes());
    out.push(located.slot);
    out.push(u8::from(located.state == PieceState::Live));
    out
}

fn decode_located(bytes: &[u8]) -> Option<Located> {
    let (segment, offset) = decode_pair(bytes.get(..16)?)?;
    let &[a, b, c, d, slot, live] = bytes.get(16..)?.first_chunk::<6>()?;
    let state = if live == 1 { PieceState::Live } else { PieceState::Staged };
    let length = u32::from_le_bytes([a, b, c, d]);
    Some(Located { position: Position { segment, offset }, length, slot, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(n: u64) -> Located {
        let position = Position { segment: 1, offset: n };
        Located { position, length: 10, slot: 0, state: PieceState::Staged }
    }

    #[test]
    fn pieces_are_counted_once_and_keep_their_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let (mut index, from) = Index::open(&path).unwrap();
        assert_eq!(from, None);
        let (pool, chunk) = (PoolId(1), ChunkId([3; 32]));
        let mut batch = IndexBatch::default();
        index.insert(&mut batch, (pool, chunk), located(64)).unwrap();
        index.insert(&mut batch, (pool, chunk), located(128)).unwrap();
        index.apply(batch).unwrap();
        assert_eq!(index.counts, Counts { pieces: 1, bytes: 10 });
        assert_eq!(index.reader().staged(None, 10).unwrap(), [(pool, chunk)]);
        let mut batch = IndexBatch::default();
        index.mark_live(&mut batch, pool, &chunk).unwrap();
        index.set_feed(&mut batch, 77);
        index.apply(batch).unwrap();
        let mut batch = IndexBatch::default();
        index.insert(&mut batch, (pool, chunk), located(256)).unwrap();
        index.apply(batch).unwrap();
        let found = index.reader().get(pool, &chunk).unwrap().unwrap();
        assert_eq!((found.state, found.position.offset), (PieceState::Live, 256));
        assert!(index.reader().staged(None, 10).unwrap().is_empty());
        index.reader().flush();
        drop(index);
        let (index, from) = Index::open(&path).unwrap();
        assert_eq!(from, Some(Position { segment: 1, offset: 256 }));
        assert_eq!((index.counts.pieces, index.reader().feed().unwrap()), (1, 77));
    }
}
