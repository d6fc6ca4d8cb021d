//! A devnet: made, started, prodded and removed.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Serialize;
use wmall_client::{ClientConfig, ClientError, Store};
use wmall_proto::status::NodeState;
use wmall_proto::{NodeName, PoolName, Scheme, ZoneName};

use crate::error::{DevnetError, at};
use crate::layout::{Layout, NodeKind, NodePlan, Settings, rejoin_config, write_cluster};
use crate::process::{Launch, is_running, signal, wait_gone};
use crate::state::{NodeEntry, State, StateLock};

/// How long a cluster may take to come up.
const READY: Duration = Duration::from_secs(60);
/// Between looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(20);
/// How long a node may take to stop by itself.
const STOP: Duration = Duration::from_secs(15);

/// What a devnet is made of.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// Metadata nodes: 1, 3 or 5.
    pub metadata: u32,
    /// Data nodes.
    pub data: u32,
    /// Zones that the data nodes are spread over; each its own if none.
    pub zones: Option<u32>,
    /// The most bytes that each data node's disk may use.
    pub max_bytes: u64,
    /// How long chunks that nothing refers to are kept.
    pub condemned_grace: Duration,
    /// How long an upload may take before it is given up.
    pub upload_grace: Duration,
    /// How long a data node is silent before it counts as down, and what it held is made anew elsewhere.
    pub down_grace: Duration,
    /// How long a scrub of everything may take.
    pub scrub_pass: Duration,
    /// How long certificates are valid that are issued later.
    pub certificate_life: Duration,
    /// Whether the nodes outlive the caller.
    pub detach: bool,
}

impl Default for UpOptions {
    fn default() -> Self {
        let Settings { condemned_grace, upload_grace, down_grace, scrub_pass, certificate_life, .. } =
            Settings::default();
        Self {
            metadata: 3,
            data: 5,
            zones: None,
            max_bytes: 8 << 30,
            condemned_grace,
            upload_grace,
            down_grace,
            scrub_pass,
            certificate_life,
            detach: true,
        }
    }
}

impl UpOptions {
    pub(crate) fn settings(&self) -> Settings {
        let Self {
            max_bytes, condemned_grace, upload_grace, down_grace, scrub_pass, certificate_life, ..
        } = *self;
        Settings { max_bytes, condemned_grace, upload_grace, down_grace, scrub_pass, certificate_life }
    }
}

/// A node of a devnet, as it is now.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// What the state file has.
    #[serde(flatten)]
    pub entry: NodeEntry,
    /// Whether its process runs.
    pub running: bool,
}

/// A devnet in a folder.
pub struct Devnet {
    layout: Layout,
    binary: PathBuf,
    state: State,
    /// Children that end with this value; empty when detached.
    tied: Vec<Child>,
    detach: bool,
}

impl Devnet {
    /// Makes a cluster in this folder and starts it: `binary` is the `wmall` that the nodes run. Returns
    /// once every node is up and the pool `3x` is there, if there are nodes enough for it.
    pub async fn up(folder: &Path, binary: &Path, options: &UpOptions) -> Result<Self, DevnetError> {
        let plans = plan(options)?;
        fs::create_dir_all(folder).map_err(at(folder))?;
        let lock = StateLock::take(folder)?;
        if lock.exists() {
            return Err(DevnetError::Exists(folder.display().to_string()));
        }
        let layout = write_cluster(folder, &plans, &options.settings())?;
        for plan in &plans {
            init_node(&layout, plan)?;
        }
        let entry = |plan: &NodePlan| NodeEntry {
            name: plan.name.clone(),
            kind: plan.kind.clone(),
            address: plan.address,
            ops: plan.ops.unwrap_or(plan.address),
            pid: 0,
        };
        let state = State::new(plans.iter().map(entry).collect());
        lock.write(&state)?;
        let mut devnet =
            Self { layout, binary: binary.to_path_buf(), state, tied: Vec::new(), detach: options.detach };
        let launched = (0..devnet.state.nodes.len()).try_for_each(|i| devnet.launch(&lock, i));
        drop(lock);
        if let Err(error) = launched {
            devnet.stop_all();
            return Err(error);
        }
        if let Err(error) = devnet.wait_ready().await {
            // Half a cluster is none: nothing is left running, and the folder stays for its logs.
            devnet.stop_all();
            return Err(error);
        }
        Ok(devnet)
    }

    /// Opens the devnet of a folder.
    pub fn open(folder: &Path, binary: &Path) -> Result<Self, DevnetError> {
        let state = State::read(folder)?;
        let folder = folder.canonicalize().map_err(at(folder))?;
        let layout = Layout::new(&folder);
        Ok(Self { layout, binary: binary.to_path_buf(), state, tied: Vec::new(), detach: true })
    }

    /// Where its files are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A client of it.
    pub async fn connect(&self) -> Result<Store, DevnetError> {
        let config =
            ClientConfig::load(&self.layout.client()).map_err(|e| DevnetError::Plan(e.to_string()))?;
        Ok(Store::connect(&config).await?)
    }

    /// Its nodes.
    pub fn nodes(&self) -> Vec<NodeView> {
        let view = |entry: &NodeEntry| {
            let running = is_running(entry.pid, &self.layout.config(&entry.name, &entry.kind));
            NodeView { entry: entry.clone(), running }
        };
        self.state.nodes.iter().map(view).collect()
    }

    fn find(&self, name: &str) -> Result<usize, DevnetError> {
        self.state.nodes.iter().position(|n| n.name.as_str() == name).ok_or_else(|| {
            let names: Vec<&str> = self.state.nodes.iter().map(|n| n.name.as_str()).collect();
            DevnetError::UnknownNode { name: name.to_string(), known: names.join(", ") }
        })
    }

    /// Ends a node at once, as a power cut would: SIGKILL. Returns once it is gone.
    pub fn kill(&mut self, name: &str) -> Result<(), DevnetError> {
        self.end(name, Signal::KILL)
    }

    /// Asks a node to stop, and waits for it.
    pub fn stop(&mut self, name: &str) -> Result<(), DevnetError> {
        self.end(name, Signal::TERM)
    }

    fn end(&mut self, name: &str, with: Signal) -> Result<(), DevnetError> {
        // Another process may have started it anew.
        self.state = State::read(self.layout.root())?;
        let node = self.state.nodes[self.find(name)?].clone();
        let config = self.layout.config(&node.name, &node.kind);
        signal(node.pid, &config, with);
        if !wait_gone(node.pid, &config, STOP) {
            signal(node.pid, &config, Signal::KILL);
            wait_gone(node.pid, &config, STOP);
        }
        self.reap();
        Ok(())
    }

    /// Starts a node that does not run; with `wipe`, with nothing left of what it had: a data node on an
    /// empty disk, a metadata node as a new member.
    pub async fn start(&mut self, name: &str, wipe: bool) -> Result<(), DevnetError> {
        // Another command may start the same node now, or end all of them.
        let lock = StateLock::take(self.layout.root())?;
        self.state = lock.read()?;
        let i = self.find(name)?;
        let node = self.state.nodes[i].clone();
        let config = self.layout.config(&node.name, &node.kind);
        if is_running(node.pid, &config) {
            return Err(DevnetError::Running(name.to_string()));
        }
        if wipe {
            let NodeKind::DataNode { .. } = node.kind else {
                // It asks the cluster, which may wait for a node that another command starts.
                drop(lock);
                return self.rejoin(i).await;
            };
            let disk = self.layout.node(&node.name).join("disk-1");
            fs::remove_dir_all(&disk).map_err(at(&disk))?;
            let loaded = wmall_data_node::Config::load(&config);
            let loaded = loaded.map_err(|e| DevnetError::Node(e.to_string()))?;
            wmall_data_node::init(&loaded, true).map_err(|e| DevnetError::Node(e.to_string()))?;
        }
        self.launch(&lock, i)?;
        drop(lock);
        self.wait_started(i)
    }

    /// A metadata node that lost its memory must not come back under its old id: the others let that go, and
    /// take the node in under a new one.
    async fn rejoin(&mut self, i: usize) -> Result<(), DevnetError> {
        let node = self.state.nodes[i].clone();
        let store = self.connect().await?;
        let members = store.status().await?.members;
        let ids = self.state.nodes.iter().filter_map(|n| match n.kind {
            NodeKind::MetadataNode { id, .. } => Some(id),
            NodeKind::DataNode { .. } => None,
        });
        let id = ids.chain(members.iter().map(|m| m.id)).max().unwrap_or(0) + 1;
        if let Some(old) = members.iter().find(|m| m.name == node.name.as_str()) {
            store.remove_member(old.id).await?;
        }
        let NodeKind::MetadataNode { join, .. } = node.kind else { return Ok(()) };
        let kind = NodeKind::MetadataNode { id, join };
        rejoin_config(&self.layout, &node.name, &kind)?;
        let data = self.layout.node(&node.name).join("data");
        fs::remove_dir_all(&data).map_err(at(&data))?;
        self.state.nodes[i].kind = kind.clone();
        let plan = NodePlan { name: node.name.clone(), kind, address: node.address, ops: Some(node.ops) };
        init_node(&self.layout, &plan)?;
        let lock = StateLock::take(self.layout.root())?;
        self.launch(&lock, i)?;
        drop(lock);
        self.wait_started(i)?;
        store.add_member(id, node.name, node.address).await?;
        store.close().await;
        Ok(())
    }

    /// Waits until a node answers on its operations port, or has ended instead.
    fn wait_started(&mut self, i: usize) -> Result<(), DevnetError> {
        let node = self.state.nodes[i].clone();
        let deadline = Instant::now() + READY;
        loop {
            if TcpStream::connect_timeout(&node.ops, POLL).is_ok() {
                return Ok(());
            }
            // Not by its command line, which it has only some time after it has begun.
            let child = self.tied.iter_mut().find(|c| c.id() == node.pid);
            let ended = child.and_then(|c| c.try_wait().ok().flatten());
            let what = if let Some(status) = ended {
                format!("{} ended at once ({status}) instead of coming up", node.name)
            } else if Instant::now() >= deadline {
                format!("{} did not come up", node.name)
            } else {
                std::thread::sleep(POLL);
                continue;
            };
            return Err(self.not_ready(what));
        }
    }

    /// Stops every node and removes the folder.
    pub fn down(mut self) -> Result<(), DevnetError> {
        let root = self.layout.root().to_path_buf();
        let lock = StateLock::take(&root)?;
        self.state = lock.read()?;
        self.stop_known();
        lock.remove_state()?;
        for part in ["nodes", "logs", "ca", "identities"] {
            let path = root.join(part);
            if path.exists() {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        let _ = fs::remove_file(self.layout.client());
        lock.remove();
        // What the user put beside is the user's.
        let _ = fs::remove_dir(&root);
        Ok(())
    }

    /// Stops every node.
    pub fn stop_all(&mut self) {
        // Another process may have started nodes since, and none may start now.
        let lock = StateLock::take(self.layout.root());
        if let Ok(now) = State::read(self.layout.root()) {
            self.state = now;
        }
        self.stop_known();
        drop(lock);
    }

    fn stop_known(&mut self) {
        let nodes = self.state.nodes.clone();
        for node in &nodes {
            signal(node.pid, &self.layout.config(&node.name, &node.kind), Signal::TERM);
        }
        for node in &nodes {
            let config = self.layout.config(&node.name, &node.kind);
            if !wait_gone(node.pid, &config, STOP) {
                signal(node.pid, &config, Signal::KILL);
                wait_gone(node.pid, &config, STOP);
            }
        }
        self.reap();
    }

    /// Collects the exit codes of children that have ended.
    fn reap(&mut self) {
        self.tied.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }

    /// Starts a node's process and notes it down. A process that nobody could find again is ended.
    fn launch(&mut self, lock: &StateLock, i: usize) -> Result<(), DevnetError> {
        let mut node = self.state.nodes[i].clone();
        let launch = Launch {
            binary: &self.binary,
            command: node.kind.command(),
            config: self.layout.config(&node.name, &node.kind),
            log: self.layout.log(&node.name),
            tied: !self.detach,
        };
        let mut child = launch.start()?;
        node.pid = child.id();
        match lock.enter(&node) {
            Ok(state) => {
                self.state = state;
                self.tied.push(child);
                Ok(())
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Waits until a leader answers and every data node is heard of, and makes the first pool.
    async fn wait_ready(&mut self) -> Result<(), DevnetError> {
        let data = self.state.nodes.iter().filter(|n| matches!(n.kind, NodeKind::DataNode { .. })).count();
        let deadline = Instant::now() + READY;
        let store = loop {
            match self.connect().await {
                Ok(store) => break store,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => self.pause_or_fail()?,
            }
        };
        wait_for_nodes(&store, data, deadline).await.map_err(|what| self.not_ready(what))?;
        make_first_pool(&store).await?;
        store.close().await;
        Ok(())
    }

    /// A node that ended while the cluster comes up will not come up by itself.
    fn pause_or_fail(&mut self) -> Result<(), DevnetError> {
        for child in &mut self.tied {
            if let Ok(Some(status)) = child.try_wait() {
                let what = format!("process {} ended with {status}; the cluster did not come up", child.id());
                return Err(self.not_ready(what));
            }
        }
        Ok(())
    }

    fn not_ready(&self, what: String) -> DevnetError {
        let logs = self.layout.root().join("logs").display().to_string();
        DevnetError::NotReady { what, seconds: READY.as_secs(), logs }
    }
}

/// Waits until this many data nodes are up.
pub(crate) async fn wait_for_nodes(store: &Store, data: usize, deadline: Instant) -> Result<(), String> {
    loop {
        let seen = match store.status().await {
            Ok(status) => status.nodes.iter().filter(|n| heard(n)).count(),
            Err(_) => 0,
        };
        if seen >= data {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("only {seen} of {data} data nodes came up"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn heard(node: &wmall_proto::status::NodeStatus) -> bool {
    node.state == NodeState::Up && node.silent_ms.is_some()
}

/// The pool `3x`, where there are nodes enough for three copies.
pub(crate) async fn make_first_pool(store: &Store) -> Result<(), ClientError> {
    let status = store.status().await?;
    if !status.pools.is_empty() || status.nodes.len() < 3 {
        return Ok(());
    }
    let (Ok(name), scheme) = (PoolName::new("3x"), Scheme::Replicated { copies: 3 }) else { return Ok(()) };
    store.create_pool(name, scheme, wmall_proto::pg::DEFAULT_PG_BITS).await
}

/// Names, zones and free ports.
pub(crate) fn plan(options: &UpOptions) -> Result<Vec<NodePlan>, DevnetError> {
    if !matches!(options.metadata, 1 | 3 | 5) {
        let why = format!("a cluster has 1, 3 or 5 metadata nodes, not {}", options.metadata);
        return Err(DevnetError::Plan(why));
    }
    if options.data == 0 || options.data > 64 {
        return Err(DevnetError::Plan(format!("a devnet has 1 to 64 data nodes, not {}", options.data)));
    }
    let zones = options.zones.unwrap_or(options.data);
    if zones == 0 || zones > options.data {
        return Err(DevnetError::Plan(format!("{} data nodes do not fill {zones} zones", options.data)));
    }
    // Held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    let mut port = || -> Result<(SocketAddr, SocketAddr), DevnetError> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let failed = |source| DevnetError::Io { what: "cannot find a free port".into(), source };
        let (udp, tcp) = (UdpSocket::bind(any).map_err(failed)?, TcpListener::bind(any).map_err(failed)?);
        let found = (udp.local_addr().map_err(failed)?, tcp.local_addr().map_err(failed)?);
        held.push((udp, tcp));
        Ok(found)
    };
    let name = |role: &str, i: u32| {
        NodeName::new(format!("{role}-{i}")).map_err(|e| DevnetError::Plan(e.to_string()))
    };
    let mut plans = Vec::new();
    for i in 1..=options.metadata {
        let (address, ops) = port()?;
        let (join, _) = port()?;
        let kind = NodeKind::MetadataNode { id: u64::from(i), join };
        plans.push(NodePlan { name: name("metadata", i)?, kind, address, ops: Some(ops) });
    }
    for i in 1..=options.data {
        let (address, ops) = port()?;
        let zone = format!("zone-{}", (i - 1) % zones + 1);
        let zone = ZoneName::new(zone).map_err(|e| DevnetError::Plan(e.to_string()))?;
        let kind = NodeKind::DataNode { zone };
        plans.push(NodePlan { name: name("data", i)?, kind, address, ops: Some(ops) });
    }
    Ok(plans)
}

/// Makes a node's folders, as its operator would.
pub(crate) fn init_node(layout: &Layout, plan: &NodePlan) -> Result<(), DevnetError> {
    let config = layout.config(&plan.name, &plan.kind);
    let failed = |e: &dyn std::fmt::Display| DevnetError::Node(format!("{}: {e}", plan.name));
    match plan.kind {
        NodeKind::MetadataNode { .. } => {
            let config = wmall_metadata_node::Config::load(&config).map_err(|e| failed(&e))?;
            wmall_metadata_node::found(&config).map_err(|e| failed(&e))
        }
        NodeKind::DataNode { .. } => {
            let config = wmall_data_node::Config::load(&config).map_err(|e| failed(&e))?;
            wmall_data_node::init(&config, false).map(|_| ()).map_err(|e| failed(&e))
        }
    }
}
