//! `cluster init` and the roles: `metadata-node`, `data-node`.

use std::net::SocketAddr;

use wmall_devnet::{NodeKind, NodePlan, Settings, write_cluster};
use wmall_proto::{NodeName, ZoneName};
use wmall_runtime::Shutdown;

use super::Context;
use crate::args::{ClusterCommand, RoleCommand};
use crate::exit::Failure;
use crate::output::line;

pub(crate) fn cluster(command: ClusterCommand) -> Result<(), Failure> {
    let ClusterCommand::Init { dir, metadata, data, disk_bytes } = command;
    if !matches!(metadata.len(), 1 | 3 | 5) {
        return Err(Failure::usage(format!("{} metadata nodes; a cluster has 1, 3 or 5", metadata.len())));
    }
    let mut nodes = Vec::new();
    for (i, text) in metadata.iter().enumerate() {
        let (name, address) = name_and_address(text)?;
        let kind = NodeKind::MetadataNode { id: i as u64 + 1 };
        nodes.push(NodePlan { name, kind, address, ops: None });
    }
    for text in &data {
        let malformed = || Failure::usage(format!("{text:?} is not NAME=IP:PORT@ZONE"));
        let (node, zone) = text.rsplit_once('@').ok_or_else(malformed)?;
        let (name, address) = name_and_address(node)?;
        let zone = ZoneName::new(zone).map_err(Failure::usage)?;
        nodes.push(NodePlan { name, kind: NodeKind::DataNode { zone }, address, ops: None });
    }
    for (i, node) in nodes.iter().enumerate() {
        if nodes[..i].iter().any(|n| n.name == node.name || n.address == node.address) {
            return Err(Failure::usage(format!("{} has the name or the address of another node", node.name)));
        }
    }
    let settings = Settings { max_bytes: disk_bytes, ..Settings::default() };
    let layout = write_cluster(&dir, &nodes, &settings)?;
    let folder = layout.root().display();
    line(&format!(
        "{folder}/ca            the certificate authority: keep it off the nodes\n\
         {folder}/nodes/NAME    identity and configuration of each node: copy to its machine, adjust the paths\n\
         {folder}/identities    the first admin and client\n\
         {folder}/client.toml   for `wmall --config`"
    ))
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

pub(crate) async fn metadata_node(context: &Context, command: RoleCommand) -> Result<(), Failure> {
    use wmall_metadata_node::{Config, init, run};
    let file = context.role_config()?;
    match command {
        RoleCommand::CheckConfig => {
            Config::load(file)?;
            line("the configuration is good")
        }
        RoleCommand::Init => {
            let config = Config::load(file)?;
            init(&config).map_err(|e| Failure::role("metadata-node init", &e))
        }
        RoleCommand::Run { exit_with_parent } => {
            let config = Config::load(file)?;
            wmall_runtime::logging::init(&config.raw.log);
            run(config, shutdown(exit_with_parent)?).await.map_err(|e| Failure::role("metadata-node", &e))
        }
    }
}

pub(crate) async fn data_node(context: &Context, command: RoleCommand) -> Result<(), Failure> {
    use wmall_data_node::{Config, init, run};
    let file = context.role_config()?;
    match command {
        RoleCommand::CheckConfig => {
            Config::load(file)?;
            line("the configuration is good")
        }
        RoleCommand::Init => {
            let config = Config::load(file)?;
            let names = init(&config).map_err(|e| Failure::role("data-node init", &e))?;
            line(&format!("formatted: {}", names.join(", ")))
        }
        RoleCommand::Run { exit_with_parent } => {
            let config = Config::load(file)?;
            wmall_runtime::logging::init(&config.raw.log);
            run(config, shutdown(exit_with_parent)?).await.map_err(|e| Failure::role("data-node", &e))
        }
    }
}
