//! Tokens, users, certificates.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use wmall_proto::identity::Scope;
use wmall_proto::join::JoinToken;
use wmall_proto::{NodeName, Role, ZoneName};

use super::parse::parse_bytes;

/// What a certificate says its holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// A metadata node.
    Metadata,
    /// A data node.
    Data,
    /// A validator of the ledger.
    Validator,
    /// A user.
    Client,
    /// An operator.
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Metadata => Self::Metadata,
            RoleName::Data => Self::Data,
            RoleName::Validator => Self::Validator,
            RoleName::Client => Self::Client,
            RoleName::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token: whoever has it may join once. It is the last line on stdout.
    Create {
        /// What its holder becomes.
        #[arg(long, value_enum)]
        role: RoleName,
        /// Under which name. Nodes may leave it open and choose an unused one.
        #[arg(long)]
        name: Option<NodeName>,
        /// What the new user may do: BUCKET:read, BUCKET:write, BUCKET:admin, or * for every bucket.
        /// Repeatable.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<Scope>,
        /// How long it is good.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "1h", value_name = "TIME")]
        ttl: Duration,
        /// Have every disk of the data node that joins wait for `wmall layout accept`.
        #[arg(long)]
        wait_for_layout: bool,
    },
    /// Tokens that have not expired.
    Ls,
    /// Make a token void.
    Rm {
        /// Its id, as `ls` shows it.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// All users, and what they may do.
    Ls,
    /// Say what a user may do from now on; with no scope, nothing.
    Set {
        /// Their name.
        name: NodeName,
        /// BUCKET:read, BUCKET:write, BUCKET:admin, or * for every bucket.
        scopes: Vec<Scope>,
    },
    /// Become a user: get a certificate with a token, and write a configuration for it.
    Init {
        /// The token.
        #[arg(long, value_name = "TOKEN", env = "WMALL_TOKEN", hide_env_values = true)]
        join: JoinToken,
        /// The folder for identity and configuration.
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct AuditArgs {
    /// Number of the first line wanted.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) first: u64,
    /// Show at most so many.
    #[arg(long, default_value_t = 1000)]
    pub(crate) limit: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ClusterIssueArgs {
    /// The folder of `cluster init`.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// For what.
    #[arg(long, value_enum)]
    pub(crate) role: RoleName,
    /// For whom.
    #[arg(long)]
    pub(crate) name: NodeName,
    /// The identity's folder; what is in it is replaced.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// How long it is valid.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "30days", value_name = "TIME")]
    pub(crate) lifetime: Duration,
}

/// A node that joins with a token needs no configuration beforehand: these make it.
#[derive(Debug, clap::Args)]
pub(crate) struct JoinArgs {
    /// A token from `wmall node token create`.
    #[arg(long, value_name = "TOKEN", env = "WMALL_TOKEN", hide_env_values = true, requires = "dir")]
    pub(crate) join: Option<JoinToken>,
    /// The folder for identity, configuration and data.
    #[arg(long, requires = "join")]
    pub(crate) dir: Option<PathBuf>,
    /// The node's name, if the token leaves it open.
    #[arg(long, requires = "join")]
    pub(crate) name: Option<NodeName>,
    /// Where it listens for calls, and others reach it.
    #[arg(long, requires = "join", value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where it listens for HTTP: metrics and health.
    #[arg(long, requires = "join", value_name = "IP:PORT")]
    pub(crate) ops: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DataJoinArgs {
    #[command(flatten)]
    pub(crate) join: JoinArgs,
    /// Its failure domain.
    #[arg(long, requires = "join")]
    pub(crate) zone: Option<ZoneName>,
    /// The folder of its disk, on a file system of its own. [default: disk-1 in --dir]
    #[arg(long, requires = "join")]
    pub(crate) disk: Option<PathBuf>,
    /// The most bytes that the disk may use.
    #[arg(long, requires = "join", value_parser = parse_bytes, default_value = "64G", value_name = "N")]
    pub(crate) disk_bytes: u64,
    /// Format the folder of this disk, which is empty now, in place of the disk that was in it. Its pieces
    /// are fetched anew; other disks are left as they are.
    #[arg(long, conflicts_with = "join", value_name = "DISK")]
    pub(crate) replace: Option<NodeName>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MetadataJoinArgs {
    #[command(flatten)]
    pub(crate) join: JoinArgs,
    /// Its Raft id: one that no member ever had.
    #[arg(long, requires = "join")]
    pub(crate) id: Option<u64>,
    /// Where it answers those who have a token.
    #[arg(long, requires = "join", value_name = "IP:PORT")]
    pub(crate) join_listen: Option<SocketAddr>,
}
