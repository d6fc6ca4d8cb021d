//! Batches: which are known, which are on disk, who else has them, and for how long they have waited.
//!
//! Bodies are the shell's; here are digests. Owned by the core. Each batch is held on the account of who sent it here, not of
//! who made it: what somebody repeats of another's takes nothing from that one, and what one of us forwards the others can
//! take, however much of it its origin has strewn among them. Each account is bounded, so all of it is.

use std::collections::BTreeMap;

use crate::held::{Account, Held, Tables, Waiting};
use crate::ids::{Digest, Seat, Sequence, Time};
use crate::proposal::Proposal;
use crate::reports::Reports;
use crate::signature::PublicKey;

/// What becomes of a batch that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is new, and is held now.
    New,
    /// It is here already.
    Known,
    /// It is new, and there is no room on its account.
    Full,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Batches {
    held: BTreeMap<Digest, Held>,
    tables: Tables,
    /// Batches that have come.
    turns: u64,
    reports: Reports,
    /// So many have to have a batch before it may be proposed, this one among them.
    enough: usize,
    /// Where those are committed that are not on disk yet.
    late: BTreeMap<Digest, Sequence>,
}

impl Batches {
    /// None yet. So many validators have to have a batch, by their own word, before it may be proposed.
    pub(crate) fn new(enough: usize) -> Self {
        let (held, tables, turns) = (BTreeMap::new(), Tables::default(), 0);
        Self { held, tables, turns, reports: Reports::default(), enough, late: BTreeMap::new() }
    }

    /// A batch has come. A new one for which there is room is to be put on disk.
    pub(crate) fn offer(&mut self, digest: Digest, account: Account, room: usize) -> Offered {
        let full = self.tables.open.get(&account).map_or(0, BTreeMap::len) >= room;
        if let Some(held) = self.held.get(&digest) {
            // Somebody answers for it now: it stays, whatever becomes of the proposal.
            if held.account == Account::Lent && held.done.is_none() && !full {
                self.turns += 1;
                let turn = self.turns;
                self.change(&digest, |held| (held.account, held.turn) = (account, turn));
            }
            return Offered::Known;
        }
        if full {
            return Offered::Full;
        }
        self.hold(digest, account);
        Offered::New
    }

    /// One for which there is no room is taken all the same: somebody has proposed it.
    pub(crate) fn lend(&mut self, digest: Digest) {
        self.hold(digest, Account::Lent);
    }

    /// One that is on disk at the start: it is there, whatever the account.
    pub(crate) fn found(&mut self, digest: Digest, own: Option<PublicKey>, now: Time, deadline: Time) {
        if !self.held.contains_key(&digest) {
            self.hold(digest, own.map_or(Account::Found, Account::Made));
            self.stored(&digest, now, deadline);
        }
    }

    fn hold(&mut self, digest: Digest, account: Account) {
        self.turns += 1;
        let held = Held::new(account, self.turns);
        self.tables.moved(digest, None, Some(&held));
        self.held.insert(digest, held);
    }

    fn change(&mut self, digest: &Digest, change: impl FnOnce(&mut Held)) {
        let Some(held) = self.held.get_mut(digest) else { return };
        let was = *held;
        change(held);
        self.tables.moved(*digest, Some(&was), Some(held));
    }

    /// It is on disk; from now on it waits. Returns on whose account.
    pub(crate) fn stored(&mut self, digest: &Digest, now: Time, deadline: Time) -> Option<Account> {
        self.change(digest, |held| (held.stored, held.since, held.deadline) = (true, now, deadline));
        let account = self.held.get(digest)?.account;
        // It may have come after its block.
        if let Some(sequence) = self.late.remove(digest) {
            self.is_committed(digest, sequence);
        }
        Some(account)
    }

    /// Looks whether it may be proposed: what is taken may not, for somebody has proposed it already.
    pub(crate) fn weigh(&mut self, digest: &Digest, is_taken: impl FnOnce() -> bool) {
        let Some(held) = self.held.get(digest).filter(|held| held.waits()) else { return };
        let free = self.reports.count(digest) + 1 >= self.enough && !is_taken();
        if held.free != free {
            self.change(digest, |held| held.free = free);
        }
    }

    /// Whether it has come.
    pub(crate) fn knows(&self, digest: &Digest) -> bool {
        self.held.contains_key(digest)
    }

    /// All of it is in the state by `at`, and may have been before: it waits for nobody.
    pub(crate) fn is_in_the_state(&mut self, digest: &Digest, at: Sequence) {
        if self.held.get(digest).is_some_and(|held| held.done.is_none()) {
            self.is_over(digest, at);
        }
    }

    fn is_over(&mut self, digest: &Digest, at: Sequence) {
        self.change(digest, |held| held.done = Some(at));
        self.reports.forget(digest);
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.held.get(digest).is_some_and(|h| h.stored)
    }

    /// Whether all batches of a proposal are on disk.
    pub(crate) fn has_all(&self, proposal: &Proposal) -> bool {
        proposal.batches.iter().all(|digest| self.has(digest))
    }

    /// Another seat says that it has these. At most so many are remembered of it, and what is committed here is nobody's
    /// concern. Returns what is to be weighed again: just enough have it now.
    pub(crate) fn report(&mut self, seat: Seat, digests: &[Digest], limit: usize) -> Vec<Digest> {
        let mut enough = Vec::new();
        for digest in digests {
            let held = self.held.get(digest);
            if held.is_some_and(|held| held.done.is_some()) {
                continue;
            }
            if self.reports.add(seat, *digest) + 1 == self.enough {
                enough.push(*digest);
            }
        }
        for digest in self.reports.trim(seat, limit) {
            if self.reports.count(&digest) + 1 < self.enough {
                self.change(&digest, |held| held.free = false);
            }
        }
        enough
    }

    /// How many have it, by their own word, this one among them.
    pub(crate) fn reports(&self, digest: &Digest) -> usize {
        self.reports.count(digest) + usize::from(self.has(digest))
    }

    /// Other seats that have it, by their own word.
    pub(crate) fn reporters(&self, digest: &Digest) -> impl Iterator<Item = Seat> + '_ {
        self.reports.seats(digest)
    }

    /// What may be proposed: on disk here and, by their reports, at enough in all; neither committed nor proposed. From each
    /// account in turn.
    pub(crate) fn choose(&self, limit: usize) -> Vec<Digest> {
        let mut queues: Vec<_> = self.tables.ready.values().map(BTreeMap::values).collect();
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
        for digest in &proposal.batches {
            self.is_committed(digest, proposal.sequence);
            if !self.has(digest) {
                let late = self.late.entry(*digest).or_insert(proposal.sequence);
                *late = (*late).min(proposal.sequence);
            }
        }
    }

    fn is_committed(&mut self, digest: &Digest, at: Sequence) {
        if let Some(held) = self.held.get(digest) {
            self.is_over(digest, held.done.map_or(at, |done| done.max(at)));
        }
    }

    /// What was committed up to here.
    pub(crate) fn over(&self, up_to: Sequence) -> Vec<Digest> {
        self.tables.over.range(..=(up_to, u64::MAX)).map(|(_, digest)| *digest).collect()
    }

    /// Nothing that was committed up to here will be asked for any more.
    pub(crate) fn is_stable(&mut self, up_to: Sequence) {
        self.late.retain(|_, sequence| *sequence > up_to);
    }

    /// What is here only because it was taken for a proposal, and is on disk.
    pub(crate) fn lent(&self) -> Vec<Digest> {
        let lent = self.tables.open.get(&Account::Lent).into_iter().flat_map(BTreeMap::values);
        lent.filter(|digest| self.has(digest)).copied().collect()
    }

    /// Forgets one that was lent; the others may have it still.
    pub(crate) fn give_back(&mut self, digest: &Digest) {
        if let Some(held) = self.held.remove(digest) {
            self.tables.moved(*digest, Some(&held), None);
        }
    }

    /// Forgets one, and who has it.
    pub(crate) fn remove(&mut self, digest: &Digest) {
        self.give_back(digest);
        self.reports.forget(digest);
    }

    /// Batches on disk that are not committed.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Digest> {
        self.held.iter().filter(|(_, held)| held.waits()).map(|(digest, _)| digest)
    }

    /// What has waited too long, of each account in turn and its oldest first, so many in all; each of these gets a new
    /// deadline. With each, whether it was the first of its account all that time: a primary with much to do is not to blame
    /// for what has others before it.
    pub(crate) fn overdue(&mut self, now: Time, next: Time, most: usize) -> Vec<(Digest, bool)> {
        if self.deadline().is_none_or(|first| first > now) {
            return Vec::new();
        }
        let mut overdue = Vec::new();
        for open in self.tables.open.values() {
            let waiting = open.values().filter_map(|digest| Some((digest, self.held.get(digest)?)));
            let waiting = waiting.filter(|(_, held)| held.waits()).enumerate();
            let late = waiting.filter(|(_, (_, held))| held.deadline <= now).enumerate();
            overdue
                .extend(late.map(|(turn, (place, (digest, held)))| (turn, held.since, *digest, place == 0)));
        }
        overdue.sort_unstable();
        overdue.truncate(most);
        let mut passed_over = Vec::with_capacity(overdue.len());
        for (_, _, digest, first) in overdue {
            self.change(&digest, |held| {
                passed_over.push((digest, first && held.waiting == Waiting::First));
                held.waiting = if first { Waiting::First } else { Waiting::Forwarded };
                held.deadline = next;
            });
        }
        passed_over
    }

    /// Seats are others now, and another number of them is enough.
    pub(crate) fn new_epoch(&mut self, enough: usize) {
        self.enough = enough;
        self.reports.clear();
        let ready: Vec<Digest> = self.tables.ready.values().flat_map(BTreeMap::values).copied().collect();
        ready.iter().for_each(|digest| self.change(digest, |held| held.free = false));
    }

    /// Another primary has its turn: everything waits anew.
    pub(crate) fn begin_anew(&mut self, deadline: Time) {
        let waiting: Vec<Digest> = self.tables.due.values().copied().collect();
        for digest in waiting {
            self.change(&digest, |held| (held.waiting, held.deadline) = (Waiting::Fresh, deadline));
        }
    }

    /// When the next one will have waited too long.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.tables.due.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Everything here, for the bound on memory.
    pub(crate) fn size(&self) -> usize {
        let open: usize = self.tables.open.values().map(|open| open.len() + 1).sum();
        self.held.len() + self.late.len() + open + self.reports.size()
    }

    /// What is held on a peer's accounts.
    #[cfg(feature = "testing")]
    pub(crate) fn held_for(&self, key: &PublicKey) -> usize {
        let accounts = [Account::Made(*key), Account::Forwarded(*key)];
        accounts.iter().filter_map(|account| self.tables.open.get(account)).map(BTreeMap::len).sum()
    }

    /// What is remembered of a seat's reports.
    #[cfg(feature = "testing")]
    pub(crate) fn reported_by(&self, seat: Seat) -> usize {
        self.reports.of(seat)
    }

    /// Looks whether what is kept beside the batches is what a look at each of them finds.
    #[cfg(feature = "testing")]
    pub(crate) fn recount(&self, is_taken: impl Fn(&Digest) -> bool) -> Result<(), String> {
        let mut tables = Tables::default();
        for (digest, held) in &self.held {
            let free = self.reports.count(digest) + 1 >= self.enough && !is_taken(digest);
            tables.moved(*digest, None, Some(&Held { free, ..*held }));
        }
        if tables == self.tables {
            return self.reports.recount();
        }
        Err(format!("of batches {:?} is kept, not {tables:?}", self.tables))
    }
}
