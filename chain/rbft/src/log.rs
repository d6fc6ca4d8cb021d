//! The log of the present view: what was proposed at each sequence, who has voted for what there, and what of that is new.
//!
//! Owned by the core. It remembers which sequences were touched, so that an input costs what it changes and not what the
//! window holds.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Digest, Seat, Sequence};
use crate::listed::Listed;
use crate::proposal::Proposal;
use crate::vote::{SignedVote, VoteKind};

/// What is known of a sequence in the present view.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// What the primary proposed, or the new view began with.
    pub(crate) proposal: Option<(Digest, Proposal)>,
    pub(crate) prepares: BTreeMap<Seat, SignedVote>,
    pub(crate) commits: BTreeMap<Seat, SignedVote>,
    pub(crate) prepared: bool,
    pub(crate) committed: bool,
}

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    slots: BTreeMap<Sequence, Slot>,
    listed: Listed,
    /// Where something may have become possible.
    touched: BTreeSet<Sequence>,
}

impl Log {
    pub(crate) fn get(&self, sequence: Sequence) -> Option<&Slot> {
        self.slots.get(&sequence)
    }

    /// Lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Sequence, &Slot)> {
        self.slots.iter().map(|(sequence, slot)| (*sequence, slot))
    }

    /// Lowest first.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    /// Of all sequences, the lowest first.
    pub(crate) fn proposals(&self) -> impl Iterator<Item = &Proposal> {
        self.slots().filter_map(|slot| slot.proposal.as_ref()).map(|(_, proposal)| proposal)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether something here lists a batch.
    pub(crate) fn lists(&self, digest: &Digest) -> bool {
        self.listed.lists(digest)
    }

    /// Whether a sequence has its proposal.
    pub(crate) fn has_proposal(&self, sequence: Sequence) -> bool {
        self.get(sequence).is_some_and(|slot| slot.proposal.is_some())
    }

    /// A proposal takes its place. Returns the one that was there: who has our key may have proposed in our name.
    pub(crate) fn put(&mut self, digest: Digest, proposal: Proposal) -> Option<Proposal> {
        let sequence = proposal.sequence;
        let slot = self.slots.entry(sequence).or_default();
        let before = slot.proposal.take().map(|(_, before)| before);
        before.iter().for_each(|before| self.listed.remove(before, sequence));
        self.listed.add(&proposal, sequence);
        slot.proposal = Some((digest, proposal));
        self.touched.insert(sequence);
        before
    }

    /// Adds a vote. Returns what its seat has said there first.
    pub(crate) fn add(&mut self, vote: SignedVote) -> SignedVote {
        let sequence = vote.vote.sequence;
        let slot = self.slots.entry(sequence).or_default();
        let votes = if vote.vote.kind == VoteKind::Commit { &mut slot.commits } else { &mut slot.prepares };
        self.touched.insert(sequence);
        *votes.entry(vote.seat).or_insert(vote)
    }

    /// The commit vote for it is cast.
    pub(crate) fn is_prepared(&mut self, sequence: Sequence) {
        if let Some(slot) = self.slots.get_mut(&sequence) {
            slot.prepared = true;
        }
    }

    /// It is decided, perhaps otherwise than here.
    pub(crate) fn is_committed(&mut self, sequence: Sequence) {
        if let Some(slot) = self.slots.get_mut(&sequence) {
            slot.committed = true;
            self.touched.insert(sequence);
        }
    }

    /// A batch is on disk: somebody may have waited for that.
    pub(crate) fn is_stored(&mut self, digest: &Digest) {
        self.touched.extend(self.listed.at(digest));
    }

    /// Everything is to be looked at.
    pub(crate) fn touch_all(&mut self) {
        self.touched.extend(self.slots.keys());
    }

    /// Whether a sequence is still to be looked at.
    #[cfg(feature = "testing")]
    pub(crate) fn is_touched(&self, sequence: Sequence) -> bool {
        self.touched.contains(&sequence)
    }

    /// Looks whether what is listed is what a look at everything finds.
    #[cfg(feature = "testing")]
    pub(crate) fn recount(&self) -> bool {
        let mut listed = Listed::default();
        self.proposals().for_each(|proposal| listed.add(proposal, proposal.sequence));
        listed == self.listed
    }

    /// What was touched since this was asked, lowest first.
    pub(crate) fn touched(&mut self) -> BTreeSet<Sequence> {
        std::mem::take(&mut self.touched)
    }

    /// Forgets what is up to a sequence; returns the batches that were listed there.
    pub(crate) fn forget(&mut self, up_to: Sequence) -> Vec<Digest> {
        let mut freed = Vec::new();
        while let Some(first) = self.slots.first_entry()
            && *first.key() <= up_to
        {
            let (sequence, slot) = first.remove_entry();
            if let Some((_, proposal)) = slot.proposal {
                self.listed.remove(&proposal, sequence);
                freed.extend(proposal.batches);
            }
        }
        freed
    }
}
