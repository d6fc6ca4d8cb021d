//! How long writes take to be durable: kept by the writer's thread, read by whoever asks.
//!
//! A disk that hangs says so by the write that is under way. Of those that have ended the second longest of
//! the last minute counts, each second by its longest: one hiccup says nothing of a disk, two of them do.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A write that has ended counts for so long.
const KEPT: Duration = Duration::from_secs(60);

/// Times of writes. Bounded: one a second of the last minute.
pub(crate) struct Syncs {
    start: Instant,
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    /// Since when one is under way.
    begun: Option<Instant>,
    /// The second in which writes ended, since the start, and the longest of them; in order.
    ended: VecDeque<(u64, Duration)>,
}

impl Syncs {
    pub(crate) fn new(now: Instant) -> Self {
        Self { start: now, times: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }

    /// Runs a write, and notes how long it took, whatever came of it.
    pub(crate) fn time<T>(&self, write: impl FnOnce() -> T) -> T {
        self.begin(Instant::now());
        let outcome = write();
        self.end(Instant::now());
        outcome
    }

    fn begin(&self, now: Instant) {
        self.lock().begun = Some(now);
    }

    fn end(&self, now: Instant) {
        let second = self.second(now);
        let mut times = self.lock();
        let Some(begun) = times.begun.take() else { return };
        let took = now.saturating_duration_since(begun);
        match times.ended.back_mut() {
            Some((last, longest)) if *last == second => *longest = took.max(*longest),
            _ => times.ended.push_back((second, took)),
        }
        times.ended.retain(|(at, _)| at + KEPT.as_secs() > second);
    }

    /// The second longest of the last minute, or the one under way if that has lasted longer.
    pub(crate) fn slow(&self, now: Instant) -> Duration {
        let second = self.second(now);
        let times = self.lock();
        let kept = times.ended.iter().filter(|(at, _)| at + KEPT.as_secs() > second);
        let mut longest: Vec<Duration> = kept.map(|(_, took)| *took).collect();
        longest.sort_unstable_by(|a, b| b.cmp(a));
        let under_way = times.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        longest.get(1).copied().unwrap_or_default().max(under_way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hiccup_is_none_and_two_are_told_until_a_minute_has_passed() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (syncs, ms) = (Syncs::new(start), Duration::from_millis);
        let write = |from: u64, to: u64| {
            syncs.begin(at(from));
            syncs.end(at(to));
        };
        assert_eq!(syncs.slow(at(0)), ms(0));
        write(0, 10);
        write(1000, 4000);
        assert_eq!(syncs.slow(at(4000)), ms(10), "one alone is a hiccup");
        // In the same second they are one.
        write(4000, 4900);
        assert_eq!(syncs.slow(at(4900)), ms(10));
        write(5000, 7500);
        assert_eq!(syncs.slow(at(7500)), ms(2500));
        assert_eq!(syncs.slow(at(63_999)), ms(2500));
        assert_eq!(syncs.slow(at(64_000)), ms(0), "the other one is a minute old");
        assert_eq!(syncs.slow(at(90_000)), ms(0));
    }

    #[test]
    fn one_that_hangs_is_told_while_it_does() {
        let start = Instant::now();
        let syncs = Syncs::new(start);
        syncs.begin(start);
        assert_eq!(syncs.slow(start + Duration::from_secs(20)), Duration::from_secs(20));
        syncs.end(start + Duration::from_secs(20));
        assert_eq!(syncs.slow(start + Duration::from_secs(20)), Duration::ZERO);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let start = Instant::now();
        let syncs = Syncs::new(start);
        for i in 0..1000 {
            syncs.begin(start + Duration::from_millis(i * 500));
            syncs.end(start + Duration::from_millis(i * 500 + 1));
        }
        assert_eq!(syncs.lock().ended.len(), 60);
    }
}
