//! A folder of the file system.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::FallocateFlags;

use crate::direct::Direct;
use crate::disk::{Disk, DiskFile};

/// Linux accepts at most this many parts in one vectored write.
const MAX_PARTS: usize = 1024;

/// A [`Disk`] on the file system.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
    handle: File,
    keep_free: u64,
    direct: Arc<Mutex<Direct>>,
    /// Files that were opened.
    opened: AtomicU64,
}

impl RealDisk {
    /// Opens the folder, making it if it is missing. Its own entry in its parent is made durable.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        if !folder.is_dir() {
            std::fs::create_dir_all(&folder)?;
            if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        let handle = File::open(&folder)?;
        Ok(Self { folder, handle, keep_free: 0, direct: Arc::default(), opened: AtomicU64::new(0) })
    }

    /// The same, leaving so many bytes of the file system to others: a file with which less would be left is refused as
    /// if there were no room.
    pub fn keeping_free(self, bytes: u64) -> Self {
        Self { keep_free: bytes, ..self }
    }

    fn file(&self, file: File) -> Arc<dyn DiskFile> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        Arc::new(RealFile { file, number, direct: self.direct.clone() })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let allocated = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size);
        let checked = allocated.and_then(|()| rustix::fs::statvfs(&self.folder)).and_then(|stat| {
            let left = stat.f_bavail * stat.f_frsize;
            if left < self.keep_free { Err(rustix::io::Errno::NOSPC) } else { Ok(()) }
        });
        if let Err(error) = checked {
            // A half-made file would keep the room that it could not get.
            let _ = std::fs::remove_file(&path);
            return Err(error.into());
        }
        Ok(self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.folder.join(name))?;
        Ok(self.file(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.direct.lock().unwrap_or_else(PoisonError::into_inner).let_go();
        std::fs::remove_file(self.folder.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

struct RealFile {
    file: File,
    /// Told from other files of the disk.
    number: u64,
    direct: Arc<Mutex<Direct>>,
}

impl DiskFile for RealFile {
    fn write_at(&self, parts: &[Bytes], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            let count = slices.len().min(MAX_PARTS);
            match rustix::io::pwritev(&self.file, &slices[..count], offset) {
                Ok(0) if slices[..count].iter().all(|s| s.is_empty()) => slices = &mut slices[count..],
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_past_cache(&self, parts: &[Bytes], offset: u64) -> io::Result<()> {
        // A writer that panicked has left nothing behind that another one would go by.
        let mut direct = self.direct.lock().unwrap_or_else(PoisonError::into_inner);
        let (head, tail) = direct.write((self.number, &self.file), parts, offset)?;
        let length: usize = parts.iter().map(Bytes::len).sum();
        self.write_at(&cut(parts, 0, head), offset)?;
        self.write_at(&cut(parts, length - tail, tail), offset + (length - tail) as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Into memory that nobody has zeroed first.
    fn read_vec(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(length);
        while buffer.len() < length {
            let at = offset + buffer.len() as u64;
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut buffer), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        buffer.truncate(length);
        Ok(buffer)
    }

    fn forget_cached(&self, offset: u64, length: u64) {
        // A hint: what the kernel keeps all the same is read from there.
        if let Some(length) = std::num::NonZeroU64::new(length) {
            let _ = rustix::fs::fadvise(&self.file, offset, Some(length), rustix::fs::Advice::DontNeed);
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// So many bytes of parts from one of them on.
fn cut(parts: &[Bytes], mut skip: usize, mut count: usize) -> Vec<Bytes> {
    let mut taken = Vec::new();
    for part in parts {
        let from = skip.min(part.len());
        let to = (from + count).min(part.len());
        (skip, count) = (skip - from, count - (to - from));
        if to > from {
            taken.push(part.slice(from..to));
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is removed gives its room back, also if it was the last that was written past the page cache.
    #[test]
    fn nobody_holds_a_file_that_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path()).unwrap();
        let file = disk.create("segment", 1 << 20).unwrap();
        file.write_past_cache(&[Bytes::from(vec![1; 64 << 10])], 0).unwrap();
        drop(file);
        disk.remove("segment").unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let held: Vec<PathBuf> = links.filter(|link| link.parent() == Some(folder.path())).collect();
        assert_eq!((held, disk.list().unwrap()), (vec![], vec![]));
    }
}
