//! Messages that no core would say, put together of what was heard: proposals below and beyond the window, votes for what was
//! not prepared, view changes that claim old or foreign things, new views of any quorum that wished for them, proofs of long
//! ago for who recovers. All are signed well, by the one validator that says them.

use std::collections::{BTreeMap, VecDeque};

use wmall_rbft::{
    Batch, Certificate, ChainId, Digest, Epoch, Message, NewView, Nonce, PqcEntry, Prepared, Proposal, Seat,
    Sequence, SignedVote, Signer, View, ViewChange, Vote, VoteKind,
};

use super::adversary::Place;
use super::dice::Dice;
use super::ledger::{Request, encode};

/// Of each thing, so many are remembered.
const REMEMBERED: usize = 48;
/// Requests from here on are adversaries' own.
const STRANGE: u64 = 1 << 48;
/// How many of them there are, by the number of validators: each is told by everybody to everybody.
const MAX_STRANGE: usize = 200;

/// What an adversary has heard and can use again.
#[derive(Default)]
pub(super) struct Composer {
    proposals: VecDeque<Proposal>,
    stables: VecDeque<Certificate>,
    prepared: VecDeque<Prepared>,
    committed: VecDeque<(Proposal, Certificate)>,
    new_views: VecDeque<NewView>,
    nonces: VecDeque<Nonce>,
    changes: BTreeMap<(Epoch, View, Seat), ViewChange>,
    /// Prepare votes, by what they are for: of a quorum of them it makes a proof that nobody else may have.
    prepares: BTreeMap<(Epoch, View, Sequence, Digest), BTreeMap<Seat, SignedVote>>,
    /// Batches that it has made up.
    strange: usize,
}

fn remember<T>(all: &mut VecDeque<T>, one: T) {
    if all.len() == REMEMBERED {
        all.pop_front();
    }
    all.push_back(one);
}

fn any<'a, T>(all: &'a VecDeque<T>, dice: &mut Dice) -> Option<&'a T> {
    all.get(dice.roll(all.len() as u64) as usize)
}

/// Who composes, and where it is.
struct Author<'a> {
    chain: &'a ChainId,
    signer: &'a dyn Signer,
    at: &'a Place<'a>,
    seat: Seat,
}

impl Author<'_> {
    fn vote(&self, kind: VoteKind, view: View, proposal: &Proposal) -> SignedVote {
        let (epoch, sequence) = (proposal.epoch, proposal.sequence);
        let vote = Vote { epoch, kind, view, sequence, digest: proposal.digest(self.chain) };
        vote.sign(self.chain, self.seat, self.signer)
    }

    /// The present view, or the next that is its own to lead.
    fn own_view(&self, from: View) -> Option<View> {
        (from.0..from.0 + self.at.set.size() as u64).map(View).find(|v| self.at.set.primary(*v) == self.seat)
    }
}

impl Composer {
    pub(super) fn hears(&mut self, message: &Message) {
        match message {
            Message::PrePrepare { proposal, vote } => {
                remember(&mut self.proposals, proposal.clone());
                self.hears_prepare(*vote);
            }
            Message::Prepare(vote) => self.hears_prepare(*vote),
            Message::ViewChange(change) => self.hears_change(change),
            Message::NewView(new_view) | Message::Negotiated { new_view: Some(new_view), .. } => {
                new_view.changes.iter().for_each(|change| self.hears_change(change));
                remember(&mut self.new_views, new_view.clone());
            }
            Message::Recovery { stable: Some(stable), .. } => remember(&mut self.stables, stable.clone()),
            Message::Negotiate { nonce, .. } | Message::RecoveryInit { nonce, .. } => {
                remember(&mut self.nonces, *nonce);
            }
            Message::Pqc(entries) => {
                for entry in entries {
                    remember(&mut self.proposals, entry.proposal.clone());
                    if let Some(proof) = &entry.committed {
                        remember(&mut self.committed, (entry.proposal.clone(), proof.clone()));
                    }
                }
            }
            _ => {}
        }
    }

    fn hears_prepare(&mut self, vote: SignedVote) {
        let Vote { epoch, view, sequence, digest, .. } = vote.vote;
        self.prepares.entry((epoch, view, sequence, digest)).or_default().insert(vote.seat, vote);
        if self.prepares.len() > 4 * REMEMBERED {
            self.prepares.pop_first();
        }
    }

    /// What it can prove that was prepared, its own vote added.
    fn proves(&self, by: &Author<'_>) -> impl Iterator<Item = Prepared> {
        let (size, quorum) = (by.at.set.size(), by.at.set.quorum());
        self.proposals.iter().flat_map(move |proposal| {
            let (epoch, digest) = (proposal.epoch, proposal.digest(by.chain));
            let range = (epoch, View(0), Sequence(0), Digest([0; 32]))..;
            let of_this = self.prepares.range(range).filter(move |((e, _, sequence, d), _)| {
                *e == epoch && *sequence == proposal.sequence && *d == digest
            });
            of_this.filter_map(move |((_, view, ..), votes)| {
                let mut votes = votes.clone();
                votes.entry(by.seat).or_insert_with(|| by.vote(VoteKind::Prepare, *view, proposal));
                let votes: Vec<SignedVote> = votes.into_values().collect();
                let vote = votes.first()?.vote;
                let certificate = Certificate::gather(quorum, size, vote, &votes)?;
                Some(Prepared { proposal: proposal.clone(), certificate })
            })
        })
    }

    fn hears_change(&mut self, change: &ViewChange) {
        change.stable.iter().for_each(|stable| remember(&mut self.stables, stable.clone()));
        change.prepared.iter().for_each(|prepared| remember(&mut self.prepared, prepared.clone()));
        self.changes.insert((change.epoch, change.view, change.seat), change.clone());
        if self.changes.len() > 4 * REMEMBERED {
            self.changes.pop_first();
        }
    }

    /// One of these messages; none if what it needs was not heard yet.
    pub(super) fn compose(
        &mut self,
        chain: &ChainId,
        signer: &dyn Signer,
        at: &Place<'_>,
        dice: &mut Dice,
    ) -> Option<Message> {
        let seat = at.set.seat_of(&at.key)?;
        let by = Author { chain, signer, at, seat };
        match dice.roll(9) {
            0 => self.proposal(&by, dice),
            1 => self.vote(&by, dice),
            2 => Some(self.checkpoint(&by, dice)),
            3 => {
                let (view, stable) = (View(at.view.0 + dice.roll(3)), any(&self.stables, dice).cloned());
                Some(Message::ViewChange(self.change(&by, view, stable, 3, dice)))
            }
            4 => self.new_view(&by, dice),
            5 => self.pqc(&by, dice),
            6 => self.answer(dice),
            // For this peer's ears only: more than the others would take of it at once.
            7 if self.strange < MAX_STRANGE / at.set.size() => {
                self.strange += 1;
                let payload = encode(&[Request::Plain(STRANGE | dice.any() >> 20)]);
                Some(Message::Batch(Batch::sign(chain, at.key, payload, signer)))
            }
            _ => Some(Message::Archived { epoch: at.set.epoch(), persisted: Sequence(dice.any()) }),
        }
    }

    /// In place of a wish one for the same view that claims all that it can prove was prepared, or nothing of it.
    pub(super) fn tells_or_hides(
        &self,
        chain: &ChainId,
        signer: &dyn Signer,
        at: &Place<'_>,
        wish: &ViewChange,
        dice: &mut Dice,
    ) -> Message {
        let by = Author { chain, signer, at, seat: wish.seat };
        let left_out = dice.roll(2);
        Message::ViewChange(self.change(&by, wish.view, wish.stable.clone(), left_out, dice))
    }

    /// A proposal of its own, at any sequence around the window, with batches that others have proposed.
    fn proposal(&self, by: &Author<'_>, dice: &mut Dice) -> Option<Message> {
        let sequence = Sequence((by.at.stable.0 + dice.roll(by.at.window + 3)).saturating_sub(1));
        let known = any(&self.proposals, dice)?;
        let batches = known.batches.iter().copied().filter(|_| !dice.one_in(3)).collect();
        let proposal = Proposal { epoch: by.at.set.epoch(), sequence, time_ms: known.time_ms, batches };
        let vote = by.vote(VoteKind::Prepare, by.own_view(by.at.view)?, &proposal);
        Some(Message::PrePrepare { proposal, vote })
    }

    /// A vote for something that others have proposed, in this view or one beside it.
    fn vote(&self, by: &Author<'_>, dice: &mut Dice) -> Option<Message> {
        let proposal = any(&self.proposals, dice)?;
        let view = View((by.at.view.0 + dice.roll(3)).saturating_sub(1));
        if dice.one_in(2) {
            return Some(Message::Prepare(by.vote(VoteKind::Prepare, view, proposal)));
        }
        Some(Message::Commit(by.vote(VoteKind::Commit, view, proposal)))
    }

    /// A checkpoint that is not there.
    fn checkpoint(&self, by: &Author<'_>, dice: &mut Dice) -> Message {
        let sequence = Sequence(by.at.stable.0 + dice.roll(2 * by.at.window));
        let digest = any(&self.stables, dice).map_or(Digest([dice.roll(3) as u8; 32]), |c| c.vote.digest);
        let kind = VoteKind::Checkpoint;
        let vote = Vote { epoch: by.at.set.epoch(), kind, view: View(0), sequence, digest };
        let vote = vote.sign(by.chain, by.seat, by.signer);
        Message::Checkpoint { vote, persisted: Sequence(dice.any()) }
    }

    /// A wish that stands on this checkpoint and claims what was prepared, but for one in so many: 1 for nothing, 0 for all.
    fn change(
        &self,
        by: &Author<'_>,
        view: View,
        stable: Option<Certificate>,
        left_out: u64,
        dice: &mut Dice,
    ) -> ViewChange {
        let epoch = by.at.set.epoch();
        let stable = stable.filter(|c| c.vote.epoch <= epoch);
        let mut claims: BTreeMap<Sequence, Prepared> = BTreeMap::new();
        let low = stable.as_ref().map_or(Sequence(0), |c| c.vote.sequence);
        for prepared in self.prepared.iter().cloned().chain(self.proves(by)) {
            let vote = prepared.certificate.vote;
            let fits = vote.epoch == epoch
                && vote.view < view
                && (low.0 + 1..=low.0 + by.at.window).contains(&vote.sequence.0);
            // Of two, what was prepared first: the others know better by now.
            let older = claims.get(&vote.sequence).is_none_or(|c| c.certificate.vote.view > vote.view);
            if fits && older && !dice.one_in(left_out) {
                claims.insert(vote.sequence, prepared);
            }
        }
        let prepared = claims.into_values().collect();
        let mut change = ViewChange { epoch, view, stable, prepared, seat: by.seat, signature: [0; 64] };
        change.signature = by.signer.sign(&change.signing_bytes(by.chain));
        change
    }

    /// A view of its own, begun with any quorum of those that wished for it, its own wish made up.
    fn new_view(&self, by: &Author<'_>, dice: &mut Dice) -> Option<Message> {
        let epoch = by.at.set.epoch();
        let near = by.at.view.0..=by.at.view.0 + by.at.set.size() as u64;
        let ours = |c: &&ViewChange| c.epoch == epoch && c.seat != by.seat && near.contains(&c.view.0);
        let heard = self.changes.values().filter(ours);
        let view = by.own_view(heard.map(|c| c.view).max().unwrap_or(by.at.view))?;
        let mut changes: Vec<ViewChange> =
            self.changes.values().filter(|c| (c.epoch, c.view) == (epoch, view)).cloned().collect();
        changes.retain(|c| c.seat != by.seat);
        changes.push(self.change(by, view, any(&self.stables, dice).cloned(), 3, dice));
        while changes.len() > by.at.set.quorum() {
            changes.remove(dice.roll(changes.len() as u64) as usize);
        }
        changes.sort_by_key(|c| c.seat);
        let mut new_view = NewView { epoch, view, changes, signature: [0; 64] };
        new_view.signature = by.signer.sign(&new_view.signing_bytes(by.chain));
        Some(Message::NewView(new_view))
    }

    /// What is said to be under way, with votes of its own for it; and a block whose proof is another's.
    fn pqc(&self, by: &Author<'_>, dice: &mut Dice) -> Option<Message> {
        let proposal = any(&self.proposals, dice)?.clone();
        let kinds = [VoteKind::Prepare, VoteKind::Commit];
        let votes: Vec<SignedVote> = kinds.map(|kind| by.vote(kind, by.at.view, &proposal)).to_vec();
        let leads = by.at.set.primary(by.at.view) == by.seat;
        let proposed = votes.first().copied().filter(|_| leads);
        let mut entries = vec![PqcEntry { proposal, committed: None, proposed, votes }];
        if let Some((_, proof)) = any(&self.committed, dice)
            && let Some((other, _)) = any(&self.committed, dice)
        {
            let (proposal, committed) = (other.clone(), Some(proof.clone()));
            let bogus = PqcEntry { proposal, committed, proposed: None, votes: Vec::new() };
            if dice.one_in(2) {
                entries = vec![bogus];
            }
        }
        Some(Message::Pqc(entries))
    }

    /// To who recovers: how an old view began, or a checkpoint of long ago.
    fn answer(&self, dice: &mut Dice) -> Option<Message> {
        let nonce = *any(&self.nonces, dice)?;
        if dice.one_in(2) {
            let new_view = any(&self.new_views, dice).cloned();
            let epoch = new_view.as_ref().map_or(Epoch(0), |n| n.epoch);
            return Some(Message::Negotiated { nonce, epoch, new_view });
        }
        let stable = any(&self.stables, dice).cloned();
        Some(Message::Recovery { nonce, stable, executed: Sequence(dice.any()) })
    }
}
