//! How long nodes take, so that a reader knows when to stop waiting for one.
//!
//! Two things are kept: the times of the last reads of all disks together, whose 95th percentile says when a
//! read is late; and a running mean for each disk, by which slow ones are asked last. A read that was beaten by its
//! hedge counts with the time that it had taken by then. Nobody reads from a slow disk for long, so that verdict is good
//! for [`RETRY`] only. Times are by the
//! mebibyte for large chunks, so that sizes compare.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use wmall_proto::DiskId;

/// Reads that are remembered.
const SAMPLES: usize = 256;
/// Fewer say nothing yet.
const ENOUGH: usize = 16;
/// Before anything is known, and at most, a read is late after this.
const LATEST: Duration = Duration::from_millis(500);
/// And never before this: a hedge costs a second read.
const EARLIEST: Duration = Duration::from_millis(10);
/// A node that takes so many times the mean of all is slow.
const SLOW: f64 = 4.0;
/// How much a new time counts in a node's mean.
const WEIGHT: f64 = 0.1;

/// After so long a slow disk is given another try.
const RETRY: Duration = Duration::from_secs(30);

/// A disk's times.
#[derive(Debug)]
struct Disk {
    mean: f64,
    noted: Instant,
}

/// What is known of the disks' times.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    recent: VecDeque<f64>,
    // Bounded by the disks of the map.
    disks: HashMap<DiskId, Disk>,
}

/// Seconds for each begun mebibyte.
fn scaled(time: Duration, bytes: u32) -> f64 {
    time.as_secs_f64() / f64::from(bytes.div_ceil(1 << 20).max(1))
}

impl Latency {
    /// A read of so many bytes took so long.
    pub(crate) fn note(&mut self, disk: DiskId, bytes: u32, took: Duration, now: Instant) {
        let seconds = scaled(took, bytes);
        if self.recent.len() >= SAMPLES {
            self.recent.pop_front();
        }
        self.recent.push_back(seconds);
        self.weigh(disk, seconds, now);
    }

    /// A read was given up after so long, since another one was faster. How long it would have taken, nobody knows, so it
    /// says nothing of what is usual; that the disk takes longer than that, it does say.
    pub(crate) fn note_beaten(&mut self, disk: DiskId, bytes: u32, took: Duration, now: Instant) {
        let seconds = scaled(took, bytes);
        if self.disks.get(&disk).is_none_or(|d| d.mean < seconds) {
            self.weigh(disk, seconds, now);
        }
    }

    fn weigh(&mut self, disk: DiskId, seconds: f64, now: Instant) {
        let known = self.disks.entry(disk).or_insert(Disk { mean: seconds, noted: now });
        known.mean += WEIGHT * (seconds - known.mean);
        known.noted = now;
    }

    /// When a read of so many bytes is late: at the 95th percentile of what reads took.
    pub(crate) fn late_after(&self, bytes: u32) -> Duration {
        if self.recent.len() < ENOUGH {
            return LATEST;
        }
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let p95 = sorted[(sorted.len() - 1) * 95 / 100];
        let seconds = p95 * f64::from(bytes.div_ceil(1 << 20).max(1));
        Duration::from_secs_f64(seconds).clamp(EARLIEST, LATEST)
    }

    /// Whether a disk takes much longer than the others do.
    pub(crate) fn is_slow(&self, disk: DiskId, now: Instant) -> bool {
        let Some(own) = self.disks.get(&disk) else { return false };
        if now.saturating_duration_since(own.noted) > RETRY {
            return false;
        }
        let mut others: Vec<f64> =
            self.disks.iter().filter(|(d, _)| **d != disk).map(|(_, d)| d.mean).collect();
        if others.is_empty() {
            return false;
        }
        others.sort_by(f64::total_cmp);
        let median = others[others.len() / 2].max(EARLIEST.as_secs_f64() / 10.0);
        own.mean > SLOW * median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_late_at_the_95th_percentile_within_bounds() {
        let (mut latency, now) = (Latency::default(), Instant::now());
        assert_eq!(latency.late_after(1000), LATEST, "nothing is known yet");
        for i in 0..100 {
            latency.note(DiskId(i % 3), 1000, Duration::from_millis(20 + u64::from(i)), now);
        }
        let late = latency.late_after(1000);
        assert!(Duration::from_millis(113) < late && late < Duration::from_millis(117), "{late:?}");
        assert_eq!(latency.late_after(16 << 20), LATEST);
        (0..SAMPLES).for_each(|_| latency.note(DiskId(0), 1000, Duration::from_micros(50), now));
        assert_eq!(latency.late_after(1000), EARLIEST);
    }

    /// Disks 0 to 2 answer within 5 ms.
    fn three_that_are_fast(now: Instant) -> Latency {
        let mut latency = Latency::default();
        for _ in 0..20 {
            (0..3).for_each(|n| latency.note(DiskId(n), 1 << 20, Duration::from_millis(5), now));
        }
        latency
    }

    #[test]
    fn a_slow_disk_is_seen_and_recovers() {
        let now = Instant::now();
        let mut latency = three_that_are_fast(now);
        (0..20).for_each(|_| latency.note(DiskId(3), 1 << 20, Duration::from_millis(100), now));
        let slow = (0..4).map(|n| latency.is_slow(DiskId(n), now)).collect::<Vec<_>>();
        assert_eq!(slow, [false, false, false, true]);
        (0..60).for_each(|_| latency.note(DiskId(3), 1 << 20, Duration::from_millis(5), now));
        assert!(!latency.is_slow(DiskId(3), now));
        assert!(!latency.is_slow(DiskId(9), now), "nothing is known of it");
    }

    #[test]
    fn a_disk_that_never_answers_is_seen_by_the_hedges_that_beat_it_and_tried_again_later() {
        let now = Instant::now();
        let mut latency = three_that_are_fast(now);
        let usual = latency.late_after(1 << 20);
        latency.note(DiskId(3), 1 << 20, Duration::from_millis(5), now);
        (0..20).for_each(|_| latency.note_beaten(DiskId(3), 1 << 20, Duration::from_millis(60), now));
        assert!(latency.is_slow(DiskId(3), now));
        assert_eq!(latency.late_after(1 << 20), usual, "what is usual is what reads that ended took");
        assert!(!latency.is_slow(DiskId(3), now + RETRY + Duration::from_secs(1)));
        // One that was slow and is beaten early says nothing.
        latency.note_beaten(DiskId(3), 1 << 20, Duration::from_millis(1), now);
        assert!(latency.is_slow(DiskId(3), now));
    }
}
