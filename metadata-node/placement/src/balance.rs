//! Evens out what rendezvous leaves to chance: each disk within 5% or one group of its share.

use std::collections::BTreeMap;

use wmall_proto::DiskId;

use crate::zone_rule::{Candidate, ZoneRule};

/// How far from its share a disk may be, as a part of it.
const TOLERANCE: f64 = 0.05;

/// Moves slots from the fullest disks to the emptiest that may take them, one at a time, as long as that
/// helps. Where the zone rule forces an uneven load it stops at what the rule allows.
pub(crate) fn balance<'a>(rows: &mut [Vec<&'a Candidate>], usable: &[&'a Candidate], rule: &ZoneRule) {
    let total: f64 = usable.iter().map(|c| f64::from(c.weight)).sum();
    let slots: usize = rows.iter().map(Vec::len).sum();
    let share = |c: &Candidate| slots as f64 * f64::from(c.weight) / total.max(1.0);
    let mut load: BTreeMap<DiskId, i64> = usable.iter().map(|c| (c.disk, 0)).collect();
    for candidate in rows.iter().flatten() {
        *load.entry(candidate.disk).or_default() += 1;
    }
    // Each move lowers the sum of squares, so this ends by itself; the bound is for the eye.
    for _ in 0..slots {
        let excess = |c: &Candidate| load[&c.disk] as f64 - share(c);
        let mut order: Vec<&Candidate> = usable.to_vec();
        order.sort_by(|a, b| excess(b).total_cmp(&excess(a)).then(a.disk.cmp(&b.disk)));
        let Some((from, to, at)) = find_move(rows, &order, &excess, &share, rule) else { return };
        rows[at.0][at.1] = to;
        *load.entry(from.disk).or_default() -= 1;
        *load.entry(to.disk).or_default() += 1;
    }
}

type Move<'a> = (&'a Candidate, &'a Candidate, (usize, usize));

/// The first slot of the fullest disk that an emptier one may take. `order` goes from full to empty.
fn find_move<'a>(
    rows: &[Vec<&'a Candidate>],
    order: &[&'a Candidate],
    excess: &dyn Fn(&Candidate) -> f64,
    share: &dyn Fn(&Candidate) -> f64,
    rule: &ZoneRule,
) -> Option<Move<'a>> {
    for from in order {
        for to in order.iter().rev() {
            let gain = excess(from) - excess(to);
            let off = excess(from) > (share(from) * TOLERANCE).max(1.0)
                || -excess(to) > (share(to) * TOLERANCE).max(1.0);
            if gain <= 1.0 || !off {
                break;
            }
            if let Some(at) = slot_to_give(rows, from, to, rule) {
                return Some((from, to, at));
            }
        }
    }
    None
}

fn slot_to_give(
    rows: &[Vec<&Candidate>],
    from: &Candidate,
    to: &Candidate,
    rule: &ZoneRule,
) -> Option<(usize, usize)> {
    rows.iter().enumerate().find_map(|(r, row)| {
        let slot = row.iter().position(|c| c.disk == from.disk)?;
        let rest: Vec<&Candidate> =
            row.iter().enumerate().filter(|&(i, _)| i != slot).map(|(_, c)| *c).collect();
        rule.allows(&rest, to).then_some((r, slot))
    })
}
