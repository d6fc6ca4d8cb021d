//! Grades: how far a chunk is from loss, in one word.

use std::ops::AddAssign;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::{DiskId, FileId, PoolId};
use crate::names::NodeName;
use crate::pg::PgId;

/// From best to worst; the order of the variants is the order of concern.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Every promised piece is live and the zone rule is kept.
    Stable,
    /// Less than promised, but the next loss loses no data.
    Warning,
    /// The next loss loses data.
    Danger,
    /// Too few pieces answer now; enough are on disks that may come back.
    Unavailable,
    /// Too few pieces are left anywhere.
    Lost,
}

impl Grade {
    /// All of them, best first.
    pub const ALL: [Self; 5] = [Self::Stable, Self::Warning, Self::Danger, Self::Unavailable, Self::Lost];

    /// The word, as it is printed and exported.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Warning => "warning",
            Self::Danger => "danger",
            Self::Unavailable => "unavailable",
            Self::Lost => "lost",
        }
    }
}

/// Chunks per grade.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct GradeCounts {
    /// Chunks graded stable.
    pub stable: u64,
    /// Chunks graded warning.
    pub warning: u64,
    /// Chunks graded danger.
    pub danger: u64,
    /// Chunks graded unavailable.
    pub unavailable: u64,
    /// Chunks graded lost.
    pub lost: u64,
}

impl GradeCounts {
    /// Adds `count` chunks of a grade.
    pub fn add(&mut self, grade: Grade, count: u64) {
        *self.slot(grade) += count;
    }

    /// How many have this grade.
    pub fn get(&self, grade: Grade) -> u64 {
        let mut copy = *self;
        *copy.slot(grade)
    }

    /// All chunks.
    pub fn total(&self) -> u64 {
        Grade::ALL.iter().map(|&g| self.get(g)).sum()
    }

    /// The worst grade that any chunk has; stable when there are none.
    pub fn worst(&self) -> Grade {
        Grade::ALL.into_iter().rev().find(|&g| self.get(g) > 0).unwrap_or(Grade::Stable)
    }

    fn slot(&mut self, grade: Grade) -> &mut u64 {
        match grade {
            Grade::Stable => &mut self.stable,
            Grade::Warning => &mut self.warning,
            Grade::Danger => &mut self.danger,
            Grade::Unavailable => &mut self.unavailable,
            Grade::Lost => &mut self.lost,
        }
    }
}

/// Whose grades are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum GradesOf {
    /// The chunks of a file from this one on, as many as a page of it has.
    File {
        /// The file.
        id: FileId,
        /// Number of the first chunk.
        first: u64,
    },
    /// The chunks of a placement group.
    Group(PoolId, PgId),
    /// The chunks that a disk has pieces of.
    Disk(DiskId),
    /// The chunks that a node has pieces of.
    Node(NodeName),
    /// All chunks of a pool.
    Pool(PoolId),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct GradesView {
    /// Chunks by grade, now.
    pub now: GradeCounts,
    /// The same chunks, if the disk or the node were gone; for the others, if the node were gone whose loss is the worst.
    pub without: GradeCounts,
    /// What would be gone.
    pub lost: Option<NodeName>,
    /// Chunks that the answer is about: of a file, as many as the page has.
    pub chunks: u64,
}

impl AddAssign for GradeCounts {
    fn add_assign(&mut self, other: Self) {
        for grade in Grade::ALL {
            self.add(grade, other.get(grade));
        }
    }
}
