//! Scrub: reads everything again, so that rot is found while there are other pieces to heal it from.
//!
//! One task. A pass over all disks takes about as long as it may
//! ([`RawConfig::scrub_pass_ms`](crate::RawConfig), 14 days unless told otherwise), steps back for clients,
//! and goes on after a restart where it was: its place is in a file beside each disk. What is read comes from
//! the disk, not from the page cache. A bad piece is reported with the next heartbeat, becomes a ticket, and
//! is fetched anew.
//!
//! Deliberately absent: any repair. A disk that finds its own rot is no judge of what is right.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wmall_proto::feed::PoolChunk;
use wmall_proto::{ChunkId, PoolId};
use wmall_runtime::Shutdown;
use wmall_runtime::clock::now_ms;

use crate::disk::{DiskStore, Look};
use crate::metrics::ScrubMetrics;
use crate::traffic::Traffic;

/// Pieces between two notes of the place.
const PAGE: usize = 256;
/// The longest pause between two pieces, and between two looks at an empty disk.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The shortest pass: one that has nothing to read must not spin.
const SHORTEST_PASS: Duration = Duration::from_secs(1);
const VERSION: u32 = 1;

/// The scrubber.
pub(crate) struct Scrubber {
    pub(crate) disks: Arc<Vec<Arc<DiskStore>>>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) pass: Duration,
    pub(crate) metrics: ScrubMetrics,
}

/// Where a pass over a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    version: u32,
    /// When the pass began, in milliseconds since the Unix epoch.
    begun_ms: u64,
    /// The last piece that was read; none at the beginning.
    after: Option<(u16, ChunkId)>,
}

impl Scrubber {
    /// Runs until a stop is asked for.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let this = Arc::new(self);
        let mut running = tokio::task::JoinSet::new();
        for disk in this.disks.iter() {
            let (this, disk, shutdown) = (this.clone(), disk.clone(), shutdown.clone());
            running.spawn(async move { this.scrub(&disk, &shutdown).await });
        }
        while running.join_next().await.is_some() {}
    }

    async fn scrub(&self, disk: &Arc<DiskStore>, shutdown: &Shutdown) {
        let path = place_file(&disk.config.path);
        let mut place = load(&path);
        while !shutdown.is_requested() {
            let begun = Instant::now();
            let found = self.page(disk, &mut place, shutdown).await;
            let wait = match found {
                Some(true) => {
                    save(&path, &place);
                    Duration::ZERO
                }
                Some(false) => {
                    let age = Duration::from_millis(now_ms().saturating_sub(place.begun_ms));
                    let left = self.pass.max(SHORTEST_PASS).saturating_sub(age);
                    tracing::debug!(disk = %disk.name, "a scrub has ended");
                    self.metrics.passes.iter().for_each(prometheus::IntCounter::inc);
                    place =
                        Place { version: VERSION, begun_ms: now_ms() + left.as_millis() as u64, after: None };
                    save(&path, &place);
                    left
                }
                None => LONGEST_PAUSE.min(self.pass).max(SHORTEST_PASS),
            };
            tracing::trace!(took = ?begun.elapsed(), "a page was scrubbed");
            shutdown.or(tokio::time::sleep(wait)).await;
        }
    }

    /// Reads the next pieces. False at the end of the disk; none if its index can't be read.
    async fn page(&self, disk: &Arc<DiskStore>, place: &mut Place, shutdown: &Shutdown) -> Option<bool> {
        let after = place.after.map(|(pool, chunk)| PoolChunk { pool: PoolId(pool), chunk });
        let keys = disk.pieces(after.as_ref(), PAGE).ok()?;
        // What each piece may take, so that the pass ends when it should.
        let all = disk.usage().pieces.max(1);
        let share = self.pass.div_f64(all as f64).min(LONGEST_PAUSE);
        for key in &keys {
            let (store, key, begun) = (disk.clone(), *key, Instant::now());
            let looked = tokio::task::spawn_blocking(move || store.look_cold(&key)).await;
            match looked {
                Ok(Ok(Look::Bad(at))) => {
                    tracing::error!(disk = %disk.name, chunk = %key.chunk, "a scrub found a rotten piece");
                    self.metrics.bad.iter().for_each(prometheus::IntCounter::inc);
                    disk.found_bad(key, at);
                }
                // One that was deleted meanwhile is no finding.
                Ok(Ok(_)) => self.metrics.pieces.iter().for_each(prometheus::IntCounter::inc),
                Ok(Err(_)) | Err(_) => return None,
            }
            place.after = Some((key.pool.0, key.chunk));
            let now = Instant::now();
            let took = now - begun;
            let rest = share.saturating_sub(took).max(self.traffic.rest(took, now));
            shutdown.or(tokio::time::sleep(rest)).await;
            if shutdown.is_requested() {
                return Some(true);
            }
        }
        Some(keys.len() == PAGE)
    }
}

fn place_file(folder: &Path) -> PathBuf {
    folder.join("scrub.json")
}

/// A place that can't be read costs one pass from the beginning.
fn load(path: &Path) -> Place {
    let read = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Place>(&bytes).ok());
    let fresh = Place { version: VERSION, begun_ms: now_ms(), after: None };
    read.filter(|place| place.version == VERSION).unwrap_or(fresh)
}

/// Nothing depends on it being durable.
fn save(path: &Path, place: &Place) {
    let temporary = path.with_extension("new");
    let written = serde_json::to_vec(place).map_err(std::io::Error::other);
    let written = written.and_then(|bytes| std::fs::write(&temporary, bytes));
    if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, path)) {
        tracing::warn!(%error, "the place of the scrub could not be noted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_again_and_a_damaged_one_is_the_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = place_file(folder.path());
        let place = Place { version: VERSION, begun_ms: 77, after: Some((3, ChunkId::of(b"x"))) };
        save(&path, &place);
        assert_eq!(load(&path), place);
        for bad in [&b"{"[..], br#"{"version":9,"begun_ms":1,"after":null}"#, b""] {
            std::fs::write(&path, bad).unwrap();
            let fresh = load(&path);
            assert!(fresh.after.is_none() && fresh.begun_ms > 77);
        }
    }
}
