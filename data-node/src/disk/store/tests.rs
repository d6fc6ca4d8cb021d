mod promises;
mod replaced;
mod unreadable;

use super::super::error::DiskError;
use super::super::superblock::FormatError;
use super::*;
use wmall_journal::sim::{Crash, Fault, SimDisk};
use wmall_proto::UploadId;
use wmall_proto::rpc::PieceCheck;
use wmall_runtime::FolderError;
use wmall_runtime::view::MemoryStore;

const CLUSTER: ClusterId = ClusterId([1; 16]);

fn config(folder: &std::path::Path) -> DiskConfig {
    DiskConfig { name: "d1".parse().unwrap(), path: folder.to_path_buf(), max_bytes: 256 << 20, weight: 100 }
}

fn open(folder: &std::path::Path) -> Arc<DiskStore> {
    let disk = DiskStore::open(&config(folder), CLUSTER).unwrap();
    disk.set_id(DiskId(4));
    Arc::new(disk)
}

fn upload(ms: u64) -> UploadId {
    UploadId::new(ms, [2; 10])
}

fn header(content: &[u8], at_ms: u64) -> PieceHeader {
    let (pool, chunk, upload) = (PoolId(1), ChunkId::of(content), upload(at_ms));
    PieceHeader { pool, chunk, slot: 1, upload, row_version: 1, shard: None }
}

fn key(content: &[u8]) -> PoolChunk {
    header(content, 0).key()
}

async fn try_put(disk: &DiskStore, content: &[u8], at_ms: u64) -> Result<SignedReceipt, RpcError> {
    let crc = wmall_journal::checksum(content);
    disk.put(header(content, at_ms), vec![Bytes::copy_from_slice(content)], crc, false).await
}

async fn put(disk: &DiskStore, content: &[u8]) -> SignedReceipt {
    try_put(disk, content, 1).await.unwrap()
}

fn content_of(disk: &DiskStore, content: &[u8]) -> Vec<u8> {
    let located = disk.locate(&key(content)).unwrap().expect("the piece is here");
    disk.read(&located, 0, located.length as usize).unwrap()
}

/// Waits until the keeper has done what it was told, tombstones included.
fn settle(disk: &DiskStore) {
    for _ in 0..3 {
        let (sender, receiver) = mpsc::channel();
        disk.work.send(Work::Barrier(sender)).unwrap();
        receiver.recv().unwrap();
        // A tombstone's completion comes back through the journal.
        let _ = disk.journal.append_and_wait(Vec::new());
    }
}

fn committed(content: &[u8]) -> FeedItem {
    FeedItem::Committed { chunk: key(content), counted: vec![] }
}

fn fenced(before_ms: u64) -> FeedItem {
    FeedItem::Fenced { before_ms }
}

#[tokio::test]
async fn a_piece_outlives_its_index() {
    let folder = tempfile::tempdir().unwrap();
    Superblock::format(folder.path()).unwrap();
    let disk = open(folder.path());
    let contents: Vec<Vec<u8>> = (0..50u8).map(|i| vec![i; 1000 + usize::from(i)]).collect();
    for content in &contents {
        let receipt = put(&disk, content).await;
        let public = ed25519_zebra::VerificationKey::from(&disk.superblock.key);
        receipt.verify(&CLUSTER, &public).unwrap();
        assert_eq!(receipt.receipt.length as usize, content.len());
    }
    drop(disk);
    // Whatever of the index survives, or nothing of it, the journal has it all.
    for wipe in [false, true] {
        if wipe {
            std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        }
        let disk = open(folder.path());
        assert_eq!(disk.usage().pieces, 50, "wiped: {wipe}");
        for content in &contents {
            assert_eq!(&content_of(&disk, content), content);
            assert_eq!(disk.check(&key(content)).unwrap(), PieceCheck::Good);
        }
    }
}

#[tokio::test]
async fn a_rotten_piece_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    Superblock::format(folder.path()).unwrap();
    let disk = open(folder.path());
    let content = vec![5u8; 5000];
    put(&disk, &content).await;
    let located = disk.locate(&key(&content)).unwrap().unwrap();
    assert_eq!(disk.check(&key(&content)).unwrap(), PieceCheck::Good);
    let path = folder.path().join("segments/0000000000.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = located.payload_offset() as usize + 4000;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(disk.check(&key(&content)).unwrap(), PieceCheck::Bad);
    assert_eq!(disk.stamp(header(&content, 2)).await.unwrap(), None, "and it is not promised again");
}

#[tokio::test]
async fn a_full_disk_says_so_reads_on_and_deletes_its_way_out() {
    let folder = tempfile::tempdir().unwrap();
    Superblock::format(folder.path()).unwrap();
    let mut small = config(folder.path());
    // Two segments and the reserve; two pieces of 12 MiB in each.
    small.max_bytes = 100 << 20;
    let disk = DiskStore::open(&small, CLUSTER).unwrap();
    disk.set_id(DiskId(1));
    let contents: Vec<Vec<u8>> = (1..=4u8).map(|i| vec![i; 12 << 20]).collect();
    for content in &contents {
        put(&disk, content).await;
    }
    let refused = try_put(&disk, &vec![9; 12 << 20], 1).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::DiskFull);
    assert!(disk.usage().full && !disk.usage().failed);
    assert_eq!(content_of(&disk, &contents[0]), contents[0]);
    // Three of four go. Compaction needs the reserve for the last of its segment, and makes room.
    let mut items: Vec<FeedItem> = contents.iter().map(|c| committed(c)).collect();
    items.push(fenced(2));
    items.extend(contents[1..].iter().map(|c| FeedItem::Deleted(key(c))));
    disk.follow(items, Some((7, 0)));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while disk.usage().full {
        assert!(std::time::Instant::now() < deadline, "no room was made: {:?}", disk.usage());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(content_of(&disk, &contents[0]), contents[0]);
    assert_eq!(disk.usage().pieces, 1);
    try_put(&disk, &vec![9; 12 << 20], 1).await.unwrap();
}

#[test]
fn a_second_process_and_a_foreign_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        DiskStore::open(&config(folder.path()), CLUSTER),
        Err(DiskError::Format(FormatError::NotFormatted(_)))
    ));
    Superblock::format(folder.path()).unwrap();
    let _first = open(folder.path());
    assert!(matches!(
        DiskStore::open(&config(folder.path()), CLUSTER),
        Err(DiskError::Folder(FolderError::Locked(_)))
    ));
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("thesis.txt"), "mine").unwrap();
    assert!(matches!(Superblock::format(foreign.path()), Err(FormatError::NotEmpty(_))));
}

#[tokio::test]
async fn a_deleted_piece_stays_gone_and_one_that_is_promised_stays() {
    let folder = tempfile::tempdir().unwrap();
    Superblock::format(folder.path()).unwrap();
    let disk = open(folder.path());
    let (gone, claimed, again) = (vec![1u8; 3000], vec![2u8; 3000], vec![3u8; 3000]);
    for content in [&gone, &claimed, &again] {
        put(&disk, content).await;
    }
    // Another upload finds the piece here and is promised that it stays.
    assert!(disk.stamp(header(&claimed, 5)).await.unwrap().is_some());
    let all = [&gone, &claimed, &again];
    let mut items: Vec<FeedItem> = all.iter().map(|c| committed(c)).collect();
    items.push(fenced(2));
    items.extend(all.iter().map(|c| FeedItem::Deleted(key(c))));
    disk.follow(items, Some((10, 0)));
    settle(&disk);
    assert_eq!(disk.stamp(header(&again, 6)).await.unwrap(), None, "trash can't be promised");
    try_put(&disk, &again, 6).await.unwrap();
    let check = |disk: &DiskStore| {
        assert_eq!(disk.locate(&key(&gone)).unwrap(), None);
        assert_eq!(content_of(disk, &claimed), claimed);
        assert_eq!(content_of(disk, &again), again);
        assert_eq!(disk.usage().pieces, 2);
    };
    check(&disk);
    drop(disk);
    for wipe in [false, true] {
        if wipe {
            std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        }
        check(&open(folder.path()));
    }
    // The uploads are fenced without having committed: what they were promised holds nothing any more.
    let disk = open(folder.path());
    disk.follow(vec![FeedItem::Fenced { before_ms: 7 }], Some((11, 0)));
    settle(&disk);
    assert_eq!(disk.usage().pieces, 2, "whether they are committed, others know");
    let known = PiecesKnown { committed: vec![key(&again)], fenced_before_ms: 7, deletion_held: false };
    disk.reconcile(vec![key(&claimed), key(&again)], known);
    settle(&disk);
    assert_eq!(disk.usage().pieces, 1);
    assert_eq!(content_of(&disk, &again), again);
}

/// Deleted, put again and promised, all while compaction moves the first piece.
#[tokio::test]
async fn a_piece_that_comes_again_while_it_is_moved_outlives_the_tombstone_of_the_first() {
    let disk = SimDisk::new();
    let store = simulated(&disk, Arc::default()).unwrap();
    let content = bytes(1);
    try_put(&store, &content, 1).await.unwrap();
    store.follow(vec![committed(&content), fenced(2)], Some((5, 0)));
    settle(&store);
    let from = store.locate(&key(&content)).unwrap().unwrap().position;
    let (sender, answers) = mpsc::channel();
    store.work.send(Work::BeginMoves(vec![(key(&content), from)], sender)).unwrap();
    assert_eq!(answers.recv().unwrap(), [true]);
    store.follow(vec![FeedItem::Deleted(key(&content))], Some((6, 0)));
    try_put(&store, &content, 20).await.unwrap();
    let copy = Record {
        kind: super::super::piece::KIND_COPY,
        meta: header(&content, 1).encode(),
        payload: vec![Bytes::from(content.clone())],
        ..Record::default()
    };
    let to = store.journal.append_and_wait(vec![copy]).unwrap().first().copied();
    let (sender, ended) = mpsc::channel();
    let done = super::super::keeper::Move { key: key(&content), from, to };
    store.work.send(Work::EndMoves(vec![done], sender)).unwrap();
    ended.recv().unwrap();
    settle(&store);
    assert_eq!(content_of(&store, &content), content, "it was promised to the second upload");
    drop(store);
    let store = simulated(&disk.killed(), Arc::default()).unwrap();
    assert_eq!(content_of(&store, &content), content, "and a rebuild finds it");
    let held = store.reader.held(&key(&content)).unwrap().unwrap();
    assert_eq!(held.held_until_ms, 20);
}

#[tokio::test]
async fn what_the_metadata_nodes_do_not_know_goes_unless_deletion_is_held() {
    let folder = tempfile::tempdir().unwrap();
    Superblock::format(folder.path()).unwrap();
    let disk = open(folder.path());
    let (known, unknown, young) = (vec![1u8; 100], vec![2u8; 100], vec![3u8; 100]);
    put(&disk, &known).await;
    put(&disk, &unknown).await;
    try_put(&disk, &young, 50).await.unwrap();
    let asked: Vec<PoolChunk> = [&known, &unknown, &young].map(|c| key(c)).to_vec();
    assert_eq!(disk.pieces(None, 10).unwrap().len(), 3);
    let answer =
        |deletion_held| PiecesKnown { committed: vec![key(&known)], fenced_before_ms: 20, deletion_held };
    disk.reconcile(asked.clone(), answer(true));
    settle(&disk);
    assert_eq!(disk.usage().pieces, 3);
    disk.reconcile(asked, answer(false));
    settle(&disk);
    let state = |content: &[u8]| disk.locate(&key(content)).unwrap().map(|l| l.state);
    assert_eq!(state(&known), Some(PieceState::Live));
    assert_eq!(state(&unknown), None);
    assert_eq!(state(&young), Some(PieceState::Staged), "its upload may still commit");
}

/// A disk without a file system and without a compactor of its own.
fn simulated(disk: &SimDisk, index: Arc<MemoryStore>) -> Result<Arc<DiskStore>, DiskError> {
    let (index, replay_from) = Index::load(index).unwrap();
    let superblock = Superblock { incarnation: wmall_proto::Incarnation([7; 16]), key: [7u8; 32].into() };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let nonce = |number| [number as u8; 16];
    let parts =
        Parts { superblock, cluster: CLUSTER, disk, index, replay_from, segment_bytes: SEGMENT, nonce };
    let store = DiskStore::assemble(&config(std::path::Path::new("/nowhere")), parts)?;
    store.set_id(DiskId(1));
    Ok(Arc::new(store))
}

const SEGMENT: u64 = 4096;

fn bytes(n: u8) -> Vec<u8> {
    vec![n; 900 + usize::from(n)]
}

/// What a history has been told.
#[derive(Default)]
struct Told {
    /// Promised and not deleted.
    promised: Vec<u8>,
    /// Gone from the index, so its tombstone is durable.
    buried: Vec<u8>,
    /// Segments that were compacted away.
    retired: Vec<u64>,
}

/// Pieces come, are committed, claimed, deleted, put again; segments are compacted.
async fn history(disk: &SimDisk, view: Arc<MemoryStore>) -> Told {
    let mut told = Told::default();
    let Ok(store) = simulated(disk, view) else { return told };
    for n in 0..16u8 {
        if try_put(&store, &bytes(n), 1).await.is_ok() {
            told.promised.push(n);
        }
    }
    store.follow((0..14u8).map(|n| committed(&bytes(n))).chain([fenced(2)]).collect(), Some((5, 0)));
    let claimed = matches!(store.stamp(header(&bytes(4), 9)).await, Ok(Some(_)));
    // 4 is claimed by another upload and outlives its deletion; 5 comes again after it.
    let deleted = [0u8, 1, 4, 5, 8, 9, 10];
    store.follow(deleted.iter().map(|&n| FeedItem::Deleted(key(&bytes(n)))).collect(), Some((6, 0)));
    settle(&store);
    let had = told.promised.clone();
    told.promised.retain(|n| (*n == 4 && claimed) || !deleted.contains(n));
    let gone = |n: &&u8| had.contains(n) && store.reader.held(&key(&bytes(**n))).unwrap().is_none();
    told.buried = deleted.iter().filter(|n| **n != 4 && **n != 5).filter(gone).copied().collect();
    if try_put(&store, &bytes(5), 20).await.is_ok() {
        told.promised.push(5);
    }
    let compactor = store.compactor(Ballast::new("/nowhere".into(), 0, 0));
    for segment in [2, 0, 1, 4] {
        let (_open, stop) = mpsc::channel();
        if compactor.compact(segment, 0.0, &stop).is_ok() {
            told.retired.push(segment);
        }
    }
    told
}

/// Of three pieces a segment two are wanted, and no piece fits behind them: nearly a third of each segment is
/// dead, and of the full ones that are not touched as much is their end.
#[tokio::test]
async fn a_disk_that_is_filled_beyond_the_alarm_is_swept_of_what_is_dead_and_then_left_alone() {
    let store = simulated(&SimDisk::new(), Arc::default()).unwrap();
    let content = |n: u8| vec![n; 1050];
    for n in 0..30 {
        try_put(&store, &content(n), 1).await.unwrap();
    }
    store.follow((0..30).map(|n| committed(&content(n))).chain([fenced(2)]).collect(), Some((5, 0)));
    store.follow((0..10).map(|n| FeedItem::Deleted(key(&content(3 * n)))).collect(), Some((6, 0)));
    settle(&store);
    let before = store.journal.segments();
    assert!(before.len() >= 10, "{before:?}");
    let (_open, stop) = mpsc::channel();
    let mut compactor = store.compactor(Ballast::new("/nowhere".into(), 0, 0));
    assert!(compactor.sweep(&stop).is_continue());
    assert_eq!(store.journal.segments(), before, "the disk has room, and a third is not worth it");
    compactor.room = 8 * SEGMENT;
    assert!(compactor.sweep(&stop).is_continue());
    let after = store.journal.segments();
    assert!(after.len() <= 8, "{after:?}");
    assert_eq!(inventory(&store).len(), 20);
    assert!(compactor.sweep(&stop).is_continue());
    assert_eq!(store.journal.segments(), after, "moving them about frees nothing");
    let full = &after[..after.len() - 1];
    assert!(
        full.iter().all(|n| store.books.wanted()[n] < SEGMENT * 9 / 10),
        "all of them end in what fitted nothing"
    );
}

/// Everything that a disk says it has, read and hashed.
fn inventory(store: &DiskStore) -> Vec<PoolChunk> {
    let keys = store.pieces(None, 1000).unwrap();
    for key in &keys {
        assert_eq!(store.check(key).unwrap(), PieceCheck::Good);
    }
    keys
}

#[tokio::test]
async fn a_power_cut_at_any_operation_of_compaction_loses_nothing_and_brings_nothing_back() {
    let whole = SimDisk::new();
    let told = history(&whole, Arc::default()).await;
    assert_eq!(told.retired, [2, 0, 1, 4], "the history compacts what it means to");
    assert_eq!(told.buried, [0, 1, 8, 9, 10]);
    assert_eq!(told.promised, [2, 3, 4, 6, 7, 11, 12, 13, 14, 15, 5]);
    for at in 1..=whole.operations() + 4 {
        for how in [Crash::Drop, Crash::Tear, Crash::Reorder] {
            let disk = SimDisk::new();
            disk.fail_at(at, Fault::PowerCut);
            let told = history(&disk, Arc::default()).await;
            let after = disk.crash(how, at);
            let context = format!("power cut at {at}, {how:?}");
            // After a power cut no view is trusted.
            let store = simulated(&after, Arc::default()).unwrap_or_else(|e| panic!("{context}: {e:?}"));
            let there = inventory(&store);
            for n in &told.promised {
                assert!(there.contains(&key(&bytes(*n))), "{context}: {n} was promised and is lost");
            }
            for n in &told.buried {
                assert!(!there.contains(&key(&bytes(*n))), "{context}: {n} was deleted and is back");
            }
            // Recovery is idempotent, and the disk goes on from there.
            let counts = (store.usage().pieces, store.usage().bytes, store.books.wanted());
            drop(store);
            let store = simulated(&after, Arc::default()).unwrap();
            assert_eq!(
                counts,
                (store.usage().pieces, store.usage().bytes, store.books.wanted()),
                "{context}"
            );
            assert_eq!(inventory(&store), there, "{context}");
            try_put(&store, &bytes(77), 30).await.unwrap_or_else(|e| panic!("{context}: {e}"));
        }
    }
}

/// A thousand single-byte flips in the segments: no wrong byte is ever returned, and none goes unnoticed.
#[tokio::test]
async fn a_flipped_byte_in_a_segment_is_never_returned_and_never_overlooked() {
    let whole = SimDisk::new();
    let told = history(&whole, Arc::default()).await;
    let store = simulated(&whole.killed(), Arc::default()).unwrap();
    let segments = store.journal.segments();
    drop(store);
    let mut state = 11u64;
    let mut dice = |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let mut noticed = 0;
    for flip in 0..1000 {
        let segment = segments[dice(segments.len() as u64) as usize];
        let at = dice(SEGMENT) as usize;
        let disk = whole.killed();
        disk.flip(&format!("{segment:010}.seg"), at);
        let context = format!("flip {flip}: segment {segment}, byte {at}");
        let store = match simulated(&disk, Arc::default()) {
            Ok(store) => store,
            Err(error) => panic!("{context}: {error:?}"),
        };
        settle(&store);
        let rotten = store.take_rotten(1000);
        for n in &told.promised {
            let (key, content) = (key(&bytes(*n)), bytes(*n));
            match store.check(&key).unwrap() {
                PieceCheck::Good => assert_eq!(content_of(&store, &content), content, "{context}"),
                PieceCheck::Bad => noticed += 1,
                PieceCheck::Absent => {
                    assert!(store.lost() || rotten.contains(&key), "{context}: {n} is gone without a word");
                    noticed += 1;
                }
            }
        }
    }
    assert!(noticed > 200, "{noticed} noticed");
}

#[test]
fn a_flipped_byte_in_the_superblock_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let made = Superblock::format(folder.path()).unwrap();
    let path = folder.path().join("disk.json");
    let content = std::fs::read(&path).unwrap();
    for at in 0..content.len() {
        for bit in [1, 0x20] {
            let mut flipped = content.clone();
            flipped[at] ^= bit;
            std::fs::write(&path, &flipped).unwrap();
            // White space may become other white space, and a digit another case of the same.
            if let Ok(read) = Superblock::load(folder.path()) {
                assert_eq!(read.incarnation, made.incarnation, "byte {at}");
                assert_eq!(<[u8; 32]>::from(read.key), <[u8; 32]>::from(made.key), "byte {at}");
            }
        }
    }
}

/// Where the index says that each piece is.
fn places(store: &DiskStore) -> Vec<(PoolChunk, Position)> {
    let place = |key: PoolChunk| (key, store.locate(&key).unwrap().unwrap().position);
    store.pieces(None, 1000).unwrap().into_iter().map(place).collect()
}

/// A process that is killed leaves what it has written of its view, or what it had when it was flushed last,
/// which may be behind segments that are gone; the journal goes on from there.
#[tokio::test]
async fn a_kill_at_any_operation_of_compaction_leaves_index_and_segments_in_step() {
    let whole = SimDisk::new();
    history(&whole, Arc::default()).await;
    for at in 1..=whole.operations() + 4 {
        let (disk, view) = (SimDisk::new(), Arc::new(MemoryStore::default()));
        disk.fail_at(at, Fault::PowerCut);
        let told = history(&disk, view.clone()).await;
        for (how, view) in [("as flushed", Arc::new(view.as_flushed())), ("whole", view)] {
            let context = format!("kill at {at}, view {how}");
            let after = disk.killed();
            let store = simulated(&after, view).unwrap_or_else(|e| panic!("{context}: {e:?}"));
            settle(&store);
            let there = inventory(&store);
            for n in &told.promised {
                assert!(there.contains(&key(&bytes(*n))), "{context}: {n} was promised and is lost");
            }
            for n in &told.buried {
                assert!(!there.contains(&key(&bytes(*n))), "{context}: {n} was deleted and is back");
            }
            // The index says of each segment what a recount of the pieces says.
            let mut recount = std::collections::BTreeMap::new();
            for key in &there {
                let located = store.locate(key).unwrap().unwrap();
                let record = located.record_bytes();
                *recount.entry(located.position.segment).or_insert(0) += record;
            }
            let wanted = store.books.wanted();
            let wanted: std::collections::BTreeMap<u64, u64> =
                wanted.into_iter().filter(|(_, n)| *n > 0).collect();
            assert_eq!(wanted, recount, "{context}");
            // And it is what the segments say by themselves.
            let before = places(&store);
            drop(store);
            let anew = simulated(&after.killed(), Arc::default()).unwrap();
            settle(&anew);
            assert_eq!(
                before,
                places(&anew),
                "{context}: the index is not what a scan of the segments makes"
            );
        }
    }
}

fn shard_header(content: &[u8], shard: &[u8], slot: u8, row_version: u64) -> PieceHeader {
    let digest = *blake3::hash(shard).as_bytes();
    let shard = wmall_proto::chunk::Shard { digest, chunk_length: content.len() as u32 };
    PieceHeader { slot, row_version, shard: Some(shard), ..header(content, 5) }
}

async fn put_shard(disk: &DiskStore, header: PieceHeader, shard: &[u8]) -> Result<SignedReceipt, RpcError> {
    disk.put(header, vec![Bytes::copy_from_slice(shard)], crc32c::crc32c(shard), false).await
}

/// A disk that had one slot of a row, lost it, and got another; the first piece is still in its journal, and
/// the second was moved by compaction.
#[tokio::test]
async fn a_shard_that_compaction_moved_is_what_a_rebuild_finds_whatever_was_before() {
    let disk = SimDisk::new();
    let store = simulated(&disk, Arc::default()).unwrap();
    let content = bytes(1);
    let (first, second) = (vec![2u8; 451], vec![3u8; 451]);
    let (old, new) = (shard_header(&content, &first, 0, 3), shard_header(&content, &second, 4, 9));
    put_shard(&store, old, &first).await.unwrap();
    let receipt = put_shard(&store, new, &second).await.unwrap().receipt;
    assert_eq!((receipt.slot, receipt.digest), (4, *blake3::hash(&second).as_bytes()));
    assert_eq!(receipt.length as usize, content.len(), "a receipt signs the length of the chunk");
    let late = put_shard(&store, shard_header(&content, &first, 0, 4), &first).await;
    assert_eq!(late.unwrap_err().code, ErrorCode::StaleRow);
    store.follow(vec![committed(&content)], Some((5, 0)));
    settle(&store);
    let copy = Record {
        kind: super::super::piece::KIND_COPY,
        meta: new.encode(),
        payload: vec![Bytes::from(second.clone())],
        ..Record::default()
    };
    let to = store.journal.append_and_wait(vec![copy]).unwrap()[0];
    drop(store);
    let store = simulated(&disk.killed(), Arc::default()).unwrap();
    let located = store.locate(&key(&content)).unwrap().unwrap();
    assert_eq!((located.slot, located.position, located.shard), (4, to, new.shard));
    assert_eq!(store.check(&key(&content)).unwrap(), PieceCheck::Good);
    assert_eq!(store.read(&located, 0, 451).unwrap(), second);
    assert!(store.stamp(new).await.unwrap().is_some());
    assert!(store.stamp(PieceHeader { shard: old.shard, ..new }).await.unwrap().is_none(), "another shard");
}
