//! The bounds that the cluster's clock and the clocks of its nodes are held to.
//!
//! The clock itself is a number in the replicated state (`metadata-node/src/leader/clock.rs`); everything
//! that is kept, locked, fenced or forgotten by time goes by it, and by no node's own clock.

/// How far a node's clock may be off before health says so.
pub const CLOCK_SLACK_MS: u64 = 10_000;

/// How far ahead of the cluster's clock an upload may begin, and how far ahead of a data node's own clock,
/// less the grace of uploads, a fence may be.
pub const UPLOAD_SKEW_MS: u64 = 3_600_000;

/// How many times as fast as the leader's monotonic clock the cluster's clock rises while it is behind.
pub const CATCH_UP_RATE: u64 = 2;

/// How long a caller may repeat a command, in milliseconds of its own monotonic clock.
pub const LONGEST_RETRY_MS: u64 = 60_000;

/// How long the answer to a command is kept, in milliseconds of the cluster's clock, counted from the birth
/// of its request: the longest retry while that clock catches up, and as much as a caller may be behind it.
pub const ANSWERS_KEPT_MS: u64 = LONGEST_RETRY_MS * CATCH_UP_RATE + CLOCK_SLACK_MS;

/// How far ahead of the cluster's clock a request may be born.
pub const REQUEST_SKEW_MS: u64 = CLOCK_SLACK_MS;
