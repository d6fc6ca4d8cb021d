//! Tickets and dirty groups: what disks should hold and do not.

use wmall_proto::chunk::{ChunkRecord, Ticket, TicketReason};
use wmall_proto::pg::PgKey;
use wmall_proto::rpc::Response;
use wmall_proto::{ChunkId, DiskId, ErrorCode, Incarnation, PgId, PoolId, RpcError};

use super::apply::{Context, Outcome, Refusal};
use super::txn::decode;
use super::{State, keys};
use crate::command::FetchedPiece;
use wmall_runtime::view::StoreError;

/// Above so many tickets a slot of a group becomes dirty instead.
const MAX_TICKETS_PER_SLOT: u32 = 1024;

impl Context<'_> {
    /// Writes a ticket, or marks the slot dirty where there are too many. Returns whether it is a new one.
    pub(super) fn open_ticket(
        &mut self,
        group: PgKey,
        disk: DiskId,
        chunk: &ChunkId,
        ticket: Ticket,
    ) -> Result<bool, Refusal> {
        let key = keys::ticket(disk, group.0, chunk);
        if self.txn.get::<Ticket>(&key)?.is_some() {
            return Ok(false);
        }
        let count = self.derived.tickets.entry((disk, group)).or_insert(0);
        if *count >= MAX_TICKETS_PER_SLOT {
            self.set_dirty(group, disk, Some(ticket.since));
            self.distrust_source_of(group, disk);
            return Ok(false);
        }
        *count += 1;
        *self.derived.counters.tickets.entry(disk).or_insert(0) += 1;
        self.txn.put(key, &ticket);
        Ok(true)
    }

    pub(super) fn close_ticket_of_slot(
        &mut self,
        group: PgKey,
        chunk: &ChunkId,
        slot: u8,
    ) -> Result<(), Refusal> {
        let row = self.derived.topology.row_of(group.0, chunk).map(|(_, row)| row);
        let Some(&disk) = row.and_then(|r| r.slots.get(usize::from(slot))) else { return Ok(()) };
        self.close_ticket(disk, group, chunk, |t| t.reason == TicketReason::MissedWrite)
    }

    pub(super) fn close_ticket(
        &mut self,
        disk: DiskId,
        group: PgKey,
        chunk: &ChunkId,
        closes: impl Fn(&Ticket) -> bool,
    ) -> Result<(), Refusal> {
        // Most disks have none; asking the counter first saves the look-up on every commit.
        if self.derived.counters.tickets.get(&disk).is_none_or(|&n| n == 0) {
            return Ok(());
        }
        let key = keys::ticket(disk, group.0, chunk);
        if self.txn.get::<Ticket>(&key)?.is_some_and(|t| closes(&t)) {
            self.txn.remove(key);
            let lower = |n: &mut u64| *n = n.saturating_sub(1);
            self.derived.counters.tickets.entry(disk).and_modify(lower);
            let left = self.derived.tickets.entry((disk, group)).or_insert(0);
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.derived.tickets.remove(&(disk, group));
                self.settle_move(group, disk)?;
            }
        }
        Ok(())
    }

    /// A disk holds these pieces now, by receipts that the leader verified, and has worked off the
    /// listings of these groups.
    pub(super) fn close_tickets(
        &mut self,
        disk: DiskId,
        incarnation: Incarnation,
        pieces: &[FetchedPiece],
        clean: &[(PoolId, PgId)],
        as_of: u64,
    ) -> Outcome {
        self.check_life(disk, Some(incarnation))?;
        // What a disk in quarantine says it holds does not count.
        if self.derived.topology.disks.get(&disk).is_some_and(|d| d.quarantined_ms.is_some()) {
            let reason = format!("{disk} is in quarantine");
            return Err(RpcError::new(ErrorCode::Denied, reason).into());
        }
        for FetchedPiece { pool, chunk, slot, digest } in pieces {
            let row = self.derived.topology.row_of(*pool, chunk);
            // It may have another slot of the row by now.
            let Some((group, _)) = row.filter(|(_, row)| row.slot_of(disk) == Some(*slot)) else { continue };
            if self.learn_digest(*pool, chunk, *slot, digest)? {
                // A ticket from after the listing is of another piece than the one that was fetched.
                self.close_ticket(disk, group, chunk, |t| t.since <= as_of)?;
            }
        }
        for &group in clean {
            // What went missing behind the listing's back keeps the mark.
            if self.dirty_at(group, disk).is_some_and(|at| at <= as_of) {
                self.set_dirty(group, disk, None);
                self.settle_move(group, disk)?;
            }
        }
        Ok(Response::Done)
    }

    /// A disk says that pieces of its own are no good.
    pub(super) fn report_bad(&mut self, disk: DiskId, chunks: &[(PoolId, ChunkId)]) -> Outcome {
        self.check_life(disk, None)?;
        let mut opened = 0;
        for (pool, chunk) in chunks {
            let committed: Option<ChunkRecord> = self.txn.get(&keys::chunk(*pool, chunk))?;
            let Some((group, row)) = self.derived.topology.row_of(*pool, chunk) else { continue };
            let slot = row.slot_of(disk).or(row.source_slot_of(disk));
            if let (Some(_), Some(slot)) = (committed, slot) {
                let ticket = Ticket { slot, since: self.index, reason: TicketReason::BadPiece };
                opened += u64::from(self.open_ticket(group, disk, chunk, ticket)?);
            }
        }
        if opened > 0 {
            self.tell_bad(disk, opened);
        }
        Ok(Response::Done)
    }

    fn dirty_at(&self, (pool, pg): PgKey, disk: DiskId) -> Option<u64> {
        let row = self.derived.topology.pools.get(&pool)?.rows.get(pg.0 as usize)?;
        row.dirty_at[usize::from(row.slot_of(disk)?)]
    }

    fn check_life(&self, disk: DiskId, life: Option<Incarnation>) -> Result<(), Refusal> {
        let known = self.derived.topology.disks.get(&disk);
        let info = known.ok_or_else(|| RpcError::not_found(disk))?;
        if life.is_some_and(|l| l != info.incarnation) {
            let reason = format!("{disk} has been formatted since; what it promised before is void");
            return Err(RpcError::new(ErrorCode::BadReceipt, reason).into());
        }
        Ok(())
    }
}

impl State {
    pub(super) fn chunk_record(
        &self,
        pool: PoolId,
        chunk: &ChunkId,
    ) -> Result<Option<ChunkRecord>, StoreError> {
        self.store.get(&keys::chunk(pool, chunk))?.map(|b| decode(&b)).transpose()
    }
}

/// A key that sorts right before this one among keys of its length.
pub(super) fn below(key: &[u8]) -> Vec<u8> {
    let mut out = key.to_vec();
    for byte in out.iter_mut().rev() {
        let (lower, borrowed) = byte.overflowing_sub(1);
        *byte = lower;
        if !borrowed {
            break;
        }
    }
    out
}
