use super::*;
use wmall_proto::UploadId;

fn config(folder: &std::path::Path) -> DiskConfig {
    DiskConfig { name: "d1".parse().unwrap(), path: folder.to_path_buf(), max_bytes: 256 << 20, weight: 100 }
}

fn open(folder: &std::path::Path) -> DiskStore {
    let disk = DiskStore::open(&config(folder), ClusterId([1; 16])).unwrap();
    disk.set_id(DiskId(4));
    disk
}

fn piece(content: &[u8]) -> (PieceHeader, Vec<Bytes>, u32) {
    let header = PieceHeader {
        pool: PoolId(1),
        chunk: ChunkId::of(content),
        slot: 1,
        upload: UploadId([2; 16]),
        row_version: 1,
    };
    (header, vec![Bytes::copy_from_slice(content)], wmall_journal::checksum(content))
}

async fn put(disk: &DiskStore, content: &[u8]) -> SignedReceipt {
    let (header, parts, crc) = piece(content);
    disk.put(header, parts, crc).await.unwrap()
}

#[tokio::test]
async fn a_piece_outlives_its_index() {
    let folder = tempfile::tempdir().unwrap();
    Superblock::format(folder.path()).unwrap();
    let disk = open(folder.path());
    let contents: Vec<Vec<u8>> = (0..50u8).map(|i| vec![i; 1000 + usize::from(i)]).collect();
    for content in &contents {
        let receipt = put(&disk, content).await;
        let key = ed25519_zebra::VerificationKey::from(&disk.superblock.key);
        receipt.verify(&ClusterId([1; 16]), &key).unwrap();
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
            let chunk = ChunkId::of(content);
            let located = disk.locate(PoolId(1), &chunk).unwrap().unwrap();
            assert_eq!(&disk.read(&located, 0, located.length as usize).unwrap(), content);
            assert!(disk.is_good(&chunk, &located));
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
    let located = disk.locate(PoolId(1), &ChunkId::of(&content)).unwrap().unwrap();
    assert!(disk.is_good(&ChunkId::of(&content), &located));
    let path = folder.path().join("segments/0000000000.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = Journal::payload_offset(located.position, HEADER) as usize + 4000;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(!disk.is_good(&ChunkId::of(&content), &located));
}

#[tokio::test]
async fn a_full_disk_says_so_and_goes_on_reading() {
    let folder = tempfile::tempdir().unwrap();
    Superblock::format(folder.path()).unwrap();
    let mut small = config(folder.path());
    // Room for one segment, and so for two pieces of 12 MiB.
    small.max_bytes = 40 << 20;
    let disk = DiskStore::open(&small, ClusterId([1; 16])).unwrap();
    disk.set_id(DiskId(1));
    for i in 1..=2u8 {
        put(&disk, &vec![i; 12 << 20]).await;
    }
    let (header, parts, crc) = piece(&vec![3; 12 << 20]);
    assert_eq!(disk.put(header, parts, crc).await.unwrap_err().code, ErrorCode::DiskFull);
    let chunk = ChunkId::of(&vec![1; 12 << 20]);
    let located = disk.locate(PoolId(1), &chunk).unwrap().unwrap();
    assert!(disk.is_good(&chunk, &located));
}

#[test]
fn a_second_process_and_a_foreign_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        DiskStore::open(&config(folder.path()), ClusterId([1; 16])),
        Err(DiskError::Format(FormatError::NotFormatted(_)))
    ));
    Superblock::format(folder.path()).unwrap();
    let _first = open(folder.path());
    assert!(matches!(
        DiskStore::open(&config(folder.path()), ClusterId([1; 16])),
        Err(DiskError::Folder(FolderError::Locked(_)))
    ));
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("thesis.txt"), "mine").unwrap();
    assert!(matches!(Superblock::format(foreign.path()), Err(FormatError::NotEmpty(_))));
}
