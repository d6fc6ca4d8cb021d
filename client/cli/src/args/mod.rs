//! The command line.

mod identity;
mod meta;
mod operate;
mod parse;

use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use wmall_proto::rpc::Ack;
use wmall_proto::{BucketName, ChunkId, FileId, ObjectName, PoolName, Scheme};

use parse::{
    parse_bytes, parse_chunk, parse_file, parse_object, parse_quota, parse_quota_bytes, parse_range,
    parse_source,
};

use crate::output::Format;
pub(crate) use identity::{
    AuditArgs, ClusterIssueArgs, DataJoinArgs, JoinArgs, MetadataJoinArgs, TokenCommand, UserCommand,
};
pub(crate) use meta::{MemberCommand, MetaCommand, RecoverArgs, SnapshotCommand};
pub(crate) use operate::{
    CapacityCommand, Consent, DiskCommand, DrainArgs, HealthCommand, JobCommand, LayoutCommand, NodeCommand,
    PgCommand,
};

/// Reads the command line of this process; what makes no sense ends it.
pub(crate) fn parse() -> Args {
    let mut command = command();
    let args = Args::from_arg_matches(&command.get_matches_mut());
    args.unwrap_or_else(|error| error.format(&mut command).exit())
}

fn command() -> clap::Command {
    with_any_values(Args::command())
}

/// Behind an option that has to have a value comes its value, also one that begins with a hyphen, as names of
/// objects and files may.
fn with_any_values(command: clap::Command) -> clap::Command {
    let any_value = |arg: clap::Arg| {
        let has_value =
            arg.get_action().takes_values() && arg.get_num_args().is_none_or(|n| n.min_values() > 0);
        if has_value && !arg.is_positional() { arg.allow_hyphen_values(true) } else { arg }
    };
    command.mut_args(any_value).mut_subcommands(with_any_values)
}

/// A storage cluster for chain data: what goes in is durable in several places and comes out proven.
#[derive(Debug, Parser)]
#[command(name = "wmall", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Args {
    /// The configuration: a client's, or for the roles the node's own.
    /// [default for clients: ~/.config/wmall/client.toml]
    #[arg(long, short, global = true, env = "WMALL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How answers are printed.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// No progress on stderr.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// How long to wait for the metadata nodes, such as 5s.
    #[arg(long, global = true, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) timeout: Option<std::time::Duration>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store a file; its CID is the last line on stdout.
    Put(PutArgs),
    /// Get a file, or a range of it, every byte verified.
    Get(GetArgs),
    /// List the objects of a bucket.
    Ls(LsArgs),
    /// Remove a name, or let go of a file that was put without one. It can be had back for a while.
    Rm {
        /// BUCKET/NAME, or a CID.
        #[arg(value_parser = parse_source)]
        source: Source,
        /// For good: it can't be had back.
        #[arg(long)]
        purge: bool,
        /// Only if the name points to this file.
        #[arg(long, value_name = "CID", value_parser = parse_file)]
        if_match: Option<FileId>,
    },
    /// Have back what was removed.
    Undelete {
        /// BUCKET/NAME, or a CID.
        #[arg(value_parser = parse_source)]
        source: Source,
        /// Which former version, as `ls --removed` shows it. [default: the newest]
        #[arg(long, value_name = "VERSION")]
        former: Option<u64>,
    },
    /// Files.
    #[command(subcommand)]
    File(FileCommand),
    /// Chunks.
    #[command(subcommand)]
    Chunk(ChunkCommand),
    /// Check a file: metadata, promises, one copy of every chunk.
    Verify {
        /// A CID, or BUCKET/NAME.
        #[arg(value_parser = parse_source)]
        source: Source,
        /// Read every piece, not just one of each chunk.
        #[arg(long)]
        deep: bool,
    },
    /// Print a proof that a chunk is part of a file.
    Proof {
        /// The file.
        #[arg(value_parser = parse_file)]
        cid: FileId,
        /// The chunk's number, from 0.
        #[arg(long, value_name = "I")]
        chunk: usize,
    },
    /// Check a proof, without a cluster.
    VerifyProof {
        /// The proof.
        proof: PathBuf,
        /// The file that it should belong to.
        #[arg(long, value_parser = parse_file)]
        cid: FileId,
        /// The chunk's bytes, to be checked as well.
        #[arg(long, value_name = "CHUNKFILE")]
        data: Option<PathBuf>,
    },
    /// Is the cluster safe?
    Status,
    /// What needs attention, with codes: exit code 3 for warnings, 4 for errors.
    Health {
        #[command(subcommand)]
        command: Option<HealthCommand>,
    },
    /// How full is it, and would it hold without its largest node?
    Capacity {
        #[command(subcommand)]
        command: Option<CapacityCommand>,
    },
    /// What the cluster did by itself, and why.
    Events(EventsArgs),
    /// Data nodes.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Disks of data nodes.
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Weights of disks: staged, looked at, applied.
    #[command(subcommand)]
    Layout(LayoutCommand),
    /// Placement groups.
    #[command(subcommand)]
    Pg(PgCommand),
    /// What is under way, and what has been.
    #[command(subcommand)]
    Job(JobCommand),
    /// Pools: how redundant data is.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Buckets: namespaces of objects.
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Users, and what they may do.
    #[command(subcommand)]
    User(UserCommand),
    /// What operators did, line by line, each checked against the one before.
    Audit(AuditArgs),
    /// The metadata nodes: members, snapshots, restores.
    #[command(subcommand)]
    Meta(MetaCommand),
    /// A cluster's certificate authority and first identities.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The metadata node's role.
    #[command(subcommand)]
    MetadataNode(RoleCommand<MetadataJoinArgs>),
    /// The data node's role.
    #[command(subcommand)]
    DataNode(RoleCommand<DataJoinArgs>),
    /// A whole cluster on this machine.
    #[command(subcommand)]
    Devnet(DevnetCommand),
}

#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    /// Go on showing lines as they come.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with this line, instead of the last ones.
    #[arg(long, value_name = "N")]
    pub(crate) first: Option<u64>,
    /// Show so many at most.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PutArgs {
    /// The file, or - for stdin.
    pub(crate) file: PathBuf,
    /// BUCKET/NAME to point to it; BUCKET/ takes the file's own name.
    #[arg(value_parser = parse_object)]
    pub(crate) object: Option<(BucketName, Option<ObjectName>)>,
    /// Bytes of a chunk, such as 1M: 64K to 16M. [default: 4M]
    #[arg(long, value_parser = parse_bytes, value_name = "N")]
    pub(crate) chunk_size: Option<u64>,
    /// When it counts as done.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) ack: AckArg,
    /// The pool, if not the bucket's or the only one.
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// The pool with this scheme, such as 3x or rs:4+2.
    #[arg(long)]
    pub(crate) scheme: Option<Scheme>,
    /// Only if the name points to nothing.
    #[arg(long, requires = "object")]
    pub(crate) if_absent: bool,
    /// Only if the name points to this file.
    #[arg(long, value_name = "CID", value_parser = parse_file, requires = "object", conflicts_with = "if_absent")]
    pub(crate) if_match: Option<FileId>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// BUCKET, or BUCKET/PREFIX.
    pub(crate) place: String,
    /// Show at most so many. [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Only names behind this one.
    #[arg(long, value_name = "NAME")]
    pub(crate) after: Option<ObjectName>,
    /// What was removed or replaced and can still be had back.
    #[arg(long)]
    pub(crate) removed: bool,
    /// With --removed: also the versions of the name in --after that are behind this one.
    #[arg(long, value_name = "VERSION", requires_all = ["after", "removed"])]
    pub(crate) former: Option<u64>,
}

/// What a bucket's owner asks of it.
#[derive(Debug, clap::Args)]
pub(crate) struct BucketRuleArgs {
    /// For so long after it was written no object may be removed or replaced. Can be lengthened, never
    /// shortened.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) retain: Option<std::time::Duration>,
    /// For so long a removed object can be had back. [default: 1day]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) undelete: Option<std::time::Duration>,
    /// The most bytes that its objects may add up to, removed ones and parts of uploads included, or none.
    #[arg(long, value_parser = parse_quota_bytes, value_name = "N")]
    pub(crate) max_bytes: Option<Quota>,
    /// The most objects it may hold, removed ones included, or none.
    #[arg(long, value_parser = parse_quota, value_name = "N")]
    pub(crate) max_objects: Option<Quota>,
}

/// A bound, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota(pub(crate) Option<u64>);

#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// A CID, or BUCKET/NAME.
    #[arg(value_parser = parse_source)]
    pub(crate) source: Source,
    /// Where to write it; - for stdout. [default: the object's name, or the CID]
    #[arg(short = 'O', long = "out", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Only bytes A to B, both inclusive, from 0; A- goes on to the end.
    #[arg(long, value_parser = parse_range, value_name = "A-B")]
    pub(crate) range: Option<(u64, Option<u64>)>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum AckArg {
    /// Two copies on distinct nodes, spanning two zones where there are two.
    #[default]
    Quorum,
    /// Every slot.
    All,
}

impl From<AckArg> for Ack {
    fn from(arg: AckArg) -> Self {
        match arg {
            AckArg::Quorum => Self::Quorum,
            AckArg::All => Self::All,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum FileCommand {
    /// What a file is made of.
    Show {
        /// A CID, or BUCKET/NAME.
        #[arg(value_parser = parse_source)]
        source: Source,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChunkCommand {
    /// Where a chunk's pieces are.
    Show {
        /// The chunk's CID.
        #[arg(value_parser = parse_chunk)]
        cid: ChunkId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Make a pool.
    Create {
        /// Its name.
        name: PoolName,
        /// Copies, such as 3x, or Reed-Solomon pieces, such as rs:4+2.
        #[arg(long)]
        scheme: Scheme,
        /// Placement groups; a power of two up to 65536.
        #[arg(long, default_value_t = 1024)]
        pgs: u32,
    },
    /// All pools.
    Ls,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BucketCommand {
    /// Make a bucket.
    Create {
        /// Its name.
        name: BucketName,
        /// Its pool, if there are several.
        #[arg(long)]
        pool: Option<PoolName>,
        #[command(flatten)]
        rules: BucketRuleArgs,
    },
    /// Change what is asked of a bucket: retention, grace, quotas.
    Set {
        /// Its name.
        name: BucketName,
        #[command(flatten)]
        rules: BucketRuleArgs,
    },
    /// All buckets.
    Ls,
    /// One bucket.
    Show {
        /// Its name.
        name: BucketName,
    },
    /// How safe a bucket is: its objects by the worst grade of their chunks. Walks through all of them.
    Grades {
        /// Its name.
        name: BucketName,
    },
    /// Remove an empty bucket.
    Rm {
        /// Its name.
        name: BucketName,
        /// And what was removed from it and could still be had back.
        #[arg(long)]
        purge: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make the CA, an identity and a configuration for each first node, and those of the first users.
    Init {
        /// The folder; keep its `ca` part safe, and off the nodes.
        #[arg(long)]
        dir: PathBuf,
        /// A metadata node, as NAME=IP:PORT; 1, 3 or 5 of them.
        #[arg(long = "metadata", required = true, value_name = "NAME=IP:PORT")]
        metadata: Vec<String>,
        /// A data node, as NAME=IP:PORT@ZONE.
        #[arg(long = "data", value_name = "NAME=IP:PORT@ZONE")]
        data: Vec<String>,
        /// The most bytes that each data node's disk may use.
        #[arg(long, value_parser = parse_bytes, default_value = "64G", value_name = "N")]
        disk_bytes: u64,
    },
    /// Issue a certificate by hand, with the CA's folder: for who can't renew theirs any more.
    Issue(ClusterIssueArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand<J: clap::Args> {
    /// Make the node's folders, once; with --join, its identity and configuration too.
    Init(J),
    /// Run the node.
    Run {
        /// Stop when standard input ends, that is with the process that started this one.
        #[arg(long, hide = true)]
        exit_with_parent: bool,
    },
    /// Read the configuration and say what is wrong with it.
    CheckConfig,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevnetCommand {
    /// Make a cluster and start it.
    Up {
        /// Its folder.
        #[arg(long)]
        dir: PathBuf,
        /// Metadata nodes.
        #[arg(long, default_value_t = 3)]
        metadata: u32,
        /// Data nodes.
        #[arg(long, default_value_t = 5)]
        data: u32,
        /// Zones that the data nodes are spread over. [default: each its own]
        #[arg(long)]
        zones: Option<u32>,
        /// The most bytes that each disk may use.
        #[arg(long, value_parser = parse_bytes, default_value = "8G", value_name = "N")]
        disk_bytes: u64,
        /// How long chunks that nothing refers to are kept.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "10min", value_name = "TIME")]
        condemned_grace: std::time::Duration,
        /// How long an upload may take before it is given up.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "1day", value_name = "TIME")]
        upload_grace: std::time::Duration,
        /// How long a data node is silent before it counts as down, and what it held is made anew elsewhere.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "10min", value_name = "TIME")]
        down_grace: std::time::Duration,
        /// How long a scrub of everything may take.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "14days", value_name = "TIME")]
        scrub_pass: std::time::Duration,
        /// How long certificates are valid that are issued later.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "30days", value_name = "TIME")]
        certificate_life: std::time::Duration,
        /// All nodes in this process; it must stay in the foreground.
        #[arg(long, conflicts_with = "detach")]
        in_process: bool,
        /// Return once it is up; `devnet down` ends it.
        #[arg(long)]
        detach: bool,
    },
    /// End a node at once, as a power cut would.
    Kill(NodeOf),
    /// Stop a node in order.
    Stop(NodeOf),
    /// Start a node again.
    Start {
        #[command(flatten)]
        node: NodeOf,
        /// With nothing left of what it had: a data node on an empty disk, a metadata node as a new member.
        #[arg(long)]
        wipe: bool,
    },
    /// Which nodes run.
    Status {
        /// The devnet's folder.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Stop everything and remove the folder.
    Down {
        /// The devnet's folder.
        #[arg(long)]
        dir: PathBuf,
    },
    /// See it work: files in, a node killed, files out, proven.
    Demo {
        /// Files to store; generated blocks if none.
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct NodeOf {
    /// The node, such as data-2.
    pub(crate) node: String,
    /// The devnet's folder.
    #[arg(long)]
    pub(crate) dir: PathBuf,
}

pub(crate) use wmall_client::Source;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    fn parsed(line: &[&str]) -> Result<Command, clap::Error> {
        Ok(Args::from_arg_matches(&command().try_get_matches_from(line)?)?.command)
    }

    #[test]
    fn behind_an_option_comes_its_value_whatever_it_looks_like() {
        for name in ["--help", "-q", "--", "-", "--after"] {
            let Ok(Command::Ls(ls)) = parsed(&["wmall", "ls", "b", "--after", name, "--limit", "5"]) else {
                panic!("{name}");
            };
            assert_eq!((ls.after.unwrap().as_str(), ls.limit), (name, Some(5)));
        }
        let Ok(Command::Get(get)) = parsed(&["wmall", "get", "b/n", "-O", "-out", "--range", "0-9"]) else {
            panic!("-O");
        };
        assert_eq!((get.out, get.range), (Some("-out".into()), Some((0, Some(9)))));
        let Ok(Command::Put(put)) = parsed(&["wmall", "put", "--", "-file"]) else { panic!("put") };
        assert_eq!(put.file, PathBuf::from("-file"));
        // A value that may be left out is no value if it looks like an option.
        let Ok(Command::Node(NodeCommand::Drain { args, .. })) =
            parsed(&["wmall", "node", "drain", "data-1", "--wait", "--yes"])
        else {
            panic!("drain");
        };
        assert!(args.consent.yes && args.wait.is_some());
        assert!(parsed(&["wmall", "ls", "b", "--after"]).is_err(), "nothing follows");
        assert!(parsed(&["wmall", "ls", "b", "--nonsense"]).is_err());
    }
}
