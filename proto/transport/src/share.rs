//! Admission by holder: how much of a bounded thing one holder may have, whatever it asks for.
//!
//! [`Bounds`] and [`Ledger`] are functions of values. [`Room`] is a ledger that many tasks share, and a
//! [`Place`] gives back what it took when it goes. Deliberately absent: queues in an order. Who waits tries
//! again whenever something is given back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// The bounds of a thing that holders share: connections, calls, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// All that may be taken by everybody together, but for the reserve.
    pub room: u64,
    /// Upper bound for one holder.
    pub most: u64,
    /// Part of `room` that a holder may use only up to `first`: those who have much leave it to those who
    /// begin.
    pub kept: u64,
    /// Upper end of the part that a holder may take from what is kept.
    pub first: u64,
    /// On top of `room`, for the cluster's own nodes and for operators.
    pub reserve: u64,
}

/// Amounts that are taken at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// By this holder, of room and reserve together.
    pub own: u64,
    /// Of the room, by everybody.
    pub room: u64,
    /// Of the reserve, by everybody.
    pub reserve: u64,
}

/// The part that is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The part that everybody shares.
    Room,
    /// The part for nodes and operators.
    Reserve,
}

/// Why nothing is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The holder has as much as one may have.
    Own,
    /// All is taken, or all but what is kept for others.
    All,
}

impl Bounds {
    /// Judges if a holder may have so much more, and of which part. A node or an operator draws from the
    /// reserve once the room is full.
    pub fn admit(&self, standing: Standing, privileged: bool, amount: u64) -> Result<Part, Refusal> {
        let own = standing.own.saturating_add(amount);
        if own > self.most {
            return Err(Refusal::Own);
        }
        let open = if own <= self.first { self.room } else { self.room.saturating_sub(self.kept) };
        if standing.room.saturating_add(amount) <= open {
            return Ok(Part::Room);
        }
        if privileged && standing.reserve.saturating_add(amount) <= self.reserve {
            return Ok(Part::Reserve);
        }
        Err(Refusal::All)
    }
}

/// Amounts that somebody took, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Of the room.
    pub room: u64,
    /// Of the reserve.
    pub reserve: u64,
}

impl Taken {
    fn total(self) -> u64 {
        self.room.saturating_add(self.reserve)
    }
}

/// Amounts by holder.
#[derive(Debug)]
pub struct Ledger<K> {
    bounds: Bounds,
    all: Taken,
    /// Bounded by `room` and `reserve`: a holder that has nothing is not in it.
    holders: BTreeMap<K, u64>,
}

impl<K: Ord + Clone> Ledger<K> {
    /// Nothing is taken yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, all: Taken::default(), holders: BTreeMap::new() }
    }

    /// Counts what is taken now.
    pub fn standing(&self, who: &K) -> Standing {
        let own = self.holders.get(who).copied().unwrap_or(0);
        Standing { own, room: self.all.room, reserve: self.all.reserve }
    }

    /// Takes so much for a holder, or nothing.
    pub fn take(&mut self, who: &K, privileged: bool, amount: u64) -> Result<Taken, Refusal> {
        let taken = match self.bounds.admit(self.standing(who), privileged, amount)? {
            Part::Room => Taken { room: amount, reserve: 0 },
            Part::Reserve => Taken { room: 0, reserve: amount },
        };
        self.note(who, taken);
        Ok(taken)
    }

    /// Takes so much of the room whatever the bounds say: for what must end so that others can go on.
    pub fn force(&mut self, who: &K, amount: u64) -> Taken {
        let taken = Taken { room: amount, reserve: 0 };
        self.note(who, taken);
        taken
    }

    fn note(&mut self, who: &K, taken: Taken) {
        self.all.room = self.all.room.saturating_add(taken.room);
        self.all.reserve = self.all.reserve.saturating_add(taken.reserve);
        if taken.total() > 0 {
            *self.holders.entry(who.clone()).or_insert(0) += taken.total();
        }
    }

    /// Gives back what was taken.
    pub fn give(&mut self, who: &K, taken: Taken) {
        self.all.room = self.all.room.saturating_sub(taken.room);
        self.all.reserve = self.all.reserve.saturating_sub(taken.reserve);
        if let Some(own) = self.holders.get_mut(who) {
            *own = own.saturating_sub(taken.total());
            if *own == 0 {
                self.holders.remove(who);
            }
        }
    }
}

struct Shared<K> {
    ledger: Mutex<Ledger<K>>,
    given: Notify,
}

impl<K> Shared<K> {
    fn ledger(&self) -> MutexGuard<'_, Ledger<K>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ledger that tasks share.
pub struct Room<K>(Arc<Shared<K>>);

impl<K> Clone for Room<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord + Clone> Room<K> {
    /// Nothing is taken yet.
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Shared { ledger: Mutex::new(Ledger::new(bounds)), given: Notify::new() }))
    }

    /// A place of a holder that is empty as yet.
    pub fn place(&self, who: K, privileged: bool) -> Place<K> {
        Place { shared: self.0.clone(), who, privileged, taken: Mutex::default() }
    }

    /// A place of so much, if there is room.
    pub fn try_take(&self, who: K, privileged: bool, amount: u64) -> Result<Place<K>, Refusal> {
        let place = self.place(who, privileged);
        place.grow(amount).map(|()| place)
    }

    /// Takes a place, and waits for others to give back, no longer than that.
    pub async fn take(
        &self,
        who: K,
        privileged: bool,
        amount: u64,
        limit: Duration,
    ) -> Result<Place<K>, Refusal> {
        let place = self.place(who, privileged);
        let growing = async {
            loop {
                let given = self.given();
                tokio::pin!(given);
                // Listening first: what is given back between the try and the wait is not missed.
                given.as_mut().enable();
                if place.grow(amount).is_ok() {
                    return;
                }
                given.await;
            }
        };
        match tokio::time::timeout(limit, growing).await {
            Ok(()) => Ok(place),
            Err(_) => Err(place.grow(amount).err().unwrap_or(Refusal::All)),
        }
    }

    /// Ends when something is given back.
    pub fn given(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.given.notified()
    }

    /// Counts what is taken now.
    pub fn standing(&self, who: &K) -> Standing {
        self.0.ledger().standing(who)
    }
}

/// A holder's part of a room, until it is dropped.
pub struct Place<K: Ord + Clone> {
    shared: Arc<Shared<K>>,
    who: K,
    privileged: bool,
    taken: Mutex<Taken>,
}

impl<K: Ord + Clone> Place<K> {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so much more.
    pub fn grow(&self, amount: u64) -> Result<(), Refusal> {
        let more = self.shared.ledger().take(&self.who, self.privileged, amount)?;
        self.add(more);
        Ok(())
    }

    /// Takes so much more whatever the bounds say.
    pub fn force(&self, amount: u64) {
        let more = self.shared.ledger().force(&self.who, amount);
        self.add(more);
    }

    fn add(&self, more: Taken) {
        let mut taken = self.taken();
        taken.room += more.room;
        taken.reserve += more.reserve;
    }

    /// How much it is.
    pub fn size(&self) -> u64 {
        self.taken().total()
    }
}

impl<K: Ord + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let taken = *self.taken();
        if taken.total() > 0 {
            self.shared.ledger().give(&self.who, taken);
            self.shared.given.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { room: 100, most: 60, kept: 30, first: 10, reserve: 20 };

    fn admit(own: u64, room: u64, reserve: u64, privileged: bool, amount: u64) -> Result<Part, Refusal> {
        BOUNDS.admit(Standing { own, room, reserve }, privileged, amount)
    }

    #[test]
    fn admission_by_exact_numbers() {
        assert_eq!(admit(0, 0, 0, false, 60), Ok(Part::Room));
        assert_eq!(admit(0, 0, 0, false, 61), Err(Refusal::Own));
        assert_eq!(admit(50, 70, 0, false, 10), Err(Refusal::All), "what is kept is for those who begin");
        assert_eq!(admit(50, 60, 0, false, 10), Ok(Part::Room));
        assert_eq!(admit(0, 70, 0, false, 10), Ok(Part::Room), "the first ten are free");
        assert_eq!(admit(0, 70, 0, false, 11), Err(Refusal::All));
        assert_eq!(admit(5, 96, 0, false, 5), Err(Refusal::All));
        assert_eq!(admit(5, 96, 0, true, 5), Ok(Part::Reserve));
        assert_eq!(admit(5, 95, 0, true, 5), Ok(Part::Room), "the reserve comes last");
        assert_eq!(admit(0, 100, 16, true, 5), Err(Refusal::All));
        assert_eq!(admit(58, 0, 0, true, 5), Err(Refusal::Own), "for everybody");
        assert_eq!(admit(u64::MAX, 0, 0, true, u64::MAX), Err(Refusal::Own));
    }

    proptest! {
        /// Others may do anything: the first of a holder who has nothing and the reserve stay free, as long
        /// as fewer of the others are in the kept part than it has places for.
        #[test]
        fn nobody_takes_another_ones_first_or_the_reserve(
            acts in proptest::collection::vec((0u8..2, 1u64..70, any::<bool>()), 1..200),
        ) {
            let mut ledger = Ledger::new(BOUNDS);
            let mut taken: Vec<(u8, Taken)> = Vec::new();
            for (who, amount, gives) in acts {
                if gives && !taken.is_empty() {
                    let (who, back) = taken.swap_remove(amount as usize % taken.len());
                    ledger.give(&who, back);
                } else if let Ok(new) = ledger.take(&who, false, amount) {
                    taken.push((who, new));
                }
                let sum = |of: u8| taken.iter().filter(|(w, _)| *w == of).map(|(_, t)| t.total()).sum::<u64>();
                for who in 0..2 {
                    prop_assert_eq!(ledger.standing(&who).own, sum(who));
                    prop_assert!(sum(who) <= BOUNDS.most);
                }
                prop_assert_eq!(ledger.standing(&9).reserve, 0);
                prop_assert!(BOUNDS.admit(ledger.standing(&9), false, BOUNDS.first).is_ok());
                prop_assert!(BOUNDS.admit(ledger.standing(&9), true, BOUNDS.reserve).is_ok());
            }
            for (who, back) in taken {
                ledger.give(&who, back);
            }
            prop_assert_eq!(ledger.standing(&0), Standing::default());
            prop_assert!(ledger.holders.is_empty());
        }
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_given_back() {
        let room = Room::new(BOUNDS);
        let first = room.try_take("a", false, 40).unwrap();
        let second = room.try_take("b", false, 30).unwrap();
        assert_eq!(second.grow(1), Err(Refusal::All));
        let limit = Duration::from_secs(10);
        let (taken, ()) = tokio::join!(room.take("b", false, 20, limit), async move { drop(first) });
        assert_eq!((taken.unwrap().size(), second.size()), (20, 30));
        assert_eq!(room.standing(&"b"), Standing { own: 30, room: 30, reserve: 0 }, "and gives it back");
        let never = room.take("b", false, 31, Duration::from_millis(1)).await;
        assert_eq!(never.err(), Some(Refusal::Own));
        second.force(200);
        assert_eq!(room.standing(&"c").room, 230);
        drop(second);
        assert_eq!(room.standing(&"c"), Standing::default());
    }
}
