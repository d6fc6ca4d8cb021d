//! Reads. Each sees exactly one applied index, since it holds the read lock from start to end.

use std::collections::HashSet;
use std::sync::Arc;

use wmall_placement::{Candidate, GroupFact, PieceFact, SlotFact, ZoneRule, grade};
use wmall_proto::capacity::UsageSample;
use wmall_proto::chunk::{ChunkView, MAX_CHUNKS_PER_COMMIT, PieceState, PieceView};
use wmall_proto::file::{FilePage, ObjectEntry, ObjectRecord, TrashEntry};
use wmall_proto::job::Job;
use wmall_proto::layout::LayoutDraft;
use wmall_proto::pg::{PgRow, UNVERIFIED};
use wmall_proto::pool::Bucket;
use wmall_proto::rpc::{Query, QueryReply};
use wmall_proto::status::Mute;
use wmall_proto::{BucketName, ChunkId, DiskId, FileId, ObjectName, PgId, PoolId, RpcError, Topology};

use super::derived::{Counters, Derived};
use super::lists::StoredFile;
use super::txn::decode;
use super::{State, keys};
use wmall_runtime::view::{Pair, StoreError};

/// The most lines a listing has.
const MAX_LISTING: u32 = 1000;

/// What a read may run into.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The map's error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such thing.
    #[error(transparent)]
    Answer(#[from] RpcError),
}

/// Disks that do not count now: their node does not answer, or they failed. The leader's knowledge, handed
/// in.
pub type Silent = HashSet<DiskId>;

/// Bytes of so many pieces of a pool, about: chunks are spread by their hashes, so a group's part of the
/// bytes is its part of the chunks.
pub(super) fn piece_bytes(derived: &Derived, pool: PoolId, pieces: u64) -> u64 {
    let Some(table) = derived.topology.pools.get(&pool) else { return 0 };
    let (scheme, counters) =
        (table.pool.scheme, derived.counters.pools.get(&pool).copied().unwrap_or_default());
    let bytes = u128::from(scheme.stored_bytes(counters.bytes)) * u128::from(pieces);
    let all = u128::from(counters.chunks.max(1)) * scheme.width() as u128;
    // Pieces of a byte each are pieces.
    u64::try_from(bytes / all).unwrap_or(u64::MAX).max(u64::from(pieces > 0))
}

impl State {
    /// Answers a query.
    pub fn query(&self, query: &Query, silent: &Silent) -> Result<QueryReply, QueryError> {
        let answer = match query {
            Query::Groups { pool, first } => self.grades_of_groups(*pool, *first, silent),
            Query::Grades(of) => self.grades_of(of, silent).map(QueryReply::Grades),
            _ => self.answer(query, silent),
        };
        if let Err(QueryError::Store(error)) = &answer {
            self.condemn(error);
        }
        answer
    }

    fn answer(&self, query: &Query, silent: &Silent) -> Result<QueryReply, QueryError> {
        let derived = self.read();
        match query {
            Query::File { id, first } => {
                let page = match self.file_page(id, *first) {
                    Err(QueryError::Answer(_)) => self.derived_file(id, *first)?,
                    page => page?,
                };
                Ok(QueryReply::File(page))
            }
            Query::Object { bucket, name } => self.object(bucket, name),
            Query::Objects { bucket, prefix, after, limit } => {
                self.objects(bucket, prefix, after.as_ref(), *limit)
            }
            Query::Buckets { after, limit } => self.buckets(after.as_ref(), *limit),
            Query::Bucket(name) => Ok(QueryReply::Bucket(self.bucket(name)?)),
            Query::Chunk(id) => self.chunk_views(&derived, id, silent),
            Query::Trash { bucket, prefix, after, limit } => {
                self.trash(bucket, prefix, after.as_ref(), *limit)
            }
            Query::Tokens => Ok(QueryReply::Tokens(derived.join_tokens.values().cloned().collect())),
            Query::Users { after, limit } => {
                let after = after.as_ref().map(keys::user);
                let (pairs, more) = self.page(keys::USERS, after.as_deref(), *limit)?;
                let users = pairs.iter().map(|(_, value)| decode(value)).collect::<Result<_, _>>()?;
                Ok(QueryReply::Users { users, more })
            }
            Query::Audit { first, limit } => {
                let after = first.checked_sub(1).map(keys::act);
                let (pairs, more) = self.page(keys::ACTS, after.as_deref(), *limit)?;
                let lines = pairs.iter().map(|(_, value)| decode(value)).collect::<Result<_, _>>()?;
                Ok(QueryReply::Audit { lines, more })
            }
            Query::Events { first, limit } => {
                let after = first.checked_sub(1).map(keys::event);
                let (pairs, more) = self.page(keys::EVENTS, after.as_deref(), *limit)?;
                let events = pairs.iter().map(|(_, value)| decode(value)).collect::<Result<_, _>>()?;
                Ok(QueryReply::Events { events, more })
            }
            // Who answers, the leader alone knows.
            Query::Drain(_)
            | Query::Rehearse(_)
            | Query::Jobs
            | Query::Layout
            | Query::Grades(_)
            | Query::Groups { .. } => {
                Err(RpcError::new(wmall_proto::ErrorCode::NotLeader, "only the leader makes plans").into())
            }
            Query::Known { pool, chunk } => {
                let record = self.chunk_record(*pool, chunk)?;
                Ok(QueryReply::Known(record.is_some_and(|r| r.condemned.is_none())))
            }
        }
    }

    fn stored_file(&self, id: &FileId) -> Result<StoredFile, QueryError> {
        let stored = self.store.get(&keys::file(id))?;
        let bytes = stored.ok_or_else(|| RpcError::not_found(format!("file {id}")))?;
        Ok(decode(&bytes)?)
    }

    pub(super) fn file_page(&self, id: &FileId, first: u64) -> Result<FilePage, QueryError> {
        const CHUNKS: u64 = MAX_CHUNKS_PER_COMMIT as u64;
        let StoredFile { record, lists } = self.stored_file(id)?;
        let list = usize::try_from(first / CHUNKS).ok().and_then(|page| lists.get(page));
        let stored = list.map(|list| self.store.get(&keys::list(*list))).transpose()?.flatten();
        let mut chunks: Vec<ChunkId> = stored.map(|b| decode(&b)).transpose()?.unwrap_or_default();
        // Behind the chunks of a list is their block.
        let in_list = record.chunk_count().saturating_sub(first / CHUNKS * CHUNKS).min(CHUNKS);
        chunks.truncate(in_list as usize);
        chunks.drain(..((first % CHUNKS) as usize).min(chunks.len()));
        Ok(FilePage { id: *id, record, first, chunks })
    }

    fn object(&self, bucket: &BucketName, name: &ObjectName) -> Result<QueryReply, QueryError> {
        let pool = self.bucket(bucket)?.pool;
        let stored = self.store.get(&keys::object(bucket, name))?;
        let missing = || RpcError::not_found(format!("object {bucket}/{name}"));
        let record: ObjectRecord = decode(&stored.ok_or_else(missing)?)?;
        let file = self.file_page(&record.file, 0)?;
        Ok(QueryReply::Object { record, pool, file })
    }

    fn bucket(&self, name: &BucketName) -> Result<Bucket, QueryError> {
        let stored = self.store.get(&keys::bucket(name))?;
        let missing = || RpcError::not_found(format!("bucket named {name}"));
        let bucket: Bucket = decode(&stored.ok_or_else(missing)?)?;
        if bucket.removing { Err(missing().into()) } else { Ok(bucket) }
    }

    /// A page of those that are not being removed. It is full if there are more: its last one says where a
    /// listing goes on.
    fn buckets(&self, after: Option<&BucketName>, limit: u32) -> Result<QueryReply, QueryError> {
        let (mut buckets, mut after) = (Vec::<Bucket>::new(), after.map(keys::bucket));
        let wanted = limit.clamp(1, MAX_LISTING) as usize;
        loop {
            let (pairs, mut more) = self.page(keys::BUCKETS, after.as_deref(), limit)?;
            for (_, value) in &pairs {
                let bucket: Bucket = decode(value)?;
                buckets.extend(Some(bucket).filter(|b| !b.removing));
            }
            if !more || buckets.len() >= wanted {
                more |= buckets.len() > wanted;
                buckets.truncate(wanted);
                return Ok(QueryReply::Buckets { buckets, more });
            }
            after = pairs.into_iter().next_back().map(|(key, _)| key);
        }
    }

    /// A page of a listing: what begins with this and comes after that, and whether there is more.
    fn page(&self, start: &[u8], after: Option<&[u8]>, limit: u32) -> Result<(Vec<Pair>, bool), StoreError> {
        let limit = limit.clamp(1, MAX_LISTING) as usize;
        let mut pairs = self.store.scan(start, after, limit + 1)?;
        let more = pairs.len() > limit;
        pairs.truncate(limit);
        Ok((pairs, more))
    }

    fn objects(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&ObjectName>,
        limit: u32,
    ) -> Result<QueryReply, QueryError> {
        self.bucket(bucket)?;
        let base = keys::objects(bucket);
        let mut start = base.clone();
        start.extend_from_slice(prefix.as_bytes());
        let after = after.map(|name| keys::object(bucket, name));
        let (pairs, more) = self.page(&start, after.as_deref(), limit)?;
        let mut entries = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let name = String::from_utf8_lossy(&key[base.len()..]).into_owned();
            let name = ObjectName::new(name).map_err(|e| StoreError(e.to_string()))?;
            entries.push(ObjectEntry { name, record: decode(&value)? });
        }
        Ok(QueryReply::Objects { entries, more })
    }

    fn trash(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&(ObjectName, u64)>,
        limit: u32,
    ) -> Result<QueryReply, QueryError> {
        self.bucket(bucket)?;
        let mut start = keys::trash_of(bucket);
        start.extend_from_slice(prefix.as_bytes());
        let after = after.map(|(name, version)| keys::trash(bucket, name, *version));
        let (pairs, more) = self.page(&start, after.as_deref(), limit)?;
        let mut entries = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let damaged = || StoreError("a key of the trash is damaged".into());
            let (_, name, version) = keys::parse_trash(&key).ok_or_else(damaged)?;
            entries.push(TrashEntry { name, version, record: decode(&value)? });
        }
        Ok(QueryReply::Trash { entries, more })
    }

    fn chunk_views(
        &self,
        derived: &Derived,
        id: &ChunkId,
        silent: &Silent,
    ) -> Result<QueryReply, QueryError> {
        let mut views = Vec::new();
        for &pool in derived.topology.pools.keys() {
            if let Some(record) = self.chunk_record(pool, id)? {
                views.extend(self.chunk_view(derived, pool, id, record, silent)?);
            }
        }
        if views.is_empty() {
            return Err(RpcError::not_found(format!("chunk {id}")).into());
        }
        Ok(QueryReply::Chunk(views))
    }

    fn chunk_view(
        &self,
        derived: &Derived,
        pool: PoolId,
        id: &ChunkId,
        record: wmall_proto::chunk::ChunkRecord,
        silent: &Silent,
    ) -> Result<Option<ChunkView>, StoreError> {
        let topology = &derived.topology;
        let Some((_, row)) = topology.row_of(pool, id) else { return Ok(None) };
        let mut facts = row_facts(topology, row, silent);
        let mut pieces = Vec::new();
        for (slot, fact) in facts.iter_mut().enumerate() {
            // While a slot moves, its source speaks for what it had when it gave the slot away, and its own
            // disk for what came since.
            let dirty = row.dirty_at[slot].is_some();
            let source = row.vouching_source(slot).filter(|_| dirty);
            let speaks = source.filter(|s| record.committed_at <= s.since).map(|s| s.disk);
            let own = row.slots[slot];
            for disk in [Some(own), source.map(|s| s.disk)].into_iter().flatten() {
                if self.store.get(&keys::ticket(disk, pool, id))?.is_some() {
                    fact.state = PieceState::Missing;
                }
            }
            let places = match speaks {
                Some(disk) => vec![(disk, fact.state), (own, PieceState::Missing)],
                None => vec![(own, fact.state)],
            };
            for (disk, state) in places {
                let Some(info) = topology.disks.get(&disk) else { continue };
                let (node, incarnation) = (info.node.clone(), info.incarnation);
                pieces.push(PieceView { slot: slot as u8, disk, node, incarnation, state });
            }
        }
        let scheme = topology.pools[&pool].pool.scheme;
        let grade = grade(scheme, keeps_rule(topology, row), &facts);
        let digests = self.digests(pool, id)?;
        Ok(Some(ChunkView { pool, id: *id, record, row_version: row.version, digests, pieces, grade }))
    }

    /// What the planner of repairs wants to know of each group.
    pub(crate) fn group_facts(&self, silent: &Silent) -> Vec<GroupFact> {
        let derived = self.read();
        let topology = &derived.topology;
        let mut groups = Vec::new();
        for (&pool, table) in &topology.pools {
            let scheme = table.pool.scheme;
            for (number, row) in table.rows.iter().enumerate() {
                let key = (pool, PgId(number as u32));
                let facts = row_facts(topology, row, silent);
                let slot = |(slot, fact): (usize, &PieceFact)| SlotFact {
                    disk: row.slots[slot],
                    sources: row.sources[slot].iter().map(|s| s.disk).collect(),
                    arriving: row.dirty_at[slot].is_some(),
                    piece: fact.state,
                };
                groups.push(GroupFact {
                    key,
                    row_version: row.version,
                    needed: scheme.needed(),
                    slot_bytes: piece_bytes(&derived, pool, derived.groups.get(&key).copied().unwrap_or(0)),
                    slots: facts.iter().enumerate().map(slot).collect(),
                });
            }
        }
        groups
    }

    /// The map of the cluster.
    pub fn topology(&self) -> Arc<Topology> {
        self.read().topology.clone()
    }

    /// All jobs, in the order of their numbers.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        self.read().jobs.values().cloned().collect()
    }

    /// Weights that are staged.
    pub(crate) fn draft(&self) -> LayoutDraft {
        self.read().draft.clone()
    }

    /// Findings that are muted now.
    pub(crate) fn mutes(&self, now_ms: u64) -> Vec<Mute> {
        self.read().mutes.values().filter(|m| m.until_ms > now_ms).cloned().collect()
    }

    /// What the cluster needed in the past.
    pub(crate) fn samples(&self) -> Vec<UsageSample> {
        self.read().samples.iter().copied().collect()
    }

    /// The counters, with the index they are of.
    pub fn counters(&self) -> (u64, Counters) {
        let derived = self.read();
        (derived.index(), derived.counters.clone())
    }
}

/// What holds for a chunk of this row that has no ticket. A slot that moves counts as its source does, if
/// that is vouched for, and as its own disk does where that is worse: what was committed since is there and
/// nowhere else.
pub(super) fn row_facts(topology: &Topology, row: &PgRow, silent: &Silent) -> Vec<PieceFact> {
    let of_disk = |disk: &DiskId| match topology.disks.get(disk) {
        Some(info) if silent.contains(&info.id) => PieceState::Suspect,
        Some(_) => PieceState::Live,
        None => PieceState::Missing,
    };
    let worse = |a: PieceState, b: PieceState| match (a, b) {
        (PieceState::Live, other) | (other, PieceState::Live) => other,
        (PieceState::Suspect, other) | (other, PieceState::Suspect) => other,
        _ => PieceState::Missing,
    };
    let state = |slot: usize| {
        let own = of_disk(&row.slots[slot]);
        match (row.dirty_at[slot], row.vouching_source(slot)) {
            (None, _) => own,
            (Some(_), Some(source)) => worse(of_disk(&source.disk), own),
            // Nobody has looked since a restore: it may well be there.
            (Some(UNVERIFIED), None) => worse(own, PieceState::Suspect),
            (Some(_), None) => PieceState::Missing,
        }
    };
    (0..row.slots.len()).map(|slot| PieceFact { state: state(slot) }).collect()
}

/// Whether a row keeps the zone rule over the zones there are now.
pub(super) fn keeps_rule(topology: &Topology, row: &PgRow) -> bool {
    let candidate = |disk: &DiskId| {
        let info = topology.disks.get(disk)?;
        let zone = topology.nodes.get(&info.node)?.zone.clone();
        Some(Candidate { disk: *disk, node: info.node.clone(), zone, weight: info.weight })
    };
    let candidates: Vec<Candidate> = row.slots.iter().filter_map(candidate).collect();
    let row: Vec<&Candidate> = candidates.iter().collect();
    ZoneRule::new(row.len(), topology.zone_count()).keeps(&row)
}
