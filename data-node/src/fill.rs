//! Fetches what this node's disks should hold and do not: tickets, and the chunks of dirty groups.
//!
//! One task, at most [`PARALLEL`] fetches at once, which rest while clients are served (`traffic.rs`). Each piece is hashed before it is written, and the
//! ticket is closed by a receipt, never by the end of a job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wmall_proto::chunk::MissingPiece;
use wmall_proto::feed::{FeedItem, PoolChunk};
use wmall_proto::ids::IdPage;
use wmall_proto::receipt::SignedReceipt;
use wmall_proto::rpc::{Request, Response};
use wmall_proto::{DiskId, PgId, PoolId, RpcError};
use wmall_runtime::Shutdown;
use wmall_transport::{Endpoint, Members};

use crate::disk::DiskStore;
use crate::map::Map;
use crate::service::BadPiece;
use crate::traffic::{RECENT, Traffic};

/// Fetches under way: with chunks of 16 MiB, 64 MiB of memory for copies, and twice that for shards.
const PARALLEL: usize = 4;
/// So many pieces of a group that can't be had are set aside; more of them mean that others do not answer, and will.
const FEW: usize = 8;
/// How long the feed may take to reach a listing; it comes once a second.
const ABREAST: Duration = Duration::from_secs(5);
/// Between looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// Between passes over work that did not end well, growing up to the second number.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The filler.
#[derive(Clone)]
pub(crate) struct Filler {
    pub(crate) endpoint: Endpoint,
    pub(crate) metadata: Arc<Members>,
    pub(crate) disks: Arc<Vec<Arc<DiskStore>>>,
    pub(crate) map: Arc<Map>,
    pub(crate) traffic: Arc<Traffic>,
}

impl Filler {
    /// Works whenever the heartbeat says there is work.
    pub(crate) async fn run(self, mut work: watch::Receiver<Vec<DiskId>>, shutdown: Shutdown) {
        let mut pause = FIRST_PAUSE;
        while !shutdown.is_requested() {
            let todo = work.borrow_and_update().clone();
            let mut failed = false;
            for disk in self.disks.iter().filter(|d| d.id().is_some_and(|id| todo.contains(&id))) {
                match shutdown.or(self.fill(disk)).await {
                    Some(Ok(complete)) => failed |= !complete,
                    Some(Err(error)) => {
                        tracing::warn!(%error, disk = %disk.name, "the fill did not get on");
                        failed = true;
                    }
                    None => return,
                }
            }
            if failed {
                shutdown.or(tokio::time::sleep(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
            pause = FIRST_PAUSE;
            if shutdown.or(work.changed()).await.is_none_or(|c| c.is_err()) {
                return;
            }
        }
    }

    /// One pass over what a disk misses. True if nothing is left of it. A group is closed as soon as all of it has been
    /// listed and fetched.
    async fn fill(&self, disk: &Arc<DiskStore>) -> Result<bool, RpcError> {
        let Some(id) = disk.id() else { return Ok(true) };
        let mut after = None;
        // Groups of which pieces could not be had keep their marks; the others need not wait for them.
        let mut failed: BTreeMap<(PoolId, PgId), Vec<MissingPiece>> = BTreeMap::new();
        let mut complete = true;
        let mut open: Option<(u64, Vec<(PoolId, PgId)>)> = None;
        loop {
            let request = Request::ListMissing { disk: id, after: after.clone() };
            let Response::Missing { pieces, next, groups, as_of } = self.metadata.call(&request).await?
            else {
                return Err(RpcError::internal("the listing got another answer"));
            };
            let (begun, open) = open.get_or_insert((as_of, groups));
            if !pieces.is_empty() {
                // A deletion that is still on its way would take what is vouched for now.
                if !self.wait_abreast(disk, as_of).await {
                    return Ok(false);
                }
                tracing::info!(disk = %disk.name, pieces = pieces.len(), "filling");
                let (receipts, missed) = self.fetch_all(disk, pieces).await?;
                complete &= missed.is_empty();
                for piece in missed {
                    if let Some(group) = self.group_of(&piece) {
                        failed.entry(group).or_default().push(piece);
                    }
                }
                // Where the slot has moved on meanwhile, nobody asks for the piece: it stays a claim, and ends as one.
                let known = self.map.get();
                let ours = |r: &&SignedReceipt| {
                    known.row(r.receipt.pool, &r.receipt.chunk, r.receipt.row_version).is_ok()
                };
                let committed: Vec<FeedItem> = receipts.iter().filter(ours).map(committed).collect();
                // Only committed chunks are ever listed as missing. Before the tickets go: a comparison in between would
                // miss what is there.
                disk.follow(committed, None);
                self.close(id, receipts, Vec::new(), as_of).await?;
            }
            after = next;
            let mut done = self.take_done(open, after.as_ref());
            self.set_aside(id, &done, &mut failed).await?;
            done.retain(|group| !failed.contains_key(group));
            if !done.is_empty() {
                self.close(id, Vec::new(), done, *begun).await?;
            }
            if after.is_none() {
                return Ok(complete);
            }
        }
    }

    /// A group of which all but a few pieces could be had does not keep its mark for them, which would have all of it read
    /// again and again: the few become tickets, and are tried by themselves.
    async fn set_aside(
        &self,
        disk: DiskId,
        done: &[(PoolId, PgId)],
        failed: &mut BTreeMap<(PoolId, PgId), Vec<MissingPiece>>,
    ) -> Result<(), RpcError> {
        for group in done {
            let Some(pieces) = failed.get(group).filter(|pieces| pieces.len() <= FEW) else { continue };
            tracing::warn!(pieces = pieces.len(), "pieces that can't be had are set aside");
            let chunks = pieces.iter().map(|p| (p.pool, p.chunk)).collect();
            self.metadata.call(&Request::ReportBad { disk, chunks }).await?;
            failed.remove(group);
        }
        Ok(())
    }

    /// Takes out the groups that a listing which goes on here has behind it. Dirty groups are listed in order, after all
    /// tickets.
    fn take_done(&self, open: &mut Vec<(PoolId, PgId)>, next: Option<&IdPage>) -> Vec<(PoolId, PgId)> {
        let Some(next) = next else { return std::mem::take(open) };
        if !next.dirty {
            return Vec::new();
        }
        let topology = self.map.get().topology;
        let listed = |&(pool, pg): &(PoolId, PgId)| {
            let bits = topology.pools.get(&pool).map(|t| t.pool.pg_bits);
            bits.is_some_and(|bits| (pool, pg.range(bits).1) <= (next.pool, next.chunk))
        };
        let (done, left) = std::mem::take(open).into_iter().partition(listed);
        *open = left;
        done
    }

    /// Waits until the disk has heard of all that the metadata nodes knew at this index.
    async fn wait_abreast(&self, disk: &DiskStore, index: u64) -> bool {
        let deadline = tokio::time::Instant::now() + ABREAST;
        while !disk.is_abreast(index) {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    fn group_of(&self, piece: &MissingPiece) -> Option<(PoolId, PgId)> {
        self.map.get().topology.row_of(piece.pool, &piece.chunk).map(|(group, _)| group)
    }

    async fn close(
        &self,
        disk: DiskId,
        receipts: Vec<SignedReceipt>,
        clean: Vec<(PoolId, PgId)>,
        as_of: u64,
    ) -> Result<(), RpcError> {
        let request = Request::CloseTickets { disk, receipts, clean, as_of };
        self.metadata.call(&request).await.map(|_| ())
    }

    /// Fetches what can be had; returns receipts for that, and what could not.
    async fn fetch_all(
        &self,
        disk: &Arc<DiskStore>,
        pieces: Vec<MissingPiece>,
    ) -> Result<(Vec<SignedReceipt>, Vec<MissingPiece>), RpcError> {
        let (mut receipts, mut missed) = (Vec::with_capacity(pieces.len()), Vec::new());
        let mut running = JoinSet::new();
        let mut waiting = pieces.into_iter();
        loop {
            while running.len() < self.traffic.fetches(PARALLEL, Instant::now())
                && let Some(piece) = waiting.next()
            {
                let (filler, disk) = (self.clone(), disk.clone());
                running.spawn(async move {
                    let begun = Instant::now();
                    let outcome = filler.fetch(&disk, &piece).await;
                    let now = Instant::now();
                    tokio::time::sleep(filler.traffic.rest_from_fetching(now - begun, now)).await;
                    outcome.map_err(|error| {
                        tracing::warn!(%error, chunk = %piece.chunk, "not fetched");
                        piece
                    })
                });
            }
            // While clients are served there is one at a time; when they stop, there may be more, whatever that one does.
            let ended = if waiting.len() > 0 && running.len() < PARALLEL {
                match tokio::time::timeout(RECENT, running.join_next()).await {
                    Ok(ended) => ended,
                    Err(_) => continue,
                }
            } else {
                running.join_next().await
            };
            match ended {
                Some(Ok(Ok(receipt))) => receipts.push(receipt),
                Some(Ok(Err(piece))) => missed.push(piece),
                // Which piece that was is not known any more, so nothing of this pass is vouched for.
                Some(Err(error)) => return Err(RpcError::internal(error)),
                None => return Ok((receipts, missed)),
            }
        }
    }
}

fn committed(receipt: &SignedReceipt) -> FeedItem {
    let chunk = PoolChunk { pool: receipt.receipt.pool, chunk: receipt.receipt.chunk };
    FeedItem::Committed { chunk, upload: receipt.receipt.upload }
}

/// Tells the metadata nodes about pieces that turned out bad; they become tickets, and are filled.
pub(crate) async fn report_bad(metadata: Arc<Members>, mut bad: mpsc::Receiver<BadPiece>) {
    while let Some((disk, pool, chunk)) = bad.recv().await {
        let Some(disk) = disk.id() else { continue };
        let request = Request::ReportBad { disk, chunks: vec![(pool, chunk)] };
        if let Err(error) = metadata.call(&request).await {
            tracing::warn!(%error, %chunk, "a bad piece could not be reported; its next reader will");
        }
    }
}
