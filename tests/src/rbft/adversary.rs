//! What an adversary does with the messages of a validator that is its own: leaves some out, says one thing to these and
//! another to those, changes fields and signs anew, repeats what was said long ago, lies to who recovers.

use wmall_rbft::{Digest, Epoch, Message, Nonce, Sequence, SignedVote, Signer, View, ViewChange};

use super::dice::Dice;

/// Messages that are remembered, to be repeated.
const REMEMBERED: usize = 64;

/// One adversary's memory.
pub struct Adversary {
    chain: wmall_rbft::ChainId,
    signer: Box<dyn Signer>,
    heard: Vec<Message>,
    /// How it behaves: each kind of mischief in one case of so many; never for 0.
    pub omits: u64,
    /// Says different things to different peers.
    pub equivocates: u64,
    /// Changes fields.
    pub mutates: u64,
    /// Repeats.
    pub replays: u64,
    /// How often it did something.
    pub fired: u64,
}

impl Adversary {
    /// One with a character of its own.
    pub fn new(chain: wmall_rbft::ChainId, signer: Box<dyn Signer>, dice: &mut Dice) -> Self {
        let mut often = |most: u64| if dice.one_in(3) { 0 } else { 2 + dice.roll(most) };
        let (omits, equivocates, mutates, replays) = (often(6), often(4), often(10), often(20));
        Self { chain, signer, heard: Vec::new(), omits, equivocates, mutates, replays, fired: 0 }
    }

    /// Remembers something that it heard or said.
    pub fn hears(&mut self, message: &Message, dice: &mut Dice) {
        if self.heard.len() < REMEMBERED {
            self.heard.push(message.clone());
        } else if dice.one_in(4) {
            let at = dice.roll(REMEMBERED as u64) as usize;
            self.heard[at] = message.clone();
        }
    }

    /// What it really sends to this peer, in the place of a message.
    pub fn says(&mut self, message: Message, to: usize, dice: &mut Dice) -> Vec<Message> {
        let mut out = Vec::new();
        if dice.one_in(self.replays)
            && let Some(old) = self.heard.get(dice.roll(self.heard.len().max(1) as u64) as usize)
        {
            self.fired += 1;
            out.push(match old.clone() {
                // In another one's name: its vote is real, and what comes with it is not.
                Message::Checkpoint { vote, .. } if dice.one_in(2) => {
                    Message::Checkpoint { vote, persisted: Sequence(u64::MAX) }
                }
                old => old,
            });
        }
        if dice.one_in(self.omits) {
            self.fired += 1;
            return out;
        }
        let message = if self.equivocates > 0 && to.is_multiple_of(2) && dice.one_in(self.equivocates) {
            self.fired += 1;
            self.otherwise(message)
        } else if dice.one_in(self.mutates) {
            self.fired += 1;
            self.mutated(message, dice)
        } else {
            message
        };
        out.push(message);
        out
    }

    fn sign(&self, vote: &mut SignedVote) {
        vote.signature = self.signer.sign(&vote.vote.signing_bytes(&self.chain));
    }

    /// The same place, and another content, well signed.
    fn otherwise(&self, message: Message) -> Message {
        match message {
            Message::PrePrepare { mut proposal, mut vote } => {
                proposal.time_ms ^= 1;
                vote.vote.digest = proposal.digest(&self.chain);
                self.sign(&mut vote);
                Message::PrePrepare { proposal, vote }
            }
            Message::Prepare(mut vote) | Message::Commit(mut vote) => {
                vote.vote.digest.0[0] ^= 1;
                self.sign(&mut vote);
                if vote.vote.kind == wmall_rbft::VoteKind::Commit {
                    Message::Commit(vote)
                } else {
                    Message::Prepare(vote)
                }
            }
            Message::Checkpoint { mut vote, persisted } => {
                vote.vote.digest.0[0] ^= 1;
                self.sign(&mut vote);
                Message::Checkpoint { vote, persisted: Sequence(persisted.0 + 1_000_000) }
            }
            other => other,
        }
    }

    fn mutated(&self, message: Message, dice: &mut Dice) -> Message {
        let any = dice.any();
        match message {
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
                vote.vote.digest = proposal.digest(&self.chain);
                self.sign(&mut vote);
                Message::PrePrepare { proposal, vote }
            }
            Message::Prepare(mut vote) | Message::Commit(mut vote) => {
                match any % 5 {
                    0 => vote.vote.sequence.0 = any >> 8,
                    1 => vote.vote.view = View(vote.vote.view.0 + any % 3),
                    2 => vote.vote.epoch = Epoch(any % 4),
                    3 => vote.seat.0 ^= 1,
                    _ => vote.vote.digest = Digest([any as u8; 32]),
                }
                if !any.is_multiple_of(7) {
                    self.sign(&mut vote);
                }
                if vote.vote.kind == wmall_rbft::VoteKind::Commit {
                    Message::Commit(vote)
                } else {
                    Message::Prepare(vote)
                }
            }
            Message::Checkpoint { mut vote, .. } => {
                vote.vote.sequence.0 += any % 1000;
                vote.vote.digest = Digest([any as u8; 32]);
                self.sign(&mut vote);
                Message::Checkpoint { vote, persisted: Sequence(u64::MAX) }
            }
            Message::ViewChange(change) => Message::ViewChange(self.wish(change, any)),
            Message::NewView(mut new_view) => {
                match any % 3 {
                    0 => drop(new_view.changes.pop()),
                    1 => new_view.changes.reverse(),
                    _ => new_view.view.0 += 1,
                }
                new_view.signature = self.signer.sign(&new_view.signing_bytes(&self.chain));
                Message::NewView(new_view)
            }
            Message::Negotiated { nonce, epoch, .. } => {
                let nonce = if any.is_multiple_of(2) { nonce } else { Nonce(any) };
                Message::Negotiated { nonce, epoch: Epoch(epoch.0 + any % 3), new_view: None }
            }
            Message::Recovery { nonce, stable, executed } => {
                let mut stable = stable.filter(|_| !any.is_multiple_of(3));
                if let Some(certificate) = &mut stable
                    && any.is_multiple_of(4)
                {
                    certificate.vote.sequence.0 += 1000;
                }
                Message::Recovery { nonce, stable, executed: Sequence(executed.0 ^ any) }
            }
            Message::Pqc(mut entries) => {
                for entry in &mut entries {
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
                Message::Pqc(entries)
            }
            Message::Stored(mut digests) => {
                digests.push(Digest([any as u8; 32]));
                Message::Stored(digests)
            }
            other => other,
        }
    }

    /// A view change that claims something else.
    fn wish(&self, mut change: ViewChange, any: u64) -> ViewChange {
        match any % 5 {
            0 => change.view = View(u64::MAX),
            1 => change.view.0 += 1 + any % 50,
            2 => change.prepared.clear(),
            3 => change.stable = None,
            _ => {
                if let Some(prepared) = change.prepared.last_mut() {
                    prepared.proposal.time_ms ^= 1;
                }
            }
        }
        change.signature = self.signer.sign(&change.signing_bytes(&self.chain));
        change
    }
}
