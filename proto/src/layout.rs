//! The layout: which share of the placement each disk has. A draft is staged, looked at, and applied as a
//! whole.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::DiskId;
use crate::job::Place;
use crate::names::{NodeName, ZoneName};

/// The largest weight that a disk may have.
pub const MAX_WEIGHT: u32 = 1_000_000;

/// Whether a disk may have this weight: 1 to [`MAX_WEIGHT`].
pub fn is_weight(weight: u32) -> bool {
    (1..=MAX_WEIGHT).contains(&weight)
}

/// What an operator does with the draft.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum LayoutChange {
    /// Gives a disk another weight, in the draft.
    Stage {
        /// The disk.
        disk: Place,
        /// Its weight: 1 to [`MAX_WEIGHT`].
        weight: u32,
    },
    /// Makes the draft the layout, if it is still the one that was looked at.
    Apply {
        /// [`LayoutDraft::version`] of what was looked at.
        version: u64,
    },
    /// Drops the draft.
    Revert,
    /// Takes into the draft what waits of a node: weights of its disks, and its zone.
    Accept {
        /// The node.
        node: NodeName,
    },
}

/// Weights that are not in force yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct LayoutDraft {
    /// Raft index of the last change to it.
    pub version: u64,
    /// The disks whose weights change, in the order of their numbers.
    pub weights: Vec<(DiskId, u32)>,
    /// The nodes whose zones change, in the order of their names.
    pub zones: Vec<(NodeName, ZoneName)>,
}

impl LayoutDraft {
    /// True if nothing is staged.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty() && self.zones.is_empty()
    }
}

/// A disk in the layout, and what the draft would do to it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct LayoutDisk {
    /// Its number.
    pub disk: DiskId,
    /// Its node.
    pub node: NodeName,
    /// Its name there.
    pub name: String,
    /// Its node's zone.
    pub zone: ZoneName,
    /// Its weight.
    pub weight: u32,
    /// Its node's zone by the draft.
    pub draft_zone: ZoneName,
    /// The zone that its node asks for, if that waits.
    pub waiting_zone: Option<ZoneName>,
    /// Its weight by the draft.
    pub draft_weight: u32,
    /// The weight that its node asks for, if that waits.
    pub waiting_weight: Option<u32>,
    /// Slots of groups that it has.
    pub slots: u64,
    /// Slots that it would have in the end.
    pub draft_slots: u64,
    /// Bytes that would come to it, about.
    pub bytes_in: u64,
    /// Bytes that would leave it, about.
    pub bytes_out: u64,
    /// Why it would get nothing, if so.
    pub why_nothing: Option<String>,
}

/// The layout and the draft.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct LayoutView {
    /// The draft's version, for `apply`; none if nothing is staged.
    pub version: Option<u64>,
    /// All disks.
    pub disks: Vec<LayoutDisk>,
    /// Slots that would move, if the draft is applied.
    pub slots: u64,
    /// Bytes that would move, about.
    pub bytes: u64,
    /// Bytes that would come to each zone and leave it, about.
    pub zones: Vec<(ZoneName, u64, u64)>,
    /// Slots that should move and would have no place.
    pub stuck: u64,
}
