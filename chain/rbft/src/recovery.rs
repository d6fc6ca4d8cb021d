//! Recovery, by the steps of the white paper: negotiate the view, find the highest certified checkpoint, update the state to
//! it, fetch what is under way (PQC), follow. On every start, and whenever the others turn out to be ahead.
//!
//! Answers carry the nonce of their question, so an old one is worth nothing. Who recovers answers others all the same: a
//! cluster that starts as a whole comes up.

use std::collections::BTreeMap;

use crate::certificate::Certificate;
use crate::core::{Phase, Rbft, planted};
use crate::ids::{Epoch, Nonce, Sequence, Time, View};
use crate::io::{KnownBatch, Output, SetChange, To};
use crate::message::{MAX_PQC, Message, NewView, PqcEntry};
use crate::signature::PublicKey;

/// Where a recovery is.
#[derive(Debug)]
pub(crate) enum Recovery {
    /// It asks which view it is.
    Negotiating { nonce: Nonce, answers: BTreeMap<PublicKey, Option<NewView>> },
    /// It asks where the chain stands: at its start, or because nothing has happened for a while.
    Locating { first: bool, nonce: Nonce, answers: BTreeMap<PublicKey, Option<Certificate>> },
    /// It waits for the state of a checkpoint.
    Updating { sequence: Sequence },
}

impl Recovery {
    /// Whether it does not know yet where the others are: then it promises nothing.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Negotiating { .. } | Self::Locating { first: true, .. })
    }
}

impl Rbft {
    pub(crate) fn start(&mut self, secret: Nonce, change: Option<SetChange>, batches: Vec<KnownBatch>) {
        self.secret = secret;
        self.is_due(change);
        let deadline = self.now.plus(self.timeout());
        for KnownBatch { digest, origin, done } in batches {
            let own = (origin == self.key).then_some(origin);
            self.batches.found(digest, own, self.now, deadline);
            if done {
                self.batches.is_in_the_state(&digest, self.executed);
            }
            self.weigh(&digest);
        }
        // Those are committed, and will be executed again; nobody waits for them.
        for block in self.durable.committed.values() {
            self.batches.committed(&block.proposal);
        }
        self.resend_at = self.now.plus(self.config.resend_ms);
        // The last record before the end of the epoch may be the last that is on disk.
        let ended = self.durable.stable.clone().filter(|c| c.vote.epoch == self.epoch());
        if let Some(ended) = ended.filter(|c| self.pending.as_ref().is_some_and(|p| p.0 == c.vote.sequence)) {
            self.begin_epoch(ended);
        }
        self.enter_again();
        // Blocks above the checkpoint are executed again by the shell's state, which is that of the checkpoint.
        self.negotiate();
    }

    /// Numbers that follow from a secret one, which is never sent itself.
    fn nonce(&mut self) -> Nonce {
        self.nonces += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"wmall.rbftnonce1");
        hasher.update(&self.secret.0.to_le_bytes());
        hasher.update(&self.nonces.to_le_bytes());
        let hash = hasher.finalize();
        Nonce(hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    fn negotiate(&mut self) {
        let nonce = self.nonce();
        let own = BTreeMap::from([(self.key, self.durable.new_view.clone())]);
        self.recovery = Some(Recovery::Negotiating { nonce, answers: own });
        self.ask_for_the_view(nonce);
    }

    /// Asks which view it is, if it is another one than this replica is in.
    fn ask_for_the_view(&mut self, nonce: Nonce) {
        let view = if self.phase == Phase::Active { self.view().next() } else { self.view() };
        self.send(To::All, Message::Negotiate { nonce, epoch: self.epoch(), view });
    }

    pub(crate) fn answer_negotiate(&mut self, from: PublicKey, nonce: Nonce, epoch: Epoch, view: View) {
        let wanted = |n: &NewView| epoch == self.epoch() && n.view >= view;
        let new_view = self.durable.new_view.clone().filter(wanted);
        self.send(To::One(from), Message::Negotiated { nonce, epoch: self.epoch(), new_view });
    }

    pub(crate) fn negotiated(
        &mut self,
        from: PublicKey,
        nonce: Nonce,
        epoch: Epoch,
        new_view: Option<NewView>,
    ) {
        let (own, quorum) = (self.epoch(), self.quorum());
        let unchecked = planted!(self, NonceNotChecked);
        // A view proves itself. Who has missed its beginning follows the chain all the same, and would not vote in it.
        if let (Some(Recovery::Locating { nonce: asked, .. }), Some(new_view)) = (&self.recovery, &new_view)
            && *asked == nonce
            && epoch == own
        {
            return self.take_new_view(new_view.clone());
        }
        let Some(Recovery::Negotiating { nonce: asked, answers }) = &mut self.recovery else { return };
        if (*asked != nonce && !unchecked) || self.durable.set.seat_of(&from).is_none() {
            return;
        }
        answers.insert(from, new_view.filter(|_| epoch == own));
        if answers.len() < quorum {
            return;
        }
        let newest = answers.values().flatten().max_by_key(|n| n.view).cloned();
        self.locate(true);
        if let Some(newest) = newest {
            self.take_new_view(newest);
        }
    }

    pub(crate) fn locate(&mut self, first: bool) {
        self.look_at = self.now.plus(2 * self.config.request_timeout_ms);
        let nonce = self.nonce();
        let own = BTreeMap::from([(self.key, self.durable.stable.clone())]);
        self.recovery = Some(Recovery::Locating { first, nonce, answers: own });
        self.ask_for_the_place(first, nonce);
    }

    /// Asks where the chain stands; and in which view by now, if that was known before.
    fn ask_for_the_place(&mut self, first: bool, nonce: Nonce) {
        self.send(To::All, Message::RecoveryInit { nonce, epoch: self.epoch() });
        if !first {
            self.ask_for_the_view(nonce);
        }
    }

    pub(crate) fn answer_recovery(&mut self, from: PublicKey, nonce: Nonce, epoch: Epoch) {
        let stable = if epoch < self.epoch() {
            // Nothing later can be judged by who is in that epoch.
            self.durable.ended.get(&epoch).cloned()
        } else {
            self.durable.stable.clone()
        };
        self.send(To::One(from), Message::Recovery { nonce, stable, executed: self.executed });
        // Who was restarted has forgotten how far each has seen the chain archived.
        self.send(To::One(from), self.own_archived());
    }

    pub(crate) fn located(&mut self, from: PublicKey, nonce: Nonce, stable: Option<Certificate>) {
        let quorum = self.quorum();
        let unchecked = planted!(self, NonceNotChecked);
        let Some(Recovery::Locating { nonce: asked, answers, .. }) = &mut self.recovery else { return };
        if (*asked != nonce && !unchecked) || self.durable.set.seat_of(&from).is_none() {
            return;
        }
        answers.insert(from, stable);
        if answers.len() < quorum {
            return;
        }
        let epoch = self.durable.set.epoch();
        let own = answers.values().flatten().filter(|c| c.vote.epoch == epoch);
        let highest = own.max_by_key(|c| c.vote.sequence).cloned();
        self.recovery = None;
        if let Some(highest) = highest.filter(|c| c.vote.sequence > self.stable()) {
            self.certified(highest);
            self.update();
        }
        self.fetch();
        self.wish_again();
    }

    /// Has the state of the certified checkpoint fetched.
    pub(crate) fn update(&mut self) {
        // What is kept for inquiry stays; and who does not know where the others are asks on, and votes only then.
        let is_lost = self.recovery.as_ref().is_some_and(Recovery::is_lost);
        let Some(certificate) = self.ahead.clone().filter(|_| !self.diverged && !is_lost) else { return };
        let sequence = certificate.vote.sequence;
        let under_way =
            matches!(&self.recovery, Some(Recovery::Updating { sequence: known }) if *known >= sequence);
        if certificate.vote.epoch == self.epoch() && sequence > self.executed && !under_way {
            self.recovery = Some(Recovery::Updating { sequence });
            self.out.push(Output::Update(certificate));
        }
    }

    pub(crate) fn end_update(&mut self, sequence: Sequence) {
        if matches!(&self.recovery, Some(Recovery::Updating { sequence: wanted }) if *wanted <= sequence) {
            self.recovery = None;
        }
    }

    /// Asks for what is known behind what was executed.
    pub(crate) fn fetch(&mut self) {
        let (from, to) = (self.executing.next(), self.window_end());
        if from <= to {
            self.send(To::All, Message::FetchPqc { from, to });
        }
    }

    pub(crate) fn answer_pqc(&mut self, from: PublicKey, first: Sequence, last: Sequence) {
        let mut entries = Vec::new();
        let primary = self.durable.set.primary(self.view());
        let known = self.durable.committed.range(first..).map(|(s, _)| *s);
        let mut wanted: Vec<Sequence> =
            known.chain(self.log.iter().map(|(s, _)| s).filter(|s| *s >= first)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for sequence in wanted.into_iter().filter(|s| *s <= last).take(MAX_PQC) {
            if let Some(committed) = self.durable.committed.get(&sequence) {
                let (proposal, certificate) = (committed.proposal.clone(), committed.certificate.clone());
                entries.push(PqcEntry {
                    proposal,
                    committed: Some(certificate),
                    proposed: None,
                    votes: vec![],
                });
                continue;
            }
            let Some(slot) = self.log.get(sequence) else { continue };
            let Some((digest, proposal)) = slot.proposal.clone() else { continue };
            let of = |votes: &BTreeMap<crate::Seat, crate::SignedVote>, seat| {
                votes.get(&seat).copied().filter(|v| v.vote.digest == digest)
            };
            let own = self.seat.into_iter();
            let votes = own.flat_map(|seat| [of(&slot.prepares, seat), of(&slot.commits, seat)]).flatten();
            let proposed = of(&slot.prepares, primary);
            entries.push(PqcEntry { proposal, committed: None, proposed, votes: votes.collect() });
        }
        if !entries.is_empty() {
            self.send(To::One(from), Message::Pqc(entries));
        }
    }

    /// After a restart amid a view change: what it wished for, it wishes for still.
    fn wish_again(&mut self) {
        if self.phase != Phase::Active {
            self.wish();
        }
    }

    /// Nothing was executed for too long although something should have been.
    pub(crate) fn stalled(&mut self) {
        self.progress_by = self.now.plus(self.timeout());
        if self.ahead.is_some() {
            self.update();
            return;
        }
        // It is our own execution that takes so long.
        if self.executing > self.executed {
            return;
        }
        let open = self.log.slots().any(|s| s.proposal.is_some() && !s.committed);
        let due = self.is_short_of_a_boundary() || open || self.has_gap();
        if !due || self.is_waiting_for_the_archive() {
            self.progress_by = Time(u64::MAX);
            return;
        }
        // A gap may be one of ours alone: the others may be beyond it.
        if !open && self.has_gap() && !std::mem::replace(&mut self.looked, true) && self.recovery.is_none() {
            return self.locate(false);
        }
        if self.phase == Phase::Active && !planted!(self, NeverComplains) {
            self.change_view(self.view().next());
        }
    }

    /// What may have been lost is said again.
    pub(crate) fn resend(&mut self) {
        match &self.recovery {
            Some(Recovery::Negotiating { nonce, .. }) => self.ask_for_the_view(*nonce),
            Some(Recovery::Locating { first, nonce, .. }) => self.ask_for_the_place(*first, *nonce),
            Some(Recovery::Updating { .. }) | None => {}
        }
        if self.phase != Phase::Active {
            self.wish();
        }
        // Also while it waits for a state: the others may be at a later one by now, and have that of the earlier no more.
        let asks = matches!(self.recovery, Some(Recovery::Negotiating { .. } | Recovery::Locating { .. }));
        if self.look_at <= self.now && !asks {
            self.locate(false);
        }
        self.fetch_batches();
        let open = self.log.slots().any(|s| !s.committed) || self.has_gap();
        if open || self.ahead.is_some() {
            self.fetch();
        }
        let due = open || self.is_short_of_a_boundary() || self.ahead.is_some();
        if due && self.progress_by == Time(u64::MAX) {
            self.progress_by = self.now.plus(self.timeout());
        }
        self.propose_again();
        let at_its_beginning = self.executed == self.durable.base && self.epoch().0 > 0;
        let untold = !self.checkpoints.is_empty() || !self.states.is_empty();
        if untold || self.is_waiting_for_the_archive() || at_its_beginning {
            self.repeat_checkpoint();
        }
        if let Some(nonce) = self.durable.amnesia
            && self.rejoin_at <= self.now
        {
            self.rejoin_at = self.now.plus(self.config.request_timeout_ms);
            self.out.push(Output::Rejoin(nonce));
        }
    }

    /// The first of its own proposals that is still open: who has not heard of it asks for the rest.
    fn propose_again(&mut self) {
        if self.phase != Phase::Active || !self.is_primary() || !self.may_vote() {
            return;
        }
        let open = self.log.slots().find(|s| !s.committed).and_then(|s| s.proposal.as_ref());
        let own = open.and_then(|(_, proposal)| self.voted_before(proposal.sequence)).cloned();
        if let Some((proposal, vote)) = own {
            self.send(To::All, Message::PrePrepare { proposal, vote });
        }
    }
}
