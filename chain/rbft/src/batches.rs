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

/// A batch.
#[derive(Debug, Clone)]
struct Held {
    account: Account,
    /// Its place on that.
    turn: u64,
    stored: bool,
    waiting: Waiting,
    /// Since when it waits, in whoever's turn.
    since: Time,
    deadline: Time,
    /// Where it was committed.
    done: Option<Sequence>,
}

/// Some of them, per account in the order in which they came. Empty ones are not kept.
type Turns = BTreeMap<Account, BTreeMap<u64, Digest>>;

fn leave(turns: &mut Turns, account: &Account, turn: u64) -> bool {
    let Some(own) = turns.get_mut(account) else { return false };
    let was = own.remove(&turn).is_some();
    if own.is_empty() {
        turns.remove(account);
    }
    was
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Batches {
    held: BTreeMap<Digest, Held>,
    /// Who says that it has what, and when in the order of all reports it said so; also of batches that are not known here.
    reports: BTreeMap<Digest, BTreeMap<Seat, u64>>,
    /// Per seat, what it has reported, in that order: the oldest go.
    reported: BTreeMap<Seat, BTreeMap<u64, Digest>>,
    /// Reports that there have been.
    count: u64,
    /// So many have to have a batch before it may be proposed.
    enough: usize,
    /// What is not committed.
    open: Turns,
    /// Turns that there have been.
    turns: u64,
    /// Of that, what may be proposed.
    ready: Turns,
    /// When those that wait will have waited too long.
    due: BTreeSet<(Time, Digest)>,
    /// Where those that are done were committed.
    over: BTreeSet<(Sequence, Digest)>,
    /// Where those are committed that have not come yet.
    late: BTreeMap<Digest, Sequence>,
}

impl Batches {
    /// None yet. So many validators have to have a batch, by their own word, before it may be proposed.
    pub(crate) fn new(enough: usize) -> Self {
        let (held, reports, reported) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (open, ready, late) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (due, over) = (BTreeSet::new(), BTreeSet::new());
        Self { held, reports, reported, count: 0, enough, open, turns: 0, ready, due, over, late }
    }

    /// A batch has come. A new one for which there is room is to be put on disk.
    pub(crate) fn offer(&mut self, digest: Digest, account: Account, room: usize) -> Offered {
        let full = self.open.get(&account).map_or(0, BTreeMap::len) >= room;
        if let Some(held) = self.held.get_mut(&digest) {
            // Somebody answers for it now: it stays, whatever becomes of the proposal.
            if held.account == Account::Lent && held.done.is_none() && !full {
                self.turns += 1;
                leave(&mut self.open, &Account::Lent, held.turn);
                self.open.entry(account).or_default().insert(self.turns, digest);
                if leave(&mut self.ready, &Account::Lent, held.turn) {
                    self.ready.entry(account).or_default().insert(self.turns, digest);
                }
                (held.account, held.turn) = (account, self.turns);
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
        self.open.entry(account).or_default().insert(self.turns, digest);
        let (waiting, never) = (Waiting::Fresh, Time(u64::MAX));
        let (turn, stored, done) = (self.turns, false, None);
        self.held.insert(digest, Held { account, turn, stored, waiting, since: never, deadline: never, done });
    }

    /// It is on disk; from now on it waits. Returns on whose account.
    pub(crate) fn stored(&mut self, digest: &Digest, now: Time, deadline: Time) -> Option<Account> {
        let held = self.held.get_mut(digest)?;
        (held.stored, held.since, held.deadline) = (true, now, deadline);
        let account = held.account;
        if held.done.is_none() {
            self.due.insert((deadline, *digest));
        }
        if let Some(sequence) = self.late.remove(digest) {
            self.done(digest, sequence);
        }
        Some(account)
    }

    /// Looks whether it may be proposed, which nothing that is proposed already may.
    pub(crate) fn weigh(&mut self, digest: &Digest, taken: bool) {
        let Some(held) = self.held.get(digest) else { return };
        let (account, turn) = (held.account, held.turn);
        let waits = held.stored && held.done.is_none();
        if waits && !taken && self.reports(digest) >= self.enough {
            self.ready.entry(account).or_default().insert(turn, *digest);
        } else {
            leave(&mut self.ready, &account, turn);
        }
    }

    /// Whether it has come.
    pub(crate) fn knows(&self, digest: &Digest) -> bool {
        self.held.contains_key(digest)
    }

    /// It is committed or in the state by `at`: it waits for nobody.
    pub(crate) fn done(&mut self, digest: &Digest, at: Sequence) {
        let Some(held) = self.held.get_mut(digest) else { return };
        let last = held.done.map_or(at, |done| done.max(at));
        if let Some(before) = held.done.replace(last) {
            self.over.remove(&(before, *digest));
        }
        self.over.insert((last, *digest));
        let held = held.clone();
        self.close(digest, &held);
        self.forget_reports(digest);
    }

    /// It is not open any more.
    fn close(&mut self, digest: &Digest, held: &Held) {
        leave(&mut self.open, &held.account, held.turn);
        leave(&mut self.ready, &held.account, held.turn);
        self.due.remove(&(held.deadline, *digest));
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
        let many = reported.len().saturating_sub(limit);
        let old: Vec<Digest> = std::iter::from_fn(|| reported.pop_first()).take(many).map(|(_, d)| d).collect();
        for digest in old {
            self.forget_report(seat, &digest);
        }
    }

    fn forget_report(&mut self, seat: Seat, digest: &Digest) {
        let Some(seats) = self.reports.get_mut(digest) else { return };
        seats.remove(&seat);
        if seats.is_empty() {
            self.reports.remove(digest);
        }
        if self.reports(digest) < self.enough
            && let Some(held) = self.held.get(digest)
        {
            leave(&mut self.ready, &held.account, held.turn);
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

    /// What may be proposed: on disk here and, by their reports, at enough in all; neither committed nor proposed. From each
    /// account in turn.
    pub(crate) fn choose(&self, limit: usize) -> Vec<Digest> {
        let mut queues: Vec<_> = self.ready.values().map(BTreeMap::values).collect();
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
            self.done(digest, proposal.sequence);
            if !self.has(digest) {
                let late = self.late.entry(*digest).or_insert(proposal.sequence);
                *late = (*late).min(proposal.sequence);
            }
        }
    }

    /// What was committed up to here.
    pub(crate) fn over(&self, up_to: Sequence) -> Vec<Digest> {
        let mut over: Vec<Digest> =
            self.over.range(..=(up_to, Digest([255; 32]))).map(|(_, digest)| *digest).collect();
        over.sort_unstable();
        over
    }

    /// Nothing that was committed up to here will be asked for any more.
    pub(crate) fn is_stable(&mut self, up_to: Sequence) {
        self.late.retain(|_, sequence| *sequence > up_to);
    }

    /// What is here only because it was taken for a proposal, and is on disk.
    pub(crate) fn lent(&self) -> Vec<Digest> {
        let lent = self.open.get(&Account::Lent).into_iter().flat_map(BTreeMap::values);
        lent.filter(|digest| self.has(digest)).copied().collect()
    }

    /// Forgets one that was lent; the others may have it still.
    pub(crate) fn give_back(&mut self, digest: &Digest) {
        let Some(held) = self.held.remove(digest) else { return };
        self.close(digest, &held);
        if let Some(done) = held.done {
            self.over.remove(&(done, *digest));
        }
    }

    /// Forgets one, and who has it.
    pub(crate) fn remove(&mut self, digest: &Digest) {
        self.give_back(digest);
        self.forget_reports(digest);
    }

    /// Batches on disk that are not committed.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Digest> {
        self.held.iter().filter(|(_, h)| h.stored && h.done.is_none()).map(|(digest, _)| digest)
    }

    /// What has waited too long, of each account in turn and its oldest first, so many in all; each of these gets a new
    /// deadline. With each, whether it was the first of its account all that time: a primary with much to do is not to blame
    /// for what has others before it.
    pub(crate) fn overdue(&mut self, now: Time, next: Time, most: usize) -> Vec<(Digest, bool)> {
        if self.deadline().is_none_or(|first| first > now) {
            return Vec::new();
        }
        let mut overdue = Vec::new();
        for open in self.open.values() {
            let waiting = open.values().filter_map(|digest| Some((digest, self.held.get(digest)?)));
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
                self.due.remove(&(held.deadline, digest));
                self.due.insert((next, digest));
                held.deadline = next;
            }
        }
        passed_over
    }

    /// Seats are others now, and another number of them is enough.
    pub(crate) fn new_epoch(&mut self, enough: usize) {
        self.enough = enough;
        self.ready.clear();
        self.reports.clear();
        self.reported.clear();
    }

    /// Another primary has its turn: everything waits anew.
    pub(crate) fn begin_anew(&mut self, deadline: Time) {
        self.due.clear();
        for (digest, held) in self.held.iter_mut().filter(|(_, h)| h.stored && h.done.is_none()) {
            (held.waiting, held.deadline) = (Waiting::Fresh, deadline);
            self.due.insert((deadline, *digest));
        }
    }

    /// When the next one will have waited too long.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(deadline, _)| *deadline)
    }

    /// Everything here, for the bound on memory.
    pub(crate) fn size(&self) -> usize {
        let reports: usize = self.reported.values().map(BTreeMap::len).sum();
        let open: usize = self.open.values().map(|open| open.len() + 1).sum();
        self.held.len() + self.late.len() + open + reports.max(self.reports.len())
    }

    /// What is held on a peer's accounts.
    #[cfg(feature = "testing")]
    pub(crate) fn held_for(&self, key: &PublicKey) -> usize {
        let accounts = [Account::Made(*key), Account::Forwarded(*key)];
        accounts.iter().filter_map(|account| self.open.get(account)).map(BTreeMap::len).sum()
    }

    /// What is remembered of a seat's reports.
    #[cfg(feature = "testing")]
    pub(crate) fn reported_by(&self, seat: Seat) -> usize {
        self.reported.get(&seat).map_or(0, BTreeMap::len)
    }

    /// Looks whether what is kept beside the batches is what a look at each of them finds.
    #[cfg(feature = "testing")]
    pub(crate) fn recount(&self, is_taken: impl Fn(&Digest) -> bool) -> Result<(), String> {
        for (digest, held) in &self.held {
            let among = |turns: &Turns| turns.get(&held.account).is_some_and(|t| t.contains_key(&held.turn));
            let waits = held.stored && held.done.is_none();
            let ready = waits && self.reports(digest) >= self.enough && !is_taken(digest);
            let due = self.due.contains(&(held.deadline, *digest));
            let over = held.done.is_some_and(|done| self.over.contains(&(done, *digest)));
            let found = [among(&self.open), among(&self.ready), due, over];
            let wanted = [held.done.is_none(), ready, waits, held.done.is_some()];
            if found != wanted {
                return Err(format!("{digest:?}: open, ready, due, over are {found:?}, not {wanted:?}"));
            }
        }
        let sum = |turns: &Turns| turns.values().map(BTreeMap::len).sum::<usize>();
        let open = self.held.values().filter(|held| held.done.is_none()).count();
        let kept = [sum(&self.open), self.over.len(), sum(&self.ready), self.due.len()];
        if kept[..2] != [open, self.held.len() - open] || kept[2..].iter().any(|n| *n > open) {
            return Err(format!("{kept:?} of {} batches, {open} of them open", self.held.len()));
        }
        Ok(())
    }
}
