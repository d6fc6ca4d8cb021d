//! What can go wrong, as every peer, the SDK and the command line name it.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A stable code: scripts match on it, so a code never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The message breaks the protocol or a limit.
    BadRequest,
    /// This role may not make this call.
    Denied,
    /// No such thing.
    NotFound,
    /// It is there already, with other content.
    AlreadyExists,
    /// A bucket that still holds objects.
    NotEmpty,
    /// A range that lies outside the file.
    RangeOutOfBounds,
    /// A limit of the format: chunk size, name length, file size.
    OutOfBounds,
    /// The name points to something else than the caller's condition says.
    PreconditionFailed,
    /// A retention rule forbids it for now.
    Locked,
    /// The bucket's quota would be exceeded.
    QuotaExceeded,
    /// The upload began too long ago and may not commit any more.
    UploadFenced,
    /// The request was born so long ago that the answer to an earlier try may be forgotten.
    RequestExpired,
    /// The input changed while it was read.
    Changed,
    /// The row has changed since the caller read it; read it again.
    StaleRow,
    /// Too few nodes, disks or zones for the scheme.
    TooFewNodes,
    /// Too few receipts for the acknowledgement that was asked for.
    TooFewReceipts,
    /// A receipt that does not verify, or of a disk that has no say in it.
    BadReceipt,
    /// The bytes are not those that their id names.
    HashMismatch,
    /// This member does not lead; the hint names the one that does, if known.
    NotLeader,
    /// No majority of metadata nodes answers.
    NoQuorum,
    /// A peer could not be reached.
    Unreachable,
    /// The time allowed ran out.
    Timeout,
    /// A queue is full; try again shortly.
    Busy,
    /// The disk has no room left.
    DiskFull,
    /// The disk failed and takes no more writes.
    DiskFailed,
    /// Bytes on disk that are not what was written.
    Corrupt,
    /// Too few pieces of a chunk could be read.
    Unavailable,
    /// A scheme or option that this version does not offer.
    Unsupported,
    /// The receiver is stopping.
    ShuttingDown,
    /// A defect of ours.
    Internal,
    /// A join token that is unknown, used up or expired.
    BadToken,
    /// It would put data at risk, or could not be ended.
    Unsafe,
    /// The cluster is so full that this writer has to wait.
    ClusterFull,
}

impl ErrorCode {
    /// The code as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::NotEmpty => "not_empty",
            Self::RangeOutOfBounds => "range_out_of_bounds",
            Self::BadToken => "bad_token",
            Self::Unsafe => "unsafe",
            Self::ClusterFull => "cluster_full",
            Self::OutOfBounds => "out_of_bounds",
            Self::PreconditionFailed => "precondition_failed",
            Self::Locked => "locked",
            Self::QuotaExceeded => "quota_exceeded",
            Self::UploadFenced => "upload_fenced",
            Self::RequestExpired => "request_expired",
            Self::Changed => "changed",
            Self::StaleRow => "stale_row",
            Self::TooFewNodes => "too_few_nodes",
            Self::TooFewReceipts => "too_few_receipts",
            Self::BadReceipt => "bad_receipt",
            Self::HashMismatch => "hash_mismatch",
            Self::NotLeader => "not_leader",
            Self::NoQuorum => "no_quorum",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::DiskFull => "disk_full",
            Self::DiskFailed => "disk_failed",
            Self::Corrupt => "corrupt",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal",
        }
    }

    /// Whether the same call may succeed later, or elsewhere, without a change of its own.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::NotLeader
                | Self::NoQuorum
                | Self::Unreachable
                | Self::Timeout
                | Self::Busy
                | Self::ShuttingDown
                | Self::StaleRow
        )
    }

    /// Whether it may be the view of the one peer that says so: of its clock, its disks, its connections, its
    /// load. Another peer may see it otherwise. Every other code is a verdict on the request or on the state
    /// that all share.
    pub fn is_own_view(self) -> bool {
        self.is_transient()
            || matches!(
                self,
                Self::Denied | Self::Internal | Self::DiskFull | Self::DiskFailed | Self::Corrupt
            )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An answer that says no: the code, why, and what may help.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct RpcError {
    /// What kind of no.
    pub code: ErrorCode,
    /// Why, in a sentence with the numbers in it.
    pub reason: String,
    /// What to try, or for `not_leader` the leader's node name; may be empty.
    pub hint: String,
}

impl RpcError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), hint: String::new() }
    }

    /// Adds what to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Nothing of that name.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no {what}"))
    }

    /// A defect of ours, with what is known of it.
    pub fn internal(why: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Internal, why.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_no_ones_own_view() {
        use ErrorCode as E;
        let passing =
            [E::NotLeader, E::NoQuorum, E::Unreachable, E::Timeout, E::Busy, E::ShuttingDown, E::StaleRow];
        for code in passing {
            assert!(code.is_transient() && code.is_own_view(), "{code}");
        }
        for code in [E::Denied, E::Internal, E::DiskFull, E::DiskFailed, E::Corrupt] {
            assert!(!code.is_transient() && code.is_own_view(), "{code}");
        }
        let verdicts = [
            E::BadRequest,
            E::NotFound,
            E::AlreadyExists,
            E::NotEmpty,
            E::OutOfBounds,
            E::PreconditionFailed,
            E::Locked,
            E::QuotaExceeded,
            E::UploadFenced,
            E::RequestExpired,
            E::TooFewReceipts,
            E::BadReceipt,
            E::BadToken,
            E::Unsafe,
            E::ClusterFull,
        ];
        for code in verdicts {
            assert!(!code.is_transient() && !code.is_own_view(), "{code}");
        }
    }
}
