//! What a plan of repairs is made from: facts about disks and groups, at one moment.

use std::collections::BTreeMap;

use wmall_proto::DiskId;
use wmall_proto::chunk::PieceState;
use wmall_proto::pg::PgKey;

use crate::zone_rule::Candidate;

/// Whether a disk answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskState {
    /// It does.
    Up,
    /// It does not, for less than the grace.
    Suspect,
    /// It does not, for longer; or it failed.
    Down,
}

/// What is known of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFact {
    /// Node, zone and weight.
    pub candidate: Candidate,
    /// Whether it answers.
    pub state: DiskState,
    /// Whether it is to be emptied.
    pub draining: bool,
    /// Nothing of that begins for now.
    pub drain_paused: bool,
    /// Where its slots should go, if that was said.
    pub successor: Option<DiskId>,
    /// Bytes that it may still take; 0 if it takes none.
    pub free_bytes: u64,
    /// Bytes that it may take of what is lost elsewhere, which is worth more than room to spare.
    pub last_bytes: u64,
    /// When it was found to be down, in milliseconds since the Unix epoch.
    pub down_since_ms: Option<u64>,
}

impl DiskFact {
    /// Whether it may be given slots.
    pub(crate) fn takes(&self) -> bool {
        self.state == DiskState::Up && !self.draining && self.candidate.weight > 0
    }

    /// Whether it should have none.
    pub(crate) fn leaves(&self) -> bool {
        (self.draining && !self.drain_paused) || self.candidate.weight == 0
    }
}

/// What is known of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFact {
    /// Its disk.
    pub disk: DiskId,
    /// Where it comes from, until its disk has everything.
    pub sources: Vec<DiskId>,
    /// Its disk has not been through the group yet.
    pub arriving: bool,
    /// What holds for chunks without a ticket.
    pub piece: PieceState,
}

/// What is known of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFact {
    /// Which.
    pub key: PgKey,
    /// Version of its row.
    pub row_version: u64,
    /// Pieces that bring a chunk back.
    pub needed: usize,
    /// Bytes of one slot's pieces, about; 0 if there are no chunks.
    pub slot_bytes: u64,
    /// Its slots.
    pub slots: Vec<SlotFact>,
}

impl GroupFact {
    pub(crate) fn live(&self) -> usize {
        self.slots.iter().filter(|s| s.piece == PieceState::Live).count()
    }

    pub(crate) fn moves(&self) -> bool {
        self.slots.iter().any(|s| !s.sources.is_empty())
    }
}

/// Everything that a plan is made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Disks.
    pub disks: BTreeMap<DiskId, DiskFact>,
    /// Groups, in the order of their keys.
    pub groups: Vec<GroupFact>,
    /// Zones that the zone rule counts.
    pub zones: usize,
    /// The planner's clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

impl Snapshot {
    /// Whether any disk has still to go through a group that it was given.
    pub fn is_anything_arriving(&self) -> bool {
        self.groups.iter().flat_map(|g| &g.slots).any(|s| s.arriving && !s.sources.is_empty())
    }
}
