//! What happens to a world while it is in trouble: clients ask, validators crash and forget, the network parts, the archive
//! stands still; and in the end all of that is over.

use wmall_rbft::{Input, Nonce, Sequence};

use super::dice::Dice;
use super::fault::FaultKind;
use super::ledger::Request;
use super::report::Count;
use super::streams::Stream;
use super::world::{Event, World, chaos_ms};

impl World {
    /// A client asks some validator for something.
    pub(super) fn client(&mut self) {
        let mut dice = self.streams.once(Stream::Client);
        let index = dice.roll(self.report.size as u64) as usize;
        let count = 1 + dice.roll(4);
        let numbers: Vec<u64> = (0..count).map(|i| self.requests + i).collect();
        self.requests += count;
        if self.nodes[index].replica.is_some() && self.faults.strikes(FaultKind::Request, 0) {
            let mut requests: Vec<Request> = numbers.iter().map(|n| Request::Plain(*n)).collect();
            if self.mix.changes && dice.one_in(12) {
                let seat = dice.roll(self.report.size as u64) as u16;
                let spare = self.report.size + dice.roll(2) as usize;
                requests.push(Request::Swap(seat, self.keys.key(spare)));
            }
            self.submit(index, &requests);
        }
        if self.now < chaos_ms(self.report.size) + 2_000 {
            // A block of many validators is many messages.
            let pause = 20 + self.streams.of(Stream::Client).roll(self.mix.pause_ms);
            let ms = pause * (1 + self.report.size as u64 / 6);
            self.later(ms, Event::Client);
        }
    }

    pub(super) fn fault(&mut self) {
        let mut dice = self.streams.once(Stream::Fault);
        if self.healed || !self.faults.strikes(FaultKind::Break, 0) {
            return;
        }
        if self.has_twins() && dice.one_in(2) {
            self.change_audience(&mut dice);
            return;
        }
        let choice = dice.roll(self.mix.crashes + self.mix.partitions);
        if choice < self.mix.crashes {
            let index = dice.roll(self.nodes.len() as u64) as usize;
            // Now and then the power of all of them.
            let all = dice.one_in(8);
            self.report[Count::PowerCuts] += u64::from(all);
            for index in if all { 0..self.nodes.len() } else { index..index + 1 } {
                // Amid a sync, or between two.
                if !all && self.mix.sync_ms > 0 && dice.one_in(2) {
                    self.nodes[index].doomed = true;
                } else {
                    self.crash(index, &mut dice);
                }
            }
        } else {
            let halves = (0..self.nodes.len()).map(|_| dice.one_in(2)).collect();
            self.parted = if self.parted.is_some() { None } else { Some(halves) };
            self.report[Count::Partitions] += u64::from(self.parted.is_some());
        }
    }

    pub(super) fn crash(&mut self, index: usize, dice: &mut Dice) {
        if self.healed || self.nodes[index].replica.is_none() || self.nodes[index].byzantine {
            return;
        }
        self.report[Count::Crashes] += 1;
        // Of what was written and not synced, some of it from the first on may be there all the same.
        let torn = dice.roll(self.nodes[index].unsynced.len() as u64 + 1) as usize;
        self.report[Count::Torn] += u64::from(torn < self.nodes[index].unsynced.len());
        for record in self.nodes[index].crash(torn) {
            if let Some(spec) = &mut self.spec {
                spec.keeps(index, &record);
            }
        }
        self.trace(|| format!("{index} crashes"));
        // With the adversaries, up to F: more need an operator.
        let (set, seats) = (&self.genesis.0, 0..self.report.size);
        let faulty = self.nodes[seats].iter().filter(|n| n.byzantine).count() + self.silent.len();
        let forgets = self.mix.amnesia && faulty < set.faulty() && dice.one_in(2);
        if forgets && index < self.report.size && !self.silent.contains(&index) {
            let (set, ledger) = self.genesis.clone();
            let nonce = Nonce(dice.any());
            self.nodes[index].forget(&set, ledger, nonce);
            self.silent.insert(index);
            self.report[Count::Forgotten] += 1;
        }
        let ms = dice.roll(4_000);
        self.later(ms, Event::Restart { node: index });
    }

    /// Somebody archives what is stable, and the others see it.
    pub(super) fn archive(&mut self) {
        let stable =
            self.correct().filter_map(|n| n.replica.as_ref()).map(|r| r.stable().0).max().unwrap_or(0);
        let holds_up = !self.healed && self.streams.of(Stream::Archive).roll(100) < self.mix.archive;
        let holds_up = holds_up && self.faults.strikes(FaultKind::Hold, 0);
        self.report[Count::Held] += u64::from(holds_up);
        if !holds_up {
            self.archive_up_to = self.archive_up_to.max(stable);
        }
        for index in 0..self.nodes.len() {
            let up_to = self.archive_up_to.min(self.nodes[index].ledger.sequence.0);
            if self.nodes[index].replica.is_some() {
                self.step(index, Input::Archived(Sequence(up_to)));
            }
        }
        self.later(300, Event::Archive);
    }

    /// Links are good, everybody is up; only the adversaries stay what they are. What correct validators hold by now must be
    /// executed.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.parted = None;
        for index in 0..self.nodes.len() {
            if self.nodes[index].replica.is_none() {
                self.begin(index);
            }
        }
        for node in self.nodes.iter_mut().filter(|n| !n.byzantine) {
            let held: Vec<_> = node.batches.values().cloned().collect();
            held.iter().for_each(|batch| node.takes(batch));
        }
    }
}
