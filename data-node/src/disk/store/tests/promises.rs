//! What a disk has promised, and what it says where it can't keep it.

use super::*;

/// The same bytes a thousand times, in puts whose commits are refused, with restarts that build the index
/// anew between them: the piece is there for each, and its mark is that of the latest.
#[tokio::test]
async fn a_piece_may_be_promised_any_number_of_times() {
    let (mut disk, content) = (SimDisk::new(), bytes(1));
    for round in 0..10 {
        let store = simulated(&disk, Arc::default()).unwrap();
        for n in 0..100 {
            let at_ms = 1000 + round * 100 + n;
            let receipt = match store.locate(&key(&content)).unwrap() {
                None => try_put(&store, &content, at_ms).await.unwrap(),
                Some(_) => store.stamp(header(&content, at_ms)).await.unwrap().expect("it is promised"),
            };
            assert_eq!(receipt.receipt.upload, upload(at_ms));
        }
        let compactor = store.compactor(Ballast::new("/nowhere".into(), 0, 0));
        let (_open, stop) = mpsc::channel();
        if let [.., sealed, _] = store.journal.segments().as_slice() {
            let _ = compactor.compact(*sealed, 0.0, &stop);
        }
        let held = store.reader.held(&key(&content)).unwrap().unwrap();
        assert_eq!(held.held_until_ms, 1099 + round * 100);
        drop(store);
        disk = disk.killed();
    }
    let store = simulated(&disk, Arc::default()).unwrap();
    store.follow(vec![FeedItem::Deleted(key(&content)), fenced(1999)], Some((5, 0)));
    store.reconcile(
        vec![key(&content)],
        PiecesKnown { committed: vec![], fenced_before_ms: 1999, deletion_held: false },
    );
    settle(&store);
    assert_eq!(content_of(&store, &content), content, "the last upload may still commit");
}

/// A commit counts on a piece that is gone: its disk says so.
#[tokio::test]
async fn a_commit_of_a_piece_that_is_absent_is_reported() {
    let store = simulated(&SimDisk::new(), Arc::default()).unwrap();
    let (there, gone, ticketed) = (bytes(1), bytes(2), bytes(3));
    try_put(&store, &there, 1).await.unwrap();
    let counted =
        |content: &[u8], disk| FeedItem::Committed { chunk: key(content), counted: vec![DiskId(disk)] };
    store.follow(vec![counted(&there, 1), counted(&gone, 1), counted(&ticketed, 2)], Some((5, 0)));
    settle(&store);
    assert_eq!(store.take_rotten(10), [key(&gone)]);
}

/// A slot has moved away: its pieces go, but for those that an upload may still commit; those of other groups
/// stay.
#[tokio::test]
async fn a_released_group_goes_and_what_uploads_are_promised_stays() {
    let folder = tempfile::tempdir().unwrap();
    Superblock::format(folder.path()).unwrap();
    let disk = open(folder.path());
    let all: Vec<Vec<u8>> = (0..40u8).map(|i| vec![i; 300]).collect();
    for content in &all {
        put(&disk, content).await;
    }
    disk.follow(all.iter().map(|c| committed(c)).chain([fenced(3)]).collect(), Some((5, 0)));
    let claimed = all.iter().find(|c| key(c).chunk.0[0] < 128).unwrap();
    disk.stamp(header(claimed, 30)).await.unwrap().unwrap();
    let pg = wmall_proto::PgId(0);
    let released = |disk| FeedItem::Released { pool: PoolId(1), pg, pg_bits: 1, disk };
    disk.follow(vec![released(DiskId(77))], Some((6, 0)));
    settle(&disk);
    assert_eq!(disk.usage().pieces, 40, "that was another disk");
    // Committed and released in one stretch of the feed, as a disk that was off hears it.
    let young = vec![200u8; 300];
    try_put(&disk, &young, 2).await.unwrap();
    disk.follow(vec![committed(&young), released(DiskId(4))], Some((7, 0)));
    settle(&disk);
    for content in all.iter().chain([&young]) {
        let there = disk.locate(&key(content)).unwrap();
        let goes = key(content).chunk.0[0] < 128 && content != claimed;
        assert_eq!(there.is_none(), goes, "{:?}", key(content));
    }
    let held = disk.reader.held(&key(claimed)).unwrap().unwrap();
    assert_eq!((held.located.state, held.held_until_ms), (PieceState::Staged, 30));
}
