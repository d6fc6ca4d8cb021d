//! When the cluster will be full, by what it needed in the past.
//!
//! Growth is a Theil–Sen slope (Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968):
//! the median of the slopes between pairs of samples, which single jumps do not move. It is taken over seven
//! and over thirty days. What is planned with is the median of the longer one; what is warned of is what one
//! pair in ten exceeds, in either. Samples are of live bytes at full redundancy, so repairs and moves do not
//! show in them.

use std::collections::BTreeMap;

use wmall_proto::capacity::{CapacityLevel, CapacityReport, Crossing, Forecast, PeerAdvice, UsageSample};
use wmall_proto::{NodeName, ZoneName};

use crate::capacity::{DiskSpace, PoolNeed, overall_ppm};

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;
/// Samples that are looked at in one window: pairs grow with the square.
const MAX_SAMPLES: usize = 200;
/// Fewer samples say nothing.
const MIN_SAMPLES: usize = 4;
/// Beyond this nobody plans.
const HORIZON: u64 = 100 * 365 * DAY;
/// More peers than this are no advice.
const MAX_PEERS: u32 = 1000;

/// What the cluster is like, for the advice.
#[derive(Debug, Clone, Copy)]
pub struct Space<'a> {
    /// The disks.
    pub disks: &'a [DiskSpace],
    /// What the pools keep.
    pub pools: &'a [PoolNeed],
    /// The report of now, by the same.
    pub report: &'a CapacityReport,
}

/// The forecast; none as long as there are too few samples, or nothing is stored.
pub fn forecast(samples: &[UsageSample], space: Space<'_>, now_ms: u64) -> Option<Forecast> {
    let last = samples.last()?;
    if samples.len() < MIN_SAMPLES || last.needed_bytes == 0 || space.report.ratio_ppm == 0 {
        return None;
    }
    let windows = [30 * DAY, 7 * DAY].map(|days| slopes(samples, last.at_ms.saturating_sub(days)));
    let [long, short] = &windows;
    let p50 = part_of(long, 50)?;
    let p90 = part_of(long, 90)?.max(part_of(short, 90).unwrap_or(p50)).max(p50);
    let crossing = |ratio_ppm: u64| {
        let reached = space.report.ratio_ppm >= ratio_ppm;
        // Ratio and fill grow with what is stored.
        let full = last.needed_bytes as f64 * ratio_ppm as f64 / space.report.ratio_ppm as f64;
        let left = full - last.needed_bytes as f64;
        let at = |slope: f64| {
            let ms = left / slope;
            let in_sight = !reached && slope > 0.0 && ms < HORIZON as f64;
            in_sight.then(|| now_ms.max(last.at_ms) + ms as u64)
        };
        Crossing { ratio_ppm, reached, p50_ms: at(p50), p90_ms: at(p90) }
    };
    let growth = (p50 * (90 * DAY) as f64).max(0.0) / last.needed_bytes as f64;
    Some(Forecast {
        samples: samples.len() as u32,
        span_ms: last.at_ms.saturating_sub(samples[0].at_ms),
        growth_per_day: (p50 * DAY as f64) as i64,
        growth_per_day_p90: (p90 * DAY as f64) as i64,
        crossings: [CapacityLevel::WARNING_PPM, CapacityLevel::DANGER_PPM, 1_000_000].map(crossing).into(),
        peers: peers(space, growth)?,
    })
}

/// Bytes a millisecond between pairs of samples since a time, in order. Pairs that are near each other tell
/// of noise, so only those count that are a quarter of the span apart.
fn slopes(samples: &[UsageSample], since_ms: u64) -> Vec<f64> {
    let window: Vec<&UsageSample> = samples.iter().filter(|s| s.at_ms >= since_ms).collect();
    let step = window.len().div_ceil(MAX_SAMPLES).max(1);
    // From the end, so that the newest is among them.
    let mut picked: Vec<&UsageSample> = window.into_iter().rev().step_by(step).collect();
    picked.reverse();
    let span = picked.last().map_or(0, |last| last.at_ms.saturating_sub(picked[0].at_ms));
    let mut slopes = Vec::new();
    for (i, a) in picked.iter().enumerate() {
        for b in &picked[i + 1..] {
            let time = b.at_ms.saturating_sub(a.at_ms);
            if time > 0 && time >= span / 4 {
                slopes.push((b.needed_bytes as f64 - a.needed_bytes as f64) / time as f64);
            }
        }
    }
    slopes.sort_by(f64::total_cmp);
    slopes
}

fn part_of(sorted: &[f64], percent: usize) -> Option<f64> {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied()
}

/// How many more nodes of the usual size it takes to be below the alarm, now and with so much more stored.
fn peers(space: Space<'_>, growth: f64) -> Option<PeerAdvice> {
    let mut nodes: BTreeMap<&NodeName, u64> = BTreeMap::new();
    for disk in space.disks.iter().filter(|d| d.counts) {
        let bytes = nodes.entry(&disk.node).or_default();
        *bytes = bytes.saturating_add(disk.max_bytes);
    }
    let mut sizes: Vec<u64> = nodes.into_values().collect();
    sizes.sort_unstable();
    let peer_bytes = *sizes.get(sizes.len() / 2)?;
    let grown: Vec<PoolNeed> = space
        .pools
        .iter()
        .map(|p| PoolNeed { bytes: (p.bytes as f64 * (1.0 + growth)) as u64, ..*p })
        .collect();
    let now = peers_for(space.disks, space.pools, peer_bytes);
    let in_90_days = peers_for(space.disks, &grown, peer_bytes);
    Some(PeerAdvice { peer_bytes, now, in_90_days })
}

/// Each goes to the zone that has the least room, as a sensible operator would have it. More of them never
/// make the ratio worse, so the number is found by halving.
fn peers_for(disks: &[DiskSpace], pools: &[PoolNeed], peer_bytes: u64) -> Option<u32> {
    let counting: Vec<&DiskSpace> = disks.iter().filter(|d| d.counts).collect();
    let is_enough = |added: &[DiskSpace]| {
        let all: Vec<&DiskSpace> = counting.iter().copied().chain(added).collect();
        overall_ppm(&all, pools) < CapacityLevel::WARNING_PPM
    };
    if is_enough(&[]) {
        return Some(0);
    }
    let added = added_peers(&counting, peer_bytes)?;
    let (mut few, mut enough) = (0, added.len());
    if !is_enough(&added) {
        return None;
    }
    while enough - few > 1 {
        let middle = (few + enough) / 2;
        if is_enough(&added[..middle]) { enough = middle } else { few = middle }
    }
    u32::try_from(enough).ok()
}

/// As many more nodes as are ever advised.
fn added_peers(counting: &[&DiskSpace], peer_bytes: u64) -> Option<Vec<DiskSpace>> {
    let mut zones: BTreeMap<ZoneName, u64> = BTreeMap::new();
    for disk in counting {
        let bytes = zones.entry(disk.zone.clone()).or_default();
        *bytes = bytes.saturating_add(disk.max_bytes);
    }
    let add = |count| {
        let (zone, room) = zones.iter_mut().min_by_key(|(_, room)| **room)?;
        *room = room.saturating_add(peer_bytes);
        Some(DiskSpace {
            disk: wmall_proto::DiskId(u32::MAX - count),
            node: NodeName::new(format!("new-{count}")).ok()?,
            zone: zone.clone(),
            max_bytes: peer_bytes,
            reserved_bytes: 0,
            used_bytes: 0,
            dead_bytes: 0,
            counts: true,
        })
    };
    (0..MAX_PEERS).map(add).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity;
    use wmall_proto::DiskId;

    const GIB: u64 = 1 << 30;

    fn disks(count: u32, each: u64) -> Vec<DiskSpace> {
        let disk = |n: u32| DiskSpace {
            disk: DiskId(n),
            node: NodeName::new(format!("data-{n}")).unwrap(),
            zone: ZoneName::new(format!("z{n}")).unwrap(),
            max_bytes: each,
            reserved_bytes: 0,
            used_bytes: 0,
            dead_bytes: 0,
            counts: true,
        };
        (1..=count).map(disk).collect()
    }

    /// 3 disks of 100 GiB, 3 copies of 50 GiB: half full.
    fn half_full(samples: &[UsageSample]) -> Option<Forecast> {
        let (disks, pools) =
            (disks(3, 100 * GIB), [PoolNeed { scheme: "3x".parse().unwrap(), bytes: 50 * GIB }]);
        let report = capacity(&disks, &pools);
        assert_eq!(report.ratio_ppm, 500_000);
        let now = samples.last().map_or(0, |s| s.at_ms);
        forecast(samples, Space { disks: &disks, pools: &pools, report: &report }, now)
    }

    /// A sample each six hours for so many days, with this growth a day up to 150 GiB needed.
    fn steady(days: u64, per_day: u64) -> Vec<UsageSample> {
        let n = days * 4;
        let sample = |i: u64| UsageSample {
            at_ms: (1000 + i) * DAY / 4,
            needed_bytes: 150 * GIB - (n - i) * per_day / 4,
        };
        (0..=n).map(sample).collect()
    }

    fn days(f: &Forecast, i: usize, from: u64) -> Option<u64> {
        f.crossings[i].p50_ms.map(|at| (at - from) / DAY)
    }

    #[test]
    fn steady_growth_leads_where_it_should() {
        let samples = steady(10, 3 * GIB);
        let f = half_full(&samples).unwrap();
        let now = samples.last().unwrap().at_ms;
        // 210, 255 and 300 GiB at three a day.
        assert_eq!([0, 1, 2].map(|i| days(&f, i, now)), [Some(20), Some(35), Some(50)]);
        assert!((f.growth_per_day - 3 * GIB as i64).abs() < 1000 && f.samples == 41, "{f:?}");
        assert_eq!(f.alarm_in_ms(now).map(|ms| ms / DAY), Some(20), "nothing varies");
        // 420 GiB in 90 days: more than 600 usable are needed, and a third of that in each zone.
        assert_eq!(
            (f.peers.peer_bytes, f.peers.now, f.peers.in_90_days),
            (100 * GIB, Some(0), Some(6)),
            "{f:?}"
        );
    }

    #[test]
    fn a_jump_and_a_dip_do_not_move_the_median() {
        let mut samples = steady(10, 3 * GIB);
        samples[20].needed_bytes *= 3;
        samples[21].needed_bytes /= 5;
        let f = half_full(&samples).unwrap();
        assert!((f.growth_per_day - 3 * GIB as i64).abs() < GIB as i64 / 10, "{f:?}");
        assert!(f.growth_per_day_p90 >= f.growth_per_day);
    }

    #[test]
    fn what_does_not_grow_is_never_full_and_too_little_says_nothing() {
        let f = half_full(&steady(10, 0)).unwrap();
        assert!(f.crossings.iter().all(|c| c.p50_ms.is_none() && !c.reached), "{f:?}");
        assert_eq!((f.peers.now, f.peers.in_90_days), (Some(0), Some(0)));
        assert_eq!(half_full(&[]), None);
        assert_eq!(half_full(&steady(10, GIB)[..3]), None);
    }

    #[test]
    fn a_week_that_grows_faster_than_the_month_is_warned_of() {
        let mut samples = steady(30, GIB);
        let from = samples.len() - 24;
        for (i, sample) in samples[from..].iter_mut().enumerate() {
            sample.needed_bytes = 145 * GIB + (i as u64 + 1) * 2 * GIB;
        }
        let f = half_full(&samples).unwrap();
        assert!(f.growth_per_day_p90 > 5 * f.growth_per_day, "{f:?}");
    }

    #[test]
    fn what_is_reached_is_said_and_peers_are_counted_by_zones() {
        let (disks, pools) =
            (disks(3, 100 * GIB), [PoolNeed { scheme: "3x".parse().unwrap(), bytes: 90 * GIB }]);
        let report = capacity(&disks, &pools);
        let samples: Vec<UsageSample> =
            (0..20).map(|i| UsageSample { at_ms: i * DAY, needed_bytes: 270 * GIB }).collect();
        let f = forecast(&samples, Space { disks: &disks, pools: &pools, report: &report }, 0).unwrap();
        assert_eq!(f.crossings.iter().map(|c| c.reached).collect::<Vec<_>>(), [true, true, false]);
        // Three copies in three zones: one more peer in one zone helps nobody, three do.
        assert_eq!(f.peers.now, Some(3));
        assert_eq!(f.alarm_in_ms(0), None);
    }

    /// A cluster that fills within the hour needs more peers than anybody adds: that must not take long to
    /// find.
    #[test]
    fn more_peers_than_are_ever_advised_are_no_advice() {
        let pools = [PoolNeed { scheme: "3x".parse().unwrap(), bytes: 1 << 60 }];
        assert_eq!(peers_for(&[], &pools, GIB), None);
        let disks: Vec<DiskSpace> = (1..=3u32).map(|n| disk_of(n, GIB)).collect();
        assert_eq!(peers_for(&disks, &pools, GIB), None);
        let small = [PoolNeed { bytes: GIB, ..pools[0] }];
        // 3 GiB of 5 are below 0.7: two more.
        assert_eq!(peers_for(&disks, &small, GIB), Some(2));
        assert_eq!(peers_for(&disks, &[PoolNeed { bytes: 1, ..pools[0] }], GIB), Some(0));
    }

    fn disk_of(n: u32, max_bytes: u64) -> DiskSpace {
        DiskSpace {
            disk: DiskId(n),
            node: NodeName::new(format!("data-{n}")).unwrap(),
            zone: "z".parse().unwrap(),
            max_bytes,
            reserved_bytes: 0,
            used_bytes: 0,
            dead_bytes: 0,
            counts: true,
        }
    }
}
