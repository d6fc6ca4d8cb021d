//! What the cluster did by itself, or found out, and why: the lines of `wmall events`. Acts of operators are in the audit
//! log (`identity.rs`), not here.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::capacity::CapacityLevel;
use crate::ids::DiskId;

/// Lines that are kept; the oldest go.
pub const MAX_EVENTS: u64 = 10_000;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Event {
    /// Its number: 1, 2, 3 and so on, for ever.
    pub number: u64,
    /// The leader's clock, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What happened.
    pub what: EventKind,
}

/// What may happen.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum EventKind {
    /// A disk has not answered for longer than the grace.
    DiskDown {
        /// The disk.
        disk: DiskId,
    },
    /// It answers again.
    DiskBack {
        /// The disk.
        disk: DiskId,
    },
    /// Nothing that a disk holds is vouched for any more: it was wiped, or can't tell what it lost.
    DiskUnvouched {
        /// The disk.
        disk: DiskId,
        /// Groups that it has slots of.
        groups: u64,
    },
    /// A disk came up as an older copy of what it was, or as a second one: what it holds is looked through
    /// before it counts.
    DiskCopied {
        /// The disk.
        disk: DiskId,
    },
    /// Slots were given to other disks: the first of them at once, those that follow once a minute.
    SlotsMove {
        /// Why, in the planner's words.
        reason: String,
        /// How many since the last such line.
        slots: u64,
    },
    /// Nothing is on its way any more: what a disk has been given since the last time that this was so.
    MovesArrived {
        /// The disk.
        disk: DiskId,
        /// Slots that it has all of.
        slots: u64,
    },
    /// A disk's own pieces were found missing or rotten, and will be fetched anew.
    PiecesBad {
        /// The disk.
        disk: DiskId,
        /// How many, in one report.
        pieces: u64,
    },
    /// The completeness ratio came to another level.
    Capacity {
        /// The level.
        level: CapacityLevel,
        /// The ratio in millionths.
        ratio_ppm: u64,
    },
    /// Too much vanished together: nothing is substituted.
    RepairHalted {
        /// Disks that vanished.
        disks: u64,
        /// Of so many in use.
        of: u64,
    },
    /// Repairs go on.
    RepairResumed,
    /// A job has ended by itself: its disks are empty.
    JobDone {
        /// Its number.
        job: u64,
        /// What it emptied.
        what: String,
    },
    /// A disk failed challenges: what it says it holds does not count, and is made anew elsewhere.
    DiskQuarantined {
        /// The disk.
        disk: DiskId,
        /// What it did.
        why: String,
    },
}

impl EventKind {
    /// The word for metrics and filters.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::DiskDown { .. } => "disk_down",
            Self::DiskBack { .. } => "disk_back",
            Self::DiskUnvouched { .. } => "disk_unvouched",
            Self::DiskCopied { .. } => "disk_copied",
            Self::SlotsMove { .. } => "slots_move",
            Self::MovesArrived { .. } => "moves_arrived",
            Self::PiecesBad { .. } => "pieces_bad",
            Self::Capacity { .. } => "capacity",
            Self::RepairHalted { .. } => "repair_halted",
            Self::RepairResumed => "repair_resumed",
            Self::JobDone { .. } => "job_done",
            Self::DiskQuarantined { .. } => "disk_quarantined",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskDown { disk } => {
                write!(
                    f,
                    "{disk} has not answered for longer than the grace; what it holds is made anew elsewhere"
                )
            }
            Self::DiskBack { disk } => write!(f, "{disk} answers again"),
            Self::DiskUnvouched { disk, groups } => {
                write!(f, "nothing on {disk} is vouched for any more; its {groups} groups are looked through")
            }
            Self::DiskCopied { disk } => {
                write!(
                    f,
                    "{disk} came up as an older or a second copy of itself; what it holds is looked through"
                )
            }
            Self::SlotsMove { reason, slots } => {
                let why = match reason.as_str() {
                    "lost" => "their disks do not answer",
                    "zone_rule" => "their rows break the zone rule",
                    "drain" => "their disks are to be emptied",
                    "balance" => "other disks have less than their share",
                    other => other,
                };
                write!(f, "{slots} slots move to other disks: {why}")
            }
            Self::MovesArrived { disk, slots } => {
                write!(f, "{disk} has all of the {slots} slots that it was given")
            }
            Self::PiecesBad { disk, pieces } => {
                write!(f, "{disk} found {pieces} of its pieces missing or rotten")
            }
            Self::Capacity { level, ratio_ppm } => {
                write!(f, "the completeness ratio is {:.2}: {}", *ratio_ppm as f64 / 1e6, level.as_str())
            }
            Self::RepairHalted { disks, of } => {
                write!(f, "{disks} of {of} disks in use vanished together; nothing is substituted")
            }
            Self::RepairResumed => f.write_str("repairs go on"),
            Self::JobDone { job, what } => write!(f, "job {job} is done: {what} is empty"),
            Self::DiskQuarantined { disk, why } => {
                write!(f, "{disk} is in quarantine: {why}; what it holds is made anew elsewhere")
            }
        }
    }
}
