//! Calls that metadata nodes answer.

use std::net::SocketAddr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::Role;
use crate::capacity::CapacityLevel;
use crate::chunk::{ChunkCommit, ChunkView};
use crate::feed::FeedPage;
use crate::file::{FilePage, ObjectEntry, ObjectRecord, TrashEntry};
use crate::grade::{GradesOf, GradesView};
use crate::identity::{AuditRecord, Scope, TokenId, TokenRecord, User};
use crate::ids::{ChunkId, DiskId, FileId, Incarnation, PoolId, UploadId};
use crate::job::{JobView, Operation, Place};
use crate::layout::LayoutView;
use crate::names::{BucketName, NodeName, ObjectName, PoolName, ZoneName};
use crate::pool::{Bucket, BucketChange, BucketRules};
use crate::rpc::Ack;
use crate::scheme::Scheme;
use crate::topology::{EncodedMap, MapChanges};

/// A read of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Query {
    /// A file by id, with a page of its chunks.
    File {
        /// The file.
        id: FileId,
        /// Number of the first chunk wanted.
        first: u64,
    },
    /// An object by name, and with it the first page of its file.
    Object {
        /// Its bucket.
        bucket: BucketName,
        /// Its name.
        name: ObjectName,
    },
    /// Objects of a bucket in order of their names.
    Objects {
        /// The bucket.
        bucket: BucketName,
        /// Only names that start so.
        prefix: String,
        /// Only names behind this one.
        after: Option<ObjectName>,
        /// At most so many; the server gives at most 1,000.
        limit: u32,
    },
    /// Buckets in order of their names.
    Buckets {
        /// Only those behind this one.
        after: Option<BucketName>,
        /// At most so many; the server gives at most 1,000.
        limit: u32,
    },
    /// A bucket.
    Bucket(BucketName),
    /// A chunk in every pool that has it.
    Chunk(ChunkId),
    /// What the names of a bucket pointed to before, as long as it can be had back.
    Trash {
        /// The bucket.
        bucket: BucketName,
        /// Only names that start so.
        prefix: String,
        /// Only entries behind this name and version.
        after: Option<(ObjectName, u64)>,
        /// At most so many; the server gives at most 1,000.
        limit: u32,
    },
    /// Tokens that have not expired, used ones among them.
    Tokens,
    /// Users and what they may do, in order of their names.
    Users {
        /// Only those behind this one.
        after: Option<NodeName>,
        /// At most so many; the server gives at most 1,000.
        limit: u32,
    },
    /// Lines of the audit log, in order.
    Audit {
        /// Number of the first line wanted.
        first: u64,
        /// At most so many; the server gives at most 1,000.
        limit: u32,
    },
    /// What emptying a data node or a disk comes to, and how far it is.
    Drain(Place),
    /// Jobs, the newest first.
    Jobs,
    /// The layout, and what its draft would do.
    Layout,
    /// Grades of a part of what there is.
    Grades(GradesOf),
    /// Grades of the placement groups of a pool, each by itself, from this one on: at most 1,000.
    Groups {
        /// The pool.
        pool: PoolId,
        /// Number of the first.
        first: u32,
    },
    /// Lines of the event log, in order.
    Events {
        /// Number of the first line wanted; what is not kept any more is passed over.
        first: u64,
        /// At most so many; the server gives at most 1,000.
        limit: u32,
    },
    /// Whether a chunk is committed in a pool, so that it need not be sent.
    Known {
        /// The pool.
        pool: PoolId,
        /// The chunk.
        chunk: ChunkId,
    },
    /// Whether an operation would be done now; if not, its error is the answer. Nothing is changed.
    Rehearse(Operation),
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum QueryReply {
    /// To [`Query::File`].
    File(FilePage),
    /// To [`Query::Object`].
    Object {
        /// What the name points to.
        record: ObjectRecord,
        /// The bucket's pool, where the object's chunks are.
        pool: PoolId,
        /// The file.
        file: FilePage,
    },
    /// To [`Query::Objects`].
    Objects {
        /// The page.
        entries: Vec<ObjectEntry>,
        /// Whether there are more.
        more: bool,
    },
    /// To [`Query::Buckets`].
    Buckets {
        /// The page.
        buckets: Vec<Bucket>,
        /// Whether there are more.
        more: bool,
    },
    /// To [`Query::Bucket`].
    Bucket(Bucket),
    /// To [`Query::Chunk`].
    Chunk(Vec<ChunkView>),
    /// To [`Query::Trash`].
    Trash {
        /// The page, by name and then by version.
        entries: Vec<TrashEntry>,
        /// Whether there are more.
        more: bool,
    },
    /// To [`Query::Drain`].
    Drain(crate::status::DrainView),
    /// To [`Query::Jobs`].
    Jobs(Vec<JobView>),
    /// To [`Query::Layout`].
    Layout(LayoutView),
    /// To [`Query::Grades`].
    Grades(GradesView),
    /// To [`Query::Groups`]; empty at the end.
    Groups(Vec<GradesView>),
    /// To [`Query::Events`].
    Events {
        /// The page.
        events: Vec<crate::event::Event>,
        /// Whether there are more.
        more: bool,
    },
    /// To [`Query::Tokens`].
    Tokens(Vec<TokenRecord>),
    /// To [`Query::Users`].
    Users {
        /// The page.
        users: Vec<User>,
        /// Whether there are more.
        more: bool,
    },
    /// To [`Query::Audit`].
    Audit {
        /// The page.
        lines: Vec<AuditRecord>,
        /// Whether there are more.
        more: bool,
    },
    /// To [`Query::Known`].
    Known(bool),
    /// To [`Query::Rehearse`]: it would.
    Rehearsed,
}

/// What must hold of a name for a change of it to take effect, judged when it is applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub enum Condition {
    /// Anything.
    #[default]
    None,
    /// It points to nothing.
    Absent,
    /// It points to this file.
    Match(FileId),
}

/// A file, or a part of one with more than [`crate::chunk::MAX_CHUNKS_PER_COMMIT`] chunks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CommitRequest {
    /// A part, kept with the upload until the last one comes.
    Part {
        /// The upload.
        upload: UploadId,
        /// Where its chunks live.
        pool: PoolId,
        /// Which part, from 0 on; each has exactly the most chunks that a part may have.
        part: u32,
        /// The bucket of the object that the file is to be, if it is to have a name: the part counts for its
        /// quota.
        bucket: Option<BucketName>,
        /// Its chunks, and behind them the block with their ids.
        chunks: Vec<ChunkCommit>,
        /// When each counts as durable.
        ack: Ack,
    },
    /// The last or only part: makes the file visible.
    File {
        /// The upload.
        upload: UploadId,
        /// Where its chunks live.
        pool: PoolId,
        /// The file's id, size and chunk size.
        id: FileId,
        /// Bytes.
        size: u64,
        /// Bytes of every chunk but the last.
        chunk_size: u32,
        /// The name to point to it, if any.
        object: Option<(BucketName, ObjectName)>,
        /// What must hold of that name.
        condition: Condition,
        /// Parts that went before.
        parts: u32,
        /// The remaining chunks, and behind them the root of the manifest's blocks, if the file has any.
        chunks: Vec<ChunkCommit>,
        /// When each counts as durable.
        ack: Ack,
    },
}

/// What a commit led to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CommitOutcome {
    /// Raft index of the entry.
    pub index: u64,
    /// Whether the file was not there before; false for a part.
    pub new_file: bool,
    /// Slots without a receipt, noted as tickets for later.
    pub tickets: u32,
}

/// A change that an operator makes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum UserCommand {
    /// A pool with a table of its own.
    CreatePool {
        /// Its name.
        name: PoolName,
        /// How it keeps chunks.
        scheme: Scheme,
        /// Its table has `1 << pg_bits` rows.
        pg_bits: u8,
    },
    /// A bucket.
    CreateBucket {
        /// Its name.
        name: BucketName,
        /// Its pool.
        pool: PoolName,
        /// What its owner asks of it.
        rules: BucketRules,
    },
    /// Removes a bucket without objects.
    RemoveBucket {
        /// Its name.
        name: BucketName,
        /// Together with all that was removed from it and could still be had back; such a bucket stays
        /// otherwise.
        purge: bool,
    },
    /// Changes a bucket's rules.
    ChangeBucket {
        /// Its name.
        name: BucketName,
        /// What to change.
        change: BucketChange,
    },
    /// Lets data be deleted again after a restore.
    AllowDeletion {
        /// Although chunks can't be read: what they are made of may be on disks that would drop it.
        force: bool,
    },
    /// Makes a token; whoever has its secret may join once.
    CreateToken {
        /// Its id; the secret stays with the operator.
        id: TokenId,
        /// What its holder becomes.
        role: Role,
        /// Under which name; users and operators must have one.
        name: Option<NodeName>,
        /// What the new user may do.
        scopes: Vec<Scope>,
        /// How long it is good.
        ttl_ms: u64,
        /// True if every disk of the data node that joins with it waits for an operator's layout.
        wait_for_layout: bool,
    },
    /// Makes a token void that has not been used.
    DropToken(TokenId),
    /// Has everybody refuse a holder's certificates of before now. The answer is [`Response::Revoked`].
    ///
    /// [`Response::Revoked`]: crate::rpc::Response::Revoked
    Revoke {
        /// The holder's name.
        name: NodeName,
        /// Their role. If none, the one in which that name is known; it may be any that is said.
        role: Option<Role>,
    },
    /// Says what a user may do from now on; with no scopes, nothing.
    SetScopes(User),
    /// What concerns nodes and disks.
    Operate(Operation),
}

/// A change of the metadata nodes themselves.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum MemberCommand {
    /// Takes a running, empty member in, once it has caught up.
    Add {
        /// A Raft id that no member ever had.
        id: u64,
        /// Its name, as in its certificate.
        name: NodeName,
        /// Where it listens.
        address: SocketAddr,
    },
    /// Lets a member go. Its id is never used again.
    Remove {
        /// Its Raft id.
        id: u64,
    },
}

/// A snapshot or a backup that a member keeps.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// The member.
    pub member: String,
    /// The file's name.
    pub name: String,
    /// Whether it is a scheduled backup; else it is Raft's own.
    pub backup: bool,
    /// Its bytes.
    pub bytes: u64,
    /// When it was written, in milliseconds since the Unix epoch.
    pub written_ms: u64,
}

/// A change of the namespace that a user makes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum NameCommand {
    /// Removes a name. What it pointed to can be had back for the bucket's grace.
    Remove {
        /// Its bucket.
        bucket: BucketName,
        /// The name.
        name: ObjectName,
        /// What must hold of it.
        condition: Condition,
        /// Whether to do without the grace.
        purge: bool,
    },
    /// Points a name, which points to nothing now, to what it pointed to before.
    Restore {
        /// Its bucket.
        bucket: BucketName,
        /// The name.
        name: ObjectName,
        /// Which of its former versions; the newest, if none.
        version: Option<u64>,
    },
    /// Lets go of a file that was put without a name.
    Unpin {
        /// The file.
        file: FileId,
        /// Whether to do without the grace.
        purge: bool,
    },
    /// Holds a file again that was let go and whose grace is not over.
    Repin(FileId),
}

impl NameCommand {
    /// Whether nothing brings back what it removes: an act that takes more than writing does, and that the
    /// audit log notes.
    pub fn is_for_good(&self) -> bool {
        match self {
            Self::Remove { purge, .. } | Self::Unpin { purge, .. } => *purge,
            Self::Restore { .. } | Self::Repin(_) => false,
        }
    }
}

/// What a data node is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Registration {
    /// Its name, which must be the one in its certificate.
    pub node: NodeName,
    /// Its failure domain.
    pub zone: ZoneName,
    /// Where it listens.
    pub address: SocketAddr,
    /// Drawn by each process anew, so that two processes of one name are told apart.
    pub process: [u8; 16],
    /// Its disks.
    pub disks: Vec<DiskRegistration>,
}

/// What a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DiskRegistration {
    /// Its name on the node.
    pub name: NodeName,
    /// Its share of the placement.
    pub weight: u32,
    /// The most bytes it may use.
    pub max_bytes: u64,
    /// Its present life.
    pub incarnation: Incarnation,
    /// The key that its receipts verify under.
    pub public_key: [u8; 32],
    /// How often it has been opened: a number that is durable on the disk before the disk is in use. A lower
    /// one than the metadata nodes know is that of an older copy.
    pub starts: u64,
    /// Segment and offset of the last record of its journal.
    pub end: (u64, u64),
}

/// What a disk is told when it is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct RegisteredDisk {
    /// Its number.
    pub id: DiskId,
    /// The least number of starts that it goes on with: above all that any copy of it has had.
    pub starts: u64,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Heartbeat {
    /// Name of the node.
    pub node: NodeName,
    /// The process, as it registered.
    pub process: [u8; 16],
    /// Its clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Its disks.
    pub disks: Vec<DiskHeartbeat>,
    /// Version of the map that it has.
    pub topology: u64,
    /// The life of the metadata that this map is of.
    pub topology_epoch: u64,
    /// Raft index up to which it has read the feed.
    pub feed: u64,
    /// The life of the metadata in which that index counts.
    pub feed_epoch: u64,
}

/// How a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DiskHeartbeat {
    /// Its number.
    pub disk: DiskId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Bytes of the pieces it holds.
    pub used_bytes: u64,
    /// Bytes of its segments.
    pub segment_bytes: u64,
    /// Bytes of records in full segments that nobody wants.
    pub dead_bytes: u64,
    /// Bytes that it keeps for compaction.
    pub reserved_bytes: u64,
    /// Bytes that it can have in all: what it has, and what its file system still has for it, if that is less
    /// than the most that it may have.
    pub capacity_bytes: u64,
    /// Pieces it holds.
    pub pieces: u64,
    /// Segment and offset of the last record of its journal that is durable. It only rises in the life of a
    /// disk.
    pub end: (u64, u64),
    /// Whether it takes writes.
    pub writable: bool,
    /// Whether it failed: what it holds does not count until the node has been restarted and has looked.
    pub failed: bool,
    /// It refuses uploads that began before this time, in milliseconds since the Unix epoch.
    pub fenced_before_ms: u64,
    /// How long its writes take to be durable, in milliseconds: the second longest of the last minute, or the
    /// one under way where that has lasted longer.
    pub sync_ms: u64,
}

/// The map, when it is news, and who is silent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TopologyReply {
    /// The map, unless the caller has this version.
    pub topology: Option<EncodedMap>,
    /// Nodes that do not answer now; none from a member that does not lead and so does not know.
    pub suspects: Option<Vec<NodeName>>,
    /// The cluster's clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What a data node hears back.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct HeartbeatReply {
    /// The map, when it is news and `changes` does not say so, and who is silent.
    pub topology: TopologyReply,
    /// What is new in the map since the version that the node has, if that is less than all of it.
    pub changes: Option<MapChanges>,
    /// What happened since.
    pub feed: FeedPage,
    /// The life of the metadata that the feed is of: another one after a restore, in which indices of before
    /// mean nothing.
    pub feed_epoch: u64,
    /// The node's disks that have tickets or dirty groups.
    pub work: Vec<DiskId>,
    /// How full the cluster is: whose writes are taken.
    pub level: CapacityLevel,
    /// Between an upload's begin and its fence, in milliseconds. A fence is not later than the cluster's
    /// clock less this.
    pub upload_grace_ms: u64,
}
