//! Groups that a disk leaves out for a while: something of them could not be had, and the others need not wait for that. Each
//! has pauses of its own, which grow, so that what nobody can ever read costs little and what comes anew is fetched at once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wmall_proto::NodeName;
use wmall_proto::pg::PgKey;

/// For so long a group is left out first, growing up to the second number.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);
/// So many are left out at most: a question names them all.
const MOST: usize = 4000;

struct Pause {
    until: Instant,
    length: Duration,
}

/// The groups, of one disk.
#[derive(Default)]
pub(crate) struct LeftOut {
    // Bounded by `MOST`.
    pauses: BTreeMap<PgKey, Pause>,
    suspects: Arc<HashSet<NodeName>>,
}

impl LeftOut {
    /// Something of a group could not be had. False if there are so many already that it is better to stop for a while.
    pub(crate) fn add(&mut self, group: PgKey, now: Instant) -> bool {
        // One that has not been asked about for long is not wanted any more.
        self.pauses.retain(|_, pause| now < pause.until + LONGEST);
        let before = self.pauses.get(&group).map(|pause| pause.length);
        if before.is_none() && self.pauses.len() >= MOST {
            return false;
        }
        let length = before.map_or(FIRST, |length| (length * 2).min(LONGEST));
        self.pauses.insert(group, Pause { until: now + length, length });
        true
    }

    /// All of a group could be had.
    pub(crate) fn remove(&mut self, group: &PgKey) {
        self.pauses.remove(group);
    }

    /// Those that are left out now.
    pub(crate) fn now(&self, now: Instant) -> Vec<PgKey> {
        self.pauses.iter().filter(|(_, pause)| now < pause.until).map(|(group, _)| *group).collect()
    }

    /// Who does not answer now: where that is another set than before, what could not be had may be had.
    pub(crate) fn hear(&mut self, suspects: &Arc<HashSet<NodeName>>) {
        if self.suspects != *suspects {
            self.suspects = suspects.clone();
            self.pauses.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use wmall_proto::{PgId, PoolId};

    use super::*;

    const GROUP: PgKey = (PoolId(1), PgId(7));

    #[test]
    fn pauses_grow_and_begin_anew_when_a_group_was_complete_or_somebody_is_back() {
        let (mut left_out, start) = (LeftOut::default(), Instant::now());
        let mut at = start;
        let mut lengths = Vec::new();
        for _ in 0..8 {
            assert!(left_out.add(GROUP, at));
            let begun = at;
            while left_out.now(at) == [GROUP] {
                at += Duration::from_secs(1);
            }
            lengths.push((at - begun).as_secs());
        }
        assert_eq!(lengths, [2, 4, 8, 16, 32, 60, 60, 60]);
        left_out.remove(&GROUP);
        assert!(left_out.add(GROUP, at) && left_out.now(at + Duration::from_secs(2)).is_empty());
        assert!(left_out.add(GROUP, at) && left_out.add(GROUP, at));
        assert_eq!(left_out.now(at + Duration::from_secs(7)), [GROUP]);
        left_out.hear(&Arc::new(HashSet::from(["data-3".parse().unwrap()])));
        assert!(left_out.now(at).is_empty());
    }

    #[test]
    fn there_are_only_so_many_and_old_ones_make_room() {
        let (mut left_out, start) = (LeftOut::default(), Instant::now());
        for n in 0..MOST as u32 {
            assert!(left_out.add((PoolId(1), PgId(n)), start));
        }
        assert!(!left_out.add((PoolId(2), PgId(0)), start));
        assert!(left_out.add((PoolId(1), PgId(0)), start), "it is one of them");
        let later = start + FIRST + LONGEST;
        assert!(left_out.add((PoolId(2), PgId(0)), later));
        assert_eq!(left_out.now(later), [(PoolId(2), PgId(0))]);
    }
}
