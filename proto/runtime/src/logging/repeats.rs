//! Holds log lines back that come from one place in the code again and again: a node that is down must not
//! fill the volume of its neighbours.
//!
//! A place may write [`BURST`] lines at once, and one a second from then on. How many were held back is said
//! before the next one that comes through. Lines of debugging are asked for, and so never held back.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Filter};

use super::LogFormat;

/// Lines of one place that may come at once.
const BURST: u32 = 10;
/// Time after which a place may write one more.
const PAUSE: Duration = Duration::from_secs(1);

/// What one place in the code may still write.
#[derive(Debug)]
struct Place {
    left: u32,
    /// Until when pauses have been counted.
    since: Instant,
    held_back: u64,
}

impl Place {
    fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, held_back: 0 }
    }

    /// Judges a line of now. Some if it may be written, with the number of lines held back before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let pauses = now.saturating_duration_since(self.since).as_secs() / PAUSE.as_secs();
        self.left = self.left.saturating_add(pauses.min(u64::from(BURST)) as u32).min(BURST);
        self.since = if self.left == BURST { now } else { self.since + PAUSE * pauses as u32 };
        if self.left == 0 {
            self.held_back += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

/// The filter. Its map has one entry for each place in the code that has written a line.
pub(super) struct Repeats {
    format: LogFormat,
    places: Mutex<HashMap<Identifier, Place>>,
}

impl Repeats {
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format, places: Mutex::default() }
    }

    /// Says how many lines are missing here. A log event made while another one is handled would be dropped,
    /// so this goes out by itself.
    fn say(&self, count: u64, of: &Metadata<'_>) {
        let mut time = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let (level, target) = (of.level(), of.target());
        let message = format!("{count} lines of the kind of the next one are left out");
        let line = match self.format {
            LogFormat::Pretty => format!("{time} {level:>5} {target}: {message}"),
            LogFormat::Json => format!(
                r#"{{"timestamp":"{time}","level":"{level}","fields":{{"message":"{message}","left_out":{count}}},"target":"{target}"}}"#
            ),
        };
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

impl<S> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let of = event.metadata();
        if *of.level() > Level::INFO {
            return true;
        }
        let now = Instant::now();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = places.entry(of.callsite()).or_insert_with(|| Place::new(now)).admit(now);
        drop(places);
        if let Some(held_back) = admitted.filter(|held_back| *held_back > 0) {
            self.say(held_back, of);
        }
        admitted.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_writes_a_burst_and_then_one_line_a_second() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut place = Place::new(begun);
        let mut written = Vec::new();
        // Ten lines a second, for five seconds.
        for n in 0..50 {
            written.extend(place.admit(at(n * 100)).map(|held_back| (n, held_back)));
        }
        let burst = (0..10).map(|n| (n, 0));
        let later = [(10, 0), (20, 9), (30, 9), (40, 9)];
        assert_eq!(written, burst.chain(later).collect::<Vec<_>>());
        // After a rest it has its burst again, and says what is missing.
        assert_eq!(place.admit(at(60_000)), Some(9));
        assert_eq!((0..20).filter(|_| place.admit(at(60_001)).is_some()).count(), BURST as usize - 1);
    }
}
