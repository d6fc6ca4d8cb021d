//! What a rebuild asks data nodes: for their maps, for the pieces that they hold, and for blocks of
//! manifests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use wmall_manifest::{Block, Stripe, begins_block};
use wmall_proto::feed::PoolChunk;
use wmall_proto::rpc::{PiecePage, ReadRequest, Request, Response};
use wmall_proto::{ChunkId, DiskId, ErrorCode, NodeName, PoolId, Role, RpcError, Topology};
use wmall_transport::{Endpoint, Target, collect};

use super::{Found, RebuildError, TIMEOUT, TRIES};

pub(super) type Addresses = BTreeMap<NodeName, SocketAddr>;

/// Where a node is: where the operator says, or where the map says.
pub(super) fn target_of(map: &Topology, node: &NodeName, seeds: &Addresses) -> Target {
    let known = map.nodes.get(node).map(|n| n.address);
    let address = seeds.get(node).copied().or(known).unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    Target { role: Role::Data, node: node.clone(), address }
}

/// The maps that data nodes kept. Each map names more of them.
pub(super) async fn all_maps(
    endpoint: &Endpoint,
    seeds: &Addresses,
) -> Result<BTreeMap<NodeName, Topology>, RebuildError> {
    let mut waiting = seeds.clone();
    let mut asked = BTreeSet::new();
    let mut told = BTreeMap::new();
    let mut last = RpcError::new(ErrorCode::NotFound, "none was asked");
    while let Some((node, address)) = waiting.pop_first() {
        asked.insert(node.clone());
        let target = Target { role: Role::Data, node: node.clone(), address };
        match endpoint.call(&target, &Request::GetTopology { known: 0 }, TIMEOUT).await {
            Ok(Response::Topology(reply)) => {
                let map = match reply.topology.map(|map| map.decode()).transpose() {
                    Ok(Some(map)) => map,
                    Ok(None) => continue,
                    Err(error) => {
                        last = RpcError::internal(error);
                        continue;
                    }
                };
                let more = map.nodes.values().filter(|n| !asked.contains(&n.name));
                for node in more.map(|n| n.name.clone()).collect::<Vec<_>>() {
                    // The first word on an address counts: no later map leads away from it.
                    let address = target_of(&map, &node, seeds).address;
                    waiting.entry(node).or_insert(address);
                }
                told.insert(target.node, map);
            }
            Ok(_) => last = RpcError::internal("the answer is of another kind than the question"),
            Err(error) => last = error,
        }
    }
    if told.is_empty() { Err(RebuildError::NoMap(last)) } else { Ok(told) }
}

/// Takes in what a node's disks hold, and returns how many pieces that was. A disk in another life than the
/// map says has nothing that the map could name.
pub(super) async fn list(
    endpoint: &Endpoint,
    map: &Topology,
    target: &Target,
    found: &mut Found,
) -> Result<u64, RpcError> {
    let (mut count, mut disk, mut after) = (0, 0, None);
    loop {
        let PiecePage { incarnation, pieces, next, disks } = list_page(endpoint, target, disk, after).await?;
        if let Some(info) = map.disks.values().find(|d| d.incarnation == incarnation) {
            pieces.iter().for_each(|piece| found.take(map, info.id, piece));
        }
        count += pieces.len() as u64;
        after = next;
        if after.is_none() {
            disk += 1;
            if disk >= disks {
                return Ok(count);
            }
        }
    }
}

async fn list_page(
    endpoint: &Endpoint,
    target: &Target,
    disk: u32,
    after: Option<PoolChunk>,
) -> Result<PiecePage, RpcError> {
    let mut last = RpcError::internal("no try was made");
    for _ in 0..TRIES {
        match endpoint.call(target, &Request::ListPieces { disk, after }, TIMEOUT).await {
            Ok(Response::Pieces(page)) => return Ok(page),
            Ok(_) => return Err(RpcError::internal("the answer is of another kind than the question")),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads the blocks of manifests; each counts only if it hashes to its name. What was read and is none is
/// taken off the list.
pub(super) async fn read_blocks(
    endpoint: &Endpoint,
    map: &Topology,
    seeds: &Addresses,
    found: &mut Found,
) -> HashMap<(PoolId, ChunkId), Block> {
    let mut blocks = HashMap::new();
    for (pool, chunk) in found.blocks.clone() {
        let striped = map.pools.get(&pool).is_some_and(|t| t.pool.scheme.is_striped());
        let read = if striped {
            gather(endpoint, map, seeds, found, (pool, chunk)).await
        } else {
            copy(endpoint, map, seeds, found, (pool, chunk)).await
        };
        match read {
            Some(bytes) if begins_block(&bytes) => {
                blocks.extend(Block::decode(&bytes).map(|block| ((pool, chunk), block)));
            }
            Some(_) => drop(found.blocks.remove(&(pool, chunk))),
            None => {}
        }
    }
    blocks
}

/// A chunk from the first node that has a good copy.
async fn copy(
    endpoint: &Endpoint,
    map: &Topology,
    seeds: &Addresses,
    found: &Found,
    (pool, chunk): (PoolId, ChunkId),
) -> Option<Vec<u8>> {
    for &disk in found.holders.get(&(pool, chunk)).into_iter().flatten() {
        let Some(node) = map.node_of(disk) else { continue };
        let target = target_of(map, &node.name, seeds);
        match read_piece(endpoint, &target, PoolChunk { pool, chunk }, disk, None).await {
            Ok(bytes) if ChunkId::of(&bytes) == chunk => return Some(bytes),
            Ok(_) => tracing::warn!(%chunk, node = %target.node, "a block of a manifest is rotten there"),
            Err(error) => tracing::warn!(%error, %chunk, "a block of a manifest can't be read there"),
        }
    }
    None
}

/// A chunk from shards, each held against what its disk says that it hashes to.
async fn gather(
    endpoint: &Endpoint,
    map: &Topology,
    seeds: &Addresses,
    found: &Found,
    (pool, chunk): (PoolId, ChunkId),
) -> Option<Vec<u8>> {
    let scheme = map.pools.get(&pool)?.pool.scheme;
    let (length, digests) = (*found.lengths.get(&(pool, chunk))?, found.shards.get(&(pool, chunk))?);
    let mut shards: Vec<Option<Vec<u8>>> = vec![None; scheme.width()];
    for &(slot, disk) in found.shard_holders.get(&(pool, chunk))? {
        let there = shards.get(usize::from(slot)).is_none_or(Option::is_some);
        let Some(node) = map.node_of(disk).filter(|_| !there) else { continue };
        let target = target_of(map, &node.name, seeds);
        match read_piece(endpoint, &target, PoolChunk { pool, chunk }, disk, Some(slot)).await {
            Ok(bytes) if digests.contains(&(slot, *blake3::hash(&bytes).as_bytes())) => {
                shards[usize::from(slot)] = Some(bytes);
            }
            Ok(_) => tracing::warn!(%chunk, node = %target.node, "a shard of a block is rotten there"),
            Err(error) => tracing::warn!(%error, %chunk, "a shard of a block can't be read there"),
        }
        if shards.iter().flatten().count() >= scheme.needed() {
            break;
        }
    }
    let joined = Stripe::new(scheme).and_then(|stripe| stripe.join(shards, length));
    let bytes = joined.inspect_err(|e| tracing::warn!(%e, %chunk, "a block can't be put together")).ok()?;
    Some(bytes.concat()).filter(|bytes| ChunkId::of(bytes) == chunk)
}

async fn read_piece(
    endpoint: &Endpoint,
    target: &Target,
    PoolChunk { pool, chunk }: PoolChunk,
    disk: DiskId,
    slot: Option<u8>,
) -> Result<Vec<u8>, RpcError> {
    let request = ReadRequest { pool, chunk, disk: Some(disk), slot, offset: 0, length: u32::MAX };
    let mut reply = endpoint.ask(target, &Request::ReadPiece(request), TIMEOUT).await?;
    let Response::Piece { length, .. } = reply.response else {
        return Err(RpcError::internal("the answer is of another kind than the question"));
    };
    let reading = collect(&mut reply.body, length as usize, |_| ());
    let late = |_| RpcError::new(ErrorCode::Timeout, format!("{} sends too slowly", target.node));
    Ok(tokio::time::timeout(TIMEOUT, reading).await.map_err(late)??.concat())
}
