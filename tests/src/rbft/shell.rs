//! What a validator's core asks for, done in the world: syncs, sends, executions, states fetched. The shell that the real one
//! will be, without its disks and sockets.

use wmall_rbft::{Batch, Certificate, Committed, Digest, Input, Message, Output, Record, To};

use super::adversary::Place;
use super::fault::FaultKind;
use super::ledger::{Ledger, Request, encode};
use super::node::Node;
use super::report::Count;
use super::streams::Stream;
use super::world::{Event, World};

impl World {
    /// Does what a core asks for, in order: records are written at once, and what stands behind one waits until that is
    /// synced. A step that comes of doing it puts what it asks for behind all that waits.
    pub(super) fn perform(&mut self, index: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Persist(record) => self.write(index, record),
                output => {
                    let node = &mut self.nodes[index];
                    node.waiting.push_back((node.written, output));
                }
            }
        }
        self.sync(index);
        self.drain(index);
    }

    fn write(&mut self, index: usize, record: Record) {
        self.trace(|| format!("{index} persists {record:?}").chars().take(300).collect());
        let prepared = matches!(record, Record::Prepared { .. });
        if prepared && !self.healed && self.now >= self.cut.1 {
            let mut dice = self.streams.once(Stream::Node(index));
            if dice.one_in(self.mix.cuts) && self.faults.strikes(FaultKind::Cut, index) {
                self.cut = (index, self.now + 200 + dice.roll(4_000));
                self.report[Count::Cuts] += 1;
            }
        }
        let node = &mut self.nodes[index];
        node.unsynced.push(record);
        node.written += 1;
    }

    /// Begins a sync of what is written, unless one is under way: what is written meanwhile needs another.
    fn sync(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.syncing > 0 || node.unsynced.is_empty() {
            return;
        }
        node.syncing = node.unsynced.len();
        let (life, doomed) = (node.life, std::mem::take(&mut node.doomed));
        let mut dice = self.streams.once(Stream::Node(index));
        let ms = if self.mix.sync_ms == 0 { 0 } else { dice.roll(self.mix.sync_ms + 1) };
        self.report[Count::SlowSyncs] += u64::from(ms > self.mix.delay_ms);
        if doomed {
            let amid = dice.roll(ms + 1);
            self.later(amid, Event::Crash { node: index, life });
        }
        self.later(ms, Event::Synced { node: index, life });
    }

    pub(super) fn synced(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let covered = std::mem::take(&mut node.syncing);
        for record in node.unsynced.drain(..covered) {
            node.disk.apply(&record);
            if let Some(spec) = self.spec.as_mut().filter(|_| !node.byzantine) {
                spec.keeps(index, &record);
            }
            if let Record::Stable(_) = record {
                self.report[Count::Checkpoints] += 1;
            }
            if let Record::Entered(_) = record {
                self.report[Count::Views] += 1;
            }
        }
        self.sync(index);
        self.drain(index);
    }

    /// Does what need not wait any more. Doing it may make the core ask for more, which this goes on with.
    fn drain(&mut self, index: usize) {
        if std::mem::replace(&mut self.nodes[index].draining, true) {
            return;
        }
        loop {
            let node = &mut self.nodes[index];
            let durable = node.written - node.unsynced.len() as u64;
            let Some((_, output)) = node.waiting.pop_front_if(|(after, _)| *after <= durable) else { break };
            self.perform_one(index, output);
        }
        self.nodes[index].draining = false;
    }

    fn perform_one(&mut self, index: usize, output: Output) {
        match output {
            Output::Persist(_) => {}
            Output::Send { to, message } => self.send(index, to, message),
            Output::SendBatch { to, digest } => {
                if let Some(batch) = self.nodes[index].batches.get(&digest).cloned() {
                    self.send(index, to, Message::Batch(batch));
                }
            }
            Output::StoreBatch(batch) => {
                let ms = self.streams.of(Stream::Node(index)).roll(self.mix.sync_ms + 2);
                let life = self.nodes[index].life;
                self.later(ms, Event::BatchSynced { node: index, life, batch: Box::new(batch) });
            }
            Output::Busy(_) => self.report[Count::Busy] += 1,
            Output::DropBatch(digest) => {
                self.trace(|| format!("{index} drops {digest:?}"));
                self.nodes[index].batches.remove(&digest);
            }
            Output::Execute(block) => self.execute(index, &block),
            Output::Update(certificate) => {
                let node = &mut self.nodes[index];
                // Asked again, it looks on for the same.
                if node.fetching.replace(certificate.vote.sequence) != Some(certificate.vote.sequence) {
                    self.look_for_state(index, certificate);
                }
            }
            Output::Rejoin(nonce) => {
                let key = self.nodes[index].key;
                self.requests += 1;
                self.submit(index, &[Request::Rejoin(key, nonce), Request::Plain(self.requests - 1)]);
            }
            Output::Evidence(evidence) => {
                self.report[Count::Evidence] += 1;
                // By the time that it is shown another epoch may have begun.
                let set = self.nodes[index].sets.get(evidence.first.vote.epoch);
                let accused = set.and_then(|set| set.key(evidence.seat).copied());
                let guilty =
                    accused.and_then(|key| self.by_key.get(&key)).is_some_and(|n| self.nodes[*n].byzantine);
                if !guilty && !self.nodes[index].byzantine {
                    self.watch.fail(format!("node {index} accuses a correct one: {evidence:?}"));
                }
            }
            Output::Diverged { sequence, .. } => {
                if !self.nodes[index].byzantine {
                    self.watch.fail(format!("node {index} has another state at {sequence} than a quorum"));
                }
            }
            Output::Epoch(set) => {
                self.report[Count::Epochs] += 1;
                if !self.nodes[index].byzantine {
                    self.watch.begins(index, &set);
                }
                self.nodes[index].sets.insert(set);
                let replica = self.nodes[index].replica.as_ref();
                if replica.is_some_and(wmall_rbft::Rbft::takes_part) && self.silent.remove(&index) {
                    self.report[Count::Rejoins] += 1;
                }
            }
        }
    }

    pub(super) fn execute(&mut self, index: usize, block: &Committed) {
        self.trace(|| format!("{index} executes {} {:?}", block.proposal.sequence, block.proposal.batches));
        let node = &mut self.nodes[index];
        if block.proposal.sequence <= node.ledger.sequence {
            // A state that was fetched has overtaken it.
            return;
        }
        if block.proposal.sequence != node.ledger.sequence.next() {
            if !node.byzantine {
                self.watch.fail(format!("node {index} executes {} out of order", block.proposal.sequence));
            }
            return;
        }
        let correct = !node.byzantine;
        if let Some(batch) = self.nobodys(index, block).filter(|_| correct) {
            self.watch.fail(format!("node {index} executes what nobody has asked for: {batch:?}"));
        }
        let node = &mut self.nodes[index];
        if correct {
            let bound = self.archive_up_to + self.config.archive_bound;
            self.watch.within_the_archive(index, block.proposal.sequence, bound);
            self.watch.executes(node, block, &self.chain, &node.batches);
            if let Some(spec) = &mut self.spec {
                spec.executes(index, block);
            }
        }
        let there = block.proposal.batches.iter().all(|digest| node.batches.contains_key(digest));
        if !there {
            return;
        }
        let digest = block.proposal.digest(&self.chain);
        node.ledger.execute(block, &node.batches, &digest);
        let (sequence, state, change) =
            (node.ledger.sequence, node.ledger.digest, node.ledger.change.clone());
        if sequence.0.is_multiple_of(self.config.checkpoint_interval) {
            node.snapshots.insert(sequence, node.ledger.clone());
            // What is older than the stable checkpoint is not needed any more, but for the one that it stands on.
            let stable = node.disk.low();
            node.snapshots.retain(|at, _| *at >= stable);
            if !node.byzantine {
                self.states.insert((sequence, state), node.ledger.clone());
            }
        }
        if !node.byzantine {
            self.watch.has_state(index, sequence, state);
        }
        let done = node.done();
        let input = Input::Executed { sequence, state, change, done };
        if self.mix.execute_ms == 0 {
            return self.step(index, input);
        }
        let ms = self.streams.of(Stream::Node(index)).roll(self.mix.execute_ms + 1);
        let node = &mut self.nodes[index];
        node.executed_at = node.executed_at.max(self.now) + ms;
        let (at, life) = (node.executed_at, node.life);
        self.at(at, Event::Executed { node: index, life, input: Box::new(input) });
    }

    /// A batch of a block that its origin, a correct one, has never made.
    fn nobodys(&self, index: usize, block: &Committed) -> Option<Digest> {
        let held = block.proposal.batches.iter().filter_map(|digest| self.nodes[index].batches.get(digest));
        let made = |batch: &Batch| {
            let lies = self.by_key.get(&batch.origin).is_some_and(|n| self.nodes[*n].byzantine);
            lies || self.made.contains(&batch.digest())
        };
        held.filter(|batch| !made(batch)).map(Batch::digest).next()
    }

    /// Asks somebody for the state of a checkpoint in a while.
    fn look_for_state(&mut self, index: usize, certificate: Certificate) {
        let ms = 5 + self.streams.of(Stream::Node(index)).roll(200);
        let life = self.nodes[index].life;
        self.later(ms, Event::Update { node: index, life, certificate: Box::new(certificate) });
    }

    /// Asks the store or one of those within reach that have the state, or pretend to. What has another digest is none.
    fn ask_for_state(&mut self, index: usize, certificate: &Certificate) -> Option<Ledger> {
        let wanted = (certificate.vote.sequence, certificate.vote.digest);
        let apart = |n: usize| self.parted.as_ref().is_some_and(|halves| halves[n] != halves[index]);
        let has = |n: &Node| n.byzantine || n.snapshots.contains_key(&wanted.0);
        let within_reach = |n: &&Node| n.index != index && n.replica.is_some() && !apart(n.index) && has(n);
        let mut sources: Vec<Option<usize>> =
            self.nodes.iter().filter(within_reach).map(|n| Some(n.index)).collect();
        // What is archived can be executed again from what is there.
        sources.extend((wanted.0.0 <= self.archive_up_to).then_some(None));
        if sources.is_empty() {
            self.report[Count::NoSource] += 1;
            return None;
        }
        let Some(peer) = self.streams.of(Stream::Node(index)).pick(&sources) else {
            return self.states.get(&wanted).cloned();
        };
        let mut state = self.nodes[peer].snapshots.get(&wanted.0);
        if self.nodes[peer].byzantine && self.faults.strikes(FaultKind::Lie, peer) {
            // The newest that it has, under the wanted name.
            state = self.nodes[peer].snapshots.values().next_back();
            self.report[Count::LiedAboutState] += 1;
        }
        state.filter(|state| (state.sequence, state.digest) == wanted).cloned()
    }

    pub(super) fn update(&mut self, index: usize, certificate: &Certificate) {
        let sequence = certificate.vote.sequence;
        if self.nodes[index].fetching != Some(sequence) {
            return;
        }
        let Some(state) = self.ask_for_state(index, certificate) else {
            return self.look_for_state(index, certificate.clone());
        };
        self.report[Count::Updates] += 1;
        self.nodes[index].fetching = None;
        let node = &mut self.nodes[index];
        if sequence > node.ledger.sequence {
            node.ledger = state.clone();
        }
        node.snapshots.insert(sequence, state.clone());
        if let Some(spec) = self.spec.as_mut().filter(|_| !node.byzantine) {
            spec.updates(index, sequence);
        }
        let (change, done) = (state.change, node.done());
        self.step(index, Input::Updated { certificate: certificate.clone(), change, done });
    }

    pub(super) fn send(&mut self, from: usize, to: To, message: Message) {
        if let Message::Negotiate { nonce, .. } | Message::RecoveryInit { nonce, .. } = &message {
            self.nodes[from].asked = Some(*nonce);
        }
        let node = &self.nodes[from];
        if !node.byzantine {
            self.watch.sent(node, &message);
            if let Some(spec) = &mut self.spec {
                spec.says(from, &message);
            }
        }
        let receivers: Vec<usize> = match to {
            To::One(key) => self.by_key.get(&key).copied().into_iter().collect(),
            To::All => {
                let Some(replica) = &node.replica else { return };
                let seats = replica.set().seats().filter_map(|seat| replica.set().key(seat));
                let others = seats.filter(|key| **key != node.key);
                others.filter_map(|key| self.by_key.get(key)).copied().collect()
            }
        };
        for receiver in receivers {
            for message in self.said(from, receiver, &message) {
                self.transmit(from, receiver, message);
            }
        }
    }

    /// What an adversary really sends; others send what they should.
    fn said(&mut self, from: usize, to: usize, message: &Message) -> Vec<Message> {
        let node = &self.nodes[from];
        if let Some(adversary) = self.adversaries.get_mut(&from)
            && let Some(replica) = &node.replica
        {
            let mut dice = self.streams.once(Stream::Lie(from));
            let (view, stable, window) = (replica.view(), replica.stable(), self.config.window());
            let at = Place { set: replica.set(), key: node.key, view, stable, window };
            let said = adversary.says(message.clone(), to, &at, &mut dice);
            if said.acts.is_empty() || self.faults.strikes(FaultKind::Lie, from) {
                said.acts.iter().for_each(|act| self.report[*act] += 1);
                return said.messages;
            }
        }
        vec![message.clone()]
    }

    pub(super) fn transmit(&mut self, from: usize, to: usize, message: Message) {
        let Some(to) = self.audience(from, to) else { return };
        let apart = self.parted.as_ref().is_some_and(|halves| halves[from] != halves[to]);
        let loss = if self.healed { 0 } else { self.mix.loss };
        let (link, mut dice) = (from << 8 | to, self.streams.once(Stream::Link(from, to)));
        let hushed = !self.healed && self.mix.hushed.contains(&message.kind()) && !dice.one_in(3);
        let cut = self.now < self.cut.1 && !self.healed && (from == self.cut.0 || to == self.cut.0);
        let lost = hushed || dice.one_in(loss);
        if apart || cut || lost && self.faults.strikes(FaultKind::Loss, link) {
            self.report[Count::Lost] += 1;
            return;
        }
        let twice = !self.healed && dice.one_in(self.mix.repeat);
        let copies = if twice && self.faults.strikes(FaultKind::Repeat, link) { 2 } else { 1 };
        self.report[Count::Repeated] += copies - 1;
        let key = self.nodes[from].key;
        for _ in 0..copies {
            let most = if self.healed { self.mix.delay_ms.min(20) } else { self.mix.delay_ms };
            let ms = 1 + dice.roll(most);
            let before = self.links.entry((from, to)).or_default();
            self.report[Count::Overtaken] += u64::from(*before > self.now + ms);
            *before = self.now + ms;
            self.later(ms, Event::Deliver { to, from: key, message: Box::new(message.clone()) });
        }
    }

    pub(super) fn submit(&mut self, index: usize, requests: &[Request]) {
        let node = &self.nodes[index];
        let batch = Batch::sign(&self.chain, node.key, encode(requests), &*node.signer());
        let in_seat = node.replica.as_ref().is_some_and(|r| r.set().seat_of(&node.key).is_some());
        if !in_seat {
            return;
        }
        if !node.byzantine {
            self.made.insert(batch.digest());
        }
        self.step(index, Input::Submit(batch));
    }
}
