//! What the cluster says of itself. CLI, dashboard and metrics print these values and compute none
//! of their own.

use std::net::SocketAddr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::capacity::{CapacityReport, Forecast};
use crate::grade::GradeCounts;
use crate::ids::{DiskId, Incarnation};
use crate::names::{NodeName, PoolName, ZoneName};
use crate::pool::Pool;

/// Whether a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Heartbeats arrive.
    Up,
    /// They stopped a moment ago.
    Suspect,
    /// They stopped longer ago than the grace.
    Down,
}

impl NodeState {
    /// The word, as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// A disk as seen now.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its number.
    pub id: DiskId,
    /// Its name on its node.
    pub name: String,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Its share of the placement.
    pub weight: u32,
    /// The most bytes it may use.
    pub max_bytes: u64,
    /// Bytes that it can have in all, as of its last heartbeat: what it has and what its file system has for
    /// it.
    pub capacity_bytes: u64,
    /// The weight that its node's configuration names, if that waits for an operator.
    pub waiting_weight: Option<u32>,
    /// Bytes of the pieces it holds, as of its last heartbeat.
    pub used_bytes: u64,
    /// Bytes of its segments, dead records and free room in them included.
    pub segment_bytes: u64,
    /// Pieces it holds, as of its last heartbeat.
    pub pieces: u64,
    /// Pieces it should hold and does not.
    pub tickets: u64,
    /// Groups of which its content is not vouched for.
    pub dirty_groups: u64,
    /// Slots of groups that it has.
    pub slots: u64,
    /// Whether it is to be emptied.
    pub draining: bool,
    /// Whether it is in quarantine: it failed challenges.
    pub quarantined: bool,
    /// Whether it takes writes.
    pub writable: bool,
    /// Whether it failed, or its node is up without it: what it holds does not count.
    pub failed: bool,
    /// How long its writes take to be durable, in milliseconds, as its last heartbeat said.
    pub sync_ms: u64,
    /// It refuses uploads that began before this time, in milliseconds since the Unix epoch.
    pub fenced_before_ms: u64,
}

/// A data node, or a disk, that is or may be emptied.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct DrainView {
    /// The node, or the disk as `NODE/DISK`.
    pub what: String,
    /// The job that does it, if any is under way.
    pub job: Option<u64>,
    /// The disks.
    pub disks: Vec<DiskId>,
    /// Whether they are being emptied.
    pub draining: bool,
    /// Slots of groups that they have.
    pub slots: u64,
    /// Slots that they have given away and still hold the pieces of, until the new disks have them.
    pub leaving: u64,
    /// Bytes of the slots that they have, about.
    pub bytes: u64,
    /// Of these slots, those for which there is no other disk under the zone rule, with room.
    pub stuck: u64,
}

/// A finding that an operator does not want to hear of for a while.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Mute {
    /// Its code.
    pub code: String,
    /// Until when, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// What is on its way between disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Slots on their way to another disk.
    pub moving: u64,
    /// Slots that should move and wait for others to arrive.
    pub waiting: u64,
    /// Slots that should move and for which there is no disk.
    pub stuck: u64,
    /// Why nothing is substituted, if so.
    pub halted: Option<String>,
}

/// A data node as seen now.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// Its failure domain.
    pub zone: ZoneName,
    /// The zone that its configuration names by now, which waits for an operator.
    pub waiting_zone: Option<ZoneName>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it answers.
    pub state: NodeState,
    /// Until when its silence is expected, in milliseconds since the Unix epoch.
    pub maintenance_until_ms: Option<u64>,
    /// Milliseconds since its last heartbeat to this leader; none yet when absent.
    pub silent_ms: Option<u64>,
    /// Calls of the leader to its address that failed in a row although its heartbeats came.
    pub failed_calls: u64,
    /// Its disks.
    pub disks: Vec<DiskStatus>,
}

/// A metadata node as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its Raft id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Whether it leads.
    pub leader: bool,
    /// The last log index it is known to hold, if the leader knows. It stays as it is when the member ends.
    pub matched: Option<u64>,
    /// Entries of the leader's log that it is not known to hold, if the leader knows.
    pub behind: Option<u64>,
    /// Milliseconds since it last answered this leader, or since this leader was elected; 0 for the leader.
    pub silent_ms: u64,
    /// How its backups are, as it said last; none without a `[backup]` of its own.
    pub backup: Option<BackupStatus>,
}

/// How the scheduled backups of a metadata node are.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct BackupStatus {
    /// Milliseconds between backups, as configured.
    pub every_ms: u64,
    /// Milliseconds since the last one that was written and read back; since the start of the process where
    /// there is none.
    pub age_ms: u64,
    /// Why the last try, or the last look at the folder, failed; at most 200 bytes.
    pub failed: Option<String>,
}

/// Tells if new chunks are taken, as far as that is known without writing one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct WriteStatus {
    /// Pools with groups that have too few disks for a quorum of receipts.
    pub refusing: Vec<RefusingPool>,
    /// No upload that began before this time may commit, in milliseconds since the Unix epoch.
    pub fenced_before_ms: u64,
    /// For how long, in milliseconds, this leader has told commits to wait since the metadata come out of a
    /// restore; none if it does not.
    pub waiting_ms: Option<u64>,
}

/// A pool of which some groups take no new chunks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct RefusingPool {
    /// The pool.
    pub pool: PoolName,
    /// Groups with too few disks that take writes.
    pub refusing: u64,
    /// All its groups.
    pub groups: u64,
}

/// The clock of a node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ClockStatus {
    /// The node.
    pub name: NodeName,
    /// Milliseconds that it is ahead of the median of all, or behind it.
    pub off_ms: i64,
}

/// A process that goes by the name of another.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct CloneStatus {
    /// The name.
    pub name: NodeName,
    /// Where the one runs that the cluster knows.
    pub address: SocketAddr,
    /// Where the one is that was refused.
    pub refused: SocketAddr,
}

/// The cluster in one value.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's id.
    pub cluster: String,
    /// One sentence: safe or not, and why.
    pub summary: String,
    /// Chunks per grade.
    pub chunks: GradeCounts,
    /// Files, objects, and bytes as written by users.
    pub files: u64,
    /// Objects in all buckets.
    pub objects: u64,
    /// Bytes of all committed chunks, once each.
    pub chunk_bytes: u64,
    /// The same at full redundancy.
    pub redundant_bytes: u64,
    /// Notes of pieces that are missing.
    pub tickets: u64,
    /// Slots on their way.
    pub repair: RepairStatus,
    /// How full the cluster is.
    pub capacity: CapacityReport,
    /// When it will be full, if it goes on like this; none as long as too little is known.
    pub forecast: Option<Forecast>,
    /// Jobs that are running.
    pub jobs: u64,
    /// Jobs that are paused.
    pub jobs_paused: u64,
    /// Findings that are left out of what health is judged by.
    pub mutes: Vec<Mute>,
    /// Names that were removed and can still be had back.
    pub trash: u64,
    /// Chunks that nothing refers to and that wait for their deletion.
    pub condemned_chunks: u64,
    /// Bytes of those, once each; they are part of `chunk_bytes`.
    pub condemned_bytes: u64,
    /// Whether all deletion is held back, after a restore.
    pub deletion_held: bool,
    /// Pools.
    pub pools: Vec<Pool>,
    /// Metadata nodes.
    pub members: Vec<MemberStatus>,
    /// Data nodes.
    pub nodes: Vec<NodeStatus>,
    /// The cluster's clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// How far it is behind what most nodes say, in milliseconds, after a time without a quorum.
    pub clock_behind_ms: u64,
    /// How far it is ahead of what most nodes say, in milliseconds: it stands still for so long.
    pub clock_ahead_ms: u64,
    /// The clocks that the leader has heard of lately.
    pub clocks: Vec<ClockStatus>,
    /// Processes that were refused, since another goes by their name.
    pub clones: Vec<CloneStatus>,
    /// Volumes of metadata nodes, as far as they have said lately how much room there is.
    pub volumes: Vec<crate::volume::VolumeStatus>,
    /// Why commands that make the metadata grow are refused, if they are.
    pub metadata_full: Option<String>,
    /// Groups, fences and restores that keep new chunks out.
    pub writes: WriteStatus,
    /// Raft index that this was computed at.
    pub index: u64,
}
