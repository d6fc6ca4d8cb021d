//! Calls a second: a token bucket for each holder.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Holders above which those are forgotten who have not called for long.
const MANY: usize = 1024;

/// Calls that a holder may make in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run, in a second.
    pub a_second: u32,
    /// At once, after a rest.
    pub burst: u32,
}

/// A bucket: what is left of it, in thousandths of a call, as of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    left: u64,
    at: Duration,
}

impl Rate {
    fn full(self) -> u64 {
        u64::from(self.burst) * 1000
    }

    /// The bucket as it is later: a thousandth of the rate flows in each millisecond.
    fn refilled(self, bucket: Bucket, now: Duration) -> u64 {
        let ms = u64::try_from(now.saturating_sub(bucket.at).as_millis()).unwrap_or(u64::MAX);
        bucket.left.saturating_add(ms.saturating_mul(u64::from(self.a_second))).min(self.full())
    }
}

/// The buckets of all holders.
#[derive(Debug)]
pub struct Rates<K> {
    begun: Instant,
    buckets: BTreeMap<K, Bucket>,
}

impl<K: Ord + Clone> Rates<K> {
    /// All buckets are full.
    pub fn new() -> Self {
        Self { begun: Instant::now(), buckets: BTreeMap::new() }
    }

    /// Takes one out of a holder's bucket; false if it is empty.
    pub fn take(&mut self, who: &K, rate: Rate) -> bool {
        self.take_at(who, rate, self.begun.elapsed())
    }

    fn take_at(&mut self, who: &K, rate: Rate, now: Duration) -> bool {
        if self.buckets.len() > MANY {
            self.buckets.retain(|_, bucket| rate.refilled(*bucket, now) < rate.full());
        }
        let new = Bucket { left: rate.full(), at: now };
        let bucket = self.buckets.entry(who.clone()).or_insert(new);
        let left = rate.refilled(*bucket, now);
        // Only whole milliseconds have flowed in; the rest of this one is still to come.
        let at = bucket.at + Duration::from_millis(now.saturating_sub(bucket.at).as_millis() as u64);
        let taken = left >= 1000;
        *bucket = Bucket { left: if taken { left - 1000 } else { left }, at };
        taken
    }
}

impl<K: Ord + Clone> Default for Rates<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { a_second: 10, burst: 3 };

    fn granted(rates: &mut Rates<u8>, who: u8, ms: u64, tries: usize) -> usize {
        (0..tries).filter(|_| rates.take_at(&who, RATE, Duration::from_millis(ms))).count()
    }

    #[test]
    fn a_bucket_empties_at_once_and_fills_at_its_rate() {
        let mut rates = Rates::new();
        assert_eq!(granted(&mut rates, 1, 0, 9), 3);
        assert_eq!(granted(&mut rates, 2, 0, 9), 3, "each has its own");
        assert_eq!(granted(&mut rates, 1, 99, 9), 0);
        assert_eq!(granted(&mut rates, 1, 100, 9), 1);
        assert_eq!(granted(&mut rates, 1, 350, 9), 2);
        assert_eq!(granted(&mut rates, 1, 400, 9), 1, "what was left over counts");
        assert_eq!(granted(&mut rates, 1, 100_000, 9), 3, "and no more than a burst is saved up");
        let steady = (0..10_000u64).map(|ms| granted(&mut rates, 3, ms, 2)).sum::<usize>();
        assert_eq!(steady, 3 + 99, "ten a second, from the first burst on");
    }

    #[test]
    fn who_has_a_full_bucket_is_forgotten() {
        let mut rates: Rates<u32> = Rates::new();
        for who in 0..2 * MANY as u32 {
            rates.take_at(&who, RATE, Duration::from_secs(u64::from(who)));
        }
        assert!(rates.buckets.len() <= MANY + 1, "{}", rates.buckets.len());
    }
}
