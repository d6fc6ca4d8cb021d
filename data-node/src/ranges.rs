//! Finds out whether this node's disks have what they should have, without reading a piece: group after group, a
//! fingerprint over the live pieces is held against one that a metadata node takes over its records. Where they differ
//! the range is cut, until it is short enough to be listed; what is missing then becomes tickets, and what should not be
//! there is asked about like any piece whose place in the feed was missed.
//!
//! One task, one question at a time. Presence is all that this shows; `scrub.rs` and challenges read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use wmall_proto::feed::PoolChunk;
use wmall_proto::range::{Range, RangeClaim, RangeSum, RangeVerdict};
use wmall_proto::rpc::{Request, Response};
use wmall_proto::{DiskId, PgId, RpcError, Topology};
use wmall_runtime::Shutdown;
use wmall_transport::Members;

use crate::disk::DiskStore;
use crate::map::Map;

/// Questions about one group: a range is cut into sixteen, of which few differ.
const MAX_QUESTIONS: usize = 512;

/// The comparer.
pub(crate) struct Ranges {
    pub(crate) metadata: Arc<Members>,
    pub(crate) disks: Arc<Vec<Arc<DiskStore>>>,
    pub(crate) map: Arc<Map>,
    /// Between two groups of a disk.
    pub(crate) every: Duration,
}

impl Ranges {
    /// Runs until a stop is asked for.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        // Where each disk has got to.
        let mut at: Vec<Option<Range>> = vec![None; self.disks.len()];
        while shutdown.or(tokio::time::sleep(self.every)).await.is_some() {
            for (disk, at) in self.disks.iter().zip(&mut at) {
                let Some(id) = disk.id().filter(|_| !disk.usage().failed) else { continue };
                let topology = self.map.get().topology;
                let Some((range, slot)) = next_group(&topology, id, at.as_ref()) else { continue };
                *at = Some(range.clone());
                match shutdown.or(self.compare(disk, (id, slot), range)).await {
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        tracing::debug!(%error, disk = %disk.name, "a group was not compared")
                    }
                    None => return,
                }
            }
        }
    }

    async fn compare(
        &self,
        disk: &Arc<DiskStore>,
        (id, slot): (DiskId, u8),
        whole: Range,
    ) -> Result<(), RpcError> {
        let mut open = vec![whole];
        for _ in 0..MAX_QUESTIONS {
            let Some(range) = open.pop() else { return Ok(()) };
            let Some((claim, live)) = take(disk, (id, slot), &range).await? else { return Ok(()) };
            match self.metadata.call(&Request::CheckRange(claim)).await? {
                Response::Range(RangeVerdict::Same | RangeVerdict::NotNow) => {}
                Response::Range(RangeVerdict::Differs) => {
                    let parts = range.cut();
                    // One that can't be cut any more is listed by whoever reads it.
                    if parts.len() > 1 {
                        open.extend(parts);
                    }
                }
                Response::Range(RangeVerdict::Chunks(wanted)) => {
                    self.settle(disk, id, &range, &live, &wanted).await?;
                }
                _ => return Err(RpcError::internal("the comparison got another answer")),
            }
        }
        Ok(())
    }

    /// What is missing is reported, and what is too much is asked about.
    async fn settle(
        &self,
        disk: &DiskStore,
        id: DiskId,
        range: &Range,
        live: &BTreeSet<wmall_proto::ChunkId>,
        wanted: &[wmall_proto::ChunkId],
    ) -> Result<(), RpcError> {
        let missing: Vec<_> = wanted.iter().filter(|c| !live.contains(c)).map(|c| (range.pool, *c)).collect();
        if !missing.is_empty() {
            tracing::error!(disk = %disk.name, pieces = missing.len(), "pieces are missing that nobody had missed");
            self.metadata.call(&Request::ReportBad { disk: id, chunks: missing, doubted: vec![] }).await?;
        }
        let wanted: BTreeSet<_> = wanted.iter().collect();
        let surplus: Vec<PoolChunk> = live
            .iter()
            .filter(|c| !wanted.contains(c))
            .map(|&chunk| PoolChunk { pool: range.pool, chunk })
            .collect();
        if !surplus.is_empty() {
            let ask = Request::CheckCommitted { disk: id, chunks: surplus.clone() };
            match self.metadata.call(&ask).await? {
                Response::PiecesKnown(known) => disk.reconcile(surplus, known),
                _ => return Err(RpcError::internal("the question got another answer")),
            }
        }
        Ok(())
    }
}

/// What a disk has of a range, at a place in the feed; none if it can't be told now.
async fn take(
    disk: &Arc<DiskStore>,
    (id, slot): (DiskId, u8),
    range: &Range,
) -> Result<Option<(RangeClaim, BTreeSet<wmall_proto::ChunkId>)>, RpcError> {
    let (store, range) = (disk.clone(), range.clone());
    let taking = move || {
        let before = store.feed_position();
        let live =
            store.live_between(range.pool, (range.low, range.high), slot).map_err(RpcError::internal)?;
        // The feed went on meanwhile: some of it is of before, and some of after.
        let Some(feed) = before.filter(|_| before == store.feed_position()) else { return Ok(None) };
        let mut sum = RangeSum::default();
        live.iter().for_each(|chunk| sum.add(chunk));
        Ok(Some((RangeClaim { disk: id, range, feed, sum }, live.into_iter().collect())))
    };
    tokio::task::spawn_blocking(taking).await.map_err(RpcError::internal)?
}

/// The group behind this one of those that the disk has a slot of and is vouched for, and the slot, going round.
fn next_group(topology: &Topology, disk: DiskId, after: Option<&Range>) -> Option<(Range, u8)> {
    let groups = topology.pools.iter().flat_map(|(&pool, table)| {
        let bits = table.pool.pg_bits;
        table.rows.iter().enumerate().filter_map(move |(number, row)| {
            let slot = row.slot_of(disk).filter(|slot| row.dirty_at[usize::from(*slot)].is_none())?;
            let (low, high) = PgId(number as u32).range(bits);
            Some((Range { pool, low, high }, slot))
        })
    });
    let mut first = None;
    for group in groups {
        if after.is_none_or(|a| (group.0.pool, group.0.low) > (a.pool, a.low)) {
            return Some(group);
        }
        first = first.or(Some(group));
    }
    first
}
