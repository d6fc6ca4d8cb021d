//! What the protocol allows, written as predicates over the history of messages (PBFT, section 4; README.md of the core for
//! where this one differs), and from that alone: a second opinion that shares no code with the core's rules. It remembers
//! what each correct validator has heard, written down and said, and holds everything that it says against that.
//!
//! It judges safety only. That something is said at all is the world's business: there, what is not executed in the end is a
//! violation.

use std::collections::{BTreeMap, BTreeSet};

use wmall_rbft::{
    Certificate, ChainId, Checker, Committed, Digest, Message, NewView, PqcEntry, Proposal, PublicKey,
    Record, Seat, Sequence, SignedVote, ValidatorSet, View, ViewChange, Vote, VoteKind,
};

/// Whose turn it is: each seat's, one view after another.
fn primary(set: &ValidatorSet, view: View) -> Seat {
    Seat((view.0 % set.size() as u64) as u16)
}

/// How a view begins, by its view changes: what is proposed again, from behind the first to the last sequence.
struct Beginning {
    high: u64,
    again: BTreeMap<u64, Digest>,
}

/// What one validator has heard, written down and said.
#[derive(Default)]
struct History {
    /// Whose votes it knows, a bit for each seat.
    votes: BTreeMap<Vote, u64>,
    /// Votes of primaries that came with their proposals.
    proposed: BTreeSet<Vote>,
    /// How views began, by epoch and view; more than one way if a primary says different things.
    begun: BTreeMap<(u64, u64), Vec<Beginning>>,
    /// Blocks of which it has heard the proof.
    proven: BTreeSet<(Sequence, Digest)>,
    /// Its own votes.
    own: BTreeSet<Vote>,
    /// The highest view that it has asked for, by epoch.
    asked: BTreeMap<u64, u64>,
    /// Batches on its disk, ever.
    stored: BTreeSet<Digest>,
    executed: Sequence,
}

/// The oracle.
pub struct Spec {
    chain: ChainId,
    checker: &'static dyn Checker,
    interval: u64,
    sets: BTreeMap<u64, ValidatorSet>,
    /// Behind which sequence an epoch begins.
    bases: BTreeMap<u64, u64>,
    proposals: BTreeMap<Digest, Proposal>,
    stable: BTreeMap<Sequence, Digest>,
    /// Who is correct, by key.
    correct: BTreeMap<PublicKey, usize>,
    histories: BTreeMap<usize, History>,
    /// The first thing that is not allowed.
    pub violation: Option<String>,
    /// Things said that were judged.
    pub judged: u64,
}

impl Spec {
    /// For a chain that begins with this set, and these correct validators, by key.
    pub fn new(
        chain: ChainId,
        checker: &'static dyn Checker,
        interval: u64,
        set: ValidatorSet,
        correct: BTreeMap<PublicKey, usize>,
    ) -> Self {
        let epoch = set.epoch().0;
        Self {
            chain,
            checker,
            interval,
            sets: BTreeMap::from([(epoch, set)]),
            bases: BTreeMap::from([(epoch, 0)]),
            proposals: BTreeMap::new(),
            stable: BTreeMap::new(),
            correct,
            histories: BTreeMap::new(),
            violation: None,
            judged: 0,
        }
    }

    fn fail(&mut self, node: usize, what: impl std::fmt::Display) {
        if self.violation.is_none() {
            self.violation = Some(format!("by the specification: node {node}: {what}"));
        }
    }

    fn history(&mut self, node: usize) -> &mut History {
        self.histories.entry(node).or_default()
    }

    fn quorum(&self, epoch: u64) -> usize {
        // So many that any two such groups share one who is correct, of the (n - 1) / 3 that may not be: more than half of
        // all and those.
        self.sets.get(&epoch).map_or(usize::MAX, |set| (set.size() + (set.size() - 1) / 3) / 2 + 1)
    }

    // What is learned.

    fn learn_vote(&mut self, node: usize, vote: &SignedVote) {
        *self.history(node).votes.entry(vote.vote).or_default() |= 1 << vote.seat.0.min(63);
    }

    fn learn_proposal(&mut self, proposal: &Proposal) {
        let digest = proposal.digest(&self.chain);
        self.proposals.entry(digest).or_insert_with(|| proposal.clone());
    }

    fn learn_new_view(&mut self, node: usize, new_view: &NewView) {
        new_view.changes.iter().for_each(|change| self.learn_change(change));
        if let Some(beginning) = self.beginning(new_view) {
            let place = (new_view.epoch.0, new_view.view.0);
            self.history(node).begun.entry(place).or_default().push(beginning);
        }
    }

    fn learn_change(&mut self, change: &ViewChange) {
        change.prepared.iter().for_each(|prepared| self.learn_proposal(&prepared.proposal));
    }

    fn learn_entry(&mut self, node: usize, entry: &PqcEntry) {
        self.learn_proposal(&entry.proposal);
        if let Some(vote) = &entry.proposed {
            self.history(node).proposed.insert(vote.vote);
            self.learn_vote(node, vote);
        }
        entry.votes.iter().for_each(|vote| self.learn_vote(node, vote));
        if let Some(certificate) = &entry.committed {
            let block = (entry.proposal.sequence, entry.proposal.digest(&self.chain));
            self.history(node).proven.insert(block);
            self.genuine(node, certificate);
        }
    }

    fn learn(&mut self, node: usize, message: &Message) {
        match message {
            Message::PrePrepare { proposal, vote } => {
                self.learn_proposal(proposal);
                self.history(node).proposed.insert(vote.vote);
                self.learn_vote(node, vote);
            }
            Message::Prepare(vote) | Message::Commit(vote) | Message::Checkpoint { vote, .. } => {
                self.learn_vote(node, vote);
            }
            Message::ViewChange(change) => self.learn_change(change),
            Message::NewView(new_view) | Message::Negotiated { new_view: Some(new_view), .. } => {
                self.learn_new_view(node, new_view);
            }
            Message::Pqc(entries) => entries.iter().for_each(|entry| self.learn_entry(node, entry)),
            _ => {}
        }
    }

    /// PBFT, section 4.4: min-s is the highest stable checkpoint, max-s the highest prepared proposal, and between them each
    /// sequence gets what was prepared in the highest view, or nothing.
    fn beginning(&self, new_view: &NewView) -> Option<Beginning> {
        let epoch = new_view.epoch.0;
        let base = *self.bases.get(&epoch)?;
        let stable = new_view.changes.iter().filter_map(|c| Some(c.stable.as_ref()?.vote.sequence.0)).max();
        let low = base.max(stable.unwrap_or(0));
        let prepared = || new_view.changes.iter().flat_map(|c| &c.prepared);
        let high = prepared().map(|p| p.proposal.sequence.0).max().unwrap_or(low).max(low);
        let of = |n: u64| {
            let here = prepared().filter(|p| p.proposal.sequence.0 == n);
            match here.max_by_key(|p| p.certificate.vote.view) {
                Some(best) => best.proposal.digest(&self.chain),
                None => Proposal::null(new_view.epoch, Sequence(n)).digest(&self.chain),
            }
        };
        Some(Beginning { high, again: (low + 1..=high).map(|n| (n, of(n))).collect() })
    }

    /// A quorum has signed, and what it says of correct validators they have really said.
    fn genuine(&mut self, node: usize, certificate: &Certificate) {
        let Some(set) = self.sets.get(&certificate.vote.epoch.0).cloned() else { return };
        let (said, seats) = (certificate.vote.signing_bytes(&self.chain), certificate.seats());
        let signed: BTreeSet<Seat> = seats
            .zip(&certificate.signatures)
            .filter(|(seat, s)| set.key(*seat).is_some_and(|key| self.checker.check(key, &said, s)))
            .map(|(seat, _)| seat)
            .collect();
        if signed.len() < self.quorum(certificate.vote.epoch.0) {
            self.fail(node, format_args!("goes by a certificate that {} have signed", signed.len()));
        }
        for seat in certificate.seats() {
            let Some(who) = set.key(seat).and_then(|key| self.correct.get(key)).copied() else { continue };
            if !self.histories.get(&who).is_some_and(|h| h.own.contains(&certificate.vote)) {
                self.fail(node, format_args!("{who} has never cast {:?}", certificate.vote));
            }
        }
    }

    // What is told to it.

    /// A correct validator hears a message, whose signatures check out.
    pub fn hears(&mut self, node: usize, message: &Message) {
        self.learn(node, message);
    }

    /// A batch is on its disk.
    pub fn stores(&mut self, node: usize, batch: Digest) {
        self.history(node).stored.insert(batch);
    }

    /// It has fetched a state.
    pub fn updates(&mut self, node: usize, sequence: Sequence) {
        let executed = &mut self.history(node).executed;
        *executed = sequence.max(*executed);
    }

    /// It begins again from the state of this sequence.
    pub fn restarts(&mut self, node: usize, sequence: Sequence) {
        self.history(node).executed = sequence;
    }

    /// It writes something down, to be said behind that.
    pub fn keeps(&mut self, node: usize, record: &Record) {
        match record {
            Record::Accepted { proposal, vote } => {
                self.learn_proposal(proposal);
                let set = self.sets.get(&vote.vote.epoch.0);
                if set.is_some_and(|set| primary(set, vote.vote.view) == vote.seat) {
                    // It is the primary's own, and goes out when it is on disk.
                    self.history(node).proposed.insert(vote.vote);
                }
                self.judge_vote(node, vote);
            }
            Record::Entered(new_view) => self.learn_new_view(node, new_view),
            Record::Prepared { prepared, vote } => {
                self.genuine(node, &prepared.certificate);
                self.judge_vote(node, vote);
            }
            Record::Stable(certificate) => {
                // A crash may have come between its own vote for that and the sending.
                if self.histories.get(&node).is_some_and(|h| h.executed >= certificate.vote.sequence) {
                    self.history(node).own.insert(certificate.vote);
                }
                self.genuine(node, certificate);
                let Vote { sequence, digest, .. } = certificate.vote;
                if *self.stable.entry(sequence).or_insert(digest) != digest {
                    self.fail(node, format_args!("a second stable checkpoint at {sequence}"));
                }
            }
            Record::Epoch { set, base, .. } => self.begins(node, set, base.0),
            _ => {}
        }
    }

    fn begins(&mut self, node: usize, set: &ValidatorSet, base: u64) {
        let epoch = set.epoch().0;
        if *self.bases.entry(epoch).or_insert(base) != base {
            self.fail(node, format_args!("epoch {epoch} begins at another place"));
        }
        self.sets.entry(epoch).or_insert_with(|| set.clone());
        let late = |vote: &&Vote| vote.epoch.0 < epoch && vote.sequence.0 > base;
        let late: Option<(usize, Vote)> =
            self.histories.iter().find_map(|(who, h)| Some((*who, *h.own.iter().find(late)?)));
        if let Some((who, vote)) = late {
            self.fail(who, format_args!("{vote:?} beyond the end of its epoch at {base}"));
        }
    }

    /// It executes a block.
    pub fn executes(&mut self, node: usize, block: &Committed) {
        self.judged += 1;
        let (sequence, digest) = (block.proposal.sequence, block.proposal.digest(&self.chain));
        self.genuine(node, &block.certificate);
        let quorum = self.quorum(block.proposal.epoch.0);
        let history = self.history(node);
        history.executed = sequence;
        let seen = |(vote, seats): (&Vote, &u64)| {
            let about = (vote.kind, vote.sequence, vote.digest) == (VoteKind::Commit, sequence, digest);
            about && seats.count_ones() as usize >= quorum
        };
        let committed = history.votes.iter().any(seen) || history.proven.contains(&(sequence, digest));
        if !committed {
            self.fail(node, format_args!("executes {sequence}, of which it has seen no quorum of commits"));
        }
    }

    /// It says something.
    pub fn says(&mut self, node: usize, message: &Message) {
        self.judged += 1;
        match message {
            Message::PrePrepare { proposal, vote } => {
                self.learn(node, message);
                self.judge_proposal(node, proposal, vote);
                self.judge_vote(node, vote);
            }
            Message::Prepare(vote) | Message::Commit(vote) | Message::Checkpoint { vote, .. } => {
                self.judge_vote(node, vote);
            }
            Message::ViewChange(change) => self.judge_change(node, change),
            Message::NewView(new_view) => self.judge_new_view(node, new_view),
            _ => {}
        }
    }

    // What is allowed.

    fn judge_proposal(&mut self, node: usize, proposal: &Proposal, vote: &SignedVote) {
        let Vote { epoch, view, sequence, .. } = vote.vote;
        let set = self.sets.get(&epoch.0);
        if set.is_none_or(|set| primary(set, view) != vote.seat) {
            self.fail(node, format_args!("proposes {sequence} in view {view}, which is another's"));
        }
        let history = self.history(node);
        if let Some(missing) = proposal.batches.iter().find(|b| !history.stored.contains(b)) {
            let missing = *missing;
            self.fail(node, format_args!("proposes {sequence} with {missing}, which it has not"));
        }
    }

    fn judge_vote(&mut self, node: usize, vote: &SignedVote) {
        let v = vote.vote;
        let known = self.history(node).own.contains(&v);
        self.learn_vote(node, vote);
        if known {
            return;
        }
        self.judged += 1;
        match v.kind {
            VoteKind::Prepare => self.judge_prepare(node, &v),
            VoteKind::Commit => {
                let quorum = self.quorum(v.epoch.0);
                let prepare = Vote { kind: VoteKind::Prepare, ..v };
                let seats = self.history(node).votes.get(&prepare).map_or(0, |s| s.count_ones() as usize);
                if seats < quorum {
                    self.fail(node, format_args!("commits to {v:?}, of which it knows {seats} prepares"));
                }
            }
            VoteKind::Checkpoint => {
                let executed = self.history(node).executed;
                if v.sequence > executed || !v.sequence.0.is_multiple_of(self.interval) {
                    self.fail(node, format_args!("a checkpoint at {}, executed {executed}", v.sequence));
                }
            }
        }
        let history = self.history(node);
        let asked = history.asked.get(&v.epoch.0).copied().unwrap_or(0);
        history.own.insert(v);
        if v.kind != VoteKind::Checkpoint && v.view.0 < asked {
            self.fail(node, format_args!("{v:?} after it has asked for view {asked}"));
        }
        let end = self.bases.get(&(v.epoch.0 + 1)).copied();
        if end.is_some_and(|end| v.sequence.0 > end) {
            self.fail(node, format_args!("{v:?} beyond the end of its epoch"));
        }
    }

    /// A prepare is for what the primary has proposed in a view that has begun, or for what the view began with; and all its
    /// batches are here.
    fn judge_prepare(&mut self, node: usize, vote: &Vote) {
        let Vote { epoch, view, sequence, digest, .. } = *vote;
        let null = Proposal::null(epoch, sequence).digest(&self.chain) == digest;
        let proposal = self.proposals.get(&digest).cloned();
        let history = self.history(node);
        let missing = proposal.iter().flat_map(|p| &p.batches).find(|b| !history.stored.contains(b)).copied();
        let begun = history.begun.get(&(epoch.0, view.0)).map(Vec::as_slice).unwrap_or_default();
        let again = begun.iter().any(|b| b.again.get(&sequence.0) == Some(&digest));
        let fresh =
            history.proposed.contains(vote) && (view.0 == 0 || begun.iter().any(|b| sequence.0 > b.high));
        if proposal.is_none() && !null {
            self.fail(node, format_args!("{vote:?} for what nobody has shown it"));
        }
        if let Some(missing) = missing {
            self.fail(node, format_args!("{vote:?} without batch {missing} on its disk"));
        }
        if !again && !fresh {
            self.fail(node, format_args!("{vote:?} for what was not proposed to it in that view"));
        }
    }

    /// A view change owns up to every commit vote above its checkpoint (PBFT, section 4.4: the set P).
    fn judge_change(&mut self, node: usize, change: &ViewChange) {
        let (epoch, view) = (change.epoch.0, change.view.0);
        let stable = change.stable.as_ref().map_or(0, |c| c.vote.sequence.0);
        let low = stable.max(self.bases.get(&epoch).copied().unwrap_or(0));
        for prepared in &change.prepared {
            self.genuine(node, &prepared.certificate);
        }
        let history = self.history(node);
        let asked = history.asked.entry(epoch).or_default();
        *asked = view.max(*asked);
        let owns = |vote: &Vote| {
            let mut here = change.prepared.iter().filter(|p| p.proposal.sequence == vote.sequence);
            here.any(|p| p.certificate.vote.view >= vote.view)
        };
        // What it has promised in that view itself may be on its disk by the time that this goes out.
        let earlier = |v: &&Vote| v.kind == VoteKind::Commit && v.epoch.0 == epoch && v.view.0 < view;
        let mut bound = history.own.iter().filter(earlier);
        let hidden = bound.find(|v| v.sequence.0 > low && !owns(v)).copied();
        if let Some(vote) = hidden {
            self.fail(node, format_args!("asks for view {view} and is silent on its {vote:?}"));
        }
    }

    /// A view begins by a quorum that wants it. Others than its primary hand on what they have heard of that.
    fn judge_new_view(&mut self, node: usize, new_view: &NewView) {
        let Some(set) = self.sets.get(&new_view.epoch.0).cloned() else { return };
        let seats: BTreeSet<_> = new_view.changes.iter().map(|c| c.seat).collect();
        let all_for_it =
            new_view.changes.iter().all(|c| (c.epoch, c.view) == (new_view.epoch, new_view.view));
        if seats.len() < set.quorum() || !all_for_it {
            self.fail(node, format_args!("begins view {} without a quorum", new_view.view));
        }
        let primary = set.key(primary(&set, new_view.view)).and_then(|key| self.correct.get(key));
        let place = (new_view.epoch.0, new_view.view.0);
        if primary != Some(&node) && !self.history(node).begun.contains_key(&place) {
            self.fail(node, format_args!("says how view {} begins and has not heard it", new_view.view));
        }
        self.learn_new_view(node, new_view);
    }
}
