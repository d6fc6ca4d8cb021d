//! How long nodes take, so that a reader knows when to stop waiting for one.
//!
//! Two things are kept: the times of the last reads of all nodes together, whose 95th percentile says when a
//! read is late; and a running mean for each node, by which slow ones are asked last. Times are by the
//! mebibyte for large chunks, so that sizes compare.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use wmall_proto::NodeName;

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

/// What is known of the nodes' times.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    recent: VecDeque<f64>,
    // Bounded by the nodes of the map.
    means: HashMap<NodeName, f64>,
}

/// Seconds for each begun mebibyte.
fn scaled(time: Duration, bytes: u32) -> f64 {
    time.as_secs_f64() / f64::from(bytes.div_ceil(1 << 20).max(1))
}

impl Latency {
    /// A read of so many bytes took so long.
    pub(crate) fn note(&mut self, node: &NodeName, bytes: u32, took: Duration) {
        let seconds = scaled(took, bytes);
        if self.recent.len() >= SAMPLES {
            self.recent.pop_front();
        }
        self.recent.push_back(seconds);
        match self.means.get_mut(node) {
            Some(mean) => *mean += WEIGHT * (seconds - *mean),
            None => drop(self.means.insert(node.clone(), seconds)),
        }
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

    /// Whether a node takes much longer than the others do.
    pub(crate) fn is_slow(&self, node: &NodeName) -> bool {
        let Some(own) = self.means.get(node) else { return false };
        let mut others: Vec<f64> = self.means.iter().filter(|(n, _)| *n != node).map(|(_, &m)| m).collect();
        if others.is_empty() {
            return false;
        }
        others.sort_by(f64::total_cmp);
        let median = others[others.len() / 2].max(EARLIEST.as_secs_f64() / 10.0);
        *own > SLOW * median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: usize) -> NodeName {
        NodeName::new(format!("data-{n}")).unwrap()
    }

    #[test]
    fn a_read_is_late_at_the_95th_percentile_within_bounds() {
        let mut latency = Latency::default();
        assert_eq!(latency.late_after(1000), LATEST, "nothing is known yet");
        for i in 0..100 {
            latency.note(&node(i % 3), 1000, Duration::from_millis(20 + i as u64));
        }
        let late = latency.late_after(1000);
        assert!(Duration::from_millis(113) < late && late < Duration::from_millis(117), "{late:?}");
        assert_eq!(latency.late_after(16 << 20), LATEST);
        (0..SAMPLES).for_each(|_| latency.note(&node(0), 1000, Duration::from_micros(50)));
        assert_eq!(latency.late_after(1000), EARLIEST);
    }

    #[test]
    fn a_slow_node_is_seen_and_recovers() {
        let mut latency = Latency::default();
        for _ in 0..20 {
            (0..3).for_each(|n| latency.note(&node(n), 1 << 20, Duration::from_millis(5)));
            latency.note(&node(3), 1 << 20, Duration::from_millis(100));
        }
        assert_eq!(
            (0..4).map(|n| latency.is_slow(&node(n))).collect::<Vec<_>>(),
            [false, false, false, true]
        );
        (0..60).for_each(|_| latency.note(&node(3), 1 << 20, Duration::from_millis(5)));
        assert!(!latency.is_slow(&node(3)));
        assert!(!latency.is_slow(&node(9)), "nothing is known of it");
    }
}
