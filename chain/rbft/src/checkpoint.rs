//! Checkpoints (PBFT section 4.3), what is forgotten behind them, and the end of an epoch at one.

use crate::certificate::Certificate;
use crate::core::{Phase, Rbft, planted};
use crate::durable::{Durable, Record};
use crate::ids::{Digest, Epoch, Nonce, Seat, Sequence, Time, View};
use crate::io::{Output, SetChange, To};
use crate::log::Log;
use crate::message::Message;
use crate::recovery::Recovery;
use crate::signature::PublicKey;
use crate::validators::ValidatorSet;
use crate::vote::{SignedVote, VoteKind};
use crate::wishes::Wishes;

impl Rbft {
    fn is_boundary(&self, sequence: Sequence) -> bool {
        sequence.0.is_multiple_of(self.config.checkpoint_interval)
    }

    /// A block has been executed.
    pub(crate) fn has_executed(&mut self, sequence: Sequence, state: Digest, change: Option<SetChange>) {
        if sequence != self.executed.next() {
            return;
        }
        self.executed = sequence;
        self.executing = self.executing.max(sequence);
        self.look_at = self.now.plus(2 * self.config.request_timeout_ms);
        self.fruitless = 0;
        self.progress_by = Time(u64::MAX);
        self.looked = false;
        self.end_update(sequence);
        self.is_due(change);
        if self.is_boundary(sequence) {
            self.states.insert(sequence, state);
            self.vote_checkpoint(sequence, state);
            self.count_checkpoint(sequence);
        }
        self.catch_up_with_the_certified();
    }

    /// A change of validators that the state asks for: this epoch ends at the first boundary that is a window behind where it
    /// was asked for, so that nobody can have voted beyond it without knowing.
    pub(crate) fn is_due(&mut self, change: Option<SetChange>) {
        if let (None, Some(change)) = (&self.pending, change) {
            let interval = self.config.checkpoint_interval;
            let at = if planted!(self, EarlyEpoch) {
                change.asked.next()
            } else {
                change.asked.plus(self.config.window())
            };
            let end = Sequence(at.0.div_ceil(interval).saturating_mul(interval));
            // The state at the end of an epoch tells of that one still.
            if end <= self.durable.base {
                return;
            }
            self.pending = Some((end, change));
        }
    }

    fn vote_checkpoint(&mut self, sequence: Sequence, state: Digest) {
        if !self.may_vote() || sequence <= self.stable() {
            return;
        }
        let Some(vote) = self.vote(VoteKind::Checkpoint, View(0), sequence, state) else { return };
        self.checkpoints.entry(sequence).or_default().insert(vote.seat, vote);
        self.send(To::All, Message::Checkpoint { vote, persisted: self.archived });
    }

    /// The chain is archived up to here. A chain that waits for that must hear of it.
    pub(crate) fn has_archived(&mut self, sequence: Sequence) {
        if sequence <= self.archived {
            return;
        }
        self.archived = sequence;
        if let Some(seat) = self.seat {
            self.note_archived(seat, sequence);
        }
        self.forget_batches();
        self.repeat_checkpoint();
    }

    /// The newest own checkpoint vote again, with what is archived by now. It may be the first time: what was executed while
    /// nothing might be promised is still to be voted for, and nobody else may be left to make the quorum.
    pub(crate) fn repeat_checkpoint(&mut self) {
        if !self.may_vote() {
            return;
        }
        let newest = self.states.last_key_value().map(|(sequence, state)| (*sequence, *state));
        if let Some((sequence, state)) = newest.filter(|(sequence, _)| *sequence > self.stable()) {
            self.vote_checkpoint(sequence, state);
            return self.count_checkpoint(sequence);
        }
        let stable = self.durable.stable.as_ref().filter(|c| c.vote.epoch == self.epoch());
        let (sequence, digest) = match stable {
            Some(stable) => (stable.vote.sequence, stable.vote.digest),
            None => return self.send(To::All, self.own_archived()),
        };
        if let Some(vote) = self.vote(VoteKind::Checkpoint, View(0), sequence, digest) {
            self.send(To::All, Message::Checkpoint { vote, persisted: self.archived });
        }
    }

    pub(crate) fn hears_archived(&mut self, from: PublicKey, epoch: Epoch, persisted: Sequence) {
        if let Some(seat) = self.durable.set.seat_of(&from).filter(|_| epoch == self.epoch()) {
            self.note_archived(seat, persisted);
        }
    }

    fn note_archived(&mut self, seat: Seat, persisted: Sequence) {
        let known = self.persisted.entry(seat).or_default();
        if *known < persisted {
            *known = persisted;
            self.count_archived();
        }
    }

    /// The (F + 1)-th highest of what the validators say is archived: at least one correct one has seen it.
    fn count_archived(&mut self) {
        let set = &self.durable.set;
        let mut heights: Vec<Sequence> =
            set.seats().map(|s| self.persisted.get(&s).copied().unwrap_or_default()).collect();
        heights.sort_unstable_by(|a, b| b.cmp(a));
        self.agreed_archived = heights.get(set.faulty()).copied().unwrap_or_default();
    }

    /// What it has seen archived, in a message of its own.
    pub(crate) fn own_archived(&self) -> Message {
        Message::Archived { epoch: self.epoch(), persisted: self.archived }
    }

    pub(crate) fn take_checkpoint(&mut self, from: &PublicKey, vote: SignedVote, persisted: Sequence) {
        let SignedVote { vote: said, seat, .. } = vote;
        if said.epoch > self.epoch() {
            return self.is_behind(seat);
        }
        if said.epoch < self.epoch() {
            return;
        }
        // That is not under the signature: only who casts the vote may say it.
        if self.durable.set.key(seat) == Some(from) {
            self.note_archived(seat, persisted);
        }
        if said.sequence <= self.stable() || !self.is_boundary(said.sequence) {
            return;
        }
        // Within the window all of them, beyond it the newest of each seat: that is enough to see that one is behind.
        let high = self.window_end();
        if said.sequence > high && !planted!(self, UnboundedLog) {
            self.checkpoints.retain(|sequence, votes| {
                if *sequence > high && *sequence < said.sequence {
                    votes.remove(&seat);
                }
                !votes.is_empty()
            });
            let newer =
                self.checkpoints.range(said.sequence.next()..).any(|(_, votes)| votes.contains_key(&seat));
            if newer {
                return;
            }
        }
        let first = *self.checkpoints.entry(said.sequence).or_default().entry(seat).or_insert(vote);
        self.hold_against(first, vote);
        self.count_checkpoint(said.sequence);
    }

    fn count_checkpoint(&mut self, sequence: Sequence) {
        let Some(votes) = self.checkpoints.get(&sequence) else { return };
        let few = planted!(self, CheckpointByFew);
        let quorum = if few { self.durable.set.faulty() + 1 } else { self.quorum() };
        let all: Vec<SignedVote> = votes.values().copied().collect();
        let certificate = all.iter().find_map(|vote| {
            let same = all.iter().filter(|v| v.vote == vote.vote).count();
            let gathered = || Certificate::gather(quorum, self.durable.set.size(), vote.vote, &all);
            if same >= quorum { gathered() } else { None }
        });
        if let Some(certificate) = certificate {
            self.certified(certificate);
        }
    }

    /// A checkpoint is certified: it becomes stable as soon as its state is ours.
    pub(crate) fn certified(&mut self, certificate: Certificate) {
        let sequence = certificate.vote.sequence;
        // Who has left the chain may sign anything under an epoch that is over.
        if sequence <= self.stable() || certificate.vote.epoch != self.epoch() {
            return;
        }
        if sequence <= self.executed {
            return self.make_stable(certificate);
        }
        let newer = self.ahead.as_ref().is_none_or(|known| known.vote.sequence < sequence);
        if newer {
            self.ahead = Some(certificate);
        }
        self.progress_by = self.progress_by.min(self.now.plus(self.config.request_timeout_ms));
    }

    pub(crate) fn catch_up_with_the_certified(&mut self) {
        if self.ahead.as_ref().is_some_and(|c| c.vote.sequence <= self.executed)
            && let Some(certificate) = self.ahead.take()
        {
            self.make_stable(certificate);
        }
    }

    fn make_stable(&mut self, certificate: Certificate) {
        let (sequence, theirs) = (certificate.vote.sequence, certificate.vote.digest);
        if sequence <= self.stable() {
            return;
        }
        match self.states.get(&sequence) {
            Some(ours) if *ours != theirs => {
                let ours = *ours;
                if !self.diverged {
                    self.diverged = true;
                    self.out.push(Output::Diverged { sequence, ours, theirs });
                }
                return;
            }
            Some(_) => {}
            // No boundary of ours: nobody correct has signed that.
            None => return,
        }
        self.persist(Record::Stable(certificate.clone()));
        self.batches.is_stable(sequence);
        self.forget_log(sequence);
        self.checkpoints = self.checkpoints.split_off(&sequence.next());
        self.states = self.states.split_off(&sequence.next());
        self.forget_batches();
        if self.pending.as_ref().is_some_and(|(end, _)| *end == sequence) {
            self.begin_epoch(certificate);
        }
    }

    /// A batch is needed until its block is stable, executed and archived.
    fn forget_batches(&mut self) {
        let early = planted!(self, EarlyBatchDrop);
        // Whoever does not get to look at the archive goes by what the others have seen there.
        let archived = self.archived.max(self.agreed_archived);
        let up_to = if early { self.executing } else { self.stable().min(self.executed).min(archived) };
        for digest in self.batches.over(up_to) {
            if early || !(self.is_listed(&digest) || self.may_bring(&digest)) {
                self.batches.remove(&digest);
                self.out.push(Output::DropBatch(digest));
            }
        }
    }

    /// The present view's log goes, up to a sequence. What was proposed there may be proposed again, unless it is committed.
    pub(crate) fn forget_log(&mut self, up_to: Sequence) {
        for digest in self.log.forget(up_to) {
            self.weigh(&digest);
        }
    }

    /// Whether a batch is one of what it voted for last, at any sequence above the stable checkpoint, or may vote for now.
    /// Somebody may propose again what was committed long ago.
    pub(crate) fn is_listed(&self, digest: &Digest) -> bool {
        let Durable { accepted, prepared, committed, .. } = &self.durable;
        self.log.lists(digest) || accepted.lists(digest) || prepared.lists(digest) || committed.lists(digest)
    }

    pub(crate) fn begin_epoch(&mut self, ended: Certificate) {
        let Some((base, change)) = self.pending.take() else { return };
        let next = Epoch(self.epoch().0 + 1);
        // Execution asks for sets that are ones; it was checked when the change was.
        let Ok(set) = ValidatorSet::new(next, change.keys) else { return };
        let own =
            |(key, nonce): &(PublicKey, Nonce)| *key == self.key && self.durable.amnesia == Some(*nonce);
        let rejoins = change.rejoined.iter().any(own);
        self.persist(Record::Epoch { set: set.clone(), base, ended: Some(ended), rejoins });
        self.seat = set.seat_of(&self.key);
        self.phase = Phase::Active;
        self.log = Log::default();
        self.checkpoints.clear();
        self.wishes = Wishes::new(View(0));
        self.begun_at = base;
        self.persisted.clear();
        if let Some(seat) = self.seat {
            self.persisted.insert(seat, self.archived);
        }
        self.count_archived();
        self.accused.clear();
        self.next = base.next();
        self.fruitless = 0;
        self.batches.new_epoch(self.durable.set.faulty() + 1);
        self.batches.begin_anew(self.now.plus(self.config.request_timeout_ms));
        self.out.push(Output::Epoch(set));
        self.repeat_stored();
        // What is archived must be known again in the new set.
        self.repeat_checkpoint();
    }

    /// The state of a checkpoint has come, in place of executing up to it.
    pub(crate) fn has_updated(
        &mut self,
        certificate: Certificate,
        change: Option<SetChange>,
        done: &[Digest],
    ) {
        let (sequence, digest) = (certificate.vote.sequence, certificate.vote.digest);
        if sequence <= self.executed || certificate.vote.epoch != self.epoch() {
            self.end_update(sequence);
            return;
        }
        self.executed = sequence;
        self.executing = self.executing.max(sequence);
        self.next = self.next.max(sequence.next());
        self.states.insert(sequence, digest);
        done.iter().for_each(|batch| self.batches.is_in_the_state(batch, sequence));
        self.is_due(change);
        self.end_update(sequence);
        self.make_stable(certificate);
        self.catch_up_with_the_certified();
        self.progress_by = Time(u64::MAX);
    }

    /// A seat speaks of a later epoch. If so many do that a correct one is among them, this one has missed its beginning.
    pub(crate) fn is_behind(&mut self, seat: Seat) {
        self.later.insert(seat);
        let asks = matches!(self.recovery, Some(Recovery::Negotiating { .. } | Recovery::Locating { .. }));
        if !asks && self.later.len() > self.durable.set.faulty() {
            self.later.clear();
            self.locate(false);
        }
    }
}
