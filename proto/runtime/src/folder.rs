//! The lock on a process's folder, since two processes on one folder would destroy it; the durable write of a
//! small file; and a way to have one folder take the place of another.

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

/// Writes a small file durably, over the one of before: aside, fsync'ed, renamed, the folder fsync'ed. After
/// a crash the file is the one of before or the new one, and `NAME.new` may be left, which the next write
/// replaces. `mode` is that of a file which is made.
pub fn write_durably(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = folder.join(format!("{name}.new"));
    // What is left of an earlier try may have another mode.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(temporary, folder.join(name))?;
    File::open(folder)?.sync_all()
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
    fn a_small_file_is_replaced_whatever_an_earlier_try_left() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("note.new"), "half of somethi").unwrap();
        for text in ["one", "two"] {
            write_durably(folder.path(), "note", text.as_bytes(), 0o600).unwrap();
            assert_eq!(std::fs::read_to_string(folder.path().join("note")).unwrap(), text);
        }
        let mode = std::fs::metadata(folder.path().join("note")).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, folder.path().join("note.new").exists()), (0o600, false));
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
