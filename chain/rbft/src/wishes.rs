//! The newest wish of each seat for another view, and the batches that the view which is waited for may bring.
//!
//! Owned by the core. What may be brought is told without a look at all wishes: each may prove a window full of proposals, and
//! every batch that comes asks.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Digest, Seat, View};
use crate::message::ViewChange;

/// The wishes.
#[derive(Debug)]
pub(crate) struct Wishes {
    of: BTreeMap<Seat, ViewChange>,
    /// What is waited for.
    view: View,
    /// Batches of what wishes for that view have proven. Perhaps some of what newer wishes have left out.
    brings: BTreeSet<Digest>,
}

impl Wishes {
    /// None yet.
    pub(crate) fn new(view: View) -> Self {
        Self { of: BTreeMap::new(), view, brings: BTreeSet::new() }
    }

    pub(crate) fn get(&self, seat: Seat) -> Option<&ViewChange> {
        self.of.get(&seat)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &ViewChange> {
        self.of.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.of.len()
    }

    /// A wish, in place of the one before.
    pub(crate) fn insert(&mut self, change: ViewChange) {
        if change.view == self.view {
            self.brings.extend(batches(&change));
        }
        self.of.insert(change.seat, change);
    }

    /// It is this view now that is waited for.
    pub(crate) fn turn_to(&mut self, view: View) {
        self.view = view;
        self.brings = self.of.values().filter(|change| change.view == view).flat_map(batches).collect();
    }

    /// A view has begun: wishes up to it are over.
    pub(crate) fn begun(&mut self, view: View) {
        self.of.retain(|_, change| change.view > view);
        self.brings.clear();
    }

    /// Whether the view that is waited for may bring a batch.
    pub(crate) fn bring(&self, batch: &Digest) -> bool {
        self.brings.contains(batch)
    }
}

fn batches(change: &ViewChange) -> impl Iterator<Item = Digest> {
    change.prepared.iter().flat_map(|prepared| &prepared.proposal.batches).copied()
}
