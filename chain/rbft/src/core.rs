//! The replica: its state, and what each input does to it. What happens in detail is in the rooms beside: `normal.rs`,
//! `checkpoint.rs`, `change.rs`, `recovery.rs`.
//!
//! Deliberately absent: I/O, a clock, randomness, any order that depends on memory. The same inputs lead to the same
//! outputs, bit by bit.

use std::collections::{BTreeMap, BTreeSet};

use crate::batches::Batches;
use crate::certificate::Certificate;
use crate::config::{Config, ConfigError};
use crate::durable::{Durable, Record};
use crate::ids::{ChainId, Digest, Epoch, Nonce, Seat, Sequence, Time, View};
use crate::io::{Input, Output, SetChange, To};
use crate::log::Log;
use crate::message::Message;
use crate::proposal::Evidence;
use crate::recovery::Recovery;
use crate::signature::{PublicKey, Signer};
use crate::validators::ValidatorSet;
use crate::vote::{SignedVote, Vote, VoteKind};
use crate::wishes::Wishes;

/// Where a replica is with its view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has begun.
    Active,
    /// It is wished for. Once a quorum wishes it, there is a time by which it must begin.
    Changing { deadline: Option<Time> },
}

/// What decides, beside a sequence itself, what may be done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stance {
    epoch: Epoch,
    view: View,
    active: bool,
    may_vote: bool,
    floor: Sequence,
    high: Sequence,
}

/// A replica of one chain.
pub struct Rbft {
    pub(crate) chain: ChainId,
    pub(crate) config: Config,
    pub(crate) key: PublicKey,
    pub(crate) signer: Box<dyn Signer>,
    /// The sum of what was persisted.
    pub(crate) durable: Durable,
    /// Its seat in the present epoch, if it has one.
    pub(crate) seat: Option<Seat>,
    pub(crate) now: Time,
    pub(crate) phase: Phase,
    pub(crate) log: Log,
    /// What all of the log was looked at with last.
    pub(crate) stance: Option<Stance>,
    pub(crate) batches: Batches,
    /// The next sequence that it proposes, as primary.
    pub(crate) next: Sequence,
    pub(crate) last_proposed: Time,
    pub(crate) executed: Sequence,
    /// What was handed out for execution last.
    pub(crate) executing: Sequence,
    pub(crate) archived: Sequence,
    /// Up to where each seat has seen the chain archived, by its own word.
    pub(crate) persisted: BTreeMap<Seat, Sequence>,
    /// What follows from that.
    pub(crate) agreed_archived: Sequence,
    /// Checkpoint votes above the stable one.
    pub(crate) checkpoints: BTreeMap<Sequence, BTreeMap<Seat, SignedVote>>,
    /// Own states at boundaries above the stable checkpoint.
    pub(crate) states: BTreeMap<Sequence, Digest>,
    /// A certified checkpoint that is ahead of what was executed.
    pub(crate) ahead: Option<Certificate>,
    /// The change of validators that is due, and the last sequence of this epoch.
    pub(crate) pending: Option<(Sequence, SetChange)>,
    pub(crate) wishes: Wishes,
    /// Where the present view begins: there are no votes of it up to there.
    pub(crate) begun_at: Sequence,
    /// Seats that have spoken of a later epoch.
    pub(crate) later: BTreeSet<Seat>,
    /// Views that have brought nothing in a row.
    pub(crate) fruitless: u32,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) secret: Nonce,
    pub(crate) nonces: u64,
    pub(crate) resend_at: Time,
    /// Not before this are batches asked for again.
    pub(crate) fetch_at: Time,
    /// How often in a row something was missing.
    pub(crate) fetch_tries: u32,
    /// When batches are forwarded next.
    pub(crate) forward_at: Time,
    /// By when something must have been executed, if something is due.
    pub(crate) progress_by: Time,
    /// Whether it has asked the others about a gap since it executed something.
    pub(crate) looked: bool,
    pub(crate) rejoin_at: Time,
    /// When it asks the others where they are, unless something is executed before.
    pub(crate) look_at: Time,
    pub(crate) accused: BTreeMap<Seat, Evidence>,
    pub(crate) diverged: bool,
    #[cfg(feature = "testing")]
    pub(crate) bug: Option<crate::bug::Bug>,
    pub(crate) out: Vec<Output>,
}

/// Whether a bug is planted; never, in builds that are used.
macro_rules! planted {
    ($self:expr, $bug:ident) => {{
        #[cfg(feature = "testing")]
        {
            $self.bug == Some(crate::bug::Bug::$bug)
        }
        #[cfg(not(feature = "testing"))]
        {
            let _ = &$self;
            false
        }
    }};
}
pub(crate) use planted;

impl Rbft {
    /// A replica with this memory, which has executed up to its stable checkpoint. [`Input::Start`] begins it. Refused if nothing
    /// can run by the parameters.
    pub fn new(
        chain: ChainId,
        config: Config,
        (key, signer): (PublicKey, Box<dyn Signer>),
        durable: Durable,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let executed = durable.low();
        let phase = if durable.is_active() { Phase::Active } else { Phase::Changing { deadline: None } };
        let seat = durable.set.seat_of(&key);
        Ok(Self {
            chain,
            config,
            key,
            signer,
            seat,
            now: Time(0),
            phase,
            log: Log::default(),
            stance: None,
            batches: Batches::new(durable.set.faulty() + 1),
            next: executed.next(),
            last_proposed: Time(0),
            executed,
            executing: executed,
            archived: Sequence(0),
            persisted: BTreeMap::new(),
            agreed_archived: Sequence(0),
            checkpoints: BTreeMap::new(),
            states: BTreeMap::new(),
            ahead: None,
            pending: None,
            wishes: Wishes::new(durable.view),
            begun_at: durable.base,
            later: BTreeSet::new(),
            fruitless: 0,
            recovery: None,
            secret: Nonce(0),
            nonces: 0,
            resend_at: Time(0),
            fetch_at: Time(0),
            fetch_tries: 0,
            forward_at: Time(0),
            progress_by: Time(u64::MAX),
            looked: false,
            rejoin_at: Time(0),
            look_at: Time(0),
            accused: BTreeMap::new(),
            diverged: false,
            #[cfg(feature = "testing")]
            bug: None,
            out: Vec::new(),
            durable,
        })
    }

    /// Plants a bug, for tests of those who look for bugs.
    #[cfg(feature = "testing")]
    pub fn plant(&mut self, bug: Option<crate::bug::Bug>) {
        self.bug = bug;
    }

    /// What holds it up, for who looks at a failed simulation.
    #[cfg(feature = "testing")]
    pub fn describe(&self) -> String {
        let slot = |(sequence, slot): (Sequence, &crate::log::Slot)| {
            let missing = slot.proposal.as_ref().map(|(_, p)| !self.batches.has_all(p));
            let (prepares, commits) = (slot.prepares.len(), slot.commits.len());
            format!(
                "{sequence}: missing {missing:?} prepares {prepares} commits {commits} {}",
                slot.committed
            )
        };
        let slots: Vec<String> = self.log.iter().map(slot).collect();
        let waiting = self.batches.waiting().count();
        let pending = self.pending.as_ref().map(|(end, _)| *end);
        let (next, high, base) = (self.next, self.high(), self.durable.base);
        format!("{slots:?} next {next} high {high} base {base} end {pending:?} waiting {waiting}")
    }

    /// What follows from an input at a time. Time never goes back: an earlier one counts as the last.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Output> {
        self.now = self.now.max(now);
        match input {
            Input::Start { secret, change, batches } => self.start(secret, change, batches),
            Input::Tick => self.tick(),
            Input::Message(verified) => {
                let (from, message, digest) = verified.into_parts();
                self.receive(from, message, digest);
            }
            Input::Later(from) => {
                if let Some(seat) = self.durable.set.seat_of(&from) {
                    self.is_behind(seat);
                }
            }
            Input::Submit(batch) => self.submitted(batch),
            Input::BatchStored { digest, done } => self.batch_stored(digest, done),
            Input::Executed { sequence, state, change, done } => {
                done.iter().for_each(|batch| self.batches.is_in_the_state(batch, sequence));
                self.has_executed(sequence, state, change);
            }
            Input::Archived(sequence) => self.has_archived(sequence),
            Input::Updated { certificate, change, done } => self.has_updated(certificate, change, &done),
        }
        self.go_on();
        std::mem::take(&mut self.out)
    }

    /// By when it wants to be ticked.
    pub fn next_deadline(&self) -> Option<Time> {
        let changing = match self.phase {
            Phase::Changing { deadline } if self.may_vote() => deadline,
            _ => None,
        };
        // A chain that waits for its archive is nobody's fault.
        let overdue = || self.batches.deadline().map(|at| at.max(self.forward_at));
        let batches = if self.is_waiting_for_the_archive() { None } else { overdue() };
        [changing, Some(self.resend_at), batches, Some(self.progress_by)].into_iter().flatten().min()
    }

    /// The present epoch.
    pub fn epoch(&self) -> Epoch {
        self.durable.set.epoch()
    }

    /// The present view: the one that it is in, or wishes for.
    pub fn view(&self) -> View {
        self.durable.view
    }

    /// The last sequence that was executed.
    pub fn executed(&self) -> Sequence {
        self.executed
    }

    /// Its stable checkpoint.
    pub fn stable(&self) -> Sequence {
        self.durable.stable_sequence()
    }

    /// The validators of the present epoch.
    pub fn set(&self) -> &ValidatorSet {
        &self.durable.set
    }

    /// Whether it takes part: it has a seat, remembers its promises, and is not at odds with a quorum.
    pub fn takes_part(&self) -> bool {
        self.may_vote()
    }

    /// What it is about, in a word: for people, logs and metrics.
    pub fn doing(&self) -> &'static str {
        match (&self.recovery, self.phase) {
            _ if self.diverged => "diverged",
            (Some(Recovery::Negotiating { .. }), _) => "negotiating",
            (Some(Recovery::Locating { .. }), _) => "locating",
            (Some(Recovery::Updating { .. }), _) => "updating",
            _ if self.durable.amnesia.is_some() => "rejoining",
            _ if self.seat.is_none() => "watching",
            (None, Phase::Changing { .. }) => "changing",
            (None, Phase::Active) => "active",
        }
    }

    /// Sequences that there are votes of. Never more than the window and what each seat may hold up beyond it.
    pub fn log_size(&self) -> usize {
        self.log.len() + self.checkpoints.len()
    }

    /// Entries of all tables, for the bound on memory.
    pub fn size(&self) -> usize {
        let votes: usize = self.log.slots().map(|s| s.prepares.len() + s.commits.len() + 1).sum();
        let checkpoints: usize = self.checkpoints.values().map(BTreeMap::len).sum();
        votes + checkpoints + self.wishes.len() + self.batches.size() + self.durable.committed.len()
    }

    /// Looks whether what is kept so that an input needs not look at everything is what a look at everything finds.
    #[cfg(feature = "testing")]
    pub fn recount(&self) -> Result<(), String> {
        self.batches.recount(|digest| self.log.proposals().any(|p| p.batches.contains(digest)))?;
        let Durable { accepted, prepared, committed, .. } = &self.durable;
        let listed = [self.log.recount(), accepted.recount(), prepared.recount(), committed.recount()];
        if listed.contains(&false) {
            return Err(format!("the log, accepted, prepared, committed list what they list: {listed:?}"));
        }
        let forgotten = |sequence: &Sequence| !self.log.is_touched(*sequence) && self.may_advance(*sequence);
        match self.log.iter().map(|(sequence, _)| sequence).find(forgotten) {
            Some(sequence) => Err(format!("more is possible at {sequence}, and nothing is done")),
            None => Ok(()),
        }
    }

    /// Entries that are here because of one peer, for the bound on what it can make this one hold: votes and what comes with
    /// them, batches, reports of batches.
    #[cfg(feature = "testing")]
    pub fn held_for(&self, key: &PublicKey) -> [usize; 3] {
        let batches = self.batches.held_for(key);
        let Some(seat) = self.durable.set.seat_of(key) else { return [0, batches, 0] };
        let own = |votes: &BTreeMap<Seat, SignedVote>| usize::from(votes.contains_key(&seat));
        let votes: usize = self.log.slots().map(|s| own(&s.prepares) + own(&s.commits)).sum();
        let checkpoints: usize = self.checkpoints.values().map(own).sum();
        let change = self.wishes.get(seat).map_or(0, |change| 1 + change.prepared.len());
        [votes + checkpoints + change, batches, self.batches.reported_by(seat)]
    }

    fn receive(&mut self, from: PublicKey, message: Message, digest: Option<Digest>) {
        match message {
            Message::Batch(batch) => {
                self.take_batch(from, digest.unwrap_or_else(|| batch.digest()), batch);
            }
            Message::Stored(digests) => {
                if let Some(seat) = self.durable.set.seat_of(&from) {
                    let enough = self.batches.report(seat, &digests, self.config.reports_per_seat());
                    enough.iter().for_each(|digest| self.weigh(digest));
                }
            }
            Message::FetchBatches(digests) => {
                let wanted: BTreeSet<Digest> = digests.into_iter().filter(|d| self.batches.has(d)).collect();
                for digest in wanted {
                    self.out.push(Output::SendBatch { to: To::One(from), digest });
                }
            }
            Message::PrePrepare { proposal, vote } => self.proposed(proposal, vote),
            Message::Prepare(vote) | Message::Commit(vote) => self.take_vote(vote),
            Message::Checkpoint { vote, persisted } => self.take_checkpoint(&from, vote, persisted),
            Message::Archived { epoch, persisted } => self.hears_archived(from, epoch, persisted),
            Message::ViewChange(change) => self.take_view_change(&from, change),
            Message::NewView(new_view) => self.take_new_view(new_view),
            Message::Negotiate { nonce, epoch, view } => self.answer_negotiate(from, nonce, epoch, view),
            Message::Negotiated { nonce, epoch, new_view } => self.negotiated(from, nonce, epoch, new_view),
            Message::RecoveryInit { nonce, epoch } => self.answer_recovery(from, nonce, epoch),
            Message::Recovery { nonce, stable, executed: _ } => self.located(from, nonce, stable),
            Message::FetchPqc { from: first, to } => self.answer_pqc(from, first, to),
            Message::Pqc(entries) => entries.into_iter().for_each(|entry| self.take_pqc(entry)),
        }
    }

    /// What may have become possible, whatever happened.
    fn go_on(&mut self) {
        let stance = Stance {
            epoch: self.epoch(),
            view: self.view(),
            active: self.phase == Phase::Active,
            may_vote: self.may_vote(),
            floor: self.voting_floor(),
            high: self.high(),
        };
        if self.stance.replace(stance) != Some(stance) {
            self.log.touch_all();
        }
        for sequence in self.log.touched() {
            self.advance(sequence);
        }
        self.execute();
        self.propose();
    }

    fn tick(&mut self) {
        let (now, next) = (self.now, self.now.plus(self.timeout()));
        if let Phase::Changing { deadline: Some(deadline) } = self.phase
            && deadline <= now
        {
            self.change_view(self.durable.view.next());
        }
        if !self.is_waiting_for_the_archive() {
            self.forward_overdue(now, next);
        }
        if self.progress_by <= now {
            self.stalled();
        }
        if self.resend_at <= now {
            self.resend_at = now.plus(self.config.resend_ms);
            self.resend();
        }
    }

    /// Persists, and remembers.
    pub(crate) fn persist(&mut self, record: Record) {
        self.durable.apply(&record);
        self.out.push(Output::Persist(record));
    }

    pub(crate) fn send(&mut self, to: To, message: Message) {
        self.out.push(Output::Send { to, message });
    }

    /// Whether it may promise anything.
    pub(crate) fn may_vote(&self) -> bool {
        let silent = self.durable.amnesia.is_some() && !planted!(self, AmnesiacVotes);
        let lost = self.recovery.as_ref().is_some_and(Recovery::is_lost);
        self.seat.is_some() && !silent && !self.diverged && !lost
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.seat == Some(self.durable.set.primary(self.durable.view))
    }

    /// Votes that make a quorum.
    pub(crate) fn quorum(&self) -> usize {
        let set = &self.durable.set;
        if planted!(self, SmallQuorum) { 2 * set.faulty() } else { set.quorum() }
    }

    pub(crate) fn vote(
        &self,
        kind: VoteKind,
        view: View,
        sequence: Sequence,
        digest: Digest,
    ) -> Option<SignedVote> {
        let vote = Vote { epoch: self.epoch(), kind, view, sequence, digest };
        Some(vote.sign(&self.chain, self.seat?, &*self.signer))
    }

    /// How long a view has to bring something.
    pub(crate) fn timeout(&self) -> u64 {
        let doubled = self.config.request_timeout_ms.checked_shl(self.fruitless.min(32));
        doubled.unwrap_or(u64::MAX).min(self.config.max_timeout_ms)
    }

    /// The end of the window (PBFT section 4.3: H). Votes beyond it are not held.
    pub(crate) fn window_end(&self) -> Sequence {
        self.durable.low().plus(self.config.window())
    }

    /// Whether this epoch is to end, and has not come so far.
    pub(crate) fn is_ending(&self) -> bool {
        self.pending.as_ref().is_some_and(|(end, _)| self.executed < *end)
    }

    /// The last sequence that it votes for.
    pub(crate) fn high(&self) -> Sequence {
        let window = self.window_end();
        let end = self.pending.as_ref().map_or(Sequence(u64::MAX), |(end, _)| *end);
        let archive = self.agreed_archived.plus(self.config.archive_bound);
        // The last number of all has none after it: who proposed up to it would never be done.
        let last = Sequence(u64::MAX - 1);
        if planted!(self, WindowNotEnforced) { last } else { window.min(end).min(archive).min(last) }
    }

    /// Whether the chain waits rather than lose a block.
    pub(crate) fn is_waiting_for_the_archive(&self) -> bool {
        self.executed.next() > self.agreed_archived.plus(self.config.archive_bound)
    }

    /// Adds a vote to those of a place. A second one that differs is evidence, and does not count.
    pub(crate) fn add_vote(&mut self, vote: SignedVote) {
        let first = self.log.add(vote);
        self.hold_against(first, vote);
    }

    /// Two votes of a seat in one place: if they are for different things, that is shown, once for each seat.
    pub(crate) fn hold_against(&mut self, first: SignedVote, second: SignedVote) {
        let seat = first.seat;
        if first.vote != second.vote && !self.accused.contains_key(&seat) {
            let evidence = Evidence { seat, first, second };
            self.accused.insert(seat, evidence);
            self.out.push(Output::Evidence(Box::new(evidence)));
        }
    }
}
