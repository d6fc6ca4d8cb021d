//! What an adversary does with the messages of a validator that is its own: leaves some out, says one thing to these and
//! another to those, changes fields and signs anew, repeats what was said long ago, lies to who recovers. What it says beyond
//! that is put together in `compose.rs`.

use wmall_rbft::{
    Digest, Epoch, Message, Nonce, PqcEntry, Proposal, PublicKey, Sequence, SignedVote, Signer, ValidatorSet,
    View, ViewChange, VoteKind,
};

use super::compose::Composer;
use super::dice::Dice;
use super::report::Count;

/// Messages that are remembered, to be repeated.
const REMEMBERED: usize = 64;

/// One adversary's character and memory.
pub struct Adversary {
    chain: wmall_rbft::ChainId,
    signer: Box<dyn Signer>,
    heard: Vec<Message>,
    composer: Composer,
    /// How it behaves: each kind of mischief in one case of so many; never for 0.
    omits: u64,
    equivocates: u64,
    mutates: u64,
    replays: u64,
    composes: u64,
    /// Whether it keeps proofs for itself: it leaves out votes that others lack for one, and tells of it in some later view.
    hides: bool,
}

/// What it sends in the place of a message, and how it comes by that.
#[derive(Default)]
pub struct Said {
    /// The messages.
    pub messages: Vec<Message>,
    /// What it did; nothing if it says what it should.
    pub acts: Vec<Count>,
}

/// Where a validator is that an adversary speaks for.
pub struct Place<'a> {
    /// The validators of its epoch.
    pub set: &'a ValidatorSet,
    /// Its key.
    pub key: PublicKey,
    /// Its view.
    pub view: View,
    /// Its stable checkpoint.
    pub stable: Sequence,
    /// The window.
    pub window: u64,
}

impl Adversary {
    /// One with a character of its own.
    pub fn new(chain: wmall_rbft::ChainId, signer: Box<dyn Signer>, dice: &mut Dice) -> Self {
        let mut often = |most: u64| if dice.one_in(3) { 0 } else { 2 + dice.roll(most) };
        let (omits, equivocates, mutates, replays) = (often(6), often(4), often(10), often(20));
        let composes = often(30);
        let (composer, heard, hides) = (Composer::default(), Vec::new(), dice.one_in(3));
        Self { chain, signer, heard, composer, omits, equivocates, mutates, replays, composes, hides }
    }

    /// Remembers something that it heard or said.
    pub fn hears(&mut self, message: &Message, dice: &mut Dice) {
        self.composer.hears(message);
        if self.heard.len() < REMEMBERED {
            self.heard.push(message.clone());
        } else if dice.one_in(4) {
            let at = dice.roll(REMEMBERED as u64) as usize;
            self.heard[at] = message.clone();
        }
    }

    /// What it really sends to this peer, in the place of a message.
    pub fn says(&mut self, message: Message, to: usize, at: &Place<'_>, dice: &mut Dice) -> Said {
        let mut said = Said::default();
        if dice.one_in(self.replays) && !self.heard.is_empty() {
            let old = self.heard[dice.roll(self.heard.len() as u64) as usize].clone();
            said.acts.push(Count::Replayed);
            if place(&old).is_some_and(|then| then < (at.set.epoch(), at.view)) {
                said.acts.push(Count::ReplayedLater);
            }
            said.messages.push(match old {
                // In another one's name: its vote is real, and what comes with it is not.
                Message::Checkpoint { vote, .. } if dice.one_in(2) => {
                    Message::Checkpoint { vote, persisted: Sequence(u64::MAX) }
                }
                old => old,
            });
        }
        if dice.one_in(self.composes)
            && let Some(composed) = self.composer.compose(&self.chain, &*self.signer, at, dice)
        {
            said.acts.push(Count::Composed);
            said.messages.push(composed);
        }
        let hides = self.hides && dice.one_in(2);
        if hides && matches!(message, Message::Prepare(_)) {
            said.acts.push(Count::Omitted);
            return said;
        }
        if hides && let Message::ViewChange(wish) = &message {
            said.acts.push(Count::Composed);
            said.messages.push(self.composer.tells_or_hides(&self.chain, &*self.signer, at, wish, dice));
            return said;
        }
        if dice.one_in(self.omits) {
            let batch = matches!(message, Message::Batch(_));
            said.acts.push(if batch { Count::Withheld } else { Count::Omitted });
            return said;
        }
        let (message, act) = if to.is_multiple_of(2) && dice.one_in(self.equivocates) {
            self.otherwise(message)
        } else if dice.one_in(self.mutates) {
            self.mutated(message, dice)
        } else {
            (message, None)
        };
        said.acts.extend(act);
        said.messages.push(message);
        said
    }

    fn sign(&self, vote: &mut SignedVote) {
        vote.signature = self.signer.sign(&vote.vote.signing_bytes(&self.chain));
    }

    fn proposes(&self, proposal: Proposal, mut vote: SignedVote) -> Message {
        vote.vote.digest = proposal.digest(&self.chain);
        self.sign(&mut vote);
        Message::PrePrepare { proposal, vote }
    }

    fn votes(&self, mut vote: SignedVote, signs: bool) -> Message {
        if signs {
            self.sign(&mut vote);
        }
        if vote.vote.kind == VoteKind::Commit { Message::Commit(vote) } else { Message::Prepare(vote) }
    }

    /// The same place, and another content, well signed.
    fn otherwise(&self, message: Message) -> (Message, Option<Count>) {
        match message {
            Message::PrePrepare { mut proposal, vote } => {
                proposal.time_ms ^= 1;
                (self.proposes(proposal, vote), Some(Count::TwoProposals))
            }
            Message::Prepare(mut vote) | Message::Commit(mut vote) => {
                vote.vote.digest.0[0] ^= 1;
                (self.votes(vote, true), Some(Count::Equivocated))
            }
            Message::Checkpoint { mut vote, persisted } => {
                vote.vote.digest.0[0] ^= 1;
                self.sign(&mut vote);
                let persisted = Sequence(persisted.0 + 1_000_000);
                (Message::Checkpoint { vote, persisted }, Some(Count::Equivocated))
            }
            other => (other, None),
        }
    }

    fn mutated(&self, message: Message, dice: &mut Dice) -> (Message, Option<Count>) {
        let any = dice.any();
        let (message, act) = match message {
            Message::PrePrepare { mut proposal, mut vote } => {
                match any % 5 {
                    4 => {
                        proposal.epoch = Epoch(proposal.epoch.0.saturating_sub(1 + any % 2));
                        vote.vote.epoch = proposal.epoch;
                    }
                    0 => proposal.sequence.0 += any % 100,
                    1 => proposal.batches.reverse(),
                    2 => proposal.batches.push(Digest([any as u8; 32])),
                    _ => proposal.time_ms = u64::MAX,
                }
                vote.vote.sequence = proposal.sequence;
                (self.proposes(proposal, vote), Count::Changed)
            }
            Message::Prepare(mut vote) | Message::Commit(mut vote) => {
                match any % 5 {
                    0 => vote.vote.sequence.0 = any >> 8,
                    1 => vote.vote.view = View(vote.vote.view.0 + any % 3),
                    2 => vote.vote.epoch = Epoch(any % 4),
                    3 => vote.seat.0 ^= 1,
                    _ => vote.vote.digest = Digest([any as u8; 32]),
                }
                (self.votes(vote, !any.is_multiple_of(7)), Count::Changed)
            }
            Message::Checkpoint { mut vote, .. } => {
                vote.vote.sequence.0 += any % 1000;
                vote.vote.digest = Digest([any as u8; 32]);
                self.sign(&mut vote);
                (Message::Checkpoint { vote, persisted: Sequence(u64::MAX) }, Count::Changed)
            }
            Message::ViewChange(change) => {
                let (change, act) = self.wish(change, any);
                (Message::ViewChange(change), act)
            }
            Message::NewView(mut new_view) => {
                let nested = any % 4 == 3;
                match any % 4 {
                    0 => drop(new_view.changes.pop()),
                    1 => new_view.changes.reverse(),
                    2 => new_view.view.0 += 1,
                    _ => new_view.changes.iter_mut().for_each(spoil),
                }
                new_view.signature = self.signer.sign(&new_view.signing_bytes(&self.chain));
                let act = if nested { Count::NestedCertificate } else { Count::Changed };
                (Message::NewView(new_view), act)
            }
            Message::Negotiated { nonce, epoch, .. } => {
                let nonce = if any.is_multiple_of(2) { nonce } else { Nonce(any) };
                let epoch = Epoch(epoch.0 + any % 3);
                (Message::Negotiated { nonce, epoch, new_view: None }, Count::LiedToRecovering)
            }
            Message::Recovery { nonce, stable, executed } => {
                let mut stable = stable.filter(|_| !any.is_multiple_of(3));
                if let Some(certificate) = &mut stable
                    && any.is_multiple_of(4)
                {
                    certificate.vote.sequence.0 += 1000;
                }
                let executed = Sequence(executed.0 ^ any);
                (Message::Recovery { nonce, stable, executed }, Count::LiedToRecovering)
            }
            Message::Pqc(mut entries) => {
                entries.iter_mut().for_each(|entry| forge(entry, any));
                (Message::Pqc(entries), Count::ForgedPqc)
            }
            Message::Stored(mut digests) => {
                digests.push(Digest([any as u8; 32]));
                (Message::Stored(digests), Count::Changed)
            }
            other => return (other, None),
        };
        (message, Some(act))
    }

    /// A view change that claims something else.
    fn wish(&self, mut change: ViewChange, any: u64) -> (ViewChange, Count) {
        match any % 6 {
            0 => change.view = View(u64::MAX),
            1 => change.view.0 += 1 + any % 50,
            2 => change.prepared.clear(),
            3 => change.stable = None,
            4 => spoil(&mut change),
            _ => {
                if let Some(prepared) = change.prepared.last_mut() {
                    prepared.proposal.time_ms ^= 1;
                }
            }
        }
        let act = match any % 6 {
            0 => Count::HugeView,
            1..=3 => Count::Changed,
            _ => Count::NestedCertificate,
        };
        change.signature = self.signer.sign(&change.signing_bytes(&self.chain));
        (change, act)
    }
}

/// The epoch and view that a message speaks of.
fn place(message: &Message) -> Option<(Epoch, View)> {
    match message {
        Message::PrePrepare { vote, .. } | Message::Prepare(vote) | Message::Commit(vote) => {
            Some((vote.vote.epoch, vote.vote.view))
        }
        Message::ViewChange(change) => Some((change.epoch, change.view)),
        Message::NewView(new_view) => Some((new_view.epoch, new_view.view)),
        _ => None,
    }
}

/// One signer too few, or a checkpoint that nobody has signed.
fn spoil(change: &mut ViewChange) {
    if let Some(prepared) = change.prepared.first_mut() {
        prepared.certificate.signatures.pop();
        if let Some(byte) = prepared.certificate.signers.iter_mut().find(|byte| **byte != 0) {
            *byte &= *byte - 1;
        }
    } else if let Some(stable) = &mut change.stable {
        stable.vote.sequence.0 += 10;
    }
}

/// A claim about what is under way that its votes do not bear out.
fn forge(entry: &mut PqcEntry, any: u64) {
    match any % 3 {
        0 => entry.proposal.time_ms ^= 1,
        1 => entry.committed = None,
        _ => {
            if let Some(certificate) = &mut entry.committed {
                certificate.signatures.truncate(1);
                certificate.signers.iter_mut().for_each(|b| *b &= 1);
            }
        }
    }
}
