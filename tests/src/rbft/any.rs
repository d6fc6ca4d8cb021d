//! Messages that nobody correct would send, with signatures that all check out: what the core must stand.

use wmall_rbft::{
    Batch, Certificate, Checker, Digest, Epoch, Message, NewView, Nonce, PqcEntry, Prepared, Proposal,
    PublicKey, Seat, Sequence, Signature, SignedVote, View, ViewChange, Vote, VoteKind,
};

use super::dice::Dice;

/// Takes any signature for good.
pub struct Believes;

impl Checker for Believes {
    fn check(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// Makes messages in a chain of this many validators, about places near to `around` or at the end of the numbers.
pub struct Any<'a> {
    /// The chain.
    pub chain: &'a wmall_rbft::ChainId,
    /// Validators.
    pub size: u64,
    /// A sequence that the replica is at.
    pub around: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Its view.
    pub view: u64,
    /// What it has asked last in its recovery.
    pub asked: Nonce,
    /// Where they come from.
    pub dice: &'a mut Dice,
}

/// The state behind a block, as who executes anything has it.
pub fn state(sequence: Sequence) -> Digest {
    Digest([sequence.0 as u8 % 3; 32])
}

impl Any<'_> {
    fn sequence(&mut self) -> Sequence {
        match self.dice.roll(300) {
            0 => Sequence(self.dice.any()),
            1 => Sequence(u64::MAX),
            2 => Sequence(0),
            _ => Sequence(
                self.around
                    .saturating_add(self.dice.pick(&[1, 1, 1, 2, 3, 9]))
                    .saturating_sub(self.dice.pick(&[0, 0, 0, 3])),
            ),
        }
    }

    fn near(&mut self, value: u64) -> u64 {
        match self.dice.roll(400) {
            0 => u64::MAX,
            1 => self.dice.any(),
            2..10 => value.saturating_sub(1),
            10..18 => value.saturating_add(1),
            _ => value,
        }
    }

    fn digest(&mut self) -> Digest {
        Digest([self.dice.roll(3) as u8; 32])
    }

    fn seat(&mut self) -> Seat {
        Seat(if self.dice.one_in(20) { u16::MAX } else { self.dice.roll(self.size) as u16 })
    }

    fn proposal(&mut self, sequence: Sequence) -> Proposal {
        let epoch = Epoch(self.near(self.epoch));
        // Mostly the same one, so that several votes are for one thing now and then.
        if !self.dice.one_in(5) {
            return Proposal::null(epoch, sequence);
        }
        let batches = (0..self.dice.roll(3)).map(|_| self.digest()).collect();
        let time_ms = if self.dice.one_in(5) { u64::MAX } else { self.dice.roll(4) };
        Proposal { epoch, sequence, time_ms, batches }
    }

    fn vote(&mut self, kind: VoteKind, proposal: &Proposal) -> Vote {
        let usual = match kind {
            VoteKind::Checkpoint => state(proposal.sequence),
            _ => proposal.digest(self.chain),
        };
        let digest = if self.dice.one_in(30) { self.digest() } else { usual };
        let view = if kind == VoteKind::Checkpoint { View(0) } else { View(self.near(self.view)) };
        Vote { epoch: proposal.epoch, kind, view, sequence: proposal.sequence, digest }
    }

    fn signed(&mut self, kind: VoteKind, proposal: &Proposal) -> SignedVote {
        let vote = self.vote(kind, proposal);
        SignedVote { vote, seat: self.seat(), signature: [0; 64] }
    }

    fn certificate(&mut self, kind: VoteKind, proposal: &Proposal) -> Certificate {
        let vote = self.vote(kind, proposal);
        let mut signers = vec![0u8; self.size.div_ceil(8) as usize];
        (0..self.size as usize).for_each(|seat| signers[seat / 8] |= 1 << (seat % 8));
        let count = if self.dice.one_in(10) { self.dice.roll(200) } else { self.size };
        Certificate { vote, signers, signatures: vec![[0; 64]; count as usize] }
    }

    fn prepared(&mut self, sequence: Sequence) -> Prepared {
        let proposal = self.proposal(sequence);
        let certificate = self.certificate(VoteKind::Prepare, &proposal);
        Prepared { proposal, certificate }
    }

    fn change(&mut self, view: View, seat: Seat) -> ViewChange {
        let stable = (!self.dice.one_in(3)).then(|| {
            let sequence = self.sequence();
            let proposal = self.proposal(sequence);
            self.certificate(VoteKind::Checkpoint, &proposal)
        });
        let mut sequence = stable.as_ref().map_or(Sequence(self.around), |c| c.vote.sequence);
        let count = self.dice.roll(4);
        let prepared = (0..count)
            .map(|_| {
                sequence = Sequence(sequence.0.saturating_add(1 + self.dice.roll(2)));
                self.prepared(sequence)
            })
            .collect();
        ViewChange { epoch: Epoch(self.near(self.epoch)), view, stable, prepared, seat, signature: [0; 64] }
    }

    fn new_view(&mut self) -> NewView {
        let (epoch, view) = (Epoch(self.epoch), View(self.near(self.view)));
        let changes = (0..self.size - (self.size - 1) / 3)
            .map(|seat| {
                let change = self.change(view, Seat(seat as u16));
                ViewChange { epoch, ..change }
            })
            .collect();
        NewView { epoch, view, changes, signature: [0; 64] }
    }

    fn entry(&mut self) -> PqcEntry {
        let sequence = self.sequence();
        let proposal = self.proposal(sequence);
        let committed = self.dice.one_in(2).then(|| self.certificate(VoteKind::Commit, &proposal));
        let proposed = self.dice.one_in(2).then(|| self.signed(VoteKind::Prepare, &proposal));
        let votes = (0..self.dice.roll(4)).map(|_| self.signed(VoteKind::Commit, &proposal)).collect();
        PqcEntry { proposal, committed, proposed, votes }
    }

    /// One message.
    pub fn message(&mut self, origin: PublicKey) -> Message {
        let sequence = self.sequence();
        let proposal = self.proposal(sequence);
        let nonce = if self.dice.one_in(3) { Nonce(self.dice.any()) } else { self.asked };
        let epoch = Epoch(self.near(self.epoch));
        // Votes and answers mostly, as it is among validators; wishes for another view seldom, or none would last.
        let which = match self.dice.roll(80) {
            kind @ 0..16 => kind,
            16..26 => 3,
            26..38 => 4,
            38..50 => 5,
            50..65 => 11,
            _ => 13,
        };
        let which = if which == 8 && !self.dice.one_in(4) { 6 } else { which };
        match which {
            0 => Message::Batch(Batch { origin, payload: vec![self.dice.roll(9) as u8], signature: [0; 64] }),
            1 => Message::Stored((0..self.dice.roll(300)).map(|_| self.digest()).collect()),
            2 => Message::FetchBatches((0..self.dice.roll(300)).map(|_| self.digest()).collect()),
            3 => {
                let mut vote = self.signed(VoteKind::Prepare, &proposal);
                if !self.dice.one_in(4) {
                    vote.seat = Seat((vote.vote.view.0 % self.size) as u16);
                }
                Message::PrePrepare { proposal, vote }
            }
            4 => Message::Prepare(self.signed(VoteKind::Prepare, &proposal)),
            5 => Message::Commit(self.signed(VoteKind::Commit, &proposal)),
            6 => Message::Checkpoint {
                vote: self.signed(VoteKind::Checkpoint, &proposal),
                persisted: self.sequence(),
            },
            7 => Message::Archived { epoch, persisted: sequence },
            8 => {
                let (view, seat) = (View(self.near(self.view.saturating_add(1))), self.seat());
                Message::ViewChange(self.change(view, seat))
            }
            9 => Message::NewView(self.new_view()),
            10 => Message::Negotiate { nonce, epoch, view: View(self.near(self.view)) },
            11 => {
                let new_view = self.dice.one_in(4).then(|| self.new_view());
                Message::Negotiated { nonce, epoch, new_view }
            }
            12 => Message::RecoveryInit { nonce, epoch },
            13 => {
                let stable = self.dice.one_in(8).then(|| self.certificate(VoteKind::Checkpoint, &proposal));
                Message::Recovery { nonce, stable, executed: sequence }
            }
            14 => Message::FetchPqc { from: sequence, to: self.sequence() },
            _ => Message::Pqc((0..self.dice.pick(&[1u64, 2, 5, 70])).map(|_| self.entry()).collect()),
        }
    }
}
