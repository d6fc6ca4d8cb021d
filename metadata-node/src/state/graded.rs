//! Grades: of everything, and of a file, a group, a pool, a disk or a node. A walk over groups and tickets, never over
//! chunks; of a file, over a page of its chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wmall_placement::{GroupFacts, tally};
use wmall_proto::grade::{GradeCounts, GradesOf, GradesView};
use wmall_proto::pg::{PgKey, PgRow};
use wmall_proto::rpc::QueryReply;
use wmall_proto::{ChunkId, DiskId, NodeName, PgId, PoolId, RpcError, Topology};
use wmall_runtime::view::StoreError;

use super::derived::{Derived, each};
use super::query::{QueryError, Silent, keeps_rule, row_facts};
use super::txn::decode;
use super::{State, keys};

/// Groups that one answer tells of.
const GROUPS_PER_PAGE: u32 = 1000;

/// Chunks of a group that are asked about.
struct Part {
    key: PgKey,
    chunks: u64,
    /// Per chunk with tickets, the slots that they are about.
    ticketed: Vec<Vec<u8>>,
}

/// Slots with tickets, by group and chunk.
type Ticketed = BTreeMap<PgKey, BTreeMap<ChunkId, Vec<u8>>>;

impl State {
    /// Chunks per grade, all of them.
    pub fn grades(&self, silent: &Silent) -> Result<GradeCounts, StoreError> {
        let (topology, parts) = self.parts(|_, _| true)?;
        Ok(count(&topology, &parts, silent))
    }

    pub(super) fn grades_of(&self, of: &GradesOf, silent: &Silent) -> Result<GradesView, QueryError> {
        let topology = &self.topology();
        let involves = |row: &PgRow, disks: &BTreeSet<DiskId>| row.holders().any(|(_, d)| disks.contains(&d));
        let missing = |what: String| Err(RpcError::not_found(what).into());
        match of {
            GradesOf::Disk(disk) if !topology.disks.contains_key(disk) => missing(disk.to_string()),
            GradesOf::Node(node) if !topology.nodes.contains_key(node) => {
                missing(format!("data node named {node}"))
            }
            GradesOf::Disk(_) | GradesOf::Node(_) => {
                let disks: BTreeSet<DiskId> = match of {
                    GradesOf::Node(node) => disks_of(topology, node),
                    GradesOf::Disk(disk) => BTreeSet::from([*disk]),
                    _ => BTreeSet::new(),
                };
                let (topology, parts) = self.parts(|_, row| involves(row, &disks))?;
                let lost = disks.first().and_then(|d| topology.disks.get(d)).map(|d| d.node.clone());
                let without = count(&topology, &parts, &with(silent, &disks));
                Ok(view(count(&topology, &parts, silent), without, lost))
            }
            GradesOf::Pool(pool) if !topology.pools.contains_key(pool) => {
                missing(format!("pool number {}", pool.0))
            }
            GradesOf::Pool(pool) => {
                let (topology, parts) = self.parts(|key, _| key.0 == *pool)?;
                Ok(worst_loss(&topology, &parts, silent))
            }
            GradesOf::Group(pool, pg) => {
                let rows = topology.pools.get(pool).map_or(0, |t| t.rows.len());
                if pg.0 as usize >= rows {
                    return missing(format!("placement group {} of pool number {}", pg.0, pool.0));
                }
                let (topology, parts) = self.parts(|key, _| key == (*pool, *pg))?;
                Ok(worst_loss(&topology, &parts, silent))
            }
            GradesOf::File { id, first } => {
                let page = self.file_page(id, *first)?;
                let (topology, parts) = self.parts_of(&page.record.pools, &page.chunks)?;
                Ok(worst_loss(&topology, &parts, silent))
            }
        }
    }

    /// A page of groups of a pool, each by itself.
    pub(super) fn grades_of_groups(
        &self,
        pool: PoolId,
        first: u32,
        silent: &Silent,
    ) -> Result<QueryReply, QueryError> {
        let numbers = first..first.saturating_add(GROUPS_PER_PAGE);
        let (topology, parts) = self.parts(|key, _| key.0 == pool && numbers.contains(&key.1.0))?;
        let each = parts.chunks(1).map(|part| worst_loss(&topology, part, silent));
        Ok(QueryReply::Groups(each.collect()))
    }

    /// All chunks of the groups that are wanted, and the map that they were taken by. What is made of them needs no lock.
    fn parts(
        &self,
        wanted: impl Fn(PgKey, &PgRow) -> bool,
    ) -> Result<(Arc<Topology>, Vec<Part>), StoreError> {
        let derived = self.read();
        let mut ticketed = self.ticketed(&derived)?;
        let mut parts = Vec::new();
        for (&pool, table) in &derived.topology.pools {
            for (number, row) in table.rows.iter().enumerate() {
                let key = (pool, PgId(number as u32));
                if wanted(key, row) {
                    let chunks = derived.groups.get(&key).copied().unwrap_or(0);
                    let ticketed = ticketed.remove(&key).unwrap_or_default().into_values().collect();
                    parts.push(Part { key, chunks, ticketed });
                }
            }
        }
        Ok((derived.topology.clone(), parts))
    }

    /// These chunks in these pools, each once.
    fn parts_of(
        &self,
        pools: &[PoolId],
        chunks: &[ChunkId],
    ) -> Result<(Arc<Topology>, Vec<Part>), StoreError> {
        let derived = self.read();
        let mut groups: BTreeMap<PgKey, BTreeSet<ChunkId>> = BTreeMap::new();
        for (pool, chunk) in pools.iter().flat_map(|pool| chunks.iter().map(move |chunk| (*pool, chunk))) {
            if let Some((key, _)) = derived.topology.row_of(pool, chunk) {
                groups.entry(key).or_default().insert(*chunk);
            }
        }
        let mut ticketed = self.ticketed(&derived)?;
        let part = |(key, chunks): (PgKey, BTreeSet<ChunkId>)| {
            let tickets = ticketed.remove(&key).unwrap_or_default().into_iter();
            let ticketed =
                tickets.filter(|(chunk, _)| chunks.contains(chunk)).map(|(_, slots)| slots).collect();
            Part { key, chunks: chunks.len() as u64, ticketed }
        };
        Ok((derived.topology.clone(), groups.into_iter().map(part).collect()))
    }

    fn ticketed(&self, derived: &Derived) -> Result<Ticketed, StoreError> {
        let topology = &derived.topology;
        let mut ticketed = Ticketed::new();
        each(&*self.store, keys::TICKETS, |key, value| {
            let Some((disk, pool, chunk)) = keys::parse_ticket(key) else { return Ok(()) };
            let ticket: wmall_proto::chunk::Ticket = decode(value)?;
            let Some((group, row)) = topology.row_of(pool, &chunk) else { return Ok(()) };
            // Of the sources of a slot, what only the one lacks counts that speaks for it.
            let slot = usize::from(ticket.slot);
            let speaks =
                || row.vouching_source(slot).filter(|_| row.dirty_at[slot].is_some()).map(|s| s.disk);
            if row.slots.get(slot) == Some(&disk) || speaks() == Some(disk) {
                ticketed.entry(group).or_default().entry(chunk).or_default().push(ticket.slot);
            }
            Ok(())
        })?;
        Ok(ticketed)
    }
}

fn disks_of(topology: &Topology, node: &NodeName) -> BTreeSet<DiskId> {
    topology.disks.values().filter(|d| d.node == *node).map(|d| d.id).collect()
}

fn with(silent: &Silent, disks: &BTreeSet<DiskId>) -> Silent {
    silent.iter().chain(disks).copied().collect()
}

fn count<'a>(topology: &Topology, parts: impl IntoIterator<Item = &'a Part>, silent: &Silent) -> GradeCounts {
    let facts = |part: &Part| {
        let table = topology.pools.get(&part.key.0)?;
        let row = table.rows.get(part.key.1.0 as usize)?;
        Some(GroupFacts {
            scheme: table.pool.scheme,
            rule_kept: keeps_rule(topology, row),
            row: row_facts(topology, row, silent),
            chunks: part.chunks,
            ticketed: part.ticketed.clone(),
        })
    };
    tally(parts.into_iter().filter_map(facts))
}

fn view(now: GradeCounts, without: GradeCounts, lost: Option<NodeName>) -> GradesView {
    GradesView { now, without, lost, chunks: now.total() }
}

/// The same chunks without the node whose loss would be the worst for them: the most that are lost or can't be read, then
/// the most in danger.
fn worst_loss(topology: &Topology, parts: &[Part], silent: &Silent) -> GradesView {
    let now = count(topology, parts, silent);
    let row = |part: &Part| topology.pools.get(&part.key.0).and_then(|t| t.rows.get(part.key.1.0 as usize));
    let badness = |c: &GradeCounts| (c.lost + c.unavailable, c.danger, c.warning);
    let mut worst = view(now, now, None);
    for node in topology.nodes.keys() {
        let disks = disks_of(topology, node);
        if disks.iter().all(|d| silent.contains(d)) {
            continue;
        }
        let (on_it, elsewhere): (Vec<&Part>, Vec<&Part>) =
            parts.iter().partition(|p| row(p).is_some_and(|r| r.holders().any(|(_, d)| disks.contains(&d))));
        let mut without = count(topology, on_it, &with(silent, &disks));
        without += count(topology, elsewhere, silent);
        if badness(&without) > badness(&worst.without) {
            worst = view(now, without, Some(node.clone()));
        }
    }
    worst
}
