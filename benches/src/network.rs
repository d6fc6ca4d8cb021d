//! The reference for gets: one connection of our own transport over loopback, each end a runtime and a
//! thread of its own, one stream per MiB.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use wmall_proto::rpc::{ReadRequest, Request, Response};
use wmall_proto::topology::ClusterId;
use wmall_proto::{ChunkId, NodeName, PoolId, Role};
use wmall_transport::{Endpoint, Handler, Identity, Incoming, Target, create_authority};

use crate::{RUNS, median};

const MESSAGE: usize = 1 << 20;
const MESSAGES: usize = 2048;
const IN_FLIGHT: usize = 16;

struct Source(Bytes);

impl Handler for Source {
    async fn handle(&self, call: Incoming) {
        let mut replier = call.replier;
        let length = self.0.len() as u32;
        if replier.start(Response::Piece { length, piece_length: length }).await.is_ok() {
            let _ = replier.write(self.0.clone()).await;
            replier.finish();
        }
    }
}

/// Bytes per second, median of the runs.
pub(crate) fn loopback_rate(folder: &Path) -> Result<f64> {
    let issuer = create_authority(&folder.join("net-ca"), ClusterId([1; 16]))?;
    let day = Duration::from_secs(86_400);
    let node = NodeName::new("source")?;
    issuer.issue(&folder.join("source"), Role::Data, &node, day)?;
    issuer.issue(&folder.join("sink"), Role::Client, &NodeName::new("sink")?, day)?;
    let (source, sink) = (Identity::load(&folder.join("source"))?, Identity::load(&folder.join("sink"))?);
    let (announce, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || -> Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let endpoint = Endpoint::server(any, &source)?;
            announce.send(endpoint.address()?)?;
            endpoint.serve(Arc::new(Source(Bytes::from(vec![7; MESSAGE])))).await;
            Ok(())
        })
    });
    let target = Target { role: Role::Data, node, address: address.recv()? };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let endpoint = Endpoint::client(&sink)?;
        let mut rates = Vec::new();
        for _ in 0..RUNS {
            let started = Instant::now();
            let mut running = JoinSet::new();
            for _ in 0..MESSAGES {
                if running.len() >= IN_FLIGHT {
                    running.join_next().await.transpose()?.transpose()?;
                }
                running.spawn(fetch(endpoint.clone(), target.clone()));
            }
            while let Some(done) = running.join_next().await {
                done??;
            }
            rates.push((MESSAGE * MESSAGES) as f64 / started.elapsed().as_secs_f64());
        }
        endpoint.close().await;
        Ok(median(rates))
    })
}

async fn fetch(endpoint: Endpoint, target: Target) -> Result<()> {
    let read = ReadRequest {
        pool: PoolId(1),
        chunk: ChunkId([0; 32]),
        disk: None,
        slot: None,
        offset: 0,
        length: u32::MAX,
    };
    let call = endpoint.open(&target, &Request::ReadPiece(read), Duration::from_secs(30)).await?;
    let mut reply = call.finish().await?;
    let mut length = 0;
    while let Some(part) = reply.body.next().await? {
        length += part.len();
    }
    anyhow::ensure!(length == MESSAGE, "a short message");
    Ok(())
}
