//! The validator sets of the epochs that a replica can judge: the present one, some before it, and the next one once it is
//! known.

use std::collections::BTreeMap;

use crate::ids::Epoch;
use crate::validators::ValidatorSet;

/// Epochs that are remembered.
const KEPT: usize = 8;

/// The sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValidatorSets(BTreeMap<Epoch, ValidatorSet>);

impl ValidatorSets {
    /// Only this one.
    pub fn of(set: ValidatorSet) -> Self {
        Self(BTreeMap::from([(set.epoch(), set)]))
    }

    /// Adds one; the oldest go.
    pub fn insert(&mut self, set: ValidatorSet) {
        self.0.insert(set.epoch(), set);
        while self.0.len() > KEPT {
            self.0.pop_first();
        }
    }

    /// The set of an epoch, if it is known.
    pub fn get(&self, epoch: Epoch) -> Option<&ValidatorSet> {
        self.0.get(&epoch)
    }
}
