//! Applying entries: one atomic batch of changes for all entries that openraft hands over at once.

use std::sync::Arc;

use openraft::LogId;
use wmall_proto::feed::FeedItem;
use wmall_proto::pg::{PgKey, PgRow};
use wmall_proto::pool::{Bucket, BucketRules};
use wmall_proto::rpc::Response;
use wmall_proto::topology::PoolTable;
use wmall_proto::{
    BucketName, DiskId, ErrorCode, NodeName, PgId, Pool, PoolId, PoolName, Role, RpcError, Scheme, Topology,
    codec,
};

use super::acts::act_of;
use super::answers::{AnswerPage, check_birth, kept_from};
use super::derived::{Clock, Derived, NO_EPOCH};
use super::recent::Part;
use super::txn::Txn;
use super::{State, keys};
use crate::command::{Batch, Command};
use wmall_runtime::view::{Store, StoreError};

/// Pools that a cluster may have.
const MAX_POOLS: usize = 64;

/// Why a command changed nothing: the map failed, which stops the process, or it was judged and refused,
/// which is its answer.
pub(super) enum Refusal {
    Store(StoreError),
    Answer(RpcError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RpcError> for Refusal {
    fn from(error: RpcError) -> Self {
        Self::Answer(error)
    }
}

pub(super) type Outcome = Result<Response, Refusal>;

/// What a command works on. A command judges first and changes afterwards, so a refusal leaves the
/// derived half as it was; what it wrote to the transaction is discarded.
pub(super) struct Context<'a> {
    pub(super) txn: Txn<'a>,
    pub(super) derived: &'a mut Derived,
    pub(super) index: u64,
    /// Place of the command in its entry.
    step: u64,
    pub(super) now_ms: u64,
    pub(super) feed: Vec<FeedItem>,
    topology_changed: bool,
}

/// An entry as the Raft adapter hands it over.
pub enum Entry {
    /// Nothing but its place in the log.
    Blank,
    /// An encoded [`Batch`].
    Commands(bytes::Bytes),
    /// A change of the members.
    Membership(openraft::Membership<u64, crate::types::Member>),
}

impl State {
    /// Applies entries in order and returns, for each, the encoded answers of its commands.
    pub fn apply(&self, entries: Vec<(LogId<u64>, Entry)>) -> Result<Vec<bytes::Bytes>, StoreError> {
        self.apply_all(entries).inspect_err(|error| self.condemn(error))
    }

    fn apply_all(&self, entries: Vec<(LogId<u64>, Entry)>) -> Result<Vec<bytes::Bytes>, StoreError> {
        // Changed in place: a store that fails ends the process, so memory need not go back.
        let _still = self.changing();
        self.walks.wait_for_room();
        let mut derived = self.write();
        let mut context = Context::new(&*self.store, &mut derived, 0);
        let mut outputs = Vec::with_capacity(entries.len());
        for (log_id, entry) in entries {
            context.index = log_id.index;
            outputs.push(context.apply_entry(log_id, entry)?);
        }
        let map_changed = context.topology_changed.then_some(context.derived.topology.version);
        let clock = context.derived.counters.clock;
        let changes = context.finish();
        self.walks.change(&*self.store, &changes)?;
        self.show_clock(clock);
        if let Some(version) = map_changed {
            self.map_changed.send_replace(version);
        }
        Ok(outputs)
    }
}

impl<'a> Context<'a> {
    pub(super) fn new(store: &'a dyn Store, derived: &'a mut Derived, index: u64) -> Self {
        let (txn, feed) = (Txn::new(store), Vec::new());
        Self { txn, derived, index, step: 0, now_ms: 0, feed, topology_changed: false }
    }

    fn apply_entry(&mut self, log_id: LogId<u64>, entry: Entry) -> Result<bytes::Bytes, StoreError> {
        let mut answers: Vec<Vec<u8>> = Vec::new();
        match entry {
            Entry::Blank => {}
            Entry::Membership(new) => {
                for name in new.nodes().filter_map(|(_, member)| NodeName::new(member.name.as_str()).ok()) {
                    self.note_holder(Role::Metadata, &name)?;
                }
                self.txn.keep();
                self.derived.applied.membership = openraft::StoredMembership::new(Some(log_id), new);
            }
            Entry::Commands(bytes) => answers = self.apply_batch(&bytes)?,
        }
        self.derived.applied.log_id = Some(log_id);
        let items = std::mem::take(&mut self.feed);
        self.derived.feed.push(self.index, items);
        Ok(codec::encode(&answers).into())
    }

    fn apply_batch(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let batch: Batch = super::txn::decode(bytes)?;
        // The clock only rises, whatever a leader of before has proposed.
        let clock = &mut self.derived.counters.clock;
        let may_jump = clock.may_jump && batch.now_ms <= clock.now_ms;
        *clock = Clock { now_ms: clock.now_ms.max(batch.now_ms), may_jump };
        let clock = *clock;
        self.now_ms = clock.now_ms;
        self.forget_answers(kept_from(clock.now_ms));
        self.forget_overflow();
        let (mut answers, mut kept) = (Vec::with_capacity(batch.items.len()), AnswerPage::new());
        for (step, item) in batch.items.into_iter().enumerate() {
            self.step = step as u64;
            if let Some(request) = &item.request {
                if let Some(before) = self.derived.answers.get(request) {
                    answers.push(before.to_vec());
                    continue;
                }
                let from_ms = self.derived.counters.answers_from_ms;
                let of_operator = item.by.as_ref().is_some_and(|by| by.role == Role::Admin);
                let has_room = || self.derived.answers.check_room(of_operator);
                if let Err(refused) = check_birth(request, from_ms, clock).and_then(|()| has_room()) {
                    answers.push(codec::encode(&Err::<Response, RpcError>(refused)));
                    continue;
                }
            }
            let act = item.by.as_ref().and_then(|_| act_of(&item.command));
            let answer: Result<Response, RpcError> = match self.execute(item.command) {
                Ok(response) => {
                    self.txn.keep();
                    Ok(response)
                }
                Err(refusal) => {
                    self.txn.discard();
                    match refusal {
                        Refusal::Store(error) => return Err(error),
                        Refusal::Answer(error) => Err(error),
                    }
                }
            };
            if let Some(act) = act {
                let act = match &answer {
                    Ok(Response::Revoked(actor)) => format!("node revoke {actor}"),
                    _ => act,
                };
                if let Some(by) = &item.by {
                    self.note_holder(by.role, &by.name)?;
                }
                self.note(item.by, act, answer.as_ref().err().map(|e| e.code));
                self.txn.keep();
            }
            // A refusal that may pass has changed nothing, so the next try is judged anew.
            let passing = answer.as_ref().is_err_and(|e| e.code.is_transient());
            let answer = codec::encode(&answer);
            if let Some(request) = item.request.filter(|_| !passing) {
                self.derived.answers.insert(self.index, request, &answer);
                kept.push((request, answer.clone()));
            }
            answers.push(answer);
        }
        if !kept.is_empty() {
            self.txn.put(keys::answers(self.index), &kept);
            self.txn.keep();
        }
        self.forget_overflow();
        Ok(answers)
    }

    /// Forgets as many of the oldest answers as are too many, as long as they are not of late.
    fn forget_overflow(&mut self) {
        if let Some(until_ms) = self.derived.answers.overflows_until(self.now_ms) {
            self.forget_answers(until_ms);
        }
    }

    /// Forgets answers to requests that were born before this time, and judges none of these any more.
    fn forget_answers(&mut self, from_ms: u64) {
        let counters = &mut self.derived.counters;
        counters.answers_from_ms = counters.answers_from_ms.max(from_ms);
        for index in self.derived.answers.forget_before(counters.answers_from_ms) {
            self.txn.remove(keys::answers(index));
        }
        self.txn.keep();
    }

    fn execute(&mut self, command: Command) -> Outcome {
        match command {
            Command::CreatePool { name, scheme, pg_bits, rows, based_on } => {
                self.create_pool(name, scheme, pg_bits, rows, based_on)
            }
            Command::CreateBucket { name, pool, rules } => self.create_bucket(name, &pool, rules),
            Command::ChangeBucket { name, change } => self.change_bucket(&name, &change),
            Command::Name(command) => self.change_name(command),
            Command::Expire(items) => self.expire(items),
            Command::DeleteChunks(chunks) => self.delete_chunks(&chunks),
            Command::FenceUploads { before_ms } => self.fence_uploads(before_ms),
            Command::DropParts(parts) => self.drop_parts(&parts),
            Command::ReleaseLists(lists) => self.release_lists(&lists),
            Command::BeginEpoch { epoch, rows_from } => {
                if self.derived.counters.feed_epoch == NO_EPOCH {
                    self.begin_epoch(epoch, rows_from);
                }
                Ok(Response::Done)
            }
            Command::AllowDeletion { epoch } => {
                let counters = &mut self.derived.counters;
                if std::mem::take(&mut counters.deletion_held) {
                    counters.feed_epoch = epoch;
                    self.settle_all_moves()?;
                }
                Ok(Response::Done)
            }
            Command::RemoveBucket { name, purge } => self.remove_bucket(&name, purge),
            Command::CommitPart { part, chunks } => self.commit_part(part, chunks),
            Command::CommitFile { file, chunks } => self.commit_file(file, chunks),
            Command::Register { registration, replaces, older } => {
                self.register(registration, replaces, &older)
            }
            Command::CloseTickets { disk, incarnation, pieces, clean, as_of } => {
                self.close_tickets(disk, incarnation, &pieces, &clean, as_of)
            }
            Command::ReportBad { disk, chunks } => self.report_bad(disk, &chunks),
            Command::CreateToken(token) => self.create_token(token),
            Command::DropToken(id) => self.drop_token(id),
            Command::UseToken { id, name, key } => self.use_token(id, name, key),
            Command::Revoke { name, role, by } => self.revoke(name, role, by),
            Command::SetScopes(user) => self.set_scopes(user),
            Command::MoveSlots(moves) => self.move_slots(&moves),
            Command::NoteConditions { level, ratio_ppm, halted, moving } => {
                self.note_conditions((level, ratio_ppm), halted, moving)
            }
            Command::NoteDisks { down, back } => self.note_disks(&down, &back),
            Command::Operate(operate) => self.operate(operate),
            Command::NoteUsage(sample) => self.note_usage(sample),
            Command::Quarantine { disk, incarnation, why } => self.quarantine(disk, incarnation, why),
            Command::Note { .. } | Command::Tick => Ok(Response::Done),
            Command::MarkDirty(disk) => {
                self.mark_all_dirty(disk);
                Ok(Response::Done)
            }
            Command::Distrust(disk) => {
                self.distrust(disk);
                Ok(Response::Done)
            }
        }
    }

    /// The row of a group, to be changed.
    pub(super) fn change_row(&mut self, (pool, pg): PgKey) -> Option<&mut PgRow> {
        let table = self.change_topology(Part::Row((pool, pg))).pools.get_mut(&pool);
        table.and_then(|t| t.rows.get_mut(pg.0 as usize))
    }

    /// The map of the cluster, to be changed in a part. The new version is this entry's index.
    pub(super) fn change_topology(&mut self, part: Part) -> &mut Topology {
        self.topology_changed = true;
        self.derived.encoded = Arc::default();
        let topology = Arc::make_mut(&mut self.derived.topology);
        // Usually the index; after a restore it is ahead of it, so that nobody holds a newer map than ours.
        topology.version = self.index.max(topology.version + 1);
        self.derived.counters.topology_version = topology.version;
        self.derived.recent.push(topology.version, part);
        topology
    }

    /// What disks promised in a former life may have been deleted in it. Rows go on from a version that none
    /// of them has had, so that a receipt tells its life by the row that it names.
    fn begin_epoch(&mut self, epoch: u64, rows_from: u64) {
        let tables = self.derived.topology.pools.values();
        let newest = tables.flat_map(|table| &table.rows).map(|row| row.version).max().unwrap_or(0);
        let rows_from = rows_from.max(newest.saturating_add(1));
        (self.derived.counters.feed_epoch, self.derived.counters.rows_from) = (epoch, rows_from);
        // So do the versions of the map, by which certificates are revoked.
        let topology = Arc::make_mut(&mut self.derived.topology);
        topology.version = topology.version.max(rows_from);
        let mut rows = Vec::new();
        for (&pool, table) in &mut self.change_topology(Part::All).pools {
            for (number, row) in table.rows.iter_mut().enumerate() {
                row.version = rows_from;
                rows.push((keys::row(pool, PgId(number as u32)), row.clone()));
            }
        }
        rows.iter().for_each(|(key, row)| self.txn.put(key.clone(), row));
    }

    fn create_pool(
        &mut self,
        name: PoolName,
        scheme: Scheme,
        pg_bits: u8,
        rows: Vec<Vec<DiskId>>,
        based_on: u64,
    ) -> Outcome {
        let topology = &self.derived.topology;
        if topology.pool_named(&name).is_some() {
            return Err(exists(format!("a pool named {name}")).into());
        }
        if topology.pools.len() >= MAX_POOLS {
            let reason = format!("a cluster has at most {MAX_POOLS} pools");
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason).into());
        }
        if topology.version != based_on {
            let reason = "nodes or disks changed while the rows were made";
            return Err(RpcError::new(ErrorCode::Busy, reason).hint("try again").into());
        }
        self.derived.counters.next_pool += 1;
        let id = PoolId(self.derived.counters.next_pool);
        let pool = Pool { id, name, scheme, pg_bits };
        let version = self.derived.counters.rows_from.max(1);
        let rows: Vec<PgRow> = rows.into_iter().map(|slots| PgRow { version, ..PgRow::new(slots) }).collect();
        self.txn.put(keys::pool(id), &pool);
        for (number, row) in rows.iter().enumerate() {
            self.txn.put(keys::row(id, PgId(number as u32)), row);
        }
        self.change_topology(Part::All).pools.insert(id, PoolTable { pool, rows });
        Ok(Response::Done)
    }

    fn create_bucket(&mut self, name: BucketName, pool: &PoolName, rules: BucketRules) -> Outcome {
        let pool = self.derived.topology.pool_named(pool).ok_or_else(|| {
            RpcError::not_found(format!("pool named {pool}")).hint("`wmall pool ls` lists the pools")
        })?;
        let created_ms = self.now_ms;
        let bucket = Bucket {
            name,
            pool: pool.id,
            objects: 0,
            bytes: 0,
            created_ms,
            rules,
            trash: 0,
            trash_bytes: 0,
            staged_bytes: 0,
            made_at: (self.index << 16) | self.step,
            removing: false,
        };
        let key = keys::bucket(&bucket.name);
        match self.txn.get::<Bucket>(&key)? {
            Some(there) if there.removing => {
                let (name, left) = (&bucket.name, there.trash);
                let reason =
                    format!("a removed bucket named {name} has {left} removed objects to let go yet");
                return Err(RpcError::new(ErrorCode::Busy, reason).hint("try again").into());
            }
            Some(_) => return Err(exists(format!("a bucket named {}", bucket.name)).into()),
            None => {}
        }
        self.txn.put(key, &bucket);
        Ok(Response::Done)
    }

    pub(super) fn bucket(&self, name: &BucketName) -> Result<Bucket, Refusal> {
        let missing = || {
            RpcError::not_found(format!("bucket named {name}"))
                .hint(format!("`wmall bucket create {name}` makes it"))
        };
        let bucket: Option<Bucket> = self.txn.get(&keys::bucket(name))?;
        Ok(bucket.filter(|b| !b.removing).ok_or_else(missing)?)
    }

    /// A bucket that has its chunks in this pool.
    pub(super) fn bucket_in(&self, name: &BucketName, pool: PoolId) -> Result<Bucket, Refusal> {
        let bucket = self.bucket(name)?;
        if bucket.pool == pool {
            return Ok(bucket);
        }
        let reason = format!("bucket {name} belongs to another pool");
        Err(RpcError::new(ErrorCode::BadRequest, reason).into())
    }

    /// Sets or clears the dirty mark of this disk's slot in a group.
    pub(super) fn set_dirty(&mut self, group: PgKey, disk: DiskId, at: Option<u64>) {
        let Some(row) = self.change_row(group) else { return };
        let Some(slot) = row.slot_of(disk) else { return };
        row.dirty_at[usize::from(slot)] = at;
        if at.is_some() {
            // What came since a move began was on this disk alone, and may be what went missing.
            row.sources[usize::from(slot)].iter_mut().for_each(|s| s.vouched = false);
        }
        let row = row.clone();
        self.txn.put(keys::row(group.0, group.1), &row);
    }

    pub(super) fn finish(mut self) -> wmall_runtime::view::Changes {
        let applied = serde_json::to_vec(&self.derived.applied).unwrap_or_default();
        let counters = codec::encode(&self.derived.counters);
        self.txn.keep();
        let mut changes = self.txn.into_changes();
        changes.insert(keys::APPLIED.to_vec(), Some(applied));
        changes.insert(keys::COUNTERS.to_vec(), Some(counters));
        changes
    }
}

/// The groups that a disk has a slot in.
pub(crate) fn groups_of(topology: &Topology, disk: DiskId) -> Vec<PgKey> {
    let mut groups = Vec::new();
    for (&pool, table) in &topology.pools {
        for (number, row) in table.rows.iter().enumerate() {
            if row.slot_of(disk).is_some() {
                groups.push((pool, PgId(number as u32)));
            }
        }
    }
    groups
}

pub(super) fn exists(what: String) -> RpcError {
    RpcError::new(ErrorCode::AlreadyExists, format!("there is {what} already"))
}
