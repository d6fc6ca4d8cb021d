//! Sectors that can't be read, and pieces that turn out bad at awkward moments: only what was hit is lost,
//! all of it is told, and no promise is forgotten.

use std::collections::BTreeSet;

use super::*;
use wmall_journal::sim::SECTOR;

/// Segments of many pieces of 4 KiB.
const LONG: u64 = 64 << 10;
const PIECE: u64 = 4096;

fn large(disk: &SimDisk, view: Arc<MemoryStore>) -> Arc<DiskStore> {
    let (index, replay_from) = Index::load(view).unwrap();
    let superblock = Superblock { incarnation: wmall_proto::Incarnation([7; 16]), key: [7u8; 32].into() };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let nonce = |number| [number as u8; 16];
    let parts = Parts { superblock, cluster: CLUSTER, disk, index, replay_from, segment_bytes: LONG, nonce };
    let store = DiskStore::assemble(&config(std::path::Path::new("/nowhere")), parts).unwrap();
    store.set_id(DiskId(1));
    Arc::new(store)
}

fn piece(n: u8) -> Vec<u8> {
    vec![n; 500 + usize::from(n) * 331 % 9000]
}

fn compact(store: &Arc<DiskStore>, segment: u64) -> bool {
    let (_open, stop) = mpsc::channel();
    store.compactor(Ballast::new("/nowhere".into(), 0, 0)).compact(segment, 0.0, &stop).is_ok()
}

/// Pieces over some segments, committed, a few deleted, one segment compacted. Returns those that are kept.
async fn written(disk: &SimDisk, view: Arc<MemoryStore>) -> Vec<u8> {
    let store = large(disk, view);
    for n in 0..60u8 {
        try_put(&store, &piece(n), 1).await.unwrap();
    }
    store.follow((0..60u8).map(|n| committed(&piece(n))).chain([fenced(2)]).collect(), Some((5, 0)));
    store.stamp(header(&piece(7), 9)).await.unwrap().unwrap();
    let deleted = |n: &u8| n.is_multiple_of(5);
    store
        .follow((0..60u8).filter(deleted).map(|n| FeedItem::Deleted(key(&piece(n)))).collect(), Some((6, 0)));
    settle(&store);
    assert!(store.journal.segments().len() >= 4);
    assert!(compact(&store, 1));
    (0..60u8).filter(|n| !deleted(n)).collect()
}

/// Where the bytes of each piece are: segment, first byte of its record, first byte behind it.
fn spans(store: &DiskStore, kept: &[u8]) -> Vec<(u8, u64, u64, u64)> {
    let span = |n: &u8| {
        let located = store.locate(&key(&piece(*n))).unwrap().unwrap();
        let Position { segment, offset } = located.position;
        (*n, segment, offset, offset + located.record_bytes())
    };
    kept.iter().map(span).collect()
}

/// Holds what a disk has against what it should have: every piece is good, or was hit and is told of.
fn hold_against(
    store: &Arc<DiskStore>,
    kept: &[u8],
    hit: &BTreeSet<u8>,
    told: &mut BTreeSet<PoolChunk>,
    context: &str,
) {
    for &n in kept {
        let key = key(&piece(n));
        let found = store.look(&key).unwrap();
        let good = matches!(found, Look::Good(_));
        assert!(good || hit.contains(&n), "{context}: {n} is {found:?} and was not hit");
        if let Look::Bad(at) = found {
            store.found_bad(key, at);
        }
    }
    settle(store);
    told.extend(store.take_rotten(1000));
    for &n in kept {
        let key = key(&piece(n));
        let good = store.check(&key).unwrap() == PieceCheck::Good;
        assert!(good || store.lost() || told.contains(&key), "{context}: {n} is gone without a word");
    }
}

#[tokio::test]
async fn an_unreadable_sector_anywhere_costs_a_disk_what_it_hits_and_no_more() {
    let (whole, view) = (SimDisk::new(), Arc::new(MemoryStore::default()));
    let kept = written(&whole, view.clone()).await;
    let store = large(&whole.killed(), Arc::default());
    let (spans, segments) = (spans(&store, &kept), store.journal.segments());
    drop(store);
    for &segment in &segments {
        for sector in (0..LONG as usize / SECTOR).step_by(3) {
            let from = (sector * SECTOR) as u64 / PIECE * PIECE;
            let touches = |s: &&(u8, u64, u64, u64)| s.1 == segment && s.2 < from + PIECE && s.3 > from;
            let hit: BTreeSet<u8> = spans.iter().filter(touches).map(|s| s.0).collect();
            // With an index that is built anew, and with the one that was there.
            for view in [Arc::default(), Arc::new(view.as_flushed())] {
                let context = format!("segment {segment}, sector {sector}");
                let disk = whole.killed();
                disk.lose_sector(&format!("{segment:010}.seg"), sector);
                let store = large(&disk, view);
                settle(&store);
                let mut told = BTreeSet::new();
                hold_against(&store, &kept, &hit, &mut told, &context);
                // The disk takes puts, and compaction takes the segment away.
                try_put(&store, &vec![200; 3000], 20).await.unwrap_or_else(|e| panic!("{context}: {e}"));
                if segment != *store.journal.segments().last().unwrap() {
                    assert!(compact(&store, segment), "{context}");
                    assert!(!store.journal.segments().contains(&segment), "{context}");
                }
                hold_against(&store, &kept, &hit, &mut told, &context);
                assert!(!store.usage().failed, "{context}");
            }
        }
    }
}

/// The index knows the pieces whose headers compaction can't make out.
#[tokio::test]
async fn a_piece_whose_header_is_unreadable_survives_compaction() {
    let (disk, view) = (SimDisk::new(), Arc::new(MemoryStore::default()));
    let store = large(&disk, view);
    let long: Vec<Vec<u8>> = (1..=9).map(|n| vec![n; 15_000]).collect();
    for content in &long {
        try_put(&store, content, 30).await.unwrap();
    }
    settle(&store);
    let header = store.locate(&key(&long[1])).unwrap().unwrap().position.offset;
    // In the piece of 4 KiB that the second header is in, and in the first one's bytes.
    disk.lose_sector("0000000000.seg", (header / PIECE * PIECE) as usize / SECTOR);
    assert!(compact(&store, 0));
    assert_eq!(store.check(&key(&long[0])).unwrap(), PieceCheck::Absent);
    assert_eq!(store.take_rotten(10), [key(&long[0])]);
    for content in &long[1..] {
        assert_eq!(store.check(&key(content)).unwrap(), PieceCheck::Good);
        assert_eq!(store.reader.held(&key(content)).unwrap().unwrap().held_until_ms, 30);
    }
    drop(store);
    let store = large(&disk.killed(), Arc::default());
    assert_eq!(store.reader.held(&key(&long[1])).unwrap().unwrap().held_until_ms, 30);
}

/// The only record of a promise is in a place that can't be read; its piece is elsewhere and good.
#[tokio::test]
async fn a_promise_whose_record_is_unreadable_survives_compaction() {
    let (disk, view) = (SimDisk::new(), Arc::new(MemoryStore::default()));
    let store = large(&disk, view);
    let (content, filler) = (piece(1), vec![200u8; 9000]);
    let fill_until = async |segments: usize| {
        while store.journal.segments().len() < segments {
            try_put(&store, &filler, 1).await.unwrap();
        }
    };
    try_put(&store, &content, 10).await.unwrap();
    fill_until(2).await;
    store.stamp(header(&content, 40)).await.unwrap().unwrap();
    settle(&store);
    let (segment, offset) = store.usage().end;
    assert_eq!((segment, store.locate(&key(&content)).unwrap().unwrap().position.segment), (1, 0));
    fill_until(3).await;
    settle(&store);
    disk.lose_sector("0000000001.seg", (offset / PIECE * PIECE) as usize / SECTOR);
    assert!(compact(&store, 1));
    drop(store);
    let store = large(&disk.killed(), Arc::default());
    assert_eq!(store.reader.held(&key(&content)).unwrap().unwrap().held_until_ms, 40);
}

/// A piece is put again while compaction carries its segment, which alone has the promise to the first
/// upload.
#[tokio::test]
async fn a_promise_of_a_piece_that_was_replaced_while_it_was_carried_outlives_its_segment() {
    let disk = SimDisk::new();
    let store = simulated(&disk, Arc::default()).unwrap();
    let (content, other) = (bytes(1), bytes(2));
    try_put(&store, &content, 30).await.unwrap();
    while store.journal.segments().len() < 2 {
        try_put(&store, &other, 1).await.unwrap();
    }
    settle(&store);
    let compactor = store.compactor(Ballast::new("/nowhere".into(), 0, 0));
    let (carried, _) = compactor.wanted_of(0).unwrap();
    try_put(&store, &content, 20).await.unwrap();
    compactor.carry(&carried).unwrap();
    compactor.finish(0).unwrap();
    let mark = |store: &DiskStore| store.reader.held(&key(&content)).unwrap().unwrap().held_until_ms;
    assert_eq!(mark(&store), 30);
    drop((compactor, store));
    let store = simulated(&disk.killed(), Arc::default()).unwrap();
    assert_eq!(mark(&store), 30, "an index that is built anew knows it too");
}

/// A piece rots before its chunk is committed. A report would be of no use, since the chunk is not known yet.
#[tokio::test]
async fn a_piece_that_is_found_bad_before_its_commit_is_reported_with_the_commit() {
    let disk = SimDisk::new();
    let store = simulated(&disk, Arc::default()).unwrap();
    let (bad, good) = (bytes(1), bytes(2));
    try_put(&store, &bad, 1).await.unwrap();
    try_put(&store, &good, 1).await.unwrap();
    let located = store.locate(&key(&bad)).unwrap().unwrap();
    disk.flip("0000000000.seg", located.payload_offset() as usize + 10);
    assert!(!store.drops_bad(&key(&good)).unwrap(), "on nobody's word but the disk's own");
    assert!(store.drops_bad(&key(&bad)).unwrap());
    settle(&store);
    store.take_rotten(10);
    let counted = |content: &[u8]| FeedItem::Committed { chunk: key(content), counted: vec![DiskId(1)] };
    store.follow(vec![counted(&bad), counted(&good)], Some((5, 0)));
    settle(&store);
    assert_eq!(store.take_rotten(10), [key(&bad)]);
    // One that is committed stays until another takes its place, and is reported at once.
    let located = store.locate(&key(&good)).unwrap().unwrap();
    disk.flip("0000000000.seg", located.payload_offset() as usize + 10);
    assert!(!store.drops_bad(&key(&good)).unwrap());
    store.found_bad(key(&good), located.position);
    settle(&store);
    assert_eq!(store.take_rotten(10), [key(&good)]);
    assert!(store.locate(&key(&good)).unwrap().is_some());
}
