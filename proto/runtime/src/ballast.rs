//! A file that is given up when its file system is full, so that deleting and starting, which write before
//! they free, still work.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate};

use crate::volume;

const FILE: &str = "ballast";

/// The file, there or given up.
pub struct Ballast {
    folder: PathBuf,
    bytes: u64,
    /// With less than this free it is given up.
    low: u64,
    there: Mutex<bool>,
}

/// Bytes that the ballast of a folder takes now.
pub fn held_in(folder: &Path) -> u64 {
    fs::metadata(folder.join(FILE)).map_or(0, |meta| meta.len())
}

impl Ballast {
    /// Of so many bytes, given up when less than `low` is free. Made if there is room; one that is there from
    /// before is given up at once if there is none.
    pub fn new(folder: PathBuf, bytes: u64, low: u64) -> Self {
        let there = Mutex::new(bytes > 0 && held_in(&folder) == bytes);
        let ballast = Self { folder, bytes, low, there };
        ballast.relieve();
        ballast.restore();
        ballast
    }

    fn there(&self) -> MutexGuard<'_, bool> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the file again, if it is not there and there is room for twice as much.
    pub fn restore(&self) {
        let mut there = self.there();
        if *there || self.bytes == 0 {
            return;
        }
        if self.free().is_none_or(|free| free < 2 * self.bytes + 4 * self.low) {
            return;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join(FILE));
        *there = file.is_ok_and(|f| fallocate(&f, FallocateFlags::empty(), 0, self.bytes).is_ok());
        if !*there {
            // A half-made file would keep the room that it could not get.
            let _ = fs::remove_file(self.folder.join(FILE));
        }
    }

    fn free(&self) -> Option<u64> {
        volume::free_bytes(&self.folder).ok()
    }

    /// Gives the room up if others have eaten what is to stay free. Whether so little is free.
    pub fn relieve(&self) -> bool {
        let low = self.free().is_some_and(|free| free < self.low);
        if low {
            self.drop_it();
        }
        low
    }

    /// Gives the room up. False if there was none to give.
    pub fn drop_it(&self) -> bool {
        let mut there = self.there();
        if !std::mem::take(&mut *there) {
            return false;
        }
        tracing::warn!(
            folder = %self.folder.display(),
            "the file system is full; the ballast is given up so that room can be made"
        );
        fs::remove_file(self.folder.join(FILE)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballast_of_before_is_found_and_given_up_where_too_little_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let ballast = Ballast::new(path.clone(), 1 << 20, 0);
        assert_eq!(held_in(&path), 1 << 20);
        drop(ballast);
        let ballast = Ballast::new(path.clone(), 1 << 20, 0);
        assert!(ballast.drop_it(), "the file of before is this one's");
        assert!(held_in(&path) == 0 && !ballast.drop_it());
        ballast.restore();
        assert_eq!(held_in(&path), 1 << 20);
        // The next start finds no room at all.
        let ballast = Ballast::new(path.clone(), 1 << 20, u64::MAX / 8);
        assert!(held_in(&path) == 0 && ballast.relieve());
        ballast.restore();
        assert_eq!(held_in(&path), 0, "nor makes it while there is none");
    }
}
