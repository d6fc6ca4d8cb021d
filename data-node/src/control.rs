//! Keeps the node registered and heard of: a heartbeat a second to the metadata leader, and more often while
//! a disk is filled, whose answer brings the map, who is silent, the feed of commits, and which disks have
//! work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use wmall_proto::clock::UPLOAD_SKEW_MS;
use wmall_proto::feed::{FeedItem, FeedPage, PoolChunk};
use wmall_proto::rpc::{
    DiskHeartbeat, DiskRegistration, Heartbeat, HeartbeatReply, RegisteredDisk, Registration, Request,
    Response,
};
use wmall_proto::{DiskId, ErrorCode, RpcError};
use wmall_runtime::Shutdown;
use wmall_runtime::clock::now_ms;
use wmall_transport::{Endpoint, Members};

use crate::capacity;
use crate::config::RawConfig;
use crate::disk::{DiskStore, KEPT_FREE, Superblock, Usage};
use crate::gauge::Gauge;
use crate::map::Map;
use crate::traffic::Traffic;
use crate::{gauge, kept_map};

/// Between heartbeats.
const BEAT: Duration = Duration::from_secs(1);
/// While pieces are fetched: what comes next should not have to be waited for. Only with a map of so few
/// rows, all of which the leader looks through for each heartbeat.
const BUSY_BEAT: Duration = Duration::from_millis(250);
const BUSY_ROWS: usize = 16_384;
/// Between tries when no metadata node takes them.
const RETRY: Duration = Duration::from_millis(300);
/// The same when they will have nothing to do with this node: only an operator can change that.
const DENIED_RETRY: Duration = Duration::from_secs(5);
/// The map changes often while disks are filled; a copy that is a little behind will do.
const KEEP_EVERY: Duration = Duration::from_secs(3);
/// Pieces that are asked about at once.
const CHECK_PAGE: usize = 4096;
/// Between looks at the pieces that are staged: what a restart has brought back is found so.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Rotten pieces that are reported at once.
const REPORT_PAGE: usize = 1024;

/// An epoch that the metadata never have.
const NOWHERE: u64 = u64::MAX - 1;

/// A walk over the pieces, a page a heartbeat.
struct Walk {
    /// All pieces, or the staged ones only.
    all: bool,
    disk: usize,
    after: Option<PoolChunk>,
    /// Where, and in which life of the metadata, the feed goes on once it has ended.
    then: Option<(u64, u64)>,
}

/// The control loop.
pub(crate) struct Control {
    config: RawConfig,
    endpoint: Endpoint,
    metadata: Arc<Members>,
    disks: Arc<Vec<Arc<DiskStore>>>,
    map: Arc<Map>,
    traffic: Arc<Traffic>,
    feed: u64,
    feed_epoch: u64,
    /// Between an upload's begin and its fence, as the metadata nodes say.
    upload_grace_ms: u64,
    walk: Option<Walk>,
    /// Whether the staged pieces are to be looked through, and when they were last.
    sweep: bool,
    swept: Instant,
    /// Tells this process from another of its name.
    process: [u8; 16],
    /// The life of the metadata that answered last.
    life: Option<u64>,
    /// Version of the map that was kept last, and when.
    kept: (u64, Instant),
    keeping: Option<JoinHandle<()>>,
    /// What is known of each disk's file system.
    gauges: Vec<Gauge>,
    work: watch::Sender<Vec<DiskId>>,
    ready: Arc<AtomicBool>,
}

/// Where the feed goes on after a start. Items must not be told twice, nor an index that was built anew be
/// told of all history: what was deleted once may be there again. So disks that differ, or one without a
/// place, begin with a walk over what they hold.
fn start_of(places: &[Option<(u64, u64)>]) -> (u64, u64) {
    let first = places.first().copied().flatten();
    first.filter(|_| places.iter().all(|p| *p == first)).unwrap_or((0, NOWHERE))
}

/// A fence that is later than this node's own clock bears out is taken as far as that goes. The rest of it
/// comes with a later sweep, when the clocks agree.
fn bounded_fence(before_ms: u64, upload_grace_ms: u64, now_ms: u64) -> u64 {
    let latest = now_ms.saturating_add(UPLOAD_SKEW_MS).saturating_sub(upload_grace_ms);
    if before_ms > latest {
        tracing::error!(before_ms, latest, "a fence is later than this node's clock; it is taken in part");
    }
    before_ms.min(latest)
}

impl Control {
    pub(crate) fn new(
        config: RawConfig,
        endpoint: Endpoint,
        metadata: Arc<Members>,
        disks: Arc<Vec<Arc<DiskStore>>>,
        (map, traffic): (Arc<Map>, Arc<Traffic>),
        work: watch::Sender<Vec<DiskId>>,
        ready: Arc<AtomicBool>,
    ) -> Self {
        let places: Vec<_> = disks.iter().map(|d| d.feed().ok().flatten()).collect();
        let (feed, feed_epoch) = start_of(&places);
        disks.iter().for_each(|d| d.set_walking(feed_epoch == NOWHERE));
        let (walk, start) = (None, map.get().topology.version);
        let gauges = disks.iter().map(|_| Gauge::default()).collect();
        Self {
            config,
            endpoint,
            metadata,
            disks,
            map,
            traffic,
            feed,
            feed_epoch,
            upload_grace_ms: 0,
            walk,
            // With the first heartbeat.
            sweep: true,
            swept: Instant::now(),
            process: wmall_runtime::random::bytes(),
            life: None,
            // The version that the node began with is one that it has kept.
            kept: (start, Instant::now()),
            keeping: None,
            gauges,
            work,
            ready,
        }
    }

    /// Runs until a stop is asked for. Returns the reason if another process goes by this node's name now.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Option<RpcError> {
        let mut registered = false;
        while !shutdown.is_requested() {
            let step = if registered { self.beat().await } else { self.register().await.map(|()| false) };
            self.ready.store(step.is_ok(), Ordering::Release);
            let wait = match step {
                Ok(true) => Duration::ZERO,
                Ok(false) if registered => self.pause(),
                Ok(false) => {
                    registered = true;
                    Duration::ZERO
                }
                Err(error) => {
                    if error.code == ErrorCode::NotFound {
                        registered = false;
                    }
                    tracing::warn!(%error, "the metadata nodes do not take the heartbeat");
                    match error.code {
                        ErrorCode::Unsafe => return Some(error),
                        ErrorCode::Denied | ErrorCode::AlreadyExists => DENIED_RETRY,
                        _ => RETRY,
                    }
                }
            };
            shutdown.or(tokio::time::sleep(wait)).await;
        }
        None
    }

    /// Until the next heartbeat.
    fn pause(&self) -> Duration {
        let rows: usize = self.map.get().topology.pools.values().map(|table| table.rows.len()).sum();
        if self.traffic.is_filling(Instant::now()) && rows <= BUSY_ROWS { BUSY_BEAT } else { BEAT }
    }

    async fn register(&mut self) -> Result<(), RpcError> {
        let disk = |d: &Arc<DiskStore>| DiskRegistration {
            name: d.config.name.clone(),
            weight: d.config.weight,
            max_bytes: d.config.max_bytes,
            incarnation: d.superblock.incarnation,
            public_key: ed25519_zebra::VerificationKey::from(&d.superblock.key).into(),
            starts: d.starts(),
            end: d.usage().end,
        };
        let registration = Registration {
            node: self.config.name.clone(),
            zone: self.config.zone.clone(),
            address: self.config.address(),
            process: self.process,
            disks: self.disks.iter().map(disk).collect(),
        };
        match self.metadata.call(&Request::Register(registration)).await? {
            Response::Registered(registered) if registered.len() == self.disks.len() => {
                for (disk, RegisteredDisk { id, starts }) in self.disks.iter().zip(registered) {
                    let store = disk.clone();
                    let raised = tokio::task::spawn_blocking(move || store.raise_starts(starts)).await;
                    raised.map_err(RpcError::internal)?.map_err(RpcError::internal)?;
                    disk.set_id(id);
                }
                tracing::info!(node = %self.config.name, "registered");
                Ok(())
            }
            _ => Err(RpcError::internal("the registration got another answer")),
        }
    }

    /// One heartbeat. True if there is more of the feed already.
    async fn beat(&mut self) -> Result<bool, RpcError> {
        let usages: Vec<Usage> = self.disks.iter().map(|d| d.usage()).collect();
        let capacities = self.capacities(&usages).await;
        let disk = |((d, usage), capacity_bytes): ((&Arc<DiskStore>, &Usage), u64)| {
            Some(DiskHeartbeat {
                disk: d.id()?,
                incarnation: d.superblock.incarnation,
                used_bytes: usage.bytes,
                segment_bytes: usage.segment_bytes,
                dead_bytes: usage.dead_bytes,
                reserved_bytes: usage.reserved_bytes,
                capacity_bytes,
                pieces: usage.pieces,
                end: usage.end,
                writable: !usage.failed && !usage.full,
                failed: usage.failed,
                fenced_before_ms: d.fenced_before_ms(),
                sync_ms: usage.slow_sync.as_millis() as u64,
            })
        };
        let disks: Vec<DiskHeartbeat> =
            self.disks.iter().zip(&usages).zip(capacities).filter_map(disk).collect();
        #[cfg(feature = "testing")]
        let disks = crate::lies::heartbeats(disks);
        let heartbeat = Heartbeat {
            node: self.config.name.clone(),
            process: self.process,
            now_ms: now_ms(),
            disks,
            topology: self.map.version(),
            topology_epoch: self.life.unwrap_or(NOWHERE),
            feed: self.feed,
            feed_epoch: self.feed_epoch,
        };
        let Response::Heartbeat(reply) = self.metadata.call(&Request::Heartbeat(heartbeat)).await? else {
            return Err(RpcError::internal("the heartbeat got another answer"));
        };
        let HeartbeatReply { topology, changes, feed, feed_epoch, work, level, upload_grace_ms } = reply;
        self.map.set_level(level);
        self.map.set_time(topology.now_ms);
        self.upload_grace_ms = upload_grace_ms;
        if self.life.replace(feed_epoch).is_some_and(|life| life != feed_epoch) {
            // This answer's map was held against a version of the former life.
            self.map.doubt();
        } else {
            self.map.update(topology)?;
            changes.into_iter().for_each(|changes| self.map.change(changes));
        }
        self.endpoint.set_revoked(&self.map.get().topology.revoked);
        self.keep_map();
        self.report_rotten().await?;
        self.sweep |= self.swept.elapsed() >= SWEEP_EVERY;
        if self.walk.is_none() && std::mem::take(&mut self.sweep) {
            self.walk = Some(Walk { all: false, disk: 0, after: None, then: None });
            self.swept = Instant::now();
        }
        let more = match feed {
            FeedPage::Items { position, mut items, more } => {
                items.iter_mut().for_each(|item| {
                    if let FeedItem::Fenced { before_ms } = item {
                        *before_ms = self.bounded_fence(*before_ms);
                    }
                });
                // Whether a piece that no promise holds any more is committed, the metadata nodes know.
                self.sweep |= items.iter().any(|item| matches!(item, FeedItem::Fenced { .. }));
                self.follow(items, position, feed_epoch);
                more
            }
            FeedPage::Behind { position } => {
                // What happens after `position` comes by the feed, so that is where it goes on.
                let then = (position, feed_epoch);
                if self.walk.as_ref().and_then(|w| w.then).is_none_or(|t| t.1 != feed_epoch) {
                    self.walk = Some(Walk { all: true, disk: 0, after: None, then: Some(then) });
                    self.disks.iter().for_each(|d| d.set_walking(true));
                }
                false
            }
        };
        let walking = self.walk_on().await?;
        // Last, so that nobody fills what the feed has yet to take away.
        self.work.send_replace(work);
        Ok(more || walking)
    }

    /// The most bytes that each disk can have, by what is known of its file system.
    async fn capacities(&mut self, usages: &[Usage]) -> Vec<u64> {
        gauge::measure(&mut self.gauges, &self.disks).await;
        let of = |((disk, usage), gauge): ((&Arc<DiskStore>, &Usage), &Gauge)| {
            gauge.known().measured(disk.config.max_bytes, usage.segment_bytes)
        };
        let measured: Vec<_> = self.disks.iter().zip(usages).zip(&self.gauges).map(of).collect();
        capacity::capacities(&measured, KEPT_FREE)
    }

    /// Keeps a copy of the map beside each disk's data, when there is a newer one, and none in a folder
    /// without a disk: that may be a mount point. A slow disk must not hold up the heartbeat, so nobody waits
    /// for it.
    fn keep_map(&mut self) {
        let map = self.map.get().topology;
        let idle = self.keeping.as_ref().is_none_or(JoinHandle::is_finished);
        if !idle || map.version == self.kept.0 || self.kept.1.elapsed() < KEEP_EVERY {
            return;
        }
        self.kept = (map.version, Instant::now());
        let cluster = self.endpoint.cluster();
        let disks: Vec<_> = self.config.disks.iter().map(|d| (d.name.clone(), d.path.clone())).collect();
        self.keeping = Some(tokio::task::spawn_blocking(move || {
            for (name, folder) in disks.into_iter().filter(|(_, folder)| Superblock::exists(folder)) {
                if let Err(error) = kept_map::save(&folder, cluster, &map) {
                    tracing::warn!(%error, disk = %name, "the copy of the map could not be written");
                }
            }
        }));
    }

    fn bounded_fence(&self, before_ms: u64) -> u64 {
        bounded_fence(before_ms, self.upload_grace_ms, now_ms())
    }

    fn follow(&mut self, items: Vec<FeedItem>, position: u64, epoch: u64) {
        if items.is_empty() && (position, epoch) == (self.feed, self.feed_epoch) {
            return;
        }
        for disk in self.disks.iter() {
            disk.follow(items.clone(), Some((position, epoch)));
        }
        (self.feed, self.feed_epoch) = (position, epoch);
    }

    /// Asks about a page of pieces. True if there are more. The heartbeats go on between the pages.
    async fn walk_on(&mut self) -> Result<bool, RpcError> {
        let Some(walk) = &mut self.walk else { return Ok(false) };
        let Some(disk) = self.disks.get(walk.disk) else {
            let then = walk.then;
            self.walk = None;
            if let Some((position, epoch)) = then {
                self.follow(Vec::new(), position, epoch);
                self.disks.iter().for_each(|d| d.set_walking(false));
            }
            return Ok(false);
        };
        let after = walk.after.as_ref();
        let page = if walk.all { disk.pieces(after, CHECK_PAGE) } else { disk.staged(after, CHECK_PAGE) };
        let page = page.map_err(RpcError::internal)?;
        match page.last() {
            Some(&last) => walk.after = Some(last),
            None => (walk.disk, walk.after) = (walk.disk + 1, None),
        }
        if !page.is_empty() {
            let Some(id) = disk.id() else { return Ok(false) };
            let ask = Request::CheckCommitted { disk: id, chunks: page.clone() };
            match self.metadata.call(&ask).await? {
                Response::PiecesKnown(mut known) => {
                    known.fenced_before_ms =
                        bounded_fence(known.fenced_before_ms, self.upload_grace_ms, now_ms());
                    disk.reconcile(page, known);
                }
                _ => return Err(RpcError::internal("the question got another answer")),
            }
        }
        Ok(true)
    }

    /// Pieces that were found rotten or absent become tickets; a disk that can't tell what it has lost
    /// becomes dirty.
    async fn report_rotten(&self) -> Result<(), RpcError> {
        for disk in self.disks.iter() {
            let Some(id) = disk.id() else { continue };
            if disk.lost() && !disk.usage().failed {
                self.metadata.call(&Request::ReportLoss { disk: id }).await?;
                disk.loss_reported();
            }
            let (rotten, doubted) = (disk.take_rotten(REPORT_PAGE), disk.take_doubted(REPORT_PAGE));
            let asked = disk.take_asked();
            if !(rotten.is_empty() && asked.is_empty() && doubted.is_empty()) {
                let chunks = rotten.iter().chain(&asked).map(|k| (k.pool, k.chunk)).collect();
                let report = Request::ReportBad { disk: id, chunks, doubted: doubted.clone() };
                let told = self.metadata.call(&report).await;
                // Claims of callers are not kept: they ask again.
                told.inspect_err(|_| disk.report_later(rotten, doubted))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_goes_no_further_than_this_node_s_clock_bears_out() {
        const DAY: u64 = 86_400_000;
        let now = 1000 * DAY;
        assert_eq!(bounded_fence(999 * DAY, DAY, now), 999 * DAY);
        assert_eq!(bounded_fence(1400 * DAY, DAY, now), 999 * DAY + UPLOAD_SKEW_MS);
        assert_eq!(bounded_fence(7, DAY, 0), 0, "without a clock nothing is fenced");
    }

    #[test]
    fn the_feed_goes_on_only_where_all_disks_stand_at_one_place() {
        assert_eq!(start_of(&[Some((7, 3)), Some((7, 3))]), (7, 3));
        for places in [vec![Some((7, 3)), Some((6, 3))], vec![Some((7, 3)), None], vec![None], vec![]] {
            assert_eq!(start_of(&places), (0, NOWHERE), "{places:?}");
        }
        assert_eq!(start_of(&[Some((7, 3)), Some((7, 4))]), (0, NOWHERE), "another life of the metadata");
    }
}
