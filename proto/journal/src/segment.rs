//! The segments of a journal: birth, lookup, retirement.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::format::{encode_segment_header, segment_name};
use crate::retired::Retired;

/// The open files, shared between the writer and the readers.
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    identity: [u8; 16],
    files: RwLock<BTreeMap<u64, Arc<dyn DiskFile>>>,
    /// The list on disk; none where only the oldest segments were ever removed.
    retired: Mutex<Option<Retired>>,
}

impl Segments {
    pub(crate) fn new(disk: Arc<dyn Disk>, identity: [u8; 16]) -> Self {
        Self { disk, identity, files: RwLock::default(), retired: Mutex::default() }
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

    pub(crate) fn set_retired(&self, retired: Option<Retired>) {
        *self.retired.lock().unwrap_or_else(PoisonError::into_inner) = retired;
    }

    /// Removes every segment below `number`.
    pub(crate) fn retire_below(&self, number: u64) -> io::Result<()> {
        let old: Vec<u64> = self.numbers().into_iter().filter(|&n| n < number).collect();
        self.retire(&old)
    }

    /// Removes segments: listed durably, then unlinked, oldest first. The oldest ones need no list, since a
    /// crash that leaves some of them leaves no hole.
    pub(crate) fn retire(&self, gone: &[u64]) -> io::Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let numbers = self.numbers();
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        if retired.is_some() || !numbers.starts_with(gone) {
            let kept = numbers.iter().copied().filter(|n| !gone.contains(n));
            let next = Retired::after(retired.as_ref(), gone, kept);
            next.save(&*self.disk)?;
            *retired = Some(next);
        }
        for n in gone {
            self.files.write().unwrap_or_else(PoisonError::into_inner).remove(n);
            self.disk.remove(&segment_name(*n))?;
        }
        self.disk.sync_dir()
    }
}

fn temporary_name(number: u64) -> String {
    format!("{}.new", segment_name(number))
}
