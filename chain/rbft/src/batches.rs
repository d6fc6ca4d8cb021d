//! Batches: which are known, which are on disk, who else has them, and for how long they have waited.
//!
//! Bodies are the shell's; here are digests. Owned by the core, bounded by the quota of each disseminator.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Digest, Seat, Sequence, Time};
use crate::proposal::Proposal;
use crate::signature::PublicKey;

/// How long a batch has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It is the primary's turn.
    Fresh,
    /// It was forwarded: everybody has been told.
    Forwarded,
}

/// A batch.
#[derive(Debug, Clone)]
struct Held {
    origin: PublicKey,
    stored: bool,
    waiting: Waiting,
    deadline: Time,
    /// Where it was committed.
    done: Option<Sequence>,
    /// It was taken only because somebody proposed it: beyond its origin's quota, or of nobody who has one.
    lent: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    held: BTreeMap<Digest, Held>,
    /// Who says that it has what; also of batches that are not known here.
    reports: BTreeMap<Digest, BTreeSet<Seat>>,
    /// Per seat, what it has reported, in order: the oldest go.
    reported: BTreeMap<Seat, Vec<Digest>>,
    /// Per disseminator, what is not committed, in the order in which it came.
    open: BTreeMap<PublicKey, Vec<Digest>>,
}

impl Batches {
    /// A batch has come. True if it is to be put on disk: it is new, and its origin has not used up its quota, or somebody
    /// has proposed it.
    pub(crate) fn offer(&mut self, digest: Digest, origin: PublicKey, quota: usize, wanted: bool) -> bool {
        if self.held.contains_key(&digest) {
            return false;
        }
        let open = self.open.entry(origin).or_default();
        let lent = open.len() >= quota;
        if lent && !wanted {
            return false;
        }
        open.push(digest);
        let (waiting, deadline) = (Waiting::Fresh, Time(u64::MAX));
        let held = Held { origin, stored: false, waiting, deadline, done: None, lent };
        self.held.insert(digest, held);
        true
    }

    /// It is on disk; from now on it waits. Returns whose it is.
    pub(crate) fn stored(&mut self, digest: &Digest, deadline: Time) -> Option<PublicKey> {
        let held = self.held.get_mut(digest)?;
        (held.stored, held.deadline) = (true, deadline);
        Some(held.origin)
    }

    /// Whether it has come.
    pub(crate) fn knows(&self, digest: &Digest) -> bool {
        self.held.contains_key(digest)
    }

    /// One that was on disk before the start, or of which the state that was fetched has everything: it waits for nobody.
    pub(crate) fn done(&mut self, digest: &Digest, at: Sequence) {
        if let Some(held) = self.held.get_mut(digest) {
            held.done = Some(held.done.unwrap_or(at));
            if let Some(open) = self.open.get_mut(&held.origin) {
                open.retain(|d| d != digest);
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

    /// A seat says that it has these. At most so many are remembered of it.
    pub(crate) fn report(&mut self, seat: Seat, digests: &[Digest], limit: usize) {
        let reported = self.reported.entry(seat).or_default();
        for digest in digests {
            if self.reports.entry(*digest).or_default().insert(seat) {
                reported.push(*digest);
            }
        }
        let surplus = reported.len().saturating_sub(limit);
        for digest in reported.drain(..surplus) {
            if let Some(seats) = self.reports.get_mut(&digest) {
                seats.remove(&seat);
                if seats.is_empty() {
                    self.reports.remove(&digest);
                }
            }
        }
    }

    /// How many say that they have it.
    pub(crate) fn reports(&self, digest: &Digest) -> usize {
        self.reports.get(digest).map_or(0, BTreeSet::len)
    }

    /// What may be proposed: on disk here and, by their reports, at `others` more; not committed, not among `taken`. From
    /// each disseminator in turn.
    pub(crate) fn choose(&self, others: usize, taken: &BTreeSet<Digest>, limit: usize) -> Vec<Digest> {
        let ready =
            |digest: &&Digest| self.has(digest) && !taken.contains(*digest) && self.reports(digest) >= others;
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
        for digest in &proposal.batches {
            if let Some(held) = self.held.get_mut(digest) {
                held.done = Some(held.done.map_or(proposal.sequence, |s| s.max(proposal.sequence)));
                if let Some(open) = self.open.get_mut(&held.origin) {
                    open.retain(|d| d != digest);
                }
            }
        }
    }

    /// Forgets what was committed up to here and is not in use; returns what may go from the disk.
    pub(crate) fn forget(&mut self, up_to: Sequence, in_use: &BTreeSet<Digest>) -> Vec<Digest> {
        let over = |(digest, held): &(&Digest, &Held)| {
            held.done.is_some_and(|s| s <= up_to) && !in_use.contains(*digest)
        };
        let gone: Vec<Digest> = self.held.iter().filter(over).map(|(digest, _)| *digest).collect();
        for digest in &gone {
            self.held.remove(digest);
            self.reports.remove(digest);
        }
        gone
    }

    /// Forgets what was taken for proposals that are gone, and are not in use; returns what may go from the disk.
    pub(crate) fn give_back(&mut self, in_use: &BTreeSet<Digest>) -> Vec<Digest> {
        let over = |(digest, held): &(&Digest, &Held)| {
            held.lent && held.stored && held.done.is_none() && !in_use.contains(*digest)
        };
        let gone: Vec<Digest> = self.held.iter().filter(over).map(|(digest, _)| *digest).collect();
        for digest in &gone {
            if let Some(held) = self.held.remove(digest)
                && let Some(open) = self.open.get_mut(&held.origin)
            {
                open.retain(|d| d != digest);
            }
        }
        self.open.retain(|_, open| !open.is_empty());
        gone
    }

    /// Batches on disk that are not committed.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Digest> {
        self.held.iter().filter(|(_, h)| h.stored && h.done.is_none()).map(|(digest, _)| digest)
    }

    /// What has waited too long, and how; each gets a new deadline.
    pub(crate) fn overdue(&mut self, now: Time, next: Time) -> Vec<(Digest, Waiting)> {
        let mut overdue = Vec::new();
        for (digest, held) in &mut self.held {
            if held.stored && held.done.is_none() && held.deadline <= now {
                overdue.push((*digest, held.waiting));
                (held.waiting, held.deadline) = (Waiting::Forwarded, next);
            }
        }
        overdue
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
        self.held.len() + self.reports.len()
    }
}
