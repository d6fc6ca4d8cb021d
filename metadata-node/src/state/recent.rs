//! What of the map changed of late, so that a data node which has a version of a moment ago hears of that alone: while slots
//! move, the map changes several times a second, and all of it is megabytes.

use std::collections::{BTreeSet, VecDeque};

use wmall_proto::Topology;
use wmall_proto::pg::PgKey;
use wmall_proto::topology::{MapChanges, MapRest};

/// Changes that are remembered; who is further behind gets the whole map.
const MAX_CHANGES: usize = 16_384;

/// What a change is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The row of a group.
    Row(PgKey),
    /// Disks, nodes, revocations.
    Rest,
    /// Pools: no version of before can be brought up to it.
    All,
}

/// Complete for every version above `base`.
#[derive(Debug)]
pub(crate) struct RecentChanges {
    base: u64,
    changes: VecDeque<(u64, Part)>,
}

impl RecentChanges {
    /// Nothing is known of what was before this version.
    pub(super) fn new(base: u64) -> Self {
        Self { base, changes: VecDeque::new() }
    }

    /// Something changed, and made this version.
    pub(super) fn push(&mut self, version: u64, part: Part) {
        if part == Part::All {
            *self = Self::new(version);
            return;
        }
        self.changes.push_back((version, part));
        while self.changes.len() > MAX_CHANGES {
            self.base = self.changes.pop_front().map_or(self.base, |(oldest, _)| oldest);
        }
    }

    /// What is new since a version; none if nothing is, if it can't be told, or if it is most of the map.
    pub(crate) fn since(&self, known: u64, topology: &Topology) -> Option<MapChanges> {
        // Who asks with 0 wants all of it.
        if known == 0 || known < self.base || known >= topology.version {
            return None;
        }
        let first = self.changes.partition_point(|&(version, _)| version <= known);
        let (mut groups, mut rest) = (BTreeSet::new(), false);
        for (_, part) in self.changes.range(first..) {
            match part {
                Part::Row(group) => drop(groups.insert(*group)),
                Part::Rest | Part::All => rest = true,
            }
        }
        let all: usize = topology.pools.values().map(|t| t.rows.len()).sum();
        if groups.len() * 2 > all {
            return None;
        }
        let row = |group: PgKey| {
            let row = topology.pools.get(&group.0)?.rows.get(group.1.0 as usize)?;
            Some((group, row.clone()))
        };
        let rows = groups.into_iter().map(row).collect::<Option<Vec<_>>>()?;
        let rest = rest.then(|| MapRest {
            disks: topology.disks.clone(),
            nodes: topology.nodes.clone(),
            revoked: topology.revoked.clone(),
        });
        Some(MapChanges { base: known, version: topology.version, rows, rest })
    }
}

#[cfg(test)]
mod tests {
    use wmall_proto::{PgId, PgRow, Pool, PoolId};

    use super::*;

    fn map(rows: u32) -> Topology {
        let pool =
            Pool { id: PoolId(1), name: "p".parse().unwrap(), scheme: "2x".parse().unwrap(), pg_bits: 4 };
        let rows = (0..rows).map(|_| PgRow::new(vec![])).collect();
        let mut map = Topology::empty();
        map.pools.insert(PoolId(1), wmall_proto::topology::PoolTable { pool, rows });
        map
    }

    #[test]
    fn a_version_of_a_while_ago_is_brought_up_and_an_unknown_one_is_not() {
        let (mut recent, mut map, key) = (RecentChanges::new(10), map(16), |n| (PoolId(1), PgId(n)));
        map.version = 10;
        let mut versions = vec![map.clone()];
        for (n, part) in
            [Part::Row(key(3)), Part::Row(key(4)), Part::Rest, Part::Row(key(3))].iter().enumerate()
        {
            map.version += 1;
            match part {
                Part::Row(group) => {
                    map.pools.get_mut(&group.0).unwrap().rows[group.1.0 as usize].version += 7
                }
                _ => map.revoked.push(wmall_proto::identity::Revocation {
                    actor: wmall_proto::identity::Actor {
                        role: wmall_proto::Role::Data,
                        name: format!("data-{n}").parse().unwrap(),
                    },
                    before: 1,
                    at_ms: 1,
                }),
            }
            recent.push(map.version, *part);
            versions.push(map.clone());
        }
        for known in &versions[..4] {
            let changes = recent.since(known.version, &map).unwrap();
            let mut brought_up = known.clone();
            assert!(brought_up.change(changes));
            assert_eq!(brought_up, map, "from {}", known.version);
        }
        assert_eq!(recent.since(12, &map).unwrap().rows.len(), 1);
        assert_eq!(recent.since(9, &map), None, "before what is remembered");
        assert_eq!(recent.since(14, &map), None, "nothing is new");
        let changes = recent.since(11, &map).unwrap();
        assert!(!versions[0].clone().change(changes), "to another version than it is for");
        recent.push(15, Part::All);
        map.version = 15;
        assert_eq!(recent.since(14, &map), None, "a pool is new");
    }

    #[test]
    fn most_of_the_map_and_too_many_changes_are_no_changes() {
        let (mut recent, mut map) = (RecentChanges::new(0), map(4));
        for n in 0..3 {
            map.version += 1;
            recent.push(map.version, Part::Row((PoolId(1), PgId(n))));
        }
        assert_eq!(recent.since(0, &map), None, "all of it is asked for");
        let more = map.pools[&PoolId(1)].rows.len() - 1;
        assert!(more > 2 && recent.since(1, &map).is_some());
        map.pools.get_mut(&PoolId(1)).unwrap().rows.truncate(3);
        assert_eq!(recent.since(1, &map), None, "two of three rows are most of it");
        map.pools.get_mut(&PoolId(1)).unwrap().rows.resize(4, PgRow::new(vec![]));
        assert_eq!(recent.since(1, &map).unwrap().rows.len(), 2);
        for _ in 0..MAX_CHANGES {
            map.version += 1;
            recent.push(map.version, Part::Row((PoolId(1), PgId(0))));
        }
        assert_eq!(recent.changes.len(), MAX_CHANGES);
        assert_eq!(recent.since(2, &map), None);
        assert_eq!(recent.since(3, &map).unwrap().rows.len(), 1);
    }
}
