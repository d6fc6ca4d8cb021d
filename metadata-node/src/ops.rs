//! What a metadata node says to its operations endpoint: readiness, and the status as metrics.

use std::time::Instant;

use wmall_proto::capacity::CapacityLevel;
use wmall_proto::health::{CODES, MEMBER_SILENT_MS, Severity, health};
use wmall_runtime::metrics::Metrics;
use wmall_runtime::ops::{Ops, Readiness};

use crate::status::StatusSource;

/// What the operations endpoint asks.
pub(crate) struct MetadataOps {
    status: StatusSource,
    leader: Option<prometheus::IntGauge>,
    applied: Option<prometheus::IntGauge>,
    chunks: Option<prometheus::IntGaugeVec>,
    tickets: Option<prometheus::IntGauge>,
    moving: Option<prometheus::IntGauge>,
    ratio: Option<prometheus::Gauge>,
    files: Option<prometheus::IntGauge>,
    bytes: Option<prometheus::IntGauge>,
    jobs: Option<prometheus::IntGaugeVec>,
    quarantined: Option<prometheus::IntGauge>,
    alarm: Option<prometheus::Gauge>,
    findings: Option<prometheus::IntGaugeVec>,
    members: Option<prometheus::IntGauge>,
}

impl MetadataOps {
    pub(crate) fn new(status: StatusSource, metrics: &Metrics) -> Self {
        metrics.ratios(
            "wmall_completeness_threshold",
            "Completeness ratios from which something changes.",
            "level",
            &[
                ("warning", CapacityLevel::WARNING_PPM),
                ("danger", CapacityLevel::DANGER_PPM),
                ("writes_stopped", CapacityLevel::WRITES_STOP_PPM),
                ("ledger_stopped", CapacityLevel::LEDGER_STOPS_PPM),
            ],
        );
        let grades = wmall_proto::grade::Grade::ALL.map(wmall_proto::grade::Grade::as_str);
        Self {
            status,
            leader: metrics.gauge("wmall_raft_leader", "1 on the metadata node that leads."),
            applied: metrics.gauge("wmall_raft_applied_index", "Last applied entry of the Raft log."),
            chunks: metrics.gauges("wmall_chunks", "Committed chunks by grade.", "grade", &grades),
            tickets: metrics.gauge("wmall_tickets", "Pieces known to be missing."),
            moving: metrics.gauge("wmall_moving_slots", "Slots of groups on their way to another disk."),
            ratio: metrics
                .ratio("wmall_completeness_ratio", "Bytes needed at full redundancy over bytes usable."),
            files: metrics.gauge("wmall_files", "Committed files."),
            bytes: metrics.gauge("wmall_chunk_bytes", "Bytes of all committed chunks, once each."),
            jobs: metrics.gauges("wmall_jobs", "Jobs under way.", "state", &["running", "paused"]),
            quarantined: metrics.gauge("wmall_quarantined_disks", "Disks that failed challenges."),
            alarm: metrics.ratio(
                "wmall_alarm_seconds",
                "Until the completeness ratio may reach 0.70, in one case of ten; infinite if that is not in sight.",
            ),
            findings: metrics.gauges(
                "wmall_finding",
                "Of the leader, by the code of docs/health.md: 0 holds, 1 a warning, 2 an error. What is muted counts here.",
                "code",
                &CODES,
            ),
            members: metrics.gauge(
                "wmall_silent_members",
                "Metadata nodes that the leader does not hear; 0 where this member does not lead.",
            ),
        }
    }
}

fn set(gauge: Option<&prometheus::IntGauge>, value: u64) {
    if let Some(gauge) = gauge {
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}

impl Ops for MetadataOps {
    fn role(&self) -> &'static str {
        "metadata-node"
    }

    fn readiness(&self) -> Readiness {
        let metrics = self.status.raft.metrics();
        let metrics = metrics.borrow();
        match (&metrics.running_state, metrics.current_leader) {
            (Err(fatal), _) => Readiness::NotReady(format!("Raft stopped: {fatal}")),
            (Ok(()), None) => Readiness::NotReady("no leader is known".into()),
            (Ok(()), Some(_)) => Readiness::Ready,
        }
    }

    fn refresh(&self) {
        let leads = {
            let metrics = self.status.raft.metrics();
            let metrics = metrics.borrow();
            metrics.current_leader == Some(metrics.id)
        };
        set(self.leader.as_ref(), u64::from(leads));
        let Ok(status) = self.status.compute(Instant::now()) else { return };
        set(self.applied.as_ref(), status.index);
        set(self.tickets.as_ref(), status.tickets);
        set(self.moving.as_ref(), status.repair.moving);
        if let Some(ratio) = &self.ratio {
            ratio.set(status.capacity.ratio_ppm as f64 / 1e6);
        }
        set(self.files.as_ref(), status.files);
        set(self.bytes.as_ref(), status.chunk_bytes);
        let disks = status.nodes.iter().flat_map(|n| &n.disks);
        set(self.quarantined.as_ref(), disks.filter(|d| d.quarantined).count() as u64);
        if let Some(jobs) = &self.jobs {
            for (state, count) in [("running", status.jobs), ("paused", status.jobs_paused)] {
                jobs.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        if let Some(alarm) = &self.alarm {
            let left = status.forecast.as_ref().and_then(|f| f.alarm_in_ms(status.now_ms));
            alarm.set(left.map_or(f64::INFINITY, |ms| ms as f64 / 1e3));
        }
        let silent = status.members.iter().filter(|m| m.silent_ms > MEMBER_SILENT_MS);
        set(self.members.as_ref(), silent.count() as u64);
        if let Some(gauges) = &self.findings {
            // Only the leader hears the others: what another member makes of its silence is no finding.
            let found = if leads { health(&status) } else { Vec::new() };
            for code in CODES {
                let severity = found.iter().find(|f| f.code == code).map(|f| f.severity);
                let rank = severity.map_or(0, |s| if s == Severity::Error { 2 } else { 1 });
                gauges.with_label_values(&[code]).set(rank);
            }
        }
        if let Some(chunks) = &self.chunks {
            for grade in wmall_proto::grade::Grade::ALL {
                let count = i64::try_from(status.chunks.get(grade)).unwrap_or(i64::MAX);
                chunks.with_label_values(&[grade.as_str()]).set(count);
            }
        }
    }
}
