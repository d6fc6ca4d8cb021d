//! What follows from a quorum of view changes (PBFT section 4.4: the set O): where the new view begins, and what it must
//! propose again. A function of the messages alone, so everybody computes the same and nobody is believed.

use std::collections::BTreeMap;

use crate::certificate::Certificate;
use crate::ids::{Epoch, Sequence, View};
use crate::message::{Prepared, ViewChange};
use crate::proposal::Proposal;

/// The beginning of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The highest stable checkpoint that any of them proves; none if the epoch has none yet.
    pub stable: Option<Certificate>,
    /// Its sequence, or `base`.
    pub from: Sequence,
    /// One for each sequence from the one behind `from` to the highest that was prepared: what was prepared in the highest
    /// view, or nothing where nothing was.
    pub proposals: BTreeMap<Sequence, Proposal>,
}

impl Outcome {
    /// As it would be with what was prepared in the lowest view: a bug to be planted.
    #[cfg(feature = "testing")]
    pub(crate) fn of_the_lowest(epoch: Epoch, base: Sequence, changes: &[ViewChange]) -> Self {
        let mut outcome = Self::of(epoch, base, changes);
        let mut lowest: BTreeMap<Sequence, (View, Proposal)> = BTreeMap::new();
        for prepared in changes.iter().flat_map(|c| &c.prepared) {
            let (sequence, view) = (prepared.proposal.sequence, prepared.certificate.vote.view);
            if lowest.get(&sequence).is_none_or(|(known, _)| view < *known) {
                lowest.insert(sequence, (view, prepared.proposal.clone()));
            }
        }
        for (sequence, proposal) in &mut outcome.proposals {
            if let Some((_, found)) = lowest.remove(sequence) {
                *proposal = found;
            }
        }
        outcome
    }

    #[cfg(not(feature = "testing"))]
    pub(crate) fn of_the_lowest(epoch: Epoch, base: Sequence, changes: &[ViewChange]) -> Self {
        Self::of(epoch, base, changes)
    }

    /// Of view changes that were verified. `base` is where the epoch began.
    pub fn of(epoch: Epoch, base: Sequence, changes: &[ViewChange]) -> Self {
        let stables = changes.iter().filter_map(|c| c.stable.as_ref());
        let stable = stables.max_by_key(|c| c.vote.sequence).cloned();
        let from = stable.as_ref().map_or(base, |c| c.vote.sequence);
        let mut best: BTreeMap<Sequence, (View, &Prepared)> = BTreeMap::new();
        for prepared in changes.iter().flat_map(|c| &c.prepared) {
            let (sequence, view) = (prepared.proposal.sequence, prepared.certificate.vote.view);
            let known = best.get(&sequence).map(|(view, _)| *view);
            if sequence > from && known.is_none_or(|known| view > known) {
                best.insert(sequence, (view, prepared));
            }
        }
        let last = best.keys().next_back().copied().unwrap_or(from);
        let proposal = |sequence: Sequence| {
            let found = best.get(&sequence).map(|(_, prepared)| prepared.proposal.clone());
            (sequence, found.unwrap_or_else(|| Proposal::null(epoch, sequence)))
        };
        let proposals = (from.0..last.0).map(|n| proposal(Sequence(n).next())).collect();
        Self { stable, from, proposals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Digest, Seat};
    use crate::vote::{Vote, VoteKind};

    const EPOCH: Epoch = Epoch(3);

    fn proposal(sequence: u64, time_ms: u64) -> Proposal {
        Proposal { epoch: EPOCH, sequence: Sequence(sequence), time_ms, batches: Vec::new() }
    }

    fn certificate(kind: VoteKind, view: u64, sequence: u64) -> Certificate {
        let vote = Vote {
            epoch: EPOCH,
            kind,
            view: View(view),
            sequence: Sequence(sequence),
            digest: Digest([0; 32]),
        };
        Certificate { vote, signers: Vec::new(), signatures: Vec::new() }
    }

    fn change(seat: u16, stable: Option<u64>, prepared: &[(u64, u64, u64)]) -> ViewChange {
        let prepared = prepared.iter().map(|&(view, sequence, time)| Prepared {
            proposal: proposal(sequence, time),
            certificate: certificate(VoteKind::Prepare, view, sequence),
        });
        let stable = stable.map(|sequence| certificate(VoteKind::Checkpoint, 0, sequence));
        let prepared = prepared.collect();
        ViewChange { epoch: EPOCH, view: View(9), stable, prepared, seat: Seat(seat), signature: [0; 64] }
    }

    /// The highest checkpoint, the highest view, nothing in the gap.
    #[test]
    fn a_view_begins_with_what_may_have_been_committed() {
        let changes = [
            change(0, Some(10), &[(4, 11, 1), (2, 12, 2), (5, 15, 3)]),
            change(1, None, &[(1, 9, 4), (3, 12, 5)]),
            change(2, Some(5), &[(6, 7, 6), (1, 11, 7)]),
        ];
        let outcome = Outcome::of(EPOCH, Sequence(0), &changes);
        assert_eq!(outcome.stable, changes[0].stable);
        assert_eq!(outcome.from, Sequence(10));
        let null = |n| Proposal::null(EPOCH, Sequence(n));
        let wanted = [proposal(11, 1), proposal(12, 5), null(13), null(14), proposal(15, 3)];
        assert_eq!(outcome.proposals.into_values().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_view_of_a_new_epoch_begins_behind_its_base() {
        let changes = [change(0, None, &[]), change(1, None, &[]), change(3, None, &[])];
        let outcome = Outcome::of(EPOCH, Sequence(40), &changes);
        assert_eq!((outcome.stable, outcome.from, outcome.proposals.len()), (None, Sequence(40), 0));
    }
}
