//! Messages between the processes of a cluster. One request, one answer, on a stream of its own;
//! bulk bytes follow the header on the same stream.

mod data;
mod meta;
mod raft;

pub use data::{
    Ack, DoubtedPiece, HeldPiece, PieceCheck, PiecePage, PutOutcome, PutRequest, ReadRequest, SlotFailure,
};
pub use meta::{
    CommitOutcome, CommitRequest, Condition, DiskHeartbeat, DiskRegistration, Heartbeat, HeartbeatReply,
    MemberCommand, NameCommand, Query, QueryReply, RegisteredDisk, Registration, SnapshotInfo, TopologyReply,
    UserCommand,
};
pub use raft::{Acknowledged, KnownCluster, RaftAnswer, RaftCall, RaftRequest, RaftResponse};

use bincode::{Decode, Encode};

use crate::chunk::MissingPiece;
use crate::feed::{PiecesKnown, PoolChunk};
use crate::ids::{DiskId, IdPage, RequestId};
use crate::receipt::SignedReceipt;

/// Every call there is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Metadata node to metadata node.
    Raft(RaftCall),
    /// The map of the cluster, unless the caller's version is the present one. Answered by any member
    /// from its applied state.
    GetTopology {
        /// The version that the caller has; 0 for none.
        known: u64,
    },
    /// A read of the namespace.
    Read {
        /// Answer only from a state that includes every write acknowledged before the call.
        linearizable: bool,
        /// What to read.
        query: Query,
    },
    /// The cluster's status, from the leader.
    Status,
    /// Makes a file, or a part of a large one, visible.
    Commit {
        /// The same id gets the same answer.
        request: RequestId,
        /// What to commit.
        commit: CommitRequest,
    },
    /// A change of the namespace that a user makes.
    Name {
        /// The same id gets the same answer.
        request: RequestId,
        /// The change.
        command: NameCommand,
    },
    /// A change that an operator makes.
    Administer {
        /// The same id gets the same answer.
        request: RequestId,
        /// The change.
        command: UserCommand,
    },
    /// A change of the metadata nodes themselves.
    Member(MemberCommand),
    /// All metadata, as of now, from the leader.
    Snapshot {
        /// From the member that is asked instead, as far as it has got; for when none leads.
        local: bool,
    },
    /// A new certificate for who the caller is already, by the caller's own certificate.
    Renew {
        /// As in [`crate::join::JoinRequest`].
        csr: Vec<u8>,
    },
    /// The certificate and key that certificates are issued with; from one metadata node to another.
    Issuer,
    /// Where the asked member answers those who have a token.
    JoinAddress,
    /// The snapshots and backups that the asked member keeps.
    ListSnapshots,
    /// A data node says what it is and which disks it has; answered with their numbers.
    Register(Registration),
    /// A data node is alive.
    Heartbeat(Heartbeat),
    /// A data node holds again what it had missed.
    CloseTickets {
        /// The disk.
        disk: DiskId,
        /// Receipts for the pieces it now has.
        receipts: Vec<SignedReceipt>,
        /// Groups whose dirty mark may go: the node has fetched all that `ListMissing` named for them.
        clean: Vec<(crate::PoolId, crate::PgId)>,
        /// `as_of` of the listing's page, or of its first page for groups: what went missing later stays so.
        as_of: u64,
        /// `epoch` of the listing: in another life of the metadata it says nothing.
        epoch: u64,
    },
    /// What a disk should hold and does not, some groups at a time: the chunks of tickets, and all chunks of
    /// its dirty groups.
    ListMissing {
        /// The disk.
        disk: DiskId,
        /// Of these groups, which the first page of the listing named; empty for the first page, which is of
        /// the most urgent ones.
        groups: Vec<(crate::PoolId, crate::PgId)>,
        /// Then, of none of these.
        but: Vec<(crate::PoolId, crate::PgId)>,
        /// Go on after this one.
        after: Option<IdPage>,
    },
    /// Which of these chunks are committed: for pieces whose place in the feed was missed.
    CheckCommitted {
        /// The asking disk: a chunk counts as committed to it only where its row involves the disk.
        disk: crate::DiskId,
        /// The chunks.
        chunks: Vec<PoolChunk>,
    },
    /// A data node found pieces of its own missing or rotten.
    ReportBad {
        /// The disk.
        disk: DiskId,
        /// The chunks.
        chunks: Vec<(crate::PoolId, crate::ChunkId)>,
        /// Pieces that are what the disk wrote: bad only if something else was committed.
        doubted: Vec<DoubtedPiece>,
    },
    /// A data node can't tell what one of its disks has lost: bytes in which no piece can be made out.
    ReportLoss {
        /// The disk.
        disk: DiskId,
    },
    /// What a disk says it has of a range of chunk ids, to be held against what it should have.
    CheckRange(crate::range::RangeClaim),
    /// A metadata node has a disk prove that it has a piece.
    Challenge(crate::challenge::Challenge),
    /// The pieces of one of a data node's disks, a page at a time; for a rebuild of lost metadata.
    ListPieces {
        /// Which disk, from 0 on, in the order of the node's configuration.
        disk: u32,
        /// Go on after this one.
        after: Option<PoolChunk>,
    },
    /// Has a disk sign that it has a piece now.
    Attest {
        /// The disk.
        disk: DiskId,
        /// The slot that it has the piece for: a copy is as good in any.
        slot: u8,
        /// The chunk's pool.
        pool: crate::PoolId,
        /// The chunk.
        chunk: crate::ChunkId,
        /// What the answer must carry.
        nonce: [u8; 16],
    },
    /// Stores a piece; the bytes follow.
    Put(PutRequest),
    /// Reads a piece, or a range of it; the bytes follow the answer.
    ReadPiece(ReadRequest),
    /// Has a data node read its piece again and hash it.
    CheckPiece {
        /// The chunk's pool.
        pool: crate::PoolId,
        /// The chunk.
        chunk: crate::ChunkId,
        /// The piece on this disk of the node and no other; on whichever has one, if none.
        disk: Option<DiskId>,
        /// The piece of this slot and no other; whatever is there, if none.
        slot: Option<u8>,
        /// What it should hash to by the metadata, where the asker knows: a shard says so of itself only.
        digest: Option<crate::chunk::PieceDigest>,
    },
}

/// The kind of a call, for the access table and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Each is the request of the same name.
pub enum CallKind {
    Raft,
    GetTopology,
    Read,
    Status,
    Commit,
    Name,
    Administer,
    Member,
    Snapshot,
    Renew,
    Issuer,
    JoinAddress,
    ListSnapshots,
    Register,
    Heartbeat,
    CloseTickets,
    ListMissing,
    CheckCommitted,
    ReportBad,
    ReportLoss,
    CheckRange,
    Challenge,
    ListPieces,
    Attest,
    Put,
    ReadPiece,
    CheckPiece,
}

impl CallKind {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::Raft,
        Self::GetTopology,
        Self::Read,
        Self::Status,
        Self::Commit,
        Self::Name,
        Self::Administer,
        Self::Member,
        Self::Snapshot,
        Self::Renew,
        Self::Issuer,
        Self::JoinAddress,
        Self::ListSnapshots,
        Self::Register,
        Self::Heartbeat,
        Self::CloseTickets,
        Self::ListMissing,
        Self::CheckCommitted,
        Self::ReportBad,
        Self::ReportLoss,
        Self::CheckRange,
        Self::Challenge,
        Self::ListPieces,
        Self::Attest,
        Self::Put,
        Self::ReadPiece,
        Self::CheckPiece,
    ];

    /// The name, as metrics label it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::GetTopology => "get_topology",
            Self::Read => "read",
            Self::Status => "status",
            Self::Commit => "commit",
            Self::Name => "name",
            Self::Administer => "administer",
            Self::Member => "member",
            Self::Snapshot => "snapshot",
            Self::Renew => "renew",
            Self::Issuer => "issuer",
            Self::JoinAddress => "join_address",
            Self::ListSnapshots => "list_snapshots",
            Self::Register => "register",
            Self::Heartbeat => "heartbeat",
            Self::CloseTickets => "close_tickets",
            Self::ListMissing => "list_missing",
            Self::CheckCommitted => "check_committed",
            Self::ReportBad => "report_bad",
            Self::ReportLoss => "report_loss",
            Self::CheckRange => "check_range",
            Self::Challenge => "challenge",
            Self::ListPieces => "list_pieces",
            Self::Attest => "attest",
            Self::Put => "put",
            Self::ReadPiece => "read_piece",
            Self::CheckPiece => "check_piece",
        }
    }
}

impl Request {
    /// Which kind of call this is.
    pub fn kind(&self) -> CallKind {
        match self {
            Self::Raft(_) => CallKind::Raft,
            Self::GetTopology { .. } => CallKind::GetTopology,
            Self::Read { .. } => CallKind::Read,
            Self::Status => CallKind::Status,
            Self::Commit { .. } => CallKind::Commit,
            Self::Name { .. } => CallKind::Name,
            Self::Administer { .. } => CallKind::Administer,
            Self::Member(_) => CallKind::Member,
            Self::Snapshot { .. } => CallKind::Snapshot,
            Self::Renew { .. } => CallKind::Renew,
            Self::Issuer => CallKind::Issuer,
            Self::JoinAddress => CallKind::JoinAddress,
            Self::ListSnapshots => CallKind::ListSnapshots,
            Self::Register(_) => CallKind::Register,
            Self::Heartbeat(_) => CallKind::Heartbeat,
            Self::CloseTickets { .. } => CallKind::CloseTickets,
            Self::ListMissing { .. } => CallKind::ListMissing,
            Self::CheckCommitted { .. } => CallKind::CheckCommitted,
            Self::ReportBad { .. } => CallKind::ReportBad,
            Self::ReportLoss { .. } => CallKind::ReportLoss,
            Self::CheckRange(_) => CallKind::CheckRange,
            Self::Challenge(_) => CallKind::Challenge,
            Self::ListPieces { .. } => CallKind::ListPieces,
            Self::Attest { .. } => CallKind::Attest,
            Self::Put(_) => CallKind::Put,
            Self::ReadPiece(_) => CallKind::ReadPiece,
            Self::CheckPiece { .. } => CallKind::CheckPiece,
        }
    }
}

/// Every answer that says yes; a no is an [`crate::RpcError`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Response {
    /// To [`Request::Raft`].
    Raft(RaftAnswer),
    /// To [`Request::GetTopology`].
    Topology(TopologyReply),
    /// To [`Request::Read`].
    Read(QueryReply),
    /// To [`Request::Status`].
    Status(Box<crate::status::ClusterStatus>),
    /// To [`Request::Commit`].
    Committed(CommitOutcome),
    /// To [`Request::Commit`]: chunks were claimed to be there already and are not, or not safely; these are
    /// a few of them. Nothing has changed; send all and commit again under a new request id.
    NeedChunks(Vec<crate::ChunkId>),
    /// To a request whose success has nothing to add.
    Done,
    /// To [`Request::Snapshot`]; that many bytes follow, a file as `docs/formats.md` has it.
    Snapshot {
        /// Bytes that follow.
        length: u64,
    },
    /// To [`Request::Renew`].
    Renewed(crate::join::IssuedCertificate),
    /// To [`Request::Issuer`]: certificate and key, both PEM.
    Issuer {
        /// The certificate.
        certificate: String,
        /// The key.
        key: String,
    },
    /// To [`Request::JoinAddress`]; none if it answers no strangers.
    JoinAddress(Option<crate::join::JoinAddress>),
    /// To [`Request::ListSnapshots`].
    Snapshots(Vec<SnapshotInfo>),
    /// To [`Request::Register`]: the disks, in the order of the registration.
    Registered(Vec<RegisteredDisk>),
    /// To [`Request::Heartbeat`].
    Heartbeat(HeartbeatReply),
    /// To [`Request::ListMissing`].
    Missing {
        /// The page.
        pieces: Vec<MissingPiece>,
        /// Where to go on; none at the end.
        next: Option<IdPage>,
        /// The groups that this listing covers from its first page to its last; none if the disk lacks
        /// nothing.
        groups: Vec<(crate::PoolId, crate::PgId)>,
        /// Those of them that are dirty: of these all chunks are listed, and only these may be vouched for.
        dirty: Vec<(crate::PoolId, crate::PgId)>,
        /// The life of the metadata that indices belong to.
        epoch: u64,
        /// Raft index that the page is of.
        as_of: u64,
    },
    /// To an [`UserCommand::Operate`] that began a job: its number.
    Job(u64),
    /// To [`Request::CheckRange`].
    Range(crate::range::RangeVerdict),
    /// To [`Request::Challenge`].
    Challenged(crate::challenge::ChallengeAnswer),
    /// To [`Request::CheckCommitted`].
    PiecesKnown(PiecesKnown),
    /// To [`Request::Put`].
    Put(PutOutcome),
    /// To [`Request::ReadPiece`]; that many bytes follow.
    Piece {
        /// Bytes that follow.
        length: u32,
        /// Bytes of the whole piece.
        piece_length: u32,
    },
    /// To [`Request::CheckPiece`].
    Checked(PieceCheck),
    /// To [`Request::ListPieces`].
    Pieces(PiecePage),
    /// To [`Request::Attest`].
    Attested(crate::receipt::SignedAttestation),
    /// To an [`UserCommand::Revoke`]: whose certificates are refused now.
    Revoked(crate::identity::Actor),
}
