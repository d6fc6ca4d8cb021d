//! What goes and what comes again: purges, deletions, fences, restores, and a client that repeats every
//! commit and every claim ever seen. Whatever of that is taken must be there.

use super::*;
use openraft::Membership;
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::NameCommand;

/// A snapshot of the metadata: its pairs, and the chunks that were committed.
type Saved = (Vec<(Vec<u8>, Vec<u8>)>, BTreeSet<ChunkId>);

#[derive(Default)]
pub(super) struct Replays {
    /// Every commit ever sent, with the number of its name.
    pub(super) seen: Vec<(u64, Command)>,
    /// Every request of the present life, with its answer.
    sent: Vec<(Envelope, Result<Response, RpcError>)>,
    saved: Option<Saved>,
    /// Present life of the metadata.
    pub(super) epoch: u64,
    pub(super) deletions: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) restores: u64,
    /// Requests that came again when their answers were forgotten.
    pub(super) expired: u64,
}

/// Between an upload's begin and its fence, in entries.
const GRACE: u64 = 25;

impl SimDisk {
    /// The chunk is not committed any more, or not this disk's to have.
    pub(super) fn release(&mut self, chunk: &ChunkId) {
        let fence = self.fenced_before_ms;
        match self.pieces.get_mut(chunk) {
            Some(piece) if piece.held_until_ms >= fence => piece.committed = false,
            _ => drop(self.pieces.remove(chunk)),
        }
    }
}

impl Sim {
    /// A commit goes out; true if it is taken. All of its chunks can be read then, unless a mishap is known
    /// that took their pieces.
    pub(super) fn send(&mut self, commit: Command) -> bool {
        let Command::CommitFile { chunks, .. } = &commit else { panic!("no commit") };
        let ids: Vec<ChunkId> = chunks.iter().map(|c| c.id).collect();
        let number = (self.replays.accepted + self.replays.refused + self.m.index).to_be_bytes();
        let random = std::array::from_fn(|at| number.get(at).copied().unwrap_or(0));
        let request = RequestId::new(self.m.index + self.m.ahead_ms, random);
        let envelope = Envelope { request: Some(request), by: None, command: commit };
        let answer = self.m.apply(vec![envelope.clone()]).remove(0);
        let taken = matches!(answer, Ok(Response::Committed(_)));
        self.replays.sent.push((envelope, answer));
        if taken {
            for chunk in ids.iter().filter(|chunk| !self.damaged.contains(chunk)) {
                let there = self.existing(chunk);
                let enough = there >= self.scheme.needed();
                assert!(enough, "seed {}: {chunk} is committed with {there} pieces", self.seed);
            }
            self.committed.extend(ids);
        }
        taken
    }

    /// A request that has its answer comes again, and most answers are forgotten. It is told the same or
    /// refused, and changes nothing.
    pub(super) fn retry(&mut self) {
        if self.replays.sent.is_empty() {
            return;
        }
        self.m.state.write().answers.set_bounds(600, 0);
        let at = self.dice.roll(self.replays.sent.len() as u64) as usize;
        let (envelope, told) = self.replays.sent[at].clone();
        if told.as_ref().is_err_and(|error| error.code.is_transient()) {
            return;
        }
        let books =
            |m: &Machine| (m.state.counters().1.files, m.state.counters().1.pools, m.state.topology());
        let before = books(&self.m);
        let answer = self.m.apply(vec![envelope]).remove(0);
        if answer != told {
            assert_eq!(code(answer), Err(ErrorCode::RequestExpired));
            self.replays.expired += 1;
        }
        assert!(books(&self.m) == before, "a request that was answered before took effect");
    }

    /// The same receipts again, by a new request; or the claim that all of it is there.
    pub(super) fn replay(&mut self) {
        let count = self.replays.seen.len() as u64;
        if count == 0 {
            return;
        }
        if self.dice.one_in(3) {
            return self.retry();
        }
        let (_, mut commit) = self.replays.seen[self.dice.roll(count) as usize].clone();
        if self.dice.one_in(3)
            && let Command::CommitFile { chunks, .. } = &mut commit
        {
            chunks.iter_mut().for_each(|c| (c.promises, c.digests) = (vec![], vec![]));
        }
        let taken = self.send(commit);
        self.replays.accepted += u64::from(taken);
        self.replays.refused += u64::from(!taken);
    }

    /// A name goes for good.
    pub(super) fn purge(&mut self) {
        let n = self.dice.roll(self.next.max(1));
        let (bucket, name) = ("s".parse().unwrap(), format!("n{n}").parse().unwrap());
        let (condition, purge) = (Condition::None, true);
        let _ = self.m.run(Command::Name(NameCommand::Remove { bucket, name, condition, purge }));
    }

    /// Chunks that nothing refers to are deleted.
    pub(super) fn delete_condemned(&mut self) {
        let condemned = self.m.state.condemned(self.m.index, 100).unwrap();
        self.m.run(Command::DeleteChunks(condemned)).unwrap();
        let before = self.committed.len();
        let state = &self.m.state;
        self.committed.retain(|chunk| state.chunk_record(SIM, chunk).unwrap().is_some());
        self.replays.deletions += (before - self.committed.len()) as u64;
    }

    pub(super) fn fence(&mut self) {
        let before_ms = self.m.index.saturating_sub(GRACE);
        self.m.run(Command::FenceUploads { before_ms }).unwrap();
    }

    /// Asks about pieces, and lets go of what nothing holds.
    pub(super) fn sweep(&mut self, disk: DiskId, asked: impl Fn(&SimPiece) -> bool) {
        let there = self.disks.get_mut(&disk).unwrap();
        let of_these = there.pieces.iter().filter(|(_, piece)| asked(piece));
        let chunks: Vec<PoolChunk> = of_these.map(|(&chunk, _)| PoolChunk { pool: SIM, chunk }).collect();
        let known = self.m.state.pieces_known(disk, &chunks).unwrap();
        there.fenced_before_ms = there.fenced_before_ms.max(known.fenced_before_ms);
        for asked in chunks {
            if known.committed.contains(&asked) {
                there.pieces.entry(asked.chunk).and_modify(|p| p.committed = true);
            } else if !known.deletion_held {
                there.release(&asked.chunk);
            }
        }
    }

    /// The place in the feed is of another life of the metadata: all pieces are asked about.
    pub(super) fn walk(&mut self, disk: DiskId, epoch: u64) {
        let index = self.m.index;
        self.sweep(disk, |_| true);
        let there = self.disks.get_mut(&disk).unwrap();
        (there.feed, there.feed_epoch) = (index, epoch);
    }

    /// The metadata are saved; or go back to what was saved, and an operator lets data be deleted again.
    pub(super) fn snapshot_or_restore(&mut self) {
        if self.dice.one_in(3) || self.replays.saved.is_none() {
            self.replays.saved = Some((self.m.pairs().into_iter().collect(), self.committed.clone()));
            return;
        }
        let (pairs, committed) = self.replays.saved.clone().unwrap();
        self.m.state.load(pairs.into_iter().map(Ok)).unwrap();
        self.m.state.begin_again(Membership::new(vec![], BTreeMap::new())).unwrap();
        self.replays.epoch += 2;
        self.replays.restores += 1;
        // What was deleted since is gone, and what was put is not known.
        self.harm += 1;
        self.committed = committed;
        let gone = self.committed.iter().filter(|chunk| self.existing(chunk) < self.scheme.needed());
        self.damaged.extend(gone.copied().collect::<Vec<_>>());
        self.late.clear();
        self.replays.sent.clear();
        // A data node drops the map of another life.
        self.follower = Topology::empty();
        let (epoch, rows_from) = (self.replays.epoch, self.m.index << 16);
        self.m.run(Command::BeginEpoch { epoch, rows_from }).unwrap();
        let lives: Vec<(u8, u8)> = self.disks.iter().map(|(id, d)| (id.0 as u8, d.life)).collect();
        lives.into_iter().for_each(|(n, life)| drop(self.m.register(n, life).unwrap()));
        if self.dice.one_in(2) {
            self.allow_deletion();
        }
    }

    /// An operator has looked at what was restored.
    pub(super) fn allow_deletion(&mut self) {
        if self.m.state.counters().1.deletion_held {
            self.replays.epoch += 1;
            self.m.run(Command::AllowDeletion { epoch: self.replays.epoch }).unwrap();
        }
    }
}
