//! The map of the cluster: pools, their rows, disks and nodes. Small (a few thousand rows for any
//! number of chunks), versioned by the Raft index of its last change, and cached by everyone.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::identity::Revocation;
use crate::ids::{ChunkId, DiskId, Incarnation, PoolId};
use crate::names::{NodeName, PoolName, ZoneName};
use crate::pg::{PgId, PgKey, PgRow};
use crate::pool::Pool;

/// Disks that a node may have, by all names that it ever registered and nobody has forgotten.
pub const MAX_DISKS_PER_NODE: usize = 64;
/// Disks that a cluster may have. Nodes have one at least, so there are no more of those.
pub const MAX_DISKS: usize = 1024;
/// Holders whose certificates may be refused at once.
pub const MAX_REVOKED: usize = 8192;
/// Slots that may be on their way at once.
pub const MAX_MOVING: usize = 16_384;
/// Bytes that the rows of all pools may take: 65,536 groups of three copies, and some more. With the most
/// disks, nodes, revocations and moving slots beside them, the map fits in one message.
pub const MAX_ROWS_BYTES: usize = 6_500_000;

/// Bytes that a row of so many slots takes of [`MAX_ROWS_BYTES`]: its size in memory, which counts while it
/// is decoded, or its encoding when all slots are dirty, as after a restore. Moving slots count apart.
pub fn row_bytes(width: usize) -> usize {
    size_of::<PgRow>().max(32 + 21 * width)
}

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
    /// True if that share is more than a node may take by itself, and waits for an operator.
    pub weight_waits: bool,
    /// An operator wants it empty: its slots move elsewhere, and it gets none.
    pub draining: bool,
    /// For now nothing of that begins.
    pub drain_paused: bool,
    /// Where its slots should go, if an operator said so.
    pub successor: Option<DiskId>,
    /// Since when it is in quarantine, in milliseconds since the Unix epoch: it failed challenges, and what
    /// it says it holds does not count.
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
    /// The zone that its configuration names by now, which waits for an operator.
    pub waiting_zone: Option<ZoneName>,
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

/// A map as it travels: encoded once by who has it, however many ask, and decoded by who wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedMap(Arc<[u8]>);

impl EncodedMap {
    /// Encodes a map.
    pub fn of(map: &Topology) -> Self {
        Self(codec::encode(map).into())
    }

    /// The map.
    pub fn decode(&self) -> Result<Topology, CodecError> {
        codec::decode(&self.0)
    }

    /// Its encoded length.
    pub fn length(&self) -> usize {
        self.0.len()
    }
}

impl Encode for EncodedMap {
    fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
        use bincode::enc::write::Writer;
        (self.0.len() as u64).encode(encoder)?;
        encoder.writer().write(&self.0)
    }
}

impl<C> Decode<C> for EncodedMap {
    fn decode<D: bincode::de::Decoder<Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, bincode::error::DecodeError> {
        Ok(Self(Vec::<u8>::decode(decoder)?.into()))
    }
}

bincode::impl_borrow_decode!(EncodedMap);

/// What changed in a map since a version of it: rows one by one, for these change often, and the rest as it
/// is now if anything of it did.
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
    /// Makes changes to the version that they are for. False, and nothing changed, if they are for another
    /// one or for rows that this map does not have.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::FeedPage;
    use crate::identity::Actor;
    use crate::pg::Source;
    use crate::rpc::{HeartbeatReply, Response, TopologyReply};
    use crate::{Role, RpcError};

    fn name(i: usize) -> NodeName {
        NodeName::new(format!("{i:063}")).unwrap()
    }

    /// As large as a map may be, in rows of so many slots: longest names, all optional values, all slots
    /// dirty.
    fn largest(width: usize) -> Topology {
        let mut map = Topology::empty();
        map.version = u64::MAX;
        let mut left = MAX_ROWS_BYTES / row_bytes(width);
        let mut moving = MAX_MOVING;
        let pool_named = |id: u16, pg_bits: u8| Pool {
            id: PoolId(id),
            name: PoolName::new(format!("{id:063}")).unwrap(),
            scheme: crate::Scheme::Replicated { copies: width as u8 },
            pg_bits,
        };
        while left > 0 {
            let bits = left.ilog2().min(u32::from(crate::pg::MAX_PG_BITS)) as u8;
            left -= 1 << bits;
            let row = |_| {
                let mut row = PgRow::new(vec![DiskId(1); width]);
                row.dirty_at = vec![Some(u64::MAX); width];
                for sources in row.sources.iter_mut().take(moving) {
                    sources.push(Source { disk: DiskId(1), since: u64::MAX, vouched: true });
                    moving -= 1;
                }
                row
            };
            let rows = (0..1u32 << bits).map(row).collect();
            let id = map.pools.len() as u16 + 1;
            map.pools.insert(PoolId(id), PoolTable { pool: pool_named(id, bits), rows });
        }
        for i in 0..MAX_DISKS {
            let zone = ZoneName::new(format!("{i:063}")).unwrap();
            let address = SocketAddr::from(([0xffff; 8], u16::MAX));
            let info = NodeInfo {
                name: name(i),
                zone: zone.clone(),
                address,
                waiting_zone: Some(zone),
                maintenance_until_ms: Some(u64::MAX),
            };
            map.nodes.insert(name(i), info);
            let id = DiskId(i as u32);
            let disk = DiskInfo {
                id,
                node: name(i),
                name: name(i).to_string(),
                weight: u32::MAX,
                max_bytes: u64::MAX,
                incarnation: Incarnation([255; 16]),
                public_key: [255; 32],
                configured_weight: u32::MAX,
                weight_waits: true,
                draining: true,
                drain_paused: true,
                successor: Some(id),
                quarantined_ms: Some(u64::MAX),
                down_since_ms: Some(u64::MAX),
            };
            map.disks.insert(id, disk);
        }
        let revoked = |i| Revocation {
            actor: Actor { role: Role::Data, name: name(i) },
            before: u64::MAX,
            at_ms: u64::MAX,
        };
        map.revoked = (0..MAX_REVOKED).map(revoked).collect();
        map
    }

    #[test]
    fn the_largest_map_there_may_be_travels_in_one_message() {
        for width in [1, 3, 6, 20] {
            let map = largest(width);
            let encoded = EncodedMap::of(&map);
            let suspects = Some(map.nodes.keys().cloned().collect());
            let reply = HeartbeatReply {
                topology: TopologyReply { topology: Some(encoded), suspects, now_ms: u64::MAX },
                changes: None,
                feed: FeedPage::Behind { position: u64::MAX },
                feed_epoch: u64::MAX,
                work: map.disks.keys().take(MAX_DISKS_PER_NODE).copied().collect(),
                level: crate::capacity::CapacityLevel::Safe,
                upload_grace_ms: u64::MAX,
            };
            let answer: Result<Response, RpcError> = Ok(Response::Heartbeat(reply));
            let bytes = codec::encode(&answer);
            assert!(bytes.len() < codec::MAX_MESSAGE, "{} bytes with rows of {width}", bytes.len());
            let back: Result<Response, RpcError> = codec::decode(&bytes).unwrap();
            let Ok(Response::Heartbeat(reply)) = back else { panic!("another answer") };
            assert_eq!(reply.topology.topology.unwrap().decode().unwrap(), map);
        }
    }
}
