//! What stands at each sequence, with the way back: at which sequences a batch is listed. A full window lists thousands of
//! batches, and every batch that comes asks whether it is one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;

use crate::ids::{Digest, Sequence};
use crate::message::{Committed, Prepared};
use crate::proposal::Proposal;
use crate::vote::SignedVote;

/// Which batches are listed where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listed(BTreeSet<(Digest, Sequence)>);

impl Listed {
    pub(crate) fn add(&mut self, proposal: &Proposal, at: Sequence) {
        self.0.extend(proposal.batches.iter().map(|digest| (*digest, at)));
    }

    pub(crate) fn remove(&mut self, proposal: &Proposal, at: Sequence) {
        for digest in &proposal.batches {
            self.0.remove(&(*digest, at));
        }
    }

    /// Where a batch is listed, lowest first.
    pub(crate) fn at(&self, digest: &Digest) -> impl Iterator<Item = Sequence> + '_ {
        let digest = *digest;
        let from = self.0.range((digest, Sequence(0))..);
        from.take_while(move |(listed, _)| *listed == digest).map(|(_, sequence)| *sequence)
    }

    pub(crate) fn lists(&self, digest: &Digest) -> bool {
        self.at(digest).next().is_some()
    }
}

/// What has a proposal.
pub trait Proposed {
    /// Which.
    fn proposal(&self) -> &Proposal;
}

impl Proposed for (Proposal, SignedVote) {
    fn proposal(&self) -> &Proposal {
        &self.0
    }
}

impl Proposed for (Prepared, SignedVote) {
    fn proposal(&self) -> &Proposal {
        &self.0.proposal
    }
}

impl Proposed for Committed {
    fn proposal(&self) -> &Proposal {
        &self.proposal
    }
}

/// One thing at each sequence, and the batches that these list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places<T> {
    at: BTreeMap<Sequence, T>,
    listed: Listed,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { at: BTreeMap::new(), listed: Listed::default() }
    }
}

impl<T: Proposed> Places<T> {
    /// What stands at a sequence.
    pub fn get(&self, sequence: &Sequence) -> Option<&T> {
        self.at.get(sequence)
    }

    /// Whether anything stands there.
    pub fn contains(&self, sequence: &Sequence) -> bool {
        self.at.contains_key(sequence)
    }

    /// All of it, lowest first.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.at.values()
    }

    /// A part of it, lowest first.
    pub fn range(&self, range: impl RangeBounds<Sequence>) -> impl Iterator<Item = (&Sequence, &T)> {
        self.at.range(range)
    }

    /// How much there is.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Whether anything here lists a batch.
    pub fn lists(&self, digest: &Digest) -> bool {
        self.listed.lists(digest)
    }

    /// Looks whether what is listed is what a look at everything finds.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn recount(&self) -> bool {
        let mut listed = Listed::default();
        self.at.iter().for_each(|(sequence, what)| listed.add(what.proposal(), *sequence));
        listed == self.listed
    }

    /// Puts something at its sequence, in place of what was there.
    pub(crate) fn insert(&mut self, new: T) {
        let sequence = new.proposal().sequence;
        self.listed.add(new.proposal(), sequence);
        let Some(old) = self.at.insert(sequence, new) else { return };
        let new = self.at.get(&sequence).map(Proposed::proposal);
        if new != Some(old.proposal()) {
            self.listed.remove(old.proposal(), sequence);
            // What both list is listed still.
            new.into_iter().for_each(|new| self.listed.add(new, sequence));
        }
    }

    /// Forgets what stands at and below a sequence.
    pub(crate) fn forget(&mut self, up_to: Sequence) {
        while let Some(first) = self.at.first_entry()
            && *first.key() <= up_to
        {
            let (sequence, gone) = first.remove_entry();
            self.listed.remove(gone.proposal(), sequence);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Seat};
    use crate::vote::VoteKind;
    use crate::vote::tests::vote;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_listed_is_what_a_look_at_everything_finds(
            steps in prop::collection::vec((0u8..6, prop::collection::vec(0u8..6, 0..5), any::<bool>()), 1..40)
        ) {
            let signed = SignedVote { vote: vote(VoteKind::Prepare), seat: Seat(0), signature: [0; 64] };
            let mut places = Places::default();
            for (sequence, batches, forgets) in steps {
                let sequence = Sequence(u64::from(sequence));
                if forgets {
                    places.forget(sequence);
                } else {
                    let batches = batches.into_iter().map(|b| Digest([b; 32])).collect();
                    places.insert((Proposal { batches, ..Proposal::null(Epoch(0), sequence) }, signed));
                }
                prop_assert!(places.recount(), "{places:?}");
                for digest in (0..6).map(|b| Digest([b; 32])) {
                    let found = places.values().any(|(proposal, _)| proposal.batches.contains(&digest));
                    prop_assert_eq!(places.lists(&digest), found);
                }
            }
        }
    }
}
