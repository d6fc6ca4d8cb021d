//! What the leader lets go of, by the clock: it looks for what has fallen due and proposes that it goes.
//! Applying decides again, so a proposal that comes late does no harm.
//!
//! One task. A round a second; each looks at [`PAGE`] of each kind and goes on at once while there is more.

use std::sync::Arc;
use std::time::Duration;

use wmall_proto::RpcError;

use super::ClusterClock;
use super::propose::Proposer;
use crate::command::{Command, Due};
use crate::state::{NO_EPOCH, State};
use crate::types::Raft;

/// Between rounds.
const ROUND: Duration = Duration::from_secs(1);
/// The clock of the last entry is no older than this, in milliseconds.
const TICK_MS: u64 = 60_000;
/// Of each kind, in one command.
const PAGE: usize = 256;
const CHUNKS: usize = 4096;
/// Chunks of lists that one command releases.
const RELEASED: u64 = 8192;

/// A life of the metadata; never [`NO_EPOCH`], and never 0, which is the first.
pub(crate) fn new_epoch() -> u64 {
    (u64::from_le_bytes(wmall_runtime::random::bytes()) >> 1) | 1
}

/// Where the rows of a life of the metadata that begins now go on: above all of lives that began before,
/// since no row changes 65,536 times in a millisecond.
fn rows_from(now_ms: u64) -> u64 {
    now_ms << 16
}

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub struct Graces {
    /// Between a chunk's last reference and its deletion.
    pub condemned_ms: u64,
    /// Between an upload's begin and its fence.
    pub upload_ms: u64,
}

/// The collector.
pub struct Collector {
    pub(crate) raft: Raft,
    pub(crate) state: Arc<State>,
    pub(crate) proposer: Proposer,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) graces: Graces,
}

impl Collector {
    /// Runs as long as it is not aborted.
    pub async fn run(self) {
        loop {
            let more = if self.leads() { self.round().await } else { Ok(false) };
            match more {
                Ok(true) => {}
                Ok(false) => tokio::time::sleep(ROUND).await,
                Err(error) => {
                    tracing::info!(%error, "the collector did not get on; it tries again");
                    tokio::time::sleep(ROUND).await;
                }
            }
        }
    }

    fn leads(&self) -> bool {
        crate::raft::is_leader(&self.raft)
    }

    /// One round. True if there is more of something.
    async fn round(&self) -> Result<bool, RpcError> {
        let now = self.clock.now_ms();
        if self.clock.is_pending() {
            return Ok(false);
        }
        let (_, counters) = self.state.counters();
        if counters.feed_epoch == NO_EPOCH {
            // A clock that is behind must not bring back versions of a life before.
            let (epoch, rows_from) = (new_epoch(), rows_from(now.max(wmall_runtime::clock::now_ms())));
            self.proposer.propose(None, Command::BeginEpoch { epoch, rows_from }).await?;
        }
        if now > self.state.clock().now_ms.saturating_add(TICK_MS) {
            self.proposer.propose(None, Command::Tick).await?;
        }
        let mut more = false;
        let due = self.state.due(now, PAGE).map_err(RpcError::internal)?;
        if !due.is_empty() {
            // A bucket goes in steps, and is due as long as there is another one.
            more |= due.len() == PAGE || due.iter().any(|(_, what)| matches!(what, Due::Bucket(_)));
            self.proposer.propose(None, Command::Expire(due)).await?;
        }
        let lists = self.state.waiting_lists(RELEASED).map_err(RpcError::internal)?;
        if !lists.is_empty() {
            more = true;
            self.proposer.propose(None, Command::ReleaseLists(lists)).await?;
        }
        if counters.deletion_held {
            return Ok(more);
        }
        let up_to = now.saturating_sub(self.graces.condemned_ms);
        let chunks = self.state.condemned(up_to, CHUNKS).map_err(RpcError::internal)?;
        if !chunks.is_empty() {
            more |= chunks.len() == CHUNKS;
            self.proposer.propose(None, Command::DeleteChunks(chunks)).await?;
        }
        // An entry for every 24th of the grace, not for every round.
        let before_ms = now.saturating_sub(self.graces.upload_ms);
        if before_ms > counters.fenced_before_ms.saturating_add(self.graces.upload_ms / 24) {
            self.proposer.propose(None, Command::FenceUploads { before_ms }).await?;
        }
        let parts = self.state.fenced_parts(CHUNKS).map_err(RpcError::internal)?;
        if !parts.is_empty() {
            more |= parts.len() == CHUNKS;
            self.proposer.propose(None, Command::DropParts(parts)).await?;
        }
        Ok(more)
    }
}
