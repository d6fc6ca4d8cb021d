//! Findings about bytes that another put has replaced meanwhile.

use super::*;

/// Rots the bytes of a piece that is in the first segment, and returns where they are as a look at them says.
fn rotten(disk: &SimDisk, store: &DiskStore, content: &[u8]) -> Position {
    let located = store.locate(&key(content)).unwrap().unwrap();
    disk.flip(&format!("{:010}.seg", located.position.segment), located.payload_offset() as usize + 10);
    assert_eq!(store.look(&key(content)).unwrap(), Look::Bad(located.position));
    located.position
}

/// A staged piece that is found bad goes, but for one that took its place while the other was looked at: that
/// one is promised.
#[tokio::test]
async fn a_piece_that_was_put_again_outlives_what_was_found_of_the_former_one() {
    let disk = SimDisk::new();
    let store = simulated(&disk, Arc::default()).unwrap();
    let content = bytes(1);
    try_put(&store, &content, 1).await.unwrap();
    let at = rotten(&disk, &store, &content);
    try_put(&store, &content, 2).await.unwrap();
    store.found_bad(key(&content), at);
    settle(&store);
    let now = store.locate(&key(&content)).unwrap().unwrap();
    assert!(now.position != at && now.state == PieceState::Staged);
    assert_eq!(store.look(&key(&content)).unwrap(), Look::Good(now));
    assert!(store.take_rotten(9).is_empty(), "there is nothing to tell");
    // A put that comes between the finding and what the keeper makes of it is spared as well.
    let at = rotten(&disk, &store, &content);
    try_put(&store, &content, 3).await.unwrap();
    store.work.send(Work::Rotten(key(&content), at)).unwrap();
    settle(&store);
    assert_eq!(store.check(&key(&content)).unwrap(), PieceCheck::Good);
    // One that is still where it was found bad goes.
    let at = rotten(&disk, &store, &content);
    store.found_bad(key(&content), at);
    settle(&store);
    assert_eq!(store.check(&key(&content)).unwrap(), PieceCheck::Absent);
    assert_eq!(store.take_rotten(9), [key(&content)]);
}

/// A committed piece that took the place of a rotten one makes no ticket.
#[tokio::test]
async fn a_committed_piece_that_was_healed_is_not_reported_for_what_it_was() {
    let disk = SimDisk::new();
    let store = simulated(&disk, Arc::default()).unwrap();
    let content = bytes(1);
    try_put(&store, &content, 1).await.unwrap();
    store.follow(vec![committed(&content)], Some((5, 0)));
    settle(&store);
    let at = rotten(&disk, &store, &content);
    try_put(&store, &content, 2).await.unwrap();
    store.found_bad(key(&content), at);
    settle(&store);
    assert!(store.take_rotten(9).is_empty());
    let at = rotten(&disk, &store, &content);
    store.found_bad(key(&content), at);
    assert_eq!(store.take_rotten(9), [key(&content)]);
    assert!(store.locate(&key(&content)).unwrap().is_some(), "it stays until another takes its place");
}
