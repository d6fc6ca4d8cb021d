//! What the node's background work counts.

use prometheus::IntCounter;
use wmall_runtime::metrics::Metrics;

/// Of the scrub.
#[derive(Clone)]
pub(crate) struct ScrubMetrics {
    pub(crate) pieces: Option<IntCounter>,
    pub(crate) bad: Option<IntCounter>,
    pub(crate) passes: Option<IntCounter>,
}

impl ScrubMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            pieces: metrics
                .counter("wmall_scrubbed_pieces_total", "Pieces that a scrub read and found good."),
            bad: metrics.counter("wmall_scrub_bad_pieces_total", "Pieces that a scrub found rotten."),
            passes: metrics.counter("wmall_scrub_passes_total", "Passes over a disk that a scrub has ended."),
        }
    }
}
