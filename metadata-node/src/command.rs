//! What goes through the Raft log. Signatures and clocks were checked by the leader before it proposed;
//! applying a command uses neither.

use bincode::{Decode, Encode};
use wmall_placement::{PlannedMove, Reason};
use wmall_proto::capacity::{CapacityLevel, UsageSample};
use wmall_proto::chunk::{ChunkCommit, PieceDigest};
use wmall_proto::identity::{Actor, TokenId, TokenRecord, User};
use wmall_proto::job::{JobChange, JobKind};
use wmall_proto::pg::PgKey;
use wmall_proto::pool::{BucketChange, BucketRules};
use wmall_proto::rpc::{Ack, CommitRequest, Condition, NameCommand, Registration};
use wmall_proto::{
    BucketName, ChunkId, DiskId, FileId, Incarnation, NodeName, ObjectName, PgId, PoolId, PoolName,
    RequestId, Role, Scheme, UploadId,
};

/// The payload of a Raft entry: commands of several callers, applied in order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Batch {
    /// The cluster's clock when it was proposed, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The commands.
    pub items: Vec<Envelope>,
}

/// A command and the id under which its answer is kept.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// None for commands that are safe to apply twice.
    pub request: Option<RequestId>,
    /// Whose act it is, for the audit log; none for what no operator does.
    pub by: Option<Actor>,
    /// What to do.
    pub command: Command,
}

/// A disk's promise whose signature the leader has verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Promise {
    /// The slot.
    pub slot: u8,
    /// The disk.
    pub disk: DiskId,
    /// The life in which it promised.
    pub incarnation: Incarnation,
}

/// What a commit says of a part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PartCommit {
    /// The user it belongs to.
    pub owner: Actor,
    /// The upload.
    pub upload: UploadId,
    /// Where its chunks live.
    pub pool: PoolId,
    /// Its number.
    pub part: u32,
    /// The bucket that the file is meant for, if it is to have a name.
    pub bucket: Option<BucketName>,
    /// When each chunk counts as durable.
    pub ack: Ack,
}

/// What a commit says of its file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FileCommit {
    /// The upload.
    pub upload: UploadId,
    /// Where its chunks live.
    pub pool: PoolId,
    /// The file.
    pub id: FileId,
    /// Bytes.
    pub size: u64,
    /// Bytes of every chunk but the last.
    pub chunk_size: u32,
    /// The name to point to it.
    pub object: Option<(BucketName, ObjectName)>,
    /// What must hold of that name.
    pub condition: Condition,
    /// Parts that went before.
    pub parts: u32,
    /// When each chunk counts as durable.
    pub ack: Ack,
}

/// Something whose grace ends at a known time.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Due {
    /// A former version of a name.
    Trash(BucketName, ObjectName, u64),
    /// A file that was put without a name and let go.
    Pin(FileId),
    /// The rest of a bucket that was removed with its former versions.
    Bucket(BucketName),
}

/// A chunk to delete, if it is still condemned as of this entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct CondemnedChunk {
    /// Its pool.
    pub pool: PoolId,
    /// Its id.
    pub chunk: ChunkId,
    /// [`wmall_proto::chunk::Condemned::at`] that the leader saw.
    pub at: u64,
}

/// A slot to be given to another disk, if its row is still as it was when that was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct SlotMove {
    /// The group.
    pub group: PgKey,
    /// The slot.
    pub slot: u8,
    /// Its new disk.
    pub to: DiskId,
    /// Version of the row that it was planned for.
    pub row_version: u64,
    /// Why.
    pub reason: Reason,
}

impl From<&PlannedMove> for SlotMove {
    fn from(planned: &PlannedMove) -> Self {
        let &PlannedMove { group, slot, to, row_version, reason, .. } = planned;
        Self { group, slot, to, row_version, reason }
    }
}

/// A piece that a disk has fetched and signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct FetchedPiece {
    /// The chunk's pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The slot whose piece it is.
    pub slot: u8,
    /// What it hashes to.
    pub digest: PieceDigest,
}

/// A chunk of a commit with its promises.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PromisedChunk {
    /// The chunk.
    pub id: ChunkId,
    /// Its bytes.
    pub length: u32,
    /// The row version that the promises were given under.
    pub row_version: u64,
    /// What each slot's piece hashes to where pieces are shards; nothing where they are copies.
    pub digests: Vec<PieceDigest>,
    /// Who holds a piece; nobody, if it is claimed to be committed already.
    pub promises: Vec<Promise>,
}

/// What concerns nodes and disks. Names are in the words of the command line, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Operate {
    /// Begins a job that empties disks.
    StartJob {
        /// What it does.
        kind: JobKind,
        /// To what.
        what: String,
        /// The disks.
        disks: Vec<DiskId>,
        /// Where to, if that was said.
        successor: Option<DiskId>,
        /// Slots that the disks have.
        slots: u64,
        /// Bytes of these, about.
        bytes: u64,
        /// Jobs that there had been when it was planned; it is applied to no other state of affairs.
        based_on: u64,
    },
    /// Disks keep what they have, and take pieces again; jobs that empty them end.
    Undrain {
        /// What they are.
        what: String,
        /// The disks.
        disks: Vec<DiskId>,
    },
    /// Changes a job.
    ChangeJob {
        /// Its number.
        number: u64,
        /// How.
        change: JobChange,
    },
    /// Jobs whose disks the leader saw to be empty.
    EndJobs(Vec<u64>),
    /// A node's silence is expected until then, or no more.
    SetMaintenance {
        /// The node.
        node: NodeName,
        /// Until when, in milliseconds since the Unix epoch.
        until_ms: Option<u64>,
    },
    /// Gives a disk another weight, in the draft.
    StageWeight {
        /// The disk.
        disk: DiskId,
        /// Its weight.
        weight: u32,
    },
    /// Takes into the draft what waits of a node.
    StageWaiting {
        /// The node.
        node: NodeName,
    },
    /// Makes the draft the layout, if it is of this version.
    ApplyLayout {
        /// The version.
        version: u64,
    },
    /// Drops the draft.
    RevertLayout,
    /// Leaves a finding out of what health is judged by, until then, or no more.
    Mute {
        /// Its code.
        code: String,
        /// Until when, in milliseconds since the Unix epoch.
        until_ms: Option<u64>,
    },
    /// Forgets a disk.
    Forget {
        /// What it is.
        what: String,
        /// The disk.
        disk: DiskId,
    },
    /// Lets a disk out of quarantine.
    Release {
        /// What it is.
        what: String,
        /// The disk.
        disk: DiskId,
    },
}

/// Every mutation there is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// A pool with the rows that the leader proposes for the topology that it saw.
    CreatePool {
        /// Its name.
        name: PoolName,
        /// Its scheme.
        scheme: Scheme,
        /// Its table has `1 << pg_bits` rows.
        pg_bits: u8,
        /// The rows.
        rows: Vec<Vec<DiskId>>,
        /// Version of the topology they were made for; applied to no other.
        based_on: u64,
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
    /// Changes a bucket's rules.
    ChangeBucket {
        /// Its name.
        name: BucketName,
        /// What to change.
        change: BucketChange,
    },
    /// A user's change of the namespace.
    Name(NameCommand),
    /// Lets go of what has fallen due.
    Expire(Vec<(u64, Due)>),
    /// Deletes condemned chunks whose grace is over.
    DeleteChunks(Vec<CondemnedChunk>),
    /// Voids uploads that began before this time, in milliseconds since the Unix epoch: none of them will
    /// ever commit.
    FenceUploads {
        /// The time.
        before_ms: u64,
    },
    /// Drops parts of uploads that were fenced.
    DropParts(Vec<(UploadId, PoolId, u32)>),
    /// Releases lists of chunks that nothing has any more, by their numbers.
    ReleaseLists(Vec<u64>),
    /// Begins a new life of metadata that were restored: no data node's place in the feed counts any more,
    /// and no receipt that was given before.
    BeginEpoch {
        /// The life; no other has had it.
        epoch: u64,
        /// A version that no row of a former life has reached: rows go on from there.
        rows_from: u64,
    },
    /// Lets data be deleted again after a restore. A new epoch has every data node look through what it
    /// holds, since what it was not allowed to delete until now is asked about no more otherwise.
    AllowDeletion {
        /// The epoch.
        epoch: u64,
    },
    /// Removes a bucket without objects.
    RemoveBucket {
        /// Its name.
        name: BucketName,
        /// And its former versions; without this, a bucket that has some stays.
        purge: bool,
    },
    /// A part of a large file.
    CommitPart {
        /// The part.
        part: PartCommit,
        /// Its chunks, and behind them the block with their ids.
        chunks: Vec<PromisedChunk>,
    },
    /// A file, or the last part of one.
    CommitFile {
        /// The file.
        file: FileCommit,
        /// Its chunks, or those that no part has brought.
        chunks: Vec<PromisedChunk>,
    },
    /// A data node and its disks.
    Register {
        /// They say so.
        registration: Registration,
        /// The process that this one takes the place of, as the leader saw it; of two at once the later one
        /// is refused.
        replaces: Option<[u8; 16]>,
        /// Disks that the leader has heard further on in the same life.
        older: Vec<DiskId>,
    },
    /// A disk holds again what it had missed.
    CloseTickets {
        /// The disk.
        disk: DiskId,
        /// The life in which it says so.
        incarnation: Incarnation,
        /// The pieces, by receipts that the leader verified.
        pieces: Vec<FetchedPiece>,
        /// Groups whose listing it has worked off.
        clean: Vec<(PoolId, PgId)>,
        /// Raft index of the first page of that listing.
        as_of: u64,
    },
    /// A join token.
    CreateToken(TokenRecord),
    /// Makes a token void.
    DropToken(TokenId),
    /// Uses a token up.
    UseToken {
        /// Which.
        id: TokenId,
        /// The name that its holder will have.
        name: NodeName,
        /// BLAKE3 of the holder's public key.
        key: [u8; 32],
    },
    /// Has everybody refuse a holder's certificates of before now.
    Revoke {
        /// The holder's name.
        name: NodeName,
        /// Their role; none for the one in which that name is known.
        role: Option<Role>,
        /// The operator who asks for it, and can't ask for their own.
        by: Option<Actor>,
    },
    /// Says what a user may do.
    SetScopes(User),
    /// An act that leaves no trace in the map, for the audit log.
    Note {
        /// What was done.
        act: String,
    },
    /// Nothing but the clock that every entry carries: the next start should not go on from long ago.
    Tick,
    /// Gives slots to other disks, as planned.
    MoveSlots(Vec<SlotMove>),
    /// What the leader sees, for the event log.
    NoteConditions {
        /// How full the cluster is.
        level: CapacityLevel,
        /// The ratio in millionths.
        ratio_ppm: u64,
        /// Disks that vanished together, and disks in use, if repairs are halted.
        halted: Option<(u64, u64)>,
        /// Whether slots move, or wait to.
        moving: bool,
    },
    /// Disks that the leader found to be down, and disks that are back.
    NoteDisks {
        /// Down.
        down: Vec<DiskId>,
        /// Back.
        back: Vec<DiskId>,
    },
    /// What an operator decided about nodes and disks, checked by the leader as far as that takes more than
    /// the map.
    Operate(Operate),
    /// What the cluster needs now, for the forecast.
    NoteUsage(UsageSample),
    /// A disk failed challenges.
    Quarantine {
        /// The disk.
        disk: DiskId,
        /// The life in which it did.
        incarnation: Incarnation,
        /// How.
        why: String,
    },
    /// A disk can't tell what it has lost: nothing of it is vouched for any more.
    MarkDirty(DiskId),
    /// A disk failed: what it holds may well be there, and does not count before it has been looked through.
    Distrust(DiskId),
    /// A disk's own pieces are missing or rotten.
    ReportBad {
        /// The disk.
        disk: DiskId,
        /// The chunks.
        chunks: Vec<(PoolId, ChunkId)>,
    },
}

impl PromisedChunk {
    /// Drops the signatures, which have been verified.
    pub fn from_commit(chunk: ChunkCommit) -> Self {
        let ChunkCommit { id, length, row_version, digests, receipts } = chunk;
        let promises = receipts
            .into_iter()
            .map(|r| Promise { slot: r.slot, disk: r.disk, incarnation: r.incarnation })
            .collect();
        Self { id, length, row_version, digests, promises }
    }
}

impl Command {
    /// True if it makes the metadata grow for somebody who asks: refused while there is no room for that.
    /// Deletes, revocations, decisions of operators about nodes, disks and tokens, and the cluster's own acts
    /// go on.
    pub(crate) fn grows(&self) -> bool {
        match self {
            Self::CreatePool { .. }
            | Self::CreateBucket { .. }
            | Self::CommitPart { .. }
            | Self::CommitFile { .. }
            | Self::Name(NameCommand::Restore { .. } | NameCommand::Repin(_)) => true,
            Self::Name(NameCommand::Remove { .. } | NameCommand::Unpin { .. })
            // Shorter graces and smaller quotas make room.
            | Self::ChangeBucket { .. }
            | Self::RemoveBucket { .. }
            | Self::Expire(_)
            | Self::DeleteChunks(_)
            | Self::ReleaseLists(_)
            | Self::FenceUploads { .. }
            | Self::DropParts(_)
            | Self::BeginEpoch { .. }
            | Self::AllowDeletion { .. }
            | Self::Register { .. }
            | Self::CloseTickets { .. }
            // A new disk or member may be what makes room.
            | Self::CreateToken(_)
            | Self::DropToken(_)
            | Self::UseToken { .. }
            | Self::Revoke { .. }
            | Self::SetScopes(_)
            | Self::Note { .. }
            | Self::Tick
            | Self::MoveSlots(_)
            | Self::NoteConditions { .. }
            | Self::NoteDisks { .. }
            | Self::Operate(_)
            | Self::NoteUsage(_)
            | Self::Quarantine { .. }
            | Self::MarkDirty(_)
            | Self::Distrust(_)
            | Self::ReportBad { .. } => false,
        }
    }

    /// The command that a client's commit becomes.
    pub fn from_commit(owner: Actor, commit: CommitRequest) -> Self {
        let strip = |chunks: Vec<ChunkCommit>| chunks.into_iter().map(PromisedChunk::from_commit).collect();
        match commit {
            CommitRequest::Part { upload, pool, part, bucket, chunks, ack } => {
                let part = PartCommit { owner, upload, pool, part, bucket, ack };
                Self::CommitPart { part, chunks: strip(chunks) }
            }
            CommitRequest::File {
                upload,
                pool,
                id,
                size,
                chunk_size,
                object,
                condition,
                parts,
                chunks,
                ack,
            } => {
                let file = FileCommit { upload, pool, id, size, chunk_size, object, condition, parts, ack };
                Self::CommitFile { file, chunks: strip(chunks) }
            }
        }
    }
}
