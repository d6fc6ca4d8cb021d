//! Backups: snapshot files for people. The same format as Raft's own snapshots, written on demand or by the
//! clock, checked offline, and restored into an empty node.
//!
//! A restored cluster begins a new life: no data is deleted until an operator has looked, and data nodes go
//! through everything that they hold (`State::begin_again`).

mod watch;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use openraft::{Membership, Vote};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use wmall_proto::rpc::{Response, SnapshotInfo};
use wmall_proto::topology::ClusterId;
use wmall_proto::{ErrorCode, Incarnation, RpcError};
use wmall_runtime::view::{Buffered, SledStore};
use wmall_transport::{Identity, IdentityError, Replier};

pub(crate) use watch::BackupWatch;

use crate::born::Born;
use crate::config::Config;
use crate::init::InitError;
use crate::leader::ClusterClock;
use crate::raft::{LogStore, LogStoreError, SnapshotError, SnapshotFolder, SnapshotSummary};
use crate::state::State;
use crate::types::Member;

/// Bytes that are read and sent at once.
const PART: usize = 1 << 20;

/// `[backup]`: a snapshot file is written by the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupConfig {
    /// The folder; best on another disk, or a mount of another machine.
    pub dir: PathBuf,
    /// Between backups.
    #[serde(default = "default_every_s")]
    pub every_s: u64,
    /// How many are kept.
    #[serde(default = "default_keep")]
    pub keep: usize,
    /// With less than this and the bytes of the newest backup free there, health says so.
    #[serde(default = "default_reserve_bytes")]
    pub reserve_bytes: u64,
}

fn default_every_s() -> u64 {
    3600
}

fn default_keep() -> usize {
    48
}

fn default_reserve_bytes() -> u64 {
    64 << 20
}

/// Writes and lists snapshot files of this member.
pub(crate) struct Backups {
    pub(crate) member: String,
    pub(crate) snapshots: Arc<SnapshotFolder>,
    pub(crate) config: Option<BackupConfig>,
}

/// A snapshot file that goes away with this value.
pub(crate) struct Exported(PathBuf);

impl Drop for Exported {
    fn drop(&mut self) {
        // At the next start it would be removed as well.
        let _ = fs::remove_file(&self.0);
    }
}

impl Exported {
    pub(crate) async fn send(&self, replier: &mut Replier) -> Result<(), RpcError> {
        let mut file = tokio::fs::File::open(&self.0).await.map_err(RpcError::internal)?;
        let length = file.metadata().await.map_err(RpcError::internal)?.len();
        replier.start(Response::Snapshot { length }).await?;
        loop {
            let mut part = Vec::with_capacity(PART);
            let read = (&mut file).take(PART as u64).read_to_end(&mut part).await;
            if read.map_err(RpcError::internal)? == 0 {
                return Ok(());
            }
            replier.write(Bytes::from(part)).await?;
        }
    }
}

impl Backups {
    /// Writes the state as it is now to a file of its own.
    pub(crate) async fn export(&self, state: Arc<State>) -> Result<Exported, RpcError> {
        let snapshots = self.snapshots.clone();
        let exported = tokio::task::spawn_blocking(move || {
            let path = snapshots.exporting(wmall_runtime::random::bytes());
            let exported = Exported(path);
            snapshots.write(&state, &exported.0).map(|_| exported)
        });
        exported.await.map_err(RpcError::internal)?.map_err(RpcError::internal)
    }

    /// The files there are.
    pub(crate) fn list(&self) -> Result<Vec<SnapshotInfo>, RpcError> {
        let mut all = Vec::new();
        let folders = [(Some(self.snapshots.folder()), false), (self.config.as_ref().map(|c| &*c.dir), true)];
        for (folder, backup) in folders {
            let Some(folder) = folder else { continue };
            for path in snapshot_files(folder).map_err(RpcError::internal)? {
                let Ok(meta) = fs::metadata(&path) else { continue };
                let written = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
                all.push(SnapshotInfo {
                    member: self.member.clone(),
                    name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    backup,
                    bytes: meta.len(),
                    written_ms: written.map_or(0, |d| d.as_millis() as u64),
                });
            }
        }
        Ok(all)
    }
}

/// The snapshot files of a folder, the oldest first; none if there is no folder.
pub(crate) fn snapshot_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(paths),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "snap") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Between looks at the folder.
const LOOK: Duration = Duration::from_secs(10);

/// Writes a backup again and again, and looks at the folder between. Runs as long as it is not aborted; a
/// failure is logged and told to the watch, and the next round tries again.
pub(crate) async fn run(
    config: BackupConfig,
    member: String,
    (state, snapshots): (Arc<State>, Arc<SnapshotFolder>),
    clock: Arc<ClusterClock>,
    watch: Arc<BackupWatch>,
) {
    let every = Duration::from_secs(config.every_s.max(1));
    let every_ms = every.as_millis() as u64;
    watch.begin(every_ms);
    let (mut tried, mut failed) = (Instant::now(), false);
    loop {
        tokio::time::sleep(LOOK.min(every)).await;
        let (folder, own) = (config.dir.clone(), member.clone());
        let looking = tokio::task::spawn_blocking(move || newest_of(&folder, &own));
        let newest =
            looking.await.map_err(|e| e.to_string()).and_then(|newest| newest.map_err(|e| e.to_string()));
        watch.looked(newest.clone());
        let since_try = (tried.elapsed().as_millis() as u64, failed);
        let is_due = watch::is_due(every_ms, clock.now_ms(), newest.unwrap_or_default(), since_try);
        if !is_due || clock.is_pending() {
            continue;
        }
        let (config, member) = (config.clone(), member.clone());
        let (state, snapshots, now_ms) = (state.clone(), snapshots.clone(), clock.now_ms());
        let writing = move || backup_once(&config, &member, (&state, &snapshots), now_ms);
        let written = tokio::task::spawn_blocking(writing).await;
        let written = written.map_err(|e| e.to_string()).and_then(|w| w.map_err(|e| shown(&e)));
        (tried, failed) = (Instant::now(), written.is_err());
        match &written {
            Ok(path) => tracing::info!(path = %path.display(), "a backup was written"),
            Err(error) => tracing::error!(%error, "no backup could be written"),
        }
        watch.wrote(written.map(|_| now_ms));
    }
}

/// An error with what caused it.
fn shown(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// When the newest file of this member was written, by the cluster's clock. A folder that is not there is an
/// error only where something is in its place: the first backup makes it.
fn newest_of(folder: &Path, member: &str) -> std::io::Result<Option<u64>> {
    let files = snapshot_files(folder)?;
    Ok(files.iter().filter_map(|file| named(file)).filter(|(_, own)| *own == member).map(|(at, _)| at).max())
}

/// When a file was written, and by which member, by the name that `backup_once` gave it.
fn named(file: &Path) -> Option<(u64, &str)> {
    // Names of members have dashes too.
    let mut parts = file.file_stem()?.to_str()?.splitn(3, '-');
    let (at, _, member) = (parts.next()?, parts.next()?, parts.next()?);
    Some((at.parse().ok()?, member))
}

/// Files that are too many for `keep`. The newest one of each member stays: by that a member knows when its
/// next one is due.
fn too_many(files: &[PathBuf], keep: usize) -> Vec<&PathBuf> {
    let mut members = BTreeSet::new();
    let newest_first = files.iter().rev().enumerate();
    let gone = newest_first.filter(|(n, file)| {
        let newest_of_its_own = named(file).is_some_and(|(_, member)| members.insert(member));
        *n >= keep && !newest_of_its_own
    });
    gone.map(|(_, file)| file).collect()
}

/// Members may share a folder, so a file has its member's name. It gets that once it has been read back.
///
/// The state is written to this member's own volume first, and copied from there: a folder that hangs, such
/// as a mount whose server is gone, would hold off the walk over the map, and with that applying.
fn backup_once(
    config: &BackupConfig,
    member: &str,
    (state, snapshots): (&State, &SnapshotFolder),
    now_ms: u64,
) -> Result<PathBuf, SnapshotError> {
    let local = Exported(snapshots.exporting(wmall_runtime::random::bytes()));
    snapshots.write(state, &local.0)?;
    fs::create_dir_all(&config.dir)?;
    let temporary = config.dir.join(format!("{member}.new"));
    let written = copy(&local.0, &temporary).map_err(Into::into).and_then(|()| snapshots.check(&temporary));
    // Half a file is in the way of the next one where the folder is full.
    let meta = written.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    let index = meta.last_log_id.map_or(0, |id| id.index);
    // By the cluster's clock: after a while with a wrong one, this member's own would have the newest file
    // pass for the oldest.
    let name = format!("{now_ms:013}-{index:020}-{member}.snap");
    drop(local);
    let path = config.dir.join(name);
    fs::rename(&temporary, &path)?;
    File::open(&config.dir)?.sync_all()?;
    let files = snapshot_files(&config.dir)?;
    for old in too_many(&files, config.keep.max(1)) {
        // Another member that shares the folder may have been faster.
        match fs::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(path)
}

/// Copies a file, and syncs the copy.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    std::io::copy(&mut from, &mut to)?;
    to.sync_all()
}

/// Checks a snapshot file: its hash, and what is in it.
pub fn verify(path: &Path) -> Result<SnapshotSummary, SnapshotError> {
    SnapshotFolder::summary(path)
}

/// Why a snapshot was not restored.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each is the error of the part it names.
pub enum RestoreError {
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Store(#[from] wmall_runtime::view::StoreError),
    #[error(transparent)]
    Log(#[from] LogStoreError),
    #[error("the vote or the beginning of the log could not be written: {0}")]
    Vote(String),
}

/// Makes an empty node the member of a cluster that begins again with this snapshot. Done on every member of
/// the configuration, with the same file, before any of them is started.
///
/// The first member draws the life that the cluster begins; the others are told it, so that all name the same
/// members, and no member of a restore before is one of them.
pub async fn restore(
    config: &Config,
    file: &Path,
    life: Option<Incarnation>,
) -> Result<(SnapshotSummary, Incarnation), RestoreError> {
    let life = life.unwrap_or_else(|| Incarnation(wmall_runtime::random::bytes()));
    let cluster: ClusterId = Identity::load(&config.raw.identity_dir)?.cluster();
    let summary = verify(file)?;
    if summary.cluster != cluster.to_string() {
        return Err(SnapshotError::WrongCluster { path: file.display().to_string() }.into());
    }
    crate::init::ask_others(config).await?;
    crate::init::prepare(config)?;
    let folder = &config.raw.data_dir;
    let snapshots = SnapshotFolder::open(&folder.join("snapshots"), cluster.0).map_err(SnapshotError::Io)?;
    let state = State::open(Box::new(Buffered::new(SledStore::create_anew(&folder.join("view"))?)))?;
    let meta = snapshots.restore(file, &state)?;
    let member = |m: &crate::config::MemberEntry| {
        let incarnation = Born::restored(m.id, life).incarnation;
        (m.id, Member { name: m.name.to_string(), address: m.address, incarnation })
    };
    let members: std::collections::BTreeMap<u64, Member> = config.raw.members.iter().map(member).collect();
    let ids = members.keys().copied().collect();
    state.begin_again(Membership::new(vec![ids], members))?;
    snapshots.save(&state)?;
    // Elections go on above the term of the last entry that is in the snapshot.
    let mut log = LogStore::open(&folder.join("raft"), cluster.0, config.id, config.raw.name.as_str())?;
    let term = meta.last_log_id.map_or(0, |id| id.leader_id.term);
    log.save_vote(&Vote::new(term, config.id)).await.map_err(|e| RestoreError::Vote(e.to_string()))?;
    // The log begins behind the snapshot, so that a view which ends before it is not believed.
    if let Some(last) = meta.last_log_id {
        log.purge(last).await.map_err(|e| RestoreError::Vote(e.to_string()))?;
    }
    crate::init::finish(config, Born::restored(config.id, life))?;
    Ok((summary, life))
}

impl From<SnapshotError> for RpcError {
    fn from(error: SnapshotError) -> Self {
        RpcError::new(ErrorCode::Internal, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_file_is_the_member_s_own_and_a_folder_that_is_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let newest = |member| newest_of(folder.path(), member).ok();
        assert_eq!(newest("metadata-1"), Some(None));
        for (at, member) in
            [(7, "metadata-1"), (9, "metadata-1"), (11, "other-metadata-1"), (12, "metadata-2")]
        {
            std::fs::write(folder.path().join(format!("{at:013}-{:020}-{member}.snap", 5)), "x").unwrap();
        }
        std::fs::write(folder.path().join("metadata-1.new"), "x").unwrap();
        assert_eq!((newest("metadata-1"), newest("metadata-3")), (Some(Some(9)), Some(None)));
        assert_eq!(newest_of(&folder.path().join("gone"), "metadata-1").ok(), Some(None));
        assert!(
            newest_of(&folder.path().join("metadata-1.new"), "metadata-1").is_err(),
            "a file in its place"
        );
    }

    #[test]
    fn a_backup_leaves_one_file_in_its_folder_and_none_in_that_of_the_snapshots() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Box::new(wmall_runtime::view::MemoryStore::default())).unwrap();
        let snapshots = SnapshotFolder::open(&folder.path().join("snapshots"), [1; 16]).unwrap();
        let config =
            |dir: &str| BackupConfig { dir: folder.path().join(dir), every_s: 1, keep: 2, reserve_bytes: 0 };
        let files = |dir: &Path| fs::read_dir(dir).unwrap().count();
        let path = backup_once(&config("backups"), "metadata-1", (&state, &snapshots), 7).unwrap();
        assert!(snapshots.check(&path).is_ok());
        assert_eq!((files(&folder.path().join("backups")), files(snapshots.folder())), (1, 0));
        // A folder that cannot be written to: something is in its place, or in that of the temporary file.
        fs::write(folder.path().join("file"), "x").unwrap();
        fs::create_dir_all(folder.path().join("taken/metadata-1.new")).unwrap();
        for dir in ["file", "taken"] {
            assert!(backup_once(&config(dir), "metadata-1", (&state, &snapshots), 8).is_err());
            assert_eq!(files(snapshots.folder()), 0, "{dir}");
        }
    }

    #[test]
    fn members_that_share_a_folder_do_not_let_go_of_the_newest_of_another() {
        let file = |at: u64, member: &str| PathBuf::from(format!("{at:013}-{:020}-{member}.snap", at));
        let files = [file(1, "m-1"), file(2, "m-2"), file(3, "m-2"), file(4, "m-3"), file(5, "m-3")];
        assert_eq!(too_many(&files, 2), [&files[1]]);
        assert_eq!(too_many(&files, 9), Vec::<&PathBuf>::new());
        assert_eq!(newest_of(Path::new("/nowhere"), "m-1").unwrap(), None);
    }
}
