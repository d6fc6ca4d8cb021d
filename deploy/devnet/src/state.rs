//! `devnet.json`: which nodes a devnet has, and in which processes they run. Commands for one devnet may run
//! side by side, so the file is read and written under a lock, and each changes the entry that it is about.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wmall_proto::NodeName;
use wmall_runtime::OutFile;

use crate::error::{DevnetError, at};
use crate::layout::NodeKind;

const STATE_FILE: &str = "devnet.json";
const LOCK_FILE: &str = "devnet.lock";
/// How long another command may hold the lock: `down` gives each node its time to stop.
const WAIT: Duration = Duration::from_secs(60);
/// Between tries.
const POLL: Duration = Duration::from_millis(20);

/// A node of a devnet, as its state file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its name.
    pub name: NodeName,
    /// What it is.
    #[serde(flatten)]
    pub kind: NodeKind,
    /// Where it listens for calls.
    pub address: SocketAddr,
    /// Where it listens for HTTP.
    pub ops: SocketAddr,
    /// Its process, when it was last started; 0 for none.
    pub pid: u32,
}

/// The state file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    pub(crate) nodes: Vec<NodeEntry>,
}

impl State {
    pub(crate) fn new(nodes: Vec<NodeEntry>) -> Self {
        Self { version: 1, nodes }
    }

    /// Reads that of a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, DevnetError> {
        let path = folder.join(STATE_FILE);
        let Ok(text) = fs::read(&path) else {
            return Err(DevnetError::Missing(folder.display().to_string()));
        };
        serde_json::from_slice(&text)
            .map_err(|e| DevnetError::Plan(format!("{} is damaged: {e}", path.display())))
    }
}

/// The right to change a devnet's state file.
#[derive(Debug)]
pub(crate) struct StateLock {
    folder: PathBuf,
    _lock: File,
}

impl StateLock {
    /// Waits for the lock of a folder, which must exist.
    pub(crate) fn take(folder: &Path) -> Result<Self, DevnetError> {
        let path = folder.join(LOCK_FILE);
        let deadline = Instant::now() + WAIT;
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(at(&path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // One that `down` has removed since it was opened locks nothing.
                Ok(()) if file.metadata().map_err(at(&path))?.nlink() > 0 => {
                    return Ok(Self { folder: folder.to_path_buf(), _lock: file });
                }
                Ok(()) => continue,
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {}
                Err(Errno::WOULDBLOCK) => {
                    let why = format!("another command has held {} for a minute", path.display());
                    return Err(DevnetError::Plan(why));
                }
                Err(error) => return Err(at(&path)(error.into())),
            }
            std::thread::sleep(POLL);
        }
    }

    /// True if there is a state file.
    pub(crate) fn exists(&self) -> bool {
        self.folder.join(STATE_FILE).exists()
    }

    pub(crate) fn read(&self) -> Result<State, DevnetError> {
        State::read(&self.folder)
    }

    pub(crate) fn write(&self, state: &State) -> Result<(), DevnetError> {
        let path = self.folder.join(STATE_FILE);
        let text = serde_json::to_vec_pretty(state).unwrap_or_default();
        let written = OutFile::create(&path).and_then(|mut out| {
            out.file().write_all(&text)?;
            out.publish()
        });
        written.map_err(at(&path))
    }

    /// Replaces one node's entry, and returns what the file has now.
    pub(crate) fn enter(&self, entry: &NodeEntry) -> Result<State, DevnetError> {
        let mut state = self.read()?;
        state.nodes.iter_mut().filter(|n| n.name == entry.name).for_each(|n| n.clone_from(entry));
        self.write(&state)?;
        Ok(state)
    }

    /// Removes the state file: a folder without it is no devnet, whatever else is left of it.
    pub(crate) fn remove_state(&self) -> Result<(), DevnetError> {
        let path = self.folder.join(STATE_FILE);
        fs::remove_file(&path).map_err(at(&path))
    }

    /// Lets go of the lock, and removes its file.
    pub(crate) fn remove(self) {
        let _ = fs::remove_file(self.folder.join(LOCK_FILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, pid: u32) -> NodeEntry {
        let address = "127.0.0.1:1".parse().unwrap();
        let zone = "z".parse().unwrap();
        let name = NodeName::new(name).unwrap();
        NodeEntry { name, kind: NodeKind::DataNode { zone }, address, ops: address, pid }
    }

    #[test]
    fn commands_that_run_side_by_side_lose_no_process() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (1..=8).map(|i| format!("data-{i}")).collect();
        let state = State::new(names.iter().map(|n| entry(n, 0)).collect());
        StateLock::take(folder.path()).unwrap().write(&state).unwrap();
        std::thread::scope(|scope| {
            for (i, name) in names.iter().enumerate() {
                let folder = folder.path();
                scope.spawn(move || {
                    let lock = StateLock::take(folder).unwrap();
                    lock.enter(&entry(name, 100 + i as u32)).unwrap();
                });
            }
        });
        let pids: Vec<u32> = State::read(folder.path()).unwrap().nodes.iter().map(|n| n.pid).collect();
        assert_eq!(pids, (100..108).collect::<Vec<_>>());
    }

    #[test]
    fn after_down_a_command_that_waited_finds_no_devnet() {
        let folder = tempfile::tempdir().unwrap();
        let lock = StateLock::take(folder.path()).unwrap();
        lock.write(&State::new(vec![entry("data-1", 1)])).unwrap();
        let waiting = std::thread::spawn({
            let folder = folder.path().to_path_buf();
            move || StateLock::take(&folder).unwrap().enter(&entry("data-1", 2)).map(|_| ())
        });
        lock.remove_state().unwrap();
        lock.remove();
        assert!(matches!(waiting.join().unwrap(), Err(DevnetError::Missing(_))));
        assert!(!folder.path().join(STATE_FILE).exists());
    }
}
