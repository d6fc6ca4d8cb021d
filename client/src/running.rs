//! Time in which this process ran. One that was stopped (a debugger, a full cgroup, the lid of a laptop)
//! finds all its deadlines over at once when it goes on, and would blame nodes that did nothing wrong.
//!
//! A task looks at the clock a few times a second. When a look comes far too late, the time since the one
//! before counts as one look's, so that deadlines end also where every look is late.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between looks.
pub(crate) const LOOK: Duration = Duration::from_millis(250);
/// A look that is later than this was not made by a process that ran. A busy machine delays by less.
const STOPPED: Duration = Duration::from_secs(3);

/// The clock.
#[derive(Debug)]
pub(crate) struct Running(Mutex<Looks>);

#[derive(Debug, Clone, Copy)]
struct Looks {
    last: Instant,
    ran: Duration,
    stopped: Duration,
}

/// A moment of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// How long the process had run.
    ran: Duration,
    /// How long it had been stopped, in all.
    stopped: Duration,
}

impl Running {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Looks::new(Instant::now())))
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the clock.
    pub(crate) fn now(&self) -> Moment {
        self.looks().look(Instant::now())
    }

    /// How long the process has run since.
    pub(crate) fn since(&self, then: Moment) -> Duration {
        self.now().ran.saturating_sub(then.ran)
    }

    /// How long it has been stopped since; none if it was not.
    pub(crate) fn stopped_since(&self, then: Moment) -> Option<Duration> {
        let stopped = self.now().stopped.saturating_sub(then.stopped);
        Some(stopped).filter(|s| !s.is_zero())
    }

    /// Goes on looking, for as long as it is not aborted.
    pub(crate) async fn keep_looking(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.now();
        }
    }
}

impl Looks {
    fn new(now: Instant) -> Self {
        Self { last: now, ran: Duration::ZERO, stopped: Duration::ZERO }
    }

    fn look(&mut self, now: Instant) -> Moment {
        let gap = now.saturating_duration_since(self.last);
        self.last = self.last.max(now);
        match gap >= STOPPED {
            true => {
                self.ran += LOOK;
                self.stopped += gap - LOOK;
            }
            false => self.ran += gap,
        }
        Moment { ran: self.ran, stopped: self.stopped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut looks = Looks::new(start);
        let moment = |ran, stopped| Moment {
            ran: Duration::from_millis(ran),
            stopped: Duration::from_millis(stopped),
        };
        assert_eq!(looks.look(at(250)), moment(250, 0));
        assert_eq!(looks.look(at(1_900)), moment(1_900, 0), "late, by a busy machine");
        assert_eq!(looks.look(at(71_900)), moment(2_150, 69_750), "stopped for 70 s");
        assert_eq!(looks.look(at(72_150)), moment(2_400, 69_750), "and it runs again");
        assert_eq!(looks.look(at(72_000)), moment(2_400, 69_750), "of two that look at once one is behind");
        assert_eq!(looks.look(at(72_400)), moment(2_650, 69_750));
    }
}
