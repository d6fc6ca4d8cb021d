//! Ends of a command from outside: by a signal, and by a stdout that nobody reads any more.
//!
//! Either way what the command has not finished is removed first. A command of which nobody reads the answer
//! ends at once, also one that has nothing to print for a while. Roles, a devnet in the foreground, and
//! commands that change folders of this machine are left out: they end by themselves, in order.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Command, DevnetCommand, MetaCommand, RoleCommand, SnapshotCommand};
use crate::exit::{STDOUT_CLOSED, by_signal};

/// The ends that a command is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watched {
    signals: bool,
    stdout: bool,
}

impl Watched {
    fn of(command: &Command) -> Self {
        let lives_on = matches!(
            command,
            Command::MetadataNode(RoleCommand::Run { .. })
                | Command::DataNode(RoleCommand::Run { .. })
                | Command::Devnet(DevnetCommand::Up { .. } | DevnetCommand::Demo { .. })
        );
        let changes_folders = matches!(
            command,
            Command::MetadataNode(_)
                | Command::DataNode(_)
                | Command::Devnet(_)
                | Command::Cluster(_)
                | Command::Meta(
                    MetaCommand::Recover(_) | MetaCommand::Snapshot(SnapshotCommand::Restore { .. })
                )
        );
        Self { signals: !lives_on, stdout: !changes_folders }
    }
}

/// Begins to watch. Needs a tokio runtime around it.
pub(crate) fn watch(command: &Command) {
    let Watched { signals, stdout } = Watched::of(command);
    if signals {
        watch_signals();
    }
    if stdout {
        std::thread::spawn(watch_stdout);
    }
}

/// Ends the process, from any of its threads.
fn finish(code: u8) -> ! {
    wmall_runtime::out_file::remove_all();
    std::process::exit(i32::from(code))
}

fn watch_signals() {
    let ignored = ignored_signals(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let number = kind.as_raw_value();
        // A process that is started with a signal ignored, as by `nohup`, is meant to go on.
        if ignored & 1 << (number - 1) != 0 {
            continue;
        }
        // Without a handler the signal ends the process all the same, and leaves unfinished files.
        if let Ok(mut signal) = signal(kind) {
            tokio::spawn(async move {
                signal.recv().await;
                finish(by_signal(number))
            });
        }
    }
}

/// The signals that a process ignores, one bit each, by what the kernel says of it.
fn ignored_signals(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Waits until stdout has no reader. A file always has one, and keeps this thread until the end.
fn watch_stdout() {
    let stdout = std::io::stdout();
    // A terminal that goes away sends a signal to those that should end with it.
    if stdout.is_terminal() {
        return;
    }
    loop {
        // Errors and hang-ups are told unasked.
        let mut fds = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => finish(STDOUT_CLOSED),
            Err(rustix::io::Errno::INTR) => {}
            // It can't be watched; the next thing that is printed finds out.
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn of(line: &str) -> Watched {
        Watched::of(&crate::args::Args::parse_from(line.split(' ')).command)
    }

    #[test]
    fn what_would_be_left_half_changed_is_not_ended_by_a_closed_stdout() {
        for line in ["wmall events -f", "wmall ls b", "wmall put f", "wmall meta snapshot save f"] {
            assert_eq!(of(line), Watched { signals: true, stdout: true }, "{line}");
        }
        for line in ["wmall data-node init", "wmall devnet down --dir d", "wmall meta recover"] {
            assert_eq!(of(line), Watched { signals: true, stdout: false }, "{line}");
        }
        for line in ["wmall data-node run", "wmall metadata-node run", "wmall devnet up --dir d"] {
            assert_eq!(of(line), Watched { signals: false, stdout: false }, "{line}");
        }
    }

    #[test]
    fn ignored_signals_are_those_of_the_mask() {
        let status = "Name:\twmall\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored_signals(status), 1 << 12 | 1, "SIGPIPE and SIGHUP");
        assert_eq!(ignored_signals(""), 0);
    }
}
