//! Histories of puts, deaths (some for good), joins, wipes, rot, full disks, drains, quarantine, moves, halts
//! and fills, drawn from seeds, of purges, deletions, fences and restores, of leaders whose last plan comes
//! when another one leads, and of a client that repeats every commit ever seen (`replays.rs`); on the real
//! state machine and the real planner with simulated disks. After every step: no piece counts that is not
//! there, no grade is better than a count of the disks themselves, and the tally is the sum of what is said
//! of each chunk (`oracle.rs`). In the end all are back that can be, and all of it must heal by itself.
//!
//! `WMALL_HISTORIES=n` and `WMALL_FROM=seed` say how many and which; a failure names its seed.

mod mishaps;
mod operators;
mod oracle;
mod replays;

use std::collections::BTreeSet;

use wmall_placement::{Budget, Candidate, DiskFact, DiskState, Policy, Reason, Snapshot, plan_repairs};
use wmall_proto::feed::{FeedItem, FeedPage};
use wmall_proto::grade::{Grade, GradeCounts};
use wmall_proto::job::{JobChange, JobKind};
use wmall_proto::pg::PgKey;
use wmall_proto::topology::DiskInfo;
use wmall_proto::{Scheme, Topology};

use super::*;
use crate::command::{Operate, SlotMove};

const SIM: PoolId = PoolId(2);

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

#[derive(Debug, Clone, Copy)]
struct SimPiece {
    slot: u8,
    /// Whether the chunk is known to be committed.
    committed: bool,
    row_version: u64,
    /// Latest start of any upload that was promised the piece.
    held_until_ms: u64,
}

#[derive(Default)]
struct SimDisk {
    life: u8,
    alive: bool,
    /// It will not be back.
    dead: bool,
    /// It takes nothing.
    full: bool,
    since_ms: Option<u64>,
    pieces: BTreeMap<ChunkId, SimPiece>,
    feed: u64,
    feed_epoch: u64,
    fenced_before_ms: u64,
}

impl SimDisk {
    /// Takes a piece in and promises to keep it, as `data-node/src/disk/index.rs` does: a write by a row of
    /// before does not replace what came by a later one.
    fn take(
        &mut self,
        (chunk, upload): (ChunkId, UploadId),
        slot: u8,
        disk: DiskId,
        row_version: u64,
    ) -> Option<Promise> {
        let before = self.pieces.get(&chunk);
        let started_ms = upload.started_ms();
        if !self.alive
            || self.full
            || started_ms < self.fenced_before_ms
            || before.is_some_and(|b| b.slot != slot && b.row_version > row_version)
        {
            return None;
        }
        let committed = before.is_some_and(|b| b.committed);
        let held_until_ms = before.map_or(0, |b| b.held_until_ms).max(started_ms);
        self.pieces.insert(chunk, SimPiece { slot, committed, row_version, held_until_ms });
        Some(Promise { slot, disk, incarnation: Incarnation([self.life; 16]) })
    }
}

struct Sim {
    seed: u64,
    m: Machine,
    dice: Dice,
    scheme: Scheme,
    disks: BTreeMap<DiskId, SimDisk>,
    committed: BTreeSet<ChunkId>,
    replays: replays::Replays,
    next: u64,
    /// A row of before, for puts that began then.
    old: Option<std::sync::Arc<Topology>>,
    moves: u64,
    /// Moves that a leader of before has planned, and that are still on their way.
    late: Vec<SlotMove>,
    late_moves: u64,
    stale_moves: u64,
    joins: u64,
    quarantines: u64,
    deaths: u64,
    full: u64,
    halts: u64,
    /// Wipes, pieces that rotted, restores.
    harm: u64,
    /// Chunks of which pieces were wiped, rotted, or deleted behind the back of a snapshot.
    damaged: BTreeSet<ChunkId>,
    /// Pieces that rotted.
    rotted: BTreeSet<(DiskId, ChunkId)>,
    /// The map of a data node that hears of changes.
    follower: Topology,
    followed: u64,
    /// A history without wipes and rot, in which nothing may ever be lost.
    strict: bool,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut m = Machine::new();
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let strict = dice.one_in(2);
        let scheme: Scheme = ["2x", "3x", "rs:2+1", "rs:2+2"][dice.roll(4) as usize].parse().unwrap();
        let nodes = scheme.width() as u64 + 1 + dice.roll(3);
        for i in 5..=nodes {
            m.register(i as u8, i as u8).unwrap();
        }
        let topology = m.state.topology();
        let candidates: Vec<Candidate> =
            topology.disks.values().map(|d| candidate(&topology, d.id)).collect();
        let pg_bits = dice.roll(3) as u8;
        let rows = wmall_placement::propose_rows(&candidates, scheme.width(), pg_bits, seed).unwrap();
        let (name, based_on) = ("sim".parse().unwrap(), topology.version);
        m.run(Command::CreatePool { name, scheme, pg_bits, rows, based_on }).unwrap();
        let (name, pool) = ("s".parse().unwrap(), "sim".parse().unwrap());
        m.run(Command::CreateBucket { name, pool, rules: BucketRules::default() }).unwrap();
        let disk =
            |i: u32| (DiskId(i), SimDisk { life: i as u8, alive: true, feed: m.index, ..SimDisk::default() });
        let disks = (1..=topology.disks.len() as u32).map(disk).collect();
        Self {
            seed,
            m,
            dice,
            scheme,
            disks,
            committed: BTreeSet::new(),
            replays: replays::Replays::default(),
            next: 0,
            old: None,
            moves: 0,
            late: Vec::new(),
            late_moves: 0,
            stale_moves: 0,
            joins: 0,
            quarantines: 0,
            deaths: 0,
            full: 0,
            halts: 0,
            harm: 0,
            damaged: BTreeSet::new(),
            rotted: BTreeSet::new(),
            follower: Topology::empty(),
            followed: 0,
            strict,
        }
    }

    fn silent(&self) -> Silent {
        let topology = self.m.state.topology();
        let counts = |id: &DiskId, d: &SimDisk| d.alive && topology.disks[id].quarantined_ms.is_none();
        self.disks.iter().filter(|(id, d)| !counts(id, d)).map(|(id, _)| *id).collect()
    }

    fn any_disk(&mut self) -> DiskId {
        let n = self.dice.roll(self.disks.len() as u64) as usize;
        *self.disks.keys().nth(n).unwrap()
    }

    /// A chunk comes in, by the row of now or of a while ago; some of its disks answer.
    fn put(&mut self) {
        let n = if self.next > 0 && self.dice.one_in(5) { self.dice.roll(self.next) } else { self.next };
        self.next = self.next.max(n + 1);
        let chunk = id(n);
        let topology = match &self.old {
            Some(old) if self.dice.one_in(2) => old.clone(),
            _ => self.m.state.topology(),
        };
        let (_, row) = topology.row_of(SIM, &chunk).unwrap();
        let upload = UploadId::new(self.m.index, [self.dice.roll(256) as u8; 10]);
        let (mut promises, row_version) = (Vec::new(), row.version);
        for (slot, &disk) in row.slots.iter().enumerate() {
            let there = self.disks.get_mut(&disk).unwrap();
            if !self.dice.one_in(6) {
                promises.extend(there.take((chunk, upload), slot as u8, disk, row.version));
            }
        }
        let digests = if self.scheme.is_striped() {
            (0..row.slots.len()).map(|slot| [slot as u8 + 1; 32]).collect()
        } else {
            vec![]
        };
        let Command::CommitFile { mut file, mut chunks } = file(
            vec![PromisedChunk { id: chunk, length: CHUNK, row_version, digests: digests.clone(), promises }],
            Ack::Quorum,
        ) else {
            panic!()
        };
        (file.pool, file.upload) = (SIM, upload);
        file.object = Some(("s".parse().unwrap(), format!("n{n}").parse().unwrap()));
        // The block of the manifest goes the same way, as the same pieces under another name.
        let block = chunks[1].id;
        let mut promises = Vec::new();
        let (_, row) = topology.row_of(SIM, &block).unwrap();
        for (slot, &disk) in row.slots.iter().enumerate() {
            let there = self.disks.get_mut(&disk).unwrap();
            promises.extend(there.take((block, upload), slot as u8, disk, row.version));
        }
        let (length, row_version) = (chunks[1].length, row.version);
        chunks[1] = PromisedChunk { id: block, length, row_version, digests, promises };
        let commit = Command::CommitFile { file, chunks };
        self.send(commit.clone());
        self.replays.seen.push((n, commit));
    }

    /// A disk hears of commits and releases, all that there is.
    fn follow(&mut self, disk: DiskId) {
        let there = self.disks.get_mut(&disk).unwrap();
        let (epoch, page) = self.m.state.feed((there.feed_epoch, there.feed), &[disk]);
        let FeedPage::Items { position, items, .. } = page else {
            self.walk(disk, epoch);
            return;
        };
        there.feed = position;
        let (mut removed, mut absent, mut fenced) = (Vec::new(), Vec::new(), false);
        for item in items {
            match item {
                FeedItem::Committed { chunk, counted } if chunk.pool == SIM => {
                    match there.pieces.get_mut(&chunk.chunk) {
                        Some(piece) => piece.committed = true,
                        None if counted.contains(&disk) => absent.push((SIM, chunk.chunk)),
                        None => {}
                    }
                }
                FeedItem::Deleted(chunk) if chunk.pool == SIM => there.release(&chunk.chunk),
                FeedItem::Released { pool: SIM, pg, pg_bits, disk: released } if released == disk => {
                    let (low, high) = pg.range(pg_bits);
                    let of_group = there.pieces.range(low..=high).map(|(c, _)| *c).collect::<Vec<_>>();
                    of_group.iter().for_each(|chunk| there.release(chunk));
                    removed.extend(of_group.into_iter().filter(|c| !there.pieces.contains_key(c)));
                }
                FeedItem::Fenced { before_ms } => {
                    (there.fenced_before_ms, fenced) = (before_ms, true);
                }
                _ => {}
            }
        }
        if !absent.is_empty() {
            self.m.run(Command::ReportBad { disk, chunks: absent }).unwrap();
        }
        if fenced {
            self.sweep(disk, |piece| !piece.committed);
        }
        // What a disk lets go of is there without it.
        for chunk in removed.iter().filter(|c| self.committed.contains(c)) {
            let (left, needed) = (self.existing(chunk), self.scheme.needed());
            assert!(
                left >= needed || self.harm > 0,
                "seed {}: {disk} dropped one of the last pieces of {chunk}",
                self.seed
            );
        }
    }

    /// Pieces of a chunk that exist anywhere, on disks that answer or not, as far as they count apart.
    fn existing(&self, chunk: &ChunkId) -> usize {
        let pieces = self.disks.values().filter_map(|d| d.pieces.get(chunk));
        if self.scheme.is_striped() {
            pieces.map(|p| p.slot).collect::<BTreeSet<_>>().len()
        } else {
            pieces.count()
        }
    }

    /// Of these, those that the row leads to.
    fn reachable(&self, chunk: &ChunkId) -> usize {
        let topology = self.m.state.topology();
        let (_, row) = topology.row_of(SIM, chunk).unwrap();
        let is_there = |(slot, disk): &(u8, DiskId)| !self.disks[disk].dead && self.has(*disk, chunk, *slot);
        let there = row.holders().filter(is_there);
        if self.scheme.is_striped() {
            there.map(|(slot, _)| slot).collect::<BTreeSet<_>>().len()
        } else {
            there.count()
        }
    }

    fn has_any(&self, disk: DiskId, chunk: &ChunkId) -> bool {
        self.disks[&disk].pieces.contains_key(chunk)
    }

    fn has(&self, disk: DiskId, chunk: &ChunkId, slot: u8) -> bool {
        let piece = self.disks[&disk].pieces.get(chunk);
        piece.is_some_and(|p| !self.scheme.is_striped() || p.slot == slot)
    }

    /// Whether a piece can be had from others.
    fn obtainable(&self, chunk: &ChunkId, disk: DiskId, slot: u8) -> bool {
        if self.has(disk, chunk, slot) {
            return true;
        }
        let topology = self.m.state.topology();
        let (_, row) = topology.row_of(SIM, chunk).unwrap();
        let there = |(s, d): &(u8, DiskId)| self.disks[d].alive && self.has(*d, chunk, *s);
        let slots: BTreeSet<u8> =
            row.holders().filter(|(_, d)| *d != disk).filter(there).map(|h| h.0).collect();
        slots.contains(&slot) || slots.len() >= self.scheme.needed()
    }

    /// A disk fetches what it lacks; it may be cut off in the middle.
    fn fill(&mut self, disk: DiskId) {
        if !self.disks[&disk].alive || self.m.state.work_of(&[disk]).is_empty() {
            return;
        }
        self.follow(disk);
        // What can't be had is not asked for again; nor, more than once, what was listed before.
        let (mut but, mut seen) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let asked: Vec<(PoolId, PgId)> = but.iter().copied().collect();
            match self.fill_some(disk, &asked) {
                Some((groups, failed)) if !groups.is_empty() => {
                    but.extend(failed);
                    but.extend(groups.into_iter().filter(|group| !seen.insert(*group)));
                }
                _ => return,
            }
        }
    }

    /// The same of the most urgent groups: which those were, and which could not be had; none if it was cut
    /// off.
    fn fill_some(&mut self, disk: DiskId, but: &[PgKey]) -> Option<(Vec<PgKey>, BTreeSet<PgKey>)> {
        let (mut after, mut begun, mut failed) = (None, None, BTreeSet::new());
        loop {
            let known: Vec<(PoolId, PgId)> =
                begun.as_ref().map_or_else(Vec::new, |(_, groups, _): &(u64, Vec<_>, Vec<_>)| groups.clone());
            let listing = Listing { groups: &known, but, after: after.as_ref() };
            let silent = self.silent();
            let listed = self.m.state.list_missing(disk, listing, &silent).unwrap();
            let Response::Missing { pieces, next, groups, dirty, as_of, .. } = listed else { panic!() };
            let (first, _, _) = begun.get_or_insert((as_of, groups, dirty));
            let (first, mut got) = (*first, Vec::new());
            for piece in pieces {
                let group = self.m.state.topology().row_of(SIM, &piece.chunk).unwrap().0;
                if piece.pool != SIM
                    || !self.obtainable(&piece.chunk, disk, piece.slot)
                    || self.disks[&disk].full
                    || self.dice.one_in(20)
                {
                    failed.insert(group);
                    continue;
                }
                let there = self.disks.get_mut(&disk).unwrap();
                let held_until_ms = there.pieces.get(&piece.chunk).map_or(0, |p| p.held_until_ms);
                let (slot, row_version) = (piece.slot, piece.row_version);
                there
                    .pieces
                    .insert(piece.chunk, SimPiece { slot, committed: true, row_version, held_until_ms });
                let digest = piece.digests.get(usize::from(piece.slot)).copied().unwrap_or(piece.chunk.0);
                got.push(FetchedPiece { pool: SIM, chunk: piece.chunk, slot: piece.slot, digest });
            }
            if self.dice.one_in(8) {
                return None;
            }
            self.close(disk, got, vec![], as_of);
            after = next;
            if after.is_none() {
                let (_, groups, dirty) = begun.unwrap_or_default();
                let clean = dirty.iter().filter(|g| !failed.contains(*g)).copied().collect();
                self.close(disk, vec![], clean, first);
                return Some((groups, failed));
            }
        }
    }

    fn close(&mut self, disk: DiskId, pieces: Vec<FetchedPiece>, clean: Vec<(PoolId, PgId)>, as_of: u64) {
        let incarnation = Incarnation([self.disks[&disk].life; 16]);
        self.m.run(Command::CloseTickets { disk, incarnation, pieces, clean, as_of }).unwrap();
    }

    fn plan(&mut self, may_be_late: bool) -> bool {
        let topology = self.m.state.topology();
        let fact = |(id, d): (&DiskId, &SimDisk)| {
            let quarantined_ms = topology.disks[id].quarantined_ms;
            let state = match d.since_ms {
                _ if quarantined_ms.is_some() => DiskState::Down,
                _ if d.alive => DiskState::Up,
                Some(since) if since + 5 > self.m.index => DiskState::Suspect,
                _ => DiskState::Down,
            };
            let since = quarantined_ms.or(d.since_ms);
            let down_since_ms = if state == DiskState::Down { since } else { None };
            let &DiskInfo { draining, drain_paused, successor, .. } = &topology.disks[id];
            let room = if d.full { 0 } else { 1 << 40 };
            (
                *id,
                DiskFact {
                    candidate: candidate(&topology, *id),
                    state,
                    draining,
                    drain_paused,
                    successor,
                    free_bytes: room,
                    last_bytes: room,
                    down_since_ms,
                },
            )
        };
        let mut groups = self.m.state.group_facts(&self.silent());
        groups.retain(|g| g.key.0 == SIM);
        let snapshot = Snapshot {
            disks: self.disks.iter().map(fact).collect(),
            groups,
            zones: topology.zone_count(),
            now_ms: self.m.index,
        };
        // Nobody looks at what it does for a while; in the end an operator has it go on.
        let policy =
            Policy { together_ms: 3, override_halt: !may_be_late || !self.m.index.is_multiple_of(3) };
        let plan = plan_repairs(&snapshot, &policy, &Budget { to_disk: 2, from_disk: 2, ..Budget::ALL });
        self.halts += u64::from(plan.halted.is_some());
        assert!(plan.halted.is_none() || plan.moves.is_empty(), "a halt that moves slots");
        let lost = plan.moves.iter().filter(|m| m.reason == Reason::Lost).count();
        let moves: Vec<SlotMove> = plan.moves.iter().map(SlotMove::from).collect();
        self.moves += moves.len() as u64;
        if !moves.is_empty() && may_be_late && self.dice.one_in(4) {
            // Its leader is none any more when this arrives, and others have planned meanwhile.
            self.late = moves;
        } else if !moves.is_empty() {
            self.m.run(Command::MoveSlots(moves)).unwrap();
        }
        lost > 0 || !plan.moves.is_empty()
    }

    fn step(&mut self) {
        let disk = self.any_disk();
        match self.dice.roll(32) {
            0..=6 => self.put(),
            7..=9 => drop(self.plan(true)),
            10..=14 => self.fill(disk),
            15 | 16 => self.follow(disk),
            17 => self.old = Some(self.m.state.topology()),
            18 if !self.strict => self.rot(disk),
            19 if !self.strict && self.dice.one_in(3) => self.wipe(disk),
            20 | 21 => self.die_or_return(disk),
            22 => self.operate(disk),
            // A disk that failed and is back: what it holds is looked through.
            23 if self.dice.one_in(3) => drop(self.m.run(Command::Distrust(disk)).unwrap()),
            23 if self.dice.one_in(3) => self.join(),
            23 if self.dice.one_in(4) => self.die_for_good(disk),
            23 if self.dice.one_in(3) => self.fill_up_or_free(disk),
            23 if self.dice.one_in(3) => self.quarantine_or_release(disk),
            23 => self.hear_the_late(),
            24 | 25 => self.purge(),
            26 => self.delete_condemned(),
            27 => self.fence(),
            28..=30 => self.replay(),
            31 if !self.strict => self.snapshot_or_restore(),
            _ => {}
        }
    }
}

fn candidate(topology: &Topology, disk: DiskId) -> Candidate {
    let info = &topology.disks[&disk];
    let zone = topology.nodes[&info.node].zone.clone();
    Candidate { disk, node: info.node.clone(), zone, weight: info.weight }
}

#[test]
fn histories_of_moves_never_count_what_is_not_there_and_heal() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let (count, from) = (number("WMALL_HISTORIES", 12_000), number("WMALL_FROM", 0));
    let one = |seed: u64| {
        let mut sim = Sim::new(seed);
        for _ in 0..80 {
            sim.step();
            sim.check(seed);
        }
        sim.heal(seed);
        [
            sim.moves,
            sim.joins,
            sim.quarantines,
            sim.late_moves,
            sim.stale_moves,
            sim.deaths,
            sim.full,
            sim.halts,
            sim.followed,
            sim.replays.deletions,
            sim.replays.accepted,
            sim.replays.refused,
            sim.replays.restores,
            sim.replays.expired,
        ]
    };
    let add = |a: [u64; 14], b: [u64; 14]| std::array::from_fn(|i| a[i] + b[i]);
    let half = |half: u64| (from..from + count).filter(|s| s % 2 == half).map(one).fold([0; 14], add);
    let sums = std::thread::scope(|scope| {
        let halves = [0, 1].map(|n| scope.spawn(move || half(n)));
        halves.map(|h| h.join().unwrap()).into_iter().fold([0; 14], add)
    });
    let words = [
        "moves",
        "joins",
        "quarantines",
        "moves that came late",
        "of rows of before",
        "deaths for good",
        "full disks",
        "halts",
        "maps brought up by changes",
        "chunks deleted",
        "repeated commits that were taken",
        "and that were refused",
        "restores",
        "requests whose answers were forgotten",
    ];
    let tenth = count / 10;
    let floors = [
        count,
        tenth,
        tenth / 2,
        tenth / 2,
        tenth / 5,
        tenth,
        tenth,
        tenth,
        count,
        count,
        count,
        count,
        tenth / 2,
        tenth,
    ];
    println!("{count} histories: {sums:?} {words:?}");
    for ((sum, word), floor) in sums.iter().zip(words).zip(floors) {
        assert!(*sum > floor, "only {sum} {word} in {count} histories");
    }
}
