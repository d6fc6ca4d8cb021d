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

/// A registration of node `i` with disks of these names and weights, in this zone.
fn asking(i: u8, zone: &str, disks: &[(&str, u32)]) -> Registration {
    let node = registration(i, i);
    let disk = |&(name, weight): &(&str, u32)| DiskRegistration {
        name: NodeName::new(name).unwrap(),
        weight,
        ..node.disks[0].clone()
    };
    Registration { zone: zone.parse().unwrap(), disks: disks.iter().map(disk).collect(), ..node.clone() }
}

impl Machine {
    /// In force, asked for and waiting: weight by weight of a node's disks in the order of their numbers.
    fn weights(&self, node: &str) -> Vec<(u32, Option<u32>)> {
        let topology = self.state.topology();
        let disks = topology.disks.values().filter(|d| d.node.as_str() == node);
        disks.map(|d| (d.weight, d.weight_waits.then_some(d.configured_weight))).collect()
    }

    fn operate(&mut self, operate: crate::command::Operate) -> Result<Response, ErrorCode> {
        self.run(Command::Operate(operate)).map_err(|e| e.code)
    }
}

#[test]
fn a_weight_above_the_usual_waits_for_an_operator_and_so_does_another_zone() {
    use crate::command::Operate;
    let mut m = Machine::new();
    // All others have one disk with a weight of 1.
    m.register_as(asking(5, "z1", &[("d", 1_000_000)]), &[]).unwrap();
    assert_eq!(m.weights("data-5"), [(1, Some(1_000_000))]);
    let node = NodeName::new("data-5").unwrap();
    // An operator may say no.
    let no = DiskId(5);
    m.operate(Operate::StageWeight { disk: no, weight: 1 }).unwrap();
    let version = m.state.draft().version;
    m.operate(Operate::ApplyLayout { version }).unwrap();
    assert_eq!(m.weights("data-5"), [(1, None)]);
    m.register_as(asking(5, "z1", &[("d", 999_999)]), &[]).unwrap();
    assert_eq!(m.weights("data-5"), [(1, Some(999_999))], "and is asked again for something else");
    m.register_as(asking(5, "z1", &[("d", 1_000_000)]), &[]).unwrap();
    // As often as it asks, and by however many disks.
    let many: Vec<String> = (0..10).map(|i| format!("d{i}")).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|name| (name.as_str(), 2)).collect();
    m.register_as(asking(5, "z1", &many), &[]).unwrap();
    let taken: u32 = m.weights("data-5").iter().map(|(weight, _)| weight).sum();
    assert_eq!(taken, 3, "three times what others have: {:?}", m.weights("data-5"));
    // Another zone than the one that it came with.
    m.register_as(asking(5, "z0", &[("d", 1_000_000)]), &[]).unwrap();
    let zone = |m: &Machine| {
        let info = m.state.topology().nodes[&node].clone();
        (info.zone.to_string(), info.waiting_zone.map(|zone| zone.to_string()))
    };
    assert_eq!(zone(&m), ("z1".into(), Some("z0".into())));
    let again = asking(5, "z0", &[("d", 1_000_000)]);
    assert!(m.state.registered(&again).is_some(), "to ask again changes nothing");
    // An operator applies the draft that was looked at; later wishes wait on.
    m.operate(Operate::StageWaiting { node: node.clone() }).unwrap();
    let draft = m.state.draft();
    assert_eq!(draft.zones, [(node.clone(), "z0".parse().unwrap())]);
    m.register_as(asking(5, "z7", &[("d", 900_000)]), &[]).unwrap();
    assert_eq!(m.state.draft(), draft, "a node changes no draft");
    m.operate(Operate::ApplyLayout { version: draft.version }).unwrap();
    assert_eq!(m.weights("data-5")[0], (1_000_000, None));
    assert_eq!(zone(&m), ("z0".into(), Some("z7".into())));
    // It goes back to what counts, and nothing waits any more.
    m.register_as(asking(5, "z0", &[("d", 800_000)]), &[]).unwrap();
    assert_eq!((zone(&m), m.weights("data-5")[0]), (("z0".into(), None), (800_000, None)));
    m.assert_same_after_reload();
}

#[test]
fn a_node_that_joined_by_a_token_that_says_so_waits_with_all_its_disks() {
    use crate::command::Operate;
    use wmall_proto::Role;
    use wmall_proto::identity::{TokenId, TokenRecord};
    let mut m = Machine::new();
    let id = TokenId([7; 32]);
    let token = TokenRecord {
        id,
        role: Role::Data,
        name: None,
        scopes: vec![],
        expires_ms: 1_000_000,
        created_by: None,
        wait_for_layout: true,
        used: None,
    };
    m.run(Command::CreateToken(token)).unwrap();
    let name = NodeName::new("data-5").unwrap();
    m.run(Command::UseToken { id, name: name.clone(), key: [1; 32] }).unwrap();
    m.register_as(asking(5, "z1", &[("d", 1)]), &[]).unwrap();
    assert_eq!(m.weights("data-5"), [(0, Some(1))]);
    m.operate(Operate::StageWaiting { node: name.clone() }).unwrap();
    let version = m.state.draft().version;
    m.operate(Operate::ApplyLayout { version }).unwrap();
    assert_eq!(m.weights("data-5"), [(1, None)]);
    assert_eq!(m.operate(Operate::StageWaiting { node: name }), Err(ErrorCode::PreconditionFailed));
    m.assert_same_after_reload();
}

#[test]
fn a_zone_that_would_have_a_part_of_every_group_waits() {
    let mut m = Machine::new();
    // Two zones hold two and one of three copies; a third would hold one of each.
    m.register_as(asking(5, "z9", &[("d", 1)]), &[]).unwrap();
    assert_eq!(m.weights("data-5"), [(0, Some(1))]);
    assert_eq!(m.state.topology().zone_count(), 2);
    m.register_as(asking(6, "z1", &[("d", 1)]), &[]).unwrap();
    assert_eq!(m.weights("data-6"), [(1, None)]);
}

#[test]
fn disks_are_bounded_before_anything_is_registered() {
    use wmall_proto::topology::{MAX_DISKS, MAX_DISKS_PER_NODE};
    let mut m = Machine::new();
    let version = |m: &Machine| m.state.topology().version;
    let names =
        |first: usize, count: usize| (first..first + count).map(|i| format!("d{i}")).collect::<Vec<String>>();
    let come = |m: &mut Machine, i: u8, names: &[String]| {
        let disks: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        code(m.register_as(asking(i, "z1", &disks), &[]))
    };
    assert_eq!(come(&mut m, 5, &names(0, 60)), Ok(()));
    let before = version(&m);
    // One of another name each time, as a node would that wants to fill the map.
    assert_eq!(come(&mut m, 5, &names(100, 5)), Err(ErrorCode::OutOfBounds));
    assert_eq!(come(&mut m, 5, &[]), Err(ErrorCode::OutOfBounds));
    assert_eq!(come(&mut m, 5, &["a".to_string(), "a".to_string()]), Err(ErrorCode::OutOfBounds));
    assert_eq!(version(&m), before, "nothing was registered");
    let mut node = 6;
    loop {
        let room = MAX_DISKS - m.state.topology().disks.len();
        if room == 0 {
            break;
        }
        assert_eq!(come(&mut m, node, &names(0, room.min(MAX_DISKS_PER_NODE))), Ok(()));
        node += 1;
    }
    assert_eq!(come(&mut m, node, &names(0, 1)), Err(ErrorCode::OutOfBounds));
    assert_eq!(come(&mut m, 5, &names(0, 60)), Ok(()), "who is there comes up again");
    assert_eq!(m.state.encoded_map().decode().unwrap(), *m.state.topology());
    let encoded = m.state.encoded_map();
    m.register(1, 99).unwrap();
    assert_ne!(m.state.encoded_map(), encoded, "another version");
}
