//! Which slots go to which disks next: substitutes for what is lost, drains, breaches of the zone rule, balance.
//!
//! [`plan_repairs`] is a function of what is known now. It remembers nothing: a slot that is on its way already is part
//! of the snapshot, is not planned again, and takes its part of the budget. Order: what is lost before all else, then
//! margin, the expected time to loss, the reason, and size; so what the next loss would lose goes first, and a drain never before it.
//!
//! Deliberately absent: progress and retries (a disk fetches what it lacks by itself), and any word about when a disk
//! counts as down (the leader's heartbeats say).

mod even;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use wmall_proto::DiskId;
use wmall_proto::chunk::PieceState;
use wmall_proto::pg::{MAX_SOURCES, PgKey};

use crate::budget::{Budget, Part, fits};
use crate::halt::{Halt, suspect_together, vanished_together};
use crate::loads::Loads;
use crate::snapshot::{DiskFact, DiskState, GroupFact, SlotFact, Snapshot};
use crate::zone_rule::{Candidate, ZoneRule};

/// What an operator decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Disks that were found down within so many milliseconds of one another vanished together.
    pub together_ms: u64,
    /// Substitute even if too much vanished together.
    pub override_halt: bool,
}

/// Why a slot moves. The order is that of urgency among groups of one margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Reason {
    /// Its disk does not answer.
    Lost,
    /// Its zone has more of the row than the rule allows.
    ZoneRule,
    /// Its disk is to be emptied, or has no weight.
    Drain,
    /// Its disk has more than its share.
    Balance,
}

impl Reason {
    /// The word for events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::ZoneRule => "zone_rule",
            Self::Drain => "drain",
            Self::Balance => "balance",
        }
    }
}

/// A slot and its new disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMove {
    /// The group.
    pub group: PgKey,
    /// The slot.
    pub slot: u8,
    /// Its disk until now.
    pub from: DiskId,
    /// Its new one.
    pub to: DiskId,
    /// Version of the row that this was planned for.
    pub row_version: u64,
    /// Why.
    pub reason: Reason,
}

/// What to do, and what can't be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepairPlan {
    /// Slots to move now, the most urgent first.
    pub moves: Vec<PlannedMove>,
    /// Slots that should move and wait for others, by reason.
    pub waiting: BTreeMap<Reason, u64>,
    /// Slots that should move and for which there is no disk, by reason.
    pub stuck: BTreeMap<Reason, u64>,
    /// The same, by the disk that they are on.
    pub stuck_on: BTreeMap<DiskId, u64>,
    /// Why nothing is substituted, if so.
    pub halted: Option<Halt>,
}

impl RepairPlan {
    /// Whether nothing moves and nothing waits to.
    pub fn is_at_rest(&self) -> bool {
        self.moves.is_empty() && self.waiting.is_empty()
    }
}

/// A slot that should not stay where it is.
struct Want<'a> {
    /// Whether it can wait (what is not lost can), margin of its group, how many losses would be too many, then why, then
    /// how much.
    rank: (bool, usize, Reverse<u128>, Reason, Reverse<u64>),
    group: &'a GroupFact,
    slot: usize,
}

/// The next moves. Idempotent: once they are in the rows, the same facts lead to no further ones of the same slots.
pub fn plan_repairs(snapshot: &Snapshot, policy: &Policy, budget: &Budget) -> RepairPlan {
    let halted = vanished_together(snapshot, policy.together_ms).filter(|_| !policy.override_halt);
    if halted.is_some() {
        return RepairPlan { halted, ..RepairPlan::default() };
    }
    let hasty = !policy.override_halt && suspect_together(snapshot);
    let mut plan = RepairPlan::default();
    let mut planner = Planner { snapshot, policy, budget, hasty, loads: Loads::of(snapshot, budget) };
    let mut wants: Vec<Want<'_>> = snapshot.groups.iter().flat_map(|g| planner.wants(g)).collect();
    wants.sort_by_key(|w| (w.rank, w.group.key, w.slot));
    // One slot of a row at a time, even if several are lost: a row that changes twice at once has two versions to plan for.
    let mut touched: BTreeSet<PgKey> = BTreeSet::new();
    for want in wants {
        let reason = want.rank.3;
        if touched.contains(&want.group.key) {
            *plan.waiting.entry(reason).or_default() += 1;
            continue;
        }
        match planner.place(&want) {
            Placed::On(to) => {
                touched.insert(want.group.key);
                plan.moves.push(planner.charge(want.group, want.slot, to, reason));
            }
            Placed::Later => *plan.waiting.entry(reason).or_default() += 1,
            Placed::Nowhere => {
                *plan.stuck.entry(reason).or_default() += 1;
                *plan.stuck_on.entry(want.group.slots[want.slot].disk).or_default() += 1;
            }
        }
    }
    // Balance is for quiet times, and what a disk that was lost a moment ago had is about to move. But what waits while nothing
    // is on its way may do so for ever, and is no reason.
    let unsettled = |f: &DiskFact| f.state == DiskState::Down && planner.is_too_new(f);
    let is_quiet = plan.is_at_rest() || (plan.moves.is_empty() && !snapshot.is_anything_arriving());
    if is_quiet && !snapshot.disks.values().any(unsettled) {
        planner.balance(&mut plan.moves);
    }
    plan
}

/// Where a slot can go.
enum Placed {
    On(DiskId),
    /// There are disks, which have enough on their way.
    Later,
    Nowhere,
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    budget: &'a Budget,
    /// So much is suspect at once that it would be hasty to replace it without grace.
    hasty: bool,
    loads: Loads,
}

impl<'a> Planner<'a> {
    fn disk(&self, disk: DiskId) -> Option<&'a DiskFact> {
        self.snapshot.disks.get(&disk)
    }

    /// The slots of a group that should move.
    fn wants(&self, group: &'a GroupFact) -> Vec<Want<'a>> {
        let live = group.live();
        // Nothing can be made of what can't be read; but where nothing was ever stored, nothing has to be.
        if self.readable(group) < group.needed && group.slot_bytes > 0 {
            return Vec::new();
        }
        let margin = if group.slot_bytes > 0 { live.saturating_sub(group.needed) } else { group.slots.len() };
        let breach = self.breach(group);
        let reason = |slot: usize| {
            let fact = self.disk(group.slots[slot].disk);
            let state = fact.map_or(DiskState::Down, |f| f.state);
            match state {
                DiskState::Down if fact.is_some_and(|f| self.is_too_new(f)) => None,
                DiskState::Down => Some(Reason::Lost),
                // No grace where the next loss loses data. What is on its way to the disk would only begin anew.
                DiskState::Suspect if margin == 0 && !self.hasty && group.slots[slot].sources.is_empty() => {
                    Some(Reason::Lost)
                }
                DiskState::Up if !group.slots[slot].sources.is_empty() => {
                    // A disk that takes nothing more will not get what is on its way to it.
                    let full = fact.is_some_and(|f| f.free_bytes == 0) && group.slots[slot].arriving;
                    full.then_some(Reason::Drain)
                }
                DiskState::Up if fact.is_some_and(DiskFact::leaves) => Some(Reason::Drain),
                DiskState::Up if breach == Some(slot) => Some(Reason::ZoneRule),
                _ => None,
            }
        };
        let want = |slot: usize| {
            let reason = reason(slot)?;
            let hazard = Reverse(choose(live, margin + 1));
            let rank = (reason != Reason::Lost, margin, hazard, reason, Reverse(group.slot_bytes));
            Some(Want { rank, group, slot })
        };
        (0..group.slots.len()).filter_map(want).collect()
    }

    /// Slots that count, or that come from a disk which answers: one whose new disk died on the way counts no more, but what it had
    /// before is where it was.
    fn readable(&self, group: &GroupFact) -> usize {
        let answers = |disk: &DiskId| self.disk(*disk).is_some_and(|f| f.state == DiskState::Up);
        let is_readable = |s: &&SlotFact| s.piece == PieceState::Live || s.sources.iter().any(answers);
        group.slots.iter().filter(is_readable).count()
    }

    /// It was found down a moment ago: others may follow, and then it is no loss but a broken network.
    fn is_too_new(&self, fact: &DiskFact) -> bool {
        let now = self.snapshot.now_ms;
        let since = fact.down_since_ms.unwrap_or(now);
        // Noted by a leader whose clock was ahead, it is as old as anything.
        let is_new = since <= now && now < since.saturating_add(self.policy.together_ms);
        !self.policy.override_halt && is_new
    }

    /// A slot of a row that breaks the zone rule, and that it would keep without.
    fn breach(&self, group: &GroupFact) -> Option<usize> {
        let rule = ZoneRule::new(group.slots.len(), self.snapshot.zones);
        let row: Vec<&Candidate> =
            group.slots.iter().filter_map(|s| self.disk(s.disk)).map(|f| &f.candidate).collect();
        if row.len() < group.slots.len() || rule.keeps(&row) {
            return None;
        }
        (0..row.len()).rev().find(|&slot| !rule.allows(&without(&row, slot), row[slot]))
    }

    /// The best disk for a slot: least loaded by its weight, under the zone rule if that is possible at all.
    fn place(&self, want: &Want<'a>) -> Placed {
        let (group, reason) = (want.group, want.rank.3);
        let from = group.slots[want.slot].disk;
        let answers = self.disk(from).is_some_and(|f| f.state == DiskState::Up);
        if answers && !self.has_room_from(from, group.slot_bytes) {
            return Placed::Later;
        }
        // What may be where a slot comes from may also be nowhere, and then it is on its way for long.
        let part = if group.live() < group.needed { Part::Half } else { Part::of(reason, want.rank.1) };
        let others: Vec<&Candidate> = (0..group.slots.len())
            .filter(|&slot| slot != want.slot)
            .filter_map(|slot| self.disk(group.slots[slot].disk).map(|f| &f.candidate))
            .collect();
        // A disk that another slot comes from has pieces of the same chunks yet.
        let others_sources: BTreeSet<_> = (0..group.slots.len())
            .filter(|&slot| slot != want.slot)
            .flat_map(|slot| &group.slots[slot].sources)
            .filter_map(|source| self.disk(*source).map(|f| &f.candidate.node))
            .collect();
        let strict = ZoneRule::new(group.slots.len(), self.snapshot.zones);
        // Where it comes from as many disks as it may, it can only go back to one of them.
        let sources = &group.slots[want.slot].sources;
        let full = sources.len() >= MAX_SOURCES;
        let fits_at_all = |f: &DiskFact, rule: &ZoneRule| {
            f.takes()
                && f.candidate.disk != from
                && (!full || sources.contains(&f.candidate.disk))
                && self.loads.free(f.candidate.disk, reason) >= group.slot_bytes
                && rule.allows(&others, &f.candidate)
        };
        let is_source = |f: &DiskFact| others_sources.contains(&f.candidate.node);
        // A disk that is replaced goes to its successor, and elsewhere only where that can't take a row.
        let successor = self.disk(from).and_then(|f| f.successor).and_then(|disk| self.disk(disk));
        if let Some(successor) = successor.filter(|f| fits_at_all(f, &strict)) {
            let disk = successor.candidate.disk;
            let now = self.has_room_to(successor, group.slot_bytes, part) && !is_source(successor);
            return if now { Placed::On(disk) } else { Placed::Later };
        }
        // What is lost is worth more than the rule; nothing else is.
        let rules = [strict, ZoneRule { per_zone: usize::MAX }];
        let tries = if reason == Reason::Lost { 2 } else { 1 };
        for rule in &rules[..tries] {
            let fits = |f: &&DiskFact| fits_at_all(f, rule) && !is_source(f);
            let fitting: Vec<&DiskFact> = self.snapshot.disks.values().filter(fits).collect();
            let within = |f: &&&DiskFact| self.has_room_to(f, group.slot_bytes, part);
            // Where it can stay, if one of these has room on the way; but nothing waits for a disk that may never get on.
            let settled = |f: &DiskFact| !self.loads.lacks(group.key.0, f);
            let best = fitting
                .iter()
                .filter(within)
                .min_by(|a, b| settled(a).cmp(&settled(b)).then_with(|| self.loads.compare(group.key, a, b)));
            match best {
                Some(best) => return Placed::On(best.candidate.disk),
                None if !fitting.is_empty() => return Placed::Later,
                None => {}
            }
        }
        // A disk that another slot comes from is rid of pieces of these chunks in a while.
        let rule = &rules[tries - 1];
        if self.snapshot.disks.values().any(|f| fits_at_all(f, rule)) {
            Placed::Later
        } else {
            Placed::Nowhere
        }
    }

    /// Whether so much more may be on its way to a disk.
    fn has_room_to(&self, to: &DiskFact, bytes: u64, part: Part) -> bool {
        let Candidate { disk, node, .. } = &to.candidate;
        let more = |under_way: u64, all: u64| fits(under_way, bytes, part.take(all), all);
        let bytes_fit = || {
            more(self.loads.bytes_to(*disk), self.budget.disk_bytes)
                && more(self.loads.link_to(node), self.budget.link_bytes)
        };
        let slots_fit = (self.loads.to(*disk) as u64) < part.take(self.budget.to_disk as u64);
        slots_fit && (part != Part::Half || bytes_fit())
    }

    /// Whether so much more may be on its way from a disk.
    fn has_room_from(&self, from: DiskId, bytes: u64) -> bool {
        let more = |under_way: u64, all: u64| fits(under_way, bytes, all, all);
        let link = self.disk(from).map_or(0, |f| self.loads.link_from(&f.candidate.node));
        self.loads.from(from) < self.budget.from_disk
            && more(self.loads.bytes_from(from), self.budget.disk_bytes)
            && more(link, self.budget.link_bytes)
    }

    fn charge(&mut self, group: &GroupFact, slot: usize, to: DiskId, reason: Reason) -> PlannedMove {
        let from = group.slots[slot].disk;
        let answers = self.disk(from).is_some_and(|f| f.state == DiskState::Up);
        let node = |disk: DiskId| self.disk(disk).map(|f| f.candidate.node.clone());
        self.loads.moved(group, (from, answers.then(|| node(from)).flatten()), (to, node(to)));
        let (key, row_version) = (group.key, group.row_version);
        PlannedMove { group: key, slot: slot as u8, from, to, row_version, reason }
    }
}

/// In how many ways the next losses can be as many as lose data: what stands for the expected time to that, among groups of
/// one margin. Six shards with one to spare are nearer to it than two copies.
fn choose(n: usize, k: usize) -> u128 {
    (0..k).fold(1, |ways, i| ways * n.saturating_sub(i) as u128 / (i as u128 + 1))
}

fn without<'c>(row: &[&'c Candidate], slot: usize) -> Vec<&'c Candidate> {
    row.iter().enumerate().filter(|&(i, _)| i != slot).map(|(_, c)| *c).collect()
}

#[cfg(test)]
pub(crate) mod tests;
