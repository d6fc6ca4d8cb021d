//! A million files on three data nodes, so a million pieces on each: memory of the nodes, and how long a data node takes
//! to serve after a stop, and after a kill in the middle of puts.
//!
//! `WMALL_MILLION=n` asks for another number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use wmall_client::{ClientConfig, PutOptions};
use wmall_devnet::Devnet;
use wmall_proto::rpc::{ReadRequest, Request};
use wmall_proto::{ChunkId, Role};
use wmall_transport::{Endpoint, Identity, Target};

use crate::memory;

const CLIENTS: u64 = 8;
/// Puts under way by each client.
const PARALLEL: u64 = 16;
const NODE: &str = "data-1";

/// What was measured.
pub(crate) struct Million {
    pub(crate) count: u64,
    pub(crate) metadata: u64,
    pub(crate) data: u64,
    pub(crate) after_stop: Duration,
    pub(crate) after_kill: Duration,
}

fn content(n: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; 64];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes
}

pub(crate) async fn run(devnet: &mut Devnet) -> Result<Million> {
    let count = std::env::var("WMALL_MILLION").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let mut running: JoinSet<Result<()>> = JoinSet::new();
    for client in 0..CLIENTS {
        let store = Arc::new(devnet.connect().await?);
        for lane in 0..PARALLEL {
            let store = store.clone();
            running.spawn(async move {
                for n in (client * PARALLEL + lane..count).step_by((CLIENTS * PARALLEL) as usize) {
                    store.put(&mut content(n).as_slice(), &PutOptions::default()).await?;
                }
                Ok(())
            });
        }
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    let (metadata, data) = memory::of_nodes(devnet)?;
    devnet.stop(NODE)?;
    let after_stop = until_it_serves(devnet, count).await?;
    // In the middle of puts, so that the end of its journal is not in its index.
    let store = Arc::new(devnet.connect().await?);
    let mut putting: JoinSet<()> = JoinSet::new();
    for lane in 0..PARALLEL {
        let store = store.clone();
        putting.spawn(async move {
            for n in (count + lane..count + 20_000).step_by(PARALLEL as usize) {
                // The node dies under some of them.
                let _ = store.put(&mut content(n).as_slice(), &PutOptions::default()).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    devnet.kill(NODE)?;
    putting.shutdown().await;
    let after_kill = until_it_serves(devnet, count).await?;
    let (metadata, data) = memory::of_nodes(devnet).map(|(m, d)| (m.max(metadata), d.max(data)))?;
    Ok(Million { count, metadata, data, after_stop, after_kill })
}

/// Starts the node, and waits until it hands out a piece.
async fn until_it_serves(devnet: &mut Devnet, count: u64) -> Result<Duration> {
    let config = ClientConfig::load(&devnet.layout().client())?;
    let endpoint = Endpoint::client(&Identity::load(&config.identity_dir)?)?;
    let store = devnet.connect().await?;
    let topology = store.topology();
    let node = topology.nodes.values().find(|n| n.name.as_str() == NODE).context("no such node")?;
    let target = Target { role: Role::Data, node: node.name.clone(), address: node.address };
    let pool = *topology.pools.keys().next().context("no pool")?;
    // Any piece that the node has by its rows.
    let ours = |chunk: &ChunkId| {
        let row = topology.row_of(pool, chunk).map(|(_, row)| row);
        row.is_some_and(|r| r.slots.iter().any(|d| topology.node_of(*d).map(|n| &n.name) == Some(&node.name)))
    };
    let chunk = (0..count).map(|n| ChunkId::of(&content(n))).find(ours).context("no piece")?;
    let started = Instant::now();
    devnet.start(NODE, false).await?;
    loop {
        let read =
            Request::ReadPiece(ReadRequest { pool, chunk, disk: None, slot: None, offset: 0, length: 64 });
        if endpoint.call(&target, &read, Duration::from_millis(300)).await.is_ok() {
            break;
        }
        anyhow::ensure!(started.elapsed() < Duration::from_secs(120), "{NODE} does not serve");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = started.elapsed();
    endpoint.close().await;
    store.close().await;
    Ok(took)
}
