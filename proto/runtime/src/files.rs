//! The limit of open files. The soft one is a relic of `select`, and often 1,024; the hard one is the limit
//! that the operator or the distribution means.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::metrics::Metrics;

/// Raises the soft limit of open files to the hard one and returns what holds now; the largest number if
/// there is none.
pub fn raise_limit() -> u64 {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if before.current != before.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Shows the limit among the metrics.
pub fn show_limit(metrics: &Metrics, limit: u64) {
    if let Some(gauge) = metrics.gauge("wmall_open_files_limit", "Files that the process may have open.") {
        gauge.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise_limit();
        let now = getrlimit(Resource::Nofile);
        assert_eq!((now.current, limit), (now.maximum, now.maximum.unwrap_or(u64::MAX)));
    }
}
