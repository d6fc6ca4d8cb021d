//! A simulated validator: the core, a disk that forgets what was not synced, and a ledger.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wmall_rbft::{
    Batch, ChainId, Config, Digest, Durable, Input, KnownBatch, Nonce, Output, PublicKey, Rbft, Record,
    Sequence, Signer, Time, ValidatorSet, ValidatorSets,
};

use super::keys::Keys;
use super::ledger::{Ledger, Request, decode};

/// The validator.
pub struct Node {
    /// Its place among all that there are, validators or not.
    pub index: usize,
    /// Its key, and whose of the world's that is: twins share one.
    pub key: PublicKey,
    pub(super) seal: (Keys, usize),
    /// Whether it is run by an adversary.
    pub byzantine: bool,
    /// The core; none while it is down.
    pub replica: Option<Rbft>,
    /// It crashes amid its next sync.
    pub doomed: bool,
    /// Told from earlier lives of it.
    pub life: u64,
    /// What is on disk.
    pub disk: Durable,
    /// What is written and not synced.
    pub unsynced: Vec<Record>,
    /// How many of those the sync under way covers; 0 if there is none.
    pub syncing: usize,
    /// How many were written in this life.
    pub written: u64,
    /// What is to be done, and how many of them have to be synced before.
    pub waiting: VecDeque<(u64, Output)>,
    /// Whether it is being done.
    pub draining: bool,
    /// Batches on disk.
    pub batches: BTreeMap<Digest, Batch>,
    /// The state.
    pub ledger: Ledger,
    /// States at boundaries.
    pub snapshots: BTreeMap<Sequence, Ledger>,
    /// Validators that it can judge.
    pub sets: ValidatorSets,
    /// When its last execution ends.
    pub executed_at: u64,
    /// What it asked in its recovery last.
    pub asked: Option<Nonce>,
    /// The checkpoint whose state it looks for.
    pub fetching: Option<Sequence>,
    /// Whether it has come up after a crash and not found its place yet.
    pub recovers: bool,
    /// When it is ticked next.
    pub tick_at: Option<Time>,
    /// Requests that it has on disk, and that have to be executed in the end.
    pub taken: BTreeSet<u64>,
    /// How far its clock is ahead at the beginning, and how fast it goes, in thousandths.
    pub ahead_ms: u64,
    pub rate: u64,
    /// The highest epoch and view of this life, and on disk of the ones before.
    pub highest: (u64, u64),
}

impl Node {
    /// A validator with this disk.
    pub fn new(index: usize, (keys, number): (Keys, usize), set: &ValidatorSet, ledger: Ledger) -> Self {
        Self {
            index,
            key: keys.key(number),
            seal: (keys, number),
            byzantine: false,
            replica: None,
            doomed: false,
            life: 0,
            disk: Durable::new(set.clone()),
            unsynced: Vec::new(),
            syncing: 0,
            written: 0,
            waiting: VecDeque::new(),
            draining: false,
            batches: BTreeMap::new(),
            snapshots: BTreeMap::from([(Sequence(0), ledger.clone())]),
            ledger,
            sets: ValidatorSets::of(set.clone()),
            executed_at: 0,
            asked: None,
            fetching: None,
            recovers: false,
            tick_at: None,
            taken: BTreeSet::new(),
            ahead_ms: 0,
            rate: 1000,
            highest: (0, 0),
        }
    }

    /// Comes up with what is on its disk; its state is that of its stable checkpoint.
    pub fn begin(&mut self, chain: ChainId, config: Config, secret: u64, now: Time) -> (Rbft, Vec<Output>) {
        let stable = self.disk.low();
        self.ledger = self.snapshots.get(&stable).cloned().unwrap_or_else(|| panic!("no state at {stable}"));
        let change = self.ledger.change.clone();
        let signer = self.signer();
        let mut replica =
            Rbft::new(chain, config, (self.key, signer), self.disk.clone()).expect("parameters to run by");
        let known = |(digest, batch): (&Digest, &Batch)| KnownBatch {
            digest: *digest,
            origin: batch.origin,
            done: self.ledger.has_all_of(batch),
        };
        let batches = self.batches.iter().map(known).collect();
        let outputs = replica.step(now, Input::Start { secret: Nonce(secret), change, batches });
        (replica, outputs)
    }

    /// The requests of a batch must be executed in the end.
    pub fn takes(&mut self, batch: &Batch) {
        let plain = |request| if let Request::Plain(n) = request { Some(n) } else { None };
        self.taken.extend(decode(&batch.payload).into_iter().filter_map(plain));
    }

    /// Signs as this validator.
    pub fn signer(&self) -> Box<dyn Signer> {
        let (keys, number) = self.seal;
        keys.signer(number)
    }

    /// Batches on disk of which the state has everything.
    pub fn done(&self) -> Vec<Digest> {
        self.batches.iter().filter(|(_, b)| self.ledger.has_all_of(b)).map(|(digest, _)| *digest).collect()
    }

    /// Loses what was not synced, but for so many records; returns those.
    pub fn crash(&mut self, torn: usize) -> Vec<Record> {
        self.replica = None;
        self.life += 1;
        self.unsynced.truncate(torn);
        let kept = std::mem::take(&mut self.unsynced);
        kept.iter().for_each(|record| self.disk.apply(record));
        self.executed_at = 0;
        self.waiting.clear();
        (self.syncing, self.written) = (0, 0);
        self.tick_at = None;
        self.fetching = None;
        // What was not synced, nobody has heard of.
        self.highest = (self.disk.set.epoch().0, self.disk.view.0);
        kept
    }

    /// Loses everything, and knows it.
    pub fn forget(&mut self, set: &ValidatorSet, ledger: Ledger, nonce: Nonce) {
        self.disk = Durable::new(set.clone());
        self.disk.apply(&Record::Amnesia(nonce));
        self.batches.clear();
        self.snapshots = BTreeMap::from([(Sequence(0), ledger)]);
        self.sets = ValidatorSets::of(set.clone());
        self.taken.clear();
        self.highest = (0, 0);
    }
}
