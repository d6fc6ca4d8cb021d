//! Child processes: started, looked up, signalled. A pid alone proves nothing, since numbers are used
//! again; a process is ours if its command line names our configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{DevnetError, at};

/// How a node is started.
pub(crate) struct Launch<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) command: &'a str,
    pub(crate) config: PathBuf,
    pub(crate) log: PathBuf,
    /// Whether it ends with its parent.
    pub(crate) tied: bool,
}

impl Launch<'_> {
    /// Starts the process. Dropping the child of a tied one ends it.
    pub(crate) fn start(&self) -> Result<Child, DevnetError> {
        use std::os::unix::process::CommandExt;
        if let Some(folder) = self.log.parent() {
            fs::create_dir_all(folder).map_err(at(folder))?;
        }
        let log = File::options().create(true).append(true).open(&self.log).map_err(at(&self.log))?;
        let errors = log.try_clone().map_err(at(&self.log))?;
        let mut command = Command::new(self.binary);
        command.arg(self.command).arg("run").arg("--config").arg(&self.config);
        if self.tied {
            command.arg("--exit-with-parent").stdin(Stdio::piped());
        } else {
            command.stdin(Stdio::null());
        }
        // A group of its own: Ctrl-C in the parent's terminal is for the parent, which ends the nodes in order.
        command.stdout(log).stderr(errors).process_group(0);
        command.spawn().map_err(at(self.binary))
    }
}

/// Whether the process is there and is the one that was started with this configuration.
pub(crate) fn is_running(pid: u32, config: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    // A zombie has an empty command line.
    line.split(|&b| b == 0).any(|arg| arg == config.as_os_str().as_encoded_bytes())
}

/// Sends a signal, if the process is still there.
pub(crate) fn signal(pid: u32, config: &Path, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        && is_running(pid.as_raw_nonzero().get() as u32, config)
    {
        // Gone between the look and the signal is as good as signalled.
        let _ = kill_process(pid, signal);
    }
}

/// Whether nothing is left of the process: neither it nor, while it is ending, its sockets and locks. A process
/// that ends loses its command line first and its files later.
fn is_gone(pid: u32, config: &Path) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The state follows the name, which is in parentheses and may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return true };
    // The first of its threads may end before the others, which hold the files as long as they are there.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    (matches!(state, Some('Z' | 'X')) && threads <= 1) || (!line.is_empty() && !is_running(pid, config))
}

/// Waits until the process is gone.
pub(crate) fn wait_gone(pid: u32, config: &Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while !is_gone(pid, config) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
