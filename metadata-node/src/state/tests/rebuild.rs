//! A state that was made from pieces alone.

use std::collections::HashMap;

use wmall_manifest::file_of_one_chunk;
use wmall_proto::FileId;
use wmall_proto::chunk::DEFAULT_CHUNK_SIZE;

use super::*;

fn manifest(chunks: &[u64]) -> Manifest {
    let ids = chunks.iter().map(|&n| id(n)).collect();
    Manifest::new(u64::from(CHUNK) * chunks.len() as u64, CHUNK, ids).unwrap()
}

fn file(state: &State, id: FileId) -> Option<Vec<ChunkId>> {
    match state.query(&Query::File { id, first: 0 }, &Silent::new()) {
        Ok(QueryReply::File(page)) => Some(page.chunks),
        _ => None,
    }
}

#[test]
fn files_come_back_with_what_is_there_and_tickets_for_what_is_not() {
    let old = Machine::new();
    let map = old.state.topology();
    // Chunk 1 is on all disks of its row, 2 on one of them and on one that it does not belong to, 3 on none.
    let mut holders: HashMap<(PoolId, ChunkId), Vec<DiskId>> = HashMap::new();
    holders.insert((POOL, id(1)), vec![DiskId(1), DiskId(2), DiskId(3)]);
    holders.insert((POOL, id(2)), vec![DiskId(2), DiskId(4)]);
    let one = Manifest::new(100, DEFAULT_CHUNK_SIZE, vec![id(9)]).unwrap();
    holders.insert((POOL, id(9)), vec![DiskId(1), DiskId(2), DiskId(3)]);
    let many = manifest(&[1, 2, 3, 1]);
    for block in many.block_ids() {
        holders.insert((POOL, block), vec![DiskId(1), DiskId(2), DiskId(3)]);
    }
    let state = State::open(Box::new(MemoryStore::default())).unwrap();
    state.adopt_map(&map).unwrap();
    let found = |manifest: &Manifest| FoundFile { pool: POOL, manifest: manifest.clone() };
    state.adopt_files(&[found(&many), found(&one)], &map, &holders, &Shards::new()).unwrap();
    state.adopt_derived(&[(POOL, id(1), CHUNK)]).unwrap();
    let m = Machine { state, index: map.version + 1, ahead_ms: 0 };
    let now = m.state.topology();
    assert_eq!(
        (&now.pools[&POOL].rows, &now.disks, &now.nodes),
        (&map.pools[&POOL].rows, &map.disks, &map.nodes)
    );
    assert_eq!(file(&m.state, many.id()), Some(many.chunks().to_vec()));
    assert_eq!(file(&m.state, one.id()), Some(vec![id(9)]));
    use PieceState::{Live, Missing};
    assert_eq!(m.states(id(1)), [Live; 3]);
    assert_eq!(m.states(id(2)), [Missing, Live, Missing]);
    assert_eq!(m.states(id(3)), [Missing; 3]);
    assert_eq!(m.tickets(), 5);
    let mut auditor = Auditor::default();
    m.pairs().iter().for_each(|(key, value)| auditor.take(key, value).unwrap());
    let audit = auditor.finish();
    assert_eq!((audit.files, audit.chunks, audit.troubles), (2, 5, vec![]));
    // What chunk 1 is by itself is found while it is there, and holds nothing.
    let alone = file_of_one_chunk(id(1), CHUNK).unwrap();
    assert_eq!(file(&m.state, alone), Some(vec![id(1)]));
    assert_eq!(file(&m.state, file_of_one_chunk(id(2), CHUNK).unwrap()), None);
    m.assert_same_after_reload();
}

#[test]
fn a_commit_must_bring_the_blocks_of_its_manifest() {
    let mut m = Machine::new();
    let Command::CommitFile { file, chunks } = super::file(vec![chunk(1, &[0, 1, 2])], Ack::All) else {
        panic!()
    };
    let without = Command::CommitFile { file: file.clone(), chunks: chunks[..1].to_vec() };
    assert_eq!(code(m.run(without)), Err(ErrorCode::BadRequest));
    let other = vec![chunks[0].clone(), chunk(7, &[0, 1, 2])];
    assert_eq!(
        code(m.run(Command::CommitFile { file: file.clone(), chunks: other })),
        Err(ErrorCode::BadRequest)
    );
    let mut poor = chunks.clone();
    poor[1].promises.truncate(1);
    assert_eq!(
        code(m.run(Command::CommitFile { file: file.clone(), chunks: poor })),
        Err(ErrorCode::TooFewReceipts)
    );
    m.run(Command::CommitFile { file, chunks: chunks.clone() }).unwrap();
    assert_eq!(m.states(chunks[1].id), [PieceState::Live; 3]);
}
