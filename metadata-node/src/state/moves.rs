//! Slots on their way from one disk to another.
//!
//! A move gives the slot to its new disk at once, as dirty: that disk fetches everything that the group
//! holds, as it would after a loss, and nothing of it counts before. The former disk stays the slot's
//! *source* and counts for what was committed before the move. It is released, and then removes its pieces,
//! when the new disk's mark and its tickets are gone (docs/adr/0016). A slot that moves again before it has
//! arrived keeps all its sources until it has.

use std::collections::BTreeMap;

use wmall_placement::Reason;
use wmall_proto::DiskId;
use wmall_proto::event::EventKind;
use wmall_proto::feed::FeedItem;
use wmall_proto::pg::{MAX_SOURCES, PgKey, PgRow, Source, UNVERIFIED};
use wmall_proto::rpc::Response;
use wmall_proto::topology::{DiskInfo, MAX_MOVING, Topology};

use super::apply::{Context, Outcome, Refusal, groups_of};
use super::keys;
use super::recent::Part;
use crate::command::SlotMove;

impl Context<'_> {
    /// Gives slots to other disks. One whose row has changed since it was planned is passed over: the next
    /// plan sees the row as it is.
    pub(super) fn move_slots(&mut self, moves: &[SlotMove]) -> Outcome {
        let mut moved: BTreeMap<Reason, u64> = BTreeMap::new();
        let rows = self.derived.topology.pools.values().flat_map(|table| &table.rows);
        let mut moving: usize = rows.map(|row| row.sources.iter().flatten().count()).sum();
        for planned in moves {
            let row = self.row(planned.group);
            let Some(row) = row.filter(|row| row.version == planned.row_version) else { continue };
            // So that the map stays as small as a message; what is left over is planned again.
            if moving < MAX_MOVING && self.may_take(&row, planned) {
                moving += 1;
                self.move_slot(planned, row)?;
                *moved.entry(planned.reason).or_default() += 1;
            }
        }
        for (reason, slots) in moved {
            self.tell_moves(reason, slots);
        }
        Ok(Response::Done)
    }

    fn row(&self, (pool, pg): PgKey) -> Option<PgRow> {
        self.derived.topology.pools.get(&pool)?.rows.get(pg.0 as usize).cloned()
    }

    /// Whatever was planned: a disk that is known, on a node that has nothing to do with another slot of the
    /// row. The source of one has a piece of each chunk already, and a disk has one place for it.
    fn may_take(&self, row: &PgRow, planned: &SlotMove) -> bool {
        let topology = &self.derived.topology;
        let node = |disk: &DiskId| topology.disks.get(disk).map(|d| &d.node);
        let mut others = row.holders().filter(|(slot, _)| *slot != planned.slot);
        let fits = node(&planned.to).is_some_and(|to| others.all(|(_, d)| node(&d) != Some(to)));
        // Back to one that it comes from makes them no more.
        let sources = row.sources.get(usize::from(planned.slot)).map_or(&[][..], Vec::as_slice);
        let goes_back = sources.iter().any(|source| source.disk == planned.to);
        let fits = fits && (sources.len() < MAX_SOURCES || goes_back);
        fits && row.slots.get(usize::from(planned.slot)).is_some_and(|from| *from != planned.to)
    }

    fn move_slot(&mut self, planned: &SlotMove, mut row: PgRow) -> Result<(), Refusal> {
        let slot = usize::from(planned.slot);
        let from = row.slots[slot];
        // A source counts if nothing had to come to it first. What came since the first of several moves is
        // on the disk that is given up now and on no other one, so that stays a source too, and none of them
        // counts.
        let arrived = row.dirty_at[slot].is_none() && row.sources[slot].is_empty();
        let mut sources = vec![Source { disk: from, since: self.index, vouched: arrived }];
        sources.extend(row.sources[slot].drain(..).map(|s| Source { vouched: false, ..s }));
        sources.retain(|s| s.disk != planned.to);
        row.slots[slot] = planned.to;
        row.dirty_at[slot] = Some(self.index);
        row.sources[slot] = sources;
        row.version += 1;
        self.put_row(planned.group, row);
        Ok(())
    }

    /// A disk that had a slot before has a committed piece of it that its present disk lacks.
    pub(super) fn adopt_source(&mut self, group: PgKey, slot: u8, disk: DiskId) {
        let Some(mut row) = self.row(group) else { return };
        if row.involves(disk) {
            return;
        }
        if let Some(sources) = row.sources.get_mut(usize::from(slot)) {
            sources.push(Source { disk, since: self.index, vouched: false });
            self.put_row(group, row);
        }
    }

    /// Ends a slot's move if its disk has everything: its mark and its tickets are gone.
    pub(super) fn settle_move(&mut self, group: PgKey, disk: DiskId) -> Result<(), Refusal> {
        if self.derived.counters.deletion_held {
            return Ok(());
        }
        let Some(mut row) = self.row(group) else { return Ok(()) };
        let Some(slot) = row.slot_of(disk).map(usize::from) else { return Ok(()) };
        let tickets = self.derived.tickets.get(&(disk, group)).copied().unwrap_or(0);
        // Nothing is let go on the word of a disk that nobody believes.
        let believed = self.derived.topology.disks.get(&disk).is_some_and(|d| d.quarantined_ms.is_none());
        if row.dirty_at[slot].is_some() || tickets > 0 || !believed {
            return Ok(());
        }
        let sources = std::mem::take(&mut row.sources[slot]);
        if sources.is_empty() {
            return Ok(());
        }
        self.put_row(group, row);
        self.note_arrival(disk);
        sources.iter().try_for_each(|source| self.release(group, source.disk))
    }

    /// Moves whose end was held back with all deletion.
    pub(super) fn settle_all_moves(&mut self) -> Result<(), Refusal> {
        let topology = self.derived.topology.clone();
        for (&pool, table) in &topology.pools {
            for (number, row) in table.rows.iter().enumerate() {
                for (slot, sources) in row.sources.iter().enumerate() {
                    if !sources.is_empty() {
                        self.settle_move((pool, wmall_proto::PgId(number as u32)), row.slots[slot])?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A disk has nothing more to do with a group.
    fn release(&mut self, group: PgKey, disk: DiskId) -> Result<(), Refusal> {
        self.drop_tickets(group, disk)?;
        let bits = self.derived.topology.pools.get(&group.0).map(|t| t.pool.pg_bits);
        if let Some(pg_bits) = bits {
            self.feed.push(FeedItem::Released { pool: group.0, pg: group.1, pg_bits, disk });
        }
        Ok(())
    }

    fn put_row(&mut self, group: PgKey, row: PgRow) {
        self.txn.put(keys::row(group.0, group.1), &row);
        if let Some(there) = self.change_row(group) {
            *there = row;
        }
    }

    /// What a disk holds as a source is not vouched for any more.
    pub(super) fn distrust_source(&mut self, disk: DiskId) {
        let topology = self.derived.topology.clone();
        for (&pool, table) in &topology.pools {
            for (number, row) in table.rows.iter().enumerate() {
                let Some(slot) = row.source_slot_of(disk) else { continue };
                let mut row = row.clone();
                row.sources[usize::from(slot)].iter_mut().for_each(|s| s.vouched = false);
                self.put_row((pool, wmall_proto::PgId(number as u32)), row);
            }
        }
    }

    /// The same for one group, if the disk is a source in it.
    pub(super) fn distrust_source_of(&mut self, group: PgKey, disk: DiskId) {
        let Some(mut row) = self.row(group) else { return };
        if let Some(slot) = row.source_slot_of(disk) {
            row.sources[usize::from(slot)].iter_mut().for_each(|s| s.vouched = false);
            self.put_row(group, row);
        }
    }

    /// The leader found these disks to be down, or to be back.
    pub(super) fn note_disks(&mut self, down: &[DiskId], back: &[DiskId]) -> Outcome {
        let now = self.now_ms;
        for &disk in down {
            if self.change_disk(disk, |d| d.down_since_ms = d.down_since_ms.or(Some(now))) {
                self.tell(EventKind::DiskDown { disk });
            }
        }
        for &disk in back {
            if self.change_disk(disk, |d| d.down_since_ms = None) {
                self.tell(EventKind::DiskBack { disk });
            }
        }
        Ok(Response::Done)
    }

    /// Whether that changed anything.
    pub(super) fn change_disk(&mut self, disk: DiskId, change: impl FnOnce(&mut DiskInfo)) -> bool {
        let Some(known) = self.derived.topology.disks.get(&disk) else { return false };
        let mut changed = known.clone();
        change(&mut changed);
        let differs = changed != *known;
        if differs {
            self.txn.put(keys::disk(disk), &changed);
            self.change_topology(Part::Rest).disks.insert(disk, changed);
        }
        differs
    }

    /// Closes every ticket of a disk in a group.
    pub(super) fn drop_tickets(&mut self, group: PgKey, disk: DiskId) -> Result<(), Refusal> {
        if self.derived.tickets.get(&(disk, group)).copied().unwrap_or(0) == 0 {
            return Ok(());
        }
        let bits = self.derived.topology.pools.get(&group.0).map(|t| t.pool.pg_bits);
        let Some(bits) = bits else { return Ok(()) };
        let (low, high) = group.1.range(bits);
        let [low, high] = [low, high].map(|chunk| keys::ticket(disk, group.0, &chunk));
        for key in self.txn.keys_between(&keys::tickets_of(disk), &low, &high)? {
            if let Some((.., chunk)) = keys::parse_ticket(&key) {
                self.close_ticket(disk, group, &chunk, |_| true)?;
            }
        }
        Ok(())
    }

    /// What a disk holds in groups that it was vouched for has to be looked through. What is known to be
    /// missing stays so.
    pub(super) fn distrust(&mut self, disk: DiskId) {
        let groups = clean_groups(&self.derived.topology, disk);
        if !groups.is_empty() {
            self.tell(EventKind::DiskUnvouched { disk, groups: groups.len() as u64 });
        }
        for group in groups {
            self.set_dirty(group, disk, Some(UNVERIFIED));
        }
        self.distrust_source(disk);
    }

    /// All groups that a disk has a slot in lose its word.
    pub(super) fn mark_all_dirty(&mut self, disk: DiskId) {
        let groups: Vec<PgKey> = groups_of(&self.derived.topology, disk);
        if !groups.is_empty() {
            self.tell(EventKind::DiskUnvouched { disk, groups: groups.len() as u64 });
        }
        for group in groups {
            self.set_dirty(group, disk, Some(self.index));
        }
        self.distrust_source(disk);
    }
}

/// The groups that a disk has a slot in and is vouched for.
pub(crate) fn clean_groups(topology: &Topology, disk: DiskId) -> Vec<PgKey> {
    let is_clean = |(pool, pg): &PgKey| {
        let row = topology.pools.get(pool).and_then(|t| t.rows.get(pg.0 as usize));
        row.is_some_and(|row| row.slot_of(disk).is_some_and(|slot| row.dirty_at[usize::from(slot)].is_none()))
    };
    groups_of(topology, disk).into_iter().filter(is_clean).collect()
}
