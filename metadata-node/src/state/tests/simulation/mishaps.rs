//! What befalls disks: they die, for a while or for good, fill up, are wiped, and rot.

use super::*;

impl Sim {
    pub(super) fn die_or_return(&mut self, disk: DiskId) {
        let now = self.m.index;
        let there = self.disks.get_mut(&disk).unwrap();
        if there.dead {
            return;
        }
        there.alive = !there.alive;
        there.since_ms = (!there.alive).then_some(now);
    }

    /// It does not come back: where that leaves enough of everything, by the word of the state machine,
    /// nothing may be lost by it. A piece that nobody vouches for does not count: its disk may have yet to
    /// hear that it is to drop it.
    pub(super) fn die_for_good(&mut self, disk: DiskId) {
        let left = self.disks.iter().filter(|(id, d)| **id != disk && !d.dead).count();
        let gone: Silent = self.disks.iter().filter(|(id, d)| **id == disk || d.dead).map(|d| *d.0).collect();
        let grades = self.m.state.grades(&gone).unwrap();
        let bears = grades.unavailable + grades.lost == 0;
        if self.disks[&disk].dead || left < self.scheme.width() || !bears {
            return;
        }
        let now = self.m.index;
        let there = self.disks.get_mut(&disk).unwrap();
        (there.dead, there.alive, there.since_ms) = (true, false, there.since_ms.or(Some(now)));
        self.deaths += 1;
    }

    pub(super) fn fill_up_or_free(&mut self, disk: DiskId) {
        let there = self.disks.get_mut(&disk).unwrap();
        there.full = !there.full;
        self.full += u64::from(there.full);
    }

    pub(super) fn wipe(&mut self, disk: DiskId) {
        let there = self.disks.get_mut(&disk).unwrap();
        if there.dead {
            return;
        }
        self.harm += 1;
        there.life = there.life.wrapping_add(20);
        self.damaged.extend(there.pieces.keys());
        there.pieces.clear();
        there.alive = true;
        let (life, n) = (there.life, disk.0 as u8);
        self.m.register(n, life).unwrap();
        let (index, epoch) = (self.m.index, self.replays.epoch);
        let there = self.disks.get_mut(&disk).unwrap();
        (there.feed, there.feed_epoch, there.fenced_before_ms) = (index, epoch, 0);
    }

    /// Its node finds a piece rotten, and says so.
    pub(super) fn rot(&mut self, disk: DiskId) {
        let there = self.disks.get_mut(&disk).unwrap();
        let chunk =
            there.pieces.keys().nth(self.dice.roll(there.pieces.len().max(1) as u64) as usize).copied();
        if let Some(chunk) = chunk.filter(|_| there.alive) {
            there.pieces.remove(&chunk);
            self.harm += 1;
            self.rotted.insert((disk, chunk));
            self.damaged.insert(chunk);
            self.m.run(Command::ReportBad { disk, chunks: vec![(SIM, chunk)] }).unwrap();
        }
    }
}
