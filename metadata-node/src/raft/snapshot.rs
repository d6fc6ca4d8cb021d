//! Snapshot files: the whole map at one index, checked by a hash before anything is believed.
//!
//! Layout in `docs/formats.md`. A file is written under a temporary name, fsync'ed, renamed, and its
//! folder fsync'ed, before openraft hears of it and purges the log below it.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::SnapshotMeta;
use tokio::sync::watch;

use wmall_runtime::view::StoreError;

use crate::state::{Audit, Auditor, State};
use crate::types::Member;

const MAGIC: &[u8; 8] = b"WMALLSNP";
const VERSION: u32 = 4;
/// Ends the list of pairs; no key is that long.
const END: u32 = u32::MAX;
/// Longest key and value that are believed.
const MAX_FIELD: u32 = 64 << 20;
/// A snapshot is on its way to another member until no part of it was sent for so long.
const ON_ITS_WAY: Duration = Duration::from_secs(15);
/// Snapshots that are kept.
const KEEP: usize = 2;

pub(crate) type Meta = SnapshotMeta<u64, Member>;

/// Why a snapshot can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk's error.
    #[error("a snapshot file cannot be read or written")]
    Io(#[from] io::Error),
    /// The map's error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is not what was written.
    #[error("snapshot {path} is damaged: {why}")]
    Damaged {
        /// Which.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Of another cluster.
    #[error("snapshot {path} belongs to another cluster")]
    WrongCluster {
        /// Which.
        path: String,
    },
}

/// The folder of snapshots.
pub struct SnapshotFolder {
    folder: PathBuf,
    cluster: [u8; 16],
    /// Index of the newest snapshot that is durable; none once one that came could not be taken in.
    published: watch::Sender<Option<u64>>,
    /// When a part of one was sent to another member last.
    sent: Mutex<Option<Instant>>,
    /// The next one waits for none that is on its way.
    overdue: AtomicBool,
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

impl SnapshotFolder {
    /// Opens the folder and removes what a crash left half-written.
    pub fn open(folder: &Path, cluster: [u8; 16]) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "new") {
                fs::remove_file(path)?;
            }
        }
        let (published, sent, overdue) = (watch::Sender::new(None), Mutex::default(), AtomicBool::new(false));
        let opened = Self { folder: folder.to_path_buf(), cluster, published, sent, overdue };
        let reached = opened.list()?.iter().filter_map(|path| index_of(path)).max();
        opened.published.send_replace(Some(reached.unwrap_or(0)));
        Ok(opened)
    }

    /// Index of the newest snapshot that is durable, as it grows; none once one that came could not be taken
    /// in.
    pub fn published(&self) -> watch::Receiver<Option<u64>> {
        self.published.subscribe()
    }

    /// A snapshot that came could not be taken in: nothing waits for one any more.
    pub fn fail(&self) {
        self.published.send_replace(None);
    }

    /// A part of a snapshot goes to another member.
    pub(crate) fn note_sending(&self) {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Says if the log has grown too long for the next snapshot to wait.
    pub(super) fn set_overdue(&self, overdue: bool) {
        self.overdue.store(overdue, Ordering::Relaxed);
    }

    /// True if the next snapshot is to wait, since one is on its way to another member: with the next one the
    /// log goes that the member has to go on from.
    pub(super) fn holds_next(&self) -> bool {
        self.is_sending() && !self.overdue.load(Ordering::Relaxed)
    }

    fn is_sending(&self) -> bool {
        let sent = *self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.is_some_and(|at| at.elapsed() < ON_ITS_WAY)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A name for a file that is sent away and removed; one that a crash leaves is removed at the next start.
    pub fn exporting(&self, random: [u8; 8]) -> PathBuf {
        self.folder.join(format!("export-{}.new", wmall_proto::ids::to_hex(&random)))
    }

    /// Writes the state as it is at one index, and takes the file in.
    pub fn save(&self, state: &State) -> Result<(Meta, File), SnapshotError> {
        let temporary = self.folder.join("building.new");
        let meta = self.write(state, &temporary)?;
        let path = self.publish(&temporary, &meta.snapshot_id)?;
        Ok((meta, File::open(path)?))
    }

    /// Writes the state as it is at one index to a file, and syncs it.
    pub fn write(&self, state: &State, path: &Path) -> Result<Meta, SnapshotError> {
        // The position is known when the dump ends, so the body goes first and the head says where it is.
        let file = File::create(path)?;
        let mut out = Hashing { inner: BufWriter::new(file), hasher: blake3::Hasher::new() };
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&self.cluster)?;
        let applied = state
            .dump(|key, value| {
                out.write_all(&(key.len() as u32).to_le_bytes())?;
                out.write_all(&(value.len() as u32).to_le_bytes())?;
                out.write_all(key)?;
                out.write_all(value)
            })
            .map_err(|e| match e {
                crate::state::DumpError::Store(error) => SnapshotError::Store(error),
                crate::state::DumpError::Io(error) => SnapshotError::Io(error),
            })?;
        out.write_all(&END.to_le_bytes())?;
        let name = file_name(applied.log_id.map_or(0, |id| id.index));
        let meta =
            Meta { last_log_id: applied.log_id, last_membership: applied.membership, snapshot_id: name };
        let head = super::wire::to_json(&meta);
        out.write_all(&(head.len() as u32).to_le_bytes())?;
        out.write_all(&head)?;
        let Hashing { inner: mut out, hasher } = out;
        out.write_all(hasher.finalize().as_bytes())?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(meta)
    }

    /// Where a snapshot that is being received is written.
    pub fn receiving(&self) -> PathBuf {
        self.folder.join("receiving.new")
    }

    /// Copies a snapshot that came from elsewhere, checks it and takes it in.
    pub fn accept(&self, received: &mut File) -> Result<PathBuf, SnapshotError> {
        let temporary = self.folder.join("accepting.new");
        let mut copy = File::create(&temporary)?;
        received.seek(io::SeekFrom::Start(0))?;
        io::copy(received, &mut copy)?;
        copy.sync_all()?;
        let meta = self.check(&temporary)?;
        Ok(self.publish(&temporary, &meta.snapshot_id)?)
    }

    fn publish(&self, temporary: &Path, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::rename(temporary, &path)?;
        File::open(&self.folder)?.sync_all()?;
        let index = index_of(&path).unwrap_or(0);
        self.published.send_modify(|reached| *reached = reached.map(|reached| reached.max(index)));
        for old in self.list()?.iter().rev().skip(KEEP) {
            fs::remove_file(old)?;
        }
        Ok(path)
    }

    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "snap") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// The newest snapshot that checks out. A damaged one is passed over, with a word in the log.
    pub fn newest(&self) -> Result<Option<(Meta, PathBuf)>, SnapshotError> {
        for path in self.list()?.into_iter().rev() {
            match self.check(&path) {
                Ok(meta) => return Ok(Some((meta, path))),
                Err(SnapshotError::Io(error)) => return Err(error.into()),
                Err(error) => tracing::error!(%error, "a snapshot is of no use"),
            }
        }
        Ok(None)
    }

    /// Replaces the state by a snapshot.
    pub fn restore(&self, path: &Path, state: &State) -> Result<Meta, SnapshotError> {
        let meta = self.check(path)?;
        let mut reader = BufReader::new(File::open(path)?);
        skip_head(&mut reader)?;
        let pairs = std::iter::from_fn(|| match read_pair(&mut reader) {
            Ok(pair) => pair.map(Ok),
            Err(error) => Some(Err(StoreError(error.to_string()))),
        });
        state.load(pairs)?;
        Ok(meta)
    }

    /// Reads a file through, holds its hash against its content, and its cluster against ours.
    pub(crate) fn check(&self, path: &Path) -> Result<Meta, SnapshotError> {
        let (cluster, meta) = read_through(path, |_, _| Ok(()))?;
        if cluster != self.cluster {
            return Err(SnapshotError::WrongCluster { path: path.display().to_string() });
        }
        Ok(meta)
    }

    /// What is in a file, whichever cluster it is of.
    pub fn summary(path: &Path) -> Result<SnapshotSummary, SnapshotError> {
        let mut auditor = Auditor::default();
        let (cluster, meta) = read_through(path, |key, value| auditor.take(key, value))?;
        Ok(SnapshotSummary {
            cluster: wmall_proto::ids::to_hex(&cluster),
            index: meta.last_log_id.map_or(0, |id| id.index),
            audit: auditor.finish(),
        })
    }
}

/// What a snapshot file holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotSummary {
    /// The cluster it is of.
    pub cluster: String,
    /// Raft index that it is as of.
    pub index: u64,
    /// What a recount of it comes to.
    #[serde(flatten)]
    pub audit: Audit,
}

/// Reads a file through and holds its hash against its content. Returns its cluster and its position.
fn read_through(
    path: &Path,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<([u8; 16], Meta), SnapshotError> {
    let shown = || path.display().to_string();
    let damaged = |why| SnapshotError::Damaged { path: shown(), why };
    let file = BufReader::new(File::open(path)?);
    let mut reader = Hashing { inner: file, hasher: blake3::Hasher::new() };
    let head = skip_head(&mut reader).map_err(|_| damaged("it ends early"))?;
    if head[..8] != *MAGIC || head[8..12] != VERSION.to_le_bytes() {
        return Err(damaged("not a snapshot of this version"));
    }
    let mut cluster = [0u8; 16];
    cluster.copy_from_slice(&head[12..]);
    while let Some((key, value)) = read_pair(&mut reader).map_err(|_| damaged("a pair is malformed"))? {
        each(&key, &value)?;
    }
    let length = read_u32(&mut reader).map_err(|_| damaged("it ends early"))?;
    let head = read_field(&mut reader, length).map_err(|_| damaged("it ends early"))?;
    let expected = reader.hasher.finalize();
    let mut stored = [0u8; 32];
    reader.inner.read_exact(&mut stored).map_err(|_| damaged("it ends early"))?;
    if stored != *expected.as_bytes() {
        return Err(damaged("its hash does not match"));
    }
    let meta = serde_json::from_slice(&head).map_err(|_| damaged("its position is malformed"))?;
    Ok((cluster, meta))
}

fn file_name(index: u64) -> String {
    format!("{index:020}.snap")
}

/// The index that a snapshot's name says.
fn index_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

fn skip_head(reader: &mut impl Read) -> io::Result<[u8; 28]> {
    let mut head = [0u8; 28];
    reader.read_exact(&mut head)?;
    Ok(head)
}

fn read_u32(reader: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0u8; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_field(reader: &mut impl Read, length: u32) -> io::Result<Vec<u8>> {
    if length > MAX_FIELD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    reader.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() as u32 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn read_pair(reader: &mut impl Read) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let key_length = read_u32(reader)?;
    if key_length == END {
        return Ok(None);
    }
    let value_length = read_u32(reader)?;
    let key = read_field(reader, key_length)?;
    Ok(Some((key, read_field(reader, value_length)?)))
}
