//! Random challenges: the leader has each disk prove, every few seconds, that it has some piece which it is
//! said to have: 64 KiB of it that nobody could foresee, with the way up to what the piece hashes to, signed
//! with a nonce.
//!
//! A piece that is not proven becomes a ticket. It counts against its disk only if that has vouched for it:
//! it has heard of the chunk's commit, by the feed, and did not say that it lacks the piece. A disk that
//! fails several of its last challenges is put into quarantine: what it says it holds does not count any
//! more, its receipts do not either, and what it should hold is made anew elsewhere. An answer that does not
//! come counts too as long as the node's heartbeats do: who withholds is of no more use than who lies. Busy
//! nodes are asked again later.
//!
//! One task, [`AT_ONCE`] challenges under way. Memory: the last outcomes of each disk; a new leader begins
//! without.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wmall_manifest::{leaves, verify_slice};
use wmall_proto::challenge::{Challenge, ChallengeAnswer};
use wmall_proto::rpc::{Request, Response};
use wmall_proto::topology::{ClusterId, DiskInfo, Topology};
use wmall_proto::{DiskId, ErrorCode, Incarnation, Role, RpcError};
use wmall_transport::{Endpoint, Target};

use super::{Liveness, Proposer};
use crate::command::Command;
use crate::state::{Expected, State};
use crate::types::Raft;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Challenges under way.
const AT_ONCE: usize = 16;
/// Outcomes that are remembered of a disk.
const REMEMBERED: usize = 16;
/// So many bad ones among them are too many.
const TOO_MANY: usize = 3;
/// So often in a row a disk may say that it can't just now.
const PATIENCE: usize = 10;

/// What came of a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Proven,
    /// What came back is not what it should be, or the disk says that it has nothing.
    Failed,
    /// Nothing came back in time.
    Withheld,
    /// It said that it can't just now.
    Evaded,
    /// It can't be told.
    Unclear,
}

/// The challenger.
pub(crate) struct Challenger {
    pub(crate) cluster: ClusterId,
    pub(crate) raft: Raft,
    pub(crate) state: Arc<State>,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) proposer: Proposer,
    pub(crate) endpoint: Endpoint,
    /// Between challenges of one disk.
    pub(crate) every: Duration,
}

/// A disk's last outcomes, and how often in a row it has evaded.
#[derive(Default)]
struct Record {
    last: VecDeque<Outcome>,
    evaded: usize,
}

/// Of all disks. Bounded by those of the map.
#[derive(Default)]
struct Memory(HashMap<(DiskId, Incarnation), Record>);

impl Memory {
    /// Notes an outcome; the reason, if it is one too many.
    fn note(&mut self, disk: (DiskId, Incarnation), outcome: Outcome) -> Option<String> {
        let record = self.0.entry(disk).or_default();
        let outcome = match outcome {
            Outcome::Unclear => return None,
            Outcome::Evaded if record.evaded < PATIENCE => {
                record.evaded += 1;
                return None;
            }
            // Who is busy for ever withholds.
            Outcome::Evaded => Outcome::Withheld,
            outcome => outcome,
        };
        let last = &mut record.last;
        record.evaded = 0;
        last.push_back(outcome);
        if last.len() > REMEMBERED {
            last.pop_front();
        }
        // Only a new failure is a reason: what was failed before has been judged.
        if outcome == Outcome::Proven {
            return None;
        }
        let bad = last.iter().filter(|o| **o != Outcome::Proven).count();
        (bad >= TOO_MANY).then(|| format!("it failed {bad} of its last {} challenges", last.len()))
    }
}

impl Challenger {
    /// Runs as long as it is not aborted.
    pub(crate) async fn run(self) {
        let (this, room) = (Arc::new(self), Arc::new(Semaphore::new(AT_ONCE)));
        let mut memory = Memory::default();
        loop {
            tokio::time::sleep(this.every).await;
            if !this.leads() {
                memory = Memory::default();
                continue;
            }
            let topology = this.state.topology();
            // One that comes out of quarantine begins anew.
            let is_known = |disk: &DiskId, life: &Incarnation| {
                let known = topology.disks.get(disk);
                known.is_some_and(|d| d.incarnation == *life && d.quarantined_ms.is_none())
            };
            memory.0.retain(|(disk, life), _| is_known(disk, life));
            let mut running = JoinSet::new();
            for disk in this.to_ask(&topology) {
                let (this, room, topology) = (this.clone(), room.clone(), topology.clone());
                running.spawn(async move {
                    let _place = room.acquire_owned().await;
                    let outcome = this.challenge(&topology, &disk).await;
                    (disk, outcome)
                });
            }
            let mut outcomes = Vec::new();
            while let Some(Ok(done)) = running.join_next().await {
                outcomes.push(done);
            }
            // If most of them say nothing, the way to them is cut, and not their word broken.
            let withheld = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Withheld).count();
            let cut_off = withheld > 1 && withheld * 2 > outcomes.len();
            for (disk, outcome) in outcomes {
                if cut_off && outcome == Outcome::Withheld {
                    continue;
                }
                let Some(why) = memory.note((disk.id, disk.incarnation), outcome) else { continue };
                tracing::error!(disk = %disk.id, node = %disk.node, why, "a disk goes into quarantine");
                let (id, incarnation) = (disk.id, disk.incarnation);
                let command = Command::Quarantine { disk: id, incarnation, why };
                if let Err(error) = this.proposer.propose(None, command).await {
                    tracing::warn!(%error, "the quarantine was not agreed on; it is tried again");
                }
            }
        }
    }

    fn leads(&self) -> bool {
        crate::raft::is_leader(&self.raft)
    }

    /// Disks that answer and are believed.
    fn to_ask(&self, topology: &Topology) -> Vec<DiskInfo> {
        let silent = self.liveness.silent(topology, Instant::now());
        topology.disks.values().filter(|d| !silent.contains(&d.id)).cloned().collect()
    }

    async fn challenge(&self, topology: &Topology, disk: &DiskInfo) -> Outcome {
        let (state, id, random) = (self.state.clone(), disk.id, wmall_runtime::random::bytes());
        let expected = match tokio::task::spawn_blocking(move || state.sample(id, random)).await {
            Ok(Ok(Some(expected))) => expected,
            Ok(Err(error)) => {
                tracing::warn!(%error, "no piece could be chosen for a challenge");
                return Outcome::Unclear;
            }
            _ => return Outcome::Unclear,
        };
        let Some(node) = topology.nodes.get(&disk.node) else { return Outcome::Unclear };
        let challenge = Challenge {
            disk: disk.id,
            pool: expected.pool,
            chunk: expected.chunk,
            slot: expected.slot,
            leaf: u32::from_le_bytes(wmall_runtime::random::bytes()) % leaves(expected.piece_length),
            nonce: wmall_runtime::random::bytes(),
        };
        let target = Target { role: Role::Data, node: node.name.clone(), address: node.address };
        let mut outcome = self.ask(&target, disk, &challenge, &expected).await;
        if outcome == Outcome::Withheld {
            // A node that stops or starts says nothing either, and its silence is seen a little later.
            tokio::time::sleep(DEADLINE).await;
            let silent = self.liveness.silent(&self.state.topology(), Instant::now());
            outcome = match silent.contains(&disk.id) {
                true => Outcome::Unclear,
                false => self.ask(&target, disk, &challenge, &expected).await,
            };
        }
        if matches!(outcome, Outcome::Proven | Outcome::Unclear | Outcome::Evaded) {
            return outcome;
        }
        // What was true when it was asked may not be any more: it was deleted, or has moved, or the node has died.
        let silent = self.liveness.silent(&self.state.topology(), Instant::now());
        if silent.contains(&disk.id) || !self.state.still_expects(disk.id, &expected).unwrap_or(false) {
            return Outcome::Unclear;
        }
        tracing::warn!(?outcome, disk = %disk.id, node = %disk.node, chunk = %expected.chunk, "a challenge failed");
        let vouched = self.has_vouched(disk, &expected);
        if outcome == Outcome::Failed {
            let bad = Command::ReportBad { disk: disk.id, chunks: vec![(expected.pool, expected.chunk)] };
            if let Err(error) = self.proposer.propose(None, bad).await {
                tracing::warn!(%error, "a piece that was not proven was not noted");
            }
        }
        if vouched { outcome } else { Outcome::Unclear }
    }

    fn has_vouched(&self, disk: &DiskInfo, expected: &Expected) -> bool {
        let epoch = self.state.counters().1.feed_epoch;
        self.liveness.has_followed(&disk.node, (epoch, expected.committed_at), Instant::now())
    }

    async fn ask(
        &self,
        target: &Target,
        disk: &DiskInfo,
        challenge: &Challenge,
        expected: &Expected,
    ) -> Outcome {
        let request = Request::Challenge(challenge.clone());
        match self.endpoint.call(target, &request, DEADLINE).await {
            Ok(Response::Challenged(answer)) => self.judge(disk, challenge, expected, &answer),
            Ok(_) => Outcome::Failed,
            Err(error) => of_error(&error),
        }
    }

    fn judge(
        &self,
        disk: &DiskInfo,
        challenge: &Challenge,
        expected: &Expected,
        answer: &ChallengeAnswer,
    ) -> Outcome {
        let said = &answer.attested.attestation;
        let names_it = (said.disk, said.incarnation) == (disk.id, disk.incarnation)
            && said.nonce == challenge.nonce
            && (said.pool, said.chunk, said.slot) == (challenge.pool, challenge.chunk, challenge.slot)
            && answer.piece_length == expected.piece_length;
        let signed = || answer.attested.verify(&self.cluster, &disk.public_key).is_ok();
        let proven = || verify_slice(&expected.digest, expected.piece_length, challenge.leaf, &answer.proof);
        if names_it && signed() && proven() { Outcome::Proven } else { Outcome::Failed }
    }
}

fn of_error(error: &RpcError) -> Outcome {
    match error.code {
        ErrorCode::NotFound | ErrorCode::Corrupt | ErrorCode::HashMismatch | ErrorCode::DiskFailed => {
            Outcome::Failed
        }
        ErrorCode::Timeout | ErrorCode::Unreachable => Outcome::Withheld,
        _ => Outcome::Evaded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_of_the_last_sixteen_are_too_many() {
        let (mut memory, disk) = (Memory::default(), (DiskId(1), Incarnation([1; 16])));
        let mut note = |outcome| memory.note(disk, outcome);
        assert_eq!(note(Outcome::Failed), None);
        assert_eq!(note(Outcome::Withheld), None);
        (0..20).for_each(|_| assert_eq!(note(Outcome::Unclear), None));
        (0..13).for_each(|_| assert_eq!(note(Outcome::Proven), None));
        assert!(note(Outcome::Failed).unwrap().contains("3 of its last 16"));
        // The first ones are forgotten by then.
        (0..16).for_each(|_| drop(note(Outcome::Proven)));
        assert_eq!(note(Outcome::Failed), None);
        assert_eq!(
            memory.note((DiskId(2), Incarnation([1; 16])), Outcome::Failed),
            None,
            "each disk by itself"
        );
    }

    #[test]
    fn who_evades_for_ever_withholds_and_a_proof_is_no_reason() {
        let (mut memory, disk) = (Memory::default(), (DiskId(1), Incarnation([1; 16])));
        let mut note = |outcome| memory.note(disk, outcome);
        for _ in 0..2 {
            (0..PATIENCE).for_each(|_| assert_eq!(note(Outcome::Evaded), None));
            assert_eq!(note(Outcome::Evaded), None);
        }
        assert_eq!(note(Outcome::Proven), None);
        assert!(note(Outcome::Failed).is_some());
        assert_eq!(note(Outcome::Proven), None, "it was judged for the three");
    }

    #[test]
    fn busy_is_no_failure() {
        let of = |code| of_error(&RpcError::new(code, "x"));
        assert_eq!(of(ErrorCode::Busy), Outcome::Evaded);
        assert_eq!(of(ErrorCode::ShuttingDown), Outcome::Evaded);
        assert_eq!(of(ErrorCode::NotFound), Outcome::Failed);
        assert_eq!(of(ErrorCode::Timeout), Outcome::Withheld);
    }
}
