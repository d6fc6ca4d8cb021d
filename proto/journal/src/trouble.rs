//! Whose an error of the operating system is: the one place that says so.
//!
//! A medium that can't be read costs what is there. A process that is short of files, memory or threads says
//! nothing of its disks. Anything else is an error of the disk.

use std::io;

use rustix::io::Errno;

/// Whose an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// These bytes can't be read, while others of the disk may well be.
    Medium,
    /// The process or its machine is short of files, memory or threads; it may pass.
    Process,
    /// The disk is full.
    Full,
    /// The disk fails.
    Disk,
}

impl Trouble {
    /// Whose this error is.
    pub fn of(error: &io::Error) -> Self {
        // The last is what file systems with checksums of their own say.
        const MEDIUM: [Errno; 3] = [Errno::IO, Errno::NODATA, Errno::BADMSG];
        const PROCESS: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
        let code = error.raw_os_error();
        let is = |errno: &Errno| Some(errno.raw_os_error()) == code;
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => Self::Process,
            _ if MEDIUM.iter().any(is) => Self::Medium,
            _ if PROCESS.iter().any(is) => Self::Process,
            _ => Self::Disk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_whose_they_are() {
        let of = |errno: Errno| Trouble::of(&errno.into());
        for errno in [Errno::IO, Errno::NODATA, Errno::BADMSG] {
            assert_eq!(of(errno), Trouble::Medium);
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN] {
            assert_eq!(of(errno), Trouble::Process);
        }
        assert_eq!((of(Errno::NOSPC), of(Errno::DQUOT)), (Trouble::Full, Trouble::Full));
        assert_eq!((of(Errno::ROFS), of(Errno::ACCESS)), (Trouble::Disk, Trouble::Disk));
        assert_eq!(Trouble::of(&io::Error::other("the power is off")), Trouble::Disk);
    }
}
