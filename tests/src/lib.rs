//! What the cluster tests share: a devnet of real processes, driven through the command line as a user
//! would. The binary is the one that `WMALL_BIN` names, which `make` sets.

pub mod cycles;
pub mod faketime;
pub mod flood;
pub mod fuzz;
pub mod history;
pub mod hostile;
pub mod netns;
pub mod power;
pub mod rbft;
pub mod segments;
pub mod status;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// One cluster at a time: ten processes on two cores are enough.
static ONE: Mutex<()> = Mutex::new(());

/// The binary under test.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("WMALL_BIN").expect("WMALL_BIN is not set; run `make test`");
    PathBuf::from(path)
}

/// Runs `wmall` and waits for it.
pub fn wmall(args: &[&str]) -> Output {
    Command::new(binary()).args(args).stdin(Stdio::null()).output().expect("wmall does not start")
}

/// Waits for a condition, with a deadline.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Files as they were stored: the CID of each, and its bytes.
pub type Files = Vec<(String, Vec<u8>)>;

/// What a failed command said.
#[derive(Debug)]
pub struct Failed {
    /// Its exit code.
    pub exit: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Failed {
    fn of(output: Output, args: &[&str]) -> Self {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success(), "wmall {args:?} succeeded: {stdout}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { exit: output.status.code().unwrap_or(-1), stdout, stderr }
    }

    /// Asserts the exit code and the stable error code.
    pub fn expect(&self, exit: i32, code: &str) -> &Self {
        assert_eq!(self.exit, exit, "{}", self.stderr);
        assert!(self.stderr.contains(&format!("error[{code}]")), "not {code}: {}", self.stderr);
        self
    }
}

/// Runs `wmall` and expects it to fail.
pub fn wmall_fails(args: &[&str]) -> Failed {
    Failed::of(wmall(args), args)
}

/// A devnet of child processes, removed at the end of the test, however it ends.
pub struct Cluster {
    dir: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Three metadata nodes, five data nodes.
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// With more options of `wmall devnet up`.
    pub fn up_with(options: &[&str]) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = Self { dir: tempfile::tempdir().unwrap(), _one: one };
        let net = cluster.net();
        let args = [&["devnet", "up", "--detach", "--dir", &net], options].concat();
        let output = wmall(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        cluster
    }

    fn net(&self) -> String {
        self.dir.path().join("net").display().to_string()
    }

    /// The devnet's folder.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("net")
    }

    /// A place for the test's own files.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Writes a file for the test.
    pub fn write(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The client's configuration.
    pub fn config(&self) -> String {
        self.folder().join("client.toml").display().to_string()
    }

    fn args<'a>(&'a self, config: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        [&["--config", config, "-q"], args].concat()
    }

    /// Runs a command against the cluster and returns its stdout.
    pub fn run(&self, args: &[&str]) -> String {
        let config = self.config();
        let output = wmall(&self.args(&config, args));
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|out| String::from_utf8_lossy(out));
        assert!(output.status.success(), "wmall {args:?} failed: {stderr}{stdout}{}", self.logs());
        stdout.into_owned()
    }

    /// Runs a command and parses the JSON on its stdout.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.run(&[&["-o", "json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// The JSON on the stdout of a command that may say by its exit code that it found something.
    pub fn json_any(&self, args: &[&str]) -> Value {
        let config = self.config();
        let output = wmall(&self.args(&config, &[&["-o", "json"], args].concat()));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Runs a command that must fail.
    pub fn fails(&self, args: &[&str]) -> Failed {
        let config = self.config();
        wmall_fails(&self.args(&config, args))
    }

    /// Runs a command at a terminal, where somebody answers what it asks.
    pub fn at_a_terminal(&self, args: &[&str], answer: &str) -> (i32, String) {
        let config = self.config();
        let line: Vec<String> = self.args(&config, args).iter().map(|arg| format!("'{arg}'")).collect();
        let mut command = Command::new("script");
        command.args(["-qec", &format!("'{}' {}", binary().display(), line.join(" ")), "/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("script, of the package bsdutils");
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, format!("{answer}\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a command and lets it run.
    pub fn spawn(&self, args: &[&str]) -> std::process::Child {
        let config = self.config();
        let mut command = Command::new(binary());
        command.args(self.args(&config, args)).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Stores a file and returns its CID: the last line of stdout.
    pub fn put(&self, file: &str, options: &[&str]) -> String {
        let stdout = self.run(&[&["put", file], options].concat());
        stdout.lines().last().expect("a CID").to_string()
    }

    /// Stores a file of about so many bytes for each of these numbers, with all its pieces.
    pub fn put_files(&self, seeds: Range<u64>, length: usize, options: &[&str]) -> Files {
        let put = |seed: u64| {
            let content = bytes(seed, length + 1000 * seed as usize);
            let path = self.write(&format!("in-{seed}"), &content);
            let cid = self.put(&path, &[&["--ack", "all"], options].concat());
            std::fs::remove_file(path).unwrap();
            (cid, content)
        };
        seeds.map(put).collect()
    }

    /// Gets a file whole and holds it against what it should be.
    pub fn assert_content(&self, source: &str, expected: &[u8]) {
        static GETS: AtomicU64 = AtomicU64::new(0);
        let out = self.path(&format!("out-{}", GETS.fetch_add(1, Ordering::Relaxed)));
        self.run(&["get", source, "-O", &out]);
        assert!(std::fs::read(&out).unwrap() == expected, "{source} came back changed");
        std::fs::remove_file(out).unwrap();
    }

    /// Runs a command that must be refused, and sees that nothing is different afterwards.
    pub fn assert_refused(&self, args: &[&str], exit: i32, code: &str) -> Failed {
        let before = self.standing();
        let failed = self.fails(args);
        failed.expect(exit, code);
        assert_eq!(self.standing(), before, "{args:?} was refused and changed something");
        failed
    }

    /// All that operators decide. Not where slots are: they may be on their way for other reasons.
    fn standing(&self) -> Vec<Value> {
        let fields = |of: &Value, told: &[&str]| told.iter().map(|t| of[t].clone()).collect::<Value>();
        let each = |list: &Value, told: &[&str]| {
            list.as_array().unwrap().iter().map(|item| fields(item, told)).collect::<Value>()
        };
        let status = self.json(&["status"]);
        let nodes = status["nodes"].as_array().unwrap().iter();
        let disks = nodes.map(|n| each(&n["disks"], &["name", "weight", "draining", "quarantined"]));
        let layout = self.json(&["layout", "show"]);
        vec![
            each(&status["nodes"], &["name", "maintenance_until_ms"]),
            disks.collect(),
            fields(&status, &["pools", "mutes"]),
            fields(&layout, &["version"]),
            each(&layout["disks"], &["disk", "draft_weight"]),
            each(&self.json(&["job", "ls"]), &["number", "kind", "state"]),
        ]
    }

    /// Every piece of these files is where the rows say, signed for and good, and they come back as they
    /// were.
    pub fn assert_deep(&self, files: &Files) {
        for (cid, content) in files {
            self.assert_content(cid, content);
            let deep = self.json(&["verify", cid, "--deep"]);
            assert!(
                ["pieces_bad", "pieces_unasked", "pieces_absent", "unreadable"].iter().all(|n| deep[n] == 0),
                "{deep}"
            );
        }
    }

    /// `wmall devnet VERB NODE`.
    pub fn devnet(&self, verb: &str, node: &str, options: &[&str]) {
        let net = self.net();
        let args = [&["devnet", verb, node, "--dir", &net], options].concat();
        let output = wmall(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "wmall {args:?} failed: {stderr}");
    }

    /// The configuration of a node.
    pub fn node_config(&self, node: &str) -> PathBuf {
        let role = if node.starts_with("meta") { "metadata-node" } else { "data-node" };
        self.folder().join("nodes").join(node).join(format!("{role}.toml"))
    }

    /// Stops a node, changes its configuration, and starts it again.
    pub fn reconfigure(&self, node: &str, change: impl FnOnce(&mut toml::Table)) {
        let path = self.node_config(node);
        let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        change(&mut config);
        self.devnet("stop", node, &[]);
        std::fs::write(&path, config.to_string()).unwrap();
        self.devnet("start", node, &[]);
    }

    /// Lets a metadata node, if it leads, have only so many slots on their way to a disk at once.
    pub fn limit_moves(&self, member: &str, slots: i64) {
        self.reconfigure(member, |config| {
            let repair = config["repair"].as_table_mut().unwrap();
            repair.insert("slots_to_disk".into(), slots.into());
        });
    }

    /// Gives a data node another disk.
    pub fn add_disk(&self, node: &str, name: &str, folder: &Path, max_bytes: u64) {
        let path = self.node_config(node);
        let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let mut disk = toml::Table::new();
        disk.insert("name".into(), name.into());
        disk.insert("path".into(), folder.display().to_string().into());
        disk.insert("max_bytes".into(), (max_bytes as i64).into());
        disk.insert("weight".into(), 100.into());
        config["disks"].as_array_mut().unwrap().push(disk.into());
        self.devnet("stop", node, &[]);
        std::fs::write(&path, config.to_string()).unwrap();
        let made = wmall(&["--config", &path.display().to_string(), "data-node", "init"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.devnet("start", node, &[]);
        self.wait_status("the new disk is there", Duration::from_secs(30), |s| {
            let nodes = s["nodes"].as_array().unwrap();
            let disks = nodes.iter().find(|n| n["name"] == node).unwrap()["disks"].as_array().unwrap();
            disks.iter().any(|d| d["name"] == name && d["writable"] == true)
        });
    }

    /// Names of the nodes, metadata nodes first.
    pub fn nodes(&self) -> Vec<String> {
        let net = self.net();
        let output = wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
        let nodes: Value = serde_json::from_slice(&output.stdout).unwrap();
        nodes.as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_string()).collect()
    }

    /// Where a node listens.
    pub fn address(&self, node: &str) -> String {
        let net = self.net();
        let output = wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
        let nodes: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = nodes.as_array().unwrap().iter().find(|n| n["name"] == node).unwrap();
        found["address"].as_str().unwrap().to_string()
    }

    /// The folder of a data node's first disk.
    pub fn disk(&self, node: &str) -> PathBuf {
        self.folder().join("nodes").join(node).join("disk-1")
    }

    /// A metric of a node, as its operations endpoint says; with its labels in braces, if it has any.
    pub fn metric(&self, node: &str, name: &str) -> u64 {
        use std::io::{Read, Write};
        let net = self.net();
        let output = wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
        let nodes: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = nodes.as_array().unwrap().iter().find(|n| n["name"] == node).unwrap();
        let mut stream = std::net::TcpStream::connect(found["ops"].as_str().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{node} has no {name}")).trim().parse::<f64>().unwrap() as u64
    }

    /// The metadata node that leads.
    pub fn leader(&self) -> String {
        let status = self.json(&["status"]);
        let members = status["members"].as_array().unwrap();
        let leader = members.iter().find(|m| m["leader"] == true).expect("a leader");
        leader["name"].as_str().unwrap().to_string()
    }

    /// Kills a data node, empties its disk, and starts it again. Returns when the cluster knows that the disk
    /// is another one: until the node has registered, the status tells of the disk that was.
    pub fn wipe(&self, node: &str) {
        let disk = |status: &Value| {
            let nodes = status["nodes"].as_array().unwrap();
            nodes.iter().find(|n| n["name"] == node).unwrap()["disks"][0]["incarnation"].clone()
        };
        let before = disk(&self.json(&["status"]));
        assert!(!before.is_null(), "the status names the lives of disks");
        self.devnet("kill", node, &[]);
        self.devnet("start", node, &["--wipe"]);
        self.wait_status("the wiped disk is known", Duration::from_secs(30), |s| disk(s) != before);
    }

    /// Waits until the status fulfils a condition.
    pub fn wait_status(&self, what: &str, limit: Duration, condition: impl Fn(&Value) -> bool) {
        let config = self.config();
        let deadline = Instant::now() + limit;
        loop {
            let output = wmall(&self.args(&config, &["-o", "json", "status"]));
            let status: Option<Value> = serde_json::from_slice(&output.stdout).ok();
            if status.as_ref().is_some_and(&condition) {
                return;
            }
            let last = status.unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "not within {limit:?}: {what}; the last status: {last}{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The ends of the nodes' logs, for the message of a failure.
    fn logs(&self) -> String {
        let mut text = String::new();
        for node in self.nodes() {
            let path = self.folder().join("logs").join(format!("{node}.log"));
            let log = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(5).collect();
            text += &format!("\n--- {node}\n");
            lines.iter().rev().for_each(|l| text += &format!("{l}\n"));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let net = self.net();
        let output = wmall(&["devnet", "down", "--dir", &net]);
        if !output.status.success() && !std::thread::panicking() {
            panic!("devnet down failed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Has a metadata node, whose configuration this is, begin with a snapshot; in the life that another one
/// has drawn, if it is not the first. Returns the life, if there are others.
pub fn restore_member(config: &str, snapshot: &str, life: Option<&str>) -> Option<String> {
    let mut args = vec!["--config", config, "meta", "snapshot", "restore", snapshot];
    args.extend(life.iter().flat_map(|life| ["--life", life]));
    let restored = wmall(&args);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let told = String::from_utf8_lossy(&restored.stdout).into_owned();
    told.lines().find_map(|line| line.split_once("--life ")).map(|(_, life)| life.trim().to_string())
}

/// Bytes that are the same on every machine and that no compression helps with.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
