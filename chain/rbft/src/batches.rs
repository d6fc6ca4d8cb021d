//! Batches: which are known, which are on disk, who else has them, and for how long they have waited.
//!
//! Bodies are the shell's; here are digests. Owned by the core. Each batch is held on the account of who sent it here, not of
//! who made it: what somebody repeats of another's takes nothing from that one, and what one of us forwards the others can
//! take, however much of it its origin has strewn among them. Each account is bounded, so all of it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Digest, Seat, Sequence, Time};
use crate::proposal::Proposal;
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
#[derive(Debug, Clone)]
struct Held {
    account: Account,
    stored: bool,
    waiting: Waiting,
    /// Since when it waits, in whoever's turn.
    since: Time,
    deadline: Time,
    /// Where it was committed.
    done: Option<Sequence>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    held: BTreeMap<Digest, Held>,
    /// Who says that it has what, and when in the order of all reports it said so; also of batches that are not known here.
    reports: BTreeMap<Digest, BTreeMap<Seat, u64>>,
    /// Per seat, what it has reported, in that order: the oldest go.
    reported: BTreeMap<Seat, BTreeMap<u64, Digest>>,
    /// Reports that there have been.
    count: u64,
    /// Per account, what is not committed, in the order in which it came. Empty ones are not kept.
    open: BTreeMap<Account, Vec<Digest>>,
}

impl Batches {
    /// A batch has come. True if it is to be put on disk: it is new, and there is room on the account, or somebody has
    /// proposed it.
    pub(crate) fn offer(&mut self, digest: Digest, account: Account, room: usize, wanted: bool) -> bool {
        let full = self.open.get(&account).map_or(0, Vec::len) >= room;
        if let Some(held) = self.held.get_mut(&digest) {
            // Somebody answers for it now: it stays, whatever becomes of the proposal.
            if held.account == Account::Lent && held.done.is_none() && !full {
                held.account = account;
                self.close(&digest, &Account::Lent);
                self.open.entry(account).or_default().push(digest);
            }
            return false;
        }
        if full && !wanted {
            return false;
        }
        self.hold(digest, if full { Account::Lent } else { account });
        true
    }

    /// One that is on disk at the start: it is there, whatever the account.
    pub(crate) fn found(&mut self, digest: Digest, own: Option<PublicKey>, now: Time, deadline: Time) {
        if !self.held.contains_key(&digest) {
            self.hold(digest, own.map_or(Account::Found, Account::Made));
            self.stored(&digest, now, deadline);
        }
    }

    fn hold(&mut self, digest: Digest, account: Account) {
        self.open.entry(account).or_default().push(digest);
        let (waiting, never) = (Waiting::Fresh, Time(u64::MAX));
        let held = Held { account, stored: false, waiting, since: never, deadline: never, done: None };
        self.held.insert(digest, held);
    }

    /// It is not open any more.
    fn close(&mut self, digest: &Digest, account: &Account) {
        if let Some(open) = self.open.get_mut(account) {
            open.retain(|d| d != digest);
            if open.is_empty() {
                self.open.remove(account);
            }
        }
    }

    /// It is on disk; from now on it waits. Returns on whose account.
    pub(crate) fn stored(&mut self, digest: &Digest, now: Time, deadline: Time) -> Option<Account> {
        let held = self.held.get_mut(digest)?;
        (held.stored, held.since, held.deadline) = (true, now, deadline);
        Some(held.account)
    }

    /// Whether it has come.
    pub(crate) fn knows(&self, digest: &Digest) -> bool {
        self.held.contains_key(digest)
    }

    /// It is committed or in the state by `at`: it waits for nobody.
    pub(crate) fn done(&mut self, digest: &Digest, at: Sequence) {
        if let Some(held) = self.held.get_mut(digest) {
            held.done = Some(held.done.map_or(at, |done| done.max(at)));
            let account = held.account;
            self.close(digest, &account);
            self.forget_reports(digest);
        }
    }

    fn forget_reports(&mut self, digest: &Digest) {
        for (seat, order) in self.reports.remove(digest).unwrap_or_default() {
            if let Some(reported) = self.reported.get_mut(&seat) {
                reported.remove(&order);
            }
        }
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.held.get(digest).is_some_and(|h| h.stored)
    }

    /// Whether all batches of a proposal are on disk.
    pub(crate) fn has_all(&self, proposal: &Proposal) -> bool {
        proposal.batches.iter().all(|digest| self.has(digest))
    }

    /// Another seat says that it has these. At most so many are remembered of it: what it says again is new, and what is
    /// committed here is nobody's concern.
    pub(crate) fn report(&mut self, seat: Seat, digests: &[Digest], limit: usize) {
        let reported = self.reported.entry(seat).or_default();
        for digest in digests {
            if self.held.get(digest).is_some_and(|held| held.done.is_some()) {
                continue;
            }
            self.count += 1;
            if let Some(before) = self.reports.entry(*digest).or_default().insert(seat, self.count) {
                reported.remove(&before);
            }
            reported.insert(self.count, *digest);
        }
        while reported.len() > limit
            && let Some((_, digest)) = reported.pop_first()
        {
            if let Some(seats) = self.reports.get_mut(&digest) {
                seats.remove(&seat);
                if seats.is_empty() {
                    self.reports.remove(&digest);
                }
            }
        }
    }

    /// How many have it, by their own word, this one among them.
    pub(crate) fn reports(&self, digest: &Digest) -> usize {
        self.reports.get(digest).map_or(0, BTreeMap::len) + usize::from(self.has(digest))
    }

    /// Other seats that have it, by their own word.
    pub(crate) fn reporters(&self, digest: &Digest) -> impl Iterator<Item = Seat> + '_ {
        self.reports.get(digest).into_iter().flat_map(BTreeMap::keys).copied()
    }

    /// What may be proposed: on disk here and, by their reports, at so many in all; not committed, not among `taken`. From
    /// each account in turn.
    pub(crate) fn choose(&self, enough: usize, taken: &BTreeSet<Digest>, limit: usize) -> Vec<Digest> {
        let ready =
            |digest: &&Digest| self.has(digest) && !taken.contains(*digest) && self.reports(digest) >= enough;
        let mut queues: Vec<_> = self.open.values().map(|open| open.iter().filter(ready)).collect();
        let mut chosen = Vec::new();
        loop {
            let before = chosen.len();
            for queue in &mut queues {
                if chosen.len() < limit {
                    chosen.extend(queue.next().copied());
                }
            }
            if chosen.len() == before {
                return chosen;
            }
        }
    }

    /// A proposal is committed: nobody waits for its batches any more.
    pub(crate) fn committed(&mut self, proposal: &Proposal) {
        proposal.batches.iter().for_each(|digest| self.done(digest, proposal.sequence));
    }

    /// Forgets what was committed up to here and is not in use; returns what may go from the disk.
    pub(crate) fn forget(&mut self, up_to: Sequence, in_use: &BTreeSet<Digest>) -> Vec<Digest> {
        let over = |(digest, held): &(&Digest, &Held)| {
            held.done.is_some_and(|s| s <= up_to) && !in_use.contains(*digest)
        };
        let gone: Vec<Digest> = self.held.iter().filter(over).map(|(digest, _)| *digest).collect();
        for digest in &gone {
            self.held.remove(digest);
            self.forget_reports(digest);
        }
        gone
    }

    /// Forgets what was taken for proposals that are gone, and are not in use; returns what may go from the disk.
    pub(crate) fn give_back(&mut self, in_use: &BTreeSet<Digest>) -> Vec<Digest> {
        let lent = self.open.get(&Account::Lent).into_iter().flatten();
        let gone: Vec<Digest> = lent.filter(|d| self.has(d) && !in_use.contains(*d)).copied().collect();
        for digest in &gone {
            self.held.remove(digest);
            self.close(digest, &Account::Lent);
        }
        gone
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, digest: &Digest) {
        if let Some(held) = self.held.remove(digest) {
            self.close(digest, &held.account);
            self.forget_reports(digest);
        }
    }

    /// Batches on disk that are not committed.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Digest> {
        self.held.iter().filter(|(_, h)| h.stored && h.done.is_none()).map(|(digest, _)| digest)
    }

    /// What has waited too long, of each account in turn and its oldest first, so many in all; each of these gets a new
    /// deadline. With each, whether it was the first of its account all that time: a primary with much to do is not to blame
    /// for what has others before it.
    pub(crate) fn overdue(&mut self, now: Time, next: Time, most: usize) -> Vec<(Digest, bool)> {
        let mut overdue = Vec::new();
        for open in self.open.values() {
            let waiting = open.iter().filter_map(|digest| Some((digest, self.held.get(digest)?)));
            let waiting = waiting.filter(|(_, held)| held.stored && held.done.is_none()).enumerate();
            let late = waiting.filter(|(_, (_, held))| held.deadline <= now).enumerate();
            overdue
                .extend(late.map(|(turn, (place, (digest, held)))| (turn, held.since, *digest, place == 0)));
        }
        overdue.sort_unstable();
        overdue.truncate(most);
        let mut passed_over = Vec::with_capacity(overdue.len());
        for (_, _, digest, first) in overdue {
            if let Some(held) = self.held.get_mut(&digest) {
                passed_over.push((digest, first && held.waiting == Waiting::First));
                held.waiting = if first { Waiting::First } else { Waiting::Forwarded };
                held.deadline = next;
            }
        }
        passed_over
    }

    /// Seats are others now.
    pub(crate) fn new_epoch(&mut self) {
        self.reports.clear();
        self.reported.clear();
    }

    /// Another primary has its turn: everything waits anew.
    pub(crate) fn begin_anew(&mut self, deadline: Time) {
        for held in self.held.values_mut().filter(|h| h.stored && h.done.is_none()) {
            (held.waiting, held.deadline) = (Waiting::Fresh, deadline);
        }
    }

    /// When the next one will have waited too long.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.held.values().filter(|h| h.stored && h.done.is_none()).map(|h| h.deadline).min()
    }

    /// Everything here, for the bound on memory.
    pub(crate) fn size(&self) -> usize {
        let reports: usize = self.reported.values().map(BTreeMap::len).sum();
        let open: usize = self.open.values().map(|open| open.len() + 1).sum();
        self.held.len() + open + reports.max(self.reports.len())
    }

    /// What is held on a peer's accounts.
    #[cfg(feature = "testing")]
    pub(crate) fn held_for(&self, key: &PublicKey) -> usize {
        let accounts = [Account::Made(*key), Account::Forwarded(*key)];
        accounts.iter().filter_map(|account| self.open.get(account)).map(Vec::len).sum()
    }

    /// What is remembered of a seat's reports.
    #[cfg(feature = "testing")]
    pub(crate) fn reported_by(&self, seat: Seat) -> usize {
        self.reported.get(&seat).map_or(0, BTreeMap::len)
    }
}
