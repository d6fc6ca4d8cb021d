//! Fetches what this node's disks should hold and do not: tickets, and the chunks of dirty groups.
//!
//! A task for each disk, at most [`PARALLEL`] fetches at once for each (`turns.rs` bounds all); one in all,
//! in small steps, while clients are served (`traffic.rs`). Each piece is hashed before it is written, and
//! the ticket is closed by a receipt, never by the end of a job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wmall_proto::chunk::MissingPiece;
use wmall_proto::feed::{FeedItem, PoolChunk};
use wmall_proto::ids::IdPage;
use wmall_proto::pg::PgKey;
use wmall_proto::receipt::SignedReceipt;
use wmall_proto::rpc::{Request, Response};
use wmall_proto::{ChunkId, DiskId, ErrorCode, PoolId, RpcError};
use wmall_runtime::Shutdown;
use wmall_transport::{Endpoint, Members};

use crate::disk::DiskStore;
use crate::left_out::LeftOut;
use crate::map::Map;
use crate::service::BadPiece;
use crate::traffic::{RECENT, Traffic};
use crate::turns::{Turns, places};

/// Fetches under way for a disk, in the places that their chunks take.
const PARALLEL: usize = 4;
/// So many pieces of a group that can't be had are set aside; more of them mean that others do not answer,
/// and will.
const FEW: usize = 8;
/// How long the feed may take to reach a listing; it comes with each heartbeat.
const ABREAST: Duration = Duration::from_secs(5);
/// Between looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// Between passes that came to nothing at all, as without a leader; growing up to the second number.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What came of filling some groups.
#[derive(Default)]
struct Filled {
    groups: Vec<PgKey>,
    /// Those of them that are not complete.
    missed: BTreeSet<PgKey>,
    /// Those of which something was fetched.
    got: BTreeSet<PgKey>,
}

/// The filler.
#[derive(Clone)]
pub(crate) struct Filler {
    pub(crate) endpoint: Endpoint,
    pub(crate) metadata: Arc<Members>,
    pub(crate) disks: Arc<Vec<Arc<DiskStore>>>,
    pub(crate) map: Arc<Map>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) turns: Turns,
}

/// Pieces of a group that could not be had.
#[derive(Default)]
struct Failed {
    pieces: Vec<MissingPiece>,
    /// Of some of them because the row has changed: they may be nobody's to have here.
    moved: bool,
}

impl Filler {
    /// Works on each disk whenever the heartbeat says that there is work for it.
    pub(crate) async fn run(self, work: watch::Receiver<Vec<DiskId>>, shutdown: Shutdown) {
        let mut running = JoinSet::new();
        for disk in self.disks.iter() {
            running.spawn(self.clone().keep_filled(disk.clone(), work.clone(), shutdown.clone()));
        }
        running.join_all().await;
    }

    async fn keep_filled(
        self,
        disk: Arc<DiskStore>,
        mut work: watch::Receiver<Vec<DiskId>>,
        shutdown: Shutdown,
    ) {
        let (mut pause, mut left_out) = (FIRST_PAUSE, LeftOut::default());
        while !shutdown.is_requested() {
            let is_due = disk.id().is_some_and(|id| work.borrow_and_update().contains(&id));
            let pass = async { if is_due { self.fill(&disk, &mut left_out).await } else { Ok(()) } };
            match shutdown.or(pass).await {
                Some(Ok(())) => pause = FIRST_PAUSE,
                Some(Err(error)) => {
                    tracing::warn!(%error, disk = %disk.name, "the fill did not get on");
                    shutdown.or(tokio::time::sleep(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                None => return,
            }
            // With the next heartbeat, and not after what could not be had: others may have come to be filled
            // since.
            if shutdown.or(work.changed()).await.is_none_or(|c| c.is_err()) {
                return;
            }
        }
    }

    /// One pass over what a disk misses, the most urgent groups first.
    async fn fill(&self, disk: &Arc<DiskStore>, left_out: &mut LeftOut) -> Result<(), RpcError> {
        let Some(id) = disk.id() else { return Ok(()) };
        let mut seen = BTreeSet::new();
        loop {
            left_out.hear(&self.map.get().suspects);
            let Filled { groups, missed, got } =
                self.fill_some(disk, id, left_out.now(Instant::now())).await?;
            if groups.is_empty() {
                return Ok(());
            }
            let (now, mut crowded) = (Instant::now(), false);
            for group in groups {
                let is_new = seen.insert(group);
                if got.contains(&group) || !missed.contains(&group) {
                    // Something came of it, so its pauses begin anew.
                    left_out.remove(&group);
                }
                // Left out for a while is what could not be had, and after a second time what is not done
                // with although it was.
                if missed.contains(&group) || !is_new {
                    crowded |= !left_out.add(group, now);
                }
            }
            if crowded {
                tracing::warn!(disk = %disk.name, "more groups have pieces that can't be had than are left out at once");
                tokio::time::sleep(FIRST_PAUSE).await;
                return Ok(());
            }
        }
    }

    /// The most urgent groups but these. Each is closed as soon as all of it has been listed and fetched.
    async fn fill_some(
        &self,
        disk: &Arc<DiskStore>,
        id: DiskId,
        but: Vec<PgKey>,
    ) -> Result<Filled, RpcError> {
        let (mut filled, mut after) = (Filled::default(), None);
        // Groups of which pieces could not be had keep their marks; the others need not wait for them.
        let mut failed: BTreeMap<PgKey, Failed> = BTreeMap::new();
        let mut open: Option<((u64, u64), Vec<PgKey>)> = None;
        loop {
            let groups = filled.groups.clone();
            let request = Request::ListMissing { disk: id, groups, but: but.clone(), after: after.clone() };
            let Response::Missing { pieces, next, groups, dirty, epoch, as_of } =
                self.metadata.call(&request).await?
            else {
                return Err(RpcError::internal("the listing got another answer"));
            };
            let as_of = (epoch, as_of);
            let (begun, open) = open.get_or_insert((as_of, dirty));
            filled.groups = groups;
            if !pieces.is_empty() {
                // A deletion that is still on its way would take what is vouched for now.
                if !self.wait_abreast(disk, as_of.1).await {
                    return Err(RpcError::new(ErrorCode::Timeout, "the feed is behind the listing"));
                }
                tracing::info!(disk = %disk.name, pieces = pieces.len(), "filling");
                let (got, missed) = self.fetch_page(disk, id, (pieces, as_of)).await?;
                filled.got.extend(got);
                for (piece, moved) in missed {
                    let unknown = || RpcError::internal("a listing of a pool that is not known");
                    let group = self.group_of(piece.pool, &piece.chunk).ok_or_else(unknown)?;
                    filled.missed.insert(group);
                    let failed = failed.entry(group).or_default();
                    failed.moved |= moved;
                    failed.pieces.push(piece);
                }
            }
            after = next;
            let mut done = self.take_done(open, after.as_ref());
            self.set_aside(id, &done, &mut failed).await?;
            done.retain(|group| !failed.contains_key(group));
            if !done.is_empty() {
                self.close(id, Vec::new(), done, *begun).await?;
            }
            if after.is_none() {
                return Ok(filled);
            }
        }
    }

    /// Fetches the pieces of a page and closes their tickets; returns the groups of which it has fetched
    /// some, and those pieces that can't be had, each with whether that is because the row has changed.
    async fn fetch_page(
        &self,
        disk: &Arc<DiskStore>,
        id: DiskId,
        (pieces, as_of): (Vec<MissingPiece>, (u64, u64)),
    ) -> Result<(BTreeSet<PgKey>, Vec<(MissingPiece, bool)>), RpcError> {
        let (fetched, missed) = self.fetch_all(disk, pieces).await?;
        // Where the slot has moved on meanwhile, the piece stays staged, and the next sweep asks about it.
        let known = self.map.get();
        let new = fetched.iter().filter(|(_, is_new)| *is_new).map(|(r, _)| &r.receipt);
        let got = new.filter_map(|r| self.group_of(r.pool, &r.chunk)).collect();
        let receipts: Vec<SignedReceipt> = fetched.into_iter().map(|(receipt, _)| receipt).collect();
        let ours =
            |r: &&SignedReceipt| known.row(r.receipt.pool, &r.receipt.chunk, r.receipt.row_version).is_ok();
        let committed: Vec<FeedItem> = receipts.iter().filter(ours).map(|r| committed(r, id)).collect();
        // Only committed chunks are ever listed as missing. Before the tickets go: a comparison in between
        // would miss what is there.
        disk.follow(committed, None);
        self.close(id, receipts, Vec::new(), as_of).await?;
        Ok((got, missed))
    }

    /// A group of which all but a few pieces could be had does not keep its mark for them, which would have
    /// all of it read again and again: the few become tickets, and are tried by themselves. What a change of
    /// the row stood in the way of is listed anew instead.
    async fn set_aside(
        &self,
        disk: DiskId,
        done: &[PgKey],
        failed: &mut BTreeMap<PgKey, Failed>,
    ) -> Result<(), RpcError> {
        for group in done {
            let few = |failed: &&Failed| failed.pieces.len() <= FEW && !failed.moved;
            let Some(Failed { pieces, .. }) = failed.get(group).filter(few) else { continue };
            tracing::warn!(pieces = pieces.len(), "pieces that can't be had are set aside");
            let chunks = pieces.iter().map(|p| (p.pool, p.chunk)).collect();
            self.metadata.call(&Request::ReportBad { disk, chunks, doubted: vec![] }).await?;
            failed.remove(group);
        }
        Ok(())
    }

    /// Takes out the groups that a listing which goes on here has behind it: they are listed in order.
    fn take_done(&self, open: &mut Vec<PgKey>, next: Option<&IdPage>) -> Vec<PgKey> {
        let Some(next) = next else { return std::mem::take(open) };
        let topology = self.map.get().topology;
        let listed = |&(pool, pg): &PgKey| {
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

    fn group_of(&self, pool: PoolId, chunk: &ChunkId) -> Option<PgKey> {
        self.map.get().topology.row_of(pool, chunk).map(|(group, _)| group)
    }

    async fn close(
        &self,
        disk: DiskId,
        receipts: Vec<SignedReceipt>,
        clean: Vec<PgKey>,
        (epoch, as_of): (u64, u64),
    ) -> Result<(), RpcError> {
        let request = Request::CloseTickets { disk, receipts, clean, as_of, epoch };
        self.metadata.call(&request).await.map(|_| ())
    }

    /// Fetches what can be had; returns receipts for that, each with whether the piece is new here, and what
    /// could not be had, with whether the row had changed.
    async fn fetch_all(
        &self,
        disk: &Arc<DiskStore>,
        pieces: Vec<MissingPiece>,
    ) -> Result<(Vec<(SignedReceipt, bool)>, Vec<(MissingPiece, bool)>), RpcError> {
        let (mut receipts, mut missed) = (Vec::with_capacity(pieces.len()), Vec::new());
        // Long ones count for several: one disk that hangs must not hold all turns of the node.
        let (mut running, mut under_way) = (JoinSet::new(), 0);
        let mut waiting = pieces.into_iter().peekable();
        loop {
            while running.len() < self.traffic.fetches(PARALLEL, Instant::now())
                && let Some(piece) =
                    waiting.next_if(|next| under_way == 0 || under_way + places(next.length) <= PARALLEL)
            {
                let places = places(piece.length);
                under_way += places;
                let (filler, disk) = (self.clone(), disk.clone());
                running.spawn(async move {
                    let Some(turn) = filler.turns.next(&filler.traffic, places).await else {
                        return (places, Err((piece, false)));
                    };
                    let fetched = turn.spend(filler.fetch(&disk, &piece)).await;
                    if fetched.is_ok() {
                        filler.traffic.note_fetched(Instant::now());
                    }
                    let fetched = fetched.map_err(|error| {
                        tracing::warn!(%error, chunk = %piece.chunk, "not fetched");
                        (piece, error.code == ErrorCode::StaleRow)
                    });
                    (places, fetched)
                });
            }
            // While clients are served there is one at a time; when they stop, there may be more, whatever
            // that one does.
            let ended = if waiting.peek().is_some() && running.len() < PARALLEL {
                match tokio::time::timeout(RECENT, running.join_next()).await {
                    Ok(ended) => ended,
                    Err(_) => continue,
                }
            } else {
                running.join_next().await
            };
            match ended {
                Some(Ok((places, fetched))) => {
                    under_way -= places;
                    match fetched {
                        Ok(receipt) => receipts.push(receipt),
                        Err(piece) => missed.push(piece),
                    }
                }
                // Which piece that was is not known any more, so nothing of this pass is vouched for.
                Some(Err(error)) => return Err(RpcError::internal(error)),
                None => return Ok((receipts, missed)),
            }
        }
    }
}

fn committed(receipt: &SignedReceipt, own: DiskId) -> FeedItem {
    let chunk = PoolChunk { pool: receipt.receipt.pool, chunk: receipt.receipt.chunk };
    FeedItem::Committed { chunk, counted: vec![own] }
}

/// Tells the metadata nodes about pieces that turned out bad; they become tickets, and are filled.
pub(crate) async fn report_bad(metadata: Arc<Members>, mut bad: mpsc::Receiver<BadPiece>) {
    while let Some(BadPiece { disk, key, doubted }) = bad.recv().await {
        let Some(id) = disk.id() else { continue };
        if doubted.is_none() {
            let store = disk.clone();
            let looked = tokio::task::spawn_blocking(move || store.drops_bad(&key)).await;
            if let Ok(Ok(true)) = looked {
                let chunk = key.chunk;
                tracing::error!(disk = %disk.name, %chunk, "a piece that is not committed yet is rotten; it goes");
                continue;
            }
        }
        let chunks = if doubted.is_none() { vec![(key.pool, key.chunk)] } else { vec![] };
        let request = Request::ReportBad { disk: id, chunks, doubted: doubted.into_iter().collect() };
        if let Err(error) = metadata.call(&request).await {
            tracing::warn!(%error, chunk = %key.chunk, "a bad piece could not be reported; its next reader will");
        }
    }
}
