//! The normal case (PBFT section 4.2): batches are stored, proposed, prepared, committed and executed.

use std::collections::{BTreeMap, BTreeSet};

use crate::batches::Offered;
use crate::certificate::Certificate;
use crate::core::{Phase, Rbft, planted};
use crate::durable::Record;
use crate::held::Account;
use crate::ids::{Digest, Seat, Sequence, Time};
use crate::io::{Output, To};
use crate::message::{Committed, Message, PqcEntry, Prepared};
use crate::proposal::{Batch, Proposal};
use crate::signature::PublicKey;
use crate::vote::{SignedVote, VoteKind};

/// Batches that are forwarded in one go; after so many there is a pause.
const FORWARDED_AT_ONCE: usize = 64;

impl Rbft {
    pub(crate) fn take_batch(&mut self, from: PublicKey, digest: Digest, batch: Batch) {
        let account = if from == batch.origin { Account::Made(from) } else { Account::Forwarded(from) };
        // Who has no seat has no account.
        let member = self.durable.set.seat_of(&from).is_some();
        let room = if member { self.config.batches_per_seat } else { 0 };
        match self.batches.offer(digest, account, room) {
            Offered::New => {}
            Offered::Full if self.is_wanted(&digest) => self.batches.lend(digest),
            Offered::Full | Offered::Known => return,
        }
        self.out.push(Output::StoreBatch(batch));
    }

    /// Whether somebody has proposed it, or it is committed.
    fn is_wanted(&self, batch: &Digest) -> bool {
        self.log.lists(batch) || self.durable.committed.lists(batch) || self.may_bring(batch)
    }

    /// A client's.
    pub(crate) fn submitted(&mut self, batch: Batch) {
        let digest = batch.digest();
        match self.batches.offer(digest, Account::Made(self.key), self.config.batches_per_seat) {
            Offered::New => self.out.push(Output::StoreBatch(batch)),
            Offered::Full => self.out.push(Output::Busy(digest)),
            Offered::Known => {}
        }
    }

    /// It is on disk: the others are told, and if it is our own they get it. One of which the state has everything already waits
    /// for nobody; one that nobody needs any more may go again.
    pub(crate) fn batch_stored(&mut self, digest: Digest, done: bool) {
        let deadline = self.now.plus(self.timeout());
        let Some(account) = self.batches.stored(&digest, self.now, deadline) else {
            return self.out.push(Output::DropBatch(digest));
        };
        if done && !self.is_listed(&digest) && !self.may_bring(&digest) {
            // On nobody's account it would stay until the chain goes on, however many there are of them.
            self.batches.remove(&digest);
            return self.out.push(Output::DropBatch(digest));
        }
        if done {
            self.batches.is_in_the_state(&digest, self.executed);
        }
        if account == Account::Made(self.key) {
            self.out.push(Output::SendBatch { to: To::All, digest });
        }
        self.log.is_stored(&digest);
        self.weigh(&digest);
        self.send(To::All, Message::Stored(vec![digest]));
        // The view may have waited for it.
        if self.may_bring(&digest) {
            self.count_changes();
        }
    }

    /// The primary proposes what enough others have, as long as the window has room.
    pub(crate) fn propose(&mut self) {
        // Also what the others have finished while this one recovered.
        self.next = self.next.max(self.executed.max(self.voting_floor()).next());
        while self.phase == Phase::Active && self.is_primary() && self.may_vote() && self.next <= self.high()
        {
            // What it proposed as the next one in this view before it was restarted: the same again, never anything else.
            if let Some((proposal, vote)) = self.voted_before(self.next).cloned() {
                self.next = self.next.next();
                self.announce(proposal, vote);
                continue;
            }
            let batches = self.batches.choose(self.config.max_batches);
            if batches.is_empty() && !self.wants_nothing() {
                return;
            }
            let proposal =
                Proposal { epoch: self.epoch(), sequence: self.next, time_ms: self.now.0, batches };
            let digest = proposal.digest(&self.chain);
            let Some(vote) = self.vote(VoteKind::Prepare, self.view(), self.next, digest) else { return };
            self.last_proposed = self.now;
            self.next = self.next.next();
            self.persist(Record::Accepted { proposal: proposal.clone(), vote });
            self.announce(proposal, vote);
        }
    }

    fn announce(&mut self, proposal: Proposal, vote: SignedVote) {
        self.put_proposal(vote.vote.digest, proposal.clone());
        self.add_vote(vote);
        self.send(To::All, Message::PrePrepare { proposal, vote });
    }

    /// A proposal takes its place. Its batches are not to be proposed again.
    pub(crate) fn put_proposal(&mut self, digest: Digest, proposal: Proposal) {
        let mut batches = proposal.batches.clone();
        let before = self.log.put(digest, proposal);
        batches.extend(before.into_iter().flat_map(|before| before.batches));
        batches.iter().for_each(|batch| self.weigh(batch));
    }

    /// Something has changed that may matter to whether a batch may be proposed.
    pub(crate) fn weigh(&mut self, batch: &Digest) {
        self.batches.weigh(batch, || self.log.lists(batch));
    }

    /// Whether an idle chain should go on to the next boundary all the same: an epoch is to end, or blocks are not archived.
    fn wants_nothing(&self) -> bool {
        let behind = self.executed < self.next && self.executed.next() != self.next;
        self.is_short_of_a_boundary() && !behind && self.now >= self.last_proposed.plus(self.config.idle_ms)
    }

    /// Whether something waits for the next boundary, or for the end of the epoch.
    pub(crate) fn is_short_of_a_boundary(&self) -> bool {
        let at_boundary = self.executed.0.is_multiple_of(self.config.checkpoint_interval);
        self.is_ending() || (self.pending.is_none() && !at_boundary && self.archived < self.executed)
    }

    /// The primary has proposed something.
    pub(crate) fn proposed(&mut self, proposal: Proposal, vote: SignedVote) {
        if !self.is_of_now(&vote) {
            return;
        }
        let fresh = !self.log.has_proposal(proposal.sequence);
        // What a new view begins with was set when that began; anything else there is a second vote.
        if fresh && proposal.time_ms <= self.now.plus(self.config.drift_ms).0 {
            self.put_proposal(vote.vote.digest, proposal);
        }
        self.add_vote(vote);
    }

    pub(crate) fn take_vote(&mut self, vote: SignedVote) {
        if self.is_of_now(&vote) {
            self.add_vote(vote);
        }
    }

    /// Whether a vote is of this epoch and view, and within the window. Where the view begins behind it, nobody correct has cast it.
    fn is_of_now(&self, vote: &SignedVote) -> bool {
        let low = self.durable.low().max(self.begun_at);
        let epoch = vote.vote.epoch == self.epoch() || planted!(self, EpochNotInVote);
        let high = self.window_end();
        let within = low < vote.vote.sequence && (vote.vote.sequence <= high || planted!(self, UnboundedLog));
        epoch && vote.vote.view == self.view() && self.phase == Phase::Active && within
    }

    /// Up to where it votes for nothing (PBFT section 4.4: min-s is the new h): its own checkpoint, and a later one that it has
    /// the proof of, though not the state yet. What is below that is decided, and a vote for it could only be for something else.
    pub(crate) fn voting_floor(&self) -> Sequence {
        let ahead = self.ahead.as_ref().map_or(Sequence(0), |c| c.vote.sequence);
        self.durable.low().max(ahead)
    }

    /// Does for a sequence what has become possible.
    pub(crate) fn advance(&mut self, sequence: Sequence) {
        self.prepare(sequence);
        self.commit(sequence);
        self.conclude(sequence);
    }

    /// Whether anything is possible for a sequence that has not been done.
    #[cfg(feature = "testing")]
    pub(crate) fn may_advance(&self, sequence: Sequence) -> bool {
        self.may_prepare(sequence).is_some()
            || self.may_commit(sequence).is_some()
            || self.may_conclude(sequence).is_some()
    }

    /// Votes for the proposal of this view, once it is all on disk.
    fn prepare(&mut self, sequence: Sequence) {
        let Some((digest, proposal)) = self.may_prepare(sequence) else { return };
        let proposal = proposal.clone();
        if let Some((_, vote)) = self.voted_before(sequence) {
            let vote = *vote;
            self.add_vote(vote);
            return self.send(To::All, Message::Prepare(vote));
        }
        let Some(vote) = self.vote(VoteKind::Prepare, self.view(), sequence, digest) else { return };
        if planted!(self, VoteBeforePersist) {
            self.send(To::All, Message::Prepare(vote));
        }
        self.persist(Record::Accepted { proposal, vote });
        self.add_vote(vote);
        self.send(To::All, Message::Prepare(vote));
    }

    fn may_prepare(&self, sequence: Sequence) -> Option<(Digest, &Proposal)> {
        let seat = self.seat.filter(|_| self.may_vote() && self.phase == Phase::Active)?;
        let slot = self.log.get(sequence)?;
        let (digest, proposal) = slot.proposal.as_ref()?;
        let decided =
            || self.durable.committed.get(&sequence).is_some_and(|c| c.certificate.vote.digest != *digest);
        // What was promised before a restart is promised still: the same again, or nothing.
        let promised = || self.voted_before(sequence).is_some_and(|(_, vote)| vote.vote.digest != *digest);
        let may = !slot.prepares.contains_key(&seat)
            && self.voting_floor() < sequence
            && sequence <= self.high()
            && !decided()
            && (self.batches.has_all(proposal) || planted!(self, PreparedWithoutData))
            && !promised();
        may.then_some((*digest, proposal))
    }

    /// What it has voted for at a sequence in this view, also before a restart.
    pub(crate) fn voted_before(&self, sequence: Sequence) -> Option<&(Proposal, SignedVote)> {
        self.durable.accepted.get(&sequence).filter(|(_, vote)| vote.vote.view == self.view())
    }

    /// Votes to commit what a quorum has prepared.
    fn commit(&mut self, sequence: Sequence) {
        let Some(prepared) = self.may_commit(sequence) else { return };
        let digest = prepared.certificate.vote.digest;
        let Some(vote) = self.vote(VoteKind::Commit, self.view(), sequence, digest) else { return };
        self.log.is_prepared(sequence);
        self.persist(Record::Prepared { prepared, vote });
        self.add_vote(vote);
        self.send(To::All, Message::Commit(vote));
    }

    fn may_commit(&self, sequence: Sequence) -> Option<Prepared> {
        let seat = self.seat.filter(|_| self.may_vote() && self.phase == Phase::Active)?;
        let slot = self.log.get(sequence).filter(|s| !s.prepared && sequence > self.voting_floor())?;
        let (digest, proposal) = slot.proposal.as_ref()?;
        // It has voted itself, so it has the data.
        slot.prepares.get(&seat).filter(|own| own.vote.digest == *digest)?;
        let certificate = self.certify(*digest, &slot.prepares)?;
        Some(Prepared { proposal: proposal.clone(), certificate })
    }

    /// A quorum has committed it: it is a block.
    fn conclude(&mut self, sequence: Sequence) {
        if let Some(committed) = self.may_conclude(sequence) {
            self.committed(committed);
        }
    }

    fn may_conclude(&self, sequence: Sequence) -> Option<Committed> {
        let slot = self.log.get(sequence).filter(|s| !s.committed)?;
        let (digest, proposal) = slot.proposal.as_ref()?;
        let certificate = self.certify(*digest, &slot.commits)?;
        Some(Committed { proposal: proposal.clone(), certificate })
    }

    /// The certificate of a quorum's votes for this, if there are so many.
    fn certify(&self, digest: Digest, votes: &BTreeMap<Seat, SignedVote>) -> Option<Certificate> {
        let (wanted, size) = (self.quorum(), self.durable.set.size());
        let of_it = || votes.values().filter(|v| v.vote.digest == digest);
        // Every vote leads here, and most are not the last that is needed.
        if of_it().count() + usize::from(planted!(self, DuplicateSigners)) < wanted {
            return None;
        }
        let mut votes: Vec<SignedVote> = of_it().copied().collect();
        let vote = votes.first()?.vote;
        if planted!(self, DuplicateSigners) && votes.len() + 1 == wanted {
            let mut certificate = Certificate::gather(votes.len(), size, vote, &votes)?;
            certificate.signatures.extend(votes.pop().map(|v| v.signature));
            return Some(certificate);
        }
        Certificate::gather(wanted, size, vote, &votes)
    }

    /// A block, by its certificate.
    pub(crate) fn committed(&mut self, committed: Committed) {
        let sequence = committed.proposal.sequence;
        let known = sequence <= self.executed || self.durable.committed.contains(&sequence);
        // Nothing comes behind the last number of all; what never ends must not begin there.
        if !known && (sequence > self.window_end() || sequence == Sequence(u64::MAX)) {
            return;
        }
        self.log.is_committed(sequence);
        if known {
            return;
        }
        self.batches.committed(&committed.proposal);
        self.persist(Record::Committed(committed));
    }

    /// Whether something is committed behind a sequence that is not. Nothing waits for that one but all that came later: a
    /// primary that leaves it out stops the chain, and the next view fills it (PBFT section 4.4: the null request).
    pub(crate) fn has_gap(&self) -> bool {
        let next = self.executing.next();
        self.durable.committed.range(next..).next().is_some_and(|(sequence, _)| *sequence != next)
    }

    /// Hands out what comes next, as long as it is all there.
    pub(crate) fn execute(&mut self) {
        while let Some(next) = self.durable.committed.get(&self.executing.next()) {
            if !self.batches.has_all(&next.proposal) && !planted!(self, PreparedWithoutData) {
                return;
            }
            let next = next.clone();
            self.executing = next.proposal.sequence;
            self.out.push(Output::Execute(next));
        }
    }

    /// What has waited too long is told to everybody: also by who wishes for another view alone, while the others go on. What
    /// was the first of its account then, and is still the second time, is the primary's fault, if a quorum says that it has it:
    /// fewer may be adversaries and one that they have told of it.
    pub(crate) fn forward_overdue(&mut self, now: Time, next: Time) {
        if now < self.forward_at {
            return;
        }
        let overdue = self.batches.overdue(now, next, FORWARDED_AT_ONCE);
        if overdue.len() == FORWARDED_AT_ONCE {
            self.forward_at = now.plus(self.config.resend_ms);
        }
        let (enough, active) = (self.quorum(), self.phase == Phase::Active);
        let is_blamed = |this: &Self, (digest, passed_over): &(Digest, bool)| {
            *passed_over && active && this.batches.reports(digest) >= enough
        };
        let (blamed, forwarded): (Vec<_>, Vec<_>) = overdue.into_iter().partition(|o| is_blamed(self, o));
        let forwarded: Vec<Digest> = forwarded.into_iter().map(|(digest, _)| digest).collect();
        forwarded.iter().for_each(|digest| self.forward(*digest));
        if !forwarded.is_empty() {
            self.send(To::All, Message::Stored(forwarded));
        }
        if !blamed.is_empty() && !planted!(self, NeverComplains) {
            self.change_view(self.view().next());
        }
    }

    /// A batch goes to everybody who has not said that it is there.
    fn forward(&mut self, digest: Digest) {
        let has: BTreeSet<Seat> = self.batches.reporters(&digest).chain(self.seat).collect();
        let lack = self.durable.set.seats().filter(|seat| !has.contains(seat));
        let keys: Vec<PublicKey> = lack.filter_map(|seat| self.durable.set.key(seat).copied()).collect();
        for key in keys {
            self.out.push(Output::SendBatch { to: To::One(key), digest });
        }
    }

    /// What another one knows of a sequence.
    pub(crate) fn take_pqc(&mut self, entry: PqcEntry) {
        let PqcEntry { proposal, committed, proposed, votes } = entry;
        if let Some(certificate) = committed {
            if certificate.vote.epoch == self.epoch() {
                self.committed(Committed { proposal, certificate });
            }
            return;
        }
        if planted!(self, UnauthenticatedPqc) {
            // As if the word of one were the proof of many.
            if let Some(vote) = votes.iter().find(|v| v.vote.kind == VoteKind::Commit).copied() {
                let certificate =
                    Certificate { vote: vote.vote, signers: Vec::new(), signatures: Vec::new() };
                self.committed(Committed { proposal, certificate });
            }
            return;
        }
        if let Some(vote) = proposed {
            self.proposed(proposal, vote);
        }
        votes.into_iter().for_each(|vote| self.take_vote(vote));
    }

    /// Asks for batches that are not here: of what is proposed or committed, or of what a view may begin with.
    /// Now and then: each answer is a body.
    pub(crate) fn fetch_batches(&mut self) {
        if self.now < self.fetch_at {
            return;
        }
        let proposed = self.log.proposals();
        let committed = self.durable.committed.range(self.executing.next()..).map(|(_, c)| &c.proposal);
        let all: BTreeSet<Digest> = proposed
            .chain(committed)
            .chain(self.may_begin_with())
            .flat_map(|p| &p.batches)
            .filter(|d| !self.batches.knows(d))
            .copied()
            .collect();
        if all.is_empty() {
            self.fetch_tries = 0;
            return;
        }
        self.fetch_at = self.now.plus(self.config.resend_ms);
        let tries = self.fetch_tries;
        self.fetch_tries = tries.saturating_add(1);
        // All of them: what nobody has must not stand before what somebody has.
        let mut asked: BTreeMap<Option<Seat>, Vec<Digest>> = BTreeMap::new();
        for digest in all {
            let known: Vec<Seat> = self.batches.reporters(&digest).collect();
            if known.is_empty() {
                asked.entry(None).or_default().push(digest);
            }
            // One of those that have it, by their word; twice as many each time that they do not answer.
            let count = 1usize.checked_shl(tries).unwrap_or(usize::MAX).min(known.len());
            let from = usize::from(digest.0[0]).saturating_add(tries as usize);
            let first = from.checked_rem(known.len()).unwrap_or(0);
            for seat in known.iter().cycle().skip(first).take(count) {
                asked.entry(Some(*seat)).or_default().push(digest);
            }
        }
        for (seat, digests) in asked {
            let key = seat.and_then(|seat| self.durable.set.key(seat)).copied();
            let to = key.map_or(To::All, To::One);
            for some in digests.chunks(crate::message::MAX_DIGESTS) {
                self.send(to, Message::FetchBatches(some.to_vec()));
            }
        }
    }
}
