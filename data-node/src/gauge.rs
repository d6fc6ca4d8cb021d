//! Measures the file systems of a node's disks for its heartbeats: one that hangs must silence neither the
//! node nor what is known of the other disks.
//!
//! Owns what was measured last, for each disk. One measurement of a disk is under way at a time, so a disk
//! that hangs keeps one thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::capacity::OnFileSystem;
use crate::disk::DiskStore;

/// How long a heartbeat waits for measurements that it has begun. One that takes longer is for a later
/// heartbeat.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is known of the file system of one disk.
#[derive(Default)]
pub(crate) struct Gauge {
    known: Arc<Mutex<OnFileSystem>>,
    running: Option<JoinHandle<()>>,
}

impl Gauge {
    /// What was measured last; nothing before that.
    pub(crate) fn known(&self) -> OnFileSystem {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to measure, unless that is under way. True if it has begun.
    fn begin(&mut self, measure: impl FnOnce() -> OnFileSystem + Send + 'static) -> bool {
        let idle = self.running.as_ref().is_none_or(JoinHandle::is_finished);
        if idle {
            let known = self.known.clone();
            self.running = Some(tokio::task::spawn_blocking(move || {
                let measured = measure();
                *known.lock().unwrap_or_else(PoisonError::into_inner) = measured;
            }));
        }
        idle
    }

    async fn end(&mut self) {
        if let Some(running) = &mut self.running {
            let _ = running.await;
            self.running = None;
        }
    }
}

/// Measures each disk anew, but for those that have not answered yet, and waits a little for the answers.
pub(crate) async fn measure(gauges: &mut [Gauge], disks: &[Arc<DiskStore>]) {
    let mut begun = Vec::new();
    for (gauge, disk) in gauges.iter_mut().zip(disks) {
        let disk = disk.clone();
        if gauge.begin(move || disk.on_file_system()) {
            begun.push(gauge);
        }
    }
    let all = async {
        for gauge in begun {
            gauge.end().await;
        }
    };
    // What comes later is known to the next heartbeat.
    let _ = tokio::time::timeout(PATIENCE, all).await;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_keeps_one_thread_and_what_was_known_of_it() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.known(), OnFileSystem::default());
        let first = OnFileSystem { ballast_bytes: 7, file_system: Some((1, 500)) };
        assert!(gauge.begin(move || first));
        gauge.end().await;
        assert_eq!(gauge.known(), first);
        let (answer, hung) = mpsc::channel::<OnFileSystem>();
        assert!(gauge.begin(move || hung.recv().unwrap_or_default()));
        assert!(!gauge.begin(OnFileSystem::default), "one at a time");
        assert_eq!(gauge.known(), first);
        let later = OnFileSystem { file_system: Some((1, 400)), ..first };
        answer.send(later).unwrap();
        gauge.end().await;
        assert_eq!(gauge.known(), later);
        assert!(gauge.begin(move || later));
    }
}
