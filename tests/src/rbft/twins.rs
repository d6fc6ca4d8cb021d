//! Validators of which there are two: both do as they should, with one key, and each is heard by some of the others only
//! (Bano et al., "Twins: BFT Systems Made Robust", 2021). No lie that can be thought of is needed for what such a pair does:
//! it votes for two things, leads two views, forgets.

use std::collections::{BTreeMap, BTreeSet};

use super::dice::Dice;
use super::node::Node;
use super::report::Count;
use super::world::World;

/// The pairs of a world, and who hears whom.
#[derive(Debug, Clone, Default)]
pub(super) struct Twins {
    /// From the one that has the seat's number to the other.
    second: BTreeMap<usize, usize>,
    /// Nodes that the second ones hear and are heard by; all others belong to the first ones.
    audience: BTreeSet<usize>,
}

impl World {
    /// Adversaries become twins. Who hears which is drawn.
    pub(super) fn make_twins(&mut self, dice: &mut Dice) {
        let seats: Vec<usize> = std::mem::take(&mut self.adversaries).into_keys().collect();
        if seats.is_empty() {
            return;
        }
        for index in 0..self.nodes.len() {
            if !seats.contains(&index) && dice.one_in(2) {
                self.twins.audience.insert(index);
            }
        }
        for first in seats {
            let second = self.nodes.len();
            let (set, ledger) = &self.genesis;
            let mut twin = Node::new(second, self.nodes[first].seal, set, ledger.clone());
            twin.byzantine = true;
            self.nodes.push(twin);
            self.twins.second.insert(first, second);
            self.twins.audience.insert(second);
        }
    }

    /// Which node a message to a seat's first one goes to; none if these two do not hear each other.
    pub(super) fn audience(&mut self, from: usize, to: usize) -> Option<usize> {
        if self.twins.second.is_empty() {
            return Some(to);
        }
        let Twins { second, audience } = &self.twins;
        let is_twin = |n: usize| second.contains_key(&n) || second.values().any(|s| *s == n);
        let side = audience.contains(&from);
        if is_twin(from) {
            self.report[Count::Twins] += 1;
        }
        match second.get(&to) {
            Some(other) => Some(if side { *other } else { to }),
            None if is_twin(from) && audience.contains(&to) != side => None,
            None => Some(to),
        }
    }

    /// Some that heard the one hear the other from now on.
    pub(super) fn change_audience(&mut self, dice: &mut Dice) {
        let fixed: Vec<usize> = self.twins.second.iter().flat_map(|(a, b)| [*a, *b]).collect();
        for index in (0..self.nodes.len()).filter(|n| !fixed.contains(n)) {
            if dice.one_in(4) && !self.twins.audience.remove(&index) {
                self.twins.audience.insert(index);
            }
        }
    }

    /// Whether there are any.
    pub(super) fn has_twins(&self) -> bool {
        !self.twins.second.is_empty()
    }
}
