//! The map of the cluster: pools, their rows, disks and nodes. Small (a few thousand rows for any
//! number of chunks), versioned by the Raft index of its last change, and cached by everyone.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::identity::Revocation;
use crate::ids::{ChunkId, DiskId, Incarnation, PoolId};
use crate::names::{NodeName, PoolName, ZoneName};
use crate::pg::{PgId, PgKey, PgRow};
use crate::pool::Pool;

/// A cluster's identity, drawn once by `wmall cluster init` and written into every certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::ids::to_hex(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// A metadata node, as configurations name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataAddress {
    /// Its name.
    pub name: NodeName,
    /// Where it listens.
    pub address: SocketAddr,
}

/// A disk, as it registered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Its number.
    pub id: DiskId,
    /// The node it is in.
    pub node: NodeName,
    /// Its name on that node.
    pub name: String,
    /// Its share of the placement, relative to the others; 0 takes nothing new.
    pub weight: u32,
    /// The most bytes it may use.
    pub max_bytes: u64,
    /// Its present life.
    pub incarnation: Incarnation,
    /// ed25519 key that its receipts verify under.
    pub public_key: [u8; 32],
    /// Its share as the node's configuration had it last: an operator's layout holds until that changes.
    pub configured_weight: u32,
    /// An operator wants it empty: its slots move elsewhere, and it gets none.
    pub draining: bool,
    /// For now nothing of that begins.
    pub drain_paused: bool,
    /// Where its slots should go, if an operator said so.
    pub successor: Option<DiskId>,
    /// Since when it is in quarantine, in milliseconds since the Unix epoch: it failed challenges, and what it says it
    /// holds does not count.
    pub quarantined_ms: Option<u64>,
    /// When it was found to be down, in milliseconds since the Unix epoch; none while it answers.
    pub down_since_ms: Option<u64>,
}

/// A data node, as it registered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeName,
    /// Its failure domain.
    pub zone: ZoneName,
    /// Where it listens.
    pub address: SocketAddr,
    /// Until when its silence is expected, in milliseconds since the Unix epoch.
    pub maintenance_until_ms: Option<u64>,
}

/// The rows of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PoolTable {
    /// The pool.
    pub pool: Pool,
    /// One row a group, by number.
    pub rows: Vec<PgRow>,
}

/// The whole map.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Topology {
    /// Raft index of the last change to it.
    pub version: u64,
    /// Pools with their rows.
    pub pools: BTreeMap<PoolId, PoolTable>,
    /// Disks.
    pub disks: BTreeMap<DiskId, DiskInfo>,
    /// Data nodes.
    pub nodes: BTreeMap<NodeName, NodeInfo>,
    /// Certificates that are refused, in the order of their holders.
    pub revoked: Vec<Revocation>,
}

/// What changed in a map since a version of it: rows one by one, for these change often, and the rest as it is now if
/// anything of it did.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MapChanges {
    /// The version that it has to be made to.
    pub base: u64,
    /// The version that comes of it.
    pub version: u64,
    /// The rows that changed, as they are now, in the order of their groups.
    pub rows: Vec<(PgKey, PgRow)>,
    /// Disks, nodes and revocations.
    pub rest: Option<MapRest>,
}

/// The map without its pools.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MapRest {
    /// Disks.
    pub disks: BTreeMap<DiskId, DiskInfo>,
    /// Data nodes.
    pub nodes: BTreeMap<NodeName, NodeInfo>,
    /// Certificates that are refused, in the order of their holders.
    pub revoked: Vec<Revocation>,
}

impl Topology {
    /// Makes changes to the version that they are for. False, and nothing changed, if they are for another one or for rows
    /// that this map does not have.
    pub fn change(&mut self, changes: MapChanges) -> bool {
        let has = |(pool, pg): &PgKey| self.pools.get(pool).is_some_and(|t| t.rows.len() > pg.0 as usize);
        if changes.base != self.version || !changes.rows.iter().all(|(group, _)| has(group)) {
            return false;
        }
        for ((pool, pg), row) in changes.rows {
            let table = self.pools.get_mut(&pool);
            if let Some(there) = table.and_then(|t| t.rows.get_mut(pg.0 as usize)) {
                *there = row;
            }
        }
        if let Some(MapRest { disks, nodes, revoked }) = changes.rest {
            (self.disks, self.nodes, self.revoked) = (disks, nodes, revoked);
        }
        self.version = changes.version;
        true
    }

    /// An empty map.
    pub fn empty() -> Self {
        Self {
            version: 0,
            pools: BTreeMap::new(),
            disks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            revoked: Vec::new(),
        }
    }

    /// A pool by name.
    pub fn pool_named(&self, name: &PoolName) -> Option<&Pool> {
        self.pools.values().map(|t| &t.pool).find(|p| &p.name == name)
    }

    /// The group and row of a chunk.
    pub fn row_of(&self, pool: PoolId, chunk: &ChunkId) -> Option<(PgKey, &PgRow)> {
        let table = self.pools.get(&pool)?;
        let pg = PgId::of(chunk, table.pool.pg_bits);
        Some(((pool, pg), table.rows.get(pg.0 as usize)?))
    }

    /// The disks of a place.
    pub fn disks_at(&self, place: &crate::job::Place) -> Vec<&DiskInfo> {
        let of_node = self.disks.values().filter(|d| d.node == place.node);
        of_node.filter(|d| place.disk.as_ref().is_none_or(|name| d.name == name.as_str())).collect()
    }

    /// The node of a disk.
    pub fn node_of(&self, disk: DiskId) -> Option<&NodeInfo> {
        self.nodes.get(&self.disks.get(&disk)?.node)
    }

    /// Distinct zones that have a disk with weight.
    pub fn zone_count(&self) -> usize {
        let mut zones: Vec<&ZoneName> = self
            .disks
            .values()
            .filter(|d| d.weight > 0)
            .filter_map(|d| Some(&self.nodes.get(&d.node)?.zone))
            .collect();
        zones.sort();
        zones.dedup();
        zones.len()
    }
}
