//! Slots that move: what counts meanwhile, and when the source is let go.

use wmall_placement::Reason;
use wmall_proto::feed::FeedItem;
use wmall_proto::pg::{PgKey, Source};

use super::*;
use crate::command::SlotMove;

const GROUP: PgKey = (POOL, PgId(0));

fn row(m: &Machine) -> wmall_proto::PgRow {
    m.state.topology().pools[&POOL].rows[0].clone()
}

/// Gives slot 0 to a disk.
fn move_to(m: &mut Machine, to: u32) {
    let row_version = row(m).version;
    let planned = SlotMove { group: GROUP, slot: 0, to: DiskId(to), row_version, reason: Reason::Lost };
    m.run(Command::MoveSlots(vec![planned])).unwrap();
}

fn close(m: &mut Machine, disk: u32, chunks: &[ChunkId], clean: bool, as_of: u64) {
    m.run(Command::CloseTickets {
        disk: DiskId(disk),
        incarnation: Incarnation([disk as u8; 16]),
        pieces: chunks.iter().map(|&c| fetched(0, c)).collect(),
        clean: if clean { vec![GROUP] } else { vec![] },
        as_of,
    })
    .unwrap();
}

/// Whether a disk has been told to let go: in a life of the metadata, since an index.
fn released_since(m: &Machine, disk: u32, place: (u64, u64)) -> bool {
    let page = m.state.feed(place, &[DiskId(disk)]).1;
    let wmall_proto::feed::FeedPage::Items { items, .. } = page else { panic!("{page:?}") };
    items.iter().any(|item| matches!(item, FeedItem::Released { .. }))
}

fn released(m: &Machine, disk: u32) -> bool {
    released_since(m, disk, (0, 0))
}

#[test]
fn a_moving_slot_counts_by_its_source_until_its_disk_has_everything() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    move_to(&mut m, 4);
    let moved_at = m.index;
    let source = Source { disk: DiskId(1), since: moved_at, vouched: true };
    assert_eq!((row(&m).slots[0], row(&m).sources[0].clone()), (DiskId(4), vec![source]));
    let grades = |m: &Machine, silent: &[u32]| {
        let silent: Silent = silent.iter().map(|&d| DiskId(d)).collect();
        let g = m.state.grades(&silent).unwrap();
        (g.stable, g.warning, g.danger)
    };
    // The chunk and the block of its manifest.
    assert_eq!(grades(&m, &[]), (2, 0, 0));
    assert_eq!(grades(&m, &[1]), (0, 2, 0), "without its source the slot has nothing");
    assert_eq!(grades(&m, &[4]), (0, 2, 0), "what comes from now on is on the new disk only");
    let (mut listed, groups, as_of) = m.missing(4);
    listed.sort();
    assert_eq!((listed.contains(&id(1)), groups), (true, vec![GROUP]));
    // A put that began before has the source's promise: it counts, and the new disk gets a ticket.
    let mut before = chunk(2, &[0, 1]);
    before.promises[0].disk = DiskId(1);
    assert_eq!(code(m.commit(vec![before], Ack::Quorum)), Ok(()));
    assert_eq!(m.state.work_of(&[DiskId(4), DiskId(1)]), [DiskId(4)]);
    close(&mut m, 4, &[id(1)], true, as_of);
    assert_eq!(row(&m).dirty_at[0], None);
    assert!(!row(&m).sources[0].is_empty() && !released(&m, 1), "a ticket is open");
    let ((left, _, as_of), now) = (m.missing(4), m.index);
    assert!(left.contains(&id(2)) && as_of == now);
    close(&mut m, 4, &left, false, as_of);
    assert!(row(&m).sources[0].is_empty());
    assert!(released(&m, 1));
    m.assert_same_after_reload();
}

#[test]
fn moves_are_judged_against_the_row_of_the_moment() {
    let mut m = Machine::new();
    let version = row(&m).version;
    let planned = |slot, to, row_version| SlotMove {
        group: GROUP,
        slot,
        to: DiskId(to),
        row_version,
        reason: Reason::Drain,
    };
    let bad = [
        planned(0, 4, version + 1),
        planned(0, 1, version),
        planned(0, 2, version),
        planned(0, 9, version),
        planned(7, 4, version),
    ];
    m.run(Command::MoveSlots(bad.to_vec())).unwrap();
    assert_eq!(row(&m).version, version, "stale, itself, a node of the row, unknown disk, unknown slot");
    m.run(Command::MoveSlots(vec![planned(0, 4, version), planned(1, 1, version)])).unwrap();
    assert_eq!((row(&m).version, row(&m).slots[1]), (version + 1, DiskId(2)), "one at a time");
}

#[test]
fn a_source_loses_its_word_by_a_new_life_and_by_a_second_move() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    move_to(&mut m, 4);
    m.register(1, 99).unwrap();
    assert!(!row(&m).sources[0][0].vouched);
    assert_eq!(m.states(id(1))[0], PieceState::Missing);
    let mut m = Machine::new();
    m.register(5, 5).unwrap();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    move_to(&mut m, 4);
    let mut to_new = chunk(2, &[0, 1, 2]);
    (to_new.promises[0].disk, to_new.promises[0].incarnation) = (DiskId(4), Incarnation([4; 16]));
    m.commit(vec![to_new], Ack::All).unwrap();
    move_to(&mut m, 5);
    let sources: Vec<(u32, bool)> = row(&m).sources[0].iter().map(|s| (s.disk.0, s.vouched)).collect();
    assert_eq!(sources, [(4, false), (1, false)], "chunk 2 is on disk 4 and nowhere else");
    assert!(!released(&m, 4) && !released(&m, 1));
    assert_eq!(m.state.grades(&Silent::new()).unwrap().stable, 0);
}

#[test]
fn what_a_source_finds_rotten_counts_as_missing_and_costs_it_nothing() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2]), chunk(2, &[0, 1, 2])], Ack::All).unwrap();
    move_to(&mut m, 4);
    m.run(Command::ReportBad { disk: DiskId(1), chunks: vec![(POOL, id(1))] }).unwrap();
    let grades = m.state.grades(&Silent::new()).unwrap();
    assert_eq!((grades.stable, grades.warning), (2, 1));
    assert_eq!(m.state.work_of(&[DiskId(1)]), [], "it need not fetch what it gives away");
    let (_, _, as_of) = m.missing(4);
    close(&mut m, 4, &[id(1), id(2)], true, as_of);
    assert_eq!((m.tickets(), row(&m).sources[0].clone()), (0, vec![]), "its tickets go with it");
    m.assert_same_after_reload();
}

#[test]
fn deletion_held_back_keeps_sources() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    move_to(&mut m, 4);
    m.state.begin_again(openraft::Membership::new(vec![Default::default()], ())).unwrap();
    assert!(!row(&m).sources[0][0].vouched, "the move may have ended since");
    let (_, _, as_of) = m.missing(4);
    close(&mut m, 4, &[id(1)], true, as_of);
    assert!(!row(&m).sources[0].is_empty());
    let before = m.index;
    m.run(Command::AllowDeletion { epoch: 7 }).unwrap();
    assert!(row(&m).sources[0].is_empty() && released_since(&m, 1, (7, before)));
}

#[test]
fn what_happens_by_itself_leaves_a_line_and_the_oldest_lines_go() {
    use wmall_proto::capacity::CapacityLevel;
    use wmall_proto::event::{EventKind, MAX_EVENTS};
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    m.run(Command::NoteDisks { down: vec![DiskId(1)], back: vec![] }).unwrap();
    m.run(Command::NoteDisks { down: vec![DiskId(1)], back: vec![DiskId(2)] }).unwrap();
    move_to(&mut m, 4);
    let (left, _, as_of) = m.missing(4);
    close(&mut m, 4, &left, true, as_of);
    m.run(Command::ReportBad { disk: DiskId(4), chunks: vec![(POOL, id(1))] }).unwrap();
    let conditions = |halted, moving| {
        let (level, ratio_ppm) = (CapacityLevel::Warning, 710_000);
        Command::NoteConditions { level, ratio_ppm, halted, moving }
    };
    m.run(conditions(Some((2, 5)), true)).unwrap();
    m.run(conditions(Some((2, 5)), true)).unwrap();
    m.run(conditions(None, false)).unwrap();
    m.run(conditions(None, false)).unwrap();
    let events =
        |m: &Machine, first| match m.state.query(&Query::Events { first, limit: 100 }, &Silent::new()) {
            Ok(QueryReply::Events { events, .. }) => events,
            other => panic!("{other:?}"),
        };
    let kinds: Vec<&str> = events(&m, 1).iter().map(|e| e.what.as_str()).collect();
    let expected = [
        "disk_down",
        "slots_move",
        "pieces_bad",
        "capacity",
        "repair_halted",
        "moves_arrived",
        "repair_resumed",
    ];
    assert_eq!(kinds, expected, "each once, and nothing where nothing changed");
    for n in 0..MAX_EVENTS {
        let (down, back) = if n % 2 == 0 { (vec![DiskId(2)], vec![]) } else { (vec![], vec![DiskId(2)]) };
        m.run(Command::NoteDisks { down, back }).unwrap();
    }
    let first = &events(&m, 1)[0];
    assert_eq!((first.number, &first.what), (8, &EventKind::DiskDown { disk: DiskId(2) }));
    let mut auditor = Auditor::default();
    m.pairs().iter().for_each(|(key, value)| auditor.take(key, value).unwrap());
    assert_eq!(auditor.finish().troubles, Vec::<String>::new());
}

/// A plan a second for hours must not push everything else out of the log; and the lines say in sum what moved.
#[test]
fn slots_that_move_one_after_the_other_are_told_of_once_a_minute_and_when_all_rest() {
    use wmall_proto::event::EventKind;
    let mut m = Machine::new();
    let mut ends = [1, 4].iter().cycle();
    for second in 0..200u64 {
        m.ahead_ms = second * 1000;
        let (from, to) = (*ends.next().unwrap(), if second % 2 == 0 { 4 } else { 1 });
        assert_eq!(row(&m).slots[0], DiskId(from));
        move_to(&mut m, to);
        let (left, _, as_of) = m.missing(to);
        close(&mut m, to, &left, true, as_of);
    }
    let told = |m: &Machine| match m.state.query(&Query::Events { first: 1, limit: 100 }, &Silent::new()) {
        Ok(QueryReply::Events { events, .. }) => events.into_iter().map(|e| e.what).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let moves = |slots| EventKind::SlotsMove { reason: "lost".into(), slots };
    assert_eq!(told(&m), [moves(1), moves(60), moves(60), moves(60)]);
    let rest = Command::NoteConditions {
        level: wmall_proto::capacity::CapacityLevel::Safe,
        ratio_ppm: 0,
        halted: None,
        moving: false,
    };
    m.run(rest).unwrap();
    let arrived = |disk| EventKind::MovesArrived { disk: DiskId(disk), slots: 100 };
    assert_eq!(told(&m)[4..], [moves(19), arrived(1), arrived(4)]);
    m.assert_same_after_reload();
}

#[test]
fn a_promise_of_a_disk_that_was_released_counts_and_makes_it_a_source_again() {
    let mut m = Machine::new();
    move_to(&mut m, 4);
    let (left, _, as_of) = m.missing(4);
    close(&mut m, 4, &left, true, as_of);
    assert!(row(&m).sources[0].is_empty());
    // It began when slot 0 was on disk 1, which keeps what it promised until the upload is fenced.
    let few = Err(ErrorCode::TooFewReceipts);
    let mut late = chunk(1, &[0, 1]);
    late.promises[0].incarnation = Incarnation([77; 16]);
    assert_eq!(code(m.commit(vec![late], Ack::Quorum)), few, "of another life");
    assert_eq!(code(m.commit(vec![chunk(1, &[0, 1])], Ack::Quorum)), Ok(()));
    assert_eq!(
        row(&m).sources[0].iter().map(|s| (s.disk, s.vouched)).collect::<Vec<_>>(),
        [(DiskId(1), false)]
    );
    assert_eq!(m.states(id(1))[0], PieceState::Missing, "it counts where it should be");
    let (left, _, as_of) = m.missing(4);
    assert!(left.contains(&id(1)));
    close(&mut m, 4, &left, false, as_of);
    assert!(row(&m).sources[0].is_empty());
    m.assert_same_after_reload();
}

/// A disk failed: what it holds counts as on a disk that does not answer, until it has been looked through.
#[test]
fn a_disk_that_failed_counts_again_once_it_has_been_looked_through() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    m.run(Command::Distrust(DiskId(1))).unwrap();
    assert_eq!(row(&m).dirty_at[0], Some(wmall_proto::pg::UNVERIFIED));
    let g = m.state.grades(&Silent::new()).unwrap();
    assert_eq!((g.stable, g.warning), (0, 2));
    let all: Silent = [2, 3].map(DiskId).into();
    assert_eq!(m.state.grades(&all).unwrap().lost, 0, "it may well be all there");
    assert_eq!(m.state.work_of(&[DiskId(1)]), [DiskId(1)]);
    // What is known to be missing does not become a maybe.
    m.run(Command::MarkDirty(DiskId(2))).unwrap();
    let marked = row(&m).dirty_at[1];
    m.run(Command::Distrust(DiskId(2))).unwrap();
    assert_eq!(row(&m).dirty_at[1], marked);
    let (_, groups, as_of) = m.missing(1);
    assert_eq!(groups, [GROUP]);
    close(&mut m, 1, &[], true, as_of);
    assert_eq!(row(&m).dirty_at[0], None);
}
