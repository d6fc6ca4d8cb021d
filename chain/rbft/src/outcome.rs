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
