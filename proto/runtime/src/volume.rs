//! How much room a file system has.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that a process without privileges may still write to the file system of a folder.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The file system of a folder, and its free bytes: two folders of one share them.
pub fn of(folder: &Path) -> io::Result<(u64, u64)> {
    Ok((std::fs::metadata(folder)?.dev(), free_bytes(folder)?))
}
