//! Stopping: one token that every task listens to, set by a signal, by the end of the parent, or by
//! whoever runs the role inside its own process.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long tasks may take to finish once a stop is asked for.
pub const GRACE: Duration = Duration::from_secs(10);

/// Shared by all tasks of a role.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// One that is not asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody to stop.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether a stop has been asked for.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until a stop is asked for.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Runs until the work is done or a stop is asked for; none in the latter case.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.run_until_cancelled(work).await
    }

    /// Turns SIGTERM and SIGINT into a request.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let token = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.request();
        });
        Ok(())
    }

    /// Turns the end of standard input into a request: a parent that is gone, however it went, has
    /// closed its end of the pipe.
    pub fn on_stdin_closed(&self) {
        let token = self.clone();
        std::thread::spawn(move || {
            use std::io::Read;
            let mut sink = [0u8; 64];
            while matches!(std::io::stdin().read(&mut sink), Ok(n) if n > 0) {}
            token.request();
        });
    }
}
