//! Whether clients are being served right now, so that backfill steps back for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A client's call counts for so long.
pub(crate) const RECENT: Duration = Duration::from_millis(200);
/// Of its time, what a scrub may take while clients are served: one part in so many.
const SHARE: u32 = 4;
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// When the last client's call came.
pub(crate) struct Traffic {
    start: Instant,
    /// Milliseconds since `start`; 0 if none came yet.
    last: AtomicU64,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    /// A client's call.
    pub(crate) fn note(&self, now: Instant) {
        let at = now.saturating_duration_since(self.start).as_millis() as u64;
        self.last.fetch_max(at.max(1), Ordering::Relaxed);
    }

    fn is_busy(&self, now: Instant) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last > 0 && now < self.start + Duration::from_millis(last) + RECENT
    }

    /// How long to rest after a piece of work that took so long: not at all while nobody else wants anything.
    pub(crate) fn rest(&self, took: Duration, now: Instant) -> Duration {
        if self.is_busy(now) { (took * (SHARE - 1)).min(LONGEST_REST) } else { Duration::ZERO }
    }

    /// How many pieces may be fetched at the same time: one while clients are served, since several at once, however long they
    /// rest in between, now and then come together in the way of a client.
    pub(crate) fn fetches(&self, most: usize, now: Instant) -> usize {
        if self.is_busy(now) { 1 } else { most }
    }

    /// How long to rest after one of these: half the time of one is about a quarter of what all of them would do.
    pub(crate) fn rest_from_fetching(&self, took: Duration, now: Instant) -> Duration {
        if self.is_busy(now) { took.min(LONGEST_REST) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backfill_rests_only_while_clients_are_served() {
        let traffic = Traffic::new();
        let at = |ms| traffic.start + Duration::from_millis(ms);
        let took = Duration::from_millis(10);
        assert_eq!(traffic.rest(took, at(5)), Duration::ZERO);
        traffic.note(at(1000));
        traffic.note(at(400));
        assert_eq!(traffic.rest(took, at(1100)), 3 * took);
        assert_eq!(traffic.rest(Duration::from_secs(60), at(1100)), LONGEST_REST);
        assert_eq!(traffic.rest(took, at(1200)), Duration::ZERO);
        assert_eq!((traffic.fetches(4, at(1100)), traffic.fetches(4, at(1200))), (1, 4));
        let rest = |ms| traffic.rest_from_fetching(took, at(ms));
        assert_eq!((rest(1100), rest(1200)), (took, Duration::ZERO));
    }
}
