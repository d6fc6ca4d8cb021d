//! A million chunk records as chain data makes them: files of many chunks. [`crate::million`] is the other extreme.
//!
//! 61 GiB of content, so in a pool of one copy. `WMALL_RECORDS=n` asks for another number of chunks.

use anyhow::Result;
use wmall_client::PutOptions;
use wmall_devnet::Devnet;
use wmall_proto::Scheme;
use wmall_proto::chunk::{MAX_CHUNKS_PER_COMMIT, MIN_CHUNK_SIZE};

use crate::memory;

/// Room on each of five disks for a fifth of it, and some more.
pub(crate) const DISK_BYTES: u64 = 20 << 30;

/// What was measured.
pub(crate) struct Records {
    pub(crate) chunks: u64,
    pub(crate) metadata: u64,
    pub(crate) data: u64,
}

pub(crate) async fn run(devnet: &Devnet) -> Result<Records> {
    let chunks: u64 = std::env::var("WMALL_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let store = devnet.connect().await?;
    let pool: wmall_proto::PoolName = "records".parse()?;
    store.create_pool(pool.clone(), Scheme::Replicated { copies: 1 }, 10).await?;
    let options = PutOptions { chunk_size: Some(MIN_CHUNK_SIZE), pool: Some(pool), ..PutOptions::default() };
    let mut put = 0;
    while put < chunks {
        let count = (chunks - put).min(MAX_CHUNKS_PER_COMMIT as u64);
        // Each chunk begins with its number; the rest may be the same everywhere.
        let mut content = vec![0u8; count as usize * MIN_CHUNK_SIZE as usize];
        for (i, chunk) in content.chunks_mut(MIN_CHUNK_SIZE as usize).enumerate() {
            chunk[..8].copy_from_slice(&(put + i as u64).to_le_bytes());
        }
        store.put(&mut content.as_slice(), &options).await?;
        put += count;
    }
    store.close().await;
    let (metadata, data) = memory::of_nodes(devnet)?;
    Ok(Records { chunks, metadata, data })
}
