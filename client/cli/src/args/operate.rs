//! Words for nodes, disks, jobs and the layout.

use clap::Subcommand;
use wmall_proto::job::Place;
use wmall_proto::{NodeName, PoolName};

use super::identity::{RoleName, TokenCommand};

/// Whether to do it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Consent {
    /// Say what would happen, or why it would be refused, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask first. Only who sits at a terminal is asked.
    #[arg(long, short, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
}

/// How to empty something.
#[derive(Debug, clap::Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub(crate) consent: Consent,
    /// Wait until it is empty, a day at most or as long as is said.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", num_args = 0..=1)]
    #[arg(default_missing_value = "1day")]
    pub(crate) wait: Option<std::time::Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// All data nodes.
    Ls,
    /// One data node with its disks, and what would be in danger without it.
    Show {
        /// Its name.
        name: NodeName,
    },
    /// Have a data node emptied: its pieces move elsewhere, and it gets no new ones.
    Drain {
        /// Its name.
        name: NodeName,
        #[command(flatten)]
        args: DrainArgs,
    },
    /// Let a data node keep what it has, and take new pieces.
    Undrain {
        /// Its name.
        name: NodeName,
    },
    /// Announce that a data node will be down: its silence causes no repairs, but for chunks that the next
    /// loss would lose. Refused if chunks could not be read without it.
    Maintenance {
        /// Its name.
        name: NodeName,
        /// For so long.
        #[arg(long = "for", value_parser = humantime::parse_duration, value_name = "TIME", default_value = "1h")]
        time: std::time::Duration,
        /// It is over.
        #[arg(long, conflicts_with_all = ["time", "force"])]
        end: bool,
        /// Although chunks could not be read meanwhile.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Tokens, with which new nodes and users join.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Have everybody refuse the certificates that somebody has now.
    Revoke {
        /// Whose.
        name: NodeName,
        /// Their role: for a name that is known in several, or in none since its certificate was issued
        /// offline. [default: found by the name]
        #[arg(long, value_enum)]
        role: Option<RoleName>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// All disks. One is added by naming it in its node's configuration: `wmall data-node init`, and a
    /// restart.
    Ls,
    /// One disk, and what would be in danger without its node.
    Show {
        /// NODE/DISK.
        disk: Place,
    },
    /// Have a disk emptied: its pieces move elsewhere, and it gets no new ones.
    Drain {
        /// NODE/DISK.
        disk: Place,
        #[command(flatten)]
        args: DrainArgs,
    },
    /// Let a disk keep what it has, and take new pieces.
    Undrain {
        /// NODE/DISK.
        disk: Place,
    },
    /// Have a disk emptied into another one.
    Replace {
        /// NODE/DISK that goes.
        old: Place,
        /// NODE/DISK that takes over, as large or larger.
        #[arg(long)]
        with: Place,
        #[command(flatten)]
        args: DrainArgs,
    },
    /// Let a disk out of quarantine. What it holds counts once it has been looked through.
    Release {
        /// NODE/DISK.
        disk: Place,
    },
    /// Forget a disk that is empty and will not come back.
    Rm {
        /// NODE/DISK.
        disk: Place,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LayoutCommand {
    /// The layout, and what the draft would move.
    Show,
    /// Give a disk another weight, in the draft.
    Stage {
        /// NODE/DISK.
        disk: Place,
        /// Its share, relative to the others': 1 to 1000000.
        #[arg(long, value_name = "N")]
        weight: u32,
    },
    /// Take into the draft what waits of a node: weights above the usual, another zone, disks of a waiting
    /// token.
    Accept {
        /// The node.
        node: NodeName,
    },
    /// Make the draft the layout.
    Apply {
        /// The draft, by its number in `layout show`: what has changed since is not applied unseen.
        #[arg(long, value_name = "N")]
        draft: u64,
        #[command(flatten)]
        consent: Consent,
    },
    /// Drop the draft.
    Revert,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PgCommand {
    /// The placement groups of a pool: their rows and grades. Only those that are not stable, unless all are
    /// wanted.
    Ls {
        /// The pool.
        pool: PoolName,
        /// Stable ones too.
        #[arg(long)]
        all: bool,
    },
    /// One placement group.
    Show {
        /// The pool.
        pool: PoolName,
        /// Its number.
        number: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// All jobs, the newest first.
    Ls,
    /// One job.
    Show {
        /// Its number.
        number: u64,
    },
    /// Wait until a job has ended.
    Watch {
        /// Its number.
        number: u64,
        /// So long at most.
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", default_value = "1day")]
        wait: std::time::Duration,
    },
    /// Let nothing more begin to move.
    Pause {
        /// Its number.
        number: u64,
    },
    /// Let it go on.
    Resume {
        /// Its number.
        number: u64,
    },
    /// End it here: the disks keep what they have.
    Cancel {
        /// Its number.
        number: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CapacityCommand {
    /// When it will be full, and how many more peers it takes.
    Forecast,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HealthCommand {
    /// Leave a finding out of the exit code for a while.
    Mute {
        /// Its code.
        code: String,
        /// For so long.
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", default_value = "1day")]
        ttl: std::time::Duration,
    },
    /// Count it again.
    Unmute {
        /// Its code.
        code: String,
    },
}
