//! One file of 1 GiB, in and out.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use anyhow::Result;
use tokio::io::{AsyncRead, ReadBuf};
use wmall_client::{PutOptions, Source};
use wmall_devnet::Devnet;
use wmall_proto::Scheme;
use wmall_proto::rpc::Ack;

use crate::{RUNS, median};

const SIZE: u64 = 1 << 30;

/// Bytes that no two runs share, made as they are read.
pub(crate) struct Generated {
    left: u64,
    state: u64,
    block: Vec<u8>,
    at: usize,
}

impl Generated {
    pub(crate) fn new(seed: u64, size: u64) -> Self {
        let block = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        Self { left: size, state: seed, block, at: 0 }
    }
}

impl AsyncRead for Generated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.at == self.block.len() {
            self.at = 0;
        }
        if self.at == 0 {
            // One word is enough to make every block, and so every chunk, another one.
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let word = self.state.to_le_bytes();
            self.block[..8].copy_from_slice(&word);
        }
        let n = (self.block.len() - self.at).min(out.remaining()).min(self.left as usize);
        out.put_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        self.left -= n as u64;
        Poll::Ready(Ok(()))
    }
}

/// Bytes per second of a put that waits for every piece, median of the runs; in the first pool, if no scheme is asked for.
pub(crate) async fn put_rate(devnet: &Devnet, scheme: Option<Scheme>) -> Result<f64> {
    let store = devnet.connect().await?;
    let pool = if scheme.is_none() {
        store.topology().pools.values().next().map(|t| t.pool.name.clone())
    } else {
        None
    };
    let options = PutOptions { ack: Ack::All, scheme, pool, ..PutOptions::default() };
    let mut rates = Vec::new();
    for run in 0..RUNS {
        let started = Instant::now();
        store.put(&mut Generated::new(run as u64 + 1, SIZE), &options).await?;
        rates.push(SIZE as f64 / started.elapsed().as_secs_f64());
    }
    store.close().await;
    Ok(median(rates))
}

/// Bytes per second of a verified get, median of the runs.
pub(crate) async fn get_rate(devnet: &Devnet) -> Result<f64> {
    let store = devnet.connect().await?;
    let options = PutOptions { ack: Ack::All, ..PutOptions::default() };
    let summary = store.put(&mut Generated::new(99, SIZE), &options).await?;
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let started = Instant::now();
        let mut download = store.get(&Source::File(summary.id), None).await?;
        let mut length = 0;
        while let Some(part) = download.next().await? {
            length += part.len() as u64;
        }
        anyhow::ensure!(length == SIZE, "a short file");
        rates.push(SIZE as f64 / started.elapsed().as_secs_f64());
    }
    store.close().await;
    Ok(median(rates))
}
