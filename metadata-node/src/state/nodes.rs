//! Data nodes and their disks as they come up: their numbers, their incarnations, and how often each has been
//! opened.
//!
//! A disk's number of starts is durable on the disk and here. A disk that comes with a lower one is an older
//! copy of what it was, and one with the same number in another process is a second copy: what it holds does
//! not count before it has been looked through. It is told to go on above all numbers that any copy has had,
//! so the other one is told apart as well.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use wmall_proto::event::EventKind;
use wmall_proto::rpc::{DiskRegistration, RegisteredDisk, Registration, Response};
use wmall_proto::topology::{DiskInfo, NodeInfo, Topology};
use wmall_proto::{DiskId, ErrorCode, NodeName, Role, RpcError};

use super::admission::{Usual, check_disks, of_node, said_zone, zone_changes_rows};
use super::apply::{Context, Outcome};
use super::recent::Part;
use super::{State, keys};

/// No process: the one that was known is of a former life of the metadata, and has to register again.
const NO_PROCESS: [u8; 16] = [0; 16];

/// The process that goes by a node's name, and the starts of its disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct NodeStarts {
    /// Drawn by the process.
    pub(crate) process: [u8; 16],
    /// By disk, the highest number of starts of any copy.
    pub(crate) disks: BTreeMap<DiskId, u64>,
    /// True if all that it asks for waits for an operator.
    pub(crate) waits: bool,
}

impl NodeStarts {
    /// The same disks, and a process that has to register again.
    pub(super) fn without_process(&self) -> Self {
        Self { process: NO_PROCESS, ..self.clone() }
    }

    /// Whether a disk comes as an older or a second copy of what is known of it.
    fn is_copy(&self, id: DiskId, process: &[u8; 16], starts: u64) -> bool {
        let known = self.disks.get(&id).copied().unwrap_or(0);
        starts < known || (starts == known && self.process != *process)
    }
}

impl Context<'_> {
    /// A node comes up. Known disks keep their numbers; one with a new incarnation has lost what it held,
    /// so every group it is in becomes dirty as of now.
    pub(super) fn register(
        &mut self,
        registration: Registration,
        replaces: Option<[u8; 16]>,
        older: &[DiskId],
    ) -> Outcome {
        check_disks(&registration, &self.derived.topology)?;
        let runs =
            self.derived.starts.get(&registration.node).map(|s| s.process).filter(|p| *p != NO_PROCESS);
        if runs != replaces {
            let reason = format!("another process of {} registered meanwhile", registration.node);
            return Err(RpcError::new(ErrorCode::Busy, reason).into());
        }
        let Registration { node, zone, address, process, disks } = registration;
        self.note_holder(Role::Data, &node)?;
        let topology = &self.derived.topology;
        let before = topology.nodes.get(&node);
        let maintenance_until_ms = before.and_then(|n| n.maintenance_until_ms);
        let counts = before.map_or_else(|| zone.clone(), |before| before.zone.clone());
        // A node whose zone would give it a part of every group begins without weight.
        let has_weight = of_node(topology, &node).any(|d| d.weight > 0);
        let waits = self.derived.starts.get(&node).is_some_and(|known| known.waits)
            || (!has_weight && zone_changes_rows(&node, &counts, topology));
        let waiting_zone = (zone != counts).then_some(zone);
        let info = NodeInfo { name: node.clone(), zone: counts, address, waiting_zone, maintenance_until_ms };
        if self.derived.topology.nodes.get(&node) != Some(&info) {
            self.txn.put(keys::node(node.as_str()), &info);
            self.change_topology(Part::Rest).nodes.insert(node.clone(), info);
        }
        let known = self.derived.starts.get(&node).cloned().unwrap_or_default();
        let mut now = NodeStarts { process, ..known.clone() };
        let mut registered = Vec::with_capacity(disks.len());
        for disk in disks {
            let (id, new_life) = self.register_disk(&node, &disk, waits);
            let mut starts = disk.starts;
            let is_copy = known.is_copy(id, &process, starts) || older.contains(&id);
            if !new_life && is_copy {
                starts = known.disks.get(&id).map_or(starts, |known| starts.max(known.saturating_add(1)));
                self.emit_copy(id);
            }
            now.disks.insert(id, starts);
            registered.push(RegisteredDisk { id, starts });
        }
        if now != known {
            self.txn.put(keys::starts(&node), &now);
            self.derived.starts.insert(node, now);
        }
        Ok(Response::Registered(registered))
    }

    /// Nothing that an older copy of a disk holds counts before it has been looked through.
    fn emit_copy(&mut self, disk: DiskId) {
        self.distrust(disk);
        self.tell(EventKind::DiskCopied { disk });
    }

    /// Enters a disk in the map. Returns its number, and whether it is in another life than it was.
    fn register_disk(&mut self, node: &NodeName, disk: &DiskRegistration, waits: bool) -> (DiskId, bool) {
        let known = disk_named(&self.derived.topology, node, disk.name.as_str()).cloned();
        let id = known.as_ref().map_or_else(|| self.next_disk(), |d| d.id);
        let new_life = known.as_ref().is_some_and(|d| d.incarnation != disk.incarnation);
        let (weight, weight_waits) = self.admit_disk(node, disk, known.as_ref(), waits);
        let info = DiskInfo {
            id,
            node: node.clone(),
            name: disk.name.to_string(),
            weight,
            configured_weight: disk.weight,
            weight_waits,
            max_bytes: disk.max_bytes,
            incarnation: disk.incarnation,
            public_key: disk.public_key,
            draining: known.as_ref().is_some_and(|d| d.draining),
            drain_paused: known.as_ref().is_some_and(|d| d.drain_paused),
            successor: known.as_ref().and_then(|d| d.successor),
            // A wiped disk begins anew; what it did wrong is gone with its content.
            quarantined_ms: known.as_ref().filter(|_| !new_life).and_then(|d| d.quarantined_ms),
            // The leader ends that when it hears the disk.
            down_since_ms: known.as_ref().and_then(|d| d.down_since_ms),
        };
        if known.as_ref() != Some(&info) {
            self.txn.put(keys::disk(id), &info);
            self.change_topology(Part::Rest).disks.insert(id, info);
        }
        if new_life {
            self.mark_all_dirty(id);
        }
        (id, new_life)
    }

    /// The weight of a disk that registers, and whether the one that it asks for waits. An operator's layout
    /// holds until the configuration says something new.
    fn admit_disk(
        &self,
        node: &NodeName,
        disk: &DiskRegistration,
        known: Option<&DiskInfo>,
        waits: bool,
    ) -> (u32, bool) {
        if let Some(known) = known.filter(|known| known.configured_weight == disk.weight) {
            return (known.weight, known.weight_waits);
        }
        let present = known.map(|known| known.weight);
        if waits {
            let present = present.unwrap_or(0);
            return (present, present != disk.weight);
        }
        let topology = &self.derived.topology;
        // Before there is a pool no row can be drawn: whoever makes the first one sees the weights.
        if topology.pools.is_empty() {
            return (disk.weight, false);
        }
        let others = of_node(topology, node).filter(|d| d.name != disk.name.as_str());
        let of_others = others.map(|d| u64::from(d.weight)).sum();
        Usual::beside(node, topology).admit(disk.weight, of_others, present)
    }

    /// All that the node of this name asks for waits for an operator from now on.
    pub(super) fn wait_for_layout(&mut self, node: &NodeName) {
        let known = self.derived.starts.get(node).cloned().unwrap_or_default();
        let waits = NodeStarts { waits: true, ..known };
        self.txn.put(keys::starts(node), &waits);
        self.derived.starts.insert(node.clone(), waits);
    }

    fn next_disk(&mut self) -> DiskId {
        self.derived.counters.next_disk += 1;
        DiskId(self.derived.counters.next_disk)
    }
}

fn disk_named<'a>(topology: &'a Topology, node: &NodeName, name: &str) -> Option<&'a DiskInfo> {
    topology.disks.values().find(|d| d.node == *node && d.name == name)
}

impl State {
    /// The process that goes by a node's name; none if it has to register again.
    pub(crate) fn process_of(&self, node: &NodeName) -> Option<[u8; 16]> {
        self.read().starts.get(node).map(|starts| starts.process).filter(|process| *process != NO_PROCESS)
    }

    /// Whether all known disks of a registration have been opened after what is known of them.
    pub(crate) fn starts_after(&self, registration: &Registration) -> bool {
        let derived = self.read();
        let Some(known) = derived.starts.get(&registration.node) else { return true };
        registration.disks.iter().all(|disk| {
            let info = disk_named(&derived.topology, &registration.node, disk.name.as_str());
            let info = info.filter(|info| info.incarnation == disk.incarnation);
            info.and_then(|info| known.disks.get(&info.id)).is_none_or(|starts| disk.starts > *starts)
        })
    }

    /// The answer to a registration that changes nothing, and so costs no entry.
    pub(crate) fn registered(&self, registration: &Registration) -> Option<Vec<RegisteredDisk>> {
        let derived = self.read();
        let node = derived.topology.nodes.get(&registration.node)?;
        let starts = derived.starts.get(&registration.node)?;
        if *said_zone(node) != registration.zone
            || node.address != registration.address
            || starts.process != registration.process
        {
            return None;
        }
        let same = |disk: &DiskRegistration| {
            let known = disk_named(&derived.topology, &registration.node, disk.name.as_str())?;
            let equal = known.configured_weight == disk.weight
                && known.max_bytes == disk.max_bytes
                && known.incarnation == disk.incarnation
                && known.public_key == disk.public_key
                && starts.disks.get(&known.id) == Some(&disk.starts);
            equal.then_some(RegisteredDisk { id: known.id, starts: disk.starts })
        };
        registration.disks.iter().map(same).collect()
    }
}
