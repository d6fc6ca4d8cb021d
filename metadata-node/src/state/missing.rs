//! What a disk should hold and does not, listed for whoever fetches it: some groups at a time, the most urgent first.
//!
//! Which groups those are is chosen once, with the first page, and then stands: the caller vouches for each of them as a whole,
//! as of that page. After a few groups it asks anew, so what comes into danger meanwhile waits for little else.

use std::collections::BTreeSet;
use wmall_proto::chunk::PieceState;

use wmall_proto::chunk::{ChunkRecord, MissingPiece};
use wmall_proto::ids::IdPage;
use wmall_proto::pg::PgKey;
use wmall_proto::rpc::Response;
use wmall_proto::{ChunkId, DiskId, Topology};
use wmall_runtime::view::StoreError;

use super::apply::groups_of;
use super::derived::Derived;
use super::query::{Silent, piece_bytes, row_facts};
use super::tickets::below;
use super::txn::decode;
use super::{State, keys};

/// Pieces that one page of a listing names.
const PAGE: usize = 1024;
/// Groups that are listed together, pieces that they have and bytes of these, but for the last one: so many are fetched before it
/// is asked again what is most urgent. And so soon more can be planned for the disk, while it is busy with the next ones.
const SET_GROUPS: usize = 256;
const SET_PIECES: u64 = 128;
const SET_BYTES: u64 = 64 << 20;

/// What a listing is of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listing<'a> {
    /// These groups, as a listing before chose them; empty for the most urgent ones.
    pub groups: &'a [PgKey],
    /// Then, none of these.
    pub but: &'a [PgKey],
    /// Go on after this one.
    pub after: Option<&'a IdPage>,
}

impl State {
    /// A page of what the disk lacks of some groups: the chunks of tickets, and of dirty groups every chunk.
    pub fn list_missing(
        &self,
        disk: DiskId,
        listing: Listing<'_>,
        silent: &Silent,
    ) -> Result<Response, StoreError> {
        let derived = self.read();
        let groups = match listing.groups {
            [] => most_urgent(&derived, disk, listing.but, silent),
            chosen => chosen.to_vec(),
        };
        let (as_of, epoch, mut pieces) = (derived.index(), derived.counters.feed_epoch, Vec::new());
        let is_dirty = |group: &&PgKey| dirty_at(&derived.topology, disk, **group).is_some();
        let dirty: Vec<PgKey> = groups.iter().filter(is_dirty).copied().collect();
        for &group in &groups {
            let next = self.list_group(&derived, (disk, group), listing.after, &mut pieces)?;
            if next.is_some() {
                return Ok(Response::Missing { pieces, next, groups, dirty, epoch, as_of });
            }
        }
        Ok(Response::Missing { pieces, next: None, groups, dirty, epoch, as_of })
    }

    /// Adds what the disk lacks of a group behind a place; where to go on if the page is full before its end.
    fn list_group(
        &self,
        derived: &Derived,
        (disk, (pool, pg)): (DiskId, PgKey),
        after: Option<&IdPage>,
        pieces: &mut Vec<MissingPiece>,
    ) -> Result<Option<IdPage>, StoreError> {
        let Some(table) = derived.topology.pools.get(&pool) else { return Ok(None) };
        let (low, high) = pg.range(table.pool.pg_bits);
        if after.is_some_and(|a| (a.pool, a.chunk) >= (pool, high)) {
            return Ok(None);
        }
        let row = table.rows.get(pg.0 as usize);
        let Some((row, slot)) = row.and_then(|row| Some((row, row.slot_of(disk)?))) else { return Ok(None) };
        let dirty = row.dirty_at[usize::from(slot)].is_some();
        let (prefix, key) = match dirty {
            true => (keys::chunks(pool), Box::new(move |chunk: &ChunkId| keys::chunk(pool, chunk)) as KeyOf),
            false => (
                keys::tickets_of(disk),
                Box::new(move |chunk: &ChunkId| keys::ticket(disk, pool, chunk)) as KeyOf,
            ),
        };
        // A first key just below the group's lowest, so that the lowest itself is not skipped.
        let within = after.filter(|a| (a.pool, a.chunk) >= (pool, low));
        let mut from = within.map_or_else(|| below(&key(&low)), |a| key(&a.chunk));
        loop {
            let page = self.store.scan(&prefix, Some(&from), PAGE)?;
            for (found, value) in &page {
                let Some(chunk) = found.last_chunk::<32>().copied().map(ChunkId) else { continue };
                if found.as_slice() > key(&high).as_slice() {
                    return Ok(None);
                }
                let record = match dirty {
                    true => Some(decode::<ChunkRecord>(value)?),
                    false => self.chunk_record(pool, &chunk)?,
                };
                if let Some(record) = record {
                    let (length, row_version) = (record.length, row.version);
                    let digests = self.digests(pool, &chunk)?;
                    pieces.push(MissingPiece { pool, chunk, length, slot, row_version, digests });
                }
                if pieces.len() >= PAGE {
                    return Ok(Some(IdPage { pool, chunk }));
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from.clone_from(last),
                _ => return Ok(None),
            }
        }
    }
}

/// The store's key of a chunk, or of a ticket for it.
type KeyOf = Box<dyn Fn(&ChunkId) -> Vec<u8>>;

/// Some of the groups that a disk has not all of, in order: those that can bear the fewest losses before a chunk is lost. What
/// can't be had from anybody now comes last.
fn most_urgent(derived: &Derived, disk: DiskId, but: &[PgKey], silent: &Silent) -> Vec<PgKey> {
    let topology = &derived.topology;
    let but: BTreeSet<&PgKey> = but.iter().collect();
    let mut owed: Vec<(usize, PgKey, u64)> = groups_of(topology, disk)
        .into_iter()
        .filter(|group| !but.contains(group))
        .filter_map(|group| {
            let pieces = owed_of(derived, disk, group)?;
            Some((losses_to_bear(topology, disk, group, silent), group, pieces))
        })
        .collect();
    owed.sort_unstable();
    let first = owed.first().map(|(losses, ..)| *losses);
    let (mut groups, mut pieces, mut bytes) = (Vec::new(), 0, 0u64);
    for (losses, group, more) in owed {
        let full = groups.len() == SET_GROUPS || pieces >= SET_PIECES || bytes >= SET_BYTES;
        if Some(losses) != first || full {
            break;
        }
        groups.push(group);
        pieces += more;
        bytes = bytes.saturating_add(piece_bytes(derived, group.0, more));
    }
    groups.sort_unstable();
    groups
}

/// Pieces of a group that the disk may lack; none if it has all.
fn owed_of(derived: &Derived, disk: DiskId, group: PgKey) -> Option<u64> {
    let tickets = derived.tickets.get(&(disk, group)).copied().unwrap_or(0);
    match dirty_at(&derived.topology, disk, group) {
        Some(_) => Some(derived.groups.get(&group).copied().unwrap_or(0)),
        None => (tickets > 0).then_some(u64::from(tickets)),
    }
}

/// The mark of the disk's slot in a group, if it is dirty.
fn dirty_at(topology: &Topology, disk: DiskId, (pool, pg): PgKey) -> Option<u64> {
    let row = topology.pools.get(&pool)?.rows.get(pg.0 as usize)?;
    row.dirty_at[usize::from(row.slot_of(disk)?)]
}

/// How many more of a group's pieces may be lost before a chunk that the disk lacks is. None, if it can be read only from a disk
/// that a slot was on its way from; what can't be read at all now can wait.
fn losses_to_bear(topology: &Topology, disk: DiskId, group: PgKey, silent: &Silent) -> usize {
    let Some(table) = topology.pools.get(&group.0) else { return usize::MAX };
    let Some(row) = table.rows.get(group.1.0 as usize) else { return usize::MAX };
    let own = row.slot_of(disk).map(usize::from);
    // Of a chunk with a ticket the disk's own piece does not count either.
    let ticketed = own.filter(|slot| row.dirty_at[*slot].is_none());
    let facts = row_facts(topology, row, silent);
    let live = |slot: &usize| facts[*slot].state == PieceState::Live && Some(*slot) != ticketed;
    let answers = |slot: &usize| row.sources[*slot].iter().any(|source| !silent.contains(&source.disk));
    let slots = || 0..row.slots.len();
    let needed = table.pool.scheme.needed();
    let readable = slots().filter(|slot| live(slot) || answers(slot)).count();
    match slots().filter(live).count().checked_sub(needed) {
        None if readable >= needed => 0,
        losses => losses.unwrap_or(usize::MAX),
    }
}
