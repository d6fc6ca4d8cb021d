//! The completeness ratio: bytes needed to hold everything at full redundancy, over what the zone rule lets the disks take.
//!
//! It is the larger of two: that ratio over the whole cluster, and the fill of the fullest disk under the rows as they are,
//! since a full disk stops the groups that it is in whatever room others have. Dead bytes count until they are compacted.

use std::collections::BTreeMap;

use wmall_proto::capacity::{CapacityLevel, CapacityReport, Loss};
use wmall_proto::{DiskId, NodeName, Scheme, ZoneName};

use crate::zone_rule::ZoneRule;

/// What is known of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpace {
    /// The disk.
    pub disk: DiskId,
    /// Its node.
    pub node: NodeName,
    /// Its node's zone.
    pub zone: ZoneName,
    /// The most bytes it may use.
    pub max_bytes: u64,
    /// Of these, what is kept for compaction.
    pub reserved_bytes: u64,
    /// Bytes in use: pieces, and dead records that are not compacted yet.
    pub used_bytes: u64,
    /// Of these, bytes of records that nobody wants.
    pub dead_bytes: u64,
    /// Whether it counts: it answers, works, and is not being emptied.
    pub counts: bool,
}

impl DiskSpace {
    fn room(&self) -> u64 {
        self.max_bytes.saturating_sub(self.reserved_bytes)
    }
}

/// What a pool keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolNeed {
    /// How it keeps chunks.
    pub scheme: Scheme,
    /// Bytes of its chunks, once each.
    pub bytes: u64,
}

/// The report of now.
pub fn capacity(disks: &[DiskSpace], pools: &[PoolNeed]) -> CapacityReport {
    let counting: Vec<&DiskSpace> = disks.iter().filter(|d| d.counts).collect();
    let dead_bytes = counting.iter().map(|d| d.dead_bytes).sum();
    let live: u64 = pools.iter().map(|p| p.scheme.stored_bytes(p.bytes)).sum();
    let needed_bytes = live.saturating_add(dead_bytes);
    let total_bytes = usable(&counting, pools);
    let fill = |d: &&DiskSpace| parts(d.used_bytes, d.room());
    let fullest = counting.iter().copied().max_by_key(|d| (fill(d), d.disk));
    let overall = parts(needed_bytes, total_bytes);
    let fullest_parts = fullest.map_or(0, |d| fill(&d));
    let ratio_ppm = overall.max(fullest_parts);
    CapacityReport {
        ratio_ppm,
        overall_ppm: overall,
        fullest_ppm: fullest_parts,
        fullest_disk: fullest.map(|d| d.disk),
        level: level(overall, fullest_parts),
        needed_bytes,
        dead_bytes,
        total_bytes,
        raw_bytes: counting.iter().map(|d| d.max_bytes).sum(),
        without_largest_node: largest_loss(&counting, pools, needed_bytes, |d| d.node.to_string()),
        without_largest_zone: largest_loss(&counting, pools, needed_bytes, |d| d.zone.to_string()),
    }
}

/// Where a scheme does not fit on the nodes that are up, that is urgent, and no reason to stop writes: they go on by quorum.
fn level(overall: u64, fullest: u64) -> CapacityLevel {
    if overall < CapacityReport::NO_ROOM_PPM {
        return CapacityLevel::of(overall.max(fullest));
    }
    CapacityLevel::of(fullest).max(CapacityLevel::Danger)
}

/// Millionths; more than one where there is no room at all.
fn parts(needed: u64, total: u64) -> u64 {
    const MILLION: u128 = 1_000_000;
    match (needed, total) {
        (0, _) => 0,
        (_, 0) => CapacityReport::NO_ROOM_PPM,
        _ => u64::try_from(u128::from(needed) * MILLION / u128::from(total))
            .unwrap_or(u64::MAX)
            .min(CapacityReport::NO_ROOM_PPM),
    }
}

/// What would be without the node, or the zone, that has the most room.
fn largest_loss(
    disks: &[&DiskSpace],
    pools: &[PoolNeed],
    needed: u64,
    domain: impl Fn(&DiskSpace) -> String,
) -> Option<Loss> {
    let mut rooms: BTreeMap<String, u64> = BTreeMap::new();
    for disk in disks {
        *rooms.entry(domain(disk)).or_default() += disk.room();
    }
    let (name, _) = rooms.into_iter().max_by_key(|(name, room)| (*room, std::cmp::Reverse(name.clone())))?;
    let left: Vec<&DiskSpace> = disks.iter().copied().filter(|d| domain(d) != name).collect();
    let gone: u64 = disks.iter().filter(|d| domain(d) == name).map(|d| d.dead_bytes).sum();
    let total = usable(&left, pools);
    Some(Loss { name, ratio_ppm: parts(needed.saturating_sub(gone), total) })
}

/// Bytes that the disks can take of these pools: of each scheme's pieces no two on one node and no more in a zone than
/// the rule allows. With several pools, the least that any of them allows, since nobody knows which will grow.
fn usable(disks: &[&DiskSpace], pools: &[PoolNeed]) -> u64 {
    let mut zones: BTreeMap<&ZoneName, BTreeMap<&NodeName, u64>> = BTreeMap::new();
    for disk in disks {
        *zones.entry(&disk.zone).or_default().entry(&disk.node).or_default() += disk.room();
    }
    let raw = disks.iter().map(|d| d.room()).sum();
    let widths = pools.iter().map(|p| p.scheme.width());
    widths.map(|width| of_width(&zones, width)).min().unwrap_or(raw)
}

/// With `n` bytes in each of `width` slots, a node takes at most `n` and a zone `per_zone × n`. Both bounds grow slower than
/// what is asked for, so the largest `n` is found by halving.
fn of_width(zones: &BTreeMap<&ZoneName, BTreeMap<&NodeName, u64>>, width: usize) -> u64 {
    let per_zone = ZoneRule::new(width, zones.len()).per_zone as u128;
    let fits = |n: u128| {
        let of_zone = |nodes: &BTreeMap<&NodeName, u64>| {
            let nodes: u128 = nodes.values().map(|&room| u128::from(room).min(n)).sum();
            nodes.min(per_zone * n)
        };
        zones.values().map(of_zone).sum::<u128>() >= width as u128 * n
    };
    let (mut low, mut high) = (0u128, u128::from(u64::MAX));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    u64::try_from(low * width as u128).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
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
    fn the_fullest_disk_counts_and_so_do_dead_bytes_and_losses() {
        let mut four = disks(&[(1, 100, 90), (2, 100, 10), (3, 100, 10), (4, 200, 10)]);
        let report = capacity(&four, &[pool("2x", 60)]);
        assert_eq!((report.ratio_ppm, report.fullest_disk), (900_000, Some(DiskId(1))));
        assert_eq!(report.overall_ppm, 240_000);
        let node = report.without_largest_node.unwrap();
        assert_eq!((node.name.as_str(), node.ratio_ppm), ("data-4", 400_000));
        four[1].dead_bytes = 30;
        assert_eq!(capacity(&four, &[pool("2x", 60)]).overall_ppm, 300_000);
        four[3].counts = false;
        assert_eq!(capacity(&four, &[pool("2x", 60)]).total_bytes, 300);
    }

    proptest! {
        /// By hand: bytes one after another, each in slots on the emptiest nodes that the rule allows, or in the emptiest zones.
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
}
