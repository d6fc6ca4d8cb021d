//! The zone rule: at most ⌈width ÷ zones⌉ pieces of a chunk in one zone, always on distinct nodes.

use wmall_proto::{DiskId, NodeName, ZoneName};

/// A disk that may be given slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The disk.
    pub disk: DiskId,
    /// Its node.
    pub node: NodeName,
    /// Its node's zone.
    pub zone: ZoneName,
    /// Its share, relative to the others'; 0 takes nothing.
    pub weight: u32,
}

/// The rule for rows of one width over the zones there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneRule {
    /// The most pieces in one zone.
    pub per_zone: usize,
}

impl ZoneRule {
    /// The rule for this width over this many zones.
    pub fn new(width: usize, zones: usize) -> Self {
        Self { per_zone: width.div_ceil(zones.max(1)) }
    }

    /// Whether `next` may join a row that has these already.
    pub fn allows(&self, row: &[&Candidate], next: &Candidate) -> bool {
        row.iter().all(|c| c.node != next.node)
            && row.iter().filter(|c| c.zone == next.zone).count() < self.per_zone
    }

    /// Whether a whole row keeps it.
    pub fn keeps(&self, row: &[&Candidate]) -> bool {
        (0..row.len()).all(|i| self.allows(&row[..i], row[i]))
    }
}
