//! The segments of a journal: birth, lookup, retirement.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::format::{SEGMENT_FOOTER, Salt, encode_segment_header, segment_name};
use crate::journal::Nonces;
use crate::retired::Retired;

/// The open files, shared between the writer and the readers.
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    identity: [u8; 16],
    /// Draws the nonce of a segment.
    nonce: Nonces,
    files: RwLock<BTreeMap<u64, Segment>>,
    /// The list on disk; none where only the oldest segments were ever removed.
    retired: Mutex<Option<Retired>>,
}

/// An open segment.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn DiskFile>,
    /// How the checksums of its records begin; none if its header is lost, and then no record of it can be
    /// told.
    pub(crate) salt: Option<Salt>,
}

impl Segments {
    pub(crate) fn new(disk: Arc<dyn Disk>, identity: [u8; 16], nonce: Nonces) -> Self {
        Self { disk, identity, nonce, files: RwLock::default(), retired: Mutex::default() }
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(crate) fn add(&self, number: u64, segment: Segment) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(number, segment);
    }

    pub(crate) fn segment(&self, number: u64) -> Option<Segment> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<dyn DiskFile>> {
        self.segment(number).map(|segment| segment.file)
    }

    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Begins a birth: temporary name, blocks. Here a full disk shows.
    pub(crate) fn create(&self, number: u64, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let temporary = temporary_name(number);
        match self.disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.disk.create(&temporary, size)
    }

    /// Goes on with it: the header at both ends, fsync.
    pub(crate) fn prepare(&self, number: u64, size: u64, file: &Arc<dyn DiskFile>) -> io::Result<Salt> {
        let nonce = (self.nonce)(number);
        let header = Bytes::copy_from_slice(&encode_segment_header(&self.identity, number, &nonce));
        file.write_at(std::slice::from_ref(&header), 0)?;
        file.write_at(&[header], size - SEGMENT_FOOTER)?;
        file.sync_all()?;
        Ok(Salt::of(&nonce))
    }

    /// Ends it: rename, fsync of the folder. The segment before it is sealed by now, so after a
    /// crash at any point every segment but the last one has its seal.
    pub(crate) fn publish(&self, number: u64, segment: Segment) -> io::Result<()> {
        self.disk.rename(&temporary_name(number), &segment_name(number))?;
        self.disk.sync_dir()?;
        self.add(number, segment);
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
