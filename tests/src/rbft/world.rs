//! The world of one seed: a queue of events in virtual time, links that lose, repeat, delay and part, disks that are slow and
//! forget, adversaries; then everything heals but them, and what correct validators hold must be executed by all.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use wmall_rbft::{
    Batch, Bug, ChainId, Config, Digest, Epoch, Input, Message, PublicKey, Rejected, Rules, Sequence, Time,
    ValidatorSet, verify,
};

use super::adversary::Adversary;
use super::dice::Dice;
use super::fault::{Fault, Faults};
use super::keys::Keys;
use super::ledger::Ledger;
use super::mix::Mix;
use super::node::Node;
use super::report::{Count, Report};
use super::spec::Spec;
use super::streams::{Stream, Streams};
use super::twins::Twins;
use super::watch::Watch;

/// Numbers of validators that seeds draw from.
pub const SIZES: [usize; 6] = [4, 5, 6, 7, 10, 21];
/// How long there are faults, in virtual milliseconds; a third of it where a block is a thousand messages.
pub(super) fn chaos_ms(size: usize) -> u64 {
    if size > 10 { 7_000 } else { 20_000 }
}
/// And how long there is after that for everything to be executed.
const HEAL_MS: u64 = 300_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Deliver { to: usize, from: PublicKey, message: Box<Message> },
    Tick { node: usize, life: u64 },
    Synced { node: usize, life: u64 },
    BatchSynced { node: usize, life: u64, batch: Box<Batch> },
    Executed { node: usize, life: u64, input: Box<Input> },
    Update { node: usize, life: u64, certificate: Box<wmall_rbft::Certificate> },
    Client,
    Fault,
    Crash { node: usize, life: u64 },
    Restart { node: usize },
    Archive,
    Heal,
}

struct At(u64, u64, Event);

impl PartialEq for At {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for At {}
impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// The world.
pub struct World {
    pub(super) chain: ChainId,
    pub(super) config: Config,
    pub(super) streams: Streams,
    pub(super) mix: Mix,
    pub(super) now: u64,
    pub(super) next: u64,
    queue: BinaryHeap<Reverse<At>>,
    pub(super) nodes: Vec<Node>,
    pub(super) by_key: BTreeMap<PublicKey, usize>,
    pub(super) keys: Keys,
    pub(super) adversaries: BTreeMap<usize, Adversary>,
    pub(super) twins: Twins,
    pub(super) faults: Faults,
    /// Judges some of the worlds.
    pub(super) spec: Option<Spec>,
    /// Halves between which nothing passes, by node; none if all is well.
    pub(super) parted: Option<Vec<bool>>,
    /// Who is cut off, and until when.
    pub(super) cut: (usize, u64),
    pub(super) watch: Watch,
    pub(super) report: Report,
    pub(super) bug: Option<Bug>,
    pub(super) genesis: (ValidatorSet, Ledger),
    /// States that correct ones have had, by their digests: what is archived leads to these.
    pub(super) states: BTreeMap<(Sequence, Digest), Ledger>,
    /// Batches that correct validators have made of their clients' requests.
    pub(super) made: BTreeSet<Digest>,
    pub(super) requests: u64,
    pub(super) healed: bool,
    pub(super) archive_up_to: u64,
    /// Virtual milliseconds of which a trace is printed: `WMALL_TRACE=from-to`.
    pub(super) traced: std::ops::Range<u64>,
    /// Validators that have forgotten and not rejoined yet.
    pub(super) silent: BTreeSet<usize>,
    /// When each link delivers what was sent last.
    pub(super) links: BTreeMap<(usize, usize), u64>,
    /// How far the chain had come when all was executed first; all that must be final.
    complete: Option<Sequence>,
}

fn traced() -> std::ops::Range<u64> {
    let wanted = std::env::var("WMALL_TRACE").unwrap_or_default();
    let (from, to) = wanted.split_once('-').unwrap_or_default();
    from.parse().unwrap_or(0)..to.parse().unwrap_or(0)
}

/// A line of a trace.
fn brief(message: &Message) -> String {
    match message {
        Message::PrePrepare { vote, .. } => format!("pre-prepare {:?}", vote.vote),
        Message::Prepare(vote) | Message::Commit(vote) | Message::Checkpoint { vote, .. } => {
            format!("{:?} of {:?}", vote.vote, vote.seat)
        }
        Message::Stored(digests) | Message::FetchBatches(digests) => {
            format!("{} {digests:?}", message.kind())
        }
        other => other.kind().into(),
    }
}

/// Runs a seed, and says what came of it.
pub fn run(seed: u64, bug: Option<Bug>) -> Report {
    let mut world = World::new(&Run { seed, bug, ..Run::default() }, Faults::all());
    world.go();
    world.finish().0
}

/// A run of a seed that differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// What is planted.
    pub bug: Option<Bug>,
    /// Another order of messages, with the same troubles; 0 for the seed's own.
    pub order: u64,
    /// Only these of its troubles.
    pub only: Option<BTreeSet<Fault>>,
}

/// Makes a run, and says what came of it, and which troubles happened.
pub fn run_with(run: &Run) -> (Report, Vec<Fault>) {
    let faults = run.only.clone().map_or_else(Faults::remembered, Faults::only);
    let mut world = World::new(run, faults);
    world.go();
    world.finish()
}

impl World {
    fn new(&Run { seed, bug, order, .. }: &Run, faults: Faults) -> Self {
        let mut dice = Dice::new(seed);
        let size = SIZES[(seed % SIZES.len() as u64) as usize];
        let config = Config {
            checkpoint_interval: dice.pick(&[1, 2, 5, 10]),
            archive_bound: 1000,
            max_batches: 8,
            drift_ms: 2_000,
            request_timeout_ms: 1_500,
            max_timeout_ms: 20_000,
            resend_ms: 400,
            batches_per_seat: dice.pick(&[4, 32, 32]),
            idle_ms: 100,
        };
        let mix = Mix::draw(size, &mut dice);
        let config =
            Config { archive_bound: if mix.archive > 0 { 4 * config.window() } else { 100_000 }, ..config };
        let chain = ChainId(Digest([3; 32]));
        // Real ones take their time: one world in so many, of few validators.
        let keys = if seed / 6 % 64 == 5 && size <= 7 { Keys::Real } else { Keys::Stub };
        let seats: Vec<PublicKey> = (0..size).map(|n| keys.key(n)).collect();
        let set = ValidatorSet::new(Epoch(0), seats.clone()).expect("a set");
        let ledger = Ledger::new(seats, config.checkpoint_interval, config.window());
        // Two that are no validators yet.
        let nodes: Vec<Node> = (0..size + 2).map(|n| Node::new(n, (keys, n), &set, ledger.clone())).collect();
        let by_key = nodes.iter().map(|n| (n.key, n.index)).collect();
        let mut report = Report::of(size);
        report[Count::Sealed] = u64::from(keys == Keys::Real);
        let mut world = Self {
            chain,
            config,
            mix,
            now: 0,
            next: 0,
            queue: BinaryHeap::new(),
            nodes,
            by_key,
            keys,
            adversaries: BTreeMap::new(),
            twins: Twins::default(),
            faults,
            spec: None,
            parted: None,
            cut: (0, 0),
            watch: Watch::new(keys.checker()),
            report,
            bug,
            genesis: (set.clone(), ledger),
            states: BTreeMap::new(),
            made: BTreeSet::new(),
            requests: 0,
            healed: false,
            archive_up_to: 0,
            traced: traced(),
            silent: BTreeSet::new(),
            links: BTreeMap::new(),
            complete: None,
            streams: Streams::new(seed, order),
        };
        let faulty = dice.roll(set.faulty() as u64 + 1) as usize;
        for _ in 0..faulty {
            let index = dice.roll(size as u64) as usize;
            let adversary = Adversary::new(chain, keys.signer(index), &mut dice);
            world.nodes[index].byzantine = true;
            world.adversaries.insert(index, adversary);
        }
        if seed / 6 % 3 == 2 {
            world.make_twins(&mut Dice::new(!seed));
        }
        if seed / 6 % 3 == 1 || keys == Keys::Real {
            let correct = world.correct().map(|n| (n.key, n.index)).collect();
            let interval = config.checkpoint_interval;
            world.spec = Some(Spec::new(chain, keys.checker(), interval, set.clone(), correct));
        }
        if world.mix.skew_ms > 0 {
            let mut dice = Dice::new(seed.rotate_left(17));
            for node in &mut world.nodes {
                (node.ahead_ms, node.rate) = (dice.roll(world.mix.skew_ms), 999 + dice.roll(3));
                world.report[Count::Skewed] += 1;
            }
        }
        for index in 0..world.nodes.len() {
            world.begin(index);
        }
        let faults = world.mix.crashes + world.mix.partitions;
        for _ in 0..faults * 2 {
            let at = dice.roll(chaos_ms(size));
            world.at(at, Event::Fault);
        }
        world.at(0, Event::Client);
        world.at(500, Event::Archive);
        world.at(chaos_ms(size), Event::Heal);
        world
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.next += 1;
        self.queue.push(Reverse(At(time, self.next, event)));
    }

    pub(super) fn later(&mut self, ms: u64, event: Event) {
        self.at(self.now + ms, event);
    }

    fn go(&mut self) {
        while let Some(Reverse(At(time, _, event))) = self.queue.pop() {
            if time > chaos_ms(self.report.size) + HEAL_MS {
                let what = self.plight();
                self.watch.fail(format!("not all is executed long after all was healed: {what}"));
            }
            let refused = self.spec.as_ref().is_some_and(|spec| spec.violation.is_some());
            if self.watch.violation.is_some() || refused || (self.healed && self.is_done()) {
                return;
            }
            self.now = time;
            self.report[Count::Events] += 1;
            self.handle(event);
        }
        self.watch.fail("nothing happens any more".into());
    }

    fn finish(mut self) -> (Report, Vec<Fault>) {
        if let Some(spec) = self.spec {
            self.report[Count::Judged] = spec.judged;
            self.watch.violation = self.watch.violation.or(spec.violation);
        }
        self.report[Count::Blocks] = self.watch.height().0;
        self.report.violation = self.watch.violation;
        (self.report, self.faults.into_struck())
    }

    pub(super) fn correct(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| !n.byzantine)
    }

    /// Every request that a correct validator has on disk is executed by every correct one that is a validator now, and all
    /// of that is final.
    fn is_done(&mut self) -> bool {
        // Looked at now and then: it costs.
        if !self.report[Count::Events].is_multiple_of(64) || !self.missing().is_empty() {
            return false;
        }
        let heights =
            self.members().into_iter().map(|node| (node.ledger.sequence, node.disk.stable_sequence()));
        let (executed, stable): (Vec<_>, Vec<_>) = heights.unzip();
        let complete = *self.complete.get_or_insert(executed.into_iter().max().unwrap_or_default());
        stable.into_iter().all(|stable| stable >= complete)
    }

    /// Correct ones that are validators now.
    fn members(&self) -> Vec<&Node> {
        let newest = self.correct().filter_map(|n| n.replica.as_ref()).max_by_key(|r| r.epoch());
        let Some(newest) = newest else { return Vec::new() };
        self.correct().filter(|n| newest.set().seat_of(&n.key).is_some()).collect()
    }

    /// A node's clock, which may be wrong; and when it shows a time.
    fn clock(&self, index: usize) -> Time {
        let node = &self.nodes[index];
        Time(self.now * node.rate / 1000 + node.ahead_ms)
    }

    fn when(&self, index: usize, clock: Time) -> u64 {
        let node = &self.nodes[index];
        (clock.0.saturating_sub(node.ahead_ms) as u128 * 1000).div_ceil(u128::from(node.rate)) as u64
    }

    /// What is missing, and how all of them are.
    fn plight(&self) -> String {
        let one = |node: &Node| {
            let Some(r) = &node.replica else { return format!("\n  {}: down", node.index) };
            let (member, byzantine) = (r.set().seat_of(&node.key).is_some(), node.byzantine);
            let (epoch, view, executed, stable) = (r.epoch(), r.view(), r.executed(), r.stable());
            format!(
                "\n  {}: {}, epoch {epoch}, view {view}, executed {executed}, stable {stable}, member {member}, adversary {byzantine}, size {}, {}",
                node.index,
                r.doing(),
                r.size(),
                r.describe()
            )
        };
        self.missing() + &self.nodes.iter().map(one).collect::<String>()
    }

    fn missing(&self) -> String {
        let members = self.members();
        if members.is_empty() {
            return "all are down".into();
        }
        for node in &members {
            let Some(replica) = &node.replica else { return format!("node {} is down", node.index) };
            if !replica.takes_part() {
                return format!(
                    "node {} does not take part: {}, epoch {}",
                    node.index,
                    replica.doing(),
                    replica.epoch()
                );
            }
            for other in &members {
                if let Some(request) = other.taken.iter().find(|r| !node.ledger.done.contains(r)) {
                    let (epoch, view) = (replica.epoch(), replica.view());
                    let place = (replica.executed(), replica.stable());
                    return format!(
                        "node {} lacks request {request} of {}; epoch {epoch}, view {view}, executed {place:?}",
                        node.index, other.index
                    );
                }
            }
        }
        String::new()
    }

    pub(super) fn begin(&mut self, index: usize) {
        let secret = self.streams.of(Stream::Node(index)).any();
        let (chain, config, now) = (self.chain, self.config, self.clock(index));
        let node = &mut self.nodes[index];
        let (mut replica, outputs) = node.begin(chain, config, secret, now);
        replica.plant(if node.byzantine { None } else { self.bug });
        node.recovers = node.life > 0;
        node.replica = Some(replica);
        node.sets = node.disk.sets.clone();
        if let Some(spec) = self.spec.as_mut().filter(|_| !node.byzantine) {
            spec.restarts(index, node.ledger.sequence);
        }
        self.perform(index, outputs);
        self.watch_step(index);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { to, from, message } => self.deliver(to, from, *message),
            Event::Tick { node, life } => {
                if self.is_of(node, life) && self.nodes[node].tick_at.is_some_and(|at| at.0 <= self.now) {
                    self.nodes[node].tick_at = None;
                    self.step(node, Input::Tick);
                }
            }
            Event::Synced { node, life } if self.is_of(node, life) => self.synced(node),
            Event::BatchSynced { node, life, batch } if self.is_of(node, life) => {
                let digest = batch.digest();
                if self.healed {
                    self.nodes[node].takes(&batch);
                }
                if let Some(spec) = &mut self.spec {
                    spec.stores(node, digest);
                }
                let done = self.nodes[node].ledger.has_all_of(&batch);
                self.nodes[node].batches.insert(digest, *batch);
                self.step(node, Input::BatchStored { digest, done });
            }
            Event::Update { node, life, certificate } if self.is_of(node, life) => {
                self.update(node, &certificate)
            }
            Event::Executed { node, life, input } if self.is_of(node, life) => self.step(node, *input),
            Event::Executed { .. }
            | Event::Synced { .. }
            | Event::BatchSynced { .. }
            | Event::Update { .. } => {}
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            Event::Crash { node, life } => {
                if !self.is_of(node, life) {
                    return;
                }
                let mut dice = self.streams.once(Stream::Fault);
                self.crash(node, &mut dice);
            }
            Event::Restart { node } => {
                if self.nodes[node].replica.is_none() {
                    self.begin(node);
                }
            }
            Event::Archive => self.archive(),
            Event::Heal => self.heal(),
        }
    }

    fn is_of(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life == life && self.nodes[node].replica.is_some()
    }

    pub(super) fn trace(&self, what: impl Fn() -> String) {
        if self.traced.contains(&self.now) {
            println!("{:>8} {}", self.now, what());
        }
    }

    fn deliver(&mut self, to: usize, from: PublicKey, message: Message) {
        self.trace(|| format!("{} -> {to}: {}", self.by_key[&from], brief(&message)));
        if self.nodes[to].replica.is_none() {
            return;
        }
        if let Some(adversary) = self.adversaries.get_mut(&to) {
            adversary.hears(&message, self.streams.of(Stream::Lie(to)));
        }
        let rules = Rules {
            chain: &self.chain,
            sets: &self.nodes[to].sets,
            checker: self.keys.checker(),
            max_batches: self.config.max_batches,
            window: self.config.window(),
        };
        match verify(rules, from, message) {
            Ok(verified) => {
                let stale = match verified.message() {
                    Message::Negotiated { nonce, .. } | Message::Recovery { nonce, .. } => {
                        self.nodes[to].asked != Some(*nonce)
                    }
                    _ => false,
                };
                let doing = |world: &Self| world.nodes[to].replica.as_ref().map(wmall_rbft::Rbft::doing);
                let before = doing(self);
                if let Some(spec) = self.spec.as_mut().filter(|_| !self.nodes[to].byzantine) {
                    spec.hears(to, verified.message());
                }
                self.step(to, Input::Message(verified));
                self.watch_peer(to, &from);
                if stale && !self.nodes[to].byzantine && doing(self) != before {
                    self.watch
                        .fail(format!("node {to} goes by the answer to something that it has not asked"));
                }
            }
            Err(Rejected::UnknownEpoch(epoch)) => {
                let own = self.nodes[to].replica.as_ref().map(wmall_rbft::Rbft::epoch);
                if own.is_some_and(|own| epoch > own) {
                    self.step(to, Input::Later(from));
                }
            }
            Err(why) => {
                let sender = self.by_key.get(&from).map(|n| &self.nodes[*n]);
                if sender.is_some_and(|sender| !sender.byzantine) {
                    self.watch.fail(format!("node {to} refuses what a correct one says: {why}"));
                }
            }
        }
    }

    pub(super) fn step(&mut self, index: usize, input: Input) {
        let now = self.clock(index);
        let Some(replica) = &mut self.nodes[index].replica else { return };
        let outputs = replica.step(now, input);
        self.perform(index, outputs);
        self.watch_step(index);
    }

    /// What one peer may make another hold: its votes of a window, a checkpoint vote for each boundary and one beyond, a
    /// view change, batches on its two accounts, and what it says that it has.
    fn most_of_a_peer(&self) -> [usize; 3] {
        let batches = self.config.batches_per_seat;
        [3 * self.config.window() as usize + 8, 2 * batches, self.config.reports_per_seat()]
    }

    fn watch_peer(&mut self, index: usize, peer: &PublicKey) {
        let node = &self.nodes[index];
        let adversary = self.by_key.get(peer).is_some_and(|n| self.nodes[*n].byzantine);
        // Of correct ones a sample is enough.
        if node.byzantine || !(adversary || self.report[Count::Events].is_multiple_of(16)) {
            return;
        }
        let held = node.replica.as_ref().map_or([0; 3], |replica| replica.held_for(peer));
        if held.iter().zip(self.most_of_a_peer()).any(|(held, most)| *held > most) {
            let peer = self.by_key[peer];
            self.watch.fail(format!("node {index} holds {held:?} entries because of node {peer}"));
        }
    }

    fn watch_step(&mut self, index: usize) {
        let of_a_peer: usize = self.most_of_a_peer().iter().sum();
        let bound = (self.report.size + 2) * (of_a_peer + self.config.window() as usize);
        let window = self.config.window();
        let node = &mut self.nodes[index];
        if node.recovers
            && node
                .replica
                .as_ref()
                .is_some_and(|r| !["negotiating", "locating", "updating"].contains(&r.doing()))
        {
            node.recovers = false;
            self.report[Count::Recoveries] += 1;
        }
        if !node.byzantine {
            self.watch.stepped(node, window, bound);
            // A look at everything, now and then.
            if self.report[Count::Events].is_multiple_of(64)
                && let Some(Err(why)) = node.replica.as_ref().map(wmall_rbft::Rbft::recount)
            {
                self.watch.fail(format!("node {index}: {why}"));
            }
        }
        let Some(next) = node.replica.as_ref().and_then(wmall_rbft::Rbft::next_deadline) else { return };
        let next = Time(self.when(index, next).clamp(self.now + 1, self.now + 5_000));
        let node = &mut self.nodes[index];
        if node.tick_at.is_none_or(|at| next < at) {
            node.tick_at = Some(next);
            let life = node.life;
            self.at(next.0, Event::Tick { node: index, life });
        }
    }
}
