//! What needs somebody's attention, from a status: findings with codes that stay the same, for people and for
//! alarms.
//!
//! One table ([`TABLE`]) says for each promise how it is known to be broken, under which code, and what to do
//! then. `wmall health`, the operations endpoint and docs/health.md go by it and have no list of their own.
//! Each part is a function of the status.

mod bounds;
mod room;
mod table;

use serde::{Deserialize, Serialize};

pub use bounds::*;
pub use table::TABLE;

use crate::status::ClusterStatus;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is lost or refused now; it may come to that.
    Warning,
    /// Something is lost, unreadable or refused.
    Error,
}

/// A promise, and all there is to say of its being broken.
pub struct Promise {
    /// The code of the finding, which does not change between versions.
    pub code: &'static str,
    /// How bad it is when it is broken.
    pub severity: Severity,
    /// The promise.
    pub promise: &'static str,
    /// How the cluster knows that it is broken.
    pub known_by: &'static str,
    /// Advice for whoever sees it.
    pub advice: &'static str,
    /// Says what is the matter; none as long as the promise holds.
    pub broken: fn(&ClusterStatus) -> Option<String>,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its code, which does not change between versions.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is the matter.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
    /// Whether an operator does not want to hear of it for now: it does not count.
    pub muted: bool,
}

/// All codes there are, in the order of the table.
pub const CODES: [&str; TABLE.len()] = {
    let mut codes = [""; TABLE.len()];
    let mut i = 0;
    while i < codes.len() {
        codes[i] = TABLE[i].code;
        i += 1;
    }
    codes
};

/// The worst severity that is not muted.
pub fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().filter(|f| !f.muted).map(|f| f.severity).max()
}

/// Everything that needs attention, the worst first and what is muted last.
pub fn health(status: &ClusterStatus) -> Vec<Finding> {
    let finding = |promise: &Promise| {
        let &Promise { code, severity, advice, broken, .. } = promise;
        let muted = status.mutes.iter().any(|m| m.code == code);
        Some(Finding { code, severity, what: broken(status)?, advice, muted })
    };
    let mut findings: Vec<Finding> = TABLE.iter().filter_map(finding).collect();
    findings.sort_by_key(|f| (f.muted, std::cmp::Reverse(f.severity)));
    findings
}

#[cfg(test)]
mod tests;
