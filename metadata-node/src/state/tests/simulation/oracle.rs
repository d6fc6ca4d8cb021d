//! What must hold after every step, and when everybody is back that can come back; counted on the simulated disks themselves.

use super::*;

impl Sim {
    /// The grade of a chunk by a count of its pieces on the disks themselves, as DESIGN says it: no word of the state machine's
    /// but the row is taken for it.
    fn recount(&self, chunk: &ChunkId) -> Grade {
        let (topology, silent) = (self.m.state.topology(), self.silent());
        let (_, row) = topology.row_of(SIM, chunk).unwrap();
        let slots_where = |good: &dyn Fn(DiskId) -> bool| -> usize {
            let there = row.holders().filter(|(slot, disk)| good(*disk) && self.has(*disk, chunk, *slot));
            there.map(|(slot, _)| slot).collect::<BTreeSet<_>>().len()
        };
        let (live, all) = (slots_where(&|d| !silent.contains(&d)), slots_where(&|_| true));
        let (needed, width) = (self.scheme.needed(), self.scheme.width());
        let zone = |disk: &DiskId| &topology.nodes[&topology.disks[disk].node].zone;
        let zones = topology.disks.keys().map(zone).collect::<BTreeSet<_>>();
        let most = |z| row.slots.iter().filter(|d| zone(d) == z).count() <= width.div_ceil(zones.len());
        match live {
            _ if live < needed && all < needed => Grade::Lost,
            _ if live < needed => Grade::Unavailable,
            _ if live == needed => Grade::Danger,
            _ if live < width || !zones.iter().all(|z| most(*z)) => Grade::Warning,
            _ => Grade::Stable,
        }
    }

    /// A data node that hears of changes alone has the same map as one that gets all of it.
    fn follow_the_map(&mut self, seed: u64) {
        // Not with each step, so that there are several changes to hear of.
        if !self.dice.one_in(3) {
            return;
        }
        let now = self.m.state.topology();
        match self.m.state.map_changes(self.follower.version) {
            Some(changes) => {
                assert!(self.follower.change(changes), "seed {seed}: changes for another version");
                self.followed += 1;
            }
            None => self.follower = (*now).clone(),
        }
        assert_eq!(self.follower, *now, "seed {seed}: the map by its changes");
    }

    /// Whether a piece that rotted before its chunk was committed counts for as long as its disk has yet to
    /// hear of the commit, which makes it say so.
    fn is_unheard(&self, chunk: &ChunkId) -> bool {
        let behind = |disk: &DiskId| self.disks[disk].feed < self.m.index || !self.disks[disk].alive;
        self.rotted
            .iter()
            .any(|(disk, rotted)| rotted == chunk && !self.has_any(*disk, chunk) && behind(disk))
    }

    /// Whatever counts is there.
    pub(super) fn check(&mut self, seed: u64) {
        self.follow_the_map(seed);
        let silent = self.silent();
        let mut sum = GradeCounts::default();
        for chunk in &self.committed {
            let unheard = self.is_unheard(chunk);
            let Ok(QueryReply::Chunk(views)) = self.m.state.query(&Query::Chunk(*chunk), &silent) else {
                panic!("seed {seed}: a committed chunk is not known")
            };
            let view = views.iter().find(|v| v.pool == SIM).unwrap();
            for piece in view.pieces.iter().filter(|p| p.state == PieceState::Live) {
                let believed = !silent.contains(&piece.disk);
                assert!(believed, "seed {seed}: {} is not believed, and counts", piece.disk);
                let there = self.has(piece.disk, chunk, piece.slot) && self.disks[&piece.disk].alive;
                assert!(
                    there || unheard,
                    "seed {seed}: slot {} of {chunk} counts on {}",
                    piece.slot,
                    piece.disk
                );
            }
            // After a restore nobody has looked for the pieces yet, so none is known to be gone.
            let worst = if self.replays.restores > 0 { Grade::Unavailable } else { Grade::Lost };
            let recounted = self.recount(chunk).min(worst);
            assert!(
                unheard || view.grade >= recounted,
                "seed {seed}: {chunk} is {recounted:?}, not {:?}",
                view.grade
            );
            sum.add(view.grade, 1);
        }
        assert_eq!(self.m.state.grades(&silent).unwrap(), sum, "seed {seed}: the tally and its parts");
        for row in &self.m.state.topology().pools[&SIM].rows {
            let disks: BTreeSet<DiskId> = row.slots.iter().copied().collect();
            assert_eq!(disks.len(), row.slots.len(), "seed {seed}: two slots on one disk");
        }
    }

    /// Everybody is back: all that can be had comes to where it should be, and nowhere else.
    pub(super) fn heal(&mut self, seed: u64) {
        self.hear_the_late();
        self.allow_deletion();
        let all: Vec<DiskId> = self.disks.keys().copied().collect();
        for &disk in &all {
            if self.m.state.topology().disks[&disk].quarantined_ms.is_some() {
                self.quarantine_or_release(disk);
            }
            let there = self.disks.get_mut(&disk).unwrap();
            there.full = false;
            // The grace of what is gone for good is over.
            (there.alive, there.since_ms) = (!there.dead, there.dead.then_some(0));
        }
        self.m.run(Command::Operate(Operate::Undrain { what: "all".into(), disks: all.clone() })).unwrap();
        for round in 0.. {
            // With its feed a disk may find that it lacks a piece.
            all.iter().for_each(|&disk| self.follow(disk));
            let alive = all.iter().filter(|d| self.disks[d].alive);
            let works = alive.copied().any(|d| !self.m.state.work_of(&[d]).is_empty());
            let busy = self.plan(false) | works;
            all.iter().for_each(|&disk| self.fill(disk));
            self.check(seed);
            let gone = self.committed.iter().any(|c| self.reachable(c) < self.scheme.needed());
            if !busy || gone {
                break;
            }
            assert!(round < 300, "seed {seed}: it does not come to rest");
        }
        all.iter().for_each(|&disk| self.follow(disk));
        let grades = self.m.state.grades(&self.silent()).unwrap();
        let gone = self.committed.iter().any(|c| self.reachable(c) < self.scheme.needed());
        if gone {
            // More was wiped or rotten than the scheme stands; what is said of it is checked above.
            assert!(self.harm > 0, "seed {seed}: lost without a wipe or rot");
            return;
        }
        let topology = self.m.state.topology();
        let as_good =
            if self.can_keep_the_zone_rule() { grades.stable } else { grades.stable + grades.warning };
        assert_eq!(grades.total(), as_good, "seed {seed}: {grades:?}");
        for row in &topology.pools[&SIM].rows {
            assert!(row.slots.iter().all(|d| !self.disks[d].dead), "seed {seed}: a slot on a dead disk");
        }
        for (disk, there) in &self.disks {
            for (chunk, piece) in &there.pieces {
                let (_, row) = topology.row_of(SIM, chunk).unwrap();
                let wanted = row.involves(*disk) || !piece.committed;
                assert!(wanted, "seed {seed}: {disk} keeps {chunk}, which it gave away");
            }
        }
        self.m.assert_same_after_reload();
    }
}

impl Sim {
    /// Whether the disks that are left can have a row that keeps the zone rule.
    fn can_keep_the_zone_rule(&self) -> bool {
        let topology = self.m.state.topology();
        let mut zones: BTreeMap<&wmall_proto::ZoneName, usize> = BTreeMap::new();
        for (id, disk) in &self.disks {
            let of_zone = zones.entry(&topology.nodes[&topology.disks[id].node].zone).or_default();
            *of_zone += usize::from(!disk.dead);
        }
        let (width, count) = (self.scheme.width(), zones.len());
        zones.values().map(|disks| (*disks).min(width.div_ceil(count))).sum::<usize>() >= width
    }
}
