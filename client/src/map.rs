//! The client's copy of the cluster's map, and whom it found silent itself.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wmall_proto::Role;
use wmall_proto::rpc::TopologyReply;
use wmall_proto::{DiskId, NodeName, PgRow, RpcError, Topology};
use wmall_transport::Target;

use crate::latency::Latency;

/// A node that failed is asked last for so long.
const AVOID: Duration = Duration::from_secs(2);

struct Known {
    topology: Arc<Topology>,
    suspects: HashSet<NodeName>,
    // Bounded by the nodes of the map.
    avoided: HashMap<NodeName, Instant>,
    latency: Latency,
    /// The cluster's clock as it was heard last, and when.
    time: Option<(u64, Instant)>,
}

/// The copy.
pub(crate) struct Map(Mutex<Known>);

impl Map {
    pub(crate) fn new() -> Self {
        let topology = Arc::new(Topology::empty());
        let (suspects, avoided, latency) = (HashSet::new(), HashMap::new(), Latency::default());
        Self(Mutex::new(Known { topology, suspects, avoided, latency, time: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.lock().topology.clone()
    }

    /// The cluster's clock, in milliseconds since the Unix epoch: moved on from where it was heard last, and
    /// this machine's own before it was heard at all.
    pub(crate) fn now_ms(&self) -> u64 {
        let moved = |(ms, at): (u64, Instant)| ms.saturating_add(at.elapsed().as_millis() as u64);
        self.lock().time.map_or_else(wmall_runtime::clock::now_ms, moved)
    }

    /// Whether the cluster's clock was heard so lately.
    pub(crate) fn has_heard_time_within(&self, lately: Duration) -> bool {
        self.lock().time.is_some_and(|(_, at)| at.elapsed() < lately)
    }

    /// What was heard of the cluster's clock is of no use.
    pub(crate) fn forget_time(&self) {
        self.lock().time = None;
    }

    pub(crate) fn update(&self, reply: TopologyReply) -> Result<(), RpcError> {
        let topology = reply.topology.map(|map| map.decode()).transpose().map_err(RpcError::internal)?;
        let mut known = self.lock();
        if let Some(topology) = topology
            && topology.version > known.topology.version
        {
            known.topology = Arc::new(topology);
        }
        // A cluster that has just begun has no clock yet.
        if reply.now_ms > 0 {
            known.time = Some((reply.now_ms, Instant::now()));
        }
        if let Some(suspects) = reply.suspects {
            known.suspects = suspects.into_iter().collect();
        }
        Ok(())
    }

    /// A call to this node failed.
    pub(crate) fn avoid(&self, node: &NodeName) {
        self.lock().avoided.insert(node.clone(), Instant::now() + AVOID);
    }

    /// A read from this disk took so long.
    pub(crate) fn note_read(&self, disk: DiskId, bytes: u32, took: Duration) {
        self.lock().latency.note(disk, bytes, took, Instant::now());
    }

    /// A read from this disk was given up after so long; one that was not late yet says nothing.
    pub(crate) fn note_given_up(&self, disk: DiskId, bytes: u32, took: Duration) {
        let mut known = self.lock();
        if took >= known.latency.late_after(bytes) {
            known.latency.note_beaten(disk, bytes, took, Instant::now());
        }
    }

    /// When a read of so many bytes is late.
    pub(crate) fn late_after(&self, bytes: u32) -> Duration {
        self.lock().latency.late_after(bytes)
    }

    /// The slots of a row with their nodes, for who writes: those that answer as fast as the others first,
    /// then the slow, then the silent.
    pub(crate) fn slots(&self, topology: &Topology, row: &PgRow) -> Vec<SlotTarget> {
        let known = self.lock();
        let places = row.slots.iter().enumerate().map(|(slot, &disk)| (slot as u8, disk, false));
        known.in_order(topology, places)
    }

    /// The same for who reads, with the disks that moving slots come from, and those before the disks that
    /// they go to, which have little yet. `rotate` spreads readers.
    pub(crate) fn places(&self, topology: &Topology, row: &PgRow, rotate: usize) -> Vec<SlotTarget> {
        let known = self.lock();
        let width = row.slots.len().max(1);
        let places = (0..row.slots.len()).map(|i| (i + rotate) % width).flat_map(|slot| {
            let sources = row.sources[slot].iter().map(move |source| (slot as u8, source.disk, true));
            let moving = row.dirty_at[slot].is_some() && !row.sources[slot].is_empty();
            sources.chain([(slot as u8, row.slots[slot], moving)])
        });
        let mut places = known.in_order(topology, places);
        // A disk that a slot is on its way to is asked when the others have been.
        places.sort_by_key(|p| (p.silent, p.moving && row.slots.contains(&p.disk)));
        places
    }
}

impl Known {
    fn in_order(
        &self,
        topology: &Topology,
        places: impl Iterator<Item = (u8, DiskId, bool)>,
    ) -> Vec<SlotTarget> {
        let now = Instant::now();
        let target = |(slot, disk, moving): (u8, DiskId, bool)| {
            let node = topology.node_of(disk)?;
            let avoided = self.avoided.get(&node.name).is_some_and(|&until| until > now);
            let believed = topology.disks.get(&disk).is_some_and(|d| d.quarantined_ms.is_none());
            let silent = avoided || !believed || self.suspects.contains(&node.name);
            let target = Target { role: Role::Data, node: node.name.clone(), address: node.address };
            let slow = self.latency.is_slow(disk, now);
            Some(SlotTarget { slot, disk, target, silent, slow, moving })
        };
        let mut slots: Vec<SlotTarget> = places.filter_map(target).collect();
        slots.sort_by_key(|s| (s.silent, s.slow));
        slots
    }
}

/// A slot and whom to call for it.
#[derive(Debug, Clone)]
pub(crate) struct SlotTarget {
    pub(crate) slot: u8,
    pub(crate) disk: DiskId,
    pub(crate) target: Target,
    pub(crate) silent: bool,
    pub(crate) slow: bool,
    /// The slot is on its way from or to this disk, which need not have the piece.
    pub(crate) moving: bool,
}
