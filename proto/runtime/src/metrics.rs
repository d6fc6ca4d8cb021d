//! A registry for one process and the ways to fill it. Names are `wmall_…`, in base units; every label
//! takes values of a small fixed set and is there from the start, at zero.

use std::time::Instant;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
};
use prometheus::{IntGaugeVec, Registry};

/// Upper bounds in seconds of what a call may take: 100 µs to 10 s.
const SECONDS: &[f64] =
    &[1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A registry whose collectors are made by name.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The registry, for the exposition.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    // Names and labels are constants of ours, so a collector that does not register is a defect that
    // the first start of any test shows; it is logged and its values go nowhere.
    fn add<C: prometheus::core::Collector + Clone + 'static>(&self, collector: &C) {
        if let Err(error) = self.registry.register(Box::new(collector.clone())) {
            tracing::error!(%error, "a metric could not be registered");
        }
    }

    /// A counter.
    pub fn counter(&self, name: &str, help: &str) -> Option<IntCounter> {
        let counter = IntCounter::new(name, help).ok()?;
        self.add(&counter);
        Some(counter)
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Option<IntGauge> {
        let gauge = IntGauge::new(name, help).ok()?;
        self.add(&gauge);
        Some(gauge)
    }

    /// Gauges with one label that takes these values.
    pub fn gauges(&self, name: &str, help: &str, label: &str, values: &[&str]) -> Option<IntGaugeVec> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), &[label]).ok()?;
        for value in values {
            gauges.with_label_values(&[value]).set(0);
        }
        self.add(&gauges);
        Some(gauges)
    }

    /// A gauge of a ratio.
    pub fn ratio(&self, name: &str, help: &str) -> Option<Gauge> {
        let gauge = Gauge::new(name, help).ok()?;
        self.add(&gauge);
        Some(gauge)
    }

    /// Ratios that stay as they are, in millionths, by label.
    pub fn ratios(&self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        let Ok(gauges) = GaugeVec::new(Opts::new(name, help), &[label]) else { return };
        for (value, ppm) in values {
            gauges.with_label_values(&[value]).set(*ppm as f64 / 1e6);
        }
        self.add(&gauges);
    }

    /// Calls served, by kind: how many, how many failed, and how long they took.
    pub fn calls(&self, kinds: &[&str]) -> Option<CallMetrics> {
        let total =
            IntCounterVec::new(Opts::new("wmall_calls_total", "Calls answered."), &["call", "outcome"])
                .ok()?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("wmall_call_seconds", "Time from request to answer.")
                .buckets(SECONDS.to_vec()),
            &["call"],
        )
        .ok()?;
        for kind in kinds {
            total.with_label_values(&[kind, "ok"]);
            total.with_label_values(&[kind, "error"]);
            seconds.with_label_values(&[kind]);
        }
        self.add(&total);
        self.add(&seconds);
        Some(CallMetrics { total, seconds })
    }
}

/// Counts and times calls.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    total: IntCounterVec,
    seconds: HistogramVec,
}

impl CallMetrics {
    /// A call that started then has ended.
    pub fn record(&self, kind: &str, ok: bool, started: Instant) {
        self.total.with_label_values(&[kind, if ok { "ok" } else { "error" }]).inc();
        let histogram: Histogram = self.seconds.with_label_values(&[kind]);
        histogram.observe(started.elapsed().as_secs_f64());
    }
}
