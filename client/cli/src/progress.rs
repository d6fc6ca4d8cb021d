//! Progress on stderr: a bar on a terminal, a line every 30 seconds elsewhere, nothing when told so.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wmall_client::Progress;

/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// A bar, or what stands for it.
pub(crate) struct Shown {
    bar: ProgressBar,
}

impl Shown {
    /// Of so many units; 0 when that is not known. `in_bytes` is for how they are printed.
    pub(crate) fn new(what: &'static str, total: u64, in_bytes: bool, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(
            (total > 0).then_some(total),
            if quiet || !std::io::stderr().is_terminal() {
                ProgressDrawTarget::hidden()
            } else {
                ProgressDrawTarget::stderr_with_hz(10)
            },
        );
        let style = match (in_bytes, total > 0) {
            (true, true) => "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
            (true, false) => "{msg} {spinner} {bytes} {binary_bytes_per_sec}",
            (false, _) => "{msg} {wide_bar} {pos}/{len} {eta}",
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Self { bar }
    }

    /// To be handed to the SDK.
    pub(crate) fn callback(&self, quiet: bool) -> Progress {
        let bar = self.bar.clone();
        let last = Mutex::new(Instant::now());
        let lines = !quiet && !std::io::stderr().is_terminal();
        Arc::new(move |done| {
            bar.set_position(done);
            if lines
                && let Ok(mut last) = last.lock()
                && last.elapsed() >= LINE_EVERY
            {
                *last = Instant::now();
                eprintln!("{}: {done} of {}", bar.message(), bar.length().unwrap_or(0));
            }
        })
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
