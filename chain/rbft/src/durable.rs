//! What a replica must not forget: every promise, before anybody hears of it. The shell appends records to its log in the
//! order in which they come, and at a start replays them into [`Durable`].

use std::collections::BTreeMap;

use crate::certificate::Certificate;
use crate::ids::{Epoch, Nonce, Sequence, View};
use crate::listed::Places;
use crate::message::{Committed, NewView, Prepared};
use crate::proposal::Proposal;
use crate::sets::ValidatorSets;
use crate::validators::ValidatorSet;
use crate::vote::SignedVote;

/// Something to be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// It has given up all views below this one.
    View {
        /// The epoch.
        epoch: Epoch,
        /// The view.
        view: View,
    },
    /// A view has begun here.
    Entered(NewView),
    /// It has accepted this proposal in this view, and voted for it.
    Accepted {
        /// The proposal.
        proposal: Proposal,
        /// Its prepare vote.
        vote: SignedVote,
    },
    /// It has seen this prepared, and voted to commit it.
    Prepared {
        /// What, and the proof.
        prepared: Prepared,
        /// Its commit vote.
        vote: SignedVote,
    },
    /// This is committed: a block of the chain.
    Committed(Committed),
    /// A checkpoint is stable.
    Stable(Certificate),
    /// An epoch has begun, behind this sequence.
    Epoch {
        /// Its validators.
        set: ValidatorSet,
        /// Where it begins.
        base: Sequence,
        /// The checkpoint that ended the one before; none for the first epoch.
        ended: Option<Certificate>,
        /// Whether this replica rejoins with it. In the same record: a nonce that has brought it in counts no second time.
        rejoins: bool,
    },
    /// The replica has no memory of what it promised: it is silent until an epoch that its rejoining, under this nonce, has
    /// begun.
    Amnesia(Nonce),
}

/// The sum of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// The validators of the present epoch.
    pub set: ValidatorSet,
    /// Theirs, and those of some epochs before: what is needed to check what others say.
    pub sets: ValidatorSets,
    /// Where the present epoch begins: its first sequence is the one behind.
    pub base: Sequence,
    /// The highest view that it may vote in.
    pub view: View,
    /// How that began, if it has; the first view of an epoch needs no beginning.
    pub new_view: Option<NewView>,
    /// By sequence: the last proposal that it voted for.
    pub accepted: Places<(Proposal, SignedVote)>,
    /// By sequence: what it has seen prepared in the highest view, and its vote for that.
    pub prepared: Places<(Prepared, SignedVote)>,
    /// By sequence: what is committed above the stable checkpoint.
    pub committed: Places<Committed>,
    /// The stable checkpoint.
    pub stable: Option<Certificate>,
    /// The checkpoints that ended epochs.
    pub ended: BTreeMap<Epoch, Certificate>,
    /// Whether it is silent, and under which nonce it rejoins.
    pub amnesia: Option<Nonce>,
}

/// Epochs whose ends are remembered, for who comes from one of them.
const MAX_ENDED: usize = 1024;

impl Durable {
    /// A new chain.
    pub fn new(set: ValidatorSet) -> Self {
        Self {
            sets: ValidatorSets::of(set.clone()),
            set,
            base: Sequence(0),
            view: View(0),
            new_view: None,
            accepted: Places::default(),
            prepared: Places::default(),
            committed: Places::default(),
            stable: None,
            ended: BTreeMap::new(),
            amnesia: None,
        }
    }

    /// The sequence of the stable checkpoint.
    pub fn stable_sequence(&self) -> Sequence {
        self.stable.as_ref().map_or(Sequence(0), |c| c.vote.sequence)
    }

    /// What there are no votes up to any more: the stable checkpoint, or where the epoch begins (PBFT section 4.3: h).
    pub fn low(&self) -> Sequence {
        self.stable_sequence().max(self.base)
    }

    /// Whether the present view has begun.
    pub fn is_active(&self) -> bool {
        match &self.new_view {
            Some(new_view) => new_view.view == self.view,
            None => self.view == View(0),
        }
    }

    /// Adds a record.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::View { epoch, view } => {
                if *epoch == self.set.epoch() {
                    self.view = self.view.max(*view);
                }
            }
            Record::Entered(new_view) => {
                if new_view.epoch == self.set.epoch() {
                    self.view = self.view.max(new_view.view);
                    self.new_view = Some(new_view.clone());
                }
            }
            Record::Accepted { proposal, vote } => {
                self.accepted.insert((proposal.clone(), *vote));
            }
            Record::Prepared { prepared, vote } => {
                self.prepared.insert((prepared.clone(), *vote));
            }
            Record::Committed(committed) => {
                self.committed.insert(committed.clone());
            }
            Record::Stable(certificate) => {
                let sequence = certificate.vote.sequence;
                self.stable = Some(certificate.clone());
                self.accepted.forget(sequence);
                self.prepared.forget(sequence);
                self.committed.forget(sequence);
            }
            Record::Epoch { set, base, ended, rejoins } => {
                if let Some(ended) = ended {
                    self.ended.insert(ended.vote.epoch, ended.clone());
                }
                while self.ended.len() > MAX_ENDED {
                    self.ended.pop_first();
                }
                self.sets.insert(set.clone());
                (self.set, self.base) = (set.clone(), *base);
                (self.view, self.new_view) = (View(0), None);
                self.accepted.clear();
                self.prepared.clear();
                self.committed.forget(*base);
                if *rejoins {
                    self.amnesia = None;
                }
            }
            Record::Amnesia(nonce) => self.amnesia = Some(*nonce),
        }
    }
}
