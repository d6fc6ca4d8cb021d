//! The reader's side of the index. It changes nothing and waits for nobody.

use std::sync::Arc;

use wmall_proto::feed::PoolChunk;
use wmall_proto::{ChunkId, PoolId};
use wmall_runtime::view::{Store, StoreError};

use super::layout::{
    FEED_KEY, LOSS_KEY, PIECES, STAGED, TRASH, decode_held, decode_pair, kind_key, parse_key, piece_key,
};
use super::{Held, Located, PieceState};

/// Looks things up; clones share the view, and no lock is between them and the writer.
#[derive(Clone)]
pub(crate) struct IndexReader(pub(super) Arc<dyn Store>);

impl IndexReader {
    pub(crate) fn held(&self, key: &PoolChunk) -> Result<Option<Held>, StoreError> {
        let Some(bytes) = self.0.get(&piece_key(key))? else { return Ok(None) };
        decode_held(&bytes).map(Some).ok_or_else(|| StoreError("an index entry is damaged".into()))
    }

    /// A piece that is not trash.
    pub(crate) fn get(&self, key: &PoolChunk) -> Result<Option<Located>, StoreError> {
        Ok(self.held(key)?.map(|h| h.located).filter(|l| l.state != PieceState::Trash))
    }

    fn keys(&self, kind: u8, after: Option<&PoolChunk>, limit: usize) -> Result<Vec<PoolChunk>, StoreError> {
        let after = after.map(|a| kind_key(kind, a));
        let pairs = self.0.scan(&[kind], after.as_deref(), limit)?;
        Ok(pairs.iter().filter_map(|(key, _)| parse_key(key)).collect())
    }

    /// The staged pieces behind this one, at most `limit`.
    pub(crate) fn staged(
        &self,
        after: Option<&PoolChunk>,
        limit: usize,
    ) -> Result<Vec<PoolChunk>, StoreError> {
        self.keys(STAGED, after, limit)
    }

    /// All pieces behind this one, at most `limit`.
    pub(crate) fn pieces(
        &self,
        after: Option<&PoolChunk>,
        limit: usize,
    ) -> Result<Vec<PoolChunk>, StoreError> {
        self.keys(PIECES, after, limit)
    }

    /// The pieces of a pool from one chunk id to another, both inclusive, behind this one, at most `limit`.
    pub(crate) fn pieces_between(
        &self,
        pool: PoolId,
        (low, high): (ChunkId, ChunkId),
        after: Option<&PoolChunk>,
        limit: usize,
    ) -> Result<Vec<PoolChunk>, StoreError> {
        // The greatest key below the lowest: one byte shorter, and so before all that begin like it.
        let mut first = piece_key(&PoolChunk { pool, chunk: low });
        first.pop();
        let after = after.map_or(first, piece_key);
        let pairs = self.0.scan(&[PIECES], Some(&after), limit)?;
        let keys = pairs.iter().filter_map(|(key, _)| parse_key(key));
        Ok(keys.take_while(|key| key.pool == pool && key.chunk <= high).collect())
    }

    /// Pieces whose tombstones are missing, because the process ended before they were written.
    pub(crate) fn trash(&self, limit: usize) -> Result<Vec<PoolChunk>, StoreError> {
        self.keys(TRASH, None, limit)
    }

    /// How far the feed has been read, and in which life of the metadata; none if it never was.
    pub(crate) fn feed(&self) -> Result<Option<(u64, u64)>, StoreError> {
        Ok(self.0.get(FEED_KEY)?.and_then(|b| decode_pair(&b)))
    }

    pub(crate) fn flush(&self) {
        self.0.flush();
    }

    /// The view has failed: the next start builds it anew.
    pub(crate) fn distrust(&self) {
        self.0.distrust();
    }

    /// Whether something was lost that can't be named.
    pub(crate) fn lost(&self) -> Result<bool, StoreError> {
        Ok(self.0.get(LOSS_KEY)?.is_some())
    }
}
