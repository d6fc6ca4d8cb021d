//! A cluster whose metadata nodes live in network namespaces of their own, so that they can be cut off from each
//! other as switches and cables do it. Takes root and `ip` (iproute2).
//!
//! A bridge in this namespace, a pair of virtual cables to each metadata node's; data nodes and clients stay here.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{binary, wait_until, wmall};

/// Metadata nodes.
pub const MEMBERS: usize = 3;
const DATA: usize = 3;

/// The cluster; what it made of the network goes with it.
pub struct Namespaces {
    folder: TempDir,
    /// Tells this run's bridge and namespaces from those of another.
    tag: String,
    subnet: String,
    nodes: Vec<(String, Option<Child>)>,
    /// The highest Raft id that was ever used.
    last_id: u64,
}

/// What is done to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nobody reaches it.
    Alone,
    /// The other metadata nodes don't, while clients and data nodes do: it may not know yet that it leads nobody.
    FromMembers,
}

fn run(command: &str) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{command}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn must(command: &str) {
    run(command).unwrap_or_else(|e| panic!("{e}"));
}

impl Namespaces {
    /// Makes network and cluster, starts all nodes, and a pool of three copies.
    pub fn up() -> Self {
        let id = std::process::id();
        let (tag, subnet) = (format!("wm{}", id % 100_000), format!("10.{}.{}", 64 + id % 64, id / 64 % 250));
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { folder, tag, subnet, nodes: Vec::new(), last_id: MEMBERS as u64 };
        cluster.make_network();
        cluster.make_nodes();
        for i in 0..cluster.nodes.len() {
            let name = cluster.nodes[i].0.clone();
            cluster.start(&name);
        }
        wait_until("every data node is heard of", Duration::from_secs(60), || {
            cluster.status().is_some_and(|status| {
                let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
                nodes.iter().filter(|n| n["silent_ms"].is_number()).count() == DATA
            })
        });
        cluster.command(&["pool", "create", "3x", "--scheme", "3x"]);
        cluster
    }

    fn make_network(&self) {
        let Self { tag, subnet, .. } = self;
        must(&format!("ip link add {tag} type bridge"));
        must(&format!("ip addr add {subnet}.1/24 dev {tag}"));
        must(&format!("ip link set {tag} up"));
        for i in 1..=MEMBERS {
            let (space, cable) = (format!("{tag}-{i}"), format!("{tag}v{i}"));
            must(&format!("ip netns add {space}"));
            must(&format!("ip link add {cable} type veth peer name eth0 netns {space}"));
            must(&format!("ip link set {cable} master {tag} up"));
            must(&format!("ip -n {space} addr add {subnet}.{}/24 dev eth0", 10 + i));
            must(&format!("ip -n {space} link set eth0 up"));
            must(&format!("ip -n {space} link set lo up"));
        }
    }

    fn make_nodes(&mut self) {
        let net = self.root().display().to_string();
        let mut args: Vec<String> =
            ["cluster", "init", "--dir", &net, "--disk-bytes", "1G"].map(String::from).into();
        for i in 1..=MEMBERS {
            args.extend(["--metadata".into(), format!("metadata-{i}={}.{}:7400", self.subnet, 10 + i)]);
            self.nodes.push((format!("metadata-{i}"), None));
        }
        for i in 1..=DATA {
            args.extend(["--data".into(), format!("data-{i}={}.1:{}@zone-{i}", self.subnet, 7500 + i)]);
            self.nodes.push((format!("data-{i}"), None));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let made = wmall(&args);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for (name, _) in &self.nodes {
            let made = wmall(&["--config", &self.config_of(name), role(name), "init"]);
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("net")
    }

    fn config_of(&self, name: &str) -> String {
        self.root().join("nodes").join(name).join(format!("{}.toml", role(name))).display().to_string()
    }

    /// The client's configuration.
    pub fn config(&self) -> PathBuf {
        self.root().join("client.toml")
    }

    /// Runs a command that must succeed.
    pub fn command(&self, args: &[&str]) {
        let config = self.config().display().to_string();
        let output = wmall(&[&["--config", &config, "-q"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn status(&self) -> Option<Value> {
        let config = self.config().display().to_string();
        let output = wmall(&["--config", &config, "-q", "-o", "json", "--timeout", "5s", "status"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The metadata node that leads.
    pub fn leader(&self) -> String {
        let mut leader = None;
        wait_until("somebody leads", Duration::from_secs(30), || {
            leader = self.status().and_then(|status| {
                let members = status["members"].as_array()?.clone();
                let leads = members.into_iter().find(|m| m["leader"] == true)?;
                leads["name"].as_str().map(String::from)
            });
            leader.is_some()
        });
        leader.unwrap()
    }

    /// Starts a node's process.
    pub fn start(&mut self, name: &str) {
        let config = self.config_of(name);
        let log = std::fs::File::options().create(true).append(true).open(self.log(name)).unwrap();
        let mut command = match member(name) {
            // `ip netns exec` becomes the program, so signals go to it.
            Some(i) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &format!("{}-{i}", self.tag)]).arg(binary());
                command
            }
            None => Command::new(binary()),
        };
        command.args(["--config", &config, role(name), "run"]).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        self.nodes.iter_mut().find(|(n, _)| n == name).unwrap().1 = Some(child);
    }

    /// Sends a signal to a node's process.
    pub fn signal(&self, name: &str, signal: Signal) {
        let (_, child) = self.nodes.iter().find(|(n, _)| n == name).unwrap();
        let pid = child.as_ref().and_then(|c| Pid::from_raw(c.id() as i32)).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Ends a node at once.
    pub fn kill(&mut self, name: &str) {
        let (_, child) = self.nodes.iter_mut().find(|(n, _)| n == name).unwrap();
        let mut child = child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Whether a node's process runs.
    pub fn runs(&mut self, name: &str) -> bool {
        let (_, child) = self.nodes.iter_mut().find(|(n, _)| n == name).unwrap();
        child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Where a node's log is.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Takes a metadata node in that does not run: the others let go of what it was, and it comes with an
    /// empty folder, under an id that no member ever had.
    pub fn take_in(&mut self, name: &str) {
        let path = self.config_of(name);
        let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let members = config["members"].as_array_mut().unwrap().iter_mut();
        let mut members = members.filter_map(toml::Value::as_table_mut);
        let own = members.find(|m| m["name"].as_str() == Some(name)).unwrap();
        let (old, address) = (own["id"].as_integer().unwrap(), own["address"].as_str().unwrap().to_string());
        self.last_id += 1;
        let id = self.last_id.to_string();
        own.insert("id".into(), (self.last_id as i64).into());
        config.insert("join".into(), true.into());
        // It may have led.
        self.leader();
        self.command(&["meta", "member", "rm", &old.to_string()]);
        std::fs::remove_dir_all(config["data_dir"].as_str().unwrap()).unwrap();
        std::fs::write(&path, config.to_string()).unwrap();
        let made = wmall(&["--config", &path, role(name), "init"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.start(name);
        self.command(&["meta", "member", "add", &format!("{name}={address}"), "--id", &id]);
    }

    /// Cuts a metadata node off.
    pub fn cut(&self, name: &str, cut: Cut) {
        let own = member(name).unwrap();
        match cut {
            Cut::Alone => must(&format!("ip link set {}v{own} down", self.tag)),
            Cut::FromMembers => {
                for other in (1..=MEMBERS).filter(|i| *i != own) {
                    self.block(own, other);
                    self.block(other, own);
                }
            }
        }
    }

    fn block(&self, from: usize, to: usize) {
        must(&format!("ip -n {}-{from} route add blackhole {}.{}/32", self.tag, self.subnet, 10 + to));
    }

    /// Mends every cut.
    pub fn heal(&self) {
        for i in 1..=MEMBERS {
            must(&format!("ip link set {}v{i} up", self.tag));
            for other in (1..=MEMBERS).filter(|o| *o != i) {
                // Most are not there.
                let _ = run(&format!(
                    "ip -n {}-{i} route del blackhole {}.{}/32",
                    self.tag,
                    self.subnet,
                    10 + other
                ));
            }
        }
    }

    /// Where the logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for (_, child) in &mut self.nodes {
            if let Some(child) = child {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        for i in 1..=MEMBERS {
            let _ = run(&format!("ip netns del {}-{i}", self.tag));
        }
        let _ = run(&format!("ip link del {}", self.tag));
    }
}

fn role(name: &str) -> &'static str {
    if name.starts_with("metadata") { "metadata-node" } else { "data-node" }
}

/// The number of a metadata node.
fn member(name: &str) -> Option<usize> {
    name.strip_prefix("metadata-")?.parse().ok()
}
