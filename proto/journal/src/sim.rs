//! A disk in memory that forgets, tears and reorders what was not synced, has sectors that it can't read, and
//! fails on command.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};

/// Unsynced writes survive or vanish in units of this, and so much is unreadable at least.
pub const SECTOR: usize = 512;

/// What a crash does to writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// All are gone.
    Drop,
    /// They reached the disk in order up to some sector.
    Tear,
    /// Any subset of their sectors reached it.
    Reorder,
}

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power fails: this operation and all later ones fail.
    PowerCut,
    /// This operation fails with an I/O error; later ones work again. What a sync that fails so did not get
    /// written counts as written from then on, as Linux has it: later syncs pass it over.
    IoError,
    /// This operation finds the disk full.
    Full,
    /// The process has no file left for this operation.
    NoFiles,
}

#[derive(Default)]
struct FileState {
    volatile: Vec<u8>,
    durable: Vec<u8>,
    /// Unsynced writes in order: offset and length in `volatile`.
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Default)]
struct World {
    files: Vec<FileState>,
    entries: BTreeMap<String, usize>,
    durable_entries: BTreeMap<String, usize>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    /// Sectors that can't be read, by file.
    unreadable: BTreeSet<(usize, usize)>,
    off: bool,
}

/// The simulated folder. Clones share it.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<World>>);

struct SimFile {
    world: Arc<Mutex<World>>,
    index: usize,
}

/// A small generator, so that a seed replays exactly.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides.max(1)
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn operate(&mut self) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        match self.fault {
            Some((at, fault)) if at == self.operations => match fault {
                Fault::PowerCut => {
                    self.off = true;
                    Err(io::Error::other("the power failed"))
                }
                Fault::IoError => Err(io::Error::other("injected I/O error")),
                Fault::Full => Err(io::ErrorKind::StorageFull.into()),
                Fault::NoFiles => Err(rustix::io::Errno::MFILE.into()),
            },
            _ => Ok(()),
        }
    }
}

impl World {
    fn unreadable_in(&self, file: usize, bytes: Range<usize>) -> impl Iterator<Item = usize> {
        let sectors = (file, bytes.start / SECTOR)..(file, bytes.end.div_ceil(SECTOR));
        self.unreadable.range(sectors).map(|(_, sector)| *sector)
    }

    /// A sector that is overwritten as a whole is good again; one that is changed in part would have to be
    /// read.
    fn overwrite(&mut self, file: usize, bytes: Range<usize>) -> io::Result<()> {
        let met: Vec<usize> = self.unreadable_in(file, bytes.clone()).collect();
        for sector in met {
            let end = ((sector + 1) * SECTOR).min(self.files[file].volatile.len());
            if sector * SECTOR < bytes.start || end > bytes.end {
                return Err(unreadable());
            }
            self.unreadable.remove(&(file, sector));
        }
        Ok(())
    }
}

fn unreadable() -> io::Error {
    rustix::io::Errno::IO.into()
}

impl SimDisk {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets operation number `at` (counted from 1, writes and syncs and changes of the folder) fail.
    pub fn fail_at(&self, at: u64, fault: Fault) {
        lock(&self.0).fault = Some((at, fault));
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        lock(&self.0).operations
    }

    /// What a machine that starts again finds.
    pub fn crash(&self, how: Crash, seed: u64) -> Self {
        let world = lock(&self.0);
        let mut dice = Dice(seed ^ 0x9e37_79b9_7f4a_7c15);
        let files = world.files.iter().map(|f| after_crash(f, how, &mut dice)).collect();
        let mut entries = world.durable_entries.clone();
        if how != Crash::Drop && dice.roll(2) == 0 {
            entries = world.entries.clone();
        }
        let (durable_entries, unreadable) = (entries.clone(), world.unreadable.clone());
        let world = World { files, entries, durable_entries, unreadable, ..World::default() };
        Self(Arc::new(Mutex::new(world)))
    }

    /// What a process that starts again finds after a kill: everything that was written, synced or not. What
    /// was not synced is still not safe from a power cut.
    pub fn killed(&self) -> Self {
        let world = lock(&self.0);
        let copy = |f: &FileState| FileState {
            volatile: f.volatile.clone(),
            durable: f.durable.clone(),
            pending: f.pending.clone(),
        };
        let files = world.files.iter().map(copy).collect();
        let (entries, durable_entries) = (world.entries.clone(), world.durable_entries.clone());
        let unreadable = world.unreadable.clone();
        let world = World { files, entries, durable_entries, unreadable, ..World::default() };
        Self(Arc::new(Mutex::new(world)))
    }

    /// Reads of this sector of a file fail from now on with `EIO`, until it is overwritten as a whole.
    pub fn lose_sector(&self, name: &str, sector: usize) {
        let mut world = lock(&self.0);
        if let Some(&index) = world.entries.get(name) {
            world.unreadable.insert((index, sector));
        }
    }

    /// Flips one bit of a byte, behind everybody's back.
    pub fn flip(&self, name: &str, offset: usize) {
        let mut world = lock(&self.0);
        if let Some(&index) = world.entries.get(name) {
            let file = &mut world.files[index];
            file.volatile[offset] ^= 0x10;
            file.durable[offset] ^= 0x10;
        }
    }
}

fn after_crash(file: &FileState, how: Crash, dice: &mut Dice) -> FileState {
    let mut durable = file.durable.clone();
    durable.resize(file.volatile.len(), 0);
    let mut sectors = Vec::new();
    for (offset, data) in &file.pending {
        let mut at = 0;
        while at < data.len() {
            let n = (SECTOR - (offset + at) % SECTOR).min(data.len() - at);
            sectors.push((offset + at, &data[at..at + n]));
            at += n;
        }
    }
    let kept = match how {
        Crash::Drop => 0,
        Crash::Tear => dice.roll(sectors.len() + 1),
        Crash::Reorder => sectors.len(),
    };
    for (offset, data) in sectors.into_iter().take(kept) {
        if how == Crash::Tear || dice.roll(2) == 0 {
            durable[offset..offset + data.len()].copy_from_slice(data);
        }
    }
    FileState { volatile: durable.clone(), durable, pending: Vec::new() }
}

impl Disk for SimDisk {
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = lock(&self.0);
        world.operate()?;
        if world.entries.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let index = world.files.len();
        world.files.push(FileState { volatile: vec![0; size as usize], ..FileState::default() });
        world.entries.insert(name.to_string(), index);
        Ok(Arc::new(SimFile { world: self.0.clone(), index }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let world = lock(&self.0);
        let index = *world.entries.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { world: self.0.clone(), index }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).entries.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.operate()?;
        let index = world.entries.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.entries.insert(to.to_string(), index);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = lock(&self.0);
        if !world.entries.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.operate()?;
        world.entries.remove(name);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.operate()?;
        world.durable_entries = world.entries.clone();
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, parts: &[Bytes], offset: u64) -> io::Result<()> {
        let mut world = lock(&self.world);
        let outcome = world.operate();
        let data = parts.concat();
        let start = offset as usize;
        world.overwrite(self.index, start..start + data.len())?;
        let file = &mut world.files[self.index];
        file.volatile[start..start + data.len()].copy_from_slice(&data);
        // Even a write that fails may have reached the disk in part.
        file.pending.push((start, data));
        outcome
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let world = lock(&self.world);
        let file = &world.files[self.index];
        let start = offset as usize;
        if world.unreadable_in(self.index, start..start + buffer.len()).next().is_some() {
            return Err(unreadable());
        }
        let bytes = file.volatile.get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn forget_cached(&self, offset: u64, length: u64) {
        let mut world = lock(&self.world);
        let file = &mut world.files[self.index];
        let mut fresh = file.durable.clone();
        fresh.resize(file.volatile.len(), 0);
        // What is yet to be written stays in memory.
        for (at, data) in &file.pending {
            fresh[*at..at + data.len()].copy_from_slice(data);
        }
        let range = offset as usize..((offset + length) as usize).min(fresh.len());
        file.volatile[range.clone()].copy_from_slice(&fresh[range]);
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = lock(&self.world);
        let failing = world.fault == Some((world.operations + 1, Fault::IoError));
        let outcome = world.operate();
        let file = &mut world.files[self.index];
        file.durable.resize(file.volatile.len(), 0);
        match outcome {
            Ok(()) => {
                for (at, data) in file.pending.drain(..) {
                    file.durable[at..at + data.len()].copy_from_slice(&data);
                }
            }
            // The pages are clean now, and were not written.
            Err(_) if failing => file.pending.clear(),
            Err(_) => {}
        }
        outcome
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.world).files[self.index].volatile.len() as u64)
    }
}
