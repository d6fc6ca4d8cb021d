//! A batch that is held, and the tables that say without a look at all of them: what is open on an account, what may be
//! proposed, what has waited too long, what is over.
//!
//! The tables follow from the batches: [`Tables::moved`] is told what a batch was and what it is, and nothing else writes them.

use std::collections::BTreeMap;

use crate::ids::{Digest, Sequence, Time};
use crate::signature::PublicKey;

/// How long a batch has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It is the primary's turn.
    Fresh,
    /// It was forwarded, behind others of its account.
    Forwarded,
    /// It was forwarded, as the first of its account: a primary that takes from each account in turn comes to it next.
    First,
}

/// On whose account a batch is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Account {
    /// It is from this one, who made it.
    Made(PublicKey),
    /// It is from this one, who had it from somebody else.
    Forwarded(PublicKey),
    /// It was here at the start.
    Found,
    /// It was taken only because somebody proposed it.
    Lent,
}

/// A batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) account: Account,
    /// Its place in the order in which they came, of all of them; another one if its account changes.
    pub(crate) turn: u64,
    pub(crate) stored: bool,
    pub(crate) waiting: Waiting,
    /// Since when it waits, in whoever's turn.
    pub(crate) since: Time,
    pub(crate) deadline: Time,
    /// While it waits: whether enough have it, and it is not proposed.
    pub(crate) free: bool,
    /// Where it was committed.
    pub(crate) done: Option<Sequence>,
}

impl Held {
    /// A new one.
    pub(crate) fn new(account: Account, turn: u64) -> Self {
        let (waiting, never) = (Waiting::Fresh, Time(u64::MAX));
        let (stored, free, done) = (false, false, None);
        Self { account, turn, stored, waiting, since: never, deadline: never, free, done }
    }

    /// Whether it is on disk, and not committed.
    pub(crate) fn waits(&self) -> bool {
        self.stored && self.done.is_none()
    }

    fn open(&self) -> Option<Place> {
        self.done.is_none().then_some((self.account, self.turn))
    }

    fn ready(&self) -> Option<Place> {
        (self.waits() && self.free).then_some((self.account, self.turn))
    }

    fn due(&self) -> Option<(Time, u64)> {
        self.waits().then_some((self.deadline, self.turn))
    }

    fn over(&self) -> Option<(Sequence, u64)> {
        self.done.map(|done| (done, self.turn))
    }
}

/// An account and a place on it.
type Place = (Account, u64);

/// Some of them, per account in the order in which they came. Empty ones are not kept.
pub(crate) type Turns = BTreeMap<Account, BTreeMap<u64, Digest>>;

/// The tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    /// What is not committed.
    pub(crate) open: Turns,
    /// Of that, what may be proposed.
    pub(crate) ready: Turns,
    /// When those that wait will have waited too long.
    pub(crate) due: BTreeMap<(Time, u64), Digest>,
    /// Where those that are done were committed.
    pub(crate) over: BTreeMap<(Sequence, u64), Digest>,
}

impl Tables {
    /// A batch was this and is that, if it was here before and is here now.
    pub(crate) fn moved(&mut self, digest: Digest, was: Option<&Held>, is: Option<&Held>) {
        let both = |key: fn(&Held) -> Option<Place>| (was.and_then(key), is.and_then(key));
        reorder(&mut self.open, digest, both(Held::open));
        reorder(&mut self.ready, digest, both(Held::ready));
        replace(&mut self.due, digest, (was.and_then(Held::due), is.and_then(Held::due)));
        replace(&mut self.over, digest, (was.and_then(Held::over), is.and_then(Held::over)));
    }
}

fn reorder(turns: &mut Turns, digest: Digest, (was, is): (Option<Place>, Option<Place>)) {
    if was == is {
        return;
    }
    if let Some((account, turn)) = was
        && let Some(own) = turns.get_mut(&account)
    {
        own.remove(&turn);
        if own.is_empty() {
            turns.remove(&account);
        }
    }
    if let Some((account, turn)) = is {
        turns.entry(account).or_default().insert(turn, digest);
    }
}

fn replace<K: Ord>(table: &mut BTreeMap<K, Digest>, digest: Digest, (was, is): (Option<K>, Option<K>)) {
    if was == is {
        return;
    }
    was.iter().for_each(|key| {
        table.remove(key);
    });
    is.into_iter().for_each(|key| {
        table.insert(key, digest);
    });
}
