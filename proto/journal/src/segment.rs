//! The segments of a journal: birth, lookup, retirement.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::format::{encode_segment_header, segment_name};

/// The open files, shared between the writer and the readers.
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    identity: [u8; 16],
    files: RwLock<BTreeMap<u64, Arc<dyn DiskFile>>>,
}

impl Segments {
    pub(crate) fn new(disk: Arc<dyn Disk>, identity: [u8; 16]) -> Self {
        Self { disk, identity, files: RwLock::default() }
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(crate) fn add(&self, number: u64, file: Arc<dyn DiskFile>) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(number, file);
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<dyn DiskFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// First half of a birth: temporary name, blocks, header, fsync. Here a full disk shows.
    pub(crate) fn prepare(&self, number: u64, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let temporary = temporary_name(number);
        match self.disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&temporary, size)?;
        let header = Bytes::copy_from_slice(&encode_segment_header(&self.identity, number));
        file.write_at(&[header], 0)?;
        file.sync_all()?;
        Ok(file)
    }

    /// Second half: rename, fsync of the folder. The segment before it is sealed by now, so after a
    /// crash at any point every segment but the last one has its seal.
    pub(crate) fn publish(&self, number: u64, file: Arc<dyn DiskFile>) -> io::Result<()> {
        self.disk.rename(&temporary_name(number), &segment_name(number))?;
        self.disk.sync_dir()?;
        self.add(number, file);
        Ok(())
    }

    /// Removes every segment below `number`, oldest first, so that a crash leaves no hole.
    pub(crate) fn retire_below(&self, number: u64) -> io::Result<()> {
        let old: Vec<u64> = self.numbers().into_iter().filter(|&n| n < number).collect();
        for n in &old {
            self.files.write().unwrap_or_else(PoisonError::into_inner).remove(n);
            self.disk.remove(&segment_name(*n))?;
        }
        if old.is_empty() { Ok(()) } else { self.disk.sync_dir() }
    }
}

fn temporary_name(number: u64) -> String {
    format!("{}.new", segment_name(number))
}
