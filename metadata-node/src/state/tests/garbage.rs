//! What is let go, what is kept, and that every counter says the same as a recount.

use super::*;
use crate::command::{CondemnedChunk, Due};
use wmall_proto::feed::{FeedItem, FeedPage, PoolChunk};
use wmall_proto::pool::BucketChange;
use wmall_proto::rpc::NameCommand;
use wmall_proto::{FileId, ObjectName};

fn named(chunks: &[u64], name: &str, condition: Condition) -> Command {
    let mut command = file(chunks.iter().map(|&n| chunk(n, &[0, 1, 2])).collect(), Ack::All);
    if let Command::CommitFile { file, .. } = &mut command {
        file.object = Some((b(), name.parse().unwrap()));
        file.condition = condition;
    }
    command
}

fn file_of(chunks: &[u64]) -> FileId {
    match file(chunks.iter().map(|&n| chunk(n, &[])).collect(), Ack::All) {
        Command::CommitFile { file, .. } => file.id,
        other => panic!("{other:?}"),
    }
}

fn remove(name: &str, purge: bool) -> Command {
    let (name, condition) = (name.parse().unwrap(), Condition::None);
    Command::Name(NameCommand::Remove { bucket: b(), name, condition, purge })
}

fn restore(name: &str) -> Command {
    Command::Name(NameCommand::Restore { bucket: b(), name: name.parse().unwrap(), version: None })
}

impl Machine {
    /// The clock of the test is the index; this lets it run.
    fn wait(&mut self, entries: u64) {
        self.index += entries;
    }

    /// What the collector would do, were it its time.
    fn collect(&mut self) {
        let due = self.state.due(self.index, 100).unwrap();
        self.run(Command::Expire(due)).unwrap();
        self.release_lists();
        let condemned = self.state.condemned(self.index, 100).unwrap();
        self.run(Command::DeleteChunks(condemned)).unwrap();
    }

    fn exists(&self, n: u64) -> bool {
        self.state.chunk_record(POOL, &id(n)).unwrap().is_some()
    }

    fn feed(&self) -> Vec<FeedItem> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            match self.state.feed((0, after), &[DiskId(1)]).1 {
                FeedPage::Items { items, position, more } => {
                    all.extend(items);
                    after = position;
                    if !more {
                        return all;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Counts everything anew and holds it against every counter and reference.
    pub(super) fn recount(&self) {
        let mut auditor = Auditor::default();
        for (key, value) in self.state.store.scan(b"", None, usize::MAX).unwrap() {
            auditor.take(&key, &value).unwrap();
        }
        let audit = auditor.finish();
        assert!(audit.troubles.is_empty(), "{:#?}", audit.troubles);
    }
}

#[test]
fn a_recount_finds_what_was_miscounted() {
    let mut m = Machine::new();
    m.run(named(&[1, 2], "x", Condition::None)).unwrap();
    m.run(named(&[2, 3], "y", Condition::None)).unwrap();
    m.run(remove("y", true)).unwrap();
    m.recount();
    let pairs = m.state.store.scan(b"", None, usize::MAX).unwrap();
    // Without any one pair that counts, or is counted, the books do not agree.
    for kind in *b"kflcobwg" {
        let at = pairs.iter().position(|(k, _)| k[0] == kind).unwrap();
        let mut auditor = Auditor::default();
        for (_, (key, value)) in pairs.iter().enumerate().filter(|(i, _)| *i != at) {
            auditor.take(key, value).unwrap();
        }
        let troubles = auditor.finish().troubles;
        assert!(!troubles.is_empty(), "without a pair of kind {}", kind as char);
    }
}

#[test]
fn a_removed_object_can_be_had_back_within_the_grace_and_is_gone_after() {
    let mut m = Machine::new();
    m.run(named(&[1, 2], "x", Condition::None)).unwrap();
    m.run(named(&[2, 3], "y", Condition::None)).unwrap();
    m.run(remove("x", false)).unwrap();
    assert_eq!(code(m.run(remove("x", false))), Err(ErrorCode::NotFound));
    m.wait(50);
    m.collect();
    m.recount();
    m.run(restore("x")).unwrap();
    m.recount();
    assert_eq!(code(m.run(restore("x"))), Err(ErrorCode::AlreadyExists));
    m.run(remove("x", false)).unwrap();
    m.wait(101);
    m.collect();
    m.recount();
    assert_eq!(code(m.run(restore("x"))), Err(ErrorCode::NotFound));
    assert_eq!((m.exists(1), m.exists(2), m.exists(3)), (false, true, true), "what another file has stays");
    assert!(m.feed().contains(&FeedItem::Deleted(PoolChunk { pool: POOL, chunk: id(1) })));
    assert!(m.state.query(&Query::File { id: file_of(&[1, 2]), first: 0 }, &Silent::new()).is_err());
}

#[test]
fn what_a_name_pointed_to_before_is_kept_as_a_former_version() {
    let mut m = Machine::new();
    m.run(named(&[1], "x", Condition::None)).unwrap();
    m.run(named(&[2], "x", Condition::None)).unwrap();
    m.run(remove("x", false)).unwrap();
    m.recount();
    // The newest comes back first; the older one is still there.
    m.run(restore("x")).unwrap();
    let now = |m: &Machine| match m
        .state
        .query(&Query::Object { bucket: b(), name: "x".parse().unwrap() }, &Silent::new())
    {
        Ok(QueryReply::Object { record, .. }) => record.file,
        other => panic!("{other:?}"),
    };
    assert_eq!(now(&m), file_of(&[2]));
    m.run(remove("x", true)).unwrap();
    m.run(restore("x")).unwrap();
    assert_eq!(now(&m), file_of(&[1]));
    m.recount();
    let trash = Query::Trash { bucket: b(), prefix: String::new(), after: None, limit: 10 };
    let Ok(QueryReply::Trash { entries, .. }) = m.state.query(&trash, &Silent::new()) else { panic!() };
    assert!(entries.is_empty(), "purged and restored: {entries:?}");
}

#[test]
fn a_condemned_chunk_that_is_wanted_again_is_not_deleted() {
    let mut m = Machine::new();
    m.run(named(&[1], "x", Condition::None)).unwrap();
    m.run(remove("x", true)).unwrap();
    let seen = m.state.condemned(m.index, 10).unwrap();
    assert_eq!(seen.len(), 2, "the chunk, and the block of the manifest");
    // A claim without receipts does not save it; a commit with receipts does.
    let claim = file(vec![chunk(1, &[])], Ack::All);
    assert_eq!(m.run(claim.clone()).unwrap(), Response::NeedChunks(vec![id(1)]));
    m.recount();
    m.run(named(&[1], "x", Condition::None)).unwrap();
    m.run(Command::DeleteChunks(seen.clone())).unwrap();
    assert!(m.exists(1), "the proposal came late");
    assert!(matches!(m.run(claim), Ok(Response::Committed(_))), "and now a claim is as good as a receipt");
    m.recount();
    // Condemned again, under another sentence: the old one does not count.
    m.run(remove("x", true)).unwrap();
    let unpin = NameCommand::Unpin { file: file_of(&[1]), purge: true };
    m.run(Command::Name(unpin)).unwrap();
    m.run(Command::DeleteChunks(seen)).unwrap();
    assert!(m.exists(1));
    m.collect();
    assert!(!m.exists(1));
    m.recount();
}

#[test]
fn a_claim_needs_pieces_that_can_be_read() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    let other = || file(vec![chunk(1, &[]), chunk(2, &[0, 1, 2])], Ack::All);
    for disk in [1, 2] {
        m.run(Command::ReportBad { disk: DiskId(disk), chunks: vec![(POOL, id(1))] }).unwrap();
    }
    assert!(matches!(m.run(other()), Ok(Response::Committed(_))), "one good copy is left");
    m.run(Command::ReportBad { disk: DiskId(3), chunks: vec![(POOL, id(1))] }).unwrap();
    let another = file(vec![chunk(1, &[]), chunk(3, &[0, 1, 2])], Ack::All);
    assert_eq!(m.run(another).unwrap(), Response::NeedChunks(vec![id(1)]));
    assert_eq!(m.run(file(vec![chunk(9, &[])], Ack::All)).unwrap(), Response::NeedChunks(vec![id(9)]));
    m.recount();
}

#[test]
fn files_without_a_name_are_let_go_by_their_id() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    let id = file_of(&[1]);
    let unpin = |purge| Command::Name(NameCommand::Unpin { file: id, purge });
    m.run(unpin(false)).unwrap();
    assert_eq!(code(m.run(unpin(false))), Err(ErrorCode::NotFound));
    m.run(Command::Name(NameCommand::Repin(id))).unwrap();
    m.recount();
    m.run(unpin(false)).unwrap();
    // A put of the same file holds it anew, and the old time to go is void.
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    m.wait(100_000_000);
    m.collect();
    assert!(m.exists(1));
    m.run(unpin(false)).unwrap();
    m.wait(100_000_000);
    m.collect();
    assert!(!m.exists(1));
    m.recount();
}

#[test]
fn conditions_retention_and_quotas_are_judged_when_applied() {
    let mut m = Machine::new();
    m.run(named(&[1], "x", Condition::Absent)).unwrap();
    let failed = Err(ErrorCode::PreconditionFailed);
    assert_eq!(code(m.run(named(&[2], "x", Condition::Absent))), failed);
    assert_eq!(code(m.run(named(&[2], "x", Condition::Match(file_of(&[3]))))), failed);
    assert_eq!(code(m.run(named(&[2], "y", Condition::Match(file_of(&[1]))))), failed);
    m.run(named(&[2], "x", Condition::Match(file_of(&[1])))).unwrap();
    assert!(!m.exists(9));
    m.recount();
    let change = |change| Command::ChangeBucket { name: b(), change };
    let quota = BucketChange { max_objects: Some(Some(2)), ..BucketChange::default() };
    m.run(change(quota)).unwrap();
    let over = Err(ErrorCode::QuotaExceeded);
    assert_eq!(
        code(m.run(named(&[4], "y", Condition::None))),
        over,
        "what x pointed to counts until it goes"
    );
    m.wait(101);
    m.collect();
    m.run(named(&[4], "y", Condition::None)).unwrap();
    assert_eq!(code(m.run(named(&[5], "z", Condition::None))), Err(ErrorCode::QuotaExceeded));
    let quota = BucketChange {
        max_objects: Some(None),
        max_bytes: Some(Some(2 * u64::from(CHUNK))),
        ..BucketChange::default()
    };
    m.run(change(quota)).unwrap();
    assert_eq!(code(m.run(named(&[5], "z", Condition::None))), Err(ErrorCode::QuotaExceeded));
    assert_eq!(code(m.run(named(&[5], "y", Condition::None))), over, "what y points to would stay");
    m.run(named(&[4], "y", Condition::None)).unwrap();
    m.run(remove("y", false)).unwrap();
    assert_eq!(code(m.run(named(&[5], "y", Condition::None))), over, "and so does what was removed");
    m.run(restore("y")).unwrap();
    m.run(remove("y", true)).unwrap();
    m.run(named(&[5], "y", Condition::None)).unwrap();
    m.recount();
    m.run(change(BucketChange { retention_ms: Some(1000), ..BucketChange::default() })).unwrap();
    assert_eq!(code(m.run(remove("x", true))), Err(ErrorCode::Locked));
    assert_eq!(code(m.run(named(&[6], "x", Condition::None))), Err(ErrorCode::Locked));
    let shorter = BucketChange { retention_ms: Some(999), ..BucketChange::default() };
    assert_eq!(code(m.run(change(shorter))), Err(ErrorCode::Locked));
    m.wait(1000);
    m.run(remove("x", true)).unwrap();
    m.recount();
}

#[test]
fn a_fenced_upload_never_commits_and_its_parts_go() {
    let mut m = Machine::new();
    let numbers: Vec<u64> = (0..MAX_CHUNKS_PER_COMMIT as u64).collect();
    let upload = |ms| UploadId::new(ms, [1; 10]);
    let part = |ms| super::parts::part(upload(ms), 0, None, &numbers);
    m.run(part(50)).unwrap();
    m.run(part(70)).unwrap();
    m.run(part(70)).unwrap();
    m.run(Command::FenceUploads { before_ms: 60 }).unwrap();
    m.run(Command::FenceUploads { before_ms: 40 }).unwrap();
    assert_eq!(m.state.counters().1.fenced_before_ms, 60, "a fence only rises");
    assert!(m.feed().contains(&FeedItem::Fenced { before_ms: 60 }));
    assert_eq!(code(m.run(part(59))), Err(ErrorCode::UploadFenced));
    let mut late = file(vec![chunk(1, &[0, 1, 2])], Ack::All);
    if let Command::CommitFile { file, .. } = &mut late {
        file.upload = upload(59);
    }
    assert_eq!(code(m.run(late)), Err(ErrorCode::UploadFenced));
    let parts = m.state.fenced_parts(10).unwrap();
    assert_eq!(parts, [(upload(50), POOL, 0)]);
    m.run(Command::DropParts(vec![(upload(50), POOL, 0), (upload(70), POOL, 0)])).unwrap();
    assert!(m.state.store.get(&keys::upload_part(&upload(50), POOL, 0)).unwrap().is_none());
    assert!(m.state.store.get(&keys::upload_part(&upload(70), POOL, 0)).unwrap().is_some());
    m.assert_same_after_reload();
    m.recount();
    m.release_lists();
    m.recount();
    let references = |m: &Machine| m.state.chunk_record(POOL, &id(5)).unwrap().unwrap().references;
    assert_eq!(references(&m), 1, "the part that waits holds it");
    // A part that came twice counts once, and none when its upload has ended.
    m.run(Command::FenceUploads { before_ms: 71 }).unwrap();
    m.run(Command::DropParts(vec![(upload(70), POOL, 0)])).unwrap();
    assert!(m.state.store.scan(keys::PART_OWNERS, None, 9).unwrap().is_empty());
    m.assert_same_after_reload();
}

#[test]
fn after_a_restore_nothing_is_deleted_until_an_operator_says_so() {
    let mut m = Machine::new();
    m.run(named(&[1], "x", Condition::None)).unwrap();
    m.run(remove("x", true)).unwrap();
    let (version, position) = (m.state.topology().version, m.index);
    m.state.begin_again(openraft::Membership::new(vec![], std::collections::BTreeMap::new())).unwrap();
    assert!(m.state.topology().version > version, "nobody holds a newer map");
    let behind = |m: &Machine, epoch| {
        let (now, page) = m.state.feed((epoch, position), &[DiskId(1)]);
        (now, matches!(page, FeedPage::Behind { .. }))
    };
    assert_eq!(behind(&m, 0), (NO_EPOCH, true));
    assert_eq!(code(m.run(named(&[1], "y", Condition::None))), Err(ErrorCode::Busy), "in no life yet");
    m.run(Command::BeginEpoch { epoch: 7, rows_from: 1 << 50 }).unwrap();
    m.run(Command::BeginEpoch { epoch: 8, rows_from: 1 << 51 }).unwrap();
    let row = |m: &Machine| m.state.topology().pools[&POOL].rows[0].version;
    assert_eq!(row(&m), 1 << 50, "the first leader's word counts");
    let before = named(&[1], "y", Condition::None);
    let Ok(Response::NeedChunks(needed)) = m.run(before) else { panic!("receipts of a life before count") };
    assert!(needed.contains(&id(1)));
    assert_eq!(behind(&m, 0), (7, true), "every place of before is void");
    assert_eq!(behind(&m, 7), (7, false));
    m.collect();
    m.run(Command::FenceUploads { before_ms: 60 }).unwrap();
    assert!(m.exists(1) && m.state.counters().1.fenced_before_ms == 0);
    m.run(Command::AllowDeletion { epoch: 9 }).unwrap();
    assert_eq!(behind(&m, 7), (9, true), "and now they look through what they were not allowed to delete");
    m.collect();
    assert!(!m.exists(1));
    m.recount();
    m.run(Command::AllowDeletion { epoch: 11 }).unwrap();
    assert_eq!(behind(&m, 9), (9, false), "which is asked for once");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    /// Any history of puts, removals, returns and collections: every counter equals a recount, and what a
    /// name points to can be read.
    #[test]
    fn counters_equal_a_recount(steps in proptest::collection::vec((0u8..10, 0u64..4, 0u64..5), 1..60)) {
        let mut m = Machine::new();
        for (what, name, n) in steps {
            let name = ["a", "b", "c", "d"][name as usize];
            let chunks = [n, n + 1];
            let _ = match what {
                0..=2 => m.run(named(&chunks, name, Condition::None)),
                3 => m.run(file(vec![chunk(n, &[0, 1]), chunk(n + 1, &[])], Ack::Quorum)),
                4 => m.run(remove(name, n == 0)),
                5 => m.run(restore(name)),
                6 => m.run(Command::Name(NameCommand::Unpin { file: file_of(&chunks), purge: n == 1 })),
                7 => m.run(Command::ReportBad { disk: DiskId(1), chunks: vec![(POOL, id(n))] }),
                8 => m.run(Command::Name(NameCommand::Repin(file_of(&chunks)))),
                _ => {
                    m.wait(n * 40);
                    m.collect();
                    Ok(Response::Done)
                }
            };
            m.recount();
        }
        let names: Vec<ObjectName> = ["a", "b", "c", "d"].iter().map(|n| n.parse().unwrap()).collect();
        for name in names {
            if let Ok(QueryReply::Object { file, .. }) =
                m.state.query(&Query::Object { bucket: b(), name }, &Silent::new())
            {
                for chunk in file.chunks {
                    let record = m.state.chunk_record(POOL, &chunk).unwrap().unwrap();
                    assert!(record.condemned.is_none());
                }
            }
        }
    }
}

/// The messages of the module that no other test builds.
#[test]
fn what_falls_due_is_found_in_the_order_of_time() {
    let mut m = Machine::new();
    for (n, name) in [(1, "x"), (2, "y")] {
        m.run(named(&[n], name, Condition::None)).unwrap();
        m.run(remove(name, false)).unwrap();
    }
    let due = m.state.due(u64::MAX, 10).unwrap();
    assert!(due[0].0 < due[1].0);
    assert!(matches!(&due[0].1, Due::Trash(_, name, _) if name.as_str() == "x"));
    assert!(m.state.due(due[0].0, 10).unwrap().len() == 1 && m.state.due(due[0].0, 10).unwrap() == due[..1]);
    let gone = CondemnedChunk { pool: POOL, chunk: id(1), at: 1 };
    m.run(Command::DeleteChunks(vec![gone])).unwrap();
    assert!(m.exists(1), "a chunk that nobody condemned");
}

fn trash(m: &Machine) -> Result<usize, ErrorCode> {
    let query = Query::Trash { bucket: b(), prefix: String::new(), after: None, limit: 1000 };
    match m.state.query(&query, &Silent::new()) {
        Ok(QueryReply::Trash { entries, .. }) => Ok(entries.len()),
        Ok(other) => panic!("{other:?}"),
        Err(QueryError::Answer(error)) => Err(error.code),
        Err(QueryError::Store(error)) => panic!("{error}"),
    }
}

fn buckets(m: &Machine) -> usize {
    match m.state.query(&Query::Buckets { after: None, limit: 10 }, &Silent::new()) {
        Ok(QueryReply::Buckets { buckets, more: false }) => buckets.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bucket_goes_with_all_that_was_removed_from_it_or_not_at_all() {
    let mut m = Machine::new();
    let drop = |purge| Command::RemoveBucket { name: b(), purge };
    m.run(named(&[1], "gone", Condition::None)).unwrap();
    m.run(remove("gone", false)).unwrap();
    m.run(named(&[2], "stays", Condition::None)).unwrap();
    let before = m.pairs();
    assert_eq!(code(m.run(drop(true))), Err(ErrorCode::NotEmpty));
    assert_eq!(trash(&m), Ok(1), "what was removed can still be had back");
    let same = |pairs: BTreeMap<Vec<u8>, Vec<u8>>| -> Vec<_> {
        pairs.into_iter().filter(|(key, _)| !matches!(key[0], b'a' | b'k')).collect()
    };
    assert_eq!(same(m.pairs()), same(before), "refused without any change");
    m.run(remove("stays", false)).unwrap();
    assert_eq!(code(m.run(drop(false))), Err(ErrorCode::NotEmpty));
    m.run(drop(true)).unwrap();
    assert_eq!((buckets(&m), trash(&m)), (0, Err(ErrorCode::NotFound)));
    assert_eq!(m.state.counters().1.trash, 0);
    assert!(m.state.due(u64::MAX, 10).unwrap().iter().all(|(_, due)| !matches!(due, Due::Bucket(_))));
    m.recount();
}

#[test]
fn a_bucket_with_much_in_its_trash_is_gone_at_once_and_its_trash_step_by_step() {
    let mut m = Machine::new();
    m.run(named(&[1], "x", Condition::None)).unwrap();
    for _ in 0..600 {
        m.run(remove("x", false)).unwrap();
        m.run(restore("x")).unwrap();
        m.run(named(&[2], "x", Condition::None)).unwrap();
        m.run(named(&[1], "x", Condition::None)).unwrap();
    }
    m.run(remove("x", false)).unwrap();
    let held = m.state.counters().1.trash;
    assert!(held > 600, "{held}");
    m.run(Command::RemoveBucket { name: b(), purge: true }).unwrap();
    assert!(m.state.counters().1.trash >= held - 256, "one entry does a step of it");
    // The bucket is there for nobody any more, and its name is not free yet.
    assert_eq!((buckets(&m), trash(&m)), (0, Err(ErrorCode::NotFound)));
    assert_eq!(code(m.run(restore("x"))), Err(ErrorCode::NotFound));
    assert_eq!(code(m.run(named(&[3], "x", Condition::None))), Err(ErrorCode::NotFound));
    let again =
        Command::CreateBucket { name: b(), pool: "3x".parse().unwrap(), rules: BucketRules::default() };
    assert_eq!(code(m.run(again.clone())), Err(ErrorCode::Busy));
    m.recount();
    m.assert_same_after_reload();
    let steps = (0..100).take_while(|_| {
        let due = m.state.due(m.index, 10_000).unwrap();
        let more = due.iter().any(|(_, due)| matches!(due, Due::Bucket(_)));
        let due = due.into_iter().filter(|(_, due)| matches!(due, Due::Bucket(_))).collect();
        m.run(Command::Expire(due)).unwrap();
        more
    });
    assert_eq!(steps.count() as u64, held.div_euclid(256));
    assert_eq!(m.state.counters().1.trash, 0);
    m.recount();
    m.run(again).unwrap();
    assert_eq!(trash(&m), Ok(0));
    m.recount();
}
