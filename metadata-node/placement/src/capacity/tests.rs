//! The completeness ratio by hand, and what one node's word may do to it.

use super::*;
use proptest::prelude::*;

fn disks(spec: &[(u32, u64, u64)]) -> Vec<DiskSpace> {
    let disk = |(i, &(zone, max_bytes, used_bytes)): (usize, &(u32, u64, u64))| DiskSpace {
        disk: DiskId(i as u32 + 1),
        node: NodeName::new(format!("data-{}", i + 1)).unwrap(),
        zone: ZoneName::new(format!("z{zone}")).unwrap(),
        max_bytes,
        reserved_bytes: 0,
        used_bytes,
        dead_bytes: 0,
        counts: true,
    };
    spec.iter().enumerate().map(disk).collect()
}

fn pool(scheme: &str, bytes: u64) -> PoolNeed {
    PoolNeed { scheme: scheme.parse().unwrap(), bytes }
}

#[test]
fn equal_disks_are_used_whole_and_the_alarm_is_at_seven_tenths() {
    let five = disks(&[(1, 100, 0), (2, 100, 0), (3, 100, 0), (4, 100, 0), (5, 100, 0)]);
    let at = |bytes| capacity(&five, &[pool("3x", bytes)]);
    let report = at(116);
    assert_eq!((report.total_bytes, report.needed_bytes, report.level), (498, 348, CapacityLevel::Safe));
    // 498, not 500: each of three slots has the same number of bytes.
    assert_eq!(at(117).level, CapacityLevel::Warning);
    assert_eq!(at(142).level, CapacityLevel::Danger);
    assert!(at(166).ratio_ppm <= 1_000_000 && at(167).ratio_ppm > 1_000_000);
    assert_eq!(at(0).ratio_ppm, 0);
}

#[test]
fn what_the_zone_rule_forbids_is_no_room() {
    // Two copies in two zones: the large one can hold no more than the small one.
    let uneven = disks(&[(1, 1000, 0), (1, 1000, 0), (2, 100, 0)]);
    assert_eq!(capacity(&uneven, &[pool("2x", 10)]).total_bytes, 200);
    // Three copies on two nodes do not fit at all.
    let two = disks(&[(1, 1000, 0), (2, 1000, 0)]);
    let report = capacity(&two, &[pool("3x", 10)]);
    assert_eq!((report.total_bytes, report.ratio_ppm), (0, CapacityReport::NO_ROOM_PPM));
    assert_eq!(report.level, CapacityLevel::Danger, "no reason to stop writes");
    // Shards take less of each: six nodes in three zones, two in each.
    let six = disks(&[(1, 60, 0), (1, 60, 0), (2, 60, 0), (2, 60, 0), (3, 60, 0), (3, 60, 0)]);
    assert_eq!(capacity(&six, &[pool("rs:4+2", 100)]).total_bytes, 360);
    assert_eq!(capacity(&six, &[pool("rs:4+2", 100)]).needed_bytes, 150);
}

#[test]
fn what_is_held_counts_and_so_do_dead_bytes_and_losses() {
    let mut four = disks(&[(1, 100, 90), (2, 100, 90), (3, 100, 90), (4, 200, 10)]);
    let report = capacity(&four, &[pool("2x", 60)]);
    // By the records there are 120 bytes, by the disks 280, of 500 that can be used.
    assert_eq!((report.overall_ppm, report.held_ppm, report.ratio_ppm), (240_000, 560_000, 560_000));
    assert_eq!((report.fullest_ppm, report.fullest_disk), (900_000, Some(DiskId(3))));
    let node = report.without_largest_node.unwrap();
    assert_eq!((node.name.as_str(), node.ratio_ppm), ("data-4", 400_000));
    four[1].dead_bytes = 30;
    assert_eq!(capacity(&four, &[pool("2x", 60)]).overall_ppm, 300_000);
    four[3].counts = false;
    assert_eq!(capacity(&four, &[pool("2x", 60)]).total_bytes, 300);
}

#[test]
fn one_tiny_disk_that_is_full_stops_nobody() {
    let mut five = disks(&[(1, 100, 10), (2, 100, 10), (3, 100, 10), (4, 100, 10), (5, 1, 1)]);
    five[4].dead_bytes = u64::MAX;
    let report = capacity(&five, &[pool("3x", 10)]);
    assert_eq!((report.level, report.fullest_ppm), (CapacityLevel::Safe, 1_000_000));
    assert!(report.ratio_ppm < 150_000, "{report:?}");
    // Of three nodes a scheme of three needs each: one without room is as one that is gone.
    let mut three = disks(&[(1, 100, 50), (2, 100, 50), (3, 1, 1)]);
    for said in [1, 40, 100] {
        three[2].max_bytes = said;
        three[2].used_bytes = said;
        assert!(capacity(&three, &[pool("3x", 50)]).level < CapacityLevel::WritesStopped, "{said}");
    }
    three[0].used_bytes = 92;
    three[1].used_bytes = 92;
    assert_eq!(capacity(&three, &[pool("3x", 92)]).level, CapacityLevel::WritesStopped, "all are full");
}

proptest! {
    /// The ratio moves by a node's share at most, however much that says it holds.
    #[test]
    fn the_word_of_one_node_moves_the_ratio_by_its_share_at_most(
        spec in proptest::collection::vec((0u32..3, 1u64..1000, 0u64..1000, 0u64..1000), 2..9),
        width in 1u8..4,
        stored in 0u64..300,
        said in (any::<u64>(), any::<u64>()),
    ) {
        let plain: Vec<(u32, u64, u64)> = spec.iter().map(|s| (s.0, s.1, s.2)).collect();
        let mut before = disks(&plain);
        before.iter_mut().zip(&spec).for_each(|(disk, s)| disk.dead_bytes = s.3);
        let need = [PoolNeed { scheme: Scheme::Replicated { copies: width }, bytes: stored }];
        let report = capacity(&before, &need);
        prop_assume!(report.total_bytes > 0);
        let counting: Vec<&DiskSpace> = before.iter().collect();
        let room = Room::of(&counting, &need);
        for liar in 0..before.len() {
            let share = parts(room.counted(&counting[liar..=liar], |_| u64::MAX), report.total_bytes);
            let mut after = before.clone();
            (after[liar].used_bytes, after[liar].dead_bytes) = said;
            let moved = capacity(&after, &need);
            prop_assert!(moved.ratio_ppm.abs_diff(report.ratio_ppm) <= share + 1, "{share}: {moved:?}");
        }
    }

    /// A node stops no writes that would go on without it, however much room it claims or denies.
    #[test]
    fn a_node_that_denies_its_room_stops_no_more_than_one_that_is_gone(
        nodes in 3usize..9,
        width in 1u8..4,
        fill in 0u64..80,
        claimed in any::<u64>(),
    ) {
        let spec: Vec<(u32, u64, u64)> = (0..nodes as u32).map(|zone| (zone, 1000, fill * 10)).collect();
        let before = disks(&spec);
        let bytes = fill * 10 * nodes as u64 / u64::from(width);
        let need = [PoolNeed { scheme: Scheme::Replicated { copies: width }, bytes }];
        let mut denies = before.clone();
        (denies[0].max_bytes, denies[0].used_bytes) = (claimed, 0);
        let mut gone = before.clone();
        gone[0].counts = false;
        let (denied, gone) = (capacity(&denies, &need), capacity(&gone, &need));
        prop_assert!(denied.level <= gone.level.max(CapacityLevel::Danger), "{denied:?} {gone:?}");
    }

    /// By hand: bytes one after another, each in slots on the emptiest nodes that the rule allows, or in the
    /// emptiest zones.
    #[test]
    fn usable_is_what_can_really_be_placed(
        spec in proptest::collection::vec((0u32..3, 0u64..12), 1..7),
        width in 1u8..4,
    ) {
        let spec: Vec<(u32, u64, u64)> = spec.into_iter().map(|(zone, room)| (zone, room, 0)).collect();
        let all = disks(&spec);
        let zones: std::collections::BTreeSet<u32> = spec.iter().map(|s| s.0).collect();
        let per_zone = usize::from(width).div_ceil(zones.len());
        let place = |by_zone: bool| {
            let mut rooms: Vec<(u32, u64)> = spec.iter().map(|s| (s.0, s.1)).collect();
            let mut placed = 0;
            loop {
                let zone = |zone: u32| rooms.iter().filter(|r| r.0 == zone).map(|r| r.1).sum::<u64>();
                let mut order: Vec<usize> = (0..rooms.len()).filter(|&i| rooms[i].1 > 0).collect();
                order.sort_by_key(|&i| {
                    let first = if by_zone { zone(rooms[i].0) } else { 0 };
                    std::cmp::Reverse((first, rooms[i].1))
                });
                let mut taken: Vec<usize> = Vec::new();
                for i in order {
                    let in_zone = taken.iter().filter(|&&t| rooms[t].0 == rooms[i].0).count();
                    if taken.len() < usize::from(width) && in_zone < per_zone {
                        taken.push(i);
                    }
                }
                if taken.len() < usize::from(width) {
                    return placed;
                }
                taken.iter().for_each(|&i| rooms[i].1 -= 1);
                placed += u64::from(width);
            }
        };
        let placed = place(false).max(place(true));
        let total = capacity(&all, &[PoolNeed { scheme: Scheme::Replicated { copies: width }, bytes: 1 }]).total_bytes;
        prop_assert!(total >= placed, "{} placed where {} should fit", placed, total);
        // Greed by single bytes may end a little early when zones are tight.
        prop_assert!(total - placed <= u64::from(width) * 3, "{} of {}", placed, total);
    }
}
