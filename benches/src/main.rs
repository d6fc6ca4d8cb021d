//! `make bench`: how fast the cluster is, against references measured in the same run.
//!
//! A cluster of real processes on this machine, and beside it: one process writing to the same disk, one
//! QUIC connection over loopback. Absolute figures are of this machine; the ratios are the claim.

mod backfill;
mod consensus;
mod disk;
mod flood;
mod large;
mod memory;
mod million;
mod network;
mod planner;
mod records;
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
    let mut options = UpOptions { detach: false, ..UpOptions::default() };
    if only.as_deref() == Some("records") {
        options.max_bytes = records::DISK_BYTES;
    }
    if only.as_deref() == Some("striped") {
        options.data = 6;
    }
    if only.as_deref() == Some("backfill") {
        options.down_grace = backfill::DOWN_GRACE;
    }
    if only.as_deref() == Some("million") {
        // Each of three nodes has a copy of everything.
        options.data = 3;
    }
    let binary = PathBuf::from(binary);
    if wanted("planner") {
        let planner::Planner { plan, moves, grades } = planner::run()?;
        let what = format!("plan of {moves} moves, 100 nodes, 65,536 groups, a zone lost");
        report.at_most(&what, plan.as_secs_f64(), 1.0, "s");
        report.at_most("grades after the loss of a node, likewise", grades.as_secs_f64() * 1e3, 50.0, "ms");
        let (cut, code) = planner::encode()?;
        report.ratio("cut a chunk at 4+2, one core", cut, "the code alone", code, 0.9);
        if only.as_deref() == Some("planner") {
            report.print();
            return Ok(());
        }
    }
    if wanted("consensus") {
        consensus::run(&mut report)?;
        if only.as_deref() == Some("consensus") {
            report.print();
            return Ok(());
        }
    }
    let mut devnet = runtime.block_on(Devnet::up(&folder.path().join("net"), &binary, &options))?;
    let measured = (|| {
        if wanted("put") {
            let reference = disk::write_rate(folder.path())?;
            let put = runtime.block_on(large::put_rate(&devnet, None))?;
            report.ratio("put 1 GiB --ack all", put, "raw disk, a third of 3 GiB", reference / 3.0, 0.7);
        }
        if wanted("get") {
            let reference = network::loopback_rate(folder.path())?;
            let get = runtime.block_on(large::get_rate(&devnet))?;
            report.ratio("get 1 GiB, verified", get, "one QUIC connection", reference, 0.5);
        }
        if wanted("small") {
            let small = runtime.block_on(small::run(&devnet, "small"))?;
            report.rate("put of 16 KiB, 32 clients", &small.puts, 2000.0);
            report.rate("get of 16 KiB, 32 clients", &small.gets, 5000.0);
        }
        if wanted("flood") {
            let flood::Goodput { before, during, datagrams } = runtime.block_on(flood::run(&devnet))?;
            let figure = format!("{during:.0}/s at {datagrams:.0} hostile datagrams/s");
            report.share("puts and gets in a flood", figure, format!("{before:.0}/s"), during / before, 0.7);
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        if wanted("memory") {
            let client = memory::of_client(&binary, &devnet, folder.path())?;
            let (metadata, data) = memory::of_nodes(&devnet)?;
            report.at_most("memory of a client, 1 GiB in and out", mib(client), 128.0, "MiB");
            report.at_most("memory of a data node, all of the above", mib(data), 256.0, "MiB");
            report.at_most("memory of a metadata node, likewise", mib(metadata), 256.0, "MiB");
        }
        // On six nodes, so only by its name.
        if only.as_deref() == Some("striped") {
            let scheme: wmall_proto::Scheme = "rs:4+2".parse()?;
            let copies = runtime.block_on(large::put_rate(&devnet, None))?;
            runtime.block_on(async {
                let store = devnet.connect().await?;
                store.create_pool("rs-4-2".parse()?, scheme, 10).await?;
                store.close().await;
                anyhow::Ok(())
            })?;
            let shards = runtime.block_on(large::put_rate(&devnet, Some(scheme)))?;
            report.ratio("put 1 GiB with rs:4+2 --ack all", shards, "with 3x", copies, 1.0);
        }
        if only.as_deref() == Some("backfill") {
            let reference = disk::write_rate(folder.path())?;
            let b = runtime.block_on(backfill::run(&mut devnet))?;
            let what = format!("backfill of {:.1} MiB, idle", mib(b.bytes));
            report.ratio(&what, b.rate, "raw disk", reference, 0.5);
            report.rate("gets of 64 KiB before, 4 readers", &b.before, 0.0);
            report.rate("gets of 64 KiB during backfill", &b.during, 0.0);
            let times = b.during.p99.as_secs_f64() / b.before.p99.as_secs_f64();
            report.at_most("p99 of these gets, during by before", times, 2.0, "");
        }
        // These take a quarter of an hour each, so only by their names.
        if only.as_deref() == Some("records") {
            let records::Records { chunks, metadata, data } = runtime.block_on(records::run(&devnet))?;
            let what = |node| format!("memory of a {node} node, {chunks} chunk records");
            report.at_most(&what("metadata"), mib(metadata), 256.0, "MiB");
            report.at_most(&what("data"), mib(data), 256.0, "MiB");
        }
        if only.as_deref() == Some("million") {
            let m = runtime.block_on(million::run(&mut devnet))?;
            let count = m.count;
            report.at_most(
                &format!("memory of a metadata node, {count} files"),
                mib(m.metadata),
                256.0,
                "MiB",
            );
            report.at_most(&format!("memory of a data node, {count} pieces"), mib(m.data), 256.0, "MiB");
            let seconds = |d: std::time::Duration| d.as_secs_f64();
            report.at_most("a data node serves after a stop", seconds(m.after_stop), 5.0, "s");
            report.at_most("a data node serves after SIGKILL", seconds(m.after_kill), 5.0, "s");
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
