//! The index: which piece is where in the journal, and who holds it there. A view on sled, rebuilt from the
//! journal whenever it can't be trusted; the position up to which it covers the journal travels in every
//! batch, and so does the place in the feed.
//!
//! Two things hold a piece: the commit of its chunk (`live`), and its mark, the latest start of any upload
//! that it was promised to, until the fence has passed that. A commit leaves the mark as it is, so a receipt
//! is good exactly as long as its piece is here. A piece that neither holds is trash: invisible, waiting for
//! its tombstone to be durable.

mod held;
mod layout;
mod reader;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use wmall_journal::Position;
use wmall_proto::feed::PoolChunk;
use wmall_proto::{ChunkId, PoolId};
use wmall_runtime::view::{Buffered, Changes, SledStore, Store, StoreError};

use super::piece::{Entry, PieceHeader};
pub(crate) use held::{Held, Located, PieceState};
pub(crate) use reader::IndexReader;

use layout::{
    COUNTS_KEY, FEED_KEY, FENCE_KEY, LOSS_KEY, PIECES, POSITION_KEY, SEGMENTS, STAGED, TRASH, decode_held,
    decode_pair, encode_held, encode_pair, kind_key, parse_key, piece_key, segment_key,
};

/// Exact counts, kept as pieces come and go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) pieces: u64,
    pub(crate) bytes: u64,
}

/// The writer's side. One thread has it.
pub(crate) struct Index {
    reader: IndexReader,
    pub(crate) counts: Counts,
    /// Wanted bytes by segment, as in the view.
    pub(crate) wanted: BTreeMap<u64, u64>,
    /// Segments whose wanted bytes have changed since the last batch.
    touched: BTreeSet<u64>,
    /// Only while the journal is replayed: marks whose piece comes later, since compaction has moved it
    /// behind them.
    early: Option<HashMap<PoolChunk, (u64, Position)>>,
    /// Segment and offset of the last record that was entered.
    pub(crate) end: (u64, u64),
    pub(crate) fenced_before_ms: u64,
}

/// Changes that become visible together.
#[derive(Default)]
pub(crate) struct IndexBatch(Changes);

impl Index {
    /// Opens the index and says from where the journal must be replayed into it.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Option<Position>), StoreError> {
        if let Some(store) = SledStore::open_trusted(folder)
            && let Ok(opened) = Self::load(Arc::new(Buffered::new(store)))
        {
            return Ok(opened);
        }
        Self::load(Arc::new(Buffered::new(SledStore::create_anew(folder)?)))
    }

    pub(crate) fn load(store: Arc<dyn Store>) -> Result<(Self, Option<Position>), StoreError> {
        let pair = |key: &[u8]| Ok::<_, StoreError>(store.get(key)?.and_then(|b| decode_pair(&b)));
        let position = pair(POSITION_KEY)?.map(|(segment, offset)| Position { segment, offset });
        let counts = pair(COUNTS_KEY)?.map(|(pieces, bytes)| Counts { pieces, bytes }).unwrap_or_default();
        let fenced_before_ms = pair(FENCE_KEY)?.map_or(0, |p| p.0);
        let mut wanted = BTreeMap::new();
        for (key, value) in store.scan(&[SEGMENTS], None, usize::MAX)? {
            let segment = key.get(1..).and_then(|k| k.try_into().ok()).map(u64::from_be_bytes);
            wanted.extend(segment.zip(decode_pair(&value).map(|p| p.0)));
        }
        let (reader, touched) = (IndexReader(store), BTreeSet::new());
        let (early, end) = (Some(HashMap::new()), position.map_or((0, 0), |p| (p.segment, p.offset)));
        Ok((Self { reader, counts, wanted, touched, early, end, fenced_before_ms }, position))
    }

    /// The journal is replayed; what comes from now on is new.
    pub(crate) fn replayed(&mut self) {
        self.early = None;
    }

    pub(crate) fn reader(&self) -> IndexReader {
        self.reader.clone()
    }

    /// Pieces of a pool in this range that a batch changes.
    pub(crate) fn changed_between(
        &self,
        batch: &IndexBatch,
        pool: PoolId,
        (low, high): (ChunkId, ChunkId),
    ) -> impl Iterator<Item = PoolChunk> {
        let key = |chunk| piece_key(&PoolChunk { pool, chunk });
        batch.0.range(key(low)..=key(high)).filter_map(|(key, _)| parse_key(key))
    }

    pub(crate) fn held(&self, batch: &IndexBatch, key: &PoolChunk) -> Result<Option<Held>, StoreError> {
        match batch.0.get(&piece_key(key)) {
            Some(changed) => Ok(changed.as_deref().and_then(decode_held)),
            None => self.reader.held(key),
        }
    }

    /// Enters what the journal holds at this position: at the end of an append, and again on replay.
    pub(crate) fn enter(
        &mut self,
        batch: &mut IndexBatch,
        entry: &Entry,
        position: Position,
        length: u32,
    ) -> Result<(), StoreError> {
        match entry {
            Entry::Piece(header) => drop(self.insert(batch, header, position, length)?),
            Entry::Stamp(header) => {
                self.promise(batch, header, position)?;
            }
            Entry::Copy(header) => self.replay_copy(batch, header, position, length)?,
            Entry::Tombstone(tombstone) => self.bury(batch, &tombstone.key, tombstone.up_to)?,
        }
        self.reach(batch, position);
        Ok(())
    }

    /// The journal is in the index up to here.
    fn reach(&mut self, batch: &mut IndexBatch, position: Position) {
        self.end = (position.segment, position.offset);
        batch.0.insert(POSITION_KEY.to_vec(), Some(encode_pair(position.segment, position.offset)));
    }

    /// Enters a piece at the end of its append. False if the one that is there is by a later row.
    pub(crate) fn piece(
        &mut self,
        batch: &mut IndexBatch,
        header: &PieceHeader,
        position: Position,
        length: u32,
    ) -> Result<bool, StoreError> {
        let entered = self.insert(batch, header, position, length)?;
        self.reach(batch, position);
        Ok(entered)
    }

    /// A piece came in. One that was there before is replaced, and what held it holds the new one. False if
    /// the one that is there is by a later row.
    fn insert(
        &mut self,
        batch: &mut IndexBatch,
        header: &PieceHeader,
        position: Position,
        length: u32,
    ) -> Result<bool, StoreError> {
        let key = header.key();
        let before = self.held(batch, &key)?;
        let (state, mark) = match &before {
            Some(old) if old.located.state != PieceState::Trash => {
                if old.located.is_later_than(header) {
                    return Ok(false);
                }
                self.discount(&old.located);
                (old.located.state, old.held_until_ms)
            }
            // One that was found rotten may have been promised: its mark outlives it.
            Some(trash) => (PieceState::Staged, trash.held_until_ms),
            None => (PieceState::Staged, self.early.as_mut().and_then(|e| e.remove(&key)).map_or(0, |e| e.0)),
        };
        let row_version = header.shard.map_or(0, |_| header.row_version);
        let located =
            Located { position, length, slot: header.slot, shard: header.shard, row_version, state };
        self.count(&located);
        self.put(batch, &key, Held { located, held_until_ms: mark.max(header.upload.started_ms()) });
        Ok(true)
    }

    /// Raises the mark of a piece that is here for an upload. False if it is not here any more.
    pub(crate) fn promise(
        &mut self,
        batch: &mut IndexBatch,
        header: &PieceHeader,
        position: Position,
    ) -> Result<bool, StoreError> {
        let (key, mark) = (header.key(), header.upload.started_ms());
        match self.held(batch, &key)? {
            Some(mut held) if held.located.state != PieceState::Trash => {
                if mark > held.held_until_ms {
                    held.held_until_ms = mark;
                    self.put(batch, &key, held);
                }
                Ok(true)
            }
            _ => {
                if let Some(early) = &mut self.early {
                    let (before, at) = early.entry(key).or_insert((0, position));
                    (*before, *at) = (mark.max(*before), position.max(*at));
                }
                Ok(false)
            }
        }
    }

    /// A copy that compaction made, met on replay: the piece is there now, whatever it is, and its mark is no
    /// lower than the copy's. The record that it was copied from may have been replaced meanwhile, and be
    /// gone. Of a shard it is what counts which slot's it is: one of before may still be in the journal, and
    /// its end not any more.
    fn replay_copy(
        &mut self,
        batch: &mut IndexBatch,
        header: &PieceHeader,
        position: Position,
        length: u32,
    ) -> Result<(), StoreError> {
        let mark = header.upload.started_ms();
        let held = self.held(batch, &header.key())?;
        let held = held.map(|held| Held { held_until_ms: held.held_until_ms.max(mark), ..held });
        match held {
            Some(held) if held.located.position >= position || held.located.is_later_than(header) => {
                self.put(batch, &header.key(), held);
                Ok(())
            }
            Some(held) if header.shard.is_some() => self.replace(batch, header, held, position, length),
            Some(held) => self.relocate(batch, &header.key(), held, position),
            // Where the original is gone with its segment, its upload is the best that is known.
            None => self.insert(batch, header, position, length).map(drop),
        }
    }

    /// Puts a copied shard in the place of what was there; what held that holds it.
    fn replace(
        &mut self,
        batch: &mut IndexBatch,
        header: &PieceHeader,
        mut held: Held,
        position: Position,
        length: u32,
    ) -> Result<(), StoreError> {
        let trash = held.located.state == PieceState::Trash;
        if !trash {
            self.discount(&held.located);
        }
        let PieceHeader { slot, shard, row_version, .. } = *header;
        held.located = Located { position, length, slot, shard, row_version, state: held.located.state };
        if !trash {
            self.count(&held.located);
        }
        self.put(batch, &header.key(), held);
        Ok(())
    }

    /// A piece was copied from one place to another. False if it was no longer at the first.
    pub(crate) fn moved(
        &mut self,
        batch: &mut IndexBatch,
        key: &PoolChunk,
        from: Position,
        to: Position,
    ) -> Result<bool, StoreError> {
        match self.held(batch, key)? {
            Some(held) if held.located.position == from => {
                self.relocate(batch, key, held, to)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn relocate(
        &mut self,
        batch: &mut IndexBatch,
        key: &PoolChunk,
        mut held: Held,
        to: Position,
    ) -> Result<(), StoreError> {
        let trash = held.located.state == PieceState::Trash;
        if !trash {
            self.discount(&held.located);
        }
        held.located.position = to;
        if !trash {
            self.count(&held.located);
        }
        self.put(batch, key, held);
        Ok(())
    }

    /// The chunk was committed. False if its piece is not here.
    pub(crate) fn settle(&mut self, batch: &mut IndexBatch, key: &PoolChunk) -> Result<bool, StoreError> {
        let held = self.held(batch, key)?;
        let Some(mut held) = held.filter(|h| h.located.state != PieceState::Trash) else { return Ok(false) };
        if held.located.state != PieceState::Live {
            held.located.state = PieceState::Live;
            self.put(batch, key, held);
        }
        Ok(true)
    }

    /// The chunk is not committed, or not any more. Returns the position to bury up to if the fence has
    /// passed the piece's mark; it is trash then.
    pub(crate) fn release(
        &mut self,
        batch: &mut IndexBatch,
        key: &PoolChunk,
    ) -> Result<Option<Position>, StoreError> {
        let Some(mut held) = self.held(batch, key)? else { return Ok(None) };
        match held.located.state {
            PieceState::Trash => return Ok(None),
            _ if held.held_until_ms < self.fenced_before_ms => {
                return self.discard(batch, key, held).map(Some);
            }
            PieceState::Staged => return Ok(None),
            PieceState::Live => held.located.state = PieceState::Staged,
        }
        self.put(batch, key, held);
        Ok(None)
    }

    /// Makes a piece trash, whatever holds it.
    pub(crate) fn discard(
        &mut self,
        batch: &mut IndexBatch,
        key: &PoolChunk,
        mut held: Held,
    ) -> Result<Position, StoreError> {
        self.discount(&held.located);
        held.located.state = PieceState::Trash;
        let position = held.located.position;
        self.put(batch, key, held);
        Ok(position)
    }

    /// A tombstone is durable: the piece is forgotten, unless a later one is there.
    pub(crate) fn bury(
        &mut self,
        batch: &mut IndexBatch,
        key: &PoolChunk,
        up_to: Position,
    ) -> Result<(), StoreError> {
        // A promise from after the end is of a piece that came again.
        if let Some(early) = &mut self.early
            && early.get(key).is_some_and(|(_, at)| *at <= up_to)
        {
            early.remove(key);
        }
        let Some(held) = self.held(batch, key)? else { return Ok(()) };
        if held.located.position > up_to {
            return Ok(());
        }
        if held.located.state != PieceState::Trash {
            self.discount(&held.located);
        }
        for kind in [PIECES, STAGED, TRASH] {
            batch.0.insert(kind_key(kind, key), None);
        }
        Ok(())
    }

    pub(crate) fn set_feed(&self, batch: &mut IndexBatch, position: u64, epoch: u64) {
        batch.0.insert(FEED_KEY.to_vec(), Some(encode_pair(position, epoch)));
    }

    /// Uploads that began before this time will never commit. The mark only rises.
    pub(crate) fn set_fence(&mut self, batch: &mut IndexBatch, before_ms: u64) {
        self.fenced_before_ms = self.fenced_before_ms.max(before_ms);
        batch.0.insert(FENCE_KEY.to_vec(), Some(encode_pair(self.fenced_before_ms, 0)));
    }

    /// Something was lost that can't be named; or the metadata nodes know of it now.
    pub(crate) fn set_lost(&self, batch: &mut IndexBatch, lost: bool) {
        batch.0.insert(LOSS_KEY.to_vec(), lost.then(Vec::new));
    }

    /// A segment is gone, and with it its share of the books.
    pub(crate) fn forget_segment(&mut self, batch: &mut IndexBatch, segment: u64) {
        self.wanted.remove(&segment);
        self.touched.remove(&segment);
        batch.0.insert(segment_key(segment), None);
    }

    pub(crate) fn apply(&mut self, batch: IndexBatch) -> Result<(), StoreError> {
        let IndexBatch(mut changes) = batch;
        if changes.is_empty() {
            return Ok(());
        }
        let Counts { pieces, bytes } = self.counts;
        changes.insert(COUNTS_KEY.to_vec(), Some(encode_pair(pieces, bytes)));
        for segment in std::mem::take(&mut self.touched) {
            let wanted = self.wanted.get(&segment).map(|&n| encode_pair(n, 0));
            changes.insert(segment_key(segment), wanted);
        }
        self.reader.0.apply(&changes)
    }

    fn put(&self, batch: &mut IndexBatch, key: &PoolChunk, held: Held) {
        let state = held.located.state;
        let mark = |on: bool| on.then(Vec::new);
        batch.0.insert(kind_key(STAGED, key), mark(state == PieceState::Staged));
        batch.0.insert(kind_key(TRASH, key), mark(state == PieceState::Trash));
        batch.0.insert(piece_key(key), Some(encode_held(&held)));
    }

    fn count(&mut self, located: &Located) {
        self.counts.pieces += 1;
        self.counts.bytes += u64::from(located.length);
        *self.wanted.entry(located.position.segment).or_insert(0) += located.record_bytes();
        self.touched.insert(located.position.segment);
    }

    fn discount(&mut self, located: &Located) {
        self.counts.pieces = self.counts.pieces.saturating_sub(1);
        self.counts.bytes = self.counts.bytes.saturating_sub(u64::from(located.length));
        if let Some(wanted) = self.wanted.get_mut(&located.position.segment) {
            *wanted = wanted.saturating_sub(located.record_bytes());
            self.touched.insert(located.position.segment);
        }
    }
}

#[cfg(test)]
mod tests;
