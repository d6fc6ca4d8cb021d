//! A node dies for good, with 2 GiB on it: how fast the others make that anew, and what readers feel of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wmall_client::{PutOptions, Source, Store};
use wmall_devnet::Devnet;
use wmall_proto::FileId;
use wmall_proto::rpc::Ack;
use wmall_proto::status::ClusterStatus;

use crate::large::Generated;
use crate::report::Calls;

/// Files of a gibibyte: ten copies of a third of a gibibyte on five nodes make two on each.
const FILES: u64 = 3;
const LAST: u64 = 1 << 30;
/// How long gets are measured.
const MEASURED: Duration = Duration::from_secs(15);
/// Readers at the same time.
const READERS: usize = 4;
/// Fewer gets say nothing of the slowest hundredth.
const ENOUGH: usize = 500;
const SMALL: usize = 64 << 10;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How long a dead node is waited for; part of the devnet's options.
pub(crate) const DOWN_GRACE: Duration = Duration::from_secs(5);

/// What was measured.
pub(crate) struct Backfill {
    /// Bytes that were made anew.
    pub(crate) bytes: u64,
    /// Bytes a second, with nothing else going on.
    pub(crate) rate: f64,
    pub(crate) before: Calls,
    pub(crate) during: Calls,
}

fn slots(status: &ClusterStatus, node: &str) -> u64 {
    let disks = status.nodes.iter().filter(|n| n.name.as_str() == node).flat_map(|n| &n.disks);
    disks.map(|d| d.slots).sum()
}

fn is_whole(status: &ClusterStatus) -> bool {
    let c = &status.chunks;
    c.warning + c.danger + c.unavailable + c.lost == 0
        && status.repair.moving == 0
        && status.repair.waiting == 0
}

async fn wait(store: &Store, what: &str, done: impl Fn(&ClusterStatus) -> bool) -> Result<ClusterStatus> {
    let begun = Instant::now();
    loop {
        let status = store.status().await?;
        if done(&status) {
            return Ok(status);
        }
        anyhow::ensure!(begun.elapsed() < LIMIT, "{what} does not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Gets of small files by a few readers, as long as is measured, or until it is over.
async fn gets(devnet: &Devnet, files: &[FileId], over: &Arc<AtomicBool>) -> Result<Calls> {
    let (begun, until) = (Instant::now(), Instant::now() + MEASURED);
    let mut running = tokio::task::JoinSet::new();
    for reader in 0..READERS {
        let (store, files, over) = (devnet.connect().await?, files.to_vec(), over.clone());
        running.spawn(async move {
            let mut times = Vec::new();
            for n in (reader..).step_by(READERS) {
                let at = Instant::now();
                if at >= until || over.load(Ordering::Relaxed) {
                    break;
                }
                let mut download = store.get(&Source::File(files[n % files.len()]), None).await?;
                while download.next().await?.is_some() {}
                times.push(at.elapsed());
            }
            store.close().await;
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = running.join_next().await {
        times.extend(done??);
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    anyhow::ensure!(times.len() >= ENOUGH, "{} gets are too few for a p99", times.len());
    let per_second = times.len() as f64 / begun.elapsed().as_secs_f64();
    Ok(Calls { per_second, p50: at(50), p99: at(99) })
}

pub(crate) async fn run(devnet: &mut Devnet) -> Result<Backfill> {
    let store = devnet.connect().await?;
    let options = PutOptions { ack: Ack::All, ..PutOptions::default() };
    for seed in 0..FILES {
        store.put(&mut Generated::new(seed + 500, LAST), &options).await?;
    }
    store.put(&mut Generated::new(600, LAST / 3), &options).await?;
    let mut files = Vec::new();
    for n in 0..400u64 {
        let mut content = vec![0u8; SMALL];
        content[..8].copy_from_slice(&n.to_le_bytes());
        files.push(store.put(&mut content.as_slice(), &options).await?.id);
    }
    let status = wait(&store, "a whole cluster", is_whole).await?;
    let node = status.nodes.iter().find(|n| n.name.as_str() == "data-1").context("no data-1")?;
    let bytes = node.disks.iter().map(|d| d.used_bytes).sum();
    devnet.kill("data-1")?;
    wait(&store, "a first move", |s| s.repair.moving > 0).await?;
    let begun = Instant::now();
    wait(&store, "the end of the backfill", |s| slots(s, "data-1") == 0 && is_whole(s)).await?;
    let rate = bytes as f64 / begun.elapsed().as_secs_f64();
    // Readers, before another one dies and while its part is made anew.
    let over = Arc::new(AtomicBool::new(false));
    let before = gets(devnet, &files, &over).await?;
    devnet.kill("data-2")?;
    wait(&store, "a second first move", |s| s.repair.moving > 0).await?;
    let ending = async {
        let end = wait(&store, "the end of the second", |s| slots(s, "data-2") == 0 && is_whole(s)).await;
        over.store(true, Ordering::Relaxed);
        end
    };
    let (during, ended) = tokio::join!(gets(devnet, &files, &over), ending);
    let during = during?;
    ended?;
    store.close().await;
    Ok(Backfill { bytes, rate, before, during })
}
