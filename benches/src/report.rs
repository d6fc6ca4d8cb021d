//! The figures, as lines of the table in `docs/benchmarks.md`.

use std::time::Duration;

/// Gathers lines.
pub(crate) struct Report(Vec<String>);

/// What many small calls took.
pub(crate) struct Calls {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// A rate in bytes per second against a reference.
    pub(crate) fn ratio(&mut self, what: &str, rate: f64, against: &str, reference: f64, wanted: f64) {
        let gib = |r: f64| r / f64::from(1u32 << 30);
        let ratio = rate / reference;
        let verdict = if ratio >= wanted { "reached" } else { "falls short" };
        self.0.push(format!(
            "| {what} | {:.2} GiB/s | {against}: {:.2} GiB/s | {ratio:.2} | {wanted} | {verdict} |",
            gib(rate),
            gib(reference)
        ));
    }

    /// A rate in calls per second against a number.
    pub(crate) fn rate(&mut self, what: &str, calls: &Calls, wanted: f64) {
        let verdict = if calls.per_second >= wanted { "reached" } else { "falls short" };
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        self.0.push(format!(
            "| {what} | {:.0}/s | p50 {:.1} ms, p99 {:.1} ms | | {wanted} | {verdict} |",
            calls.per_second,
            ms(calls.p50),
            ms(calls.p99)
        ));
    }

    /// A part of another figure of the same run.
    pub(crate) fn share(&mut self, what: &str, figure: String, reference: String, ratio: f64, wanted: f64) {
        let verdict = if ratio >= wanted { "reached" } else { "falls short" };
        self.0.push(format!("| {what} | {figure} | {reference} | {ratio:.2} | {wanted} | {verdict} |"));
    }

    /// Something that is to stay below a bound.
    pub(crate) fn at_most(&mut self, what: &str, figure: f64, wanted: f64, unit: &str) {
        let verdict = if figure <= wanted { "reached" } else { "falls short" };
        self.0.push(format!("| {what} | {figure:.1} {unit} | | | at most {wanted} {unit} | {verdict} |"));
    }

    /// Something that is to be no less than a number.
    pub(crate) fn number(&mut self, what: &str, figure: f64, wanted: f64, unit: &str) {
        let verdict = if figure >= wanted { "reached" } else { "falls short" };
        self.0.push(format!("| {what} | {figure:.0}{unit} | | | at least {wanted}{unit} | {verdict} |"));
    }

    /// A figure of which nothing is demanded, and what it is to be compared with.
    pub(crate) fn plain(&mut self, what: &str, figure: &str, beside: &str) {
        self.0.push(format!("| {what} | {figure} | {beside} | | | |"));
    }

    pub(crate) fn print(&self) {
        println!("| what | figure | reference | ratio | wanted | |");
        println!("|---|---|---|---|---|---|");
        self.0.iter().for_each(|line| println!("{line}"));
    }
}
