//! Words for the metadata nodes: members, snapshots, and the ways out of a loss.

use std::path::PathBuf;

use clap::Subcommand;
use wmall_proto::{Incarnation, NodeName};

#[derive(Debug, Subcommand)]
pub(crate) enum MetaCommand {
    /// Snapshot files of all metadata.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// The metadata nodes.
    #[command(subcommand)]
    Member(MemberCommand),
    /// Make a snapshot file from what data nodes hold, when every metadata node and every backup is lost.
    /// Files come back by their CIDs; names do not.
    Rebuild {
        /// The file to write.
        file: PathBuf,
        /// A data node; those that it knows are asked too. Repeatable.
        #[arg(long = "data", required = true, value_name = "NAME=IP:PORT")]
        data: Vec<String>,
        /// Go by the map of this data node, and not by the newest one that two of them have alike.
        #[arg(long, value_name = "NODE")]
        map_of: Option<NodeName>,
        /// Go on without data nodes that do not answer, and without the files that only they can name.
        #[arg(long)]
        without_silent: bool,
    },
    /// Begin a new life of the metadata with the one member that is left, when a majority is lost for good.
    /// Its entries are kept; those that only the lost members had acknowledged are not.
    Recover(RecoverArgs),
    /// Let data be deleted again, after a restore that one has looked at.
    AllowDeletion {
        /// Although chunks can't be read, and what they are made of may be deleted.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Write all metadata, as of now, to a file.
    Save {
        /// The file.
        file: PathBuf,
        /// One member's own, when none leads: of the stopped metadata node whose configuration --config
        /// names, with all of its log; or of one that runs, with --from.
        #[arg(long)]
        local: bool,
        /// The metadata node that is asked, by its name in the client's configuration.
        #[arg(long, value_name = "NAME", requires = "local")]
        from: Option<NodeName>,
    },
    /// Check a file, without a cluster.
    Verify {
        /// The file.
        file: PathBuf,
    },
    /// Make an empty metadata node, whose configuration --config names, begin with a file. To be done on
    /// every member, with the same file, before any is started.
    Restore {
        /// The file.
        file: PathBuf,
        /// The life that the restore on the first member has printed; for all others.
        #[arg(long, value_name = "HEX")]
        life: Option<Incarnation>,
    },
    /// The snapshots and backups that the metadata nodes keep.
    Ls,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// All metadata nodes.
    Ls,
    /// Take a metadata node in that runs, empty, with `join = true` in its configuration.
    Add {
        /// Its name and where it listens.
        #[arg(value_name = "NAME=IP:PORT")]
        member: String,
        /// Its Raft id, as in its configuration: one that no member ever had.
        #[arg(long)]
        id: u64,
    },
    /// Let a metadata node go; its id is never used again.
    Rm {
        /// Its Raft id.
        id: u64,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecoverArgs {
    /// The member that is left is the one whose configuration --config names. Its node must not run, and the
    /// lost ones must never start again with the folders that they had.
    #[arg(long)]
    pub(crate) from_survivor: bool,
    /// Say what would be lost, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask first. Without a terminal it is refused otherwise.
    #[arg(long, short, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
}
