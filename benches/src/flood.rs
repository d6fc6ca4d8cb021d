//! What a flood of hostile datagrams leaves of the honest clients' rate. The flood is made on the same cores, so a part
//! of what it costs is the making of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use wmall_devnet::{Devnet, NodeKind};
use wmall_tests::flood::Flood;

use crate::small;

/// Calls a second without and with the flood, and its datagrams a second.
pub(crate) struct Goodput {
    pub(crate) before: f64,
    pub(crate) during: f64,
    pub(crate) datagrams: f64,
}

pub(crate) async fn run(devnet: &Devnet) -> Result<Goodput> {
    let mut udp: Vec<SocketAddr> = Vec::new();
    let mut tcp: Vec<SocketAddr> = Vec::new();
    for node in devnet.nodes() {
        udp.push(node.entry.address);
        tcp.push(node.entry.ops);
        if let NodeKind::MetadataNode { join, .. } = node.entry.kind {
            udp.push(join);
        }
    }
    let quiet = small::run(devnet, "quiet").await?;
    let (flood, begun) = (Flood::start(udp, tcp), std::time::Instant::now());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let loud = small::run(devnet, "loud").await?;
    let datagrams = flood.sent() as f64 / begun.elapsed().as_secs_f64();
    tokio::task::block_in_place(|| drop(flood));
    // Puts and gets, each as often as the other.
    let both = |s: &small::Small| 2.0 / (1.0 / s.puts.per_second + 1.0 / s.gets.per_second);
    Ok(Goodput { before: both(&quiet), during: both(&loud), datagrams })
}
