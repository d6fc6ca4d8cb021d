//! The cluster's clock. It is a number in the replicated state, and the leader moves it on with each entry:
//! no faster than twice its monotonic clock, and never above the median of what members and data nodes say.
//! So no single clock, and no minority of them, moves anything that goes by time: what is kept, locked,
//! fenced or forgotten.
//!
//! Two functions decide; the rest is memory: what was heard of each node's clock, and the last reading.
//! Bounded by the members and the nodes that are registered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use wmall_proto::NodeName;
use wmall_proto::clock::CATCH_UP_RATE;
use wmall_proto::status::ClockStatus;

use crate::raft::is_leader;
use crate::state::{Clock, State};
use crate::types::Raft;

/// A clock that was heard counts for so long.
const HEARD_FOR: Duration = Duration::from_secs(30);

/// A member whose clock is off by more does not lead: certificates have an hour of slack.
const ASIDE_MS: u64 = 1_800_000;

/// The lower median; none of nothing.
fn median(mut readings: Vec<u64>) -> Option<u64> {
    readings.sort_unstable();
    readings.get(readings.len().checked_sub(1)? / 2).copied()
}

/// The clock `elapsed_ms` of the leader's monotonic clock after it was `before`. Without a median it stands
/// still.
fn advance(before: Clock, elapsed_ms: u64, median: Option<u64>) -> u64 {
    let Some(median) = median else { return before.now_ms };
    let latest = match before.may_jump {
        true => median,
        false => median.min(before.now_ms.saturating_add(elapsed_ms.saturating_mul(CATCH_UP_RATE))),
    };
    before.now_ms.max(latest)
}

/// The clock of a member that does not lead: as of the last entry, moved on since by its monotonic clock to
/// `moved_ms`. While the cluster's clock stands still that would run ahead of it without bound, so it goes no
/// further than the member's own.
fn followed(stored_ms: u64, moved_ms: u64, own_ms: u64) -> u64 {
    stored_ms.max(moved_ms.min(own_ms))
}

/// A node's clock as it was heard.
#[derive(Clone, Copy)]
struct Heard {
    now_ms: u64,
    at: Instant,
}

impl Heard {
    /// Reading of the node's clock now, if it goes on.
    fn now_ms(&self, now: Instant) -> u64 {
        self.now_ms.saturating_add(now.saturating_duration_since(self.at).as_millis() as u64)
    }
}

#[derive(Default)]
struct Memory {
    /// By name. Members and data nodes share no names.
    heard: HashMap<String, Heard>,
    /// The last reading, and when; none while this member does not lead.
    last: Option<(Clock, Instant)>,
    /// The last entry's clock, and when this member saw it first.
    seen: Option<(u64, Instant)>,
    leading_since: Option<Instant>,
}

/// The clock.
pub struct ClusterClock {
    name: NodeName,
    state: Arc<State>,
    raft: OnceLock<Raft>,
    memory: Mutex<Memory>,
}

/// How the clocks are, for the status.
#[derive(Default)]
pub(crate) struct Clocks {
    pub(crate) now_ms: u64,
    /// How far the cluster's clock is behind the median.
    pub(crate) behind_ms: u64,
    /// How far it is ahead of it.
    pub(crate) ahead_ms: u64,
    pub(crate) all: Vec<ClockStatus>,
}

impl ClusterClock {
    /// A clock that stands as the state says until this member takes part.
    pub(crate) fn new(name: NodeName, state: Arc<State>) -> Arc<Self> {
        Arc::new(Self { name, state, raft: OnceLock::new(), memory: Mutex::default() })
    }

    /// From now on this member may lead.
    pub(crate) fn take_part(&self, raft: Raft) {
        let _ = self.raft.set(raft);
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another node has said what its clock is.
    pub(crate) fn hear(&self, name: &str, now_ms: u64) {
        self.lock().heard.insert(name.to_string(), Heard { now_ms, at: Instant::now() });
    }

    /// The clock for an entry that is proposed now. A member that does not lead moves nothing.
    pub(crate) fn stamp(&self) -> u64 {
        match self.raft.get().is_some_and(is_leader) {
            true => self.now_ms(),
            false => self.state.clock().now_ms,
        }
    }

    /// Whether the clock has yet to begin, in a new cluster or after a restore: nothing is decided by time
    /// before it has.
    pub(crate) fn is_pending(&self) -> bool {
        self.state.clock().may_jump && self.now_ms() <= self.state.clock().now_ms
    }

    /// Whether this member's own clock is so far off that it had better not lead: by its clock it refuses
    /// certificates that are good.
    pub(crate) fn steps_aside(&self) -> bool {
        let readings = self.readings(&self.lock(), Instant::now()).unwrap_or_default();
        // Of two clocks none is the wrong one.
        if readings.len() < 3 {
            return false;
        }
        let own = wmall_runtime::clock::now_ms();
        median(readings.into_iter().map(|(_, ms)| ms).collect())
            .is_some_and(|middle| own.abs_diff(middle) > ASIDE_MS)
    }

    /// The clock as it is told to others: none where it may be of long ago.
    pub(crate) fn told_ms(&self) -> Option<u64> {
        let led = self.raft.get()?.metrics().borrow().current_leader.is_some();
        (led && !self.state.clock().may_jump).then(|| self.now_ms())
    }

    /// The cluster's clock, in milliseconds since the Unix epoch: for a new entry where this member leads,
    /// else as of the last entry and moved on since, as far as this member's own clock.
    pub(crate) fn now_ms(&self) -> u64 {
        let (now, stored) = (Instant::now(), self.state.clock());
        let mut memory = self.lock();
        if memory.seen.is_none_or(|(ms, _)| ms != stored.now_ms) {
            memory.seen = Some((stored.now_ms, now));
        }
        let seen_at = memory.seen.map_or(now, |(_, at)| at);
        if !self.raft.get().is_some_and(is_leader) {
            (memory.last, memory.leading_since) = (None, None);
            let moved_ms = Heard { now_ms: stored.now_ms, at: seen_at }.now_ms(now);
            return followed(stored.now_ms, moved_ms, wmall_runtime::clock::now_ms());
        }
        memory.leading_since.get_or_insert(now);
        let (last, at) =
            memory.last.filter(|(last, _)| last.now_ms >= stored.now_ms).unwrap_or((stored, seen_at));
        // It may jump once, so it should be by the word of many.
        let enough = !last.may_jump || self.has_heard_enough(&memory, now);
        let readings = if enough { self.readings(&memory, now) } else { None };
        let elapsed_ms = now.saturating_duration_since(at).as_millis() as u64;
        let now_ms = advance(
            last,
            elapsed_ms,
            readings.map(|r| r.into_iter().map(|(_, ms)| ms).collect()).and_then(median),
        );
        memory.heard.retain(|_, heard| now.saturating_duration_since(heard.at) < HEARD_FOR);
        // Less than a millisecond is not lost by many readings.
        if now_ms > last.now_ms || last.may_jump {
            memory.last = Some((Clock { now_ms, may_jump: last.may_jump && now_ms == last.now_ms }, now));
        }
        now_ms
    }

    /// Whether most of the data nodes have said what their clocks are since this member leads, or have had
    /// the time.
    fn has_heard_enough(&self, memory: &Memory, now: Instant) -> bool {
        let topology = self.state.topology();
        let heard = topology.nodes.keys().filter(|node| memory.heard.contains_key(node.as_str())).count();
        let waited =
            memory.leading_since.is_some_and(|since| now.saturating_duration_since(since) >= HEARD_FOR);
        waited || heard * 2 >= topology.nodes.len()
    }

    /// Readings of the clocks that were heard of lately, this member's own among them; none unless those of a
    /// majority of the voters are.
    fn readings(&self, memory: &Memory, now: Instant) -> Option<Vec<(String, u64)>> {
        let own = (self.name.to_string(), wmall_runtime::clock::now_ms());
        let fresh =
            memory.heard.iter().filter(|(_, heard)| now.saturating_duration_since(heard.at) < HEARD_FOR);
        let others = fresh.map(|(name, heard)| (name.clone(), heard.now_ms(now)));
        let readings: Vec<(String, u64)> = others.chain([own]).collect();
        let metrics = self.raft.get()?.metrics();
        let members: Vec<String> = {
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            membership.voter_ids().filter_map(|id| Some(membership.get_node(&id)?.name.clone())).collect()
        };
        let heard = members.iter().filter(|name| readings.iter().any(|(of, _)| of == *name)).count();
        (heard * 2 > members.len()).then_some(readings)
    }

    /// How the clocks are.
    pub(crate) fn clocks(&self) -> Clocks {
        let (now_ms, now) = (self.now_ms(), Instant::now());
        let readings = self.readings(&self.lock(), now).unwrap_or_default();
        let middle = median(readings.iter().map(|(_, ms)| *ms).collect());
        let Some(middle) = middle else { return Clocks { now_ms, ..Clocks::default() } };
        let of = |(name, ms): (String, u64)| {
            let off_ms = ms.cast_signed().saturating_sub(middle.cast_signed());
            Some(ClockStatus { name: NodeName::new(name).ok()?, off_ms })
        };
        let mut all: Vec<ClockStatus> = readings.into_iter().filter_map(of).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let (behind_ms, ahead_ms) = (middle.saturating_sub(now_ms), now_ms.saturating_sub(middle));
        Clocks { now_ms, behind_ms, ahead_ms, all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(now_ms: u64) -> Clock {
        Clock { now_ms, may_jump: false }
    }

    #[test]
    fn a_minority_of_the_clocks_moves_nothing() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![7]), Some(7));
        assert_eq!(median(vec![9, 7]), Some(7), "of two the lower one");
        assert_eq!(median(vec![u64::MAX, 7, 8]), Some(8));
        assert_eq!(median(vec![0, u64::MAX, 8, 7]), Some(7));
    }

    #[test]
    fn the_clock_rises_with_the_median_and_never_above_it() {
        assert_eq!(advance(clock(1000), 50, Some(1050)), 1050);
        assert_eq!(advance(clock(1000), 50, Some(1020)), 1020, "a monotonic clock that is fast");
        assert_eq!(advance(clock(1000), 50, Some(900)), 1000, "it never goes back");
        assert_eq!(advance(clock(1000), 50, None), 1000, "nor on by one clock alone");
    }

    #[test]
    fn a_follower_of_a_clock_that_stands_still_goes_no_further_than_its_own() {
        assert_eq!(followed(1000, 1500, 1600), 1500, "it moves on between entries");
        assert_eq!(followed(1000, 90_000, 1600), 1600, "a cluster's clock that has stood still for long");
        assert_eq!(followed(1000, 1500, 900), 1000, "its own clock is behind: never before the last entry");
        assert_eq!(followed(1000, 1000, 9000), 1000);
    }

    #[test]
    fn a_majority_that_is_far_ahead_gains_as_much_as_time_has_passed() {
        const YEAR: u64 = 365 * 86_400_000;
        let mut now = clock(1000);
        // For three seconds all clocks are a year ahead.
        for _ in 0..30 {
            now = clock(advance(now, 100, Some(now.now_ms + YEAR)));
        }
        assert_eq!(now.now_ms, 1000 + 6000);
        // Right again, it waits for them.
        assert_eq!(advance(now, 100, Some(4100)), 7000);
        assert_eq!(advance(now, 100, Some(7100)), 7100);
    }

    #[test]
    fn a_new_cluster_and_a_restored_one_begin_with_the_median() {
        let new = Clock::default();
        assert_eq!(advance(new, 0, Some(1_700_000_000_000)), 1_700_000_000_000);
        assert_eq!(advance(new, 0, None), 0);
        let restored = Clock { now_ms: 5000, may_jump: true };
        assert_eq!(advance(restored, 0, Some(900)), 5000);
        assert_eq!(advance(restored, 0, Some(9_000_000)), 9_000_000);
    }
}
