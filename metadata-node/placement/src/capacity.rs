//! The completeness ratio: bytes needed to hold everything at full redundancy, over what the zone rule lets
//! the disks take.
//!
//! It is the larger of two: that ratio by the records of what is stored, and the same by the words of the
//! disks. Dead bytes count until they are compacted. A node's word counts up to its part of what can be used
//! and no further, so it moves the ratio by its share at most. Where a scheme needs every node there is, one
//! that has no room stops no more than one that is gone. A disk that is full refuses by itself.

use std::collections::{BTreeMap, BTreeSet};

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
    /// The most bytes it can have.
    pub max_bytes: u64,
    /// Of these, what is kept for compaction.
    pub reserved_bytes: u64,
    /// Bytes in use: pieces, and dead records that are not compacted yet.
    pub used_bytes: u64,
    /// Of these, bytes of records that nobody wants.
    pub dead_bytes: u64,
    /// True if it counts: it answers, works, is not being emptied, and has slots.
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

/// Bytes of the live pieces that these pools need at full redundancy.
fn live_bytes(pools: &[PoolNeed]) -> u64 {
    pools.iter().map(|p| p.scheme.stored_bytes(p.bytes)).fold(0, u64::saturating_add)
}

/// What these disks need over what they can take, in millionths, by the records alone.
pub(crate) fn overall_ppm(counting: &[&DiskSpace], pools: &[PoolNeed]) -> u64 {
    let room = Room::of(counting, pools);
    let dead = room.counted(counting, |d| d.dead_bytes);
    parts(live_bytes(pools).saturating_add(dead), room.total_bytes)
}

/// The report of now.
pub fn capacity(disks: &[DiskSpace], pools: &[PoolNeed]) -> CapacityReport {
    let counting: Vec<&DiskSpace> = disks.iter().filter(|d| d.counts).collect();
    let room = Room::of(&counting, pools);
    let dead_bytes = room.counted(&counting, |d| d.dead_bytes);
    let needed_bytes = live_bytes(pools).saturating_add(dead_bytes);
    let fill = |d: &&DiskSpace| parts(d.used_bytes, d.room());
    let fullest = counting.iter().copied().max_by_key(|d| (fill(d), d.disk));
    let overall = parts(needed_bytes, room.total_bytes);
    let held = match room.total_bytes {
        0 => held_of(&counting),
        total => parts(room.counted(&counting, |d| d.used_bytes), total),
    };
    CapacityReport {
        ratio_ppm: overall.max(held),
        overall_ppm: overall,
        held_ppm: held,
        fullest_ppm: fullest.map_or(0, |d| fill(&d)),
        fullest_disk: fullest.map(|d| d.disk),
        level: level_of(&counting, pools, overall, held),
        needed_bytes,
        dead_bytes,
        total_bytes: room.total_bytes,
        raw_bytes: counting.iter().map(|d| d.max_bytes).fold(0, u64::saturating_add),
        without_largest_node: largest_loss(&counting, pools, needed_bytes, |d| d.node.to_string()),
        without_largest_zone: largest_loss(&counting, pools, needed_bytes, |d| d.zone.to_string()),
    }
}

/// Where a scheme does not fit on the nodes that are up, that is urgent, and no reason to stop writes: they
/// go on by quorum.
fn level(overall: u64, held: u64) -> CapacityLevel {
    if overall < CapacityReport::NO_ROOM_PPM {
        return CapacityLevel::of(overall.max(held));
    }
    CapacityLevel::of(held).max(CapacityLevel::Danger)
}

/// The level, or the lower one that there would be without a node that a scheme needs: a node that has little
/// room, or says so, stops no more than one that is gone.
fn level_of(disks: &[&DiskSpace], pools: &[PoolNeed], overall: u64, held: u64) -> CapacityLevel {
    let all = level(overall, held);
    if all < CapacityLevel::WritesStopped {
        return all;
    }
    let mut zones = rooms(disks);
    let nodes: BTreeSet<(&ZoneName, &NodeName)> = disks.iter().map(|d| (&d.zone, &d.node)).collect();
    let mut least = all;
    for (zone, node) in nodes {
        // Take the node out for a moment: to make the map anew for each would take the square of their
        // number.
        let Some(of_zone) = zones.get_mut(zone) else { continue };
        let Some(room) = of_zone.remove(node) else { continue };
        if of_zone.is_empty() {
            zones.remove(zone);
        }
        let fits = pools.iter().all(|p| fits(&zones, p.scheme.width(), 1));
        zones.entry(zone).or_default().insert(node, room);
        let left: Vec<&DiskSpace> = match fits {
            true => continue,
            false => disks.iter().copied().filter(|d| d.node != *node).collect(),
        };
        if !left.is_empty() {
            least = least.min(level(CapacityReport::NO_ROOM_PPM, held_of(&left)));
        }
    }
    least
}

/// How full these disks say they are, all together and whatever the rule.
fn held_of(disks: &[&DiskSpace]) -> u64 {
    let room = disks.iter().map(|d| d.room()).fold(0, u64::saturating_add);
    let held = disks.iter().map(|d| d.used_bytes.min(d.room())).fold(0, u64::saturating_add);
    parts(held, room)
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
        let room = rooms.entry(domain(disk)).or_default();
        *room = room.saturating_add(disk.room());
    }
    let (name, _) = rooms.into_iter().max_by_key(|(name, room)| (*room, std::cmp::Reverse(name.clone())))?;
    let left: Vec<&DiskSpace> = disks.iter().copied().filter(|d| domain(d) != name).collect();
    let gone: Vec<&DiskSpace> = disks.iter().copied().filter(|d| domain(d) == name).collect();
    let dead = Room::of(disks, pools).counted(&gone, |d| d.dead_bytes);
    let total = Room::of(&left, pools).total_bytes;
    Some(Loss { name, ratio_ppm: parts(needed.saturating_sub(dead), total) })
}

/// Bytes of the disks, by zone and node.
type Rooms<'a> = BTreeMap<&'a ZoneName, BTreeMap<&'a NodeName, u64>>;

fn rooms<'a>(disks: &[&'a DiskSpace]) -> Rooms<'a> {
    let mut zones = Rooms::new();
    for disk in disks {
        let node = zones.entry(&disk.zone).or_default().entry(&disk.node).or_default();
        *node = node.saturating_add(disk.room());
    }
    zones
}

/// Bytes that the disks can take of these pools: of each scheme's pieces no two on one node and no more in a
/// zone than the rule allows. With several pools, the least that any of them allows, since nobody knows which
/// will grow.
struct Room<'a> {
    zones: Rooms<'a>,
    total_bytes: u64,
    /// The most that a node and a zone can have of that.
    of_node: u128,
    of_zone: u128,
}

impl<'a> Room<'a> {
    fn of(disks: &[&'a DiskSpace], pools: &[PoolNeed]) -> Self {
        let zones = rooms(disks);
        let width = |p: &PoolNeed| (of_width(&zones, p.scheme.width()), p.scheme.width());
        match pools.iter().map(width).min_by_key(|&(n, width)| (n * width as u128, width)) {
            None => {
                let total_bytes = disks.iter().map(|d| d.room()).fold(0, u64::saturating_add);
                Self { zones, total_bytes, of_node: u128::MAX, of_zone: u128::MAX }
            }
            Some((n, width)) => {
                let of_zone = ZoneRule::new(width, zones.len()).per_zone as u128 * n;
                let total_bytes = u64::try_from(n * width as u128).unwrap_or(u64::MAX);
                Self { zones, total_bytes, of_node: n, of_zone }
            }
        }
    }

    /// Adds up what disks say: of each node and zone no more than its part of what can be used.
    fn counted(&self, disks: &[&DiskSpace], said: impl Fn(&DiskSpace) -> u64) -> u64 {
        let mut sums: BTreeMap<&ZoneName, BTreeMap<&NodeName, u64>> = BTreeMap::new();
        for disk in disks {
            let sum = sums.entry(&disk.zone).or_default().entry(&disk.node).or_default();
            *sum = sum.saturating_add(said(disk).min(disk.room()));
        }
        let of_zone = |(zone, nodes): (&&ZoneName, &BTreeMap<&NodeName, u64>)| {
            let has = |node: &NodeName| self.zones.get(*zone).and_then(|z| z.get(node)).copied().unwrap_or(0);
            let nodes = nodes.iter().map(|(node, &sum)| u128::from(sum.min(has(node))).min(self.of_node));
            nodes.sum::<u128>().min(self.of_zone)
        };
        u64::try_from(sums.iter().map(of_zone).sum::<u128>()).unwrap_or(u64::MAX)
    }
}

/// With `n` bytes in each of `width` slots, a node takes at most `n` and a zone `per_zone × n`. Both bounds
/// grow slower than what is asked for, so the largest `n` is found by halving.
fn of_width(zones: &Rooms<'_>, width: usize) -> u128 {
    let (mut low, mut high) = (0u128, u128::from(u64::MAX));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(zones, width, middle) { low = middle } else { high = middle - 1 }
    }
    low
}

/// True if there is room for `n` bytes in each of `width` slots.
fn fits(zones: &Rooms<'_>, width: usize, n: u128) -> bool {
    let per_zone = ZoneRule::new(width, zones.len()).per_zone as u128;
    let of_zone = |nodes: &BTreeMap<&NodeName, u64>| {
        let nodes: u128 = nodes.values().map(|&room| u128::from(room).min(n)).sum();
        nodes.min(per_zone * n)
    };
    zones.values().map(of_zone).sum::<u128>() >= width as u128 * n
}

#[cfg(test)]
mod tests;
