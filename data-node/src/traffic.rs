//! Whether clients are being served right now, so that backfill steps back for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A client's call counts for so long.
const RECENT: Duration = Duration::from_millis(200);
/// Of its time, what backfill may take while clients are served: one part in so many.
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

    /// How long to rest after a piece of work that took so long: not at all while nobody else wants anything.
    pub(crate) fn rest(&self, took: Duration, now: Instant) -> Duration {
        let last = self.last.load(Ordering::Relaxed);
        let busy = last > 0 && now < self.start + Duration::from_millis(last) + RECENT;
        if busy { (took * (SHARE - 1)).min(LONGEST_REST) } else { Duration::ZERO }
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
    }
}
