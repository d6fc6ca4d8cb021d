//! Long files: what a part and its file cost in store operations, what they count for, and that every step on
//! the way leaves books that agree.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wmall_manifest::{Block, Manifest};
use wmall_proto::FileId;
use wmall_proto::chunk::ChunkRecord;
use wmall_proto::pool::{Bucket, BucketChange};
use wmall_proto::rpc::NameCommand;

use super::*;

const FULL: u64 = MAX_CHUNKS_PER_COMMIT as u64;
const PART_BYTES: u64 = FULL * CHUNK as u64;

/// Counts what is asked of a map.
struct Counting(MemoryStore, Arc<AtomicU64>);

impl Counting {
    fn count(&self, operations: usize) {
        self.1.fetch_add(operations as u64, Ordering::Relaxed);
    }
}

impl Store for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.count(1);
        self.0.get(key)
    }

    fn scan_within(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        bounds: (usize, usize),
    ) -> Result<Vec<Pair>, StoreError> {
        self.count(1);
        self.0.scan_within(prefix, after, bounds)
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        self.count(changes.len());
        self.0.apply(changes)
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.0.clear()
    }

    fn beside(&self) -> Result<Box<dyn Store>, StoreError> {
        self.0.beside()
    }

    fn swap_in(&self) -> Result<(), StoreError> {
        self.0.swap_in()
    }
}

/// A machine, and a number that tells the operations on its map.
fn counted() -> (Machine, Arc<AtomicU64>) {
    let (m, count) = (Machine::new(), Arc::new(AtomicU64::new(0)));
    let state = State::open(Box::new(Counting(MemoryStore::default(), count.clone()))).unwrap();
    state.load(m.pairs().into_iter().map(Ok)).unwrap();
    (Machine { state, ..m }, count)
}

/// Operations of one entry with this command, which is carried out.
fn cost(m: &mut Machine, count: &AtomicU64, command: Command) -> u64 {
    let before = count.load(Ordering::Relaxed);
    m.run(command).unwrap();
    count.load(Ordering::Relaxed) - before
}

fn upload(n: u8) -> UploadId {
    UploadId::new(10_000, [n; 10])
}

/// Chunks of these numbers, and their block.
pub(super) fn part(upload: UploadId, part: u32, bucket: Option<BucketName>, numbers: &[u64]) -> Command {
    let mut chunks: Vec<PromisedChunk> = numbers.iter().map(|&n| chunk(n, &[0, 1, 2])).collect();
    let block = Block::Part(chunks.iter().map(|c| c.id).collect()).encode();
    let length = block.len() as u32;
    chunks.push(PromisedChunk { id: ChunkId::of(&block), length, ..chunk(0, &[0, 1, 2]) });
    let part = PartCommit { owner: user(), upload, pool: POOL, part, bucket, ack: Ack::All };
    Command::CommitPart { part, chunks }
}

fn parts(upload: UploadId, bucket: Option<&BucketName>, numbers: &[u64]) -> Vec<Command> {
    let full = numbers.len().saturating_sub(1) / FULL as usize;
    let parts = numbers.chunks(FULL as usize).take(full).enumerate();
    parts.map(|(n, numbers)| part(upload, n as u32, bucket.cloned(), numbers)).collect()
}

/// The commit of the file whose parts were sent, and its id.
fn last(upload: UploadId, object: Option<&str>, numbers: &[u64]) -> (Command, FileId) {
    let ids: Vec<ChunkId> = numbers.iter().map(|&n| id(n)).collect();
    let size = u64::from(CHUNK) * ids.len() as u64;
    let manifest = Manifest::new(size, CHUNK, ids).unwrap();
    let full = numbers.len().saturating_sub(1) / FULL as usize;
    let rest = &numbers[full * FULL as usize..];
    let mut chunks: Vec<PromisedChunk> = rest.iter().map(|&n| chunk(n, &[0, 1, 2])).collect();
    chunks.extend(blocks(&manifest).pop());
    let file = FileCommit {
        upload,
        pool: POOL,
        id: manifest.id(),
        size,
        chunk_size: CHUNK,
        object: object.map(|name| (b(), name.parse().unwrap())),
        condition: Condition::None,
        parts: full as u32,
        ack: Ack::All,
    };
    (Command::CommitFile { file, chunks }, manifest.id())
}

fn remove(name: &str) -> Command {
    let (bucket, name, condition, purge) = (b(), name.parse().unwrap(), Condition::None, true);
    Command::Name(NameCommand::Remove { bucket, name, condition, purge })
}

fn bucket(m: &Machine) -> Bucket {
    match m.state.query(&Query::Bucket(b()), &Silent::new()) {
        Ok(QueryReply::Bucket(bucket)) => bucket,
        other => panic!("{other:?}"),
    }
}

fn references(m: &Machine, n: u64) -> u64 {
    m.state.chunk_record(POOL, &id(n)).unwrap().map_or(0, |record| record.references)
}

#[test]
fn a_chunk_in_many_places_is_judged_counted_and_released_once() {
    let (mut m, count) = counted();
    let numbers = vec![7; 3 * FULL as usize + 100];
    for part in parts(upload(1), Some(&b()), &numbers) {
        let cost = cost(&mut m, &count, part);
        assert!(cost < 60, "{cost} operations for a part of one chunk");
    }
    let (commit, _) = last(upload(1), Some("x"), &numbers);
    let committing = cost(&mut m, &count, commit);
    assert!(committing < 60, "{committing} operations for the file");
    assert_eq!(references(&m, 7), numbers.len() as u64);
    m.recount();
    let removing = cost(&mut m, &count, remove("x"));
    assert!(removing < 60, "{removing} operations to let the file go");
    let lists = m.state.waiting_lists(u64::MAX).unwrap();
    let releasing = cost(&mut m, &count, Command::ReleaseLists(lists));
    assert!(releasing < 60, "{releasing} operations to release it");
    assert_eq!(references(&m, 7), 0);
    m.recount();
}

#[test]
fn no_entry_of_a_long_file_touches_more_than_a_part() {
    let (mut m, count) = counted();
    let numbers: Vec<u64> = (0..2 * FULL + 100).collect();
    for part in parts(upload(1), Some(&b()), &numbers) {
        let cost = cost(&mut m, &count, part);
        assert!(cost < 8 * FULL, "{cost} operations for a part");
    }
    let (commit, file) = last(upload(1), Some("x"), &numbers);
    let committing = cost(&mut m, &count, commit);
    assert!(
        committing < 1000,
        "{committing} operations for the file itself, which has 100 chunks of its own"
    );
    m.recount();
    for first in [0, 5, FULL - 1, FULL, 2 * FULL, 2 * FULL + 99, 2 * FULL + 100] {
        let Ok(QueryReply::File(page)) = m.state.query(&Query::File { id: file, first }, &Silent::new())
        else {
            panic!("no page from {first} on")
        };
        let until = ((first / FULL + 1) * FULL).min(numbers.len() as u64);
        let expected: Vec<ChunkId> = (first..until).map(id).collect();
        assert_eq!(page.chunks, expected, "from {first} on");
    }
    let removing = cost(&mut m, &count, remove("x"));
    assert!(removing < 100, "{removing} operations to let it go");
    assert!(m.state.query(&Query::File { id: file, first: 0 }, &Silent::new()).is_err());
    m.recount();
    let mut steps = 0;
    loop {
        let lists = m.state.waiting_lists(FULL).unwrap();
        if lists.is_empty() {
            break;
        }
        let releasing = cost(&mut m, &count, Command::ReleaseLists(lists));
        assert!(releasing < 6 * FULL, "{releasing} operations in one step");
        m.recount();
        steps += 1;
    }
    assert_eq!((steps, references(&m, 3)), (3, 0));
}

#[test]
fn parts_that_wait_count_for_the_quota() {
    let mut m = Machine::new();
    let max_bytes = Some(Some(2 * PART_BYTES + u64::from(CHUNK)));
    let change = BucketChange { max_bytes, ..BucketChange::default() };
    m.run(Command::ChangeBucket { name: b(), change }).unwrap();
    let numbers: Vec<u64> = (0..2 * FULL + 1).collect();
    let sent = parts(upload(1), Some(&b()), &numbers);
    let over = Err(ErrorCode::QuotaExceeded);
    m.run(sent[0].clone()).unwrap();
    m.run(sent[1].clone()).unwrap();
    assert_eq!(bucket(&m).staged_bytes, 2 * PART_BYTES);
    assert_eq!(code(m.run(part(upload(2), 0, Some(b()), &numbers[..FULL as usize]))), over);
    // The same part again counts once.
    m.run(sent[1].clone()).unwrap();
    m.recount();
    let (foreign, _) = last(upload(1), None, &numbers);
    assert_eq!(
        code(m.run(foreign)),
        Err(ErrorCode::BadRequest),
        "announced for a bucket, and meant for none"
    );
    let (commit, _) = last(upload(1), Some("x"), &numbers);
    m.run(commit).unwrap();
    assert_eq!((bucket(&m).staged_bytes, bucket(&m).bytes), (0, 2 * PART_BYTES + u64::from(CHUNK)));
    m.recount();
    m.run(remove("x")).unwrap();
    m.run(part(upload(2), 0, Some(b()), &numbers[..FULL as usize])).unwrap();
    assert_eq!(bucket(&m).staged_bytes, PART_BYTES);
    m.run(Command::FenceUploads { before_ms: 10_001 }).unwrap();
    m.run(Command::DropParts(vec![(upload(2), POOL, 0)])).unwrap();
    assert_eq!(bucket(&m).staged_bytes, 0);
    m.release_lists();
    m.recount();
    assert_eq!(references(&m, 1), 0);
}

#[test]
fn parts_of_a_bucket_of_before_count_for_no_other() {
    let numbers: Vec<u64> = (0..FULL).collect();
    let create = || {
        let (name, pool, rules) = (b(), "3x".parse().unwrap(), BucketRules::default());
        Command::CreateBucket { name, pool, rules }
    };
    // One after another, and both buckets in one entry, at one time of the clock.
    for together in [false, true] {
        let mut m = Machine::new();
        let commands = [
            Command::RemoveBucket { name: b(), purge: true },
            create(),
            part(upload(1), 0, Some(b()), &numbers),
            Command::RemoveBucket { name: b(), purge: true },
            create(),
            part(upload(2), 0, Some(b()), &numbers),
        ];
        let items = commands.map(|command| Envelope { request: None, by: None, command });
        let answers = match together {
            true => m.apply(items.to_vec()),
            false => items.into_iter().map(|item| m.apply(vec![item]).remove(0)).collect(),
        };
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        m.recount();
        m.run(Command::FenceUploads { before_ms: 10_001 }).unwrap();
        m.run(Command::DropParts(vec![(upload(1), POOL, 0)])).unwrap();
        assert_eq!(bucket(&m).staged_bytes, PART_BYTES);
        m.recount();
    }
}

/// The same long file twice, under two names: the second one's parts are of no use, and go.
#[test]
fn parts_of_a_file_that_is_there_are_released() {
    let mut m = Machine::new();
    let numbers: Vec<u64> = (0..FULL + 10).collect();
    for (n, name) in [(1, "x"), (2, "y")] {
        parts(upload(n), Some(&b()), &numbers).into_iter().for_each(|part| drop(m.run(part).unwrap()));
        m.run(last(upload(n), Some(name), &numbers).0).unwrap();
        m.recount();
    }
    assert_eq!(references(&m, 1), 2);
    m.release_lists();
    m.recount();
    assert_eq!((references(&m, 1), references(&m, FULL + 1)), (1, 1));
    m.run(remove("x")).unwrap();
    assert_eq!(references(&m, 1), 1);
    m.run(remove("y")).unwrap();
    m.release_lists();
    m.recount();
    assert_eq!(references(&m, 1), 0);
}

#[test]
fn a_part_is_of_one_chunk_size_and_has_its_block() {
    let mut m = Machine::new();
    let numbers: Vec<u64> = (0..FULL).collect();
    let sent = |change: &dyn Fn(&mut Vec<PromisedChunk>)| {
        let mut command = part(upload(1), 0, None, &numbers);
        if let Command::CommitPart { chunks, .. } = &mut command {
            change(chunks);
        }
        command
    };
    let bad = Err(ErrorCode::BadRequest);
    assert_eq!(code(m.run(sent(&|chunks| chunks[5].length -= 1))), bad);
    assert_eq!(code(m.run(sent(&|chunks| chunks.swap(0, 1)))), bad, "the block of another order");
    assert_eq!(code(m.run(sent(&|chunks| drop(chunks.pop())))), bad);
    let few = Err(ErrorCode::TooFewReceipts);
    assert_eq!(code(m.run(sent(&|chunks| chunks[5].promises.truncate(1)))), few);
    assert_eq!(m.state.read().groups.values().sum::<u64>(), 0, "refusals change nothing");
    m.run(sent(&|_| ())).unwrap();
    m.recount();
}

/// Of the places of one chunk, those with promises count, wherever they are.
#[test]
fn one_place_with_promises_is_enough_for_all() {
    let mut m = Machine::new();
    let all = |slots: [&[u8]; 3]| file(slots.map(|slots| chunk(1, slots)).to_vec(), Ack::All);
    assert_eq!(code(m.run(all([&[0], &[0, 1], &[]]))), Err(ErrorCode::TooFewReceipts));
    m.run(all([&[], &[0, 1, 2], &[0]])).unwrap();
    assert_eq!(references(&m, 1), 3);
    m.recount();
}

#[test]
fn references_go_past_four_billion() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    let record = m.state.chunk_record(POOL, &id(1)).unwrap().unwrap();
    let record = ChunkRecord { references: u64::from(u32::MAX), ..record };
    let changes = Changes::from([(keys::chunk(POOL, &id(1)), Some(codec::encode(&record)))]);
    m.state.store.apply(&changes).unwrap();
    m.commit(vec![chunk(1, &[]), chunk(1, &[]), chunk(2, &[0, 1, 2])], Ack::All).unwrap();
    assert_eq!(references(&m, 1), u64::from(u32::MAX) + 2);
}

/// Its chunks may have been deleted in the life that the snapshot does not know of.
#[test]
fn a_part_of_a_former_life_is_no_part_of_a_file() {
    const ROWS_FROM: u64 = 1 << 50;
    let mut m = Machine::new();
    let numbers: Vec<u64> = (0..FULL + 1).collect();
    let sent = parts(upload(1), None, &numbers);
    sent.iter().for_each(|part| drop(m.run(part.clone()).unwrap()));
    m.state.begin_again(openraft::Membership::new(vec![], BTreeMap::new())).unwrap();
    m.run(Command::BeginEpoch { epoch: 7, rows_from: ROWS_FROM }).unwrap();
    let anew = |mut command: Command| {
        if let Command::CommitPart { chunks, .. } | Command::CommitFile { chunks, .. } = &mut command {
            chunks.iter_mut().for_each(|chunk| chunk.row_version = ROWS_FROM);
        }
        command
    };
    let (commit, _) = last(upload(1), None, &numbers);
    let Command::CommitPart { chunks, .. } = &sent[0] else { panic!("a part") };
    let block = chunks.last().unwrap().id;
    assert_eq!(m.run(anew(commit.clone())), Ok(Response::NeedChunks(vec![block])));
    m.run(anew(sent[0].clone())).unwrap();
    assert!(matches!(m.run(anew(commit)), Ok(Response::Committed(_))));
    m.release_lists();
    m.recount();
}
