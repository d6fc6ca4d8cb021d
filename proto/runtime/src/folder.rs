//! The lock on a process's folder, since two processes on one folder would destroy it; and a way to have one
//! folder take the place of another.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use fs4::fs_std::FileExt;

/// Why the folder can't be had.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error("{0} is in use by another process")]
    Locked(String),
    /// The disk's error.
    #[error("cannot open {path}: {source}")]
    Io {
        /// Which folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Held as long as the process uses the folder; the kernel releases it with the process.
#[derive(Debug)]
pub struct FolderLock(#[allow(dead_code)] File);

impl FolderLock {
    /// Locks the folder, which must exist.
    pub fn acquire(folder: &Path) -> Result<Self, FolderError> {
        let failed = |source| FolderError::Io { path: folder.display().to_string(), source };
        let path = folder.join("LOCK");
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        if !file.try_lock_exclusive().map_err(failed)? {
            return Err(FolderError::Locked(folder.display().to_string()));
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self(file))
    }
}

/// Has two folders of one file system change places, in one step: at no moment is a name without a folder.
/// Durable once their parents are synced.
pub fn exchange(one: &Path, other: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(folder.path()).unwrap();
        assert!(matches!(FolderLock::acquire(folder.path()), Err(FolderError::Locked(_))));
        drop(first);
        FolderLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn two_folders_change_places_or_stay_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        std::fs::create_dir(&one).unwrap();
        std::fs::write(one.join("file"), b"x").unwrap();
        assert!(exchange(&one, &other).is_err());
        assert!(one.join("file").exists());
        std::fs::create_dir(&other).unwrap();
        exchange(&one, &other).unwrap();
        assert!(one.exists() && !one.join("file").exists() && other.join("file").exists());
    }
}
