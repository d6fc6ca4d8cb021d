//! Whether this member leads, by what Raft said last.

use crate::types::Raft;

/// Whether this member is the leader that it knows.
pub(crate) fn is_leader(raft: &Raft) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    metrics.current_leader == Some(metrics.id)
}
