//! What the leader does about disks that are lost, to be emptied, or unevenly filled: once a second, and more
//! often while slots wait for others, it takes a snapshot of what is known, has a plan made
//! ([`wmall_placement::plan_repairs`]) and proposes it. Applying passes over whatever has changed since, so a
//! plan that comes late does no harm.
//!
//! One task; memory: the last plan, and since when a disk has been missing or failed on a node that answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wmall_placement::{Budget, Candidate, DiskFact, DiskState, Policy, RepairPlan, Snapshot, plan_repairs};
use wmall_proto::capacity::{CapacityLevel, CapacityReport, UsageSample};
use wmall_proto::status::NodeState;
use wmall_proto::topology::{DiskInfo, Topology};
use wmall_proto::{DiskId, RpcError};

use super::{ClusterClock, Liveness, Proposer, Space};
use crate::command::{Command, Operate, SlotMove};
use crate::state::{State, Untold, clean_groups, slots_and_sources};
use crate::types::Raft;

/// Between rounds.
const ROUND: Duration = Duration::from_secs(1);
/// The least, while slots wait and others move or arrive; and so many times what a round takes, of which a
/// part stops commits.
const BUSY_ROUND: Duration = Duration::from_millis(250);
const BUSY_FACTOR: u32 = 10;
/// How far drains and balance fill a disk, in percent of its room: below where a full disk stops ordinary
/// writes.
const FILLED_PERCENT: u64 = 85;
/// How far what is lost elsewhere fills it: where nobody may write any more, repairs still go on.
const LAST_PERCENT: u64 = 97;

/// The repairer. Clones share what they know.
#[derive(Clone)]
pub(crate) struct Repairer {
    raft: Raft,
    state: Arc<State>,
    liveness: Arc<Liveness>,
    policy: Policy,
    budget: Budget,
    /// Between samples for the forecast.
    sample_ms: u64,
    clock: Arc<ClusterClock>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    plan: RepairPlan,
    /// Version of the map that it was made of.
    map: u64,
    level: Option<CapacityLevel>,
    /// Bounded by the disks that registered.
    absent_since: HashMap<DiskId, Instant>,
}

impl Repairer {
    pub(crate) fn new(
        raft: Raft,
        state: Arc<State>,
        liveness: Arc<Liveness>,
        policy: Policy,
        budget: Budget,
        sample_ms: u64,
        clock: Arc<ClusterClock>,
    ) -> Self {
        Self { raft, state, liveness, policy, budget, sample_ms, clock, known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last plan, for the status. Empty on a member that does not lead.
    pub(crate) fn last_plan(&self) -> RepairPlan {
        if self.leads() { self.known().plan.clone() } else { RepairPlan::default() }
    }

    /// How full the cluster was in the last round.
    pub(crate) fn level(&self) -> CapacityLevel {
        self.known().level.unwrap_or(CapacityLevel::Safe)
    }

    fn leads(&self) -> bool {
        crate::raft::is_leader(&self.raft)
    }

    /// Runs as long as it is not aborted.
    pub(crate) async fn run(self, proposer: Proposer) {
        loop {
            let begun = Instant::now();
            let mut goes_on = false;
            if !self.leads() {
                // What was seen in an earlier term says nothing about the next one.
                *self.known() = Known::default();
            } else {
                match self.round(&proposer).await {
                    Ok(so) => goes_on = so,
                    Err(error) => tracing::info!(%error, "repairs were not planned; it tries again"),
                }
            }
            let soon = (begun.elapsed() * BUSY_FACTOR).clamp(BUSY_ROUND, ROUND);
            tokio::time::sleep(if goes_on { soon } else { ROUND }).await;
        }
    }

    /// Whether it goes on: slots move, or some wait, and since the last round others have moved or arrived.
    async fn round(&self, proposer: &Proposer) -> Result<bool, RpcError> {
        let this = self.clone();
        let planning = move || {
            let topology = this.state.topology();
            let snapshot = this.snapshot(&topology, Instant::now());
            let plan = plan_repairs(&snapshot, &this.policy, &this.budget);
            let counters = this.state.counters().1;
            let report = Space::now(&topology, &counters, &this.liveness, Instant::now()).report();
            this.note_level(&report);
            let halted = plan.halted.as_ref().map(|h| (h.disks.len() as u64, h.of as u64));
            let moving = halted.is_some() || !plan.is_at_rest() || snapshot.is_anything_arriving();
            let rested = !moving && counters.moves != Untold::default();
            let news = rested || counters.level != report.level || counters.halted != halted.is_some();
            let (level, ratio_ppm) = (report.level, report.ratio_ppm);
            let conditions = news.then_some(Command::NoteConditions { level, ratio_ppm, halted, moving });
            (topology, snapshot, plan, conditions)
        };
        let planned = tokio::task::spawn_blocking(planning).await;
        let (topology, snapshot, plan, conditions) = planned.map_err(RpcError::internal)?;
        let before = {
            let mut known = self.known();
            known.plan = plan.clone();
            std::mem::replace(&mut known.map, topology.version)
        };
        let (down, back) = changes(&topology, &snapshot, |disk| self.heard_well(&topology, disk));
        if !(down.is_empty() && back.is_empty()) {
            tracing::info!(?down, ?back, "disks changed");
            proposer.propose(None, Command::NoteDisks { down, back }).await?;
        }
        for disk in self.failed(&topology) {
            proposer.propose(None, Command::Distrust(disk)).await?;
        }
        self.end_jobs(&topology, proposer).await?;
        self.note_usage(proposer).await?;
        if let Some(conditions) = conditions {
            proposer.propose(None, conditions).await?;
        }
        // After a restore nobody knows yet what is where.
        let settled = self.liveness.is_settled(&topology, Instant::now());
        if plan.moves.is_empty() || !settled || self.state.counters().1.deletion_held {
            return Ok(!plan.waiting.is_empty() && before != topology.version);
        }
        let moves: Vec<SlotMove> = plan.moves.iter().map(SlotMove::from).collect();
        tracing::info!(slots = moves.len(), reason = plan.moves[0].reason.as_str(), "slots move");
        proposer.propose(None, Command::MoveSlots(moves)).await.map(|_| true)
    }

    /// Disks whose nodes said last that they failed, and that are vouched for yet. What a disk failed to
    /// write may look written to whoever asks it after a restart, so that is noted down while it can be told.
    fn failed(&self, topology: &Topology) -> Vec<DiskId> {
        let failed = |disk: &&DiskInfo| {
            let (_, _, beats) = self.liveness.of(&disk.node, Instant::now());
            let failed = beats.get(&disk.id).is_some_and(|b| b.failed && b.incarnation == disk.incarnation);
            failed && (!clean_groups(topology, disk.id).is_empty() || speaks_as_source(topology, disk.id))
        };
        topology.disks.values().filter(failed).map(|d| d.id).collect()
    }

    /// Jobs whose disks are empty.
    async fn end_jobs(&self, topology: &Topology, proposer: &Proposer) -> Result<(), RpcError> {
        let is_empty = |disk: &DiskId| slots_and_sources(topology, *disk) == (0, 0);
        let active = self.state.jobs().into_iter().filter(|j| !j.state.has_ended());
        let done: Vec<u64> = active.filter(|j| j.disks.iter().all(is_empty)).map(|j| j.number).collect();
        if !done.is_empty() {
            proposer.propose(None, Command::Operate(Operate::EndJobs(done))).await?;
        }
        Ok(())
    }

    /// A sample for the forecast, when it is time for one.
    async fn note_usage(&self, proposer: &Proposer) -> Result<(), RpcError> {
        let (now, last) = (self.clock.now_ms(), self.state.samples().last().map_or(0, |s| s.at_ms));
        if now < last.saturating_add(self.sample_ms) {
            return Ok(());
        }
        let (topology, counters) = (self.state.topology(), self.state.counters().1);
        let of_pool = |(id, pool): (&wmall_proto::PoolId, &crate::state::PoolCounters)| {
            topology.pools.get(id).map_or(0, |t| t.pool.scheme.stored_bytes(pool.bytes))
        };
        let needed_bytes = counters.pools.iter().map(of_pool).sum();
        let sample = UsageSample { at_ms: now, needed_bytes };
        proposer.propose(None, Command::NoteUsage(sample)).await.map(drop)
    }

    fn note_level(&self, report: &CapacityReport) {
        let before = self.known().level.replace(report.level);
        if before != Some(report.level) {
            let (level, ratio_ppm) = (report.level.as_str(), report.ratio_ppm);
            tracing::warn!(level, ratio_ppm, "the completeness ratio is at another level");
        }
    }

    /// Whether the disk's node answers this leader and says that the disk is well.
    pub(crate) fn heard_well(&self, topology: &Topology, disk: DiskId) -> bool {
        let Some(info) = topology.disks.get(&disk) else { return false };
        let (state, heard, beats) = self.liveness.of(&info.node, Instant::now());
        state == NodeState::Up && heard.is_some() && beats.get(&disk).is_some_and(|b| !b.failed)
    }

    /// What is known now.
    pub(crate) fn snapshot(&self, topology: &Topology, now: Instant) -> Snapshot {
        let silent = self.liveness.silent(topology, now);
        let disks =
            topology.disks.values().filter_map(|disk| Some((disk.id, self.fact(topology, disk, now)?)));
        let disks: BTreeMap<DiskId, DiskFact> = disks.collect();
        let groups = self.state.group_facts(&silent);
        Snapshot { disks, groups, zones: topology.zone_count(), now_ms: self.clock.now_ms() }
    }

    fn fact(&self, topology: &Topology, disk: &DiskInfo, now: Instant) -> Option<DiskFact> {
        let info = topology.nodes.get(&disk.node)?;
        let (node, heard, beats) = self.liveness.of(&disk.node, now);
        let beat = beats.get(&disk.id);
        let well = beat.is_some_and(|b| !b.failed);
        let state = match (node, heard) {
            (NodeState::Up, Some(_)) if well => self.present(disk.id, true, now),
            // This leader has not waited for it, but one before has.
            _ if disk.down_since_ms.is_some() => DiskState::Down,
            (NodeState::Up, Some(_)) => self.present(disk.id, false, now),
            (NodeState::Up, None) => DiskState::Up,
            (NodeState::Suspect, _) => DiskState::Suspect,
            (NodeState::Down, _) => DiskState::Down,
        };
        // Its silence is expected: it has more time, but for what the next loss would lose.
        let expected = info.maintenance_until_ms.is_some_and(|until| until > self.clock.now_ms());
        let state = match state {
            _ if disk.quarantined_ms.is_some() => DiskState::Down,
            DiskState::Down if expected => DiskState::Suspect,
            state => state,
        };
        let free = |percent: u64| {
            let Some(b) = beat.filter(|b| b.writable) else { return 0 };
            let can_have = b.capacity_bytes.min(disk.max_bytes);
            let room = can_have.saturating_sub(b.reserved_bytes) / 100 * percent;
            room.saturating_sub(b.used_bytes).saturating_sub(b.dead_bytes)
        };
        let (free_bytes, last_bytes) = (free(FILLED_PERCENT), free(LAST_PERCENT));
        let candidate = Candidate {
            disk: disk.id,
            node: disk.node.clone(),
            zone: info.zone.clone(),
            weight: disk.weight,
        };
        let &DiskInfo { draining, drain_paused, successor, quarantined_ms, down_since_ms, .. } = disk;
        let down_since_ms = quarantined_ms.or(down_since_ms);
        Some(DiskFact {
            candidate,
            state,
            draining,
            drain_paused,
            successor,
            free_bytes,
            last_bytes,
            down_since_ms,
        })
    }

    /// A disk of a node that answers: one that failed or is absent has the same grace as a node that is
    /// silent.
    fn present(&self, disk: DiskId, well: bool, now: Instant) -> DiskState {
        let mut known = self.known();
        if well {
            known.absent_since.remove(&disk);
            return DiskState::Up;
        }
        let since = *known.absent_since.entry(disk).or_insert(now);
        if self.liveness.is_down_after(now.saturating_duration_since(since)) {
            DiskState::Down
        } else {
            DiskState::Suspect
        }
    }
}

/// Whether a disk is the source of a slot and vouched for.
fn speaks_as_source(topology: &Topology, disk: DiskId) -> bool {
    let rows = topology.pools.values().flat_map(|t| &t.rows);
    rows.flat_map(|row| row.sources.iter().flatten()).any(|source| source.disk == disk && source.vouched)
}

/// Disks that are down and not noted as such, and those that are noted and well again.
fn changes(
    topology: &Topology,
    snapshot: &Snapshot,
    well: impl Fn(DiskId) -> bool,
) -> (Vec<DiskId>, Vec<DiskId>) {
    let noted = |disk: &DiskId| topology.disks.get(disk).is_some_and(|d| d.down_since_ms.is_some());
    let all = || snapshot.disks.iter();
    // What is in quarantine is noted as that.
    let believed = |disk: &DiskId| topology.disks.get(disk).is_some_and(|d| d.quarantined_ms.is_none());
    let down = all().filter(|(disk, fact)| fact.state == DiskState::Down && !noted(disk) && believed(disk));
    let back = all().filter(|(disk, fact)| fact.state == DiskState::Up && noted(disk) && well(**disk));
    (down.map(|(disk, _)| *disk).collect(), back.map(|(disk, _)| *disk).collect())
}
