//! What operators decided about nodes and disks: jobs, maintenance, the layout, mutes, quarantine.
//!
//! A job is a record here and a mark on its disks, by which the planner goes; nothing else carries it out.

use wmall_proto::capacity::UsageSample;
use wmall_proto::event::EventKind;
use wmall_proto::job::{Job, JobChange, JobState, MAX_JOBS};
use wmall_proto::layout::{LayoutDraft, MAX_WEIGHT, is_weight};
use wmall_proto::rpc::Response;
use wmall_proto::status::Mute;
use wmall_proto::topology::{DiskInfo, NodeInfo, Topology};
use wmall_proto::{DiskId, ErrorCode, Incarnation, NodeName, RpcError};

use super::admission::of_node;
use super::apply::{Context, Outcome, Refusal};
use super::recent::Part;
use super::{State, keys};
use crate::command::Operate;

/// At most one disk in so many is in quarantine, and one anyway.
const QUARANTINED_PART: usize = 4;
/// Samples that are kept: one an hour for thirty days.
pub(crate) const MAX_SAMPLES: usize = 720;

impl State {
    /// What applying this would be answered with, by the very same judgement; nothing is changed.
    pub(crate) fn rehearse(&self, operate: Operate, now_ms: u64) -> Result<(), RpcError> {
        let mut copy = self.read().copy_for_operations();
        let index = copy.counters.topology_version.saturating_add(1);
        let mut context = Context::new(&*self.store, &mut copy, index);
        context.now_ms = now_ms;
        match context.operate(operate) {
            Ok(_) => Ok(()),
            Err(Refusal::Answer(error)) => Err(error),
            Err(Refusal::Store(error)) => Err(RpcError::internal(error)),
        }
    }
}

impl Context<'_> {
    pub(super) fn operate(&mut self, operate: Operate) -> Outcome {
        match operate {
            Operate::StartJob { based_on, .. } if based_on != self.derived.counters.jobs => {
                let reason = "another job began while this one was planned";
                Err(RpcError::new(ErrorCode::Busy, reason).hint("try again").into())
            }
            Operate::StartJob { kind, what, disks, successor, slots, bytes, .. } => {
                let job = Job {
                    number: self.derived.counters.jobs + 1,
                    kind,
                    what,
                    disks,
                    successor,
                    state: JobState::Running,
                    slots,
                    bytes,
                    created_ms: self.now_ms,
                    ended_ms: None,
                    ran_ms: 0,
                    running_since_ms: Some(self.now_ms),
                };
                self.start_job(job)
            }
            Operate::Undrain { disks, .. } => self.undrain(&disks),
            Operate::ChangeJob { number, change } => self.change_job(number, change),
            Operate::EndJobs(numbers) => {
                numbers.iter().for_each(|number| self.end_job(*number));
                Ok(Response::Done)
            }
            Operate::SetMaintenance { node, until_ms } => self.set_maintenance(&node, until_ms),
            Operate::StageWeight { disk, weight } => self.stage_weight(disk, weight),
            Operate::StageWaiting { node } => self.stage_waiting(&node),
            Operate::ApplyLayout { version } => self.apply_layout(version),
            Operate::RevertLayout => {
                self.put_draft(LayoutDraft::default());
                Ok(Response::Done)
            }
            Operate::Mute { code, until_ms } => self.mute(code, until_ms),
            Operate::Forget { disk, .. } => self.forget_disk(disk),
            Operate::Release { disk, .. } => self.release_disk(disk),
        }
    }

    fn known_disk(&self, disk: DiskId) -> Result<&DiskInfo, Refusal> {
        Ok(self.derived.topology.disks.get(&disk).ok_or_else(|| RpcError::not_found(disk))?)
    }

    /// A disk is in one job at most.
    fn start_job(&mut self, job: Job) -> Outcome {
        for disk in job.disks.iter().chain(&job.successor) {
            self.known_disk(*disk)?;
            if let Some(other) = self.active_job_of(*disk) {
                let reason = format!("job {} is about {} already", other.number, other.what);
                return Err(RpcError::new(ErrorCode::AlreadyExists, reason)
                    .hint(format!("`wmall job show {}`, or cancel it first", other.number))
                    .into());
            }
        }
        self.derived.counters.jobs = job.number;
        for disk in &job.disks {
            self.change_disk(*disk, |d| {
                (d.draining, d.drain_paused, d.successor) = (true, false, job.successor);
            });
        }
        let number = job.number;
        self.put_job(job);
        self.forget_old_jobs();
        Ok(Response::Job(number))
    }

    fn active_job_of(&self, disk: DiskId) -> Option<&Job> {
        let is_about = |job: &&Job| job.disks.contains(&disk) || job.successor == Some(disk);
        self.derived.jobs.values().filter(|j| !j.state.has_ended()).find(is_about)
    }

    fn put_job(&mut self, job: Job) {
        self.txn.put(keys::job(job.number), &job);
        self.derived.jobs.insert(job.number, job);
    }

    fn forget_old_jobs(&mut self) {
        let surplus = self.derived.jobs.len().saturating_sub(MAX_JOBS);
        let ended = self.derived.jobs.values().filter(|j| j.state.has_ended()).take(surplus);
        let gone: Vec<u64> = ended.map(|j| j.number).collect();
        for number in gone {
            self.txn.remove(keys::job(number));
            self.derived.jobs.remove(&number);
        }
    }

    fn undrain(&mut self, disks: &[DiskId]) -> Outcome {
        for disk in disks {
            self.known_disk(*disk)?;
        }
        let within = |job: &&Job| job.disks.iter().all(|d| disks.contains(d));
        let touches = |job: &&Job| job.disks.iter().any(|d| disks.contains(d));
        let active: Vec<&Job> =
            self.derived.jobs.values().filter(|j| !j.state.has_ended()).filter(touches).collect();
        if let Some(wider) = active.iter().find(|job| !within(job)) {
            let reason = format!("job {} empties all of {}", wider.number, wider.what);
            return Err(RpcError::new(ErrorCode::AlreadyExists, reason)
                .hint(format!("`wmall job cancel {}`", wider.number))
                .into());
        }
        let cancelled: Vec<Job> = active.into_iter().cloned().collect();
        for job in cancelled {
            self.finish_job(job, JobState::Cancelled);
        }
        for disk in disks {
            self.change_disk(*disk, take_again);
        }
        Ok(Response::Done)
    }

    fn finish_job(&mut self, mut job: Job, state: JobState) {
        stop_clock(&mut job, self.now_ms);
        (job.state, job.ended_ms) = (state, Some(self.now_ms));
        self.put_job(job);
    }

    fn change_job(&mut self, number: u64, change: JobChange) -> Outcome {
        let missing = || RpcError::not_found(format!("job {number}")).hint("`wmall job ls` lists them");
        let mut job = self.derived.jobs.get(&number).ok_or_else(missing)?.clone();
        if job.state.has_ended() {
            let reason = format!("job {number} has ended: it is {}", job.state.as_str());
            return Err(RpcError::new(ErrorCode::PreconditionFailed, reason).into());
        }
        match change {
            JobChange::Pause | JobChange::Resume => {
                let pause = change == JobChange::Pause;
                if pause == (job.state == JobState::Paused) {
                    return Ok(Response::Done);
                }
                if pause {
                    stop_clock(&mut job, self.now_ms);
                } else {
                    job.running_since_ms = Some(self.now_ms);
                }
                job.state = if pause { JobState::Paused } else { JobState::Running };
                for disk in &job.disks {
                    self.change_disk(*disk, |d| d.drain_paused = pause);
                }
                self.put_job(job);
            }
            JobChange::Cancel => {
                for disk in &job.disks {
                    self.change_disk(*disk, take_again);
                }
                self.finish_job(job, JobState::Cancelled);
            }
        }
        Ok(Response::Done)
    }

    /// The leader saw the disks empty; whether they are is looked at again here.
    fn end_job(&mut self, number: u64) {
        let Some(job) = self.derived.jobs.get(&number).filter(|j| !j.state.has_ended()).cloned() else {
            return;
        };
        if job.disks.iter().any(|disk| is_in_use(&self.derived.topology, *disk)) {
            return;
        }
        self.tell(EventKind::JobDone { job: number, what: job.what.clone() });
        for disk in &job.disks {
            self.change_disk(*disk, |d| (d.drain_paused, d.successor) = (false, None));
        }
        self.finish_job(job, JobState::Done);
    }

    fn set_maintenance(&mut self, node: &NodeName, until_ms: Option<u64>) -> Outcome {
        let known = self.derived.topology.nodes.get(node);
        let mut info = known.ok_or_else(|| RpcError::not_found(format!("data node named {node}")))?.clone();
        info.maintenance_until_ms = until_ms;
        self.txn.put(keys::node(node.as_str()), &info);
        self.change_topology(Part::Rest).nodes.insert(node.clone(), info);
        Ok(Response::Done)
    }

    fn stage_weight(&mut self, disk: DiskId, weight: u32) -> Outcome {
        let known = self.known_disk(disk)?;
        let (present, waits) = (known.weight, known.weight_waits);
        if !is_weight(weight) {
            let reason = format!("a weight of {weight}; it is 1 to {MAX_WEIGHT}");
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason)
                .hint("to empty a disk: `wmall disk drain NODE/DISK`")
                .into());
        }
        let mut draft = self.derived.draft.clone();
        draft.weights.retain(|(d, _)| *d != disk);
        // Staging the weight that it has says no to a disk that asks for more.
        if weight != present || waits {
            draft.weights.push((disk, weight));
            draft.weights.sort_unstable();
        }
        self.put_draft(draft);
        Ok(Response::Done)
    }

    /// Takes into the draft what a node asks for now: later wishes are not applied unseen.
    fn stage_waiting(&mut self, node: &NodeName) -> Outcome {
        let topology = &self.derived.topology;
        let info = topology.nodes.get(node).ok_or_else(|| {
            RpcError::not_found(format!("data node named {node}")).hint("`wmall node ls` lists them")
        })?;
        let mut draft = self.derived.draft.clone();
        let disks: Vec<(DiskId, u32)> =
            of_node(topology, node).filter(|d| d.weight_waits).map(|d| (d.id, d.configured_weight)).collect();
        if disks.is_empty() && info.waiting_zone.is_none() {
            let reason = format!("nothing of {node} waits");
            return Err(RpcError::new(ErrorCode::PreconditionFailed, reason)
                .hint("`wmall layout show` says what waits")
                .into());
        }
        draft.weights.retain(|(disk, _)| disks.iter().all(|(waits, _)| waits != disk));
        draft.weights.extend(disks);
        draft.weights.sort_unstable();
        if let Some(zone) = &info.waiting_zone {
            draft.zones.retain(|(staged, _)| staged != node);
            draft.zones.push((node.clone(), zone.clone()));
            draft.zones.sort_unstable();
        }
        self.put_draft(draft);
        Ok(Response::Done)
    }

    fn put_draft(&mut self, mut draft: LayoutDraft) {
        draft.version = self.index;
        self.txn.put(keys::LAYOUT_DRAFT.to_vec(), &draft);
        self.derived.draft = draft;
    }

    /// By compare-and-set: what is applied is what somebody has looked at.
    fn apply_layout(&mut self, version: u64) -> Outcome {
        let draft = self.derived.draft.clone();
        if draft.is_empty() {
            let reason = "no change of the layout is staged";
            return Err(RpcError::new(ErrorCode::PreconditionFailed, reason)
                .hint("`wmall layout stage NODE/DISK --weight N`")
                .into());
        }
        if draft.version != version {
            let reason = format!("the draft is of version {} by now, not {version}", draft.version);
            return Err(RpcError::new(ErrorCode::PreconditionFailed, reason)
                .hint("look at it again: `wmall layout show`")
                .into());
        }
        for (disk, weight) in draft.weights {
            self.change_disk(disk, |d| (d.weight, d.weight_waits) = (weight, false));
        }
        for (node, zone) in draft.zones {
            let Some(info) = self.derived.topology.nodes.get(&node) else { continue };
            // It may ask for yet another one by now, which waits on.
            let waiting_zone = info.waiting_zone.clone().filter(|waits| *waits != zone);
            let info = NodeInfo { zone, waiting_zone, ..info.clone() };
            self.txn.put(keys::node(node.as_str()), &info);
            self.change_topology(Part::Rest).nodes.insert(node, info);
        }
        self.put_draft(LayoutDraft::default());
        Ok(Response::Done)
    }

    fn mute(&mut self, code: String, until_ms: Option<u64>) -> Outcome {
        match until_ms {
            Some(until_ms) => {
                let mute = Mute { code: code.clone(), until_ms };
                self.txn.put(keys::mute(&code), &mute);
                self.derived.mutes.insert(code, mute);
            }
            None => {
                self.txn.remove(keys::mute(&code));
                self.derived.mutes.remove(&code);
            }
        }
        Ok(Response::Done)
    }

    /// A disk that nothing depends on is gone from the map; its number is never given again.
    fn forget_disk(&mut self, disk: DiskId) -> Outcome {
        self.known_disk(disk)?;
        if is_in_use(&self.derived.topology, disk) {
            let slots = slots_and_sources(&self.derived.topology, disk);
            let reason = format!("{disk} has {} slots, and {} that are leaving it", slots.0, slots.1);
            return Err(RpcError::new(ErrorCode::Unsafe, reason).hint("drain it first").into());
        }
        if let Some(job) = self.active_job_of(disk) {
            let reason = format!("job {} is about it", job.number);
            return Err(RpcError::new(ErrorCode::Unsafe, reason).into());
        }
        let groups: Vec<_> =
            self.derived.tickets.keys().filter(|(d, _)| *d == disk).map(|(_, g)| *g).collect();
        for group in groups {
            self.drop_tickets(group, disk)?;
        }
        self.derived.counters.tickets.remove(&disk);
        self.txn.remove(keys::disk(disk));
        let topology = self.change_topology(Part::Rest);
        let node = topology.disks.remove(&disk).map(|d| d.node);
        // A node without disks is none.
        let empty = node.filter(|node| topology.disks.values().all(|d| d.node != *node));
        if let Some(node) = empty {
            topology.nodes.remove(&node);
            self.txn.remove(keys::node(node.as_str()));
        }
        Ok(Response::Done)
    }

    /// What a disk in quarantine holds counts again once it has been looked through.
    fn release_disk(&mut self, disk: DiskId) -> Outcome {
        if self.known_disk(disk)?.quarantined_ms.is_none() {
            let reason = format!("{disk} is not in quarantine");
            return Err(RpcError::new(ErrorCode::PreconditionFailed, reason).into());
        }
        self.change_disk(disk, |d| d.quarantined_ms = None);
        self.distrust(disk);
        Ok(Response::Done)
    }

    pub(super) fn quarantine(&mut self, disk: DiskId, incarnation: Incarnation, why: String) -> Outcome {
        let now = self.now_ms;
        let fresh = |d: &DiskInfo| d.incarnation == incarnation && d.quarantined_ms.is_none();
        // Where so many fail, something else is wrong than the disks, and nothing would be left.
        let disks = &self.derived.topology.disks;
        let already = disks.values().filter(|d| d.quarantined_ms.is_some()).count();
        if already > 0 && (already + 1) * QUARANTINED_PART > disks.len() {
            return Ok(Response::Done);
        }
        if self.derived.topology.disks.get(&disk).is_some_and(fresh) {
            self.change_disk(disk, |d| d.quarantined_ms = Some(now));
            // It may come out again; what it said before is not believed then either.
            self.distrust_source(disk);
            self.tell(EventKind::DiskQuarantined { disk, why });
        }
        Ok(Response::Done)
    }

    pub(super) fn note_usage(&mut self, sample: UsageSample) -> Outcome {
        // By whoever leads: a clock that went back adds nothing.
        if self.derived.samples.back().is_some_and(|last| last.at_ms >= sample.at_ms) {
            return Ok(Response::Done);
        }
        self.txn.put(keys::usage(sample.at_ms), &sample);
        self.derived.samples.push_back(sample);
        while self.derived.samples.len() > MAX_SAMPLES {
            if let Some(old) = self.derived.samples.pop_front() {
                self.txn.remove(keys::usage(old.at_ms));
            }
        }
        Ok(Response::Done)
    }
}

fn take_again(disk: &mut DiskInfo) {
    (disk.draining, disk.drain_paused, disk.successor) = (false, false, None);
}

fn stop_clock(job: &mut Job, now_ms: u64) {
    if let Some(since) = job.running_since_ms.take() {
        job.ran_ms += now_ms.saturating_sub(since);
    }
}

/// Slots that a disk has, and slots that it is the source of.
pub(crate) fn slots_and_sources(topology: &Topology, disk: DiskId) -> (u64, u64) {
    let rows = || topology.pools.values().flat_map(|t| &t.rows);
    let slots = rows().filter(|row| row.slot_of(disk).is_some()).count();
    let sources = rows().flat_map(|r| r.sources.iter().flatten()).filter(|s| s.disk == disk).count();
    (slots as u64, sources as u64)
}

fn is_in_use(topology: &Topology, disk: DiskId) -> bool {
    slots_and_sources(topology, disk) != (0, 0)
}
