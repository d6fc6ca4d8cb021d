//! The reference for puts: one process writes 3 GiB to the same disk, one fdatasync per 4 MiB.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::{RUNS, median};

const TOTAL: usize = 3 << 30;
const STEP: usize = 4 << 20;

/// Bytes per second, median of the runs.
pub(crate) fn write_rate(folder: &Path) -> Result<f64> {
    let block: Vec<u8> = (0..STEP).map(|i| (i * 31 % 251) as u8).collect();
    let path = folder.join("raw");
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let mut file = File::create(&path)?;
        let started = Instant::now();
        for _ in 0..TOTAL / STEP {
            file.write_all(&block)?;
            file.sync_data()?;
        }
        rates.push(TOTAL as f64 / started.elapsed().as_secs_f64());
        std::fs::remove_file(&path)?;
    }
    Ok(median(rates))
}
