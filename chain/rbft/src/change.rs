//! View change and new view, with signed certificates (Castro and Liskov 1999, section 4.4).

use crate::core::{Phase, Rbft, planted};
use crate::durable::Record;
use crate::ids::{Sequence, View};
use crate::io::{Output, To};
use crate::message::{Message, NewView, Prepared, ViewChange};
use crate::outcome::Outcome;
use crate::proposal::Proposal;
use crate::signature::PublicKey;

impl Rbft {
    /// Wishes for a view. It never wishes for an earlier one again, not even after a restart.
    pub(crate) fn change_view(&mut self, view: View) {
        if view <= self.view() || !self.may_vote() {
            return;
        }
        let epoch = self.epoch();
        if planted!(self, ViewGoesBack) {
            self.durable.apply(&Record::View { epoch, view });
        } else {
            self.persist(Record::View { epoch, view });
        }
        self.phase = Phase::Changing { deadline: None };
        self.wishes.turn_to(view);
        self.fruitless = self.fruitless.saturating_add(1);
        self.forget_log(Sequence(u64::MAX));
        self.wish();
    }

    /// Says that it wishes for the present view, and looks whether enough others do.
    pub(crate) fn wish(&mut self) {
        let Some(seat) = self.seat.filter(|_| self.may_vote()) else { return };
        let epoch = self.epoch();
        let above = self.durable.prepared.range(self.stable().next()..);
        let own = above.map(|(_, (prepared, _))| prepared).filter(|p| p.certificate.vote.epoch == epoch);
        let mut prepared: Vec<Prepared> = own.cloned().collect();
        if planted!(self, ForgottenPrepared) {
            prepared.pop();
        }
        let stable = self.durable.stable.clone();
        let mut change = ViewChange { epoch, view: self.view(), stable, prepared, seat, signature: [0; 64] };
        change.signature = self.signer.sign(&change.signing_bytes(&self.chain));
        self.wishes.insert(change.clone());
        self.send(To::All, Message::ViewChange(change));
        self.count_changes();
    }

    pub(crate) fn take_view_change(&mut self, from: &PublicKey, change: ViewChange) {
        if change.epoch > self.epoch() {
            return self.is_behind(change.seat);
        }
        if change.epoch < self.epoch() {
            return self.tell_the_epoch(change.epoch, change.seat);
        }
        if !self.fits_the_epoch(&change) {
            return;
        }
        let begun = self.phase == Phase::Active && change.view <= self.view();
        if begun || change.view < self.view() {
            // It does not know that the view has begun.
            if let Some(new_view) = self.durable.new_view.clone().filter(|_| begun)
                // Others repeat it as well, and one wish should not bring a seat an answer to each.
                && self.durable.set.key(change.seat) == Some(from)
            {
                self.send(To::One(*from), Message::NewView(new_view));
            }
            return;
        }
        // What came while it recovered has changed nothing yet: said again, it does.
        if self.wishes.get(change.seat).is_none_or(|known| known.view < change.view) {
            self.wishes.insert(change);
        }
        self.join();
        self.count_changes();
    }

    /// Somebody wishes for something in an epoch that is over.
    fn tell_the_epoch(&mut self, theirs: crate::Epoch, seat: crate::Seat) {
        if let Some(key) = self.durable.sets.get(theirs).and_then(|set| set.key(seat)).copied() {
            self.send(To::One(key), self.own_archived());
        }
    }

    /// Its checkpoint is one of this epoch, or the one that the epoch begins with; and nothing lies beyond its window.
    fn fits_the_epoch(&self, change: &ViewChange) -> bool {
        let stable = change.stable.as_ref().map_or(Sequence(0), |c| c.vote.sequence);
        let low = stable.max(self.durable.base);
        let high = low.plus(self.config.window());
        let within = |p: &Prepared| low < p.proposal.sequence && p.proposal.sequence <= high;
        let of_this = change.stable.as_ref().is_none_or(|c| c.vote.epoch == self.epoch());
        let fits = if of_this { stable >= self.durable.base } else { stable == self.durable.base };
        fits && change.prepared.iter().all(within)
    }

    /// If so many wish for later views that a correct one is among them, it joins the smallest of these.
    fn join(&mut self) {
        let later = self.wishes.values().map(|c| c.view).filter(|view| *view > self.view());
        let later: Vec<View> = later.collect();
        if later.len() > self.durable.set.faulty()
            && let Some(smallest) = later.into_iter().min()
        {
            self.change_view(smallest);
        }
    }

    /// A quorum wishes for this view: it has a time to begin, and its primary begins it.
    pub(crate) fn count_changes(&mut self) {
        let Phase::Changing { deadline } = self.phase else { return };
        let view = self.view();
        let quorum = self.quorum();
        // Who wishes for a later one has given this one up: without its word, those who wait here might wait for ever.
        let gone = self.wishes.values().filter(|c| c.view >= view).count();
        if gone >= quorum && deadline.is_none() {
            self.phase = Phase::Changing { deadline: Some(self.now.plus(self.timeout())) };
        }
        if !self.is_primary() || !self.may_vote() {
            return;
        }
        if let Some(changes) = self.beginning() {
            let mut new_view = NewView { epoch: self.epoch(), view, changes, signature: [0; 64] };
            new_view.signature = self.signer.sign(&new_view.signing_bytes(&self.chain));
            self.enter(new_view.clone());
            self.send(To::All, Message::NewView(new_view));
            return;
        }
        self.fetch_batches();
    }

    /// A quorum of the wishes for this view that lead to proposals of which everything is on disk here, so that the others can
    /// have it. Any quorum will do: what was committed is in each of them. One adversary may prove what it has seen prepared
    /// and nobody correct has, and for which nobody keeps the batches any more; a view that begins with that stands still.
    fn beginning(&self) -> Option<Vec<ViewChange>> {
        let (view, quorum) = (self.view(), self.quorum());
        let mut wishes: Vec<&ViewChange> = self.wishes.values().filter(|c| c.view == view).collect();
        let stable = |c: &ViewChange| c.stable.as_ref().map(|c| c.vote.sequence);
        // Who has come furthest says best what nobody needs any more.
        wishes.sort_by_key(|c| (std::cmp::Reverse(stable(c)), c.seat));
        while wishes.len() >= quorum {
            let mut chosen: Vec<ViewChange> = wishes.iter().take(quorum).map(|c| (*c).clone()).collect();
            chosen.sort_by_key(|c| c.seat);
            let outcome = Outcome::of(self.epoch(), self.durable.base, &chosen);
            let mut proposals = outcome.proposals.into_values();
            let lacking = proposals.find(|p| p.sequence > self.stable() && !self.batches.has_all(p));
            let Some(lacking) = lacking else {
                return Some(chosen);
            };
            wishes.retain(|c| c.prepared.iter().all(|p| p.proposal != lacking));
        }
        None
    }

    /// Whether it is to begin the view that it waits for.
    fn is_to_begin(&self) -> bool {
        matches!(self.phase, Phase::Changing { .. }) && self.is_primary()
    }

    /// What the view that it is to begin may begin with: what others have seen prepared.
    pub(crate) fn may_begin_with(&self) -> impl Iterator<Item = &Proposal> {
        let (begins, view, low) = (self.is_to_begin(), self.view(), self.stable());
        let wishes = self.wishes.values().filter(move |c| begins && c.view == view);
        let proposals = wishes.flat_map(|c| &c.prepared).map(|p| &p.proposal);
        proposals.filter(move |p| p.sequence > low)
    }

    /// Whether the view that it is to begin may bring a batch.
    pub(crate) fn may_bring(&self, batch: &crate::Digest) -> bool {
        self.is_to_begin() && self.wishes.bring(batch)
    }

    pub(crate) fn take_new_view(&mut self, new_view: NewView) {
        let known = self.phase == Phase::Active && new_view.view == self.view();
        let fits = new_view.changes.iter().all(|change| self.fits_the_epoch(change));
        if new_view.epoch == self.epoch() && new_view.view >= self.view() && !known && fits {
            self.enter(new_view);
        }
    }

    /// A view begins: with what the view changes lead to, which stands for pre-prepares.
    pub(crate) fn enter(&mut self, new_view: NewView) {
        let mut outcome = Outcome::of(self.epoch(), self.durable.base, &new_view.changes);
        if planted!(self, NewViewFromLowerView) {
            outcome = Outcome::of_the_lowest(self.epoch(), self.durable.base, &new_view.changes);
        }
        if planted!(self, ViewInDigest) {
            outcome
                .proposals
                .values_mut()
                .for_each(|p| p.time_ms = p.time_ms.saturating_add(new_view.view.0));
        }
        self.persist(Record::Entered(new_view));
        self.phase = Phase::Active;
        let view = self.view();
        self.wishes.begun(view);
        self.begin_with(outcome);
        for digest in self.batches.lent() {
            if !self.is_listed(&digest) {
                self.batches.give_back(&digest);
                self.out.push(Output::DropBatch(digest));
            }
        }
        self.batches.begin_anew(self.now.plus(self.timeout()));
        self.progress_by = self.now.plus(self.timeout());
        self.repeat_stored();
    }

    /// After a restart, the view that it is in begins with what it began with before.
    pub(crate) fn enter_again(&mut self) {
        if let Some(new_view) = self.durable.new_view.as_ref().filter(|_| self.phase == Phase::Active) {
            let outcome = Outcome::of(self.epoch(), self.durable.base, &new_view.changes);
            self.begin_with(outcome);
        }
    }

    fn begin_with(&mut self, outcome: Outcome) {
        self.forget_log(Sequence(u64::MAX));
        self.begun_at = outcome.from;
        let last = outcome.proposals.keys().next_back().copied().unwrap_or(outcome.from);
        self.next = last.max(self.executed).next();
        if let Some(stable) = outcome.stable {
            self.certified(stable);
        }
        let low = self.stable();
        for (sequence, proposal) in outcome.proposals {
            if sequence > low {
                let digest = proposal.digest(&self.chain);
                self.put_proposal(digest, proposal);
            }
        }
    }

    /// What it has on disk and nobody has committed, for a primary that may not have heard.
    pub(crate) fn repeat_stored(&mut self) {
        let waiting: Vec<crate::Digest> = self.batches.waiting().copied().collect();
        for some in waiting.chunks(crate::message::MAX_DIGESTS) {
            self.send(To::All, Message::Stored(some.to_vec()));
        }
    }
}
