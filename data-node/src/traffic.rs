//! Whether clients are being served right now, so that backfill steps back for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A client's call counts for so long.
pub(crate) const RECENT: Duration = Duration::from_millis(200);
/// Of its time, what a scrub or a fetch may take while clients are served: one part in so many.
const SHARE: u32 = 4;
/// Bytes that are read at once then, from a peer in the same room: well below a millisecond of a core on either side.
const SMALL_STEP: u32 = 64 << 10;
/// From any other.
const LARGEST_STEP: u32 = 1 << 20;
/// A peer that is so far away in milliseconds is in another room. Where all is busy, next door is a few of them.
const NEAR_MS: u128 = 4;
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// For so long after a piece was fetched the node counts as filling.
const FILLING: Duration = Duration::from_secs(2);

/// When the last client's call came, and when the last piece was fetched.
pub(crate) struct Traffic {
    start: Instant,
    /// Milliseconds since `start`; 0 if none came yet.
    last: AtomicU64,
    fetched: AtomicU64,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0), fetched: AtomicU64::new(0) }
    }

    /// A client's call.
    pub(crate) fn note(&self, now: Instant) {
        self.last.fetch_max(self.since_start(now), Ordering::Relaxed);
    }

    /// A piece was fetched.
    pub(crate) fn note_fetched(&self, now: Instant) {
        self.fetched.fetch_max(self.since_start(now), Ordering::Relaxed);
    }

    fn since_start(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.start).as_millis() as u64).max(1)
    }

    fn is_within(&self, at: &AtomicU64, span: Duration, now: Instant) -> bool {
        let at = at.load(Ordering::Relaxed);
        at > 0 && now < self.start + Duration::from_millis(at) + span
    }

    fn is_busy(&self, now: Instant) -> bool {
        self.is_within(&self.last, RECENT, now)
    }

    /// Whether pieces are fetched: not whether any are wanted, which may be so for as long as nobody has them.
    pub(crate) fn is_filling(&self, now: Instant) -> bool {
        self.is_within(&self.fetched, FILLING, now)
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

    /// How much of a piece is read at once: while clients are served no more than one of them may have to wait for.
    /// From a peer that is far away it is more, since most of such a step is no work for anybody.
    pub(crate) fn step(&self, now: Instant, round_trip: Duration) -> u32 {
        let far = (round_trip.as_millis() / NEAR_MS) as u32;
        if self.is_busy(now) {
            SMALL_STEP.saturating_mul(far.saturating_add(1)).min(LARGEST_STEP)
        } else {
            u32::MAX
        }
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
        let step = |ms, far| traffic.step(at(ms), Duration::from_micros(far));
        assert_eq!([step(1100, 300), step(1100, 12_000), step(1100, 90_000)], [64 << 10, 256 << 10, 1 << 20]);
        assert_eq!(step(1200, 300), u32::MAX);
        assert!(!traffic.is_filling(at(1100)), "clients fill nothing");
        traffic.note_fetched(at(1000));
        assert_eq!((traffic.is_filling(at(2900)), traffic.is_filling(at(3000))), (true, false));
    }
}
