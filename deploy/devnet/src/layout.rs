//! The folders and files of a cluster: CA, identities, configurations.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use wmall_proto::topology::{ClusterId, MetadataAddress};
use wmall_proto::{NodeName, Role, ZoneName};
use wmall_runtime::OutFile;
use wmall_runtime::logging::LogConfig;
use wmall_runtime::ops::OpsConfig;
use wmall_transport::{Issuer, create_authority};

use crate::error::{DevnetError, at};

/// How long the first certificates are valid. Those of running nodes renew themselves.
const NODE_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
const USER_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "role")]
pub enum NodeKind {
    /// A metadata node.
    MetadataNode {
        /// Its Raft id.
        id: u64,
        /// Where it answers those who have a token.
        join: SocketAddr,
    },
    /// A data node.
    DataNode {
        /// Its failure domain.
        zone: ZoneName,
    },
}

impl NodeKind {
    /// The subcommand that runs it.
    pub fn command(&self) -> &'static str {
        match self {
            Self::MetadataNode { .. } => "metadata-node",
            Self::DataNode { .. } => "data-node",
        }
    }

    fn role(&self) -> Role {
        match self {
            Self::MetadataNode { .. } => Role::Metadata,
            Self::DataNode { .. } => Role::Data,
        }
    }
}

/// A node to be.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name.
    pub name: NodeName,
    /// What it is.
    pub kind: NodeKind,
    /// Where it listens for calls.
    pub address: SocketAddr,
    /// Where it listens for HTTP, if it does.
    pub ops: Option<SocketAddr>,
}

/// Where things are in a cluster's folder.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of this folder.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A node's folder.
    pub fn node(&self, name: &NodeName) -> PathBuf {
        self.root.join("nodes").join(name.as_str())
    }

    /// A node's configuration.
    pub fn config(&self, name: &NodeName, kind: &NodeKind) -> PathBuf {
        self.node(name).join(format!("{}.toml", kind.command()))
    }

    /// A node's log.
    pub fn log(&self, name: &NodeName) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// The client's configuration.
    pub fn client(&self) -> PathBuf {
        self.root.join("client.toml")
    }
}

/// What the nodes of a cluster have in common.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The most bytes that each data node's disk may use.
    pub max_bytes: u64,
    /// How long chunks that nothing refers to are kept.
    pub condemned_grace: Duration,
    /// How long an upload may take before it is given up.
    pub upload_grace: Duration,
    /// How long a data node is silent before it counts as down.
    pub down_grace: Duration,
    /// How long a scrub of everything may take.
    pub scrub_pass: Duration,
    /// How long certificates are valid that are issued later.
    pub certificate_life: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 30,
            condemned_grace: Duration::from_secs(600),
            upload_grace: Duration::from_secs(86_400),
            down_grace: Duration::from_secs(600),
            scrub_pass: Duration::from_secs(14 * 86_400),
            certificate_life: NODE_LIFETIME,
        }
    }
}

/// Makes the CA, every identity and every configuration of a cluster.
pub fn write_cluster(root: &Path, nodes: &[NodePlan], settings: &Settings) -> Result<Layout, DevnetError> {
    fs::create_dir_all(root).map_err(at(root))?;
    // Paths in configurations must not depend on where a process is started.
    let root = root.canonicalize().map_err(at(root))?;
    let layout = Layout::new(&root);
    let cluster = ClusterId(wmall_runtime::random::bytes());
    let issuer = create_authority(&root.join("ca"), cluster)?;
    let metadata: Vec<&NodePlan> =
        nodes.iter().filter(|n| matches!(n.kind, NodeKind::MetadataNode { .. })).collect();
    for node in nodes {
        let folder = layout.node(&node.name);
        let identity = folder.join("identity");
        issuer.issue(&identity, node.kind.role(), &node.name, NODE_LIFETIME)?;
        let config = layout.config(&node.name, &node.kind);
        match &node.kind {
            NodeKind::MetadataNode { .. } => {
                let (certificate, key) = issuer.to_pem();
                Issuer::save(&identity, &certificate, &key)?;
                write(&config, &metadata_config(node, &metadata, &folder, settings))?;
            }
            NodeKind::DataNode { zone } => {
                write(&config, &data_config(node, zone, &metadata, &folder, settings))?;
            }
        }
    }
    for (role, name) in [(Role::Admin, "admin"), (Role::Client, "client")] {
        let name = NodeName::new(name).map_err(|e| DevnetError::Plan(e.to_string()))?;
        issuer.issue(&root.join("identities").join(role.as_str()), role, &name, USER_LIFETIME)?;
    }
    let client = wmall_client::ClientConfig {
        identity_dir: root.join("identities").join("admin"),
        metadata: addresses(&metadata),
        timeout_ms: 15_000,
    };
    write(&layout.client(), &client)?;
    Ok(layout)
}

fn metadata_config(
    node: &NodePlan,
    metadata: &[&NodePlan],
    folder: &Path,
    settings: &Settings,
) -> wmall_metadata_node::RawConfig {
    let member = |n: &&NodePlan| match n.kind {
        NodeKind::MetadataNode { id, .. } => {
            Some(wmall_metadata_node::MemberEntry { id, name: n.name.clone(), address: n.address })
        }
        NodeKind::DataNode { .. } => None,
    };
    let members = metadata.iter().filter_map(member).collect();
    let (data, identity) = (folder.join("data"), folder.join("identity"));
    let life_ms = settings.certificate_life.as_millis() as u64;
    wmall_metadata_node::RawConfig {
        join_listen: match node.kind {
            NodeKind::MetadataNode { join, .. } => Some(join),
            NodeKind::DataNode { .. } => None,
        },
        node_certificate_ms: life_ms,
        user_certificate_ms: life_ms,
        condemned_grace_ms: settings.condemned_grace.as_millis() as u64,
        upload_grace_ms: settings.upload_grace.as_millis() as u64,
        down_after_ms: settings.down_grace.as_millis() as u64,
        ops: node.ops.map(|listen| OpsConfig { listen }),
        ..wmall_metadata_node::RawConfig::new(node.name.clone(), data, identity, node.address, members)
    }
}

fn addresses(metadata: &[&NodePlan]) -> Vec<MetadataAddress> {
    metadata.iter().map(|n| MetadataAddress { name: n.name.clone(), address: n.address }).collect()
}

fn data_config(
    node: &NodePlan,
    zone: &ZoneName,
    metadata: &[&NodePlan],
    folder: &Path,
    settings: &Settings,
) -> wmall_data_node::RawConfig {
    let disk = NodeName::new("disk-1").map(|name| wmall_data_node::DiskConfig {
        name,
        path: folder.join("disk-1"),
        max_bytes: settings.max_bytes,
        weight: 100,
    });
    wmall_data_node::RawConfig {
        name: node.name.clone(),
        zone: zone.clone(),
        identity_dir: folder.join("identity"),
        listen: node.address,
        advertise: None,
        metadata: addresses(metadata),
        scrub_pass_ms: settings.scrub_pass.as_millis() as u64,
        compare_ms: wmall_data_node::COMPARE_MS,
        disks: disk.into_iter().collect(),
        ops: node.ops.map(|listen| OpsConfig { listen }),
        log: LogConfig::default(),
    }
}

/// Gives a metadata node another Raft id, under which it waits to be taken in.
pub(crate) fn rejoin_config(layout: &Layout, name: &NodeName, kind: &NodeKind) -> Result<(), DevnetError> {
    let NodeKind::MetadataNode { id, .. } = *kind else { return Ok(()) };
    let path = layout.config(name, kind);
    let text = fs::read_to_string(&path).map_err(at(&path))?;
    let mut config: wmall_metadata_node::RawConfig =
        toml::from_str(&text).map_err(|e| DevnetError::Plan(e.to_string()))?;
    for member in config.members.iter_mut().filter(|m| m.name == *name) {
        member.id = id;
    }
    config.join = true;
    write(&path, &config)
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), DevnetError> {
    let text = toml::to_string_pretty(value).map_err(|e| DevnetError::Plan(e.to_string()))?;
    let written = OutFile::create(path).and_then(|mut out| {
        out.file().write_all(text.as_bytes())?;
        out.publish()
    });
    written.map_err(at(path))
}
