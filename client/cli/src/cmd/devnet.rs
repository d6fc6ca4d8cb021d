//! `devnet`.

use std::path::{Path, PathBuf};

use wmall_devnet::{Devnet, InProcess, NodeKind, NodeView, UpOptions, demo};
use wmall_runtime::Shutdown;

use super::Context;
use crate::args::DevnetCommand;
use crate::exit::Failure;
use crate::output::{line, table};

/// The binary that the nodes run: this one.
fn binary() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|e| Failure::local("cannot tell where this program is", &e))
}

pub(crate) async fn run(context: &Context, command: DevnetCommand) -> Result<(), Failure> {
    match command {
        DevnetCommand::Up {
            dir,
            metadata,
            data,
            zones,
            disk_bytes,
            condemned_grace,
            upload_grace,
            down_grace,
            scrub_pass,
            certificate_life,
            in_process,
            detach,
        } => {
            let options = UpOptions {
                metadata,
                data,
                zones,
                max_bytes: disk_bytes,
                condemned_grace,
                upload_grace,
                down_grace,
                scrub_pass,
                certificate_life,
                detach,
            };
            if in_process { up_in_process(&dir, &options).await } else { up(&dir, &options).await }
        }
        DevnetCommand::Kill(node) => Ok(Devnet::open(&node.dir, &binary()?)?.kill(&node.node)?),
        DevnetCommand::Stop(node) => Ok(Devnet::open(&node.dir, &binary()?)?.stop(&node.node)?),
        DevnetCommand::Start { node, wipe } => {
            Ok(Devnet::open(&node.dir, &binary()?)?.start(&node.node, wipe).await?)
        }
        DevnetCommand::Status { dir } => {
            let nodes = Devnet::open(&dir, &binary()?)?.nodes();
            context.format.print(&nodes, |nodes| {
                table(&["node", "role", "address", "http", "pid", "running"], nodes.iter().map(row))
            })
        }
        DevnetCommand::Down { dir } => Ok(Devnet::open(&dir, &binary()?)?.down()?),
        DevnetCommand::Demo { files } => {
            let folder = std::env::temp_dir().join(format!("wmall-demo-{}", std::process::id()));
            let mut say = |text: &str| {
                let _ = line(text);
            };
            Ok(demo::run(&folder, &binary()?, &files, &mut say).await?)
        }
    }
}

fn row(node: &NodeView) -> Vec<String> {
    let entry = &node.entry;
    let role = match &entry.kind {
        NodeKind::MetadataNode { .. } => "metadata".to_string(),
        NodeKind::DataNode { zone } => format!("data in {zone}"),
    };
    let running = if node.running { "yes" } else { "no" };
    let (address, http) = (entry.address.to_string(), entry.ops.to_string());
    vec![entry.name.to_string(), role, address, http, entry.pid.to_string(), running.into()]
}

async fn up(dir: &Path, options: &UpOptions) -> Result<(), Failure> {
    let devnet = Devnet::up(dir, &binary()?, options).await?;
    let said = announce(&devnet.layout().client());
    if options.detach {
        said?;
        return line(&format!("`wmall devnet down --dir {}` ends it", dir.display()));
    }
    // Without anybody who reads this it ends as it would by Ctrl-C.
    let said = said.and_then(|()| line("Ctrl-C ends it"));
    if said.is_ok() {
        wait_for_signal().await?;
    }
    devnet.down()?;
    said
}

async fn up_in_process(dir: &Path, options: &UpOptions) -> Result<(), Failure> {
    let cluster = InProcess::up(dir, options).await?;
    announce(&cluster.layout().client())?;
    line("Ctrl-C ends it; its folder stays")?;
    wait_for_signal().await?;
    cluster.down().await;
    Ok(())
}

fn announce(client: &Path) -> Result<(), Failure> {
    line(&format!("the cluster is up: wmall --config {} status", client.display()))
}

async fn wait_for_signal() -> Result<(), Failure> {
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|e| Failure::local("cannot listen for signals", &e))?;
    shutdown.requested().await;
    Ok(())
}
