//! Who says that it has which batch on disk; also of batches that have not come here.
//!
//! Owned by the batches. Of each seat so many are remembered, the newest.

use std::collections::BTreeMap;

use crate::ids::{Digest, Seat};

/// All reports.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// Who has what, and when in the order of all reports it said so.
    of_batch: BTreeMap<Digest, BTreeMap<Seat, u64>>,
    /// Per seat, what it has, in that order.
    of_seat: BTreeMap<Seat, BTreeMap<u64, Digest>>,
    /// Reports that there have been.
    count: u64,
}

impl Reports {
    /// A seat says that it has one: what it says again is new. Returns how many have it now.
    pub(crate) fn add(&mut self, seat: Seat, digest: Digest) -> usize {
        self.count += 1;
        let own = self.of_seat.entry(seat).or_default();
        let seats = self.of_batch.entry(digest).or_default();
        if let Some(before) = seats.insert(seat, self.count) {
            own.remove(&before);
        }
        own.insert(self.count, digest);
        seats.len()
    }

    /// Leaves a seat so many; returns of what it is forgotten now that this one has it.
    pub(crate) fn trim(&mut self, seat: Seat, limit: usize) -> Vec<Digest> {
        let Some(own) = self.of_seat.get_mut(&seat) else { return Vec::new() };
        let many = own.len().saturating_sub(limit);
        let oldest = std::iter::from_fn(|| own.pop_first());
        let oldest: Vec<Digest> = oldest.take(many).map(|(_, digest)| digest).collect();
        for digest in &oldest {
            if let Some(seats) = self.of_batch.get_mut(digest) {
                seats.remove(&seat);
                if seats.is_empty() {
                    self.of_batch.remove(digest);
                }
            }
        }
        oldest
    }

    /// Nobody cares any more who has it.
    pub(crate) fn forget(&mut self, digest: &Digest) {
        for (seat, order) in self.of_batch.remove(digest).unwrap_or_default() {
            if let Some(own) = self.of_seat.get_mut(&seat) {
                own.remove(&order);
            }
        }
    }

    /// How many have it.
    pub(crate) fn count(&self, digest: &Digest) -> usize {
        self.of_batch.get(digest).map_or(0, BTreeMap::len)
    }

    /// Who has it.
    pub(crate) fn seats(&self, digest: &Digest) -> impl Iterator<Item = Seat> + '_ {
        self.of_batch.get(digest).into_iter().flat_map(BTreeMap::keys).copied()
    }

    /// Seats are others now.
    pub(crate) fn clear(&mut self) {
        self.of_batch.clear();
        self.of_seat.clear();
    }

    /// Entries, for the bound on memory.
    pub(crate) fn size(&self) -> usize {
        let all: usize = self.of_seat.values().map(BTreeMap::len).sum();
        all.max(self.of_batch.len())
    }

    /// What is remembered of a seat's.
    #[cfg(feature = "testing")]
    pub(crate) fn of(&self, seat: Seat) -> usize {
        self.of_seat.get(&seat).map_or(0, BTreeMap::len)
    }

    /// Looks whether both sides say the same.
    #[cfg(feature = "testing")]
    pub(crate) fn recount(&self) -> Result<(), String> {
        let by_batch = self
            .of_batch
            .iter()
            .flat_map(|(digest, seats)| seats.iter().map(move |(seat, order)| (*seat, *order, *digest)));
        let by_seat = self
            .of_seat
            .iter()
            .flat_map(|(seat, own)| own.iter().map(move |(order, digest)| (*seat, *order, *digest)));
        let mut by_batch: Vec<_> = by_batch.collect();
        by_batch.sort_unstable();
        if by_batch.iter().copied().eq(by_seat) {
            Ok(())
        } else {
            Err(format!("of reports {self:?} is kept"))
        }
    }
}
