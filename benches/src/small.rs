//! Many small files by many clients: 2,000 files of 16 KiB, 32 clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;
use wmall_client::{PutOptions, Source, Store};
use wmall_devnet::Devnet;
use wmall_proto::{BucketName, ObjectName};

use crate::report::Calls;

const FILES: usize = 2000;
const CLIENTS: usize = 32;
const SIZE: usize = 16 << 10;

/// What was measured.
pub(crate) struct Small {
    pub(crate) puts: Calls,
    pub(crate) gets: Calls,
}

/// Puts all files, then gets them by name.
pub(crate) async fn run(devnet: &Devnet, bucket: &str) -> Result<Small> {
    let bucket = BucketName::new(bucket)?;
    devnet
        .connect()
        .await?
        .create_bucket(bucket.clone(), None, wmall_proto::pool::BucketRules::default())
        .await?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(devnet.connect().await?);
    }
    // Everybody has shaken hands with everybody before the clock starts.
    let warm = Arc::new(bucket.clone());
    each(&clients, warm.clone(), "warm", CLIENTS * 4, put).await?;
    let puts = each(&clients, warm.clone(), "file", FILES, put).await?;
    let gets = each(&clients, warm, "file", FILES, get).await?;
    Ok(Small { puts, gets })
}

async fn put(store: Store, bucket: Arc<BucketName>, name: String) -> Result<()> {
    let mut content = vec![0u8; SIZE];
    let own = format!("{bucket}/{name}");
    content[..own.len()].copy_from_slice(own.as_bytes());
    let object = Some(((*bucket).clone(), ObjectName::new(name)?));
    let options = PutOptions { object, ..PutOptions::default() };
    store.put(&mut content.as_slice(), &options).await?;
    Ok(())
}

async fn get(store: Store, bucket: Arc<BucketName>, name: String) -> Result<()> {
    let source = Source::Object((*bucket).clone(), ObjectName::new(name)?);
    let mut download = store.get(&source, None).await?;
    let mut length = 0;
    while let Some(part) = download.next().await? {
        length += part.len();
    }
    anyhow::ensure!(length == SIZE, "a short file");
    Ok(())
}

/// Has the clients share the calls and times each.
async fn each<F, R>(
    clients: &[Store],
    bucket: Arc<BucketName>,
    prefix: &'static str,
    count: usize,
    call: F,
) -> Result<Calls>
where
    F: Fn(Store, Arc<BucketName>, String) -> R + Copy + Send + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    let started = Instant::now();
    let mut running: JoinSet<Result<Vec<Duration>>> = JoinSet::new();
    for (i, store) in clients.iter().enumerate() {
        let (store, bucket) = (store.clone(), bucket.clone());
        running.spawn(async move {
            let mut times = Vec::new();
            for n in (i..count).step_by(CLIENTS) {
                let at = Instant::now();
                call(store.clone(), bucket.clone(), format!("{prefix}-{n}")).await?;
                times.push(at.elapsed());
            }
            Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = running.join_next().await {
        times.extend(done??);
    }
    let per_second = count as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
    Ok(Calls { per_second, p50: at(0.5), p99: at(0.99) })
}
