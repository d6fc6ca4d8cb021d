//! The consensus core by itself, without sockets and disks: how many inputs it takes in a second, what a committed batch costs
//! as validators become more, and how long a view change with a full window keeps a validator busy.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use wmall_rbft::{
    Batch, ChainId, Checker, Config, Digest, Durable, Epoch, Input, Message, Nonce, Output, PublicKey, Rbft,
    Rules, Signature, Signer, Time, To, ValidatorSet, ValidatorSets, Zip215, verify,
};
use wmall_tests::rbft::Keys;

use crate::report::Report;

/// Bytes of a batch.
const BATCH: usize = 1024;
/// Batches that come at once: a quarter of them from each of four.
const AT_ONCE: u64 = 400;
/// Numbers of validators.
const SIZES: [usize; 4] = [4, 7, 21, 100];
const CHAIN: ChainId = ChainId(Digest([5; 32]));

/// Takes everything for signed, and counts.
#[derive(Default)]
struct Counting(AtomicU64);

impl Checker for Counting {
    fn check(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
}

struct Unsigned;

impl Signer for Unsigned {
    fn sign(&self, _: &[u8]) -> Signature {
        [0; 64]
    }
}

/// Checks each signature once, as a validator's shell does.
#[derive(Default)]
struct Remembering {
    good: Mutex<HashSet<[u8; 32]>>,
    checked: AtomicU64,
}

impl Checker for Remembering {
    fn check(&self, key: &PublicKey, bytes: &[u8], signature: &Signature) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(key).update(signature).update(bytes);
        let name = *hasher.finalize().as_bytes();
        if self.good.lock().is_ok_and(|good| good.contains(&name)) {
            return true;
        }
        self.checked.fetch_add(1, Ordering::Relaxed);
        let good = Zip215.check(key, bytes, signature);
        if good && let Ok(mut known) = self.good.lock() {
            known.insert(name);
        }
        good
    }
}

/// Validators in one thread, with links that lose nothing.
struct Net<'a> {
    replicas: Vec<Rbft>,
    keys: Vec<PublicKey>,
    sets: ValidatorSets,
    config: Config,
    checkers: Vec<&'a dyn Checker>,
    batches: BTreeMap<Digest, Batch>,
    /// What each has executed and not dropped.
    over: Vec<BTreeSet<Digest>>,
    queue: VecDeque<(usize, usize, Message)>,
    now: u64,
    /// Commit votes of the first view do not get through.
    hushed: bool,
    /// Neither hears nor says anything.
    dead: Option<usize>,
    /// Whether bytes are counted: that takes time.
    counts_bytes: bool,
    inputs: u64,
    messages: u64,
    bytes: u64,
    executed: u64,
    /// What each validator was busy for, with what is checked beside the core.
    busy: Vec<Duration>,
    /// What the cores of all of them were busy for.
    stepping: Duration,
}

impl<'a> Net<'a> {
    fn new(size: usize, real: bool, checkers: Vec<&'a dyn Checker>) -> Result<Self> {
        let kind = if real { Keys::Real } else { Keys::Stub };
        let keys: Vec<PublicKey> = (0..size).map(|n| kind.key(n)).collect();
        let set = ValidatorSet::new(Epoch(0), keys.clone())?;
        let config = Config::default();
        let replica = |n: usize| {
            let signer = if real { kind.signer(n) } else { Box::new(Unsigned) as Box<dyn Signer> };
            Rbft::new(CHAIN, config, (keys[n], signer), Durable::new(set.clone()))
        };
        let replicas = (0..size).map(replica).collect::<Result<_, _>>()?;
        let sets = ValidatorSets::of(set);
        let mut net = Self {
            replicas,
            keys,
            sets,
            config,
            checkers,
            batches: BTreeMap::new(),
            over: vec![BTreeSet::new(); size],
            queue: VecDeque::new(),
            now: 1_000,
            hushed: false,
            dead: None,
            counts_bytes: false,
            inputs: 0,
            messages: 0,
            bytes: 0,
            executed: 0,
            busy: vec![Duration::ZERO; size],
            stepping: Duration::ZERO,
        };
        for n in 0..size {
            net.step(n, Input::Start { secret: Nonce(n as u64 + 1), change: None, batches: Vec::new() });
        }
        net.run()?;
        Ok(net)
    }

    fn step(&mut self, at: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.inputs += 1;
            let started = Instant::now();
            let outputs = self.replicas[at].step(Time(self.now), input);
            let elapsed = started.elapsed();
            self.busy[at] += elapsed;
            self.stepping += elapsed;
            for output in outputs {
                match output {
                    Output::Send { to, message } => self.send(at, to, message),
                    Output::SendBatch { to, digest } => {
                        let batch = self.batches[&digest].clone();
                        self.send(at, to, Message::Batch(batch));
                    }
                    Output::StoreBatch(batch) => {
                        let digest = batch.digest();
                        self.batches.insert(digest, batch);
                        inputs.push_back(Input::BatchStored { digest, done: false });
                    }
                    Output::Execute(block) => {
                        self.executed += 1;
                        let (sequence, state) = (block.proposal.sequence, block.certificate.vote.digest);
                        let done = block.proposal.batches;
                        self.over[at].extend(&done);
                        inputs.push_back(Input::Executed { sequence, state, change: None, done });
                        inputs.push_back(Input::Archived(sequence));
                    }
                    Output::DropBatch(digest) => {
                        self.over[at].remove(&digest);
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: To, message: Message) {
        let of_first_view = matches!(&message, Message::Commit(vote) if vote.vote.view.0 == 0);
        if self.hushed && (of_first_view || matches!(message, Message::Pqc(_))) {
            return;
        }
        let dead = self.dead;
        let receivers: Vec<usize> = match to {
            To::All => (0..self.keys.len()).filter(|n| *n != from && Some(*n) != dead).collect(),
            To::One(key) => {
                self.keys.iter().position(|k| *k == key).filter(|n| Some(*n) != dead).into_iter().collect()
            }
        };
        self.messages += receivers.len() as u64;
        if self.counts_bytes {
            self.bytes += (message.encode().len() * receivers.len()) as u64;
        }
        self.queue.extend(receivers.into_iter().map(|to| (from, to, message.clone())));
    }

    /// Delivers a message. Whether there was one.
    fn deliver(&mut self) -> Result<bool> {
        let Some((from, to, message)) = self.queue.pop_front() else { return Ok(false) };
        let rules = Rules {
            chain: &CHAIN,
            sets: &self.sets,
            checker: self.checkers[to % self.checkers.len()],
            max_batches: self.config.max_batches,
            window: self.config.window(),
        };
        let started = Instant::now();
        let verified = verify(rules, self.keys[from], message)?;
        self.busy[to] += started.elapsed();
        self.step(to, Input::Message(verified));
        Ok(true)
    }

    /// Delivers until there is nothing more to deliver.
    fn run(&mut self) -> Result<()> {
        while self.deliver()? {}
        Ok(())
    }

    fn submit(&mut self, at: usize, number: u64, signer: &dyn Signer) -> Result<()> {
        self.hand_in(at, number, signer);
        self.run()
    }

    fn hand_in(&mut self, at: usize, number: u64, signer: &dyn Signer) {
        let mut payload = vec![0; BATCH];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let batch = Batch::sign(&CHAIN, self.keys[at], payload, signer);
        self.now += 1;
        self.step(at, Input::Submit(batch));
    }
}

/// Inputs in a second, four validators in one thread: of the core alone, and with what is checked of messages beside it, which
/// is mostly the hash of each batch. So many batches come at once: one that is alone in its block, or many that fill the
/// window with proposals.
fn inputs_per_second(at_once: u64) -> Result<[f64; 2]> {
    let checker = Counting::default();
    let mut net = Net::new(4, false, vec![&checker])?;
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(3) {
        for _ in 0..500u64.div_ceil(at_once) {
            for _ in 0..at_once {
                number += 1;
                net.hand_in(number as usize % 4, number, &Unsigned);
            }
            net.run()?;
        }
        net.batches.clear();
    }
    let over = net.over.iter().map(BTreeSet::len).max().unwrap_or(0);
    ensure!(over <= 20 * net.config.max_batches, "{over} batches that are over are kept");
    ensure!(net.executed >= number * 3 / at_once, "{number} batches in {} executions", net.executed);
    let busy: Duration = net.busy.iter().sum();
    Ok([net.stepping, busy].map(|time| net.inputs as f64 / time.as_secs_f64()))
}

/// What a committed batch costs, alone in its block: messages, bytes, signatures checked, of all validators together.
fn cost_of_a_batch(size: usize) -> Result<[f64; 3]> {
    let (checker, batches) = (Counting::default(), 40);
    let mut net = Net::new(size, false, vec![&checker])?;
    net.counts_bytes = true;
    let (messages, bytes, checks) = (net.messages, net.bytes, checker.0.load(Ordering::Relaxed));
    for number in 0..batches {
        net.submit(number as usize % size, number, &Unsigned)?;
    }
    ensure!(net.executed == batches * size as u64, "{} executions", net.executed);
    let each = |sum: u64| sum as f64 / batches as f64;
    let checked = checker.0.load(Ordering::Relaxed) - checks;
    Ok([each(net.messages - messages), each(net.bytes - bytes), each(checked)])
}

/// What a view change keeps the busiest of 21 validators busy for, in one thread, with a window full of prepared proposals:
/// until all have begun the new view, and until all of the window is executed; and the signatures that it checks.
fn view_change() -> Result<(Duration, Duration, u64)> {
    let size = 21;
    let checkers: Vec<Remembering> = (0..size).map(|_| Remembering::default()).collect();
    let mut net = Net::new(size, true, checkers.iter().map(|c| c as &dyn Checker).collect())?;
    let window = net.config.window();
    net.hushed = true;
    for number in 0..window {
        net.submit(1, number, &*Keys::Real.signer(1))?;
    }
    ensure!(net.executed == 0, "nothing is to be committed before the view changes");
    let checked = |n: &Remembering| n.checked.load(Ordering::Relaxed);
    let before: Vec<u64> = checkers.iter().map(checked).collect();
    net.busy.fill(Duration::ZERO);
    net.dead = Some(0);
    let longest = |net: &Net<'_>| net.busy.iter().max().copied().context("no validators");
    let mut begun = None;
    while net.executed < window * (size as u64 - 1) {
        ensure!(net.now < 100_000, "no new view, or nothing comes of it");
        net.now += 250;
        for n in 1..size {
            net.step(n, Input::Tick);
        }
        while net.deliver()? {
            let is_in = |r: &Rbft| r.view().0 > 0 && r.doing() == "active";
            if begun.is_none() && net.replicas[1..].iter().all(is_in) {
                begun = Some(longest(&net)?);
            }
        }
    }
    let most = checkers.iter().zip(before).map(|(c, b)| checked(c) - b).max().unwrap_or(0);
    Ok((begun.context("no new view")?, longest(&net)?, most))
}

/// All of it.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    for (at_once, load) in [(1, "a batch at a time"), (AT_ONCE, "400 batches at once")] {
        let [alone, checked] = inputs_per_second(at_once)?;
        let what = format!("inputs of the core in a second, N = 4, one core, {load}");
        report.number(&what, alone, 1e6, "/s");
        report.plain("likewise, with the check of messages", &format!("{checked:.0}/s"), "");
    }
    let mut first = None;
    for size in SIZES {
        let [messages, bytes, checks] = cost_of_a_batch(size)?;
        let [m, b, c] = *first.get_or_insert([messages, bytes, checks]);
        let figure = format!("{messages:.0} messages, {:.1} KiB, {checks:.0} checks", bytes / 1024.0);
        let growth = format!("{:.1}, {:.1}, {:.1} of N = 4", messages / m, bytes / b, checks / c);
        report.plain(&format!("a batch of 1 KiB alone in its block, N = {size}"), &figure, &growth);
    }
    let (begun, executed, checks) = view_change()?;
    let figure =
        format!("{:.0} ms, {:.0} ms to the end", begun.as_secs_f64() * 1e3, executed.as_secs_f64() * 1e3);
    let what = "view change, N = 21, 40 prepared, ed25519: the busiest validator, one core";
    report.plain(what, &figure, &format!("{checks} signatures checked"));
    Ok(())
}
