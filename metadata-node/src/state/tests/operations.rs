//! What operators decide, what challenges and comparisons find, and what is graded by place.

use wmall_placement::Reason;
use wmall_proto::capacity::UsageSample;
use wmall_proto::event::EventKind;
use wmall_proto::grade::GradesOf;
use wmall_proto::job::{JobChange, JobKind, JobState};
use wmall_proto::range::{Range, RangeClaim, RangeSum, RangeVerdict};

use super::*;
use crate::command::{Operate, SlotMove};

/// The same by what is in the map.
fn reopened(m: &Machine) -> Machine {
    let mut pairs = Vec::new();
    m.state
        .dump(|key, value| {
            pairs.push(Ok((key.to_vec(), value.to_vec())));
            Ok(())
        })
        .unwrap();
    let state = State::open(Box::new(MemoryStore::default())).unwrap();
    state.load(pairs.into_iter()).unwrap();
    Machine { state, index: m.index, ahead_ms: m.ahead_ms }
}

fn operate(m: &mut Machine, operate: Operate) -> Result<Response, ErrorCode> {
    m.run(Command::Operate(operate)).map_err(|e| e.code)
}

fn drain(m: &mut Machine, disks: &[u32], successor: Option<u32>) -> Result<Response, ErrorCode> {
    let kind = if successor.is_some() { JobKind::Replace } else { JobKind::Drain };
    let (disks, successor) = (disks.iter().map(|&d| DiskId(d)).collect(), successor.map(DiskId));
    let based_on = m.state.counters().1.jobs;
    operate(m, Operate::StartJob { kind, what: "x".into(), disks, successor, slots: 3, bytes: 300, based_on })
}

fn disk(m: &Machine, n: u32) -> wmall_proto::topology::DiskInfo {
    m.state.topology().disks[&DiskId(n)].clone()
}

fn events(m: &Machine) -> Vec<EventKind> {
    let query = Query::Events { first: 1, limit: 1000 };
    let QueryReply::Events { events, .. } = m.state.query(&query, &Silent::new()).unwrap() else { panic!() };
    events.into_iter().map(|e| e.what).collect()
}

#[test]
fn a_job_marks_its_disks_is_paused_resumed_and_ends_when_they_are_empty() {
    let mut m = Machine::new();
    assert_eq!(drain(&mut m, &[1], Some(4)), Ok(Response::Job(1)));
    assert!(disk(&m, 1).draining && disk(&m, 1).successor == Some(DiskId(4)));
    for other in [drain(&mut m, &[1], None), drain(&mut m, &[2], Some(1)), drain(&mut m, &[4], None)] {
        assert_eq!(other, Err(ErrorCode::AlreadyExists), "a disk is in one job");
    }
    let change = |m: &mut Machine, number, change| operate(m, Operate::ChangeJob { number, change });
    change(&mut m, 1, JobChange::Pause).unwrap();
    assert!(disk(&m, 1).drain_paused && disk(&m, 1).draining);
    let job = m.state.jobs()[0].clone();
    assert_eq!((job.state, job.running_since_ms), (JobState::Paused, None));
    change(&mut m, 1, JobChange::Resume).unwrap();
    assert!(!disk(&m, 1).drain_paused);
    // Not before it is empty, whatever the leader thought.
    operate(&mut m, Operate::EndJobs(vec![1])).unwrap();
    assert_eq!(m.state.jobs()[0].state, JobState::Running);
    let planned =
        SlotMove { group: (POOL, PgId(0)), slot: 0, to: DiskId(4), row_version: 1, reason: Reason::Drain };
    m.run(Command::MoveSlots(vec![planned])).unwrap();
    operate(&mut m, Operate::EndJobs(vec![1])).unwrap();
    assert_eq!(m.state.jobs()[0].state, JobState::Running, "it is the source yet");
    let (_, groups, as_of) = m.missing(4);
    let clean = Command::CloseTickets {
        disk: DiskId(4),
        incarnation: Incarnation([4; 16]),
        pieces: vec![],
        clean: groups,
        as_of,
    };
    m.run(clean).unwrap();
    operate(&mut m, Operate::EndJobs(vec![1, 77])).unwrap();
    let job = m.state.jobs()[0].clone();
    assert_eq!((job.state, job.ended_ms), (JobState::Done, Some(m.index)));
    assert!(disk(&m, 1).draining && disk(&m, 1).successor.is_none(), "it stays out");
    assert!(events(&m).contains(&EventKind::JobDone { job: 1, what: "x".into() }));
    assert_eq!(change(&mut m, 1, JobChange::Pause), Err(ErrorCode::PreconditionFailed));
    assert_eq!(change(&mut m, 9, JobChange::Cancel), Err(ErrorCode::NotFound));
    // Jobs and marks are in the map.
    let jobs = m.state.jobs();
    let again = reopened(&m);
    assert_eq!(again.state.jobs(), jobs);
}

#[test]
fn a_cancelled_job_and_an_undrain_let_disks_take_pieces_again() {
    let mut m = Machine::new();
    drain(&mut m, &[1, 2], None).unwrap();
    let undrain = |m: &mut Machine, disks: &[u32]| {
        let disks = disks.iter().map(|&d| DiskId(d)).collect();
        operate(m, Operate::Undrain { what: "x".into(), disks })
    };
    assert_eq!(undrain(&mut m, &[1]), Err(ErrorCode::AlreadyExists), "the job is about more");
    assert!(disk(&m, 1).draining);
    operate(&mut m, Operate::ChangeJob { number: 1, change: JobChange::Cancel }).unwrap();
    assert!(!disk(&m, 1).draining && !disk(&m, 2).draining);
    assert_eq!(m.state.jobs()[0].state, JobState::Cancelled);
    drain(&mut m, &[1], None).unwrap();
    undrain(&mut m, &[1]).unwrap();
    assert_eq!((m.state.jobs()[1].state, disk(&m, 1).draining), (JobState::Cancelled, false));
}

#[test]
fn a_layout_is_applied_as_it_was_looked_at_and_holds_until_the_configuration_changes() {
    let mut m = Machine::new();
    let stage = |m: &mut Machine, d, weight| operate(m, Operate::StageWeight { disk: DiskId(d), weight });
    assert_eq!(stage(&mut m, 1, 0), Err(ErrorCode::OutOfBounds));
    assert_eq!(stage(&mut m, 1, 2_000_000), Err(ErrorCode::OutOfBounds));
    assert_eq!(stage(&mut m, 99, 5), Err(ErrorCode::NotFound));
    assert_eq!(operate(&mut m, Operate::ApplyLayout { version: 0 }), Err(ErrorCode::PreconditionFailed));
    stage(&mut m, 1, 5).unwrap();
    let seen = m.state.draft().version;
    stage(&mut m, 2, 7).unwrap();
    assert_eq!(operate(&mut m, Operate::ApplyLayout { version: seen }), Err(ErrorCode::PreconditionFailed));
    stage(&mut m, 2, 1).unwrap();
    assert_eq!(m.state.draft().weights, [(DiskId(1), 5)], "as it is now is no change");
    let version = m.state.draft().version;
    operate(&mut m, Operate::ApplyLayout { version }).unwrap();
    assert_eq!((disk(&m, 1).weight, m.state.draft().weights.len()), (5, 0));
    m.register(1, 1).unwrap();
    assert_eq!(disk(&m, 1).weight, 5, "a restart does not undo it");
    stage(&mut m, 1, 9).unwrap();
    operate(&mut m, Operate::RevertLayout).unwrap();
    assert_eq!(m.state.draft().weights, []);
}

#[test]
fn a_disk_in_quarantine_promises_nothing_and_counts_again_once_looked_through() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    let quarantine = |m: &mut Machine, life: u8| {
        let incarnation = Incarnation([life; 16]);
        m.run(Command::Quarantine { disk: DiskId(1), incarnation, why: "it lies".into() }).unwrap();
    };
    quarantine(&mut m, 77);
    assert_eq!(disk(&m, 1).quarantined_ms, None, "that was another life");
    quarantine(&mut m, 1);
    assert_eq!(disk(&m, 1).quarantined_ms, Some(m.index));
    assert!(events(&m).iter().any(|e| matches!(e, EventKind::DiskQuarantined { .. })));
    // Two honest receipts are left of three, and the liar gets a ticket.
    assert_eq!(code(m.commit(vec![chunk(2, &[0, 1])], Ack::Quorum)), Err(ErrorCode::TooFewReceipts));
    m.commit(vec![chunk(2, &[0, 1, 2])], Ack::Quorum).unwrap();
    assert!(m.missing(1).0.contains(&id(2)));
    let release = |m: &mut Machine| operate(m, Operate::Release { what: "x".into(), disk: DiskId(1) });
    release(&mut m).unwrap();
    assert_eq!(disk(&m, 1).quarantined_ms, None);
    assert_eq!(m.state.grades(&Silent::new()).unwrap().stable, 0, "nothing of it is vouched for yet");
    assert_eq!(release(&mut m), Err(ErrorCode::PreconditionFailed));
    // A wiped disk begins anew.
    quarantine(&mut m, 1);
    m.register(1, 42).unwrap();
    assert_eq!(disk(&m, 1).quarantined_ms, None);
}

#[test]
fn a_disk_is_forgotten_only_when_nothing_depends_on_it() {
    let mut m = Machine::new();
    let forget = |m: &mut Machine, d| operate(m, Operate::Forget { what: "x".into(), disk: DiskId(d) });
    assert_eq!(forget(&mut m, 1), Err(ErrorCode::Unsafe));
    assert_eq!(forget(&mut m, 99), Err(ErrorCode::NotFound));
    drain(&mut m, &[4], None).unwrap();
    assert_eq!(forget(&mut m, 4), Err(ErrorCode::Unsafe), "a job is about it");
    operate(&mut m, Operate::EndJobs(vec![1])).unwrap();
    forget(&mut m, 4).unwrap();
    let topology = m.state.topology();
    assert_eq!((topology.disks.len(), topology.nodes.len()), (3, 3));
    m.register(4, 4).unwrap();
    assert!(m.state.topology().disks.contains_key(&DiskId(5)), "its number is not given again");
}

#[test]
fn mutes_and_maintenance_are_kept_and_end() {
    let mut m = Machine::new();
    let mute = |m: &mut Machine, until_ms| operate(m, Operate::Mute { code: "NODES_DOWN".into(), until_ms });
    mute(&mut m, Some(500)).unwrap();
    assert_eq!((m.state.mutes(499).len(), m.state.mutes(500).len()), (1, 0));
    let node = NodeName::new("n1").unwrap();
    let node = m.state.topology().nodes.keys().next().cloned().unwrap_or(node);
    operate(&mut m, Operate::SetMaintenance { node: node.clone(), until_ms: Some(900) }).unwrap();
    m.register(1, 1).unwrap();
    let mut m = reopened(&m);
    assert_eq!(m.state.mutes(0).len(), 1);
    assert_eq!(m.state.topology().nodes[&node].maintenance_until_ms, Some(900), "a restart does not end it");
    mute(&mut m, None).unwrap();
    assert_eq!(m.state.mutes(0).len(), 0);
}

#[test]
fn samples_are_kept_for_thirty_days_and_a_clock_that_went_back_adds_none() {
    let mut m = Machine::new();
    let mut note = |at_ms| m.run(Command::NoteUsage(UsageSample { at_ms, needed_bytes: at_ms })).unwrap();
    (1..=730u64).for_each(|at| drop(note(at * 10)));
    note(7300);
    note(5);
    let samples = m.state.samples();
    assert_eq!((samples.len(), samples[0].at_ms, samples[719].at_ms), (720, 110, 7300));
    assert_eq!(reopened(&m).state.samples(), samples);
}

#[test]
fn challenges_are_about_what_counts_and_about_nothing_else() {
    let mut m = Machine::new();
    assert_eq!(m.state.sample(DiskId(1), [7; 32]).unwrap(), None, "there is nothing");
    m.commit(vec![chunk(1, &[0, 1, 2]), chunk(2, &[0, 1, 2]), chunk(3, &[1, 2])], Ack::Quorum).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..=255u8 {
        let expected = m.state.sample(DiskId(1), [n; 32]).unwrap().expect("a piece");
        assert!(m.state.still_expects(DiskId(1), &expected).unwrap());
        assert_eq!((expected.slot, expected.digest), (0, expected.chunk.0));
        seen.insert(expected.chunk);
    }
    assert!(seen.contains(&id(1)) && seen.contains(&id(2)), "{seen:?}");
    assert!(!seen.contains(&id(3)), "it has a ticket");
    let expected = m.state.sample(DiskId(1), [7; 32]).unwrap().unwrap();
    m.run(Command::MarkDirty(DiskId(1))).unwrap();
    assert!(!m.state.still_expects(DiskId(1), &expected).unwrap());
    assert_eq!(m.state.sample(DiskId(1), [7; 32]).unwrap(), None, "nothing of it is vouched for");
}

#[test]
fn a_range_is_the_same_or_is_listed_and_is_not_judged_while_it_changes() {
    let mut m = Machine::new();
    let outcome = m.commit(vec![chunk(1, &[0, 1, 2]), chunk(2, &[0, 1, 2]), chunk(3, &[1, 2])], Ack::Quorum);
    outcome.unwrap();
    let (low, high) = PgId(0).range(0);
    let whole = Range { pool: POOL, low, high };
    let query = |m: &Machine, chunks: &[ChunkId], feed| {
        let mut sum = RangeSum::default();
        chunks.iter().for_each(|c| sum.add(c));
        let claim = RangeClaim { disk: DiskId(1), range: whole.clone(), feed, sum };
        m.state.check_range(&claim).unwrap()
    };
    // The block of the manifest is a chunk too.
    let RangeVerdict::Chunks(all) = query(&m, &[], m.index) else { panic!() };
    assert!(
        all.len() == 3 && all.contains(&id(1)) && !all.contains(&id(3)),
        "what has a ticket is not expected"
    );
    assert_eq!(query(&m, &all, m.index), RangeVerdict::Same);
    assert_eq!(query(&m, &all[1..], m.index), RangeVerdict::Chunks(all.clone()));
    assert_eq!(query(&m, &all, m.index - 1), RangeVerdict::NotNow, "it has changed since");
    assert_eq!(query(&m, &all, m.index + 1), RangeVerdict::NotNow, "that is yet to come");
    m.run(Command::Distrust(DiskId(1))).unwrap();
    assert_eq!(query(&m, &all, m.index), RangeVerdict::NotNow, "it is being looked through anyway");
}

#[test]
fn grades_by_place_say_what_would_be_in_danger_without_it() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2]), chunk(2, &[1, 2])], Ack::Quorum).unwrap();
    let size = u64::from(2 * CHUNK);
    let file = Manifest::new(size, CHUNK, vec![id(1), id(2)]).unwrap().id();
    let grades = |m: &Machine, of| match m.state.query(&Query::Grades(of), &Silent::new()) {
        Ok(QueryReply::Grades(view)) => view,
        other => panic!("{other:?}"),
    };
    // Two chunks and the block; one of them misses its piece on disk 1.
    let now = m.state.grades(&Silent::new()).unwrap();
    assert_eq!((now.stable, now.warning), (2, 1));
    for of in [GradesOf::Pool(POOL), GradesOf::Group(POOL, PgId(0)), GradesOf::Disk(DiskId(2))] {
        let view = grades(&m, of);
        assert_eq!((view.now, view.chunks), (now, 3));
        assert_eq!((view.without.danger, view.without.warning), (1, 2), "{view:?}");
        assert!(view.lost.is_some());
    }
    let view = grades(&m, GradesOf::Disk(DiskId(1)));
    assert_eq!((view.without.warning, view.without.danger), (3, 0), "it had nothing to lose of that chunk");
    let view = grades(&m, GradesOf::File { id: file, first: 0 });
    assert_eq!((view.now.stable, view.now.warning, view.chunks), (1, 1, 2), "the file's own chunks");
    let missing = m.state.query(&Query::Grades(GradesOf::Disk(DiskId(99))), &Silent::new());
    assert!(matches!(missing, Err(QueryError::Answer(e)) if e.code == ErrorCode::NotFound));
}
