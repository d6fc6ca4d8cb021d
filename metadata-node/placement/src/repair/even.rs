//! Balance: slots go from disks above their share to disks below theirs, when there is nothing else to do.

use wmall_proto::PoolId;

use super::{PlannedMove, Planner, Reason, without};
use crate::budget::Part;
use crate::loads::Loads;
use crate::snapshot::DiskFact;
use crate::zone_rule::{Candidate, ZoneRule};

impl Planner<'_> {
    /// Moves slots of whole groups from disks above their share to disks below theirs: no move of these has to be made again.
    /// Only if none of that is possible, not even later, a slot goes from a disk to one that has less above its share, or lacks less,
    /// so that the rows change and what stood in the way may be gone.
    pub(super) fn balance(&mut self, moves: &mut Vec<PlannedMove>) {
        if !self.loads.is_uneven(self.snapshot.disks.values()) {
            return;
        }
        let later = self.even_out(moves, Loads::is_direct);
        if moves.is_empty() && !later {
            self.even_out(moves, Loads::evens_out);
        }
    }

    /// One slot of each group that these pairs of disks are right for. Whether there were any more that have to wait.
    fn even_out(
        &mut self,
        moves: &mut Vec<PlannedMove>,
        right: fn(&Loads, PoolId, &DiskFact, &DiskFact) -> bool,
    ) -> bool {
        let snapshot = self.snapshot;
        let mut later = false;
        for group in &snapshot.groups {
            let moves_now = group.moves();
            if !moves_now && group.live() < group.slots.len() {
                continue;
            }
            let row: Vec<&DiskFact> = group.slots.iter().filter_map(|s| self.disk(s.disk)).collect();
            if row.len() < group.slots.len() {
                continue;
            }
            let rule = ZoneRule::new(row.len(), snapshot.zones);
            let candidates: Vec<&Candidate> = row.iter().map(|f| &f.candidate).collect();
            let better = (0..row.len()).find_map(|slot| {
                let from = row[slot];
                // A drain that is paused is no matter of balance.
                if from.draining {
                    return None;
                }
                let others = without(&candidates, slot);
                let fits = |to: &&DiskFact| {
                    to.takes()
                        && right(&self.loads, group.key.0, from, to)
                        && self.loads.free(to.candidate.disk, Reason::Balance) >= group.slot_bytes
                        && rule.allows(&others, &to.candidate)
                };
                let fitting: Vec<&DiskFact> = snapshot.disks.values().filter(fits).collect();
                // A group that moves may be what is waited for; what it is on its way to counts there already.
                later |= !fitting.is_empty();
                if moves_now || !self.has_room_from(from.candidate.disk, group.slot_bytes) {
                    return None;
                }
                let within = |to: &&&DiskFact| self.has_room_to(to, group.slot_bytes, Part::Half);
                let best = fitting.iter().filter(within);
                let best = best.min_by(|a, b| self.loads.compare(group.key, a, b))?;
                Some((slot, best.candidate.disk))
            });
            if let Some((slot, to)) = better {
                moves.push(self.charge(group, slot, to, Reason::Balance));
            }
        }
        later
    }
}
