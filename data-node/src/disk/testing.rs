//! A segment of a disk with any bytes in it, for fuzzing: the scan of it by a start.

use std::sync::Arc;

use bytes::Bytes;
use wmall_journal::sim::SimDisk;
use wmall_journal::{Disk, Journal, Options, Record};
use wmall_proto::{ChunkId, PoolId, UploadId};
use wmall_runtime::view::MemoryStore;

use super::books::Books;
use super::index::Index;
use super::piece::{KIND_COPY, KIND_PIECE, KIND_STAMP, KIND_TOMBSTONE, PieceHeader, Tombstone};
use super::replay::replay;

const SEGMENT: u64 = 8192;

fn options() -> Options {
    Options {
        identity: [5; 16],
        nonce: |number| [number as u8; 16],
        segment_bytes: SEGMENT,
        max_bytes: 1 << 20,
        reserve_bytes: 0,
        queue_bytes: 1 << 20,
        replay_from: None,
        name: "fuzz".into(),
    }
}

fn header(n: u8, upload: u64) -> PieceHeader {
    let (pool, chunk) = (PoolId(1), ChunkId::of(&[n; 200]));
    PieceHeader { pool, chunk, slot: 1, upload: UploadId::new(upload, [n; 10]), row_version: 1, shard: None }
}

fn record(kind: u8, meta: Vec<u8>, payload: Vec<u8>) -> Record {
    Record { kind, meta, payload: vec![payload.into()], ..Record::default() }
}

/// Pieces, a claim, a copy and a tombstone.
fn written() -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new());
    let Ok(journal) = Journal::open(disk.clone(), options(), |_| Ok(())) else { return disk };
    let mut records: Vec<Record> =
        (0..8).map(|n| record(KIND_PIECE, header(n, 1).encode(), vec![n; 200])).collect();
    records.push(record(KIND_STAMP, header(2, 2).encode(), Vec::new()));
    records.push(record(KIND_COPY, header(3, 1).encode(), vec![3; 200]));
    let up_to = wmall_journal::Position { segment: 0, offset: 600 };
    let tombstone = Tombstone { key: header(1, 1).key(), up_to };
    records.push(record(KIND_TOMBSTONE, tombstone.encode(), Vec::new()));
    for record in records {
        let _ = journal.append_and_wait(vec![record]);
    }
    disk
}

/// What a start makes of the disk: the pieces that the index has then, or a refusal.
fn started(disk: Arc<SimDisk>) -> Option<Vec<String>> {
    let (mut index, covered) = Index::load(Arc::new(MemoryStore::default())).ok()?;
    let journal = replay(disk, options(), &mut index, covered, &Books::default()).ok()?;
    drop(journal);
    let reader = index.reader();
    let pieces = reader.pieces(None, usize::MAX).unwrap_or_default();
    let shown = pieces.iter().map(|key| format!("{key:?} {:?}", reader.held(key).ok().flatten()));
    Some(shown.collect())
}

/// Lays `junk` over the segment at `at` and starts, twice: without a panic, and with the same outcome both
/// times.
pub fn scan_any_segment(at: u16, junk: &[u8]) {
    let disk = written();
    let at = u64::from(at) % SEGMENT;
    let junk = &junk[..junk.len().min((SEGMENT - at) as usize)];
    if let Ok(file) = disk.open("0000000000.seg") {
        let _ = file.write_at(&[Bytes::copy_from_slice(junk)], at).and_then(|()| file.sync_all());
    }
    let first = started(disk.clone());
    let second = started(disk);
    assert_eq!(first, second, "a second start finds something else");
    if junk.is_empty() {
        // Chunk 1 has a tombstone; the others are there.
        assert_eq!(first.map(|pieces| pieces.len()), Some(7), "nothing was wrong with it");
    } else if let Some(pieces) = first {
        // The first piece ends before this; whatever comes behind, it stays.
        const FIRST_PIECE_ENDS: u64 = 400;
        let key = format!("{:?}", header(0, 1).key());
        assert!(at < FIRST_PIECE_ENDS || pieces.iter().any(|p| p.starts_with(&key)), "a whole piece is gone");
    }
}
