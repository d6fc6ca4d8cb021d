//! The state machine, one entry after another.

mod answers;
mod crash;
mod dump;
mod garbage;
mod identity;
mod moves;
mod nodes;
mod operations;
mod parts;
mod rebuild;
mod simulation;
mod stripes;

use std::collections::BTreeMap;

use openraft::{CommittedLeaderId, LogId};
use wmall_manifest::Manifest;
use wmall_proto::chunk::{MAX_CHUNKS_PER_COMMIT, PieceDigest, PieceState};
use wmall_proto::feed::PoolChunk;
use wmall_proto::pool::BucketRules;
use wmall_proto::rpc::{Ack, Condition, DiskRegistration, Query, QueryReply, Registration, Response};
use wmall_proto::{
    BucketName, ChunkId, DiskId, ErrorCode, Incarnation, NodeName, PgId, PoolId, RequestId, RpcError,
    UploadId, codec,
};
use wmall_runtime::view::MemoryStore;

use super::*;
use crate::command::{
    Batch, Command, Envelope, FetchedPiece, FileCommit, PartCommit, Promise, PromisedChunk,
};

const POOL: PoolId = PoolId(1);
const CHUNK: u32 = 65_536;

/// The user that puts files.
fn user() -> wmall_proto::identity::Actor {
    wmall_proto::identity::Actor { role: wmall_proto::Role::Client, name: "user".parse().unwrap() }
}

/// A state machine with one entry after another.
struct Machine {
    state: State,
    index: u64,
    /// The leader's clock, ahead of the index by so much.
    ahead_ms: u64,
}

impl Machine {
    /// Four disks on four nodes in two zones, a pool of three copies with one group, a bucket `b`.
    fn new() -> Self {
        let state = State::open(Box::new(MemoryStore::default())).unwrap();
        let mut machine = Self { state, index: 0, ahead_ms: 0 };
        for i in 1..=4u8 {
            machine.register(i, i).unwrap();
        }
        let based_on = machine.state.topology().version;
        let rows = vec![vec![DiskId(1), DiskId(2), DiskId(3)]];
        let name = "3x".parse().unwrap();
        let scheme = "3x".parse().unwrap();
        machine.run(Command::CreatePool { name, scheme, pg_bits: 0, rows, based_on }).unwrap();
        let (name, pool) = ("b".parse().unwrap(), "3x".parse().unwrap());
        let rules = BucketRules { undelete_ms: 100, ..BucketRules::default() };
        machine.run(Command::CreateBucket { name, pool, rules }).unwrap();
        machine
    }

    fn apply(&mut self, items: Vec<Envelope>) -> Vec<Result<Response, RpcError>> {
        self.index += 1;
        let log_id = LogId::new(CommittedLeaderId::new(1, 1), self.index);
        let bytes = codec::encode(&Batch { now_ms: self.index + self.ahead_ms, items });
        let outputs = self.state.apply(vec![(log_id, StateEntry::Commands(bytes.into()))]).unwrap();
        let answers: Vec<Vec<u8>> = codec::decode(&outputs[0]).unwrap();
        answers.iter().map(|a| codec::decode(a).unwrap()).collect()
    }

    fn run(&mut self, command: Command) -> Result<Response, RpcError> {
        self.apply(vec![Envelope { request: None, by: None, command }]).remove(0)
    }

    /// Node and disk `i`; zones `z1` and `z2` in turn. `life` tells incarnations apart.
    fn register(&mut self, i: u8, life: u8) -> Result<Response, RpcError> {
        self.register_as(registration(i, life), &[])
    }

    /// A registration, with disks that the leader has heard further on.
    fn register_as(&mut self, registration: Registration, older: &[DiskId]) -> Result<Response, RpcError> {
        let replaces = self.state.process_of(&registration.node);
        self.run(Command::Register { registration, replaces, older: older.to_vec() })
    }

    /// Everything in the map.
    fn pairs(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.state.store.scan(b"", None, usize::MAX).unwrap().into_iter().collect()
    }

    /// What is held in memory is what a start would read from the map.
    fn assert_same_after_reload(&self) {
        let fresh = State::open(Box::new(MemoryStore::default())).unwrap();
        fresh.load(self.pairs().into_iter().map(Ok)).unwrap();
        let (now, then) = (self.state.read(), fresh.read());
        assert_eq!(now.join_tokens, then.join_tokens);
        assert_eq!(now.topology, then.topology);
        assert_eq!(now.counters, then.counters);
        assert_eq!(now.waiting, then.waiting);
    }

    fn commit(&mut self, chunks: Vec<PromisedChunk>, ack: Ack) -> Result<Response, RpcError> {
        self.run(file(chunks, ack))
    }

    fn states(&self, chunk: ChunkId) -> Vec<PieceState> {
        match self.state.query(&Query::Chunk(chunk), &Silent::new()) {
            Ok(QueryReply::Chunk(views)) => views[0].pieces.iter().map(|p| p.state).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// All that a disk lacks, whatever its urgency; of its groups, the dirty ones.
    fn missing(&self, disk: u32) -> (Vec<ChunkId>, Vec<(PoolId, PgId)>, u64) {
        let (disk, mut all, mut seen, mut first) = (DiskId(disk), Vec::new(), Vec::new(), None);
        loop {
            let (pieces, groups, as_of) = self.most_urgent(disk, &seen);
            let first = *first.get_or_insert(as_of);
            all.extend(pieces);
            if groups.is_empty() {
                let topology = self.state.topology();
                let dirty = |(pool, pg): &(PoolId, PgId)| {
                    let row = &topology.pools[pool].rows[pg.0 as usize];
                    row.dirty_at[usize::from(row.slot_of(disk).unwrap())].is_some()
                };
                seen.retain(dirty);
                seen.sort_unstable();
                return (all, seen, first);
            }
            seen.extend(groups);
        }
    }

    /// What a disk lacks of the most urgent groups, all pages.
    fn most_urgent(&self, disk: DiskId, but: &[(PoolId, PgId)]) -> (Vec<ChunkId>, Vec<(PoolId, PgId)>, u64) {
        let (mut all, mut after, mut first) = (Vec::new(), None, None);
        loop {
            let known = first.as_ref().map_or_else(Vec::new, |(groups, _): &(Vec<_>, u64)| groups.clone());
            let listing = Listing { groups: &known, but, after: after.as_ref() };
            let listed = self.state.list_missing(disk, listing, &Silent::new()).unwrap();
            let Response::Missing { pieces, next, groups, as_of, .. } = listed else { panic!("{listed:?}") };
            first.get_or_insert((groups, as_of));
            all.extend(pieces.into_iter().map(|p| p.chunk));
            after = next;
            if after.is_none() {
                let (groups, as_of) = first.unwrap();
                return (all, groups, as_of);
            }
        }
    }

    fn close(&mut self, disk: u32, pieces: &[ChunkId], clean: Vec<(PoolId, PgId)>, as_of: u64) {
        let slot =
            |c: &ChunkId| self.state.topology().row_of(POOL, c).unwrap().1.slot_of(DiskId(disk)).unwrap();
        let pieces = pieces.iter().map(|c| fetched(slot(c), *c)).collect();
        let incarnation = self.state.topology().disks[&DiskId(disk)].incarnation;
        let disk = DiskId(disk);
        self.run(Command::CloseTickets { disk, incarnation, pieces, clean, as_of }).unwrap();
    }

    /// Has all lists released that wait for it, as the collector does.
    fn release_lists(&mut self) {
        loop {
            let lists = self.state.waiting_lists(8192).unwrap();
            if lists.is_empty() {
                return;
            }
            self.run(Command::ReleaseLists(lists)).unwrap();
        }
    }

    fn tickets(&self) -> u64 {
        self.state.counters().1.tickets.values().sum()
    }
}

/// What node `i` says of itself, by a process and with a disk of this life, which has been opened once.
fn registration(i: u8, life: u8) -> Registration {
    let disk = DiskRegistration {
        name: NodeName::new("d").unwrap(),
        weight: 1,
        max_bytes: 1 << 30,
        incarnation: Incarnation([life; 16]),
        public_key: [i; 32],
        starts: 1,
        end: (0, 0),
    };
    Registration {
        node: NodeName::new(format!("data-{i}")).unwrap(),
        zone: format!("z{}", i % 2).parse().unwrap(),
        address: ([127, 0, 0, 1], u16::from(i)).into(),
        process: [life; 16],
        disks: vec![disk],
    }
}

fn id(n: u64) -> ChunkId {
    ChunkId::of(&n.to_le_bytes())
}

/// What a disk has fetched for a slot.
fn fetched(slot: u8, chunk: ChunkId) -> FetchedPiece {
    FetchedPiece { pool: POOL, chunk, slot, digest: chunk.0 }
}

/// A chunk with promises of these slots, by the disks that have them.
fn chunk(n: u64, slots: &[u8]) -> PromisedChunk {
    let promise = |&slot: &u8| Promise {
        slot,
        disk: DiskId(u32::from(slot) + 1),
        incarnation: Incarnation([slot + 1; 16]),
    };
    let promises = slots.iter().map(promise).collect();
    PromisedChunk { id: id(n), length: CHUNK, row_version: 1, digests: vec![], promises }
}

/// The blocks of a manifest, all there.
fn blocks(manifest: &Manifest) -> Vec<PromisedChunk> {
    let promised = |block: &Vec<u8>| PromisedChunk {
        id: ChunkId::of(block),
        length: block.len() as u32,
        row_version: 1,
        digests: vec![],
        promises: chunk(0, &[0, 1, 2]).promises,
    };
    manifest.blocks().iter().map(promised).collect()
}

fn file(mut chunks: Vec<PromisedChunk>, ack: Ack) -> Command {
    let ids: Vec<ChunkId> = chunks.iter().map(|c| c.id).collect();
    let size = u64::from(CHUNK) * ids.len() as u64;
    let manifest = Manifest::new(size, CHUNK, ids).unwrap();
    let file = FileCommit {
        upload: UploadId([1; 16]),
        pool: POOL,
        id: manifest.id(),
        size,
        chunk_size: CHUNK,
        object: None,
        condition: Condition::None,
        parts: 0,
        ack,
    };
    chunks.extend(blocks(&manifest).pop());
    Command::CommitFile { file, chunks }
}

fn code(answer: Result<Response, RpcError>) -> Result<(), ErrorCode> {
    answer.map(|_| ()).map_err(|e| e.code)
}

#[test]
fn receipts_are_judged_against_the_rows_of_the_moment() {
    let mut m = Machine::new();
    let few = Err(ErrorCode::TooFewReceipts);
    assert_eq!(code(m.commit(vec![chunk(1, &[0])], Ack::Quorum)), few);
    assert_eq!(code(m.commit(vec![chunk(1, &[0, 2])], Ack::Quorum)), few, "both in one zone");
    assert_eq!(code(m.commit(vec![chunk(1, &[0, 1])], Ack::All)), few);
    let mut twice = chunk(1, &[0, 0]);
    twice.promises[1].slot = 1;
    assert_eq!(code(m.commit(vec![twice], Ack::Quorum)), few, "one disk is not two slots");
    let mut old = chunk(1, &[0, 1]);
    old.promises[1].incarnation = Incarnation([99; 16]);
    assert_eq!(code(m.commit(vec![old], Ack::Quorum)), few, "a promise of a wiped disk");
    assert_eq!(m.state.counters().1.files, 0);
    assert_eq!(m.state.read().groups.values().sum::<u64>(), 0, "refusals change nothing");
    assert_eq!(code(m.commit(vec![chunk(1, &[0, 1])], Ack::Quorum)), Ok(()));
    assert_eq!(code(m.commit(vec![chunk(2, &[0, 1, 2])], Ack::All)), Ok(()));
    assert_eq!(m.states(id(1)), [PieceState::Live, PieceState::Live, PieceState::Missing]);
    assert_eq!(m.states(id(2)), [PieceState::Live; 3]);
    assert_eq!((m.tickets(), m.missing(3).0), (1, vec![id(1)]));
}

#[test]
fn tickets_close_by_receipts_and_rot_only_by_the_disk_itself() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1])], Ack::Quorum).unwrap();
    // The same bytes again, now on all three: what was missing is there.
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    assert_eq!(m.tickets(), 0);
    let disk = DiskId(2);
    let reported = [1, 77].map(|n| PoolChunk { pool: POOL, chunk: id(n) });
    assert_eq!(m.state.untold(disk, &reported).unwrap(), reported[..1]);
    m.run(Command::ReportBad { disk, chunks: vec![(POOL, id(1)), (POOL, id(77))] }).unwrap();
    assert_eq!(m.missing(2).0, [id(1)], "and nothing for a chunk that nobody committed");
    assert!(m.state.untold(disk, &reported).unwrap().is_empty(), "who says it again makes no entry");
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    assert_eq!(m.tickets(), 1, "a receipt from before the rot was found proves nothing");
    m.close(2, &[id(1)], vec![], 0);
    assert_eq!(m.tickets(), 1, "a ticket from after the listing stays");
    m.close(2, &[id(1)], vec![], m.index);
    assert_eq!(m.tickets(), 0);
    let void = Command::CloseTickets {
        disk,
        incarnation: Incarnation([9; 16]),
        pieces: vec![fetched(0, id(1))],
        clean: vec![],
        as_of: 0,
    };
    assert_eq!(code(m.run(void)), Err(ErrorCode::BadReceipt));
}

#[test]
fn a_wiped_disk_is_dirty_until_its_listing_is_worked_off() {
    let mut m = Machine::new();
    let chunks: Vec<PromisedChunk> = (0..2500).map(|n| chunk(n, &[0, 1, 2])).collect();
    let Command::CommitFile { chunks, .. } = file(chunks, Ack::All) else { panic!("a file") };
    // The block of the manifest is a chunk as the others are.
    let mut expected: Vec<ChunkId> = chunks.iter().map(|c| c.id).collect();
    m.commit(chunks[..2500].to_vec(), Ack::All).unwrap();
    m.register(3, 33).unwrap();
    assert_eq!(m.states(id(7))[2], PieceState::Missing);
    let (listed, groups, as_of) = m.missing(3);
    expected.sort();
    assert_eq!(listed, expected, "every chunk, once, over all pages");
    m.close(3, &listed, groups, as_of);
    assert_eq!(m.states(id(7)), [PieceState::Live; 3]);
    assert!(m.missing(3).0.is_empty());
}

#[test]
fn too_many_tickets_become_a_dirty_mark_that_later_misses_renew() {
    let mut m = Machine::new();
    m.commit((0..1024).map(|n| chunk(n, &[0, 1])).collect(), Ack::Quorum).unwrap();
    assert_eq!((m.tickets(), m.missing(3).1.len()), (1024, 0));
    m.commit(vec![chunk(5000, &[0, 1])], Ack::Quorum).unwrap();
    assert_eq!((m.tickets(), m.missing(3).1.len()), (1024, 1));
    let (listed, groups, as_of) = m.missing(3);
    assert!(listed.contains(&id(5000)));
    // While the listing is worked off, another write misses the disk: the mark must outlive the close.
    m.commit(vec![chunk(6000, &[0, 1])], Ack::Quorum).unwrap();
    m.close(3, &listed, groups, as_of);
    assert_eq!(m.tickets(), 0);
    let (listed, groups, as_of) = m.missing(3);
    assert!(listed.contains(&id(6000)) && groups.len() == 1);
    m.close(3, &listed, groups, as_of);
    assert!(m.missing(3).0.is_empty() && m.missing(3).1.is_empty());
}

/// A disk that has a lot to fetch begins with what the next loss would lose, whatever its keys.
#[test]
fn the_groups_that_are_nearest_to_a_loss_are_listed_first() {
    let mut m = Machine::new();
    let (other, rows) = (PoolId(2), [[1, 2, 4], [1, 2, 3]]);
    let rows = rows.map(|row| row.map(DiskId).to_vec()).to_vec();
    let (name, scheme) = ("other".parse().unwrap(), "3x".parse().unwrap());
    let based_on = m.state.topology().version;
    m.run(Command::CreatePool { name, scheme, pg_bits: 1, rows, based_on }).unwrap();
    m.register(1, 11).unwrap();
    m.register(3, 33).unwrap();
    let (_, first, _) = m.most_urgent(DiskId(1), &[]);
    assert_eq!(first, [(POOL, PgId(0)), (other, PgId(1))], "one copy is left of these");
    let (_, second, _) = m.most_urgent(DiskId(1), &first);
    assert_eq!(second, [(other, PgId(0))], "and two of this one");
    let all = [first, second].concat();
    assert_eq!(m.most_urgent(DiskId(1), &all).1, []);
    // What nobody has now is no reason to let the others wait.
    let silent: Silent = [DiskId(2), DiskId(3)].into();
    let listed = m.state.list_missing(DiskId(1), Listing::default(), &silent).unwrap();
    let Response::Missing { groups, dirty, .. } = listed else { panic!("{listed:?}") };
    assert_eq!((&groups, &dirty), (&vec![(other, PgId(0))], &groups));
}

/// A mark of later may look like one of before: a restore and a doubt about a disk make marks of no index.
#[test]
fn a_group_of_which_only_tickets_were_listed_is_not_vouched_for() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1])], Ack::Quorum).unwrap();
    let listed = m.state.list_missing(DiskId(3), Listing::default(), &Silent::new()).unwrap();
    let Response::Missing { groups, dirty, pieces, .. } = listed else { panic!("{listed:?}") };
    assert_eq!((groups.len(), dirty.len(), pieces.is_empty()), (1, 0, false));
}

#[test]
fn a_request_id_gets_one_answer_and_one_effect() {
    let mut m = Machine::new();
    let item = || Envelope {
        by: None,
        request: Some(RequestId::new(5, [5; 10])),
        command: Command::CreateBucket {
            name: "twice".parse().unwrap(),
            pool: "3x".parse().unwrap(),
            rules: BucketRules::default(),
        },
    };
    // In one entry, and again in a later one: all are told what the first was told.
    assert_eq!(m.apply(vec![item(), item()]), [Ok(Response::Done), Ok(Response::Done)]);
    assert_eq!(m.apply(vec![item()]), [Ok(Response::Done)]);
    let other = Envelope { request: Some(RequestId::new(6, [6; 10])), ..item() };
    assert_eq!(code(m.apply(vec![other]).remove(0)), Err(ErrorCode::AlreadyExists));
}

#[test]
fn parts_belong_to_their_upload_and_pool_and_show_only_with_the_file() {
    let mut m = Machine::new();
    let all: Vec<PromisedChunk> =
        (0..MAX_CHUNKS_PER_COMMIT as u64 + 10).map(|n| chunk(n, &[0, 1, 2])).collect();
    let whole = file(all.clone(), Ack::All);
    let Command::CommitFile { file: whole, .. } = whole else { panic!("a file") };
    let ids = all.iter().map(|c| c.id).collect();
    let blocks = blocks(&Manifest::new(whole.size, CHUNK, ids).unwrap());
    let (first, rest) = all.split_at(MAX_CHUNKS_PER_COMMIT);
    let (first, rest) = ([first, &blocks[..1]].concat(), [rest, &blocks[1..]].concat());
    let FileCommit { upload, id: file_id, ack, .. } = whole;
    let last =
        |parts| Command::CommitFile { file: FileCommit { parts, ..whole.clone() }, chunks: rest.clone() };
    assert_eq!(code(m.run(last(1))), Err(ErrorCode::NotFound), "the part has not come");
    let part = |pool| Command::CommitPart {
        part: PartCommit { owner: user(), upload, pool, part: 0, bucket: None, ack },
        chunks: first.clone(),
    };
    assert_eq!(code(m.run(part(PoolId(9)))), Err(ErrorCode::NotFound));
    m.run(part(POOL)).unwrap();
    assert!(m.state.query(&Query::File { id: file_id, first: 0 }, &Silent::new()).is_err());
    assert_eq!(code(m.run(last(0))), Err(ErrorCode::BadRequest), "another file without its part");
    m.run(last(1)).unwrap();
    let page = |first| match m.state.query(&Query::File { id: file_id, first }, &Silent::new()) {
        Ok(QueryReply::File(page)) => page.chunks,
        other => panic!("{other:?}"),
    };
    let mut ids = page(0);
    ids.extend(page(ids.len() as u64));
    assert_eq!(ids, all.iter().map(|c| c.id).collect::<Vec<_>>());
    assert_eq!(code(m.run(last(1))), Err(ErrorCode::NotFound), "the part is gone with its commit");
}

#[test]
fn names_move_and_buckets_count() {
    let mut m = Machine::new();
    let name = |n: u64, object: &str| {
        let mut command = file(vec![chunk(n, &[0, 1, 2])], Ack::All);
        if let Command::CommitFile { file, .. } = &mut command {
            file.object = Some(("b".parse().unwrap(), object.parse().unwrap()));
        }
        command
    };
    for (n, object) in [(1, "x"), (2, "x"), (2, "x"), (2, "y")] {
        m.run(name(n, object)).unwrap();
    }
    let bucket = |m: &Machine| match m.state.query(&Query::Bucket(b()), &Silent::new()) {
        Ok(QueryReply::Bucket(bucket)) => (bucket.objects, bucket.bytes),
        other => panic!("{other:?}"),
    };
    assert_eq!(bucket(&m), (2, 2 * u64::from(CHUNK)));
    let references = |m: &Machine, n: u64| {
        let Command::CommitFile { file, .. } = file(vec![chunk(n, &[])], Ack::All) else { panic!() };
        let id = file.id;
        match m.state.query(&Query::File { id, first: 0 }, &Silent::new()) {
            Ok(QueryReply::File(page)) => page.record.references,
            other => panic!("{other:?}"),
        }
    };
    // The former version of `x` holds its file.
    assert_eq!((references(&m, 1), references(&m, 2)), (1, 2));
    assert_eq!(code(m.run(Command::RemoveBucket { name: b(), purge: true })), Err(ErrorCode::NotEmpty));
}

fn b() -> BucketName {
    "b".parse().unwrap()
}

#[test]
fn a_dump_loads_into_the_same_state() {
    let mut m = Machine::new();
    m.commit((0..50).map(|n| chunk(n, &[0, 1])).collect(), Ack::Quorum).unwrap();
    m.register(3, 44).unwrap();
    let mut pairs = Vec::new();
    let applied = m.state.dump(|k, v| {
        pairs.push((k.to_vec(), v.to_vec()));
        Ok(())
    });
    let copy = State::open(Box::new(MemoryStore::default())).unwrap();
    copy.load(pairs.into_iter().map(Ok)).unwrap();
    assert_eq!(copy.applied(), applied.unwrap());
    assert_eq!(copy.counters(), m.state.counters());
    assert_eq!(copy.topology(), m.state.topology());
    assert_eq!(copy.grades(&Silent::new()).unwrap(), m.state.grades(&Silent::new()).unwrap());
    assert_eq!(copy.read().groups, m.state.read().groups);
    assert_eq!(copy.read().tickets, m.state.read().tickets);
}
