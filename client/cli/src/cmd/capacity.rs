//! `wmall capacity`.

use wmall_proto::capacity::{CapacityLevel, CapacityReport, Crossing, Forecast, Loss, PeerAdvice};

use super::Context;
use crate::args::CapacityCommand;
use crate::exit::Failure;
use crate::output::{bytes, table, time};

pub(crate) async fn capacity(context: &Context, command: Option<CapacityCommand>) -> Result<(), Failure> {
    let store = context.connect().await?;
    let status = store.status().await?;
    store.close().await;
    match command {
        None => context.format.print(&status.capacity, describe),
        Some(CapacityCommand::Forecast) => {
            let now = status.now_ms;
            context.format.print(&status.forecast, |forecast| describe_forecast(forecast.as_ref(), now))
        }
    }
}

fn describe_forecast(forecast: Option<&Forecast>, now_ms: u64) -> String {
    let Some(forecast) = forecast else {
        return "too little is known yet: samples are taken by the hour, of what is stored".into();
    };
    let per_day = |n: i64| {
        let sign = if n < 0 { "-" } else { "" };
        format!("{sign}{}", bytes(n.unsigned_abs()))
    };
    let day = |at: Option<u64>| match at {
        Some(at) => {
            let date = time(at);
            let days = at.saturating_sub(now_ms) / 86_400_000;
            format!("{} (in {days} days)", date.split('T').next().unwrap_or(&date))
        }
        None => "not in sight".into(),
    };
    let row = |c: &Crossing| match c.reached {
        true => vec![ratio(c.ratio_ppm), "reached".into(), "reached".into()],
        false => vec![ratio(c.ratio_ppm), day(c.p50_ms), day(c.p90_ms)],
    };
    let count = |n: Option<u32>| n.map_or_else(|| "no number helps".into(), |n| n.to_string());
    let PeerAdvice { peer_bytes, now, in_90_days } = &forecast.peers;
    format!(
        "growth  {} a day; in one case of ten more than {}\n         from    {} samples over {:.1} days\n         peers   to stay below 0.70 with nodes of {}: {} more now, {} in 90 days\n\n{}",
        per_day(forecast.growth_per_day),
        per_day(forecast.growth_per_day_p90),
        forecast.samples,
        forecast.span_ms as f64 / 86_400_000.0,
        bytes(*peer_bytes),
        count(*now),
        count(*in_90_days),
        table(&["ratio", "as likely as not", "one case in ten"], forecast.crossings.iter().map(row))
    )
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
         \u{20} disks hold     {}\n\
         \u{20} fullest disk   {}{fullest}\n\
         \u{20} not compacted  {}{}{}",
        ratio(report.ratio_ppm),
        ratio(report.overall_ppm),
        bytes(report.needed_bytes),
        bytes(report.total_bytes),
        bytes(report.raw_bytes),
        ratio(report.held_ppm),
        ratio(report.fullest_ppm),
        bytes(report.dead_bytes),
        loss("node", &report.without_largest_node),
        loss("zone", &report.without_largest_zone),
    )
}
