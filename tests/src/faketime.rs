//! Nodes whose wall clocks are set while they run: libfaketime, loaded into them, reads how far off their
//! clock is from a file whenever they look at it. Their monotonic clocks stay right, as they do on a machine
//! whose clock somebody sets.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::{Cluster, binary};

/// A clock that agrees with this machine's.
pub const RIGHT: &str = "+0";

/// Debian's package leaves it in the folder of the architecture.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

/// Whether clocks can be set. Without the library, which `make tools` installs if it may, the tests that need
/// it say so and do nothing.
pub fn is_there() -> bool {
    let there = library().is_some();
    assert!(there || !rustix::process::geteuid().is_root(), "no libfaketime; `make tools` installs it");
    if !there {
        eprintln!(
            "no libfaketime (on Debian: apt-get install faketime): no clock can be set, so that is not tried"
        );
    }
    there
}

/// `wmall` with a clock of its own, as has every process that it starts.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    command.env("LD_PRELOAD", library().expect("libfaketime"));
    // Only what a machine's clock says is other than it is: no timer, no age of a file.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    // Otherwise the file is read again after ten seconds.
    command.env("FAKETIME_NO_CACHE", "1");
    command
}

/// Runs `wmall` with a clock that is so far off, such as `-150m`, and waits for it.
pub fn wmall_at(offset: &str, args: &[&str]) -> Output {
    command(args).env("FAKETIME", offset).output().expect("wmall does not start")
}

/// The clocks of a cluster's nodes.
pub struct Clocks<'a>(&'a Cluster);

impl<'a> Clocks<'a> {
    /// Starts these nodes again, each with a clock that can be set, and is right.
    pub fn of(cluster: &'a Cluster, nodes: &[&str]) -> Self {
        let clocks = Self(cluster);
        for node in nodes {
            clocks.set(node, RIGHT);
            clocks.restart(node);
        }
        clocks
    }

    /// Sets a clock: so far ahead of this machine's (`+400d`), or behind it (`-3h`).
    pub fn set(&self, node: &str, offset: &str) {
        // The node reads it at any moment, and half an offset is another one.
        let new = self.0.write(&format!("clock-{node}.new"), format!("{offset}\n").as_bytes());
        std::fs::rename(new, self.file(node)).unwrap();
    }

    fn file(&self, node: &str) -> String {
        self.0.path(&format!("clock-{node}"))
    }

    /// Stops a node and starts it again; its clock goes on as it is set.
    pub fn restart(&self, node: &str) {
        self.0.devnet("stop", node, &[]);
        self.start(node);
    }

    /// Starts a node that was stopped.
    pub fn start(&self, node: &str) {
        let net = self.0.folder().display().to_string();
        let mut starting = command(&["devnet", "start", node, "--dir", &net]);
        let output = starting.env("FAKETIME_TIMESTAMP_FILE", self.file(node)).output().unwrap();
        assert!(output.status.success(), "{node}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
