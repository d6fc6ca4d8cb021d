//! `init --join`: from a token to a node or a user that can begin. Identity first, then configuration, then
//! folders; each step that was done is found done when the command is given again.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use wmall_client::ClientConfig;
use wmall_proto::join::JoinToken;
use wmall_proto::rpc::{Request, Response};
use wmall_proto::{NodeName, Role};
use wmall_runtime::OutFile;
use wmall_runtime::ops::OpsConfig;
use wmall_transport::{Endpoint, Identity, Issuer, JoinError, Members};

use crate::args::{DataJoinArgs, JoinArgs, MetadataJoinArgs};
use crate::exit::Failure;
use crate::output::line;

/// How long a new metadata node may take to get the issuer from the others.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(15);

/// What every joining node has to say.
struct Joining {
    token: JoinToken,
    dir: std::path::PathBuf,
    name: NodeName,
    listen: SocketAddr,
    ops: Option<OpsConfig>,
}

impl Joining {
    fn of(args: JoinArgs, role: Role) -> Result<Self, Failure> {
        let JoinArgs { join, dir, name, listen, ops } = args;
        let missing = |what: &str| Failure::usage(format!("joining takes {what} as well"));
        let token = join.ok_or_else(|| missing("--join"))?;
        if token.role != role {
            return Err(JoinError::OtherRole { token: token.role, wanted: role }.into());
        }
        let name = name.or_else(|| token.name.clone()).ok_or_else(|| missing("--name"))?;
        let dir = dir.ok_or_else(|| missing("--dir"))?;
        std::fs::create_dir_all(&dir)
            .map_err(|e| Failure::local(format!("cannot make {}", dir.display()), &e))?;
        let dir =
            dir.canonicalize().map_err(|e| Failure::local(format!("cannot use {}", dir.display()), &e))?;
        let ops = ops.map(|listen| OpsConfig { listen });
        Ok(Self { token, dir, name, listen: listen.ok_or_else(|| missing("--listen"))?, ops })
    }

    async fn identity(&self) -> Result<Identity, Failure> {
        identity(&self.dir.join("identity"), &self.token, &self.name).await
    }
}

/// The identity that is there already, if it is the one that is wanted; else one by the token.
async fn identity(folder: &Path, token: &JoinToken, name: &NodeName) -> Result<Identity, Failure> {
    if Identity::exists(folder) {
        let there = Identity::load(folder).map_err(|e| Failure::local("the identity that is there", &e))?;
        let peer = there.peer();
        if (peer.cluster, peer.role, &peer.node) == (token.cluster, token.role, name) {
            return Ok(there);
        }
    }
    Ok(wmall_transport::join(folder, token, name).await?)
}

pub(super) async fn data_node(args: DataJoinArgs) -> Result<(), Failure> {
    use wmall_data_node::{Config, DiskConfig, RawConfig};
    let DataJoinArgs { join, zone, disk, disk_bytes, replace: _ } = args;
    let joining = Joining::of(join, Role::Data)?;
    let zone = zone.ok_or_else(|| Failure::usage("joining takes --zone as well"))?;
    let config = RawConfig {
        name: joining.name.clone(),
        zone,
        identity_dir: joining.dir.join("identity"),
        listen: joining.listen,
        advertise: None,
        metadata: joining.token.addresses(),
        scrub_pass_ms: wmall_data_node::SCRUB_PASS_MS,
        compare_ms: wmall_data_node::COMPARE_MS,
        disks: vec![DiskConfig {
            name: NodeName::new("disk-1").map_err(Failure::usage)?,
            path: disk.unwrap_or_else(|| joining.dir.join("disk-1")),
            max_bytes: disk_bytes,
            weight: 100,
        }],
        ops: joining.ops.clone(),
        log: Default::default(),
    };
    config.clone().validate().map_err(Failure::usage)?;
    joining.identity().await?;
    let file = joining.dir.join("data-node.toml");
    write_config(&file, &config)?;
    match wmall_data_node::init(&Config { raw: config }, false) {
        Ok(_) | Err(wmall_data_node::InitError::NothingToDo(_)) => {}
        Err(error) => return Err(Failure::role("data-node init", &error)),
    }
    said(&joining.name, "data-node", &file)
}

pub(super) async fn metadata_node(args: MetadataJoinArgs) -> Result<(), Failure> {
    use wmall_metadata_node::{Config, MemberEntry, RawConfig};
    let MetadataJoinArgs { join, id, join_listen } = args;
    let joining = Joining::of(join, Role::Metadata)?;
    let id = id.ok_or_else(|| Failure::usage("joining takes --id as well: one that no member ever had"))?;
    let member = MemberEntry { id, name: joining.name.clone(), address: joining.listen };
    let (data, identity) = (joining.dir.join("data"), joining.dir.join("identity"));
    let config = RawConfig {
        join_listen,
        join: true,
        seeds: joining.token.addresses(),
        ops: joining.ops.clone(),
        ..RawConfig::new(joining.name.clone(), data, identity.clone(), joining.listen, vec![member])
    };
    let checked: Config = config.clone().validate().map_err(Failure::usage)?;
    let own = joining.identity().await?;
    if !Issuer::exists(&identity) {
        fetch_issuer(&own, &joining.token, &identity).await?;
    }
    let file = joining.dir.join("metadata-node.toml");
    write_config(&file, &config)?;
    wmall_metadata_node::init(&checked).await.map_err(|e| Failure::metadata_init(&e))?;
    said(&joining.name, "metadata-node", &file)?;
    line(&format!("then take it in: wmall meta member add {}={} --id {id}", joining.name, joining.listen))
}

/// Metadata nodes issue certificates; a new one gets what that takes from the others, by its new identity.
async fn fetch_issuer(own: &Identity, token: &JoinToken, folder: &Path) -> Result<(), Failure> {
    let endpoint = Endpoint::client(own).map_err(|e| Failure::local("no socket could be had", &e))?;
    let members = Members::new(endpoint.clone(), &token.addresses());
    let answer = members.call_around(&Request::Issuer, ISSUER_TIMEOUT).await;
    endpoint.close().await;
    let Response::Issuer { certificate, key } = answer? else {
        return Err(Failure::check("internal", "the answer is of another kind than the question"));
    };
    Issuer::save(folder, &certificate, &key).map_err(|e| Failure::local("cannot keep the issuer", &e))
}

/// `user init`: a certificate and a client's configuration.
pub(super) async fn user(token: &JoinToken, dir: &Path) -> Result<(), Failure> {
    if !matches!(token.role, Role::Client | Role::Admin | Role::Validator) {
        return Err(JoinError::OtherRole { token: token.role, wanted: Role::Client }.into());
    }
    let name = token.name.clone().ok_or_else(|| Failure::usage("the token names no user"))?;
    std::fs::create_dir_all(dir).map_err(|e| Failure::local(format!("cannot make {}", dir.display()), &e))?;
    let dir = dir.canonicalize().map_err(|e| Failure::local(format!("cannot use {}", dir.display()), &e))?;
    identity(&dir.join("identity"), token, &name).await?;
    let config =
        ClientConfig { identity_dir: dir.join("identity"), metadata: token.addresses(), timeout_ms: 15_000 };
    let file = dir.join("client.toml");
    write_config(&file, &config)?;
    line(&format!("{} {name} is in; try: wmall --config {} status", token.role, file.display()))
}

/// A configuration that is there already is its operator's, and stays.
fn write_config<T: Serialize>(file: &Path, config: &T) -> Result<(), Failure> {
    if file.exists() {
        return Ok(());
    }
    let text = toml::to_string_pretty(config).map_err(|e| Failure::local("the configuration", &e))?;
    let written = OutFile::create(file).and_then(|mut out| {
        out.file().write_all(text.as_bytes())?;
        out.publish()
    });
    written.map_err(|e| Failure::local(format!("cannot write {}", file.display()), &e))
}

fn said(name: &NodeName, role: &str, file: &Path) -> Result<(), Failure> {
    line(&format!("{name} is in; start it: wmall --config {} {role} run", file.display()))
}
