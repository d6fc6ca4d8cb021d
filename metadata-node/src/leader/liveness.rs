//! Who has been heard of. The leader's memory only: a new leader counts a node's silence from its own
//! election, so that a change of leaders makes nobody suspect.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wmall_proto::rpc::{DiskHeartbeat, Heartbeat};
use wmall_proto::status::{CloneStatus, NodeState};
use wmall_proto::topology::Topology;
use wmall_proto::{DiskId, NodeName};

use crate::state::Silent;

/// A node that is heard of for so long has had the time to follow the feed, whatever it says of its place in
/// it.
const FOLLOW_GRACE: Duration = Duration::from_secs(600);
/// A second process asks again every five seconds, so one that has not asked for so long is gone.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// The last heartbeat of a node.
#[derive(Clone)]
struct Heard {
    at: Instant,
    /// Since when without a gap.
    since: Instant,
    /// How far it has followed the feed, and in which life of the metadata.
    feed: (u64, u64),
    disks: BTreeMap<DiskId, DiskHeartbeat>,
}

#[derive(Default)]
struct Memory {
    /// Since when this member leads; none when it does not.
    leading_since: Option<Instant>,
    // Bounded by the nodes that registered: others are refused before they are noted.
    heard: HashMap<NodeName, Heard>,
    /// Second processes that were refused, by name, and where they are. As bounded.
    refused: HashMap<NodeName, (SocketAddr, Instant)>,
}

/// The table of heartbeats.
pub struct Liveness {
    suspect_after: Duration,
    down_after: Duration,
    memory: Mutex<Memory>,
}

impl Liveness {
    /// An empty table.
    pub fn new(suspect_after: Duration, down_after: Duration) -> Self {
        Self { suspect_after, down_after, memory: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This member leads from now on, or does not any more.
    pub fn leads(&self, leads: bool, now: Instant) {
        let mut memory = self.lock();
        if leads != memory.leading_since.is_some() {
            *memory = Memory { leading_since: leads.then_some(now), ..Memory::default() };
        }
    }

    /// For how long this member has led; none if it does not.
    pub fn led_for(&self, now: Instant) -> Option<Duration> {
        self.lock().leading_since.map(|since| now.saturating_duration_since(since))
    }

    /// True if a heartbeat of this node has come since then.
    pub fn heard_after(&self, node: &NodeName, then: Instant) -> bool {
        self.lock().heard.get(node).is_some_and(|heard| heard.at > then)
    }

    /// Whether this leader's picture is whole: it has heard every node, or has waited long enough for it.
    pub fn is_settled(&self, topology: &Topology, now: Instant) -> bool {
        const MARGIN: Duration = Duration::from_secs(5);
        let memory = self.lock();
        let Some(since) = memory.leading_since else { return false };
        let waited = now.saturating_duration_since(since) >= self.suspect_after + MARGIN;
        waited || topology.nodes.keys().all(|node| memory.heard.contains_key(node))
    }

    /// Whether a silence of so long is more than the grace.
    pub fn is_down_after(&self, silence: Duration) -> bool {
        silence >= self.down_after
    }

    /// A second process of this node was refused.
    pub fn refuse(&self, node: &NodeName, at: SocketAddr, now: Instant) {
        self.lock().refused.insert(node.clone(), (at, now));
    }

    /// The processes that were refused lately.
    pub(crate) fn clones(&self, topology: &Topology, now: Instant) -> Vec<CloneStatus> {
        let memory = self.lock();
        let lately =
            memory.refused.iter().filter(|(_, (_, at))| now.saturating_duration_since(*at) < REFUSED_FOR);
        let clone = |(name, (refused, _)): (&NodeName, &(SocketAddr, Instant))| {
            let address = topology.nodes.get(name)?.address;
            Some(CloneStatus { name: name.clone(), address, refused: *refused })
        };
        let mut clones: Vec<CloneStatus> = lately.filter_map(clone).collect();
        clones.sort_by(|a, b| a.name.cmp(&b.name));
        clones
    }

    /// A node is alive.
    pub fn hear(&self, heartbeat: Heartbeat, now: Instant) {
        let disks = heartbeat.disks.into_iter().map(|d| (d.disk, d)).collect();
        let feed = (heartbeat.feed_epoch, heartbeat.feed);
        let mut memory = self.lock();
        let before = memory.heard.get(&heartbeat.node);
        let gapless = before.filter(|b| now.saturating_duration_since(b.at) < self.suspect_after);
        let since = gapless.map_or(now, |b| b.since);
        memory.heard.insert(heartbeat.node, Heard { at: now, since, feed, disks });
    }

    /// Whether a node has heard of this entry, or has had [`FOLLOW_GRACE`] for it.
    pub fn has_followed(&self, node: &NodeName, (epoch, index): (u64, u64), now: Instant) -> bool {
        let memory = self.lock();
        let Some(heard) = memory.heard.get(node) else { return false };
        let followed = heard.feed.0 == epoch && heard.feed.1 >= index;
        followed || now.saturating_duration_since(heard.since) >= FOLLOW_GRACE
    }

    /// How a node is, how long it has been silent, and what its disks said last.
    pub fn of(
        &self,
        node: &NodeName,
        now: Instant,
    ) -> (NodeState, Option<Duration>, BTreeMap<DiskId, DiskHeartbeat>) {
        let memory = self.lock();
        let Some(since) = memory.leading_since else { return (NodeState::Up, None, BTreeMap::new()) };
        let heard = memory.heard.get(node);
        let silent = now.saturating_duration_since(heard.map_or(since, |h| h.at.max(since)));
        let state = if silent >= self.down_after {
            NodeState::Down
        } else if silent >= self.suspect_after {
            NodeState::Suspect
        } else {
            NodeState::Up
        };
        let disks = heard.map(|h| h.disks.clone()).unwrap_or_default();
        (state, heard.map(|_| silent), disks)
    }

    /// All nodes of the topology that are not up. Empty on a member that does not lead.
    pub fn silent_nodes(&self, topology: &Topology, now: Instant) -> Vec<NodeName> {
        let silent = |n: &&NodeName| self.of(n, now).0 != NodeState::Up;
        topology.nodes.keys().filter(silent).cloned().collect()
    }

    /// All disks that do not count: of nodes that are not up, those that failed or that their node came up
    /// without, and those in quarantine. But for the last, empty on a member that does not lead.
    pub fn silent(&self, topology: &Topology, now: Instant) -> Silent {
        let mut silent = Silent::new();
        for node in topology.nodes.keys() {
            let (state, heard, beats) = self.of(node, now);
            let counts = |id: &DiskId| match (state, heard) {
                (NodeState::Up, Some(_)) => beats.get(id).is_some_and(|b| !b.failed),
                (NodeState::Up, None) => true,
                _ => false,
            };
            let disks = topology.disks.values().filter(|d| d.node == *node);
            silent.extend(disks.filter(|d| d.quarantined_ms.is_some() || !counts(&d.id)).map(|d| d.id));
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_counts_from_its_own_election() {
        let liveness = Liveness::new(Duration::from_secs(3), Duration::from_secs(600));
        let node = NodeName::new("data-1").unwrap();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        liveness.leads(true, start);
        assert_eq!(liveness.of(&node, at(2)).0, NodeState::Up);
        assert_eq!(liveness.of(&node, at(3)).0, NodeState::Suspect);
        let beat = Heartbeat {
            node: node.clone(),
            process: [0; 16],
            now_ms: 0,
            disks: vec![],
            topology: 0,
            topology_epoch: 0,
            feed: 0,
            feed_epoch: 0,
        };
        liveness.hear(beat, at(4));
        assert!(liveness.heard_after(&node, at(3)) && !liveness.heard_after(&node, at(4)));
        assert_eq!(liveness.led_for(at(5)), Some(Duration::from_secs(5)));
        assert_eq!(liveness.of(&node, at(5)), (NodeState::Up, Some(Duration::from_secs(1)), BTreeMap::new()));
        assert_eq!(liveness.of(&node, at(604)).0, NodeState::Down);
        let followed = |at_s, place| liveness.has_followed(&node, place, at(at_s));
        assert!(followed(5, (0, 0)) && !followed(5, (0, 1)) && !followed(5, (7, 0)));
        assert!(followed(604, (7, 9)), "it has had the time");
        liveness.leads(false, at(605));
        assert_eq!(liveness.led_for(at(606)), None);
        liveness.leads(true, at(700));
        assert_eq!(
            liveness.of(&node, at(702)).0,
            NodeState::Up,
            "silence before the election is not counted"
        );
        assert_eq!(liveness.of(&node, at(704)).0, NodeState::Suspect);
    }
}
