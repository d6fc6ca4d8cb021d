//! `make bench`: how fast the cluster is, against references measured in the same run.
//!
//! A cluster of real processes on this machine, and beside it: one process writing to the same disk, one
//! QUIC connection over loopback. Absolute figures are of this machine; the ratios are the claim.

mod disk;
mod large;
mod network;
mod report;
mod small;

use std::path::PathBuf;

use anyhow::{Context, Result};
use wmall_devnet::{Devnet, UpOptions};

use crate::report::Report;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs of each measurement; the median counts.
const RUNS: usize = 3;

fn main() -> Result<()> {
    let only = std::env::args().nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|o| o == name);
    let binary = std::env::var_os("WMALL_BIN").context("WMALL_BIN is not set; run `make bench`")?;
    let folder = tempfile::tempdir_in(std::env::var_os("WMALL_BENCH_DIR").unwrap_or(".".into()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::new();
    let options = UpOptions { detach: false, ..UpOptions::default() };
    let devnet =
        runtime.block_on(Devnet::up(&folder.path().join("net"), &PathBuf::from(binary), &options))?;
    let measured = (|| {
        if wanted("put") {
            let reference = disk::write_rate(folder.path())?;
            let put = runtime.block_on(large::put_rate(&devnet))?;
            report.ratio("put 1 GiB --ack all", put, "raw disk, a third of 3 GiB", reference / 3.0, 0.7);
        }
        if wanted("get") {
            let reference = network::loopback_rate(folder.path())?;
            let get = runtime.block_on(large::get_rate(&devnet))?;
            report.ratio("get 1 GiB, verified", get, "one QUIC connection", reference, 0.5);
        }
        if wanted("small") {
            let small = runtime.block_on(small::run(&devnet))?;
            report.rate("put of 16 KiB, 32 clients", &small.puts, 2000.0);
            report.rate("get of 16 KiB, 32 clients", &small.gets, 5000.0);
        }
        anyhow::Ok(())
    })();
    devnet.down()?;
    measured?;
    report.print();
    Ok(())
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
