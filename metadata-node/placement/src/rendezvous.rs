//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; the logarithmic weights of Schindelhauer
//! and Schomaker 2005) under the zone rule: the row of a group is its best-scored disks that may stand
//! together.
//!
//! Scores are floating-point, so only the node that proposes computes them; the stored row rules.

use std::collections::BTreeSet;

use wmall_proto::DiskId;

use crate::balance::balance;
use crate::zone_rule::{Candidate, ZoneRule};

/// Why no rows can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Fewer places than pieces under the zone rule.
    #[error(
        "{width} pieces a chunk need {width} nodes with at most {per_zone} in one zone; the {nodes} nodes in \
         {zones} zones have room for {places}"
    )]
    TooFewNodes {
        /// Pieces a chunk.
        width: usize,
        /// The most in one zone.
        per_zone: usize,
        /// Nodes with a disk of weight.
        nodes: usize,
        /// Zones with such a node.
        zones: usize,
        /// Pieces that fit under the rule.
        places: usize,
    },
}

/// First rows for a pool with `1 << pg_bits` groups. `salt` keeps two pools' rows independent.
pub fn propose_rows(
    candidates: &[Candidate],
    width: usize,
    pg_bits: u8,
    salt: u64,
) -> Result<Vec<Vec<DiskId>>, PlacementError> {
    let usable: Vec<&Candidate> = candidates.iter().filter(|c| c.weight > 0).collect();
    let zones: BTreeSet<_> = usable.iter().map(|c| &c.zone).collect();
    let rule = ZoneRule::new(width, zones.len());
    let mut rows = Vec::with_capacity(1 << pg_bits);
    for group in 0..1u32 << pg_bits {
        let row = best_row(&usable, &rule, width, group, salt);
        if row.len() < width {
            let nodes = usable.iter().map(|c| &c.node).collect::<BTreeSet<_>>().len();
            let (zones, places) = (zones.len(), row.len());
            let per_zone = rule.per_zone;
            return Err(PlacementError::TooFewNodes { width, per_zone, nodes, zones, places });
        }
        rows.push(row);
    }
    balance(&mut rows, &usable, &rule);
    Ok(rows.into_iter().map(|row| row.into_iter().map(|c| c.disk).collect()).collect())
}

/// Taking the best disk that is allowed, again and again, fills the row whenever it can be filled: the
/// rule (one a node, so many a zone) is a laminar matroid, on which greed is optimal.
fn best_row<'a>(
    usable: &[&'a Candidate],
    rule: &ZoneRule,
    width: usize,
    group: u32,
    salt: u64,
) -> Vec<&'a Candidate> {
    let mut ranked: Vec<(f64, &Candidate)> = usable.iter().map(|c| (score(c, group, salt), *c)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.disk.cmp(&b.1.disk)));
    let mut row: Vec<&Candidate> = Vec::with_capacity(width);
    for (_, candidate) in ranked {
        if row.len() < width && rule.allows(&row, candidate) {
            row.push(candidate);
        }
    }
    row
}

/// `−weight ÷ ln(u)` with `u` uniform in (0, 1) from the hash of group and disk.
fn score(candidate: &Candidate, group: u32, salt: u64) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"wmall.rendezvous.v1");
    hasher.update(&salt.to_le_bytes());
    hasher.update(&group.to_le_bytes());
    hasher.update(&candidate.disk.0.to_le_bytes());
    let mut word = [0u8; 8];
    word.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    // 53 bits and a half: never 0, never 1.
    let u = ((u64::from_le_bytes(word) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(candidate.weight) / u.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use wmall_proto::{NodeName, ZoneName};

    fn candidates(spec: &[(u32, u32)]) -> Vec<Candidate> {
        spec.iter()
            .enumerate()
            .map(|(i, &(zone, weight))| Candidate {
                disk: DiskId(i as u32 + 1),
                node: NodeName::new(format!("data-{}", i + 1)).unwrap(),
                zone: ZoneName::new(format!("z{zone}")).unwrap(),
                weight,
            })
            .collect()
    }

    fn loads(rows: &[Vec<DiskId>]) -> BTreeMap<DiskId, usize> {
        let mut loads = BTreeMap::new();
        for disk in rows.iter().flatten() {
            *loads.entry(*disk).or_default() += 1;
        }
        loads
    }

    #[test]
    fn equal_disks_get_equal_shares() {
        let five = candidates(&[(1, 100), (2, 100), (3, 100), (4, 100), (5, 100)]);
        let rows = propose_rows(&five, 3, 10, 7).unwrap();
        let ideal = 1024.0 * 3.0 / 5.0;
        for (disk, load) in loads(&rows) {
            assert!((load as f64 - ideal).abs() <= ideal * 0.05 + 1.0, "{disk}: {load} of {ideal}");
        }
    }

    #[test]
    fn the_error_counts_what_is_missing() {
        let two = candidates(&[(1, 1), (1, 1), (2, 0)]);
        assert_eq!(
            propose_rows(&two, 3, 4, 0),
            Err(PlacementError::TooFewNodes { width: 3, per_zone: 3, nodes: 2, zones: 1, places: 2 })
        );
    }

    #[test]
    fn rows_are_the_same_every_time_and_differ_by_salt() {
        let five = candidates(&[(1, 1), (1, 2), (2, 3), (2, 1), (3, 1)]);
        assert_eq!(propose_rows(&five, 3, 6, 1), propose_rows(&five, 3, 6, 1));
        assert_ne!(propose_rows(&five, 3, 6, 1), propose_rows(&five, 3, 6, 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn every_row_keeps_the_rule_and_no_row_is_refused_that_fits(
            spec in proptest::collection::vec((0u32..4, 0u32..4), 1..12),
            width in 1usize..7,
        ) {
            let all = candidates(&spec);
            let usable: Vec<&Candidate> = all.iter().filter(|c| c.weight > 0).collect();
            let zones: BTreeSet<_> = usable.iter().map(|c| &c.zone).collect();
            let rule = ZoneRule::new(width, zones.len());
            // Each disk here is a node of its own, so a zone has room for the smaller of its nodes and the cap.
            let places: usize = zones
                .iter()
                .map(|z| usable.iter().filter(|c| c.zone == **z).count().min(rule.per_zone))
                .sum();
            match propose_rows(&all, width, 5, 3) {
                Err(PlacementError::TooFewNodes { places: found, .. }) => {
                    prop_assert!(places < width);
                    prop_assert_eq!(found, places);
                }
                Ok(rows) => {
                    prop_assert!(places >= width);
                    for row in rows {
                        let row: Vec<&Candidate> = row
                            .iter()
                            .map(|d| *usable.iter().find(|c| c.disk == *d).unwrap())
                            .collect();
                        prop_assert_eq!(row.len(), width);
                        prop_assert!(rule.keeps(&row));
                    }
                }
            }
        }
    }
}
