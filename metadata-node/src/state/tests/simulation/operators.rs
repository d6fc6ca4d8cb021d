//! What operators and other leaders do: nodes that join, quarantine and its end, jobs, and moves that were
//! planned before.

use super::*;

impl Sim {
    /// Another node comes, with an empty disk.
    pub(super) fn join(&mut self) {
        let n = self.disks.len() as u8 + 1;
        if n <= 12 {
            self.m.register(n, n).unwrap();
            let (feed, feed_epoch) = (self.m.index, self.replays.epoch);
            let joined = SimDisk { life: n, alive: true, feed, feed_epoch, ..SimDisk::default() };
            self.disks.insert(DiskId(u32::from(n)), joined);
            self.joins += 1;
        }
    }

    /// A disk has failed challenges; or somebody has looked at it, and believes it again.
    pub(super) fn quarantine_or_release(&mut self, disk: DiskId) {
        if self.m.state.topology().disks[&disk].quarantined_ms.is_some() {
            self.m.run(Command::Operate(Operate::Release { what: disk.to_string(), disk })).unwrap();
        } else {
            let incarnation = Incarnation([self.disks[&disk].life; 16]);
            self.m.run(Command::Quarantine { disk, incarnation, why: "it lied".into() }).unwrap();
            self.quarantines += u64::from(self.m.state.topology().disks[&disk].quarantined_ms.is_some());
        }
    }

    /// What a leader of before has planned arrives.
    pub(super) fn hear_the_late(&mut self) {
        let moves = std::mem::take(&mut self.late);
        if moves.is_empty() {
            return;
        }
        let before = self.m.state.topology();
        // It may be of rows of before: then nothing may come of it.
        let _ = self.m.run(Command::MoveSlots(moves.clone()));
        let after = self.m.state.topology();
        let row = |topology: &Topology, pg: PgId| topology.pools[&SIM].rows[pg.0 as usize].clone();
        for planned in &moves {
            let (then, now) = (row(&before, planned.group.1), row(&after, planned.group.1));
            self.late_moves += 1;
            if then.version != planned.row_version {
                self.stale_moves += 1;
                assert_eq!(
                    (then.version, &then.slots),
                    (now.version, &now.slots),
                    "a move of a row of before"
                );
            }
        }
    }

    /// Somebody drains a disk, replaces it, pauses that, or gives it up.
    pub(super) fn operate(&mut self, disk: DiskId) {
        let disks: Vec<DiskId> = self.disks.keys().copied().collect();
        let successor = disks[self.dice.roll(disks.len() as u64) as usize];
        let successor = Some(successor).filter(|s| *s != disk && self.dice.one_in(3));
        let kind = if successor.is_some() { JobKind::Replace } else { JobKind::Drain };
        let active =
            self.m.state.jobs().into_iter().find(|j| !j.state.has_ended() && j.disks.contains(&disk));
        let change = [JobChange::Pause, JobChange::Resume, JobChange::Cancel][self.dice.roll(3) as usize];
        let operate = match active {
            Some(job) => Operate::ChangeJob { number: job.number, change },
            None => {
                let what = disk.to_string();
                let based_on = self.m.state.counters().1.jobs;
                Operate::StartJob { kind, what, disks: vec![disk], successor, slots: 0, bytes: 0, based_on }
            }
        };
        // Another job may be about the successor.
        let _ = self.m.run(Command::Operate(operate));
        let ended: Vec<u64> = self.m.state.jobs().iter().map(|j| j.number).collect();
        self.m.run(Command::Operate(Operate::EndJobs(ended))).unwrap();
    }
}
