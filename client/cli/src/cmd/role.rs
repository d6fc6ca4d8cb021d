//! `cluster init` and the roles: `metadata-node`, `data-node`.

use std::net::SocketAddr;

use wmall_devnet::{NodeKind, NodePlan, Settings, write_cluster};
use wmall_proto::{NodeName, Role, ZoneName};
use wmall_runtime::Shutdown;
use wmall_transport::Issuer;

use super::{Context, join};
use crate::args::{ClusterCommand, ClusterIssueArgs, DataJoinArgs, MetadataJoinArgs, RoleCommand};
use crate::exit::Failure;
use crate::output::line;

pub(crate) fn cluster(command: ClusterCommand) -> Result<(), Failure> {
    let (dir, metadata, data, disk_bytes) = match command {
        ClusterCommand::Init { dir, metadata, data, disk_bytes } => (dir, metadata, data, disk_bytes),
        ClusterCommand::Issue(args) => return issue(&args),
    };
    if !matches!(metadata.len(), 1 | 3 | 5) {
        return Err(Failure::usage(format!("{} metadata nodes; a cluster has 1, 3 or 5", metadata.len())));
    }
    let mut nodes = Vec::new();
    for (i, text) in metadata.iter().enumerate() {
        let (name, address) = name_and_address(text)?;
        let kind = NodeKind::MetadataNode { id: i as u64 + 1, join: join_address(address) };
        nodes.push(NodePlan { name, kind, address, ops: None });
    }
    for text in &data {
        let malformed = || Failure::usage(format!("{text:?} is not NAME=IP:PORT@ZONE"));
        let (node, zone) = text.rsplit_once('@').ok_or_else(malformed)?;
        let (name, address) = name_and_address(node)?;
        let zone = ZoneName::new(zone).map_err(Failure::usage)?;
        nodes.push(NodePlan { name, kind: NodeKind::DataNode { zone }, address, ops: None });
    }
    let join = |node: &NodePlan| match node.kind {
        NodeKind::MetadataNode { join, .. } => Some(join),
        NodeKind::DataNode { .. } => None,
    };
    for (i, node) in nodes.iter().enumerate() {
        let clash = |n: &NodePlan| {
            n.name == node.name
                || [Some(n.address), join(n)].contains(&Some(node.address))
                || join(node) == Some(n.address)
        };
        if nodes[..i].iter().any(clash) {
            let reason = format!("{} has the name or an address of another node", node.name);
            return Err(Failure::usage(reason)
                .hint("a metadata node also listens a thousand ports on, for those who join"));
        }
    }
    let settings = Settings { max_bytes: disk_bytes, ..Settings::default() };
    let layout = write_cluster(&dir, &nodes, &settings)?;
    let folder = layout.root().display();
    line(&format!(
        "{folder}/ca            the certificate authority: keep it off the nodes\n\
         {folder}/nodes/NAME    identity and configuration of each node: copy to its machine, adjust the paths\n\
         {folder}/identities    the first admin, and a client who may do what `wmall user set client …` says\n\
         {folder}/client.toml   for `wmall --config`"
    ))
}

/// Where strangers are answered, unless the configuration is changed: a thousand ports on.
fn join_address(listen: SocketAddr) -> SocketAddr {
    const STEP: u16 = 1000;
    let port = listen.port().checked_add(STEP).unwrap_or_else(|| listen.port() - STEP);
    SocketAddr::new(listen.ip(), port)
}

/// Issues a certificate with the folder of `cluster init`, with no cluster at hand.
fn issue(args: &ClusterIssueArgs) -> Result<(), Failure> {
    let failed = |e| Failure::local("the certificate was not issued", &e);
    let issuer = Issuer::load(&args.dir.join("ca")).map_err(failed)?;
    let role = Role::from(args.role);
    issuer.issue(&args.out, role, &args.name, args.lifetime).map_err(failed)?;
    if role == Role::Metadata {
        let (certificate, key) = issuer.to_pem();
        Issuer::save(&args.out, &certificate, &key).map_err(failed)?;
    }
    line(&format!("{}: {role} {}", args.out.display(), args.name))
}

pub(super) fn name_and_address(text: &str) -> Result<(NodeName, SocketAddr), Failure> {
    let malformed = || Failure::usage(format!("{text:?} is not NAME=IP:PORT"));
    let (name, address) = text.split_once('=').ok_or_else(malformed)?;
    let name = NodeName::new(name).map_err(Failure::usage)?;
    Ok((name, address.parse().map_err(|_| malformed())?))
}

/// A token that signals, and the parent's end if asked, will set.
fn shutdown(exit_with_parent: bool) -> Result<Shutdown, Failure> {
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|e| Failure::local("cannot listen for signals", &e))?;
    if exit_with_parent {
        shutdown.on_stdin_closed();
    }
    Ok(shutdown)
}

pub(crate) async fn metadata_node(
    context: &Context,
    command: RoleCommand<MetadataJoinArgs>,
) -> Result<(), Failure> {
    use wmall_metadata_node::{Config, init, run};
    let command = match command {
        RoleCommand::Init(args) if args.join.join.is_some() => return join::metadata_node(args).await,
        other => other,
    };
    let file = context.role_config()?;
    match command {
        RoleCommand::CheckConfig => {
            Config::load(file)?;
            line("the configuration is good")
        }
        RoleCommand::Init(_) => {
            let config = Config::load(file)?;
            init(&config).await.map_err(|e| Failure::metadata_init(&e))
        }
        RoleCommand::Run { exit_with_parent } => {
            let config = Config::load(file)?;
            wmall_runtime::logging::init(&config.raw.log);
            run(config, shutdown(exit_with_parent)?).await.map_err(|e| Failure::metadata_node(&e))
        }
    }
}

pub(crate) async fn data_node(context: &Context, command: RoleCommand<DataJoinArgs>) -> Result<(), Failure> {
    use wmall_data_node::{Config, init, replace, run};
    let command = match command {
        RoleCommand::Init(args) if args.join.join.is_some() => return join::data_node(args).await,
        other => other,
    };
    let file = context.role_config()?;
    match command {
        RoleCommand::CheckConfig => {
            Config::load(file)?;
            line("the configuration is good")
        }
        RoleCommand::Init(args) => {
            let config = Config::load(file)?;
            let formatted = match args.replace {
                Some(name) => replace(&config, &name).map(|()| vec![name.to_string()]),
                None => init(&config, false),
            };
            let names = formatted.map_err(|e| Failure::role("data-node init", &e))?;
            line(&format!("formatted: {}", names.join(", ")))
        }
        RoleCommand::Run { exit_with_parent } => {
            let config = Config::load(file)?;
            wmall_runtime::logging::init(&config.raw.log);
            run(config, shutdown(exit_with_parent)?).await.map_err(|e| Failure::data_node(&e))
        }
    }
}
