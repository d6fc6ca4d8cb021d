//! `wmall capacity`.

use wmall_proto::capacity::{CapacityLevel, CapacityReport, Loss};

use super::Context;
use crate::exit::Failure;
use crate::output::bytes;

pub(crate) async fn capacity(context: &Context) -> Result<(), Failure> {
    let store = context.connect().await?;
    let report = store.status().await?.capacity;
    store.close().await;
    context.format.print(&report, describe)
}

/// A ratio in millionths with two digits.
fn ratio(ppm: u64) -> String {
    if ppm >= CapacityReport::NO_ROOM_PPM {
        "no room at all".into()
    } else {
        format!("{:.2}", ppm as f64 / 1e6)
    }
}

fn describe(report: &CapacityReport) -> String {
    let meaning = match report.level {
        CapacityLevel::Safe => "below the alarm at 0.70",
        CapacityLevel::Warning => "above the alarm at 0.70: add disks or nodes",
        CapacityLevel::Danger => "above 0.85: writes stop at 0.90; add disks or nodes now",
        CapacityLevel::WritesStopped => {
            "above 0.90: only validators may write; delete, or add disks or nodes"
        }
        CapacityLevel::LedgerStopped => "above 0.95: nobody may write; delete, or add disks or nodes",
    };
    let loss = |what: &str, loss: &Option<Loss>| {
        loss.as_ref().map_or_else(String::new, |l| {
            format!("\n  without {what:<6} {} ({})", ratio(l.ratio_ppm), l.name)
        })
    };
    let fullest = report.fullest_disk.map_or_else(String::new, |disk| format!(" ({disk})"));
    format!(
        "completeness ratio  {}  {meaning}\n\
         \u{20} overall        {}: {} needed, {} usable under the zone rule, of {}\n\
         \u{20} fullest disk   {}{fullest}\n\
         \u{20} not compacted  {}{}{}",
        ratio(report.ratio_ppm),
        ratio(report.overall_ppm),
        bytes(report.needed_bytes),
        bytes(report.total_bytes),
        bytes(report.raw_bytes),
        ratio(report.fullest_ppm),
        bytes(report.dead_bytes),
        loss("node", &report.without_largest_node),
        loss("zone", &report.without_largest_zone),
    )
}
