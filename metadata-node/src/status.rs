//! The cluster's status: one function that the CLI, the metrics and (later) the dashboard all print from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wmall_proto::NodeName;
use wmall_proto::capacity::{CapacityLevel, CapacityReport, Forecast};
use wmall_proto::grade::{Grade, GradeCounts};
use wmall_proto::job::JobState;
use wmall_proto::status::{
    ClusterStatus, DiskStatus, MemberStatus, NodeState, NodeStatus, RepairStatus, WriteStatus,
};
use wmall_proto::topology::{ClusterId, NodeInfo, Topology};

use wmall_runtime::view::StoreError;

use crate::backup::BackupWatch;
use crate::leader::{Clocks, ClusterClock, Failures, Liveness, Repairer, Space, Volumes, refusing_pools};
use crate::raft::Peers;
use crate::state::{Counters, NO_EPOCH, State};
use crate::types::Raft;

/// What the status is computed from.
#[derive(Clone)]
pub(crate) struct StatusSource {
    pub(crate) cluster: ClusterId,
    pub(crate) raft: Raft,
    pub(crate) state: Arc<State>,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) repairer: Repairer,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) name: NodeName,
    pub(crate) peers: Arc<Peers>,
    pub(crate) backups: Arc<BackupWatch>,
    pub(crate) failures: Arc<Failures>,
}

impl StatusSource {
    pub(crate) fn compute(&self, now: Instant) -> Result<ClusterStatus, StoreError> {
        let topology = self.state.topology();
        let silent = self.liveness.silent(&topology, now);
        let chunks = self.state.grades(&silent)?;
        let (index, counters) = self.state.counters();
        let nodes: Vec<NodeStatus> =
            topology.nodes.values().map(|node| self.node(&topology, &counters, node, now)).collect();
        let chunk_bytes = counters.pools.values().map(|p| p.bytes).sum();
        let redundant_bytes = redundant_bytes(&topology, &counters);
        let space = Space::now(&topology, &counters, &self.liveness, now);
        let Clocks { now_ms, behind_ms: clock_behind_ms, ahead_ms: clock_ahead_ms, all: clocks } =
            self.clock.clocks();
        let capacity = space.report();
        let forecast = space.forecast(&self.state.samples(), &capacity, now_ms);
        let jobs = self.state.jobs();
        let in_state = |state: JobState| jobs.iter().filter(|j| j.state == state).count() as u64;
        Ok(ClusterStatus {
            cluster: self.cluster.to_string(),
            summary: summary(&chunks, &nodes, &capacity) + &outlook(&capacity, forecast.as_ref(), now_ms),
            chunks,
            files: counters.files,
            objects: counters.objects,
            chunk_bytes,
            redundant_bytes,
            tickets: counters.tickets.values().sum(),
            repair: self.repair(&topology),
            capacity,
            forecast,
            jobs: in_state(JobState::Running),
            jobs_paused: in_state(JobState::Paused),
            mutes: self.state.mutes(now_ms),
            trash: counters.trash,
            condemned_chunks: counters.condemned.chunks,
            condemned_bytes: counters.condemned.bytes,
            deletion_held: counters.deletion_held,
            pools: topology.pools.values().map(|t| t.pool.clone()).collect(),
            members: self.members(now),
            writes: self.writes(&topology, &counters, &nodes, now),
            nodes,
            now_ms,
            clock_behind_ms,
            clock_ahead_ms,
            clocks,
            clones: self.liveness.clones(&topology, now),
            volumes: self.volumes.all(),
            metadata_full: self.volumes.full(),
            index,
        })
    }

    fn repair(&self, topology: &Topology) -> RepairStatus {
        let rows = topology.pools.values().flat_map(|t| &t.rows);
        let plan = self.repairer.last_plan();
        let halted = plan.halted.map(|halt| {
            format!(
                "{} of {} disks in use vanished together; nothing is copied elsewhere unless [repair] override_halt is set",
                halt.disks.len(),
                halt.of
            )
        });
        RepairStatus {
            moving: rows.map(|r| r.sources.iter().flatten().count() as u64).sum(),
            waiting: plan.waiting.values().sum(),
            stuck: plan.stuck.values().sum(),
            halted,
        }
    }

    /// Judges if new chunks are taken. A disk that this leader has yet to hear gets the benefit of the doubt.
    fn writes(
        &self,
        topology: &Topology,
        counters: &Counters,
        nodes: &[NodeStatus],
        now: Instant,
    ) -> WriteStatus {
        let now_ms = self.clock.now_ms();
        let takes = |node: &NodeStatus, disk: &DiskStatus| {
            let well = disk.writable && disk.fenced_before_ms <= now_ms && !disk.quarantined;
            node.state == NodeState::Up && (well || node.silent_ms.is_none())
        };
        let taking =
            nodes.iter().flat_map(|n| n.disks.iter().filter(move |d| takes(n, d))).map(|d| d.id).collect();
        let restored = counters.feed_epoch == NO_EPOCH;
        WriteStatus {
            refusing: refusing_pools(topology, &taking),
            fenced_before_ms: counters.fenced_before_ms,
            waiting_ms: self.liveness.led_for(now).filter(|_| restored).map(|led| led.as_millis() as u64),
        }
    }

    fn members(&self, now: Instant) -> Vec<MemberStatus> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let matched = |id: u64| match &metrics.replication {
            _ if id == metrics.id => metrics.last_log_index,
            Some(replication) => replication.get(&id).copied().flatten().map(|l| l.index),
            None => None,
        };
        // A member that does not lead hears nobody, and says so of nobody.
        let led = self.liveness.led_for(now).unwrap_or_default();
        self.peers.answers().retain(|name| metrics.membership_config.nodes().any(|(_, m)| m.name == name));
        let member = |(id, node): (&u64, &crate::types::Member)| {
            let (silent, backup) = match node.name == self.name.as_str() {
                true => (Duration::ZERO, self.backups.status(self.clock.now_ms())),
                false => self.peers.answers().of(&node.name, led, now),
            };
            let matched = matched(*id);
            MemberStatus {
                id: *id,
                name: node.name.clone(),
                address: node.address.to_string(),
                leader: metrics.current_leader == Some(*id),
                matched,
                behind: metrics.last_log_index.zip(matched).map(|(last, held)| last.saturating_sub(held)),
                silent_ms: silent.as_millis() as u64,
                backup,
            }
        };
        metrics.membership_config.nodes().map(member).collect()
    }

    fn node(&self, topology: &Topology, counters: &Counters, node: &NodeInfo, now: Instant) -> NodeStatus {
        let (state, silent, heard) = self.liveness.of(&node.name, now);
        let disks = topology.disks.values().filter(|d| d.node == node.name).map(|disk| {
            let beat = heard.get(&disk.id);
            DiskStatus {
                id: disk.id,
                name: disk.name.clone(),
                incarnation: disk.incarnation,
                weight: disk.weight,
                max_bytes: disk.max_bytes,
                capacity_bytes: beat.map_or(disk.max_bytes, |b| b.capacity_bytes.min(disk.max_bytes)),
                waiting_weight: disk.weight_waits.then_some(disk.configured_weight),
                used_bytes: beat.map_or(0, |b| b.used_bytes),
                segment_bytes: beat.map_or(0, |b| b.segment_bytes),
                pieces: beat.map_or(0, |b| b.pieces),
                tickets: counters.tickets.get(&disk.id).copied().unwrap_or(0),
                dirty_groups: dirty_groups(topology, disk.id),
                slots: slots_of(topology, disk.id),
                draining: disk.draining,
                quarantined: disk.quarantined_ms.is_some(),
                writable: beat.is_some_and(|b| b.writable),
                failed: silent.is_some() && beat.is_none_or(|b| b.failed),
                sync_ms: beat.map_or(0, |b| b.sync_ms),
                fenced_before_ms: beat.map_or(0, |b| b.fenced_before_ms),
            }
        });
        NodeStatus {
            name: node.name.clone(),
            zone: node.zone.clone(),
            waiting_zone: node.waiting_zone.clone(),
            address: node.address,
            state,
            maintenance_until_ms: node.maintenance_until_ms.filter(|until| *until > self.clock.now_ms()),
            silent_ms: silent.map(|d| d.as_millis() as u64),
            failed_calls: self.failures.of(node),
            disks: disks.collect(),
        }
    }
}

fn slots_of(topology: &Topology, disk: wmall_proto::DiskId) -> u64 {
    let rows = topology.pools.values().flat_map(|t| &t.rows);
    rows.filter(|row| row.slot_of(disk).is_some()).count() as u64
}

fn dirty_groups(topology: &Topology, disk: wmall_proto::DiskId) -> u64 {
    let rows = topology.pools.values().flat_map(|t| &t.rows);
    let dirty =
        |row: &&wmall_proto::PgRow| row.slot_of(disk).is_some_and(|s| row.dirty_at[usize::from(s)].is_some());
    rows.filter(dirty).count() as u64
}

fn redundant_bytes(topology: &Topology, counters: &Counters) -> u64 {
    let of_pool = |(id, pool): (&wmall_proto::PoolId, &crate::state::PoolCounters)| {
        topology.pools.get(id).map_or(0, |t| t.pool.scheme.stored_bytes(pool.bytes))
    };
    counters.pools.iter().map(of_pool).sum()
}

/// What the completeness ratio adds to the sentence, if anything.
fn fullness(capacity: &CapacityReport) -> String {
    let ratio = match capacity.ratio_ppm {
        CapacityReport::NO_ROOM_PPM => "there is no room at all".to_string(),
        ppm => format!("the completeness ratio is {:.2}", ppm as f64 / 1e6),
    };
    match capacity.level {
        CapacityLevel::Safe => String::new(),
        CapacityLevel::Warning => format!(" Filling up: {ratio}, the alarm is at 0.70."),
        CapacityLevel::Danger => format!(" Nearly full: {ratio}, writes stop at 0.90."),
        CapacityLevel::WritesStopped => format!(" Full: {ratio}; only validators may write, until 0.95."),
        CapacityLevel::LedgerStopped => format!(" Full: {ratio}; nobody may write."),
    }
}

/// Days until the alarm, and whether the largest node may go now.
fn outlook(capacity: &CapacityReport, forecast: Option<&Forecast>, now_ms: u64) -> String {
    const DAY_MS: u64 = 86_400_000;
    let days = match forecast {
        Some(forecast) if capacity.level == CapacityLevel::Safe => match forecast.alarm_in_ms(now_ms) {
            Some(ms) => {
                format!(" The completeness ratio reaches 0.70 in {} days at the earliest.", ms / DAY_MS)
            }
            None => " The completeness ratio does not grow.".into(),
        },
        _ => String::new(),
    };
    let largest = match &capacity.without_largest_node {
        Some(loss) if capacity.needed_bytes == 0 || loss.ratio_ppm < CapacityLevel::WRITES_STOP_PPM => {
            format!(" The largest node, {}, may go now.", loss.name)
        }
        Some(loss) if loss.ratio_ppm >= CapacityReport::NO_ROOM_PPM => {
            format!(" Without {} there would be too few nodes for the schemes of the pools.", loss.name)
        }
        Some(loss) => {
            format!(" Without {} the ratio would be {:.2}.", loss.name, loss.ratio_ppm as f64 / 1e6)
        }
        None => String::new(),
    };
    days + &largest
}

/// One sentence: safe or not, and why.
fn summary(chunks: &GradeCounts, nodes: &[NodeStatus], capacity: &CapacityReport) -> String {
    let silent: Vec<&str> =
        nodes.iter().filter(|n| n.state != NodeState::Up).map(|n| n.name.as_str()).collect();
    let mut because = match silent.len() {
        0 => String::new(),
        _ => format!(" {} of {} data nodes do not answer: {}.", silent.len(), nodes.len(), silent.join(", ")),
    };
    let disks = || {
        let up = nodes.iter().filter(|n| n.state == NodeState::Up && n.silent_ms.is_some());
        up.flat_map(|n| n.disks.iter().map(move |d| (n, d)))
    };
    let named = |which: &dyn Fn(&DiskStatus) -> bool| {
        let names = disks().filter(|(_, d)| which(d)).map(|(n, d)| format!("{}/{}", n.name, d.name));
        names.collect::<Vec<_>>().join(", ")
    };
    let failed = named(&|d| d.failed);
    if !failed.is_empty() {
        because += &format!(" Failed disks: {failed}.");
    }
    let full = named(&|d| !d.failed && !d.writable);
    if !full.is_empty() {
        because += &format!(" Full disks: {full}.");
    }
    let worst = chunks.worst();
    let verdict = match worst {
        Grade::Stable => "Safe: every chunk has all its pieces.".to_string(),
        Grade::Warning => {
            format!("Safe for now: {} chunks miss a piece; the next loss loses no data.", chunks.warning)
        }
        Grade::Danger => format!("In danger: the next loss may lose {} chunks.", chunks.danger),
        Grade::Unavailable => {
            format!("Not readable now: {} chunks; their disks may come back.", chunks.unavailable)
        }
        Grade::Lost => format!("Lost: {} chunks have too few pieces left.", chunks.lost),
    };
    verdict + &because + &fullness(capacity)
}
