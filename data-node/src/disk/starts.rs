//! How often a disk has been opened: a counter beside its superblock, durable before the disk is in use. The
//! metadata nodes know the last one, so a disk that was put back to an older copy, or copied, is told from
//! the one that they know.

use std::fs;
use std::io;
use std::path::Path;

use wmall_journal::Trouble;
use wmall_runtime::folder::write_durably;

const FILE: &str = "starts";

/// Counts this start, durably. A disk without a counter has never been opened.
pub(super) fn count(folder: &Path) -> io::Result<u64> {
    let before: u64 = match fs::read_to_string(folder.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        // One that can't be read is lower than any: the metadata nodes say where to go on.
        Err(error)
            if error.kind() == io::ErrorKind::InvalidData || Trouble::of(&error) == Trouble::Medium =>
        {
            0
        }
        read => read?.trim().parse().unwrap_or(0),
    };
    let now = before.saturating_add(1);
    set(folder, now)?;
    Ok(now)
}

/// Goes on from this number.
pub(super) fn set(folder: &Path, starts: u64) -> io::Result<()> {
    write_durably(folder, FILE, format!("{starts}\n").as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_counts_and_goes_on_from_what_was_set() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!((count(folder.path()).unwrap(), count(folder.path()).unwrap()), (1, 2));
        set(folder.path(), 70).unwrap();
        assert_eq!(count(folder.path()).unwrap(), 71);
        for junk in [&b"junk"[..], b"\xff\xfe"] {
            fs::write(folder.path().join(FILE), junk).unwrap();
            assert_eq!(count(folder.path()).unwrap(), 1);
        }
    }
}
