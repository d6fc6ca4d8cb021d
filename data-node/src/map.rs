//! The node's copy of the cluster's map, and who is silent. Written by the control loop, read by every put.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use wmall_proto::capacity::CapacityLevel;
use wmall_proto::rpc::TopologyReply;
use wmall_proto::topology::{EncodedMap, MapChanges, NodeInfo};
use wmall_proto::{DiskId, ErrorCode, NodeName, PgRow, PoolId, Role, RpcError, Topology};
use wmall_transport::Target;

/// What is known now.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) topology: Arc<Topology>,
    pub(crate) suspects: Arc<HashSet<NodeName>>,
    /// The map for those who ask for it, encoded for the first of them.
    encoded: Arc<OnceLock<EncodedMap>>,
}

/// The copy.
pub(crate) struct Map {
    known: RwLock<Known>,
    /// What is known may be of another life of the metadata: from before a start, or a restore. Then the next
    /// map that comes counts, whatever its version.
    doubted: AtomicBool,
    /// How full the cluster is, by the last heartbeat's answer.
    level: Mutex<CapacityLevel>,
    /// The cluster's clock as it was heard last, and when.
    time: Mutex<Option<(u64, Instant)>>,
}

impl Map {
    /// Begins with what is known from before.
    pub(crate) fn new(topology: Topology) -> Self {
        let known = Known { topology: Arc::new(topology), suspects: Arc::default(), encoded: Arc::default() };
        let (known, level) = (RwLock::new(known), Mutex::new(CapacityLevel::Safe));
        Self { known, doubted: AtomicBool::new(true), level, time: Mutex::default() }
    }

    /// The version to ask with: none, if what is known is doubted.
    pub(crate) fn version(&self) -> u64 {
        if self.doubted.load(Ordering::Acquire) { 0 } else { self.get().topology.version }
    }

    /// The cluster's clock, in milliseconds since the Unix epoch: moved on from where it was heard last, and
    /// this node's own before it was heard at all.
    pub(crate) fn now_ms(&self) -> u64 {
        let time = *self.time.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = |(ms, at): (u64, Instant)| ms.saturating_add(at.elapsed().as_millis() as u64);
        time.map_or_else(wmall_runtime::clock::now_ms, moved)
    }

    pub(crate) fn set_time(&self, now_ms: u64) {
        // A cluster that has just begun has no clock yet.
        let heard = (now_ms > 0).then(|| (now_ms, Instant::now()));
        *self.time.lock().unwrap_or_else(PoisonError::into_inner) = heard;
    }

    pub(crate) fn set_level(&self, level: CapacityLevel) {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = level;
    }

    /// Refuses a writer that has to wait until there is room. What other data nodes bring is part of a put
    /// that was taken, or a repair.
    pub(crate) fn check_level(&self, from: Role) -> Result<(), RpcError> {
        let level = *self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let stop = match from {
            Role::Data => return Ok(()),
            Role::Validator => CapacityLevel::LedgerStopped,
            _ => CapacityLevel::WritesStopped,
        };
        if level < stop {
            return Ok(());
        }
        let reason = format!("the cluster is too full for writes of a {from}");
        Err(RpcError::new(ErrorCode::ClusterFull, reason)
            .hint("`wmall capacity` shows how full it is; delete something, or add disks or nodes"))
    }

    /// The metadata began another life.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    pub(crate) fn get(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn update(&self, reply: TopologyReply) -> Result<(), RpcError> {
        let topology = reply.topology.map(|map| map.decode()).transpose().map_err(RpcError::internal)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(topology) = topology
            && (topology.version > known.topology.version || self.doubted.load(Ordering::Acquire))
        {
            self.doubted.store(false, Ordering::Release);
            (known.topology, known.encoded) = (Arc::new(topology), Arc::default());
        }
        if let Some(suspects) = reply.suspects {
            known.suspects = Arc::new(suspects.into_iter().collect());
        }
        Ok(())
    }

    /// Makes changes to what is known. Those for another version were overtaken: the next heartbeat names the
    /// one that is here. If they are for this one and do not fit, it asks for the whole map.
    pub(crate) fn change(&self, changes: MapChanges) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if self.doubted.load(Ordering::Acquire) || changes.base != known.topology.version {
            return;
        }
        known.encoded = Arc::default();
        if !Arc::make_mut(&mut known.topology).change(changes) {
            self.doubted.store(true, Ordering::Release);
        }
    }
}

impl Known {
    /// The map as it travels.
    pub(crate) fn encoded(&self) -> EncodedMap {
        self.encoded.get_or_init(|| EncodedMap::of(&self.topology)).clone()
    }

    /// The row of a chunk, if the caller placed it by the same version.
    pub(crate) fn row(
        &self,
        pool: PoolId,
        chunk: &wmall_proto::ChunkId,
        version: u64,
    ) -> Result<&PgRow, RpcError> {
        let unknown = || RpcError::not_found(format!("pool number {} in this node's map", pool.0));
        let (_, row) = self.topology.row_of(pool, chunk).ok_or_else(unknown)?;
        if row.version != version {
            let reason = format!("the row is at version {}, not {version}", row.version);
            return Err(RpcError::new(ErrorCode::StaleRow, reason).hint("read the map again"));
        }
        Ok(row)
    }

    /// The node of a disk, unless it is silent.
    pub(crate) fn target(&self, disk: DiskId) -> Result<Target, RpcError> {
        let unknown = || RpcError::not_found(format!("{disk} in this node's map"));
        let node: &NodeInfo = self.topology.node_of(disk).ok_or_else(unknown)?;
        if self.suspects.contains(&node.name) {
            let reason = format!("{} has been silent", node.name);
            return Err(RpcError::new(ErrorCode::Unreachable, reason));
        }
        Ok(Target { role: Role::Data, node: node.name.clone(), address: node.address })
    }
}
