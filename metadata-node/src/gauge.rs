//! Looks at the room on this member's own volumes, and keeps a ballast on that of its data. The ballast is
//! given up when the volume is full all the same, so that the member can start, and deletes can be written.
//!
//! Two tasks, one a volume: a folder that hangs, such as a mount of another machine, must not hide the other
//! one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wmall_proto::volume::VolumeRoom;
use wmall_runtime::ballast::{Ballast, held_in};
use wmall_runtime::volume;

use crate::backup::{BackupConfig, snapshot_files};
use crate::leader::Volumes;

/// Between looks.
const LOOK: Duration = Duration::from_secs(1);

/// `[volume]`: the room that the volume of `data_dir` is to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VolumeConfig {
    /// With less than this and the bytes of the newest snapshot free, the member says that it is low.
    pub reserve_bytes: u64,
    /// Bytes of the ballast; none if 0.
    pub ballast_bytes: u64,
}

impl Default for VolumeConfig {
    fn default() -> Self {
        Self { reserve_bytes: 256 << 20, ballast_bytes: 32 << 20 }
    }
}

/// Keeps a ballast in a member's folder. Before anything else there is opened: on a full volume it is given
/// up.
pub(crate) fn ballast(folder: &Path, config: &VolumeConfig) -> Ballast {
    Ballast::new(folder.to_path_buf(), config.ballast_bytes, config.ballast_bytes / 2)
}

/// Measures the volume of the data again and again. Runs as long as it is not aborted.
pub(crate) async fn watch_data(
    folder: PathBuf,
    config: VolumeConfig,
    ballast: Ballast,
    volumes: Arc<Volumes>,
) {
    let ballast = Arc::new(ballast);
    loop {
        let (folder, ballast) = (folder.clone(), ballast.clone());
        let looking = move || {
            if !ballast.relieve() {
                ballast.restore();
            }
            let room = room(&folder, &folder.join("snapshots"), config.reserve_bytes)?;
            // Count the ballast, which can be given up.
            Some(VolumeRoom { free_bytes: room.free_bytes.saturating_add(held_in(&folder)), ..room })
        };
        let data = tokio::task::spawn_blocking(looking).await.unwrap_or_default();
        volumes.measure(|own| own.data = data);
        tokio::time::sleep(LOOK).await;
    }
}

/// Measures the volume of the backups again and again. Runs as long as it is not aborted.
pub(crate) async fn watch_backups(config: BackupConfig, volumes: Arc<Volumes>) {
    loop {
        let config = config.clone();
        let looking = move || room(&config.dir, &config.dir, config.reserve_bytes);
        let backup = tokio::task::spawn_blocking(looking).await.unwrap_or_default();
        volumes.measure(|own| own.backup = backup);
        tokio::time::sleep(LOOK).await;
    }
}

/// The room on a folder's volume. A snapshot is written beside the one before it, so the newest counts to
/// what is to stay free.
fn room(folder: &Path, snapshots: &Path, reserve_bytes: u64) -> Option<VolumeRoom> {
    let free_bytes = volume::free_bytes(folder).ok()?;
    let newest = snapshot_files(snapshots).ok().and_then(|files| files.last().cloned());
    let next = newest.and_then(|path| std::fs::metadata(path).ok()).map_or(0, |meta| meta.len());
    Some(VolumeRoom { free_bytes, bound_bytes: reserve_bytes.saturating_add(next) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_snapshot_counts_to_what_is_to_stay_free() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = folder.path().join("snapshots");
        let bound = || room(folder.path(), &snapshots, 1000).unwrap().bound_bytes;
        assert_eq!(bound(), 1000);
        std::fs::create_dir(&snapshots).unwrap();
        std::fs::write(snapshots.join("1.snap"), [0; 70]).unwrap();
        std::fs::write(snapshots.join("2.snap"), [0; 50]).unwrap();
        assert_eq!(bound(), 1050);
        assert!(room(folder.path(), &snapshots, 0).unwrap().free_bytes > 0);
        assert_eq!(room(&folder.path().join("gone"), &snapshots, 0), None);
    }
}
