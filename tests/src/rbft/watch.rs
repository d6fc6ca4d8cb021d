//! What must hold, looked at as it happens. It knows nothing of how the core works: only what was sent, and what was executed.

use std::collections::BTreeMap;

use wmall_rbft::{
    Batch, ChainId, Checker, Committed, Digest, Message, PublicKey, Sequence, SignedVote, ValidatorSet,
    VoteKind,
};

use super::node::Node;

/// A place in the votes of one validator: epoch, kind, view, sequence.
type Place = (PublicKey, u64, VoteKind, u64, u64);

/// The watcher.
pub struct Watch {
    checker: &'static dyn Checker,
    /// What each sequence turned out to be.
    blocks: BTreeMap<Sequence, Digest>,
    /// States at sequences.
    states: BTreeMap<Sequence, Digest>,
    /// Votes of correct validators.
    votes: BTreeMap<Place, Digest>,
    /// Validators of epochs.
    epochs: BTreeMap<u64, Digest>,
    /// The first thing that did not hold.
    pub violation: Option<String>,
}

impl Watch {
    /// One that has seen nothing yet.
    pub fn new(checker: &'static dyn Checker) -> Self {
        let (blocks, states, votes, epochs) = Default::default();
        Self { checker, blocks, states, votes, epochs, violation: None }
    }

    /// Notes that something does not hold.
    pub fn fail(&mut self, what: String) {
        if self.violation.is_none() {
            self.violation = Some(what);
        }
    }

    /// A correct validator sends a message: it votes for one thing in one place, and only for what it has.
    pub fn sent(&mut self, node: &Node, message: &Message) {
        self.promised(node, message);
        match message {
            Message::PrePrepare { vote, .. } | Message::Prepare(vote) | Message::Commit(vote) => {
                self.voted(node, vote);
            }
            Message::Checkpoint { vote, .. } => self.voted(node, vote),
            Message::Pqc(entries) => {
                for vote in entries.iter().flat_map(|entry| &entry.votes) {
                    self.voted(node, vote);
                }
            }
            _ => {}
        }
        if let Message::PrePrepare { proposal, .. } = message
            && let Some(missing) = proposal.batches.iter().find(|digest| !node.batches.contains_key(*digest))
        {
            let sequence = proposal.sequence;
            self.fail(format!("node {} proposes {sequence} and has not stored {missing:?}", node.index));
        }
    }

    /// Nothing is promised before it is on disk.
    fn promised(&mut self, node: &Node, message: &Message) {
        let disk = &node.disk;
        let kept = |vote: &wmall_rbft::Vote, found: Option<&SignedVote>| {
            let past = vote.epoch < disk.set.epoch() || vote.sequence <= disk.stable_sequence();
            past || found.is_some_and(|f| f.vote == *vote || f.vote.view > vote.view)
        };
        let accepted = |vote: &SignedVote| disk.accepted.get(&vote.vote.sequence).map(|(_, v)| v);
        let prepared = |vote: &SignedVote| disk.prepared.get(&vote.vote.sequence).map(|(_, v)| v);
        let on_disk = match message {
            Message::PrePrepare { vote, .. } | Message::Prepare(vote) => {
                let known = disk.accepted.get(&vote.vote.sequence);
                if known.is_some_and(|(proposal, v)| v == vote && proposal.epoch != vote.vote.epoch) {
                    self.fail(format!("node {} votes for a proposal of another epoch", node.index));
                }
                kept(&vote.vote, accepted(vote))
            }
            Message::Commit(vote) => kept(&vote.vote, prepared(vote)),
            // Who has forgotten what it promised may hear of it from others, and repeat that.
            Message::Pqc(_) if disk.amnesia.is_some() => true,
            Message::Pqc(entries) => entries.iter().flat_map(|entry| &entry.votes).all(|vote| {
                let prepare = vote.vote.kind == VoteKind::Prepare;
                kept(&vote.vote, if prepare { accepted(vote) } else { prepared(vote) })
            }),
            Message::ViewChange(change) => change.epoch < disk.set.epoch() || change.view <= disk.view,
            Message::NewView(new_view) => new_view.epoch < disk.set.epoch() || new_view.view <= disk.view,
            _ => true,
        };
        if !on_disk {
            self.fail(format!("node {} sends what is not on its disk: {}", node.index, message.kind()));
        }
    }

    fn voted(&mut self, node: &Node, vote: &SignedVote) {
        let v = vote.vote;
        let place = (node.key, v.epoch.0, v.kind, v.view.0, v.sequence.0);
        let first = *self.votes.entry(place).or_insert(v.digest);
        if first != v.digest {
            self.fail(format!("node {} votes twice: {:?} of {:?}", node.index, v.kind, place));
        }
    }

    /// Nothing is executed so far beyond what really is archived, whatever adversaries say of that.
    pub fn within_the_archive(&mut self, node: usize, sequence: Sequence, bound: u64) {
        if sequence.0 > bound {
            self.fail(format!("node {node} executes {sequence}, and the archive allows {bound}"));
        }
    }

    /// A correct validator executes a block.
    pub fn executes(
        &mut self,
        node: &Node,
        block: &Committed,
        chain: &ChainId,
        batches: &BTreeMap<Digest, Batch>,
    ) {
        let (proposal, certificate) = (&block.proposal, &block.certificate);
        let digest = proposal.digest(chain);
        let first = *self.blocks.entry(proposal.sequence).or_insert(digest);
        if first != digest {
            self.fail(format!("node {}: another block {}", node.index, proposal.sequence));
        }
        for digest in &proposal.batches {
            match batches.get(digest) {
                None => {
                    self.fail(format!("node {}: block {} without its data", node.index, proposal.sequence))
                }
                Some(batch) if batch.digest() != *digest => self.fail("a batch under another name".into()),
                Some(_) => {}
            }
        }
        let vote = certificate.vote;
        let about = (vote.kind, vote.sequence, vote.digest, vote.epoch);
        if about != (VoteKind::Commit, proposal.sequence, digest, proposal.epoch) {
            self.fail(format!("node {}: a certificate of something else", node.index));
        }
        match node.sets.get(vote.epoch) {
            None => self.fail(format!("node {}: a certificate of unknown validators", node.index)),
            Some(set) => {
                if let Err(error) = certificate.verify(chain, set, self.checker) {
                    self.fail(format!("node {}: block {}: {error}", node.index, proposal.sequence));
                }
            }
        }
    }

    /// A correct validator has a state.
    pub fn has_state(&mut self, node: usize, sequence: Sequence, state: Digest) {
        let first = *self.states.entry(sequence).or_insert(state);
        if first != state {
            self.fail(format!("node {node}: another state at {sequence}"));
        }
    }

    /// A correct validator begins an epoch.
    pub fn begins(&mut self, node: usize, set: &ValidatorSet) {
        let first = *self.epochs.entry(set.epoch().0).or_insert(set.digest());
        if first != set.digest() {
            self.fail(format!("node {node}: other validators in epoch {}", set.epoch()));
        }
    }

    /// After every step of a correct validator.
    pub fn stepped(&mut self, node: &mut Node, window: u64, bound: usize) {
        let Some(replica) = &node.replica else { return };
        let place = (replica.epoch().0, replica.view().0);
        if place < node.highest {
            self.fail(format!("node {}: from view {:?} back to {place:?}", node.index, node.highest));
        }
        node.highest = place;
        if replica.executed().0 > replica.stable().0 + window {
            self.fail(format!("node {}: executed beyond the window", node.index));
        }
        // Its window, a checkpoint for each of its boundaries, and one beyond for each seat.
        let log = window as usize + 8 + replica.set().size();
        if replica.log_size() > log {
            self.fail(format!("node {}: votes of {} sequences in memory", node.index, replica.log_size()));
        }
        if replica.size() > bound {
            self.fail(format!("node {}: {} entries in memory", node.index, replica.size()));
        }
    }

    /// The highest block that anybody has executed.
    pub fn height(&self) -> Sequence {
        self.blocks.keys().next_back().copied().unwrap_or_default()
    }
}
