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
