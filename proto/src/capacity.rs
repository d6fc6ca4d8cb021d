//! How full the cluster is, as everybody prints it.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::DiskId;

/// How near the cluster is to where it can't hold everything.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum CapacityLevel {
    /// Below 0.70.
    #[default]
    Safe,
    /// From 0.70: the alarm.
    Warning,
    /// From 0.85.
    Danger,
    /// From 0.90: ordinary writes are refused.
    WritesStopped,
    /// From 0.95: the ledger's are, too. Deletes never are.
    LedgerStopped,
}

impl CapacityLevel {
    /// The ratio in millionths from which the alarm is raised.
    pub const WARNING_PPM: u64 = 700_000;
    /// From which it is urgent.
    pub const DANGER_PPM: u64 = 850_000;
    /// From which ordinary writes are refused.
    pub const WRITES_STOP_PPM: u64 = 900_000;
    /// From which the ledger's are.
    pub const LEDGER_STOPS_PPM: u64 = 950_000;

    /// The level of a ratio in millionths.
    pub fn of(ratio_ppm: u64) -> Self {
        match ratio_ppm {
            Self::LEDGER_STOPS_PPM.. => Self::LedgerStopped,
            Self::WRITES_STOP_PPM.. => Self::WritesStopped,
            Self::DANGER_PPM.. => Self::Danger,
            Self::WARNING_PPM.. => Self::Warning,
            _ => Self::Safe,
        }
    }

    /// The word, as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Warning => "warning",
            Self::Danger => "danger",
            Self::WritesStopped => "writes_stopped",
            Self::LedgerStopped => "ledger_stopped",
        }
    }
}

/// The ratio without something.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Loss {
    /// What would be gone.
    pub name: String,
    /// The ratio then, in millionths.
    pub ratio_ppm: u64,
}

/// How full the cluster is. Ratios are in millionths.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct CapacityReport {
    /// The completeness ratio: the larger of the next two.
    pub ratio_ppm: u64,
    /// Bytes needed over bytes that can be used.
    pub overall_ppm: u64,
    /// Bytes that the disks say they hold over bytes that can be used; each node's word counts up to its
    /// part.
    pub held_ppm: u64,
    /// The fill of the fullest disk, which is no part of the ratio: that disk refuses by itself.
    pub fullest_ppm: u64,
    /// That disk.
    pub fullest_disk: Option<DiskId>,
    /// What the ratio means.
    pub level: CapacityLevel,
    /// Bytes needed to hold everything at full redundancy, with dead bytes that are not compacted yet.
    pub needed_bytes: u64,
    /// Those dead bytes.
    pub dead_bytes: u64,
    /// Bytes that the zone rule lets the disks take, without what they keep for compaction.
    pub total_bytes: u64,
    /// Bytes of the disks, whatever the rule.
    pub raw_bytes: u64,
    /// The ratio if the node with the most room is gone.
    pub without_largest_node: Option<Loss>,
    /// The ratio if the zone with the most room is gone.
    pub without_largest_zone: Option<Loss>,
}

impl CapacityReport {
    /// The ratio where there is no room at all.
    pub const NO_ROOM_PPM: u64 = 1_000_000_000;
}

/// When a ratio is reached, if growth goes on as it did.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Crossing {
    /// The ratio, in millionths.
    pub ratio_ppm: u64,
    /// Whether it is reached already.
    pub reached: bool,
    /// The time by which it is reached as likely as not, in milliseconds since the Unix epoch; none if it is
    /// more than a hundred years away.
    pub p50_ms: Option<u64>,
    /// The time before which it is reached in one case of ten.
    pub p90_ms: Option<u64>,
}

/// How many peers of a size would bring the ratio back under the alarm.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct PeerAdvice {
    /// Bytes of each.
    pub peer_bytes: u64,
    /// So many for what is stored now; none if no number helps, because the zone rule can't use them.
    pub now: Option<u32>,
    /// So many for what will be stored in 90 days.
    pub in_90_days: Option<u32>,
}

/// When the cluster will be full.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Forecast {
    /// Samples of the past that it is made from, one an hour.
    pub samples: u32,
    /// The time that they span, in milliseconds.
    pub span_ms: u64,
    /// Bytes that are needed more each day, by the median.
    pub growth_per_day: i64,
    /// The same as it is exceeded in one case of ten.
    pub growth_per_day_p90: i64,
    /// When 0.70, 0.85 and 1.00 are reached.
    pub crossings: Vec<Crossing>,
    /// What would help.
    pub peers: PeerAdvice,
}

impl Forecast {
    /// In so many milliseconds the alarm at 0.70 may be raised, in one case of ten; none if it is raised
    /// already, or not in a hundred years.
    pub fn alarm_in_ms(&self, now_ms: u64) -> Option<u64> {
        let alarm =
            self.crossings.iter().find(|c| c.ratio_ppm == CapacityLevel::WARNING_PPM && !c.reached)?;
        Some(alarm.p90_ms?.saturating_sub(now_ms))
    }
}

/// Bytes needed at a time: what the forecast is made from. Repairs do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct UsageSample {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Live bytes at full redundancy.
    pub needed_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_where_they_should() {
        use CapacityLevel::*;
        let table = [
            (0, Safe),
            (699_999, Safe),
            (700_000, Warning),
            (849_999, Warning),
            (850_000, Danger),
            (899_999, Danger),
            (900_000, WritesStopped),
            (950_000, LedgerStopped),
            (u64::MAX, LedgerStopped),
        ];
        for (ratio, level) in table {
            assert_eq!(CapacityLevel::of(ratio), level, "{ratio}");
        }
    }
}
