//! Disks that come up as older or second copies of what they were, and the clock that entries carry.

use super::*;
use wmall_proto::event::EventKind;
use wmall_proto::rpc::RegisteredDisk;

impl Machine {
    /// Node and disk `i` in its first life, by a process that counts its starts so.
    fn come_up(&mut self, i: u8, process: u8, starts: u64) -> RegisteredDisk {
        self.come_up_as(i, process, starts, &[])
    }

    /// The same, with disks that the leader has heard further on.
    fn come_up_as(&mut self, i: u8, process: u8, starts: u64, older: &[DiskId]) -> RegisteredDisk {
        let mut registration = Registration { process: [process; 16], ..registration(i, i) };
        registration.disks[0].starts = starts;
        match self.register_as(registration, older) {
            Ok(Response::Registered(disks)) => disks[0],
            other => panic!("{other:?}"),
        }
    }

    fn copies_seen(&self) -> usize {
        let query = Query::Events { first: 1, limit: 100 };
        let Ok(QueryReply::Events { events, .. }) = self.state.query(&query, &Silent::new()) else {
            panic!("no events")
        };
        events.iter().filter(|e| matches!(e.what, EventKind::DiskCopied { .. })).count()
    }

    fn believes(&self, disk: u32) -> bool {
        super::super::clean_groups(&self.state.topology(), DiskId(disk)).len() == 1
    }
}

#[test]
fn a_disk_that_was_put_back_or_copied_does_not_count_before_it_is_looked_through() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    let told = |starts| RegisteredDisk { id: DiskId(1), starts };
    assert_eq!(m.come_up(1, 10, 5), told(5), "a start counts on");
    assert_eq!(m.come_up(1, 10, 5), told(5), "the same process registers again");
    assert!(m.believes(1) && m.copies_seen() == 0);
    // An older copy of the disk is put back.
    assert_eq!(m.come_up(1, 11, 3), told(6), "it goes on above all that any copy has had");
    assert!(!m.believes(1) && m.copies_seen() == 1);
    let all = m.missing(1);
    assert!(!all.0.is_empty() && !all.1.is_empty());
    m.close(1, &all.0, all.1, all.2);
    assert!(m.believes(1));
    // It goes on as it was told to; then the one that it was put back over comes up.
    assert_eq!(m.come_up(1, 12, 7), told(7));
    assert!(m.believes(1) && m.copies_seen() == 1);
    assert_eq!(m.come_up(1, 13, 6), told(8));
    assert!(!m.believes(1) && m.copies_seen() == 2);
    // A copy that was taken while the disk was in use counts on as if nothing had been; its journal ends too
    // early.
    assert_eq!(m.come_up_as(3, 30, 2, &[DiskId(3)]), RegisteredDisk { id: DiskId(3), starts: 2 });
    assert!(!m.believes(3) && m.copies_seen() == 3);
    // Two processes that count the same: the second is a copy.
    assert_eq!(m.come_up(2, 20, 9), RegisteredDisk { id: DiskId(2), starts: 9 });
    assert_eq!(m.come_up(2, 21, 9), RegisteredDisk { id: DiskId(2), starts: 10 });
    assert!(!m.believes(2));
    m.assert_same_after_reload();
}

#[test]
fn of_two_processes_that_register_at_once_the_later_one_asks_again() {
    let mut m = Machine::new();
    m.come_up(1, 10, 5);
    let registration = Registration { process: [11; 16], ..registration(1, 1) };
    let late = Command::Register { registration, replaces: Some([1; 16]), older: vec![] };
    assert_eq!(code(m.run(late)), Err(ErrorCode::Busy));
    assert_eq!(m.state.process_of(&NodeName::new("data-1").unwrap()), Some([10; 16]));
    m.state.begin_again(openraft::Membership::new(vec![], BTreeMap::new())).unwrap();
    assert_eq!(m.state.process_of(&NodeName::new("data-1").unwrap()), None, "all register anew");
}

#[test]
fn a_wiped_disk_counts_its_starts_anew() {
    let mut m = Machine::new();
    m.come_up(1, 10, 50);
    m.register(1, 77).unwrap();
    assert_eq!(m.copies_seen(), 0, "another life is no copy");
    assert_eq!(m.state.registered(&registration(1, 77)).map(|d| d[0].starts), Some(1));
}

#[test]
fn the_clock_of_the_entries_only_rises_and_may_jump_once_in_each_life() {
    let mut m = Machine::new();
    let at = |m: &Machine| m.state.clock();
    assert!(at(&m).now_ms > 0 && !at(&m).may_jump);
    let before = at(&m).now_ms;
    // An entry by a leader of before, whose clock stood further back.
    let items = vec![Envelope { request: None, by: None, command: Command::Note { act: "x".into() } }];
    m.index += 1;
    let log_id = LogId::new(CommittedLeaderId::new(1, 1), m.index);
    let bytes = codec::encode(&Batch { now_ms: 1, items });
    m.state.apply(vec![(log_id, StateEntry::Commands(bytes.into()))]).unwrap();
    assert_eq!(at(&m).now_ms, before);
    m.state.begin_again(openraft::Membership::new(vec![], BTreeMap::new())).unwrap();
    assert_eq!(
        at(&m),
        Clock { now_ms: before, may_jump: true },
        "how long ago that was, the nodes' clocks tell"
    );
    m.ahead_ms = 1_000_000;
    m.run(Command::BeginEpoch { epoch: 3, rows_from: 1 << 50 }).unwrap();
    assert!(at(&m).now_ms > 1_000_000 && !at(&m).may_jump);
}
