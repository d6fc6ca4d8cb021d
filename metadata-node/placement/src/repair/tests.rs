mod properties;

use wmall_proto::{NodeName, PgId, PoolId, ZoneName};

use super::*;

const POLICY: Policy = Policy { together_ms: 1000, override_halt: false };
const BUDGET: Budget = Budget { to_disk: 8, from_disk: 4, ..Budget::ALL };

fn disk(n: u32, zone: u32) -> DiskFact {
    let candidate = Candidate {
        disk: DiskId(n),
        node: NodeName::new(format!("data-{n}")).unwrap(),
        zone: ZoneName::new(format!("z{zone}")).unwrap(),
        weight: 100,
    };
    DiskFact {
        candidate,
        state: DiskState::Up,
        draining: false,
        drain_paused: false,
        successor: None,
        free_bytes: 1 << 40,
        last_bytes: 1 << 40,
        down_since_ms: None,
    }
}

fn at(disk: u32) -> SlotFact {
    SlotFact { disk: DiskId(disk), sources: vec![], arriving: false, piece: PieceState::Live }
}

/// One disk a node; `rows` of disk numbers, all pieces live.
pub(crate) fn cluster(zones: &[u32], rows: &[&[u32]]) -> Snapshot {
    let disks = zones.iter().enumerate().map(|(i, &zone)| disk(i as u32 + 1, zone));
    let group = |(number, row): (usize, &&[u32])| GroupFact {
        key: (PoolId(1), PgId(number as u32)),
        row_version: 7,
        needed: 1,
        slot_bytes: 100,
        slots: row.iter().map(|&d| at(d)).collect(),
    };
    Snapshot {
        disks: disks.map(|d| (d.candidate.disk, d)).collect(),
        groups: rows.iter().enumerate().map(group).collect(),
        zones: zones.iter().collect::<BTreeSet<_>>().len(),
        now_ms: 1_000_000,
    }
}

/// A disk does not answer, and its pieces do not count.
fn silence(snapshot: &mut Snapshot, disk: u32, state: DiskState, at_ms: u64) {
    let fact = snapshot.disks.get_mut(&DiskId(disk)).unwrap();
    fact.state = state;
    fact.down_since_ms = (state == DiskState::Down).then_some(at_ms);
    for slot in snapshot.groups.iter_mut().flat_map(|g| &mut g.slots) {
        if slot.disk == DiskId(disk) {
            slot.piece = PieceState::Suspect;
        }
    }
}

/// What the state machine makes of a plan.
fn apply(snapshot: &mut Snapshot, plan: &RepairPlan) {
    for planned in &plan.moves {
        let group = snapshot.groups.iter_mut().find(|g| g.key == planned.group).unwrap();
        let slot = &mut group.slots[usize::from(planned.slot)];
        assert_eq!((group.row_version, slot.disk), (planned.row_version, planned.from));
        // A source that does not answer counts for nothing.
        let (sources, piece) = (vec![planned.from], slot.piece);
        *slot = SlotFact { disk: planned.to, sources, arriving: true, piece };
        group.row_version += 1;
    }
}

/// Everything that is on its way arrives.
fn arrive(snapshot: &mut Snapshot) {
    for slot in snapshot.groups.iter_mut().flat_map(|g| &mut g.slots) {
        if !std::mem::take(&mut slot.sources).is_empty() {
            (slot.piece, slot.arriving) = (PieceState::Live, false);
        }
    }
}

fn plan(snapshot: &Snapshot) -> RepairPlan {
    plan_repairs(snapshot, &POLICY, &BUDGET)
}

fn moved(plan: &RepairPlan) -> Vec<(u32, u8, u32, u32, Reason)> {
    plan.moves.iter().map(|m| (m.group.1.0, m.slot, m.from.0, m.to.0, m.reason)).collect()
}

#[test]
fn a_disk_that_is_down_is_replaced_under_the_zone_rule_and_a_suspect_one_waits() {
    let mut c = cluster(&[1, 2, 3, 3, 1], &[&[1, 2, 3], &[1, 2, 4]]);
    silence(&mut c, 1, DiskState::Suspect, 0);
    assert_eq!(plan(&c), RepairPlan::default(), "margin 1, so there is a grace");
    silence(&mut c, 1, DiskState::Down, 5);
    let planned = plan(&c);
    assert_eq!(moved(&planned), [(0, 0, 1, 5, Reason::Lost), (1, 0, 1, 5, Reason::Lost)]);
    apply(&mut c, &planned);
    assert_eq!(plan(&c), RepairPlan::default(), "what is on its way is not planned again");
    arrive(&mut c);
    assert_eq!(plan(&c), RepairPlan::default());
}

#[test]
fn there_is_no_grace_at_margin_zero_and_the_next_loss_goes_first() {
    let mut c = cluster(&[1, 2, 3, 4, 5], &[&[1, 2, 3], &[1, 2, 4], &[1, 4, 5]]);
    silence(&mut c, 1, DiskState::Down, 0);
    silence(&mut c, 2, DiskState::Suspect, 0);
    let tight = Budget { to_disk: 1, from_disk: 1, ..Budget::ALL };
    let planned = plan_repairs(&c, &POLICY, &tight);
    assert_eq!(planned.moves[0].group.1.0, 0, "one piece left");
    assert_eq!(planned.moves[1].group.1.0, 1, "likewise");
    assert!(planned.waiting[&Reason::Lost] > 0, "{planned:?}");
    let all = plan(&c);
    assert!(moved(&all).contains(&(2, 0, 1, 3, Reason::Lost)), "{all:?}");
}

/// What comes into danger while much is on its way finds room on the way at once.
#[test]
fn a_part_of_each_budget_is_for_what_the_next_loss_would_lose() {
    let mut c = cluster(&[1, 2, 3, 4], &[&[1, 2, 3][..]; 6]);
    let budget = Budget { to_disk: 4, from_disk: 4, ..Budget::ALL };
    silence(&mut c, 1, DiskState::Down, 0);
    let first = plan_repairs(&c, &POLICY, &budget);
    assert_eq!((first.moves.len(), first.waiting[&Reason::Lost]), (3, 3));
    apply(&mut c, &first);
    assert_eq!(plan_repairs(&c, &POLICY, &budget).moves, [], "they wait for one another");
    silence(&mut c, 2, DiskState::Suspect, 0);
    let planned = plan_repairs(&c, &POLICY, &budget);
    assert_eq!(moved(&planned), [(3, 0, 1, 4, Reason::Lost)], "one piece left");
}

/// Disks 5 and 6 are one node's, and all slots of disk 1 have to go there.
#[test]
fn bytes_on_the_way_are_bounded_for_each_disk_and_for_each_link() {
    let mut c = cluster(&[1, 2, 3, 4, 5, 5], &[&[1, 2, 3, 4][..]; 24]);
    let other = c.disks[&DiskId(5)].candidate.node.clone();
    c.disks.get_mut(&DiskId(6)).unwrap().candidate.node = other;
    c.disks.get_mut(&DiskId(1)).unwrap().draining = true;
    let to = |c: &Snapshot, disk_bytes: u64, link_bytes: u64| {
        let budget = Budget { disk_bytes, link_bytes, ..Budget::ALL };
        let planned = plan_repairs(c, &POLICY, &budget);
        let mut counts = [5, 6].map(|disk| planned.moves.iter().filter(|m| m.to.0 == disk).count());
        counts.sort_unstable();
        counts
    };
    assert_eq!(to(&c, u64::MAX, u64::MAX), [12, 12]);
    assert_eq!(to(&c, 1600, u64::MAX), [8, 8], "half of it for what can wait");
    assert_eq!(to(&c, u64::MAX, 1600), [4, 4], "the two share a link");
    assert_eq!(to(&c, 50, u64::MAX), [4, 4], "a long slot counts for an eighth");
    let budget = Budget { link_bytes: 1600, ..Budget::ALL };
    let some = plan_repairs(&c, &POLICY, &budget);
    apply(&mut c, &some);
    assert_eq!(to(&c, u64::MAX, 1600), [0, 0], "what is on its way counts");
    // What was to go to a disk that is dead goes to the other one, whatever is on the link.
    silence(&mut c, 6, DiskState::Down, 0);
    let planned = plan_repairs(&c, &POLICY, &budget);
    let lost = |m: &&PlannedMove| (m.from.0, m.to.0, m.reason) == (6, 5, Reason::Lost);
    assert_eq!(planned.moves.iter().filter(lost).count(), 4, "{planned:?}");
}

#[test]
fn what_is_lost_is_bounded_by_slots_and_not_by_bytes() {
    let rows = [&[&[1, 2, 3][..]; 8][..], &[&[2, 3, 4][..]; 8][..]].concat();
    let mut c = cluster(&[1, 2, 3, 4, 5], &rows);
    c.disks.get_mut(&DiskId(4)).unwrap().draining = true;
    let budget = Budget { disk_bytes: 400, link_bytes: 400, ..Budget::ALL };
    let drained = plan_repairs(&c, &POLICY, &budget);
    assert!(!drained.moves.is_empty());
    apply(&mut c, &drained);
    assert!(plan_repairs(&c, &POLICY, &budget).moves.is_empty(), "the drain has its part");
    silence(&mut c, 1, DiskState::Down, 0);
    let planned = plan_repairs(&c, &POLICY, &budget);
    let lost = planned.moves.iter().filter(|m| m.reason == Reason::Lost).count();
    assert_eq!(lost, 12, "eight, and four that were on their way there: {planned:?}");
}

#[test]
fn what_is_suspect_together_is_not_replaced_in_haste() {
    let rows: &[&[u32]] = &[&[1, 2, 3], &[1, 4, 5], &[2, 3, 4], &[3, 4, 5]];
    let mut c = cluster(&[1, 2, 3, 4, 5], rows);
    silence(&mut c, 1, DiskState::Suspect, 0);
    silence(&mut c, 2, DiskState::Suspect, 0);
    assert_eq!(plan(&c), RepairPlan::default(), "two of five");
    let mut c = cluster(&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[&[1, 2, 3], &[4, 5, 6], &[7, 8, 9]]);
    silence(&mut c, 1, DiskState::Suspect, 0);
    silence(&mut c, 2, DiskState::Suspect, 0);
    assert_eq!(plan(&c).moves.len(), 1, "two of nine, and a group that has one left");
}

/// Two of three shards are needed. Slot 0 was on its way from disk 1 to disk 4 when that died, and disk 3 dies: what disk 1 has
/// still makes all of it.
#[test]
fn a_slot_whose_new_disk_died_on_the_way_is_made_anew_from_where_it_came() {
    let mut c = cluster(&[1, 2, 3, 4, 5, 6], &[&[4, 2, 3]]);
    let group = &mut c.groups[0];
    group.needed = 2;
    (group.slots[0].sources, group.slots[0].arriving) = (vec![DiskId(1)], true);
    silence(&mut c, 4, DiskState::Down, 0);
    silence(&mut c, 3, DiskState::Down, 5000);
    let planned = plan(&c);
    assert!(matches!(moved(&planned)[..], [(0, 0, 4, _, Reason::Lost)]), "{planned:?}");
    assert_eq!(planned.waiting, BTreeMap::from([(Reason::Lost, 1)]), "one slot of a row at a time");
    silence(&mut c, 1, DiskState::Down, 10_000);
    assert_eq!(plan(&c), RepairPlan::default(), "now it can't be read");
}

#[test]
fn what_cannot_be_read_is_left_where_it_may_come_back() {
    let mut c = cluster(&[1, 2, 3, 4, 5], &[&[1, 2]]);
    silence(&mut c, 1, DiskState::Down, 0);
    silence(&mut c, 2, DiskState::Down, 5000);
    assert_eq!(plan(&c), RepairPlan::default());
    // Where there is nothing to read, new chunks find no disk that takes them until the slots have moved.
    c.groups[0].slot_bytes = 0;
    let first = plan(&c);
    assert_eq!(first.moves.len(), 1, "one of a row at a time");
    apply(&mut c, &first);
    assert_eq!(plan(&c).moves.len(), 1);
}

#[test]
fn a_drain_moves_within_the_budget_and_never_before_a_loss() {
    let mut c = cluster(&[1, 2, 3, 4], &[&[1, 2], &[1, 2], &[1, 2], &[3, 4]]);
    c.disks.get_mut(&DiskId(1)).unwrap().draining = true;
    let budget = Budget { to_disk: 9, from_disk: 2, ..Budget::ALL };
    let planned = plan_repairs(&c, &POLICY, &budget);
    assert_eq!(planned.moves.len(), 2);
    assert_eq!(planned.waiting[&Reason::Drain], 1);
    assert!(planned.moves.iter().all(|m| m.to.0 > 2 && m.reason == Reason::Drain));
    silence(&mut c, 3, DiskState::Down, 0);
    let planned = plan_repairs(&c, &POLICY, &budget);
    assert_eq!(planned.moves[0].reason, Reason::Lost, "{planned:?}");
}

#[test]
fn the_rule_yields_to_a_loss_and_to_nothing_else_and_is_restored_later() {
    let mut c = cluster(&[1, 2, 3, 3], &[&[1, 2, 3]]);
    c.disks.get_mut(&DiskId(1)).unwrap().draining = true;
    assert_eq!(plan(&c).stuck[&Reason::Drain], 1, "only zone 3 has room, and has its share");
    silence(&mut c, 1, DiskState::Down, 0);
    let planned = plan(&c);
    assert_eq!(moved(&planned), [(0, 0, 1, 4, Reason::Lost)]);
    apply(&mut c, &planned);
    arrive(&mut c);
    let back = disk(1, 1);
    c.disks.insert(DiskId(1), back);
    assert_eq!(moved(&plan(&c)), [(0, 2, 3, 1, Reason::ZoneRule)]);
}

#[test]
fn a_full_disk_takes_nothing() {
    let mut c = cluster(&[1, 2, 3, 4, 5], &[&[1, 2, 3]]);
    c.disks.get_mut(&DiskId(4)).unwrap().free_bytes = 99;
    c.disks.get_mut(&DiskId(5)).unwrap().free_bytes = 0;
    // Room that is kept for the worst is no room for a drain.
    c.disks.get_mut(&DiskId(1)).unwrap().draining = true;
    assert_eq!(plan(&c).stuck[&Reason::Drain], 1);
    silence(&mut c, 1, DiskState::Down, 0);
    c.disks.get_mut(&DiskId(4)).unwrap().last_bytes = 99;
    assert_eq!(moved(&plan(&c)), [(0, 0, 1, 5, Reason::Lost)]);
    c.disks.get_mut(&DiskId(5)).unwrap().last_bytes = 0;
    assert_eq!(plan(&c).stuck[&Reason::Lost], 1);
}

#[test]
fn too_much_at_once_halts_and_one_after_another_does_not() {
    let rows: Vec<Vec<u32>> = (0..8).map(|i| (0..3).map(|k| (i + 2 * k) % 8 + 1).collect()).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let mut c = cluster(&[1, 1, 2, 2, 3, 3, 4, 4], &rows);
    for d in [1, 3, 5] {
        silence(&mut c, d, DiskState::Down, u64::from(d) * 100);
    }
    let planned = plan(&c);
    assert_eq!((planned.halted.as_ref().unwrap().disks.len(), planned.moves.len()), (3, 0));
    let go_on = Policy { override_halt: true, ..POLICY };
    assert!(!plan_repairs(&c, &go_on, &BUDGET).moves.is_empty());
    silence(&mut c, 5, DiskState::Down, 10_000);
    assert!(plan(&c).halted.is_none(), "two, and one later");
    let mut zones = cluster(&[1, 1, 2, 2, 3, 3, 4, 4], &rows);
    for d in [1, 2] {
        silence(&mut zones, d, DiskState::Down, 0);
    }
    assert!(plan(&zones).halted.is_none(), "one zone");
    // In the round in which they cross the grace nothing is noted yet; and a moment later others may follow.
    let mut fresh = cluster(&[1, 1, 2, 2, 3, 3, 4, 4], &rows);
    for d in [1, 3, 5] {
        silence(&mut fresh, d, DiskState::Down, 0);
        fresh.disks.get_mut(&DiskId(d)).unwrap().down_since_ms = None;
    }
    assert!(plan(&fresh).halted.is_some());
    let mut one = cluster(&[1, 1, 2, 2, 3, 3, 4, 4], &rows);
    silence(&mut one, 1, DiskState::Down, 999_500);
    assert_eq!(plan(&one), RepairPlan::default(), "others may follow within a second");
    one.now_ms += 1000;
    assert!(!plan(&one).moves.is_empty());
}

#[test]
fn a_new_disk_gets_its_share_and_no_more_moves_than_that_takes() {
    let rows: Vec<Vec<u32>> = (0..60).map(|i| (0..3).map(|k| (i + k) % 5 + 1).collect()).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let mut c = cluster(&[1, 2, 3, 4, 5], &rows);
    assert_eq!(plan(&c), RepairPlan::default(), "even");
    c.disks.insert(DiskId(6), disk(6, 6));
    c.zones = 6;
    let mut count = 0;
    for _ in 0..100 {
        let planned = plan(&c);
        if planned.moves.is_empty() {
            break;
        }
        assert!(planned.moves.iter().all(|m| m.to == DiskId(6)), "{planned:?}");
        count += planned.moves.len();
        apply(&mut c, &planned);
        arrive(&mut c);
    }
    // Its share is 30 of 180.
    assert!((28..=30).contains(&count), "{count}");
}

/// A slot comes from so many disks at once and no more: it can go back to one of these only.
#[test]
fn a_slot_of_as_many_sources_as_there_may_be_goes_back_or_nowhere() {
    let mut c = cluster(&[1, 2, 3, 4, 5, 6, 7, 8], &[&[1, 2, 3]]);
    let slot = &mut c.groups[0].slots[0];
    (slot.arriving, slot.sources) = (true, (5..9).map(DiskId).collect());
    silence(&mut c, 1, DiskState::Down, 0);
    assert!(matches!(moved(&plan(&c))[..], [(0, 0, 1, 5..9, Reason::Lost)]), "{:?}", plan(&c));
    for disk in 5..9 {
        c.disks.get_mut(&DiskId(disk)).unwrap().last_bytes = 0;
    }
    let planned = plan(&c);
    assert_eq!((moved(&planned), planned.stuck), (vec![], BTreeMap::from([(Reason::Lost, 1)])));
    c.groups[0].slots[0].sources.pop();
    assert_eq!(moved(&plan(&c)), [(0, 0, 1, 4, Reason::Lost)]);
}

/// A disk that was found down just now may come back, or others may follow: until that is known its share is nobody else's.
#[test]
fn nothing_is_evened_out_for_a_disk_that_was_just_lost() {
    let rows: Vec<Vec<u32>> = (0..40).map(|i| vec![i % 4 + 1, (i + 1) % 4 + 1]).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let mut c = cluster(&[1, 2, 3, 4], &rows);
    for disk in [2, 3] {
        c.disks.get_mut(&DiskId(disk)).unwrap().candidate.weight = 300;
    }
    rest(&mut c);
    let now = c.now_ms;
    silence(&mut c, 4, DiskState::Down, now - 1);
    assert_eq!(plan(&c), RepairPlan::default());
    // Unless the clock of who noted it was ahead.
    let ahead = Some(now + 3_600_000);
    c.disks.get_mut(&DiskId(4)).unwrap().down_since_ms = ahead;
    assert!(!plan(&c).moves.is_empty());
    c.disks.get_mut(&DiskId(4)).unwrap().down_since_ms = Some(now - 1);
    c.now_ms += POLICY.together_ms;
    let planned = plan(&c);
    assert!(!planned.moves.is_empty() && planned.moves.iter().all(|m| m.reason == Reason::Lost));
}

#[test]
fn a_weight_of_zero_gives_everything_away() {
    let mut c = cluster(&[1, 2, 3, 4], &[&[1, 2], &[2, 1], &[1, 3], &[4, 1], &[3, 4]]);
    c.disks.get_mut(&DiskId(1)).unwrap().candidate.weight = 0;
    for _ in 0..10 {
        let planned = plan(&c);
        apply(&mut c, &planned);
        arrive(&mut c);
    }
    assert!(c.groups.iter().all(|g| g.slots.iter().all(|s| s.disk != DiskId(1))), "{:?}", c.groups);
}

/// Plans until there is nothing to plan, and counts.
fn rest(snapshot: &mut Snapshot) -> usize {
    let mut count = 0;
    for _ in 0..1000 {
        let planned = plan(snapshot);
        if planned.moves.is_empty() {
            return count;
        }
        count += planned.moves.len();
        apply(snapshot, &planned);
        arrive(snapshot);
    }
    panic!("plans do not come to an end");
}

#[test]
fn a_paused_drain_begins_nothing_and_takes_nothing() {
    let mut c = cluster(&[1, 2, 3, 4], &[&[1, 2, 3]]);
    let first = c.disks.get_mut(&DiskId(1)).unwrap();
    (first.draining, first.drain_paused) = (true, true);
    assert_eq!(moved(&plan(&c)), []);
    // It is no place for what others lose either.
    silence(&mut c, 2, DiskState::Down, 0);
    assert_eq!(moved(&plan(&c)), [(0, 1, 2, 4, Reason::Lost)]);
    c.disks.get_mut(&DiskId(1)).unwrap().drain_paused = false;
    silence(&mut c, 2, DiskState::Up, 0);
    arrive(&mut c);
    assert_eq!(moved(&plan(&c)), [(0, 0, 1, 4, Reason::Drain)]);
}

/// A successor may have to wait for a piece that nobody has; the others need not stay uneven for that.
#[test]
fn what_waits_while_nothing_is_on_its_way_does_not_stop_balance() {
    let rows = [&[&[1, 2][..]][..], &[&[3, 2][..]; 30][..]].concat();
    let mut c = cluster(&[1, 2, 3, 4, 3], &rows);
    let first = c.disks.get_mut(&DiskId(1)).unwrap();
    (first.draining, first.successor) = (true, Some(DiskId(4)));
    c.groups[0].slots[1].sources = vec![DiskId(4)];
    let planned = plan(&c);
    assert_eq!(
        planned.waiting,
        BTreeMap::from([(Reason::Drain, 1)]),
        "disk 4 has the other slot's pieces yet"
    );
    assert!(
        !planned.moves.is_empty() && planned.moves.iter().all(|m| m.reason == Reason::Balance),
        "{planned:?}"
    );
    c.groups[0].slots[1].arriving = true;
    assert_eq!(plan(&c).moves, [], "that ends what is waited for");
}

#[test]
fn a_paused_drain_is_no_matter_of_balance() {
    let rows: Vec<Vec<u32>> = (0..30).map(|i| vec![1 + i % 3, 1 + (i + 1) % 3, 4]).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let mut c = cluster(&[1, 1, 1, 1, 1], &rows);
    let first = c.disks.get_mut(&DiskId(1)).unwrap();
    (first.draining, first.drain_paused) = (true, true);
    for _ in 0..50 {
        let planned = plan(&c);
        assert!(planned.moves.iter().all(|m| m.from != DiskId(1) && m.to != DiskId(1)), "{planned:?}");
        if planned.moves.is_empty() {
            return;
        }
        apply(&mut c, &planned);
        arrive(&mut c);
    }
    panic!("balance does not end");
}

#[test]
fn a_replaced_disk_goes_to_its_successor_where_the_rule_allows_it() {
    // Disk 4 has nothing to do, 5 is the successor and in the zone of 2.
    let mut c = cluster(&[1, 2, 3, 4, 2], &[&[1, 3, 4], &[1, 2, 3]]);
    let first = c.disks.get_mut(&DiskId(1)).unwrap();
    (first.draining, first.successor) = (true, Some(DiskId(5)));
    let planned = moved(&plan(&c));
    assert!(planned.contains(&(0, 0, 1, 5, Reason::Drain)), "{planned:?}");
    assert!(
        planned.contains(&(1, 0, 1, 4, Reason::Drain)),
        "zone 2 has its piece of the second row: {planned:?}"
    );
    // A successor that is full for now is waited for.
    let full = Budget { to_disk: 0, from_disk: 4, ..Budget::ALL };
    let plan = plan_repairs(&c, &POLICY, &full);
    assert_eq!((plan.moves.len(), plan.waiting[&Reason::Drain]), (0, 2));
}

#[test]
fn of_one_margin_the_one_goes_first_that_more_losses_would_lose() {
    // Four of six shards needed, five there; one of three copies needed, two there.
    let mut c = cluster(&[1, 2, 3, 4, 5, 6, 7, 8], &[&[1, 2, 3], &[1, 2, 3, 4, 5, 6]]);
    c.groups[1].needed = 4;
    silence(&mut c, 1, DiskState::Down, 0);
    let planned = moved(&plan(&c));
    assert_eq!(planned.iter().map(|m| m.0).collect::<Vec<_>>(), [1, 0], "{planned:?}");
}
