//! Keeps the node registered and heard of: a heartbeat a second to the metadata leader, whose answer brings
//! the map, who is silent, the feed of commits, and which disks have work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use wmall_proto::feed::{CommittedChunk, FeedPage};
use wmall_proto::rpc::{
    DiskHeartbeat, DiskRegistration, Heartbeat, HeartbeatReply, Registration, Request, Response,
};
use wmall_proto::{DiskId, ErrorCode, RpcError};
use wmall_runtime::Shutdown;
use wmall_transport::Members;

use crate::config::RawConfig;
use crate::disk::DiskStore;
use crate::map::Map;

/// Between heartbeats.
const BEAT: Duration = Duration::from_secs(1);
/// Between tries when no metadata node takes them.
const RETRY: Duration = Duration::from_millis(300);
/// Staged pieces that are asked about at once.
const CHECK_PAGE: usize = 4096;

/// The control loop.
pub(crate) struct Control {
    config: RawConfig,
    metadata: Arc<Members>,
    disks: Arc<Vec<Arc<DiskStore>>>,
    map: Arc<Map>,
    feed: u64,
    work: watch::Sender<Vec<DiskId>>,
    ready: Arc<AtomicBool>,
}

impl Control {
    pub(crate) fn new(
        config: RawConfig,
        metadata: Arc<Members>,
        disks: Arc<Vec<Arc<DiskStore>>>,
        map: Arc<Map>,
        work: watch::Sender<Vec<DiskId>>,
        ready: Arc<AtomicBool>,
    ) -> Self {
        // The disk that has read least decides where the feed goes on.
        let feed = disks.iter().map(|d| d.feed().unwrap_or(0)).min().unwrap_or(0);
        Self { config, metadata, disks, map, feed, work, ready }
    }

    /// Runs until a stop is asked for.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut registered = false;
        while !shutdown.is_requested() {
            let step = if registered { self.beat().await } else { self.register().await.map(|()| false) };
            let wait = match step {
                Ok(true) => Duration::ZERO,
                Ok(false) if registered => BEAT,
                Ok(false) => {
                    registered = true;
                    Duration::ZERO
                }
                Err(error) => {
                    if error.code == ErrorCode::NotFound {
                        registered = false;
                    }
                    tracing::warn!(%error, "the metadata nodes do not take the heartbeat");
                    RETRY
                }
            };
            self.ready.store(registered && wait != RETRY, Ordering::Release);
            shutdown.or(tokio::time::sleep(wait)).await;
        }
    }

    async fn register(&mut self) -> Result<(), RpcError> {
        let disk = |d: &Arc<DiskStore>| DiskRegistration {
            name: d.config.name.clone(),
            weight: d.config.weight,
            max_bytes: d.config.max_bytes,
            incarnation: d.superblock.incarnation,
            public_key: ed25519_zebra::VerificationKey::from(&d.superblock.key).into(),
        };
        let registration = Registration {
            node: self.config.name.clone(),
            zone: self.config.zone.clone(),
            address: self.config.listen,
            disks: self.disks.iter().map(disk).collect(),
        };
        match self.metadata.call(&Request::Register(registration)).await? {
            Response::Registered(ids) if ids.len() == self.disks.len() => {
                for (disk, id) in self.disks.iter().zip(ids) {
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
        let disk = |d: &Arc<DiskStore>| {
            let usage = d.usage();
            Some(DiskHeartbeat {
                disk: d.id()?,
                incarnation: d.superblock.incarnation,
                used_bytes: usage.bytes,
                pieces: usage.pieces,
                writable: usage.writable,
            })
        };
        let heartbeat = Heartbeat {
            node: self.config.name.clone(),
            disks: self.disks.iter().filter_map(disk).collect(),
            topology: self.map.get().topology.version,
            feed: self.feed,
        };
        let Response::Heartbeat(HeartbeatReply { topology, feed, work }) =
            self.metadata.call(&Request::Heartbeat(heartbeat)).await?
        else {
            return Err(RpcError::internal("the heartbeat got another answer"));
        };
        self.map.update(topology);
        self.work.send_replace(work);
        match feed {
            FeedPage::Items { position, items, more } => {
                self.follow(items, position);
                Ok(more)
            }
            FeedPage::Behind { position } => {
                self.catch_up().await?;
                self.follow(Vec::new(), position);
                Ok(true)
            }
        }
    }

    fn follow(&mut self, items: Vec<CommittedChunk>, position: u64) {
        if items.is_empty() && position == self.feed {
            return;
        }
        for disk in self.disks.iter() {
            disk.committed(items.clone(), Some(position));
        }
        self.feed = position;
    }

    /// The place in the feed was lost: asks about every staged piece. What is committed after the asking
    /// comes by the feed.
    async fn catch_up(&self) -> Result<(), RpcError> {
        for disk in self.disks.iter() {
            let mut after = None;
            loop {
                let page = disk.staged(after, CHECK_PAGE).map_err(RpcError::internal)?;
                let Some(&last) = page.last() else { break };
                after = Some(last);
                let ask = page.into_iter().map(|(pool, chunk)| CommittedChunk { pool, chunk }).collect();
                match self.metadata.call(&Request::CheckCommitted(ask)).await? {
                    Response::CommittedOf(chunks) => disk.committed(chunks, None),
                    _ => return Err(RpcError::internal("the question got another answer")),
                }
            }
        }
        Ok(())
    }
}
