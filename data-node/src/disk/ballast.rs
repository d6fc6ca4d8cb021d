//! A file of one segment's size that is given up when the file system is full, so that deleting, which
//! writes before it frees, still works.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

const FILE: &str = "ballast";

/// The file, there or given up.
pub(super) struct Ballast {
    folder: PathBuf,
    bytes: u64,
    /// With less than this free it is given up.
    low: u64,
    there: Mutex<bool>,
}

impl Ballast {
    pub(super) fn new(folder: PathBuf, bytes: u64, low: u64) -> Self {
        let ballast = Self { folder, bytes, low, there: Mutex::new(false) };
        ballast.restore();
        ballast
    }

    fn there(&self) -> std::sync::MutexGuard<'_, bool> {
        self.there.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes the file again, if it is not there and there is room for twice as much.
    pub(super) fn restore(&self) {
        let mut there = self.there();
        if *there {
            return;
        }
        if self.free().is_none_or(|free| free < 2 * self.bytes + 4 * self.low) {
            return;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join(FILE));
        *there = file.is_ok_and(|f| fallocate(&f, FallocateFlags::empty(), 0, self.bytes).is_ok());
    }

    fn free(&self) -> Option<u64> {
        statvfs(&self.folder).ok().map(|stat| stat.f_bavail * stat.f_frsize)
    }

    /// Gives the room up if others have eaten what is kept free for the index. Whether nothing more should be taken in.
    pub(super) fn relieve(&self) -> bool {
        let low = self.free().is_some_and(|free| free < self.low);
        if low {
            self.drop_it();
        }
        low
    }

    /// Gives the room up. False if there was none to give.
    pub(super) fn drop_it(&self) -> bool {
        let mut there = self.there();
        if !std::mem::take(&mut *there) {
            return false;
        }
        tracing::warn!("the file system is full; the ballast is given up so that room can be made");
        fs::remove_file(self.folder.join(FILE)).is_ok()
    }
}
