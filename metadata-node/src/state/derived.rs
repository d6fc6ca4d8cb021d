//! The small half of the state: read on every call, kept in memory, rebuilt from the map at start.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bincode::{Decode, Encode};
use wmall_placement::Reason;
use wmall_proto::capacity::{CapacityLevel, UsageSample};
use wmall_proto::identity::{Revocation, TokenId, TokenRecord};
use wmall_proto::job::Job;
use wmall_proto::layout::LayoutDraft;
use wmall_proto::pg::{PgKey, PgRow};
use wmall_proto::status::Mute;
use wmall_proto::topology::{DiskInfo, EncodedMap, NodeInfo, PoolTable};
use wmall_proto::{DiskId, NodeName, PgId, Pool, PoolId, Topology};

use super::answers::{AnswerPage, Answers};
use super::feed::FeedRing;
use super::nodes::NodeStarts;
use super::recent::RecentChanges;
use super::txn::decode;
use super::uploads::WaitingParts;
use super::{Applied, keys};
use wmall_runtime::view::{Store, StoreError};

/// Exact counters, kept as the commands go by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Counters {
    /// Committed files.
    pub files: u64,
    /// Objects in all buckets.
    pub objects: u64,
    /// Committed chunks and their bytes, by pool.
    pub pools: BTreeMap<PoolId, PoolCounters>,
    /// Open tickets, by disk.
    pub tickets: BTreeMap<DiskId, u64>,
    /// The number that the next disk gets.
    pub next_disk: u32,
    /// The number that the next pool gets.
    pub next_pool: u16,
    /// Version of the topology: Raft index of its last change.
    pub topology_version: u64,
    /// Former versions of names that can still be had back.
    pub trash: u64,
    /// Condemned chunks and their bytes; they are still part of their pools' counters.
    pub condemned: PoolCounters,
    /// No upload that began before this time may commit.
    pub fenced_before_ms: u64,
    /// The cluster's clock.
    pub clock: Clock,
    /// All deletion is held back.
    pub deletion_held: bool,
    /// The life of the metadata that indices of the feed belong to.
    pub feed_epoch: u64,
    /// Receipts by rows below this version are of a former life of the metadata, and void.
    pub rows_from: u64,
    /// Lines of the audit log.
    pub acts: u64,
    /// Hash of its last line.
    pub last_act: [u8; 32],
    /// Lines that the event log has had.
    pub events: u64,
    /// Jobs that there have been.
    pub jobs: u64,
    /// How full the cluster was when that was last noted.
    pub level: CapacityLevel,
    /// Whether repairs were halted then.
    pub halted: bool,
    /// What moves, as far as the event log has yet to tell of it.
    pub moves: Untold,
    /// By disk: when its last line about bad pieces was written, and pieces that no line has told of since.
    pub bad_pieces: BTreeMap<DiskId, (u64, u64)>,
    /// Answers to requests that were born before this time may be forgotten.
    pub answers_from_ms: u64,
    /// Lists of chunks that there have been.
    pub next_list: u64,
}

/// The cluster's clock as of the last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Clock {
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Whether its next reading may be any later time: in a new cluster, and after a restore.
    pub may_jump: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self { now_ms: 0, may_jump: true }
    }
}

/// Moves that have no line in the event log yet: a plan a second would fill it with lines that say little.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Untold {
    /// By reason, when the last line was written and how many slots have moved since.
    pub since_line: BTreeMap<Reason, (u64, u64)>,
    /// Slots that have arrived since all was at rest, by the disk that has them.
    pub arrived: BTreeMap<DiskId, u64>,
}

/// The epoch of metadata that came out of a snapshot file and has no life of its own yet: the first leader
/// draws one.
pub const NO_EPOCH: u64 = u64::MAX;

/// What a pool holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct PoolCounters {
    /// Chunks.
    pub chunks: u64,
    /// Their bytes, once each.
    pub bytes: u64,
}

/// The small half.
pub(crate) struct Derived {
    pub(crate) applied: Applied,
    pub(crate) topology: Arc<Topology>,
    /// The map as it travels, encoded for the first caller that asks for this version.
    pub(crate) encoded: Arc<OnceLock<EncodedMap>>,
    /// What changed in it of late.
    pub(crate) recent: RecentChanges,
    pub(crate) counters: Counters,
    /// Chunks a group.
    pub(crate) groups: HashMap<PgKey, u64>,
    /// Tickets a disk and group, for the bound.
    pub(crate) tickets: HashMap<(DiskId, PgKey), u32>,
    pub(crate) answers: Answers,
    pub(crate) feed: FeedRing,
    pub(crate) join_tokens: BTreeMap<TokenId, TokenRecord>,
    /// The processes of data nodes, and the starts of their disks.
    pub(crate) starts: BTreeMap<NodeName, NodeStarts>,
    /// At most [`wmall_proto::job::MAX_JOBS`], and those under way.
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) draft: LayoutDraft,
    /// By code; bounded by the codes that there are.
    pub(crate) mutes: BTreeMap<String, Mute>,
    /// By time.
    pub(crate) samples: VecDeque<UsageSample>,
    /// Parts that wait for their files.
    pub(super) waiting: WaitingParts,
}

impl Derived {
    /// As much of it as operations on nodes and disks go by and change, to try one.
    pub(super) fn copy_for_operations(&self) -> Self {
        Self {
            applied: Applied::default(),
            topology: self.topology.clone(),
            encoded: Arc::default(),
            recent: RecentChanges::new(self.topology.version),
            counters: self.counters.clone(),
            groups: HashMap::new(),
            tickets: HashMap::new(),
            answers: Answers::default(),
            feed: FeedRing::new(0),
            join_tokens: BTreeMap::new(),
            starts: BTreeMap::new(),
            jobs: self.jobs.clone(),
            draft: self.draft.clone(),
            mutes: self.mutes.clone(),
            samples: VecDeque::new(),
            waiting: WaitingParts::default(),
        }
    }

    pub(super) fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let applied = match store.get(keys::APPLIED)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| StoreError(format!("the applied position is damaged: {e}")))?,
            None => Applied::default(),
        };
        let counters: Counters =
            store.get(keys::COUNTERS)?.map(|b| decode(&b)).transpose()?.unwrap_or_default();
        let mut groups = HashMap::new();
        each(store, keys::GROUP_COUNTS, |key, value| {
            groups.extend(keys::parse_group(key).zip(Some(decode::<u64>(value)?)));
            Ok(())
        })?;
        let mut answers = Answers::default();
        each(store, keys::ANSWERS, |key, value| {
            let index = key.get(1..).and_then(|k| k.first_chunk()).map_or(0, |k| u64::from_be_bytes(*k));
            let page: AnswerPage = decode(value)?;
            // A page stays as long as one of its answers is kept.
            let kept = page.iter().filter(|(request, _)| request.born_ms() >= counters.answers_from_ms);
            kept.for_each(|(request, answer)| answers.insert(index, *request, answer));
            Ok(())
        })?;
        let topology = Arc::new(load_topology(store, counters.topology_version)?);
        let mut tickets = HashMap::new();
        each(store, keys::TICKETS, |key, _| {
            if let Some((disk, pool, chunk)) = keys::parse_ticket(key)
                && let Some((pg, _)) = topology.row_of(pool, &chunk)
            {
                *tickets.entry((disk, pg)).or_insert(0) += 1;
            }
            Ok(())
        })?;
        let mut join_tokens = BTreeMap::new();
        each(store, keys::TOKENS, |_, value| {
            let token: TokenRecord = decode(value)?;
            join_tokens.insert(token.id, token);
            Ok(())
        })?;
        let mut starts = BTreeMap::new();
        each(store, keys::STARTS, |key, value| {
            let node = keys::parse_starts(key).ok_or_else(|| StoreError("a node without a name".into()))?;
            starts.insert(node, decode::<NodeStarts>(value)?);
            Ok(())
        })?;
        let start = applied.log_id.map_or(0, |id| id.index);
        let feed = FeedRing::new(start);
        let mut derived = Self {
            applied,
            recent: RecentChanges::new(topology.version),
            topology,
            encoded: Arc::default(),
            counters,
            groups,
            tickets,
            answers,
            feed,
            join_tokens,
            starts,
            jobs: BTreeMap::new(),
            draft: store.get(keys::LAYOUT_DRAFT)?.map(|b| decode(&b)).transpose()?.unwrap_or_default(),
            mutes: BTreeMap::new(),
            samples: VecDeque::new(),
            waiting: WaitingParts::load(store)?,
        };
        derived.load_operations(store)?;
        Ok(derived)
    }

    fn load_operations(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        each(store, keys::JOBS, |_, value| {
            let job: Job = decode(value)?;
            self.jobs.insert(job.number, job);
            Ok(())
        })?;
        each(store, keys::MUTES, |_, value| {
            let mute: Mute = decode(value)?;
            self.mutes.insert(mute.code.clone(), mute);
            Ok(())
        })?;
        each(store, keys::USAGE, |_, value| {
            self.samples.push_back(decode(value)?);
            Ok(())
        })
    }

    /// The index of the last applied entry.
    pub(crate) fn index(&self) -> u64 {
        self.applied.log_id.map_or(0, |id| id.index)
    }
}

fn load_topology(store: &dyn Store, version: u64) -> Result<Topology, StoreError> {
    let mut topology = Topology { version, ..Topology::empty() };
    each(store, keys::POOLS, |_, value| {
        let pool: Pool = decode(value)?;
        topology.pools.insert(pool.id, PoolTable { pool, rows: Vec::new() });
        Ok(())
    })?;
    each(store, keys::ROWS, |key, value| {
        let row: PgRow = decode(value)?;
        if let Some((pool, PgId(number))) = keys::parse_group(key)
            && let Some(table) = topology.pools.get_mut(&pool)
            && table.rows.len() == number as usize
        {
            table.rows.push(row);
        }
        Ok(())
    })?;
    each(store, keys::DISKS, |_, value| {
        let disk: DiskInfo = decode(value)?;
        topology.disks.insert(disk.id, disk);
        Ok(())
    })?;
    each(store, keys::NODES, |_, value| {
        let node: NodeInfo = decode(value)?;
        topology.nodes.insert(node.name.clone(), node);
        Ok(())
    })?;
    each(store, keys::REVOKED, |_, value| {
        topology.revoked.push(decode::<Revocation>(value)?);
        Ok(())
    })?;
    topology.revoked.sort_by(|a, b| a.actor.cmp(&b.actor));
    Ok(topology)
}

/// Visits every pair under a prefix, a page at a time.
pub(super) fn each(
    store: &dyn Store,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan(prefix, after.as_deref(), 4096)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, value) in &page {
            visit(key, value)?;
        }
    }
}
