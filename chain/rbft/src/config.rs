//! What a chain decides, and how long a replica waits. The first part must be the same everywhere.

/// Parameters of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// K: a checkpoint every so many sequences. A chain parameter.
    pub checkpoint_interval: u64,
    /// Sequences beyond the agreed archived height up to which there may be proposals. A chain parameter.
    pub archive_bound: u64,
    /// Batches that a proposal may list. A chain parameter.
    pub max_batches: usize,
    /// How far a fresh proposal's time may be ahead of a replica's clock, in milliseconds.
    pub drift_ms: u64,
    /// How long a stored batch may go without being committed before it is forwarded, and then before the primary is
    /// complained about. Doubles with every view that brings nothing, up to the next value.
    pub request_timeout_ms: u64,
    /// The longest that is waited for a view.
    pub max_timeout_ms: u64,
    /// Between repetitions of what may have been lost.
    pub resend_ms: u64,
    /// Batches that a replica holds uncommitted from one peer: so many that the peer has made, and so many that it forwards.
    pub batches_per_seat: usize,
    /// How long an idle primary waits before it proposes nothing, where something waits for the next boundary.
    pub idle_ms: u64,
}

impl Config {
    /// Batches of which it is remembered that a peer has them, not committed: more than a peer usually holds.
    pub fn reports_per_seat(&self) -> usize {
        self.batches_per_seat.saturating_mul(16)
    }

    /// L = 4K: the sequences that may be under way above the stable checkpoint (PBFT section 4.3).
    pub fn window(&self) -> u64 {
        self.checkpoint_interval.saturating_mul(4)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            checkpoint_interval: 10,
            archive_bound: 1000,
            max_batches: 64,
            drift_ms: 5_000,
            request_timeout_ms: 2_000,
            max_timeout_ms: 60_000,
            resend_ms: 500,
            batches_per_seat: 128,
            idle_ms: 200,
        }
    }
}
