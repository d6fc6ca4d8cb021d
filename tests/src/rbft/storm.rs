//! One replica in a storm of messages that nobody correct would send, with signatures that all check out, and a shell that says
//! whatever a shell may say.

use std::collections::{BTreeMap, VecDeque};

use wmall_rbft::{
    ChainId, Config, Digest, Durable, Epoch, Input, Message, Nonce, Output, PublicKey, Rbft, Record, Rules,
    SetChange, Time, ValidatorSet, verify,
};

use super::any::{Any, Believes, state};
use super::dice::Dice;
use super::stub::StubSigner;

/// The replica, of the first seat.
pub struct Stormed {
    chain: ChainId,
    config: Config,
    dice: Dice,
    keys: Vec<PublicKey>,
    replica: Rbft,
    disk: Durable,
    now: u64,
    asked: Nonce,
    /// The change that is due, in every block until the epoch ends.
    change: Option<SetChange>,
    inputs: VecDeque<Input>,
    /// How often it has said or done what.
    pub said: BTreeMap<&'static str, u64>,
}

impl Stormed {
    /// One of many.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let size = dice.pick(&[4u64, 5, 7, 10]);
        let keys: Vec<PublicKey> = (0..size).map(|n| [n as u8 + 1; 32]).collect();
        let set = ValidatorSet::new(Epoch(0), keys.clone()).expect("a set");
        let config = Config { checkpoint_interval: dice.pick(&[1, 2, 10]), ..Config::default() };
        let (chain, mut disk) = (ChainId(Digest([3; 32])), Durable::new(set));
        if dice.one_in(5) {
            disk.apply(&Record::Amnesia(Nonce(seed)));
        }
        let replica = Rbft::new(chain, config, (keys[0], Box::new(StubSigner(keys[0]))), disk.clone())
            .expect("parameters to run by");
        let inputs = [Input::Start { secret: Nonce(seed), change: None, batches: Vec::new() }].into();
        let (asked, said) = (Nonce(0), BTreeMap::new());
        Self { chain, config, dice, keys, replica, disk, now: 0, asked, change: None, inputs, said }
    }

    /// Something comes. Of what kind that is, and whether it is taken.
    pub fn hear(&mut self) -> (&'static str, bool) {
        self.now += self.dice.roll(100);
        let (around, epoch, view) =
            (self.replica.executed().0, self.replica.epoch().0, self.replica.view().0);
        let from = self.keys[self.dice.roll(self.keys.len() as u64) as usize];
        let (size, asked, dice) = (self.keys.len() as u64, self.asked, &mut self.dice);
        let message = Any { chain: &self.chain, size, around, epoch, view, asked, dice }.message(from);
        let (kind, window) = (message.kind(), self.config.window());
        let (chain, sets) = (&self.chain, &self.disk.sets);
        let rules = Rules { chain, sets, checker: &Believes, max_batches: 2, window };
        let verified = verify(rules, from, message);
        let taken = verified.is_ok();
        self.inputs.extend(verified.ok().map(Input::Message));
        self.inputs.push_back(Input::Tick);
        while let Some(input) = self.inputs.pop_front() {
            for output in self.replica.step(Time(self.now), input) {
                self.perform(output);
            }
        }
        let bound = window as usize + 8 + self.keys.len();
        let size = self.replica.log_size();
        assert!(size <= bound, "{size} sequences after a {kind}");
        (kind, taken)
    }

    fn perform(&mut self, output: Output) {
        let what = match output {
            Output::Persist(record) => {
                self.disk.apply(&record);
                "persist"
            }
            Output::StoreBatch(batch) => {
                let (digest, done) = (batch.digest(), self.dice.one_in(4));
                self.inputs.push_back(Input::BatchStored { digest, done });
                "store"
            }
            Output::Execute(block) => {
                let sequence = block.proposal.sequence;
                if self.change.is_none() && self.dice.one_in(4) {
                    let mut keys = self.keys.clone();
                    keys[1..].rotate_left(1);
                    let rejoined = self.disk.amnesia.map(|nonce| (self.keys[0], nonce)).into_iter().collect();
                    self.change = Some(SetChange { asked: sequence, keys, rejoined });
                }
                let (state, change) = (state(sequence), self.change.clone());
                self.inputs.push_back(Input::Executed { sequence, state, change, done: Vec::new() });
                "execute"
            }
            Output::Update(certificate) => {
                if !self.dice.one_in(4) {
                    let change = self.change.clone();
                    self.inputs.push_back(Input::Updated { certificate, change, done: Vec::new() });
                }
                "update"
            }
            Output::Send { message, .. } => {
                if let Message::Negotiate { nonce, .. } | Message::RecoveryInit { nonce, .. } = &message {
                    self.asked = *nonce;
                }
                message.kind()
            }
            Output::Epoch(set) => {
                self.keys = set.seats().filter_map(|seat| set.key(seat).copied()).collect();
                self.change = None;
                "epoch"
            }
            Output::Rejoin(_) => "rejoin",
            Output::Diverged { .. } => "diverged",
            _ => "other",
        };
        *self.said.entry(what).or_default() += 1;
    }
}
