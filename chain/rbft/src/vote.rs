//! Votes: what a validator signs of a proposal. One layout for every kind, specified by hand, so that no signature of one
//! kind, chain, epoch, view or sequence is one of another.
//!
//! A primary's pre-prepare is its proposal with its own prepare vote, so a quorum of prepare votes is what PBFT calls
//! prepared: a pre-prepare and Q − 1 prepares. The view is under the signature and not part of the proposal's digest: what
//! a new view proposes again is the same block.

use bincode::{Decode, Encode};

use crate::ids::{ChainId, Digest, Epoch, Seat, Sequence, View};
use crate::signature::{Checker, Signature, Signer};
use crate::validators::ValidatorSet;

/// What a vote says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[repr(u8)]
pub enum VoteKind {
    /// I have the proposal and all its batches on disk, and have prepared no other one in this view (PBFT section 4.2).
    Prepare = 1,
    /// A quorum has prepared it, and I know.
    Commit = 2,
    /// My state after this sequence has this digest (PBFT section 4.3). Its view is 0: views do not matter to states.
    Checkpoint = 3,
}

impl VoteKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Prepare, Self::Commit, Self::Checkpoint];

    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Commit => "commit",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// A vote, whoever casts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Vote {
    /// In whose rule.
    pub epoch: Epoch,
    /// What it says.
    pub kind: VoteKind,
    /// In which view.
    pub view: View,
    /// For which sequence.
    pub sequence: Sequence,
    /// Of the proposal; of the state for a checkpoint.
    pub digest: Digest,
}

/// A vote and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct SignedVote {
    /// The vote.
    pub vote: Vote,
    /// Whose.
    pub seat: Seat,
    /// By that seat's key.
    pub signature: Signature,
}

/// Why a vote does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadVote {
    /// Of another epoch than the set's.
    #[error("a vote of epoch {found} where epoch {wanted} rules")]
    Epoch {
        /// The vote's.
        found: Epoch,
        /// The set's.
        wanted: Epoch,
    },
    /// Of a seat that there is not.
    #[error("there is no seat {0}")]
    Seat(Seat),
    /// A checkpoint with a view.
    #[error("a checkpoint has no view")]
    View,
    /// The signature is not that seat's of that vote.
    #[error("the signature is not that of seat {0}")]
    Signature(Seat),
}

impl Vote {
    /// What is signed: 16 bytes of domain, chain 32, epoch 8, kind 1, view 8, sequence 8, digest 32; little-endian.
    pub fn signing_bytes(&self, chain: &ChainId) -> [u8; 105] {
        let mut bytes = [0u8; 105];
        bytes[..16].copy_from_slice(b"wmall.rbftvote.1");
        bytes[16..48].copy_from_slice(&chain.0.0);
        bytes[48..56].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[56] = self.kind as u8;
        bytes[57..65].copy_from_slice(&self.view.0.to_le_bytes());
        bytes[65..73].copy_from_slice(&self.sequence.0.to_le_bytes());
        bytes[73..].copy_from_slice(&self.digest.0);
        bytes
    }

    /// Casts it.
    pub fn sign(self, chain: &ChainId, seat: Seat, signer: &dyn Signer) -> SignedVote {
        SignedVote { vote: self, seat, signature: signer.sign(&self.signing_bytes(chain)) }
    }

    /// What can be told without a key.
    pub(crate) fn check_form(&self, set: &ValidatorSet) -> Result<(), BadVote> {
        if self.epoch != set.epoch() {
            return Err(BadVote::Epoch { found: self.epoch, wanted: set.epoch() });
        }
        if self.kind == VoteKind::Checkpoint && self.view != View(0) {
            return Err(BadVote::View);
        }
        Ok(())
    }
}

impl SignedVote {
    /// Whether it is a vote of a member of this set.
    pub fn verify(&self, chain: &ChainId, set: &ValidatorSet, checker: &dyn Checker) -> Result<(), BadVote> {
        self.vote.check_form(set)?;
        let key = set.key(self.seat).ok_or(BadVote::Seat(self.seat))?;
        if checker.check(key, &self.vote.signing_bytes(chain), &self.signature) {
            Ok(())
        } else {
            Err(BadVote::Signature(self.seat))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::signature::Zip215;
    use crate::validators::tests::{set, signer};

    pub(crate) const CHAIN: ChainId = ChainId(Digest([9; 32]));

    pub(crate) fn vote(kind: VoteKind) -> Vote {
        let view = if kind == VoteKind::Checkpoint { View(0) } else { View(5) };
        Vote { epoch: Epoch(3), kind, view, sequence: Sequence(70), digest: Digest([8; 32]) }
    }

    #[test]
    fn every_field_is_under_the_signature() {
        let set = set(4);
        for kind in VoteKind::ALL {
            let signed = vote(kind).sign(&CHAIN, Seat(2), &signer(2));
            let judge = |signed: &SignedVote, chain| signed.verify(&chain, &set, &Zip215);
            assert_eq!(judge(&signed, CHAIN), Ok(()));
            assert_eq!(judge(&signed, ChainId(Digest([1; 32]))), Err(BadVote::Signature(Seat(2))));
            let changes: [fn(&mut SignedVote); 5] = [
                |s| s.vote.sequence.0 += 1,
                |s| s.vote.digest.0[31] ^= 1,
                |s| s.seat = Seat(1),
                |s| s.signature[40] ^= 1,
                |s| {
                    (s.vote.kind, s.vote.view) = match s.vote.kind {
                        VoteKind::Prepare => (VoteKind::Commit, s.vote.view),
                        VoteKind::Commit => (VoteKind::Prepare, s.vote.view),
                        VoteKind::Checkpoint => (VoteKind::Prepare, View(0)),
                    };
                },
            ];
            for change in changes {
                let mut forged = signed;
                change(&mut forged);
                assert!(matches!(judge(&forged, CHAIN), Err(BadVote::Signature(_))), "{forged:?}");
            }
            let mut viewed = signed;
            viewed.vote.view.0 += 1;
            let wanted =
                if kind == VoteKind::Checkpoint { BadVote::View } else { BadVote::Signature(Seat(2)) };
            assert_eq!(judge(&viewed, CHAIN), Err(wanted));
        }
    }

    #[test]
    fn strangers_and_other_epochs_do_not_count() {
        let set = set(4);
        let signed = vote(VoteKind::Commit).sign(&CHAIN, Seat(4), &signer(4));
        assert_eq!(signed.verify(&CHAIN, &set, &Zip215), Err(BadVote::Seat(Seat(4))));
        let late = Vote { epoch: Epoch(4), ..vote(VoteKind::Commit) }.sign(&CHAIN, Seat(1), &signer(1));
        let wanted = BadVote::Epoch { found: Epoch(4), wanted: Epoch(3) };
        assert_eq!(late.verify(&CHAIN, &set, &Zip215), Err(wanted));
    }
}
