//! What an operator asks of nodes and disks, and may be refused: drains, replacements, maintenance, layouts,
//! mutes.
//!
//! What can be told from the map is judged when the command is applied (`state/operations.rs`); what takes a
//! plan, or who answers, here, by the leader. A step that can't end, or would make chunks unreadable, is
//! refused with the counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use wmall_placement::{Drafted, DrainPreview, preview_drain, preview_layout};
use wmall_proto::health::CODES;
use wmall_proto::job::{Job, JobKind, JobView, Operation, Place};
use wmall_proto::layout::{LayoutChange, LayoutDisk, LayoutView};
use wmall_proto::status::DrainView;
use wmall_proto::{DiskId, ErrorCode, NodeName, RpcError, Topology, ZoneName};

use crate::command::{Command, Operate};
use crate::leader::new_epoch;
use crate::service::Service;
use crate::state::slots_and_sources;

/// The longest that a node may be in maintenance, or a finding muted.
const MAX_WHILE_MS: u64 = 30 * 86_400_000;

impl Service {
    /// Judges an operation as if it were to be done, and does nothing.
    pub(crate) async fn rehearse(&self, operation: Operation) -> Result<(), RpcError> {
        let operate = self.planned(operation).await?;
        self.state.rehearse(operate, self.clock.now_ms())
    }

    /// The command that an operation becomes.
    pub(crate) async fn operate(&self, operation: Operation) -> Result<Command, RpcError> {
        self.planned(operation).await.map(Command::Operate)
    }

    async fn planned(&self, operation: Operation) -> Result<Operate, RpcError> {
        self.reads.wait().await?;
        let topology = self.state.topology();
        let operate = match operation {
            Operation::Drain(place) => {
                let disks = disks_at(&topology, &place)?;
                self.start_job(&topology, JobKind::Drain, place.to_string(), disks, None).await?
            }
            Operation::Replace { old, new } => self.replace(&topology, &old, &new).await?,
            Operation::Undrain(place) => {
                Operate::Undrain { what: place.to_string(), disks: disks_at(&topology, &place)? }
            }
            Operation::Job { number, change } => Operate::ChangeJob { number, change },
            Operation::Maintenance { node, for_ms, force } => {
                self.maintenance(&topology, node, for_ms, force)?
            }
            Operation::Layout(LayoutChange::Stage { disk, weight }) => {
                Operate::StageWeight { disk: disk_at(&topology, &disk)?, weight }
            }
            Operation::Layout(LayoutChange::Apply { version }) => {
                self.check_layout(version).await?;
                Operate::ApplyLayout { version }
            }
            Operation::Layout(LayoutChange::Revert) => Operate::RevertLayout,
            Operation::Layout(LayoutChange::Accept { node }) => Operate::StageWaiting { node },
            Operation::Mute { code, .. } if !CODES.contains(&code.as_str()) => {
                let reason = format!("finding with the code {code}");
                return Err(RpcError::not_found(reason).hint(format!("the codes are {}", CODES.join(", "))));
            }
            Operation::Mute { code, for_ms } => {
                Operate::Mute { code, until_ms: until(self.clock.now_ms(), for_ms)? }
            }
            Operation::Forget(place) => {
                Operate::Forget { what: place.to_string(), disk: disk_at(&topology, &place)? }
            }
            Operation::Release(place) => {
                Operate::Release { what: place.to_string(), disk: disk_at(&topology, &place)? }
            }
        };
        Ok(operate)
    }

    /// A drain that can't end is refused: it would leave the disks half empty for ever.
    async fn start_job(
        &self,
        topology: &Arc<Topology>,
        kind: JobKind,
        what: String,
        disks: Vec<DiskId>,
        successor: Option<DiskId>,
    ) -> Result<Operate, RpcError> {
        let based_on = self.state.counters().1.jobs;
        let DrainPreview { slots, bytes, stuck } = self.preview(topology, &disks).await?;
        if stuck > 0 {
            let reason =
                format!("{stuck} of the {slots} slots on {what} have nowhere to go under the zone rule");
            return Err(RpcError::new(ErrorCode::Unsafe, reason)
                .hint("add a node in that zone, or room to the others; `wmall node ls`"));
        }
        Ok(Operate::StartJob { kind, what, disks, successor, slots, bytes, based_on })
    }

    /// The successor must be able to take over: as large as what it replaces, up, and not to be emptied
    /// itself.
    async fn replace(&self, topology: &Arc<Topology>, old: &Place, new: &Place) -> Result<Operate, RpcError> {
        let (from, to) = (disk_at(topology, old)?, disk_at(topology, new)?);
        let refused = |reason: String| Err(RpcError::new(ErrorCode::Unsafe, reason));
        if from == to {
            return Err(RpcError::new(ErrorCode::BadRequest, "a disk can't replace itself"));
        }
        let (before, after) = (&topology.disks[&from], &topology.disks[&to]);
        if after.max_bytes < before.max_bytes {
            return refused(format!(
                "{new} is of {} bytes and {old} of {}: it might not hold what it takes over",
                after.max_bytes, before.max_bytes
            ))
            .map_err(|e: RpcError| {
                e.hint("choose a disk as large, or let the others share: `wmall disk drain`")
            });
        }
        if after.draining || after.quarantined_ms.is_some() || self.silent(topology).contains(&to) {
            return refused(format!(
                "{new} takes nothing: it is to be emptied, in quarantine, or does not answer"
            ));
        }
        let (of_old, of_new) = (topology.node_of(from), topology.node_of(to));
        if of_old.map(|n| &n.zone) != of_new.map(|n| &n.zone) {
            tracing::info!(%old, %new, "the successor is in another zone; rows that it can't take go elsewhere");
        }
        self.start_job(topology, JobKind::Replace, format!("{old} by {new}"), vec![from], Some(to)).await
    }

    /// A node whose absence would make chunks unreadable is not to be taken down.
    fn maintenance(
        &self,
        topology: &Topology,
        node: NodeName,
        for_ms: Option<u64>,
        force: bool,
    ) -> Result<Operate, RpcError> {
        if !topology.nodes.contains_key(&node) {
            return Err(unknown_node(&node));
        }
        let until_ms = until(self.clock.now_ms(), for_ms)?;
        if until_ms.is_some() && !force {
            let silent = self.silent(topology);
            // Others that may be down by then count as down.
            let away = |name: &NodeName| {
                let until = topology.nodes.get(name).and_then(|n| n.maintenance_until_ms);
                *name == node || until.is_some_and(|until| until > self.clock.now_ms())
            };
            let mut without = silent.clone();
            without.extend(topology.disks.values().filter(|d| away(&d.node)).map(|d| d.id));
            let unread = |silent| {
                let grades = self.state.grades(silent).map_err(RpcError::internal)?;
                Ok::<_, RpcError>(grades.unavailable + grades.lost)
            };
            let more = unread(&without)?.saturating_sub(unread(&silent)?);
            if more > 0 {
                let reason = format!("{more} chunks could not be read without {node}");
                return Err(RpcError::new(ErrorCode::Unsafe, reason)
                    .hint("wait until repairs have ended (`wmall status`), or drain the node; --force does it anyway"));
            }
        }
        Ok(Operate::SetMaintenance { node, until_ms })
    }

    /// A layout that would leave slots without a place is refused.
    async fn check_layout(&self, version: u64) -> Result<(), RpcError> {
        let view = self.layout_view().await?;
        if view.version == Some(version) && view.stuck > 0 {
            let reason = format!("{} slots would have no place under the zone rule", view.stuck);
            return Err(RpcError::new(ErrorCode::Unsafe, reason).hint("`wmall layout show` tells more"));
        }
        Ok(())
    }

    async fn preview(&self, topology: &Arc<Topology>, disks: &[DiskId]) -> Result<DrainPreview, RpcError> {
        let (repairer, map) = (self.repairer.clone(), topology.clone());
        let drained: BTreeSet<DiskId> = disks.iter().copied().collect();
        let previewing = move || preview_drain(&repairer.snapshot(&map, Instant::now()), &drained);
        tokio::task::spawn_blocking(previewing).await.map_err(RpcError::internal)
    }

    pub(crate) async fn drain_view(&self, place: &Place) -> Result<DrainView, RpcError> {
        self.reads.wait().await?;
        let topology = self.state.topology();
        let disks = disks_at(&topology, place)?;
        let DrainPreview { slots, bytes, stuck } = self.preview(&topology, &disks).await?;
        let draining = disks.iter().all(|d| topology.disks.get(d).is_some_and(|d| d.draining));
        let leaving = disks.iter().map(|disk| slots_and_sources(&topology, *disk).1).sum();
        let active = self.state.jobs().into_iter().filter(|j| !j.state.has_ended());
        let job = active.rev().find(|j| disks.iter().all(|d| j.disks.contains(d))).map(|j| j.number);
        Ok(DrainView { what: place.to_string(), job, disks, draining, slots, leaving, bytes, stuck })
    }

    /// All jobs, the newest first.
    pub(crate) async fn job_views(&self) -> Result<Vec<JobView>, RpcError> {
        self.reads.wait().await?;
        let topology = self.state.topology();
        let stuck_on = self.repairer.last_plan().stuck_on;
        let view = |job: Job| {
            let (slots_left, leaving) = job
                .disks
                .iter()
                .map(|disk| slots_and_sources(&topology, *disk))
                .fold((0, 0), |sum, (slots, sources)| (sum.0 + slots, sum.1 + sources));
            let ended = job.state.has_ended();
            let stuck = job.disks.iter().filter_map(|disk| stuck_on.get(disk)).sum();
            let eta_ms = JobView::eta(&job, slots_left + leaving, self.clock.now_ms()).filter(|_| !ended);
            JobView { job, slots_left, leaving, stuck: if ended { 0 } else { stuck }, eta_ms }
        };
        Ok(self.state.jobs().into_iter().rev().map(view).collect())
    }

    pub(crate) async fn layout_view(&self) -> Result<LayoutView, RpcError> {
        self.reads.wait().await?;
        let (topology, draft) = (self.state.topology(), self.state.draft());
        let weights: BTreeMap<DiskId, u32> = draft.weights.iter().copied().collect();
        let zoned: BTreeMap<NodeName, ZoneName> = draft.zones.iter().cloned().collect();
        let drafted = Drafted { weights: weights.clone(), zones: zoned.clone() };
        let (repairer, map) = (self.repairer.clone(), topology.clone());
        let previewing = move || {
            let snapshot = repairer.snapshot(&map, Instant::now());
            let mut preview = preview_layout(&snapshot, &drafted);
            // What has no place as it is, is no fault of the draft.
            if preview.stuck > 0 {
                let before = preview_layout(&snapshot, &Drafted::default()).stuck;
                preview.stuck = preview.stuck.saturating_sub(before);
            }
            preview
        };
        let preview = tokio::task::spawn_blocking(previewing).await.map_err(RpcError::internal)?;
        let mut zones: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        let mut disks = Vec::new();
        for disk in topology.disks.values() {
            let Some(node) = topology.nodes.get(&disk.node) else { continue };
            let change = preview.disks.get(&disk.id).cloned().unwrap_or_default();
            let draft_zone = zoned.get(&node.name).unwrap_or(&node.zone).clone();
            let zone = zones.entry(draft_zone.clone()).or_default();
            *zone = (zone.0 + change.bytes_in, zone.1 + change.bytes_out);
            disks.push(LayoutDisk {
                disk: disk.id,
                node: disk.node.clone(),
                name: disk.name.clone(),
                zone: node.zone.clone(),
                weight: disk.weight,
                draft_zone,
                waiting_zone: node.waiting_zone.clone(),
                waiting_weight: disk.weight_waits.then_some(disk.configured_weight),
                draft_weight: weights.get(&disk.id).copied().unwrap_or(disk.weight),
                slots: change.slots,
                draft_slots: change.draft_slots,
                bytes_in: change.bytes_in,
                bytes_out: change.bytes_out,
                why_nothing: change.why_nothing.map(str::to_string),
            });
        }
        Ok(LayoutView {
            version: (!draft.is_empty()).then_some(draft.version),
            disks,
            slots: preview.slots,
            bytes: preview.bytes,
            zones: zones.into_iter().map(|(zone, (comes, goes))| (zone, comes, goes)).collect(),
            stuck: preview.stuck,
        })
    }

    /// After a restore the rows may be older than what is on the disks. While chunks can't be read, their
    /// pieces may be on disks that the rows do not lead to, and that would drop them.
    pub(crate) async fn allow_deletion(&self, force: bool) -> Result<Command, RpcError> {
        self.reads.wait().await?;
        let silent = self.liveness.silent(&self.state.topology(), Instant::now());
        let grades = self.state.grades(&silent).map_err(RpcError::internal)?;
        let unread = grades.unavailable + grades.lost;
        if unread > 0 && !force {
            let reason = format!(
                "{unread} chunks can't be read; what they are made of may be where it would be deleted"
            );
            return Err(RpcError::new(ErrorCode::Unsafe, reason).hint(
                "wait until the data nodes have looked through what they hold (`wmall status`); --force gives the rest up",
            ));
        }
        Ok(Command::AllowDeletion { epoch: new_epoch() })
    }
}

/// From now on for so long.
fn until(now_ms: u64, for_ms: Option<u64>) -> Result<Option<u64>, RpcError> {
    match for_ms {
        Some(ms) if ms == 0 || ms > MAX_WHILE_MS => {
            Err(RpcError::new(ErrorCode::OutOfBounds, "a while is more than nothing and at most 30 days"))
        }
        while_ms => Ok(while_ms.map(|ms| now_ms.saturating_add(ms))),
    }
}

fn unknown_node(node: &NodeName) -> RpcError {
    RpcError::not_found(format!("data node named {node}")).hint("`wmall node ls` lists them")
}

fn disks_at(topology: &Topology, place: &Place) -> Result<Vec<DiskId>, RpcError> {
    if !topology.nodes.contains_key(&place.node) {
        return Err(unknown_node(&place.node));
    }
    let disks: Vec<DiskId> = topology.disks_at(place).iter().map(|d| d.id).collect();
    if disks.is_empty() {
        return Err(RpcError::not_found(format!("disk {place}")).hint("`wmall disk ls` lists them"));
    }
    Ok(disks)
}

/// The one disk that a place names.
fn disk_at(topology: &Topology, place: &Place) -> Result<DiskId, RpcError> {
    match disks_at(topology, place)?.as_slice() {
        [disk] => Ok(*disk),
        disks => {
            let reason = format!("{place} has {} disks", disks.len());
            Err(RpcError::new(ErrorCode::BadRequest, reason)
                .hint("name one of them as NODE/DISK; `wmall disk ls`"))
        }
    }
}
