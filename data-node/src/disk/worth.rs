//! Which segment compaction takes next, as a function of values.
//!
//! Copying costs in proportion to what is still wanted of a segment and gains what is not. On a roomy disk a segment has to be
//! half dead to be worth it. The fuller the disk, the less must be dead: dead bytes count in the completeness ratio, and the
//! alarm at 0.70 should tell of what is needed, not of what nobody has swept up. Put the other way, of a disk at or above the
//! alarm at most [`KEEN`] is dead for longer than compaction takes.
//!
//! A full segment ends where the next piece did not fit. What is behind that is no garbage: moving the same pieces elsewhere
//! leaves as much there. So what was looked at in vain is not looked at again before something has changed.

use std::collections::BTreeMap;

use wmall_proto::capacity::CapacityLevel;

/// The part of a segment that has to be dead as long as there is room.
pub(super) const AT_EASE: f64 = 0.5;
/// Fill up to which there is.
const ROOMY: f64 = 0.5;
/// The same part from the alarm on.
const KEEN: f64 = 0.1;
/// And when puts are refused.
const FULL: f64 = 0.05;

/// A full segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) number: u64,
    /// Bytes that it takes.
    pub(super) size: u64,
    /// Bytes of records that the index points to.
    pub(super) wanted: u64,
}

impl Sealed {
    fn dead(&self) -> f64 {
        1.0 - self.wanted as f64 / self.size.max(1) as f64
    }
}

/// The part of a segment that has to be garbage to be worth it, on a disk that is filled to this part of its room.
pub(super) fn least_garbage(fill: f64, full: bool) -> f64 {
    const ALARM: f64 = CapacityLevel::WARNING_PPM as f64 / 1e6;
    if full {
        return FULL;
    }
    let way = ((fill - ROOMY) / (ALARM - ROOMY)).clamp(0.0, 1.0);
    AT_EASE + (KEEN - AT_EASE) * way
}

/// Segments that turned out to have too little garbage: what was wanted of them then, and the oldest segment, which decides
/// over tombstones.
#[derive(Debug, Default)]
pub(super) struct Tight(BTreeMap<u64, (u64, u64, f64)>);

impl Tight {
    /// This segment has only this part of garbage.
    pub(super) fn note(&mut self, segment: Sealed, oldest: u64, garbage: f64) {
        self.0.insert(segment.number, (segment.wanted, oldest, garbage));
    }

    fn rules_out(&self, segment: &Sealed, oldest: u64, least: f64) -> bool {
        self.0.get(&segment.number).is_some_and(|(wanted, old, garbage)| {
            (*wanted, *old) == (segment.wanted, oldest) && *garbage < least
        })
    }

    fn forget_all_but(&mut self, segments: &[Sealed]) {
        self.0.retain(|number, _| segments.iter().any(|s| s.number == *number));
    }
}

/// Of these segments the one with the most that is dead, if that is enough.
pub(super) fn victim(segments: &[Sealed], oldest: u64, tight: &mut Tight, least: f64) -> Option<Sealed> {
    tight.forget_all_but(segments);
    segments
        .iter()
        .filter(|s| s.dead() >= least && !tight.rules_out(s, oldest, least))
        .max_by(|a, b| a.dead().total_cmp(&b.dead()).then(b.number.cmp(&a.number)))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(number: u64, wanted: u64) -> Sealed {
        Sealed { number, size: 100, wanted }
    }

    #[test]
    fn the_fuller_the_disk_the_less_must_be_dead() {
        let rounded = |fill, full| (least_garbage(fill, full) * 1000.0).round() / 1000.0;
        let at = [0.0, 0.5, 0.55, 0.6, 0.7, 0.95, 1.2];
        assert_eq!(at.map(|fill| rounded(fill, false)), [0.5, 0.5, 0.4, 0.3, 0.1, 0.1, 0.1]);
        assert_eq!(rounded(0.2, true), 0.05);
    }

    #[test]
    fn the_deadest_goes_first_and_of_equals_the_oldest() {
        let segments = [sealed(3, 60), sealed(4, 10), sealed(7, 10), sealed(8, 100)];
        let next = |least| victim(&segments, 3, &mut Tight::default(), least).map(|s| s.number);
        assert_eq!(next(0.5), Some(4));
        assert_eq!(next(0.95), None);
        assert_eq!(victim(&[], 0, &mut Tight::default(), 0.0), None);
    }

    #[test]
    fn what_has_too_little_garbage_is_looked_at_again_only_when_something_changed() {
        let mut tight = Tight::default();
        let segments = [sealed(3, 85), sealed(4, 100)];
        assert_eq!(victim(&segments, 3, &mut tight, 0.1), Some(segments[0]));
        tight.note(segments[0], 3, 0.06);
        assert_eq!(victim(&segments, 3, &mut tight, 0.1), None, "what is dead of it is its end");
        assert_eq!(victim(&segments, 3, &mut tight, 0.05), Some(segments[0]), "less is worth it now");
        let fewer = [sealed(3, 80), sealed(4, 100)];
        assert_eq!(victim(&fewer, 3, &mut tight, 0.1), Some(fewer[0]), "more of it is dead now");
        assert_eq!(victim(&segments, 2, &mut tight, 0.1), Some(segments[0]), "other tombstones may go now");
    }
}
