use wmall_proto::{ChunkId, PoolId, UploadId};

use super::super::piece::header_length;
use super::*;
use wmall_journal::Journal;

fn key(n: u8) -> PoolChunk {
    PoolChunk { pool: PoolId(1), chunk: ChunkId([n; 32]) }
}

fn upload(ms: u64) -> UploadId {
    UploadId::new(ms, [1; 10])
}

fn header(n: u8, at_ms: u64) -> PieceHeader {
    let PoolChunk { pool, chunk } = key(n);
    PieceHeader { pool, chunk, slot: 0, upload: upload(at_ms), row_version: 1, shard: None }
}

fn at(segment: u64, offset: u64) -> Position {
    Position { segment, offset }
}

/// One change, applied.
fn change<T>(index: &mut Index, f: impl FnOnce(&mut Index, &mut IndexBatch) -> T) -> T {
    let mut batch = IndexBatch::default();
    let out = f(index, &mut batch);
    index.apply(batch).unwrap();
    out
}

fn insert(index: &mut Index, n: u8, at_ms: u64, position: Position) {
    change(index, |i, b| i.enter(b, &Entry::Piece(header(n, at_ms)), position, 10)).unwrap();
}

fn open() -> (tempfile::TempDir, Index) {
    let folder = tempfile::tempdir().unwrap();
    let (index, from) = Index::open(&folder.path().join("index")).unwrap();
    assert_eq!(from, None);
    (folder, index)
}

#[test]
fn pieces_are_counted_once_and_keep_what_holds_them() {
    let (folder, mut index) = open();
    insert(&mut index, 3, 5, at(1, 64));
    insert(&mut index, 3, 6, at(1, 128));
    assert_eq!(index.counts, Counts { pieces: 1, bytes: 10 });
    assert_eq!(index.wanted[&1], Journal::record_bytes(header_length(None), 10));
    assert_eq!(index.reader().staged(None, 10).unwrap(), [key(3)]);
    change(&mut index, |i, b| {
        assert!(i.settle(b, &key(3)).unwrap());
        i.set_feed(b, 77, 3);
    });
    insert(&mut index, 3, 7, at(2, 256));
    let held = index.reader().held(&key(3)).unwrap().unwrap();
    assert_eq!((held.located.state, held.located.position), (PieceState::Live, at(2, 256)));
    assert_eq!(held.held_until_ms, 7);
    assert_eq!((index.wanted[&1], index.wanted[&2]), (0, Journal::record_bytes(header_length(None), 10)));
    assert!(index.reader().staged(None, 10).unwrap().is_empty());
    index.reader().flush();
    drop(index);
    let (index, from) = Index::open(&folder.path().join("index")).unwrap();
    assert_eq!(from, Some(at(2, 256)));
    assert_eq!((index.counts.pieces, index.reader().feed().unwrap()), (1, Some((77, 3))));
    assert_eq!(index.wanted[&2], Journal::record_bytes(header_length(None), 10));
}

#[test]
fn a_piece_is_held_until_the_fence_passes_its_mark_whatever_is_committed_and_deleted() {
    let (_folder, mut index) = open();
    insert(&mut index, 1, 5, at(1, 64));
    assert!(change(&mut index, |i, b| i.settle(b, &key(1))).unwrap());
    // Another upload of the same bytes, and an older one that does not lower the mark.
    assert!(change(&mut index, |i, b| i.promise(b, &header(1, 9), at(1, 90))).unwrap());
    assert!(change(&mut index, |i, b| i.promise(b, &header(1, 4), at(1, 91))).unwrap());
    let release = |index: &mut Index| change(index, |i, b| i.release(b, &key(1))).unwrap();
    assert_eq!(release(&mut index), None);
    assert_eq!(index.reader().get(&key(1)).unwrap().unwrap().state, PieceState::Staged);
    // It commits, and is deleted: its receipt is good all the same, as long as the fence has not passed it.
    assert!(change(&mut index, |i, b| i.settle(b, &key(1))).unwrap());
    change(&mut index, |i, b| i.set_fence(b, 9));
    assert_eq!(release(&mut index), None, "the upload of 9 may still commit");
    change(&mut index, |i, b| i.set_fence(b, 10));
    change(&mut index, |i, b| i.set_fence(b, 8));
    assert_eq!(index.fenced_before_ms, 10, "the fence only rises");
    assert_eq!(release(&mut index), Some(at(1, 64)));
    assert_eq!(index.reader().get(&key(1)).unwrap(), None, "trash is not seen");
    assert_eq!(index.reader().trash(10).unwrap(), [key(1)]);
    assert_eq!((index.counts, index.wanted[&1]), (Counts::default(), 0));
    assert!(!change(&mut index, |i, b| i.promise(b, &header(1, 11), at(1, 92))).unwrap(), "nor promised");
    assert!(!change(&mut index, |i, b| i.settle(b, &key(1))).unwrap(), "nor committed");
    // A new piece before the tombstone is durable outlives it.
    insert(&mut index, 1, 12, at(1, 200));
    change(&mut index, |i, b| i.bury(b, &key(1), at(1, 64))).unwrap();
    assert_eq!(index.reader().get(&key(1)).unwrap().unwrap().position, at(1, 200));
    change(&mut index, |i, b| i.bury(b, &key(1), at(1, 200))).unwrap();
    assert_eq!(index.reader().held(&key(1)).unwrap(), None);
    assert_eq!((index.counts, index.wanted[&1]), (Counts::default(), 0));
}

#[test]
fn a_piece_that_replaces_a_rotten_one_is_held_as_long() {
    let (_folder, mut index) = open();
    insert(&mut index, 1, 50, at(1, 64));
    let held = index.reader().held(&key(1)).unwrap().unwrap();
    change(&mut index, |i, b| i.discard(b, &key(1), held)).unwrap();
    insert(&mut index, 1, 5, at(1, 200));
    assert_eq!(index.reader().held(&key(1)).unwrap().unwrap().held_until_ms, 50);
}

#[test]
fn a_moved_piece_is_where_it_was_moved_to_and_dead_where_it_was() {
    let (_folder, mut index) = open();
    insert(&mut index, 1, 5, at(1, 64));
    change(&mut index, |i, b| i.settle(b, &key(1))).unwrap();
    assert!(change(&mut index, |i, b| i.moved(b, &key(1), at(1, 64), at(4, 64))).unwrap());
    assert!(!change(&mut index, |i, b| i.moved(b, &key(1), at(1, 64), at(5, 64))).unwrap());
    let held = index.reader().held(&key(1)).unwrap().unwrap();
    assert_eq!(
        (held.located.position, held.located.state, held.held_until_ms),
        (at(4, 64), PieceState::Live, 5)
    );
    assert_eq!((index.wanted[&1], index.counts.pieces), (0, 1));
    // On replay the copy changes the place and nothing else; an older one does not even that.
    let copy = Entry::Copy(header(1, 5));
    change(&mut index, |i, b| i.enter(b, &copy, at(6, 64), 10)).unwrap();
    change(&mut index, |i, b| i.enter(b, &copy, at(5, 64), 10)).unwrap();
    let held = index.reader().held(&key(1)).unwrap().unwrap();
    assert_eq!(
        (held.located.position, held.located.state, held.held_until_ms),
        (at(6, 64), PieceState::Live, 5)
    );
    assert_eq!(index.counts.pieces, 1);
}

#[test]
fn a_mark_whose_piece_was_moved_behind_it_outlives_a_rebuild() {
    let (_folder, mut index) = open();
    // The stamp at 7 was given for a piece at 3, which is at 9 now; segment 3 is gone.
    change(&mut index, |i, b| i.enter(b, &Entry::Stamp(header(1, 50)), at(7, 64), 0)).unwrap();
    // A tombstone of the piece that was there before comes late.
    change(&mut index, |i, b| i.bury(b, &key(1), at(2, 64))).unwrap();
    change(&mut index, |i, b| i.enter(b, &Entry::Copy(header(1, 5)), at(9, 64), 10)).unwrap();
    index.replayed();
    assert_eq!(index.reader().held(&key(1)).unwrap().unwrap().held_until_ms, 50);
    // Once the journal is replayed, a promise of nothing is nothing.
    assert!(!change(&mut index, |i, b| i.promise(b, &header(2, 90), at(9, 99))).unwrap());
    insert(&mut index, 2, 70, at(9, 128));
    assert_eq!(index.reader().held(&key(2)).unwrap().unwrap().held_until_ms, 70);
}

/// A piece was put again while compaction copied the one of before, whose own record is gone.
#[test]
fn a_copy_keeps_the_mark_of_what_it_was_copied_from() {
    let (_folder, mut index) = open();
    insert(&mut index, 1, 20, at(5, 64));
    change(&mut index, |i, b| i.enter(b, &Entry::Copy(header(1, 30)), at(6, 64), 10)).unwrap();
    change(&mut index, |i, b| i.enter(b, &Entry::Copy(header(1, 25)), at(4, 64), 10)).unwrap();
    let held = index.reader().held(&key(1)).unwrap().unwrap();
    assert_eq!((held.located.position, held.held_until_ms), (at(6, 64), 30));
}

#[test]
fn a_damaged_entry_is_an_error() {
    let shard = Some(wmall_proto::chunk::Shard { digest: [9; 32], chunk_length: 77 });
    for (shard, row_version) in [(None, 0), (shard, 6)] {
        let state = PieceState::Live;
        let located = Located { position: at(1, 2), length: 3, slot: 4, shard, row_version, state };
        let held = Held { located, held_until_ms: 77 };
        let bytes = encode_held(&held);
        assert_eq!(decode_held(&bytes), Some(held));
        assert_eq!(decode_held(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode_held(&bytes[..10]), None);
    }
}

#[test]
fn a_late_write_by_a_row_of_before_does_not_replace_a_shard() {
    let shard = Some(wmall_proto::chunk::Shard { digest: [9; 32], chunk_length: 77 });
    let put = |slot: u8, row_version: u64| PieceHeader { slot, row_version, shard, ..header(1, 5) };
    let (_folder, mut index) = open();
    let mut enter = |header: PieceHeader, offset: u64| {
        change(&mut index, |index, batch| index.piece(batch, &header, at(1, offset), 10).unwrap())
    };
    assert!(enter(put(1, 3), 8));
    assert!(!enter(put(0, 2), 16), "another slot, by an older row");
    assert!(enter(put(1, 2), 24), "its own slot");
    assert!(enter(put(0, 4), 32), "another slot, by a newer row");
    assert_eq!(index.reader().get(&key(1)).unwrap().unwrap().position, at(1, 32));
}
