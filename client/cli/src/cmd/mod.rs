//! What the commands do.

mod capacity;
mod consent;
mod data;
mod devnet;
mod drain;
mod events;
mod health;
mod identity;
mod job;
mod join;
mod layout;
mod meta;
mod namespace;
mod place;
mod proof;
mod recover;
mod role;
mod show;

use std::path::{Path, PathBuf};

use wmall_client::{ClientConfig, Store};

use crate::args::{Args, Command};
use crate::exit::Failure;
use crate::output::Format;

/// What every command may need of the command line.
pub(crate) struct Context {
    config: Option<PathBuf>,
    timeout: Option<std::time::Duration>,
    pub(crate) format: Format,
    pub(crate) quiet: bool,
}

impl Context {
    /// A role's own configuration, which has no default.
    pub(crate) fn role_config(&self) -> Result<&Path, Failure> {
        self.config
            .as_deref()
            .ok_or_else(|| Failure::usage("name the node's configuration with --config FILE"))
    }

    /// The client's configuration.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Failure> {
        let path = match &self.config {
            Some(path) => path.clone(),
            None => default_config()?,
        };
        Ok(ClientConfig::load(&path)?)
    }

    /// Connects to the cluster that the configuration names.
    pub(crate) async fn connect(&self) -> Result<Store, Failure> {
        let mut config = self.client_config()?;
        if let Some(timeout) = self.timeout {
            config.timeout_ms = timeout.as_millis() as u64;
        }
        Ok(Store::connect(&config).await?)
    }
}

fn default_config() -> Result<PathBuf, Failure> {
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".config"));
    let base = base.or_else(home).ok_or_else(|| {
        Failure::usage("no configuration: neither --config nor WMALL_CONFIG nor HOME is set")
    })?;
    Ok(base.join("wmall").join("client.toml"))
}

/// Runs a command.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args { config, output, quiet, timeout, command } = args;
    let context = Context { config, timeout, format: output, quiet };
    if !matches!(command, Command::MetadataNode(_) | Command::DataNode(_)) {
        let quiet_logs = wmall_runtime::logging::LogConfig {
            filter: "warn,openraft=error,quinn=error".into(),
            ..wmall_runtime::logging::LogConfig::default()
        };
        wmall_runtime::logging::init(&quiet_logs);
    }
    match command {
        Command::Put(args) => data::put(&context, args).await,
        Command::Get(args) => data::get(&context, args).await,
        Command::Verify { source, deep } => data::verify(&context, &source, deep).await,
        Command::Ls(args) => namespace::ls(&context, args).await,
        Command::Rm { source, purge, if_match } => data::rm(&context, source, purge, if_match).await,
        Command::Undelete { source, former } => data::undelete(&context, source, former).await,
        Command::Pool(command) => namespace::pool(&context, command).await,
        Command::Bucket(command) => namespace::bucket(&context, command).await,
        Command::File(command) => show::file(&context, command).await,
        Command::Chunk(command) => show::chunk(&context, command).await,
        Command::Status => show::status(&context).await,
        Command::Health { command } => health::run(&context, command).await,
        Command::Events(args) => events::events(&context, &args).await,
        Command::Capacity { command } => capacity::capacity(&context, command).await,
        Command::Node(command) => place::node(&context, command).await,
        Command::Disk(command) => place::disk(&context, command).await,
        Command::Layout(command) => layout::run(&context, command).await,
        Command::Pg(command) => place::pg(&context, command).await,
        Command::Job(command) => job::run(&context, command).await,
        Command::User(command) => identity::user(&context, command).await,
        Command::Audit(args) => identity::audit(&context, &args).await,
        Command::Proof { cid, chunk } => proof::make(&context, cid, chunk).await,
        Command::VerifyProof { proof, cid, data } => proof::check(&proof, cid, data.as_deref()),
        Command::Meta(command) => meta::run(&context, command).await,
        Command::Cluster(command) => role::cluster(command),
        Command::MetadataNode(command) => role::metadata_node(&context, command).await,
        Command::DataNode(command) => role::data_node(&context, command).await,
        Command::Devnet(command) => devnet::run(&context, command).await,
    }
}
