//! What a journal needs of a disk: one flat folder of preallocated files.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

/// A folder. The real one is [`crate::RealDisk`]; `sim::SimDisk` loses, tears and reorders what was
/// not synced.
pub trait Disk: Send + Sync + 'static {
    /// Makes a file of `size` zero bytes, with its blocks allocated. Fails if the name is taken.
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Renames, replacing what had the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// A file of such a folder. Offsets are absolute; the file never grows.
pub trait DiskFile: Send + Sync {
    /// Writes all of the parts, one behind the other.
    fn write_at(&self, parts: &[Bytes], offset: u64) -> io::Result<()>;
    /// The same for what nobody will read soon: past the page cache, where there is such a way. What is written here is read
    /// back as what was written the usual way is.
    fn write_past_cache(&self, parts: &[Bytes], offset: u64) -> io::Result<()> {
        self.write_at(parts, offset)
    }
    /// Fills the buffer, or fails with `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Reads `length` bytes, or fails with `UnexpectedEof`.
    fn read_vec(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        self.read_at(&mut buffer, offset)?;
        Ok(buffer)
    }
    /// Lets go of copies of this range in memory, so that the next read is one of the disk. What was written and not
    /// synced stays.
    fn forget_cached(&self, offset: u64, length: u64);
    /// Makes the content durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content and size durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Bytes of the file.
    fn size(&self) -> io::Result<u64>;
}
