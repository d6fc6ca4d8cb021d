//! Certificates: one vote and a quorum of signatures of it. Whoever has the validators' keys checks one without asking
//! anybody.
//!
//! A bitmap says whose signatures follow, in the order of the seats: so there is one form only, and no seat can be counted
//! twice.

use bincode::{Decode, Encode};

use crate::ids::{ChainId, Seat};
use crate::signature::{Checker, Signature};
use crate::validators::{MAX_VALIDATORS, ValidatorSet};
use crate::vote::{BadVote, SignedVote, Vote};

/// The proof that a quorum cast a vote.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Certificate {
    /// The vote.
    pub vote: Vote,
    /// Bit `i` of byte `i ÷ 8`, from the lowest on, for seat `i`. ⌈N ÷ 8⌉ bytes; bits beyond the last seat are 0.
    pub signers: Vec<u8>,
    /// One for each bit, in the order of the seats.
    pub signatures: Vec<Signature>,
}

/// Why a certificate proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// Nobody of this set could have cast the vote.
    #[error(transparent)]
    Vote(#[from] BadVote),
    /// The bitmap is not that of the set, or there are more or fewer signatures than it says.
    #[error("the list of signers is malformed")]
    Malformed,
    /// Too few for a quorum.
    #[error("{found} signatures where {wanted} make a quorum")]
    TooFew {
        /// There are.
        found: usize,
        /// There should be.
        wanted: usize,
    },
    /// A signature is not that seat's of that vote.
    #[error("the signature of seat {0} does not check out")]
    Signature(Seat),
}

impl Certificate {
    /// From votes that have been verified: a quorum of `wanted` in a set of this size. Other votes than `vote`, and a seat's
    /// second one, are passed over. None if they are too few. A quorum's worth is taken, of the lowest seats, so that equal votes make equal
    /// certificates.
    pub fn gather(wanted: usize, size: usize, vote: Vote, votes: &[SignedVote]) -> Option<Self> {
        let mut cast: Vec<Option<&Signature>> = vec![None; size];
        for own in votes.iter().filter(|v| v.vote == vote) {
            if let Some(place) = cast.get_mut(usize::from(own.seat.0)) {
                place.get_or_insert(&own.signature);
            }
        }
        let mut signers = vec![0u8; size.div_ceil(8)];
        let mut signatures = Vec::with_capacity(wanted);
        let by_seat = cast.into_iter().enumerate().filter_map(|(seat, cast)| Some((seat, cast?)));
        for (seat, signature) in by_seat.take(wanted) {
            *signers.get_mut(seat / 8)? |= 1 << (seat % 8);
            signatures.push(*signature);
        }
        (signatures.len() == wanted).then_some(Self { vote, signers, signatures })
    }

    /// Whose signatures it has.
    pub fn seats(&self) -> impl Iterator<Item = Seat> + '_ {
        let bits = self.signers.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        let set = bits.take(MAX_VALIDATORS).enumerate().filter(|(_, is_set)| *is_set);
        set.map(|(seat, _)| Seat(seat as u16))
    }

    /// Whether a quorum of this set has cast the vote.
    pub fn verify(
        &self,
        chain: &ChainId,
        set: &ValidatorSet,
        checker: &dyn Checker,
    ) -> Result<(), BadCertificate> {
        self.vote.check_form(set)?;
        // Sizes first: nothing is worked on that a set of this size can't have.
        if self.signers.len() != set.size().div_ceil(8) || self.seats().count() != self.signatures.len() {
            return Err(BadCertificate::Malformed);
        }
        if self.seats().any(|seat| set.key(seat).is_none()) {
            return Err(BadCertificate::Malformed);
        }
        let (found, wanted) = (self.signatures.len(), set.quorum());
        if found < wanted {
            return Err(BadCertificate::TooFew { found, wanted });
        }
        let bytes = self.vote.signing_bytes(chain);
        for (seat, signature) in self.seats().zip(&self.signatures) {
            let good = set.key(seat).is_some_and(|key| checker.check(key, &bytes, signature));
            if !good {
                return Err(BadCertificate::Signature(seat));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, View};
    use crate::signature::Zip215;
    use crate::validators::tests::{set, signer};
    use crate::vote::VoteKind;
    use crate::vote::tests::{CHAIN, vote};
    use proptest::prelude::*;

    fn votes(kind: VoteKind, seats: &[u16]) -> Vec<SignedVote> {
        seats.iter().map(|&seat| vote(kind).sign(&CHAIN, Seat(seat), &signer(seat))).collect()
    }

    #[test]
    fn a_quorum_makes_one_certificate_and_fewer_make_none() {
        for (size, quorum) in [(4u16, 3usize), (5, 4), (7, 5), (21, 14)] {
            let set = set(size);
            let all: Vec<u16> = (0..size).rev().collect();
            let cast = votes(VoteKind::Commit, &all);
            let certificate =
                Certificate::gather(set.quorum(), set.size(), vote(VoteKind::Commit), &cast).unwrap();
            assert_eq!(certificate.verify(&CHAIN, &set, &Zip215), Ok(()));
            assert_eq!(
                certificate.seats().map(|s| usize::from(s.0)).collect::<Vec<_>>(),
                (0..quorum).collect::<Vec<_>>()
            );
            let few = &cast[..quorum - 1];
            assert_eq!(Certificate::gather(set.quorum(), set.size(), vote(VoteKind::Commit), few), None);
            // One seat many times is one vote.
            let same = vec![cast[0]; usize::from(size)];
            assert_eq!(Certificate::gather(set.quorum(), set.size(), vote(VoteKind::Commit), &same), None);
            assert_eq!(
                Certificate::gather(set.quorum(), set.size(), vote(VoteKind::Prepare), &cast),
                None,
                "votes for something else"
            );
        }
    }

    #[test]
    fn what_was_tampered_with_proves_nothing() {
        let set = set(7);
        let cast = votes(VoteKind::Checkpoint, &[0, 1, 3, 4, 6]);
        let good = Certificate::gather(set.quorum(), set.size(), vote(VoteKind::Checkpoint), &cast).unwrap();
        assert_eq!(good.signers, [0b0101_1011]);
        type Change = fn(&mut Certificate);
        let changes: [(Change, BadCertificate); 9] = [
            (
                |c| c.vote.epoch = Epoch(4),
                BadCertificate::Vote(BadVote::Epoch { found: Epoch(4), wanted: Epoch(3) }),
            ),
            (|c| c.vote.view = View(1), BadCertificate::Vote(BadVote::View)),
            (|c| c.vote.sequence.0 += 1, BadCertificate::Signature(Seat(0))),
            (|c| c.signers.push(0), BadCertificate::Malformed),
            (|c| c.signers[0] |= 1 << 2, BadCertificate::Malformed),
            (|c| c.signers[0] ^= 1 << 6 | 1 << 7, BadCertificate::Malformed),
            (|c| c.signers[0] ^= 1 << 6 | 1 << 5, BadCertificate::Signature(Seat(5))),
            (|c| c.signatures.truncate(4), BadCertificate::Malformed),
            (|c| c.signatures.swap(0, 1), BadCertificate::Signature(Seat(0))),
        ];
        for (change, wanted) in changes {
            let mut tampered = good.clone();
            change(&mut tampered);
            assert_eq!(tampered.verify(&CHAIN, &set, &Zip215), Err(wanted));
        }
        let mut few = good.clone();
        few.signatures.pop();
        few.signers[0] &= !(1 << 6);
        assert_eq!(few.verify(&CHAIN, &set, &Zip215), Err(BadCertificate::TooFew { found: 4, wanted: 5 }));
    }

    proptest! {
        /// Any bytes in the place of a certificate are judged, and nothing panics.
        #[test]
        fn any_bitmap_and_any_number_of_signatures_are_judged(
            signers in proptest::collection::vec(any::<u8>(), 0..200),
            count in 0usize..300,
        ) {
            let certificate = Certificate {
                vote: vote(VoteKind::Commit),
                signers,
                signatures: vec![[0; 64]; count],
            };
            prop_assert!(certificate.verify(&CHAIN, &set(4), &Zip215).is_err());
        }
    }
}
