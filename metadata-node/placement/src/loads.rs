//! What disks have and what is on its way to and from them, with what a plan adds to it while it is made.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use wmall_proto::pg::PgKey;
use wmall_proto::{DiskId, NodeName, PoolId};

use crate::budget::{Budget, counted};
use crate::repair::Reason;
use crate::snapshot::{DiskFact, DiskState, GroupFact, Snapshot};

/// How far from its share a disk may be: a twentieth of it, or one group.
const TOLERANCE: u64 = 20;

/// The tally.
pub(crate) struct Loads {
    /// Slots of each pool on each disk.
    slots: BTreeMap<(PoolId, DiskId), u64>,
    /// Slots of each pool in all.
    pools: BTreeMap<PoolId, u64>,
    /// Weights of all disks that may have slots.
    weight: u64,
    to: BTreeMap<DiskId, usize>,
    from: BTreeMap<DiskId, usize>,
    budget: Budget,
    /// Bytes on their way to and from disks, and to and from nodes, as they count in the budget.
    bytes_to: BTreeMap<DiskId, u64>,
    bytes_from: BTreeMap<DiskId, u64>,
    link_to: BTreeMap<NodeName, u64>,
    link_from: BTreeMap<NodeName, u64>,
    free: BTreeMap<DiskId, u64>,
    /// The same for what is lost elsewhere.
    last: BTreeMap<DiskId, u64>,
}

impl Loads {
    pub(crate) fn of(snapshot: &Snapshot, budget: &Budget) -> Self {
        let shares = snapshot.disks.values().filter(|f| f.state != DiskState::Down && !f.draining);
        let mut loads = Self {
            slots: BTreeMap::new(),
            pools: BTreeMap::new(),
            weight: shares.map(|f| u64::from(f.candidate.weight)).sum(),
            to: BTreeMap::new(),
            from: BTreeMap::new(),
            budget: *budget,
            bytes_to: BTreeMap::new(),
            bytes_from: BTreeMap::new(),
            link_to: BTreeMap::new(),
            link_from: BTreeMap::new(),
            free: snapshot.disks.iter().map(|(disk, fact)| (*disk, fact.free_bytes)).collect(),
            last: snapshot.disks.iter().map(|(disk, fact)| (*disk, fact.last_bytes)).collect(),
        };
        for group in &snapshot.groups {
            for slot in &group.slots {
                *loads.slots.entry((group.key.0, slot.disk)).or_default() += 1;
                *loads.pools.entry(group.key.0).or_default() += 1;
                // One that only waits for a few tickets takes no part of the traffic.
                if let Some(source) = slot.sources.first().filter(|_| slot.arriving) {
                    // A disk that does not answer takes nothing of its node's link, whatever is to come from it or go there.
                    let up = |disk: &DiskId| snapshot.disks.get(disk).filter(|f| f.state == DiskState::Up);
                    let node = |disk: &DiskId| up(disk).map(|f| f.candidate.node.clone());
                    loads.go_to(slot.disk, node(&slot.disk), group.slot_bytes);
                    loads.go_from(*source, node(source), group.slot_bytes);
                }
            }
        }
        loads
    }

    fn go_to(&mut self, disk: DiskId, node: Option<NodeName>, bytes: u64) {
        *self.to.entry(disk).or_default() += 1;
        *self.bytes_to.entry(disk).or_default() += counted(bytes, self.budget.disk_bytes);
        let on_link = counted(bytes, self.budget.link_bytes);
        node.into_iter().for_each(|node| *self.link_to.entry(node).or_default() += on_link);
        // What is on its way has its room already.
        for room in [&mut self.free, &mut self.last] {
            room.entry(disk).and_modify(|free| *free = free.saturating_sub(bytes));
        }
    }

    fn go_from(&mut self, disk: DiskId, node: Option<NodeName>, bytes: u64) {
        *self.from.entry(disk).or_default() += 1;
        *self.bytes_from.entry(disk).or_default() += counted(bytes, self.budget.disk_bytes);
        let on_link = counted(bytes, self.budget.link_bytes);
        node.into_iter().for_each(|node| *self.link_from.entry(node).or_default() += on_link);
    }

    pub(crate) fn bytes_to(&self, disk: DiskId) -> u64 {
        self.bytes_to.get(&disk).copied().unwrap_or(0)
    }

    pub(crate) fn bytes_from(&self, disk: DiskId) -> u64 {
        self.bytes_from.get(&disk).copied().unwrap_or(0)
    }

    pub(crate) fn link_to(&self, node: &NodeName) -> u64 {
        self.link_to.get(node).copied().unwrap_or(0)
    }

    pub(crate) fn link_from(&self, node: &NodeName) -> u64 {
        self.link_from.get(node).copied().unwrap_or(0)
    }

    pub(crate) fn to(&self, disk: DiskId) -> usize {
        self.to.get(&disk).copied().unwrap_or(0)
    }

    pub(crate) fn from(&self, disk: DiskId) -> usize {
        self.from.get(&disk).copied().unwrap_or(0)
    }

    pub(crate) fn free(&self, disk: DiskId, reason: Reason) -> u64 {
        let room = if reason == Reason::Lost { &self.last } else { &self.free };
        room.get(&disk).copied().unwrap_or(0)
    }

    fn slots(&self, pool: PoolId, disk: DiskId) -> u64 {
        self.slots.get(&(pool, disk)).copied().unwrap_or(0)
    }

    /// A slot goes from one disk to another, each with its node. The first has none if it is no part of the traffic.
    pub(crate) fn moved(
        &mut self,
        group: &GroupFact,
        (from, from_node): (DiskId, Option<NodeName>),
        (to, to_node): (DiskId, Option<NodeName>),
    ) {
        let pool = group.key.0;
        self.slots.entry((pool, from)).and_modify(|n| *n = n.saturating_sub(1));
        *self.slots.entry((pool, to)).or_default() += 1;
        self.go_to(to, to_node, group.slot_bytes);
        if from_node.is_some() {
            self.go_from(from, from_node, group.slot_bytes);
        }
    }

    /// The disk that has less of the pool for its weight comes first; among equals, a hash decides.
    pub(crate) fn compare(&self, group: PgKey, a: &DiskFact, b: &DiskFact) -> Ordering {
        let load = |x: &DiskFact, y: &DiskFact| {
            u128::from(self.slots(group.0, x.candidate.disk)) * u128::from(y.candidate.weight)
        };
        let tie = |f: &DiskFact| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"wmall.substitute.v1");
            hasher.update(&group.0.0.to_le_bytes());
            hasher.update(&group.1.0.to_le_bytes());
            hasher.update(&f.candidate.disk.0.to_le_bytes());
            *hasher.finalize().as_bytes()
        };
        load(a, b).cmp(&load(b, a)).then_with(|| tie(a).cmp(&tie(b)))
    }

    /// Whether any disk is off by more than is allowed, in any pool: else there is nothing to balance.
    pub(crate) fn is_uneven<'a>(&self, disks: impl Iterator<Item = &'a DiskFact>) -> bool {
        let pools: Vec<PoolId> = self.pools.keys().copied().collect();
        let mut disks = disks.filter(|f| f.state != DiskState::Down && !f.draining);
        disks.any(|f| pools.iter().any(|&pool| self.excess(pool, f).abs() > self.allowed(pool, f)))
    }

    /// How many slots of the pool a disk should have, in parts of one slot: as many parts as there is weight, so that
    /// nothing is rounded.
    fn share(&self, pool: PoolId, disk: &DiskFact) -> i128 {
        let counts = disk.state != DiskState::Down && !disk.draining;
        let total = i128::from(self.pools.get(&pool).copied().unwrap_or(0));
        if counts { total * i128::from(disk.candidate.weight) } else { 0 }
    }

    /// What a disk has above that.
    fn excess(&self, pool: PoolId, disk: &DiskFact) -> i128 {
        let weight = i128::from(self.weight.max(1));
        i128::from(self.slots(pool, disk.candidate.disk)) * weight - self.share(pool, disk)
    }

    /// Whether it has less than its share.
    pub(crate) fn lacks(&self, pool: PoolId, disk: &DiskFact) -> bool {
        self.excess(pool, disk) < 0
    }

    fn allowed(&self, pool: PoolId, disk: &DiskFact) -> i128 {
        (self.share(pool, disk) / i128::from(TOLERANCE)).max(i128::from(self.weight.max(1)))
    }

    /// Whether one disk has more of the pool than its share and the other less, by more than half a slot each: the first never
    /// takes that back, and the second never gives it away; and whether one of them is off by more than is allowed.
    pub(crate) fn is_direct(&self, pool: PoolId, from: &DiskFact, to: &DiskFact) -> bool {
        let slot = i128::from(self.weight.max(1));
        2 * self.excess(pool, from) > slot
            && -2 * self.excess(pool, to) > slot
            && self.evens_out(pool, from, to)
    }

    /// Whether moving a slot of the pool brings both disks nearer to their shares, and one of them was off by more than
    /// is allowed.
    pub(crate) fn evens_out(&self, pool: PoolId, from: &DiskFact, to: &DiskFact) -> bool {
        let (above, below) = (self.excess(pool, from), self.excess(pool, to));
        let off = above > self.allowed(pool, from) || -below > self.allowed(pool, to);
        above - below > i128::from(self.weight.max(1)) && off
    }
}
