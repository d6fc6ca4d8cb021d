//! What may be on its way at once, and how much of that is for what.

use crate::repair::Reason;

/// What may be on its way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Slots to one disk.
    pub to_disk: usize,
    /// Slots from one disk that answers, by drains and for balance. What is lost comes from many.
    pub from_disk: usize,
    /// Bytes to one disk, and from one that answers, for what can wait: what is lost is bounded by slots alone. However long a
    /// slot is, it counts for an eighth of this at most.
    pub disk_bytes: u64,
    /// The same for all disks of one node that answer: they share its link.
    pub link_bytes: u64,
}

impl Budget {
    /// No bounds: for what would be moved in the end.
    pub const ALL: Self =
        Self { to_disk: usize::MAX, from_disk: usize::MAX, disk_bytes: u64::MAX, link_bytes: u64::MAX };
}

/// What a slot counts for in a budget of bytes: so that a few long ones, which may wait for what nobody has, do not fill it.
pub(crate) fn counted(bytes: u64, all: u64) -> u64 {
    bytes.min((all / 8).max(1))
}

/// Whether a slot fits in what is left of a part of a budget.
pub(crate) fn fits(under_way: u64, bytes: u64, part: u64, all: u64) -> bool {
    under_way == 0 || under_way.saturating_add(counted(bytes, all)) <= part
}

/// How much of a budget is for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Half,
    MostOfIt,
    All,
}

impl Part {
    /// Half of what may be on its way to a disk is for what is lost, and a quarter of all for what the next loss would lose: that need
    /// not wait until something else has come.
    pub(crate) fn of(reason: Reason, margin: usize) -> Self {
        match (reason, margin) {
            (Reason::Lost, 0) => Self::All,
            (Reason::Lost, _) => Self::MostOfIt,
            _ => Self::Half,
        }
    }

    pub(crate) fn take(self, all: u64) -> u64 {
        match self {
            Self::Half => all.div_ceil(2),
            Self::MostOfIt => all - all / 4,
            Self::All => all,
        }
    }
}
