//! Findings that wait to be reported: pieces that are rotten, absent or doubted, and losses that can't be
//! named. The disk's books own the lists; each heartbeat takes a part of them.

use wmall_proto::NodeName;
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::DoubtedPiece;

use super::{DiskStore, Work};

impl DiskStore {
    /// Whether something was lost that can't be named, and nobody has been told.
    pub(crate) fn lost(&self) -> bool {
        self.books.lost()
    }

    /// The metadata nodes know of it now.
    pub(crate) fn loss_reported(&self) {
        let _ = self.work.send(Work::LossReported);
    }

    /// A piece is not here that this disk should have, by its map, and that a caller asked for. Whether the
    /// chunk is committed at all, the metadata nodes know.
    pub(crate) fn lacks(&self, key: PoolChunk, asked_by: &NodeName) {
        self.books.add_asked(key, asked_by);
    }

    /// Pieces that callers asked for and that are not here, since the last call.
    pub(crate) fn take_asked(&self) -> Vec<PoolChunk> {
        self.books.take_asked()
    }

    /// Pieces that turned out rotten or absent since the last call; each is handed out once.
    pub(crate) fn take_rotten(&self, limit: usize) -> Vec<PoolChunk> {
        self.books.take_rotten(limit)
    }

    /// Another shard is about to take the place of one that was promised.
    pub(crate) fn note_replaced(&self, key: PoolChunk) {
        self.books.note_replaced(key);
    }

    /// Pieces that may be others than were committed; each is handed out once.
    pub(crate) fn take_doubted(&self, limit: usize) -> Vec<DoubtedPiece> {
        self.books.take_doubted(limit)
    }

    /// Gives back what could not be reported.
    pub(crate) fn report_later(&self, rotten: Vec<PoolChunk>, doubted: Vec<DoubtedPiece>) {
        rotten.into_iter().for_each(|key| self.books.add_rotten(key));
        doubted.into_iter().for_each(|piece| self.books.add_doubted(piece));
    }
}
