//! Folders that are not what they were: made anew, put back to an older copy, run twice, or with a part of
//! them gone. A member that has forgotten what it promised takes no part, and what a disk holds counts once
//! it has been looked through.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wmall_client::{ClientConfig, Store};
use wmall_proto::BucketName;
use wmall_proto::pool::BucketChange;
use wmall_tests::status::{all_stable, chunks, disk, node};
use wmall_tests::{Cluster, Failed, Files, binary, bytes, wait_until, wmall, wmall_fails};

const MEMBERS: [&str; 3] = ["metadata-1", "metadata-2", "metadata-3"];
const DATA: [&str; 3] = ["data-1", "data-2", "data-3"];
const LONG: Duration = Duration::from_secs(60);
/// Entries that a member keeps below its snapshots.
const LOG_TAIL: u64 = 2_000;

/// A node that the test starts by hand, ended with it at the latest.
struct Node {
    child: Child,
    log: PathBuf,
}

impl Node {
    /// Runs what this configuration describes; what it says goes to a file of this name.
    fn run(cluster: &Cluster, config: &str, log: &str) -> Self {
        let role = if config.ends_with("metadata-node.toml") { "metadata-node" } else { "data-node" };
        let log = PathBuf::from(cluster.path(log));
        let out = fs::File::create(&log).unwrap();
        let mut command = Command::new(binary());
        command.args(["--config", config, role, "run"]).stdin(Stdio::null());
        command.stdout(out.try_clone().unwrap()).stderr(out);
        Self { child: command.spawn().unwrap(), log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has ended by itself.
    fn ends(mut self) -> Failed {
        wait_until("the node ends by itself", LONG, || self.child.try_wait().unwrap().is_some());
        let exit = self.child.wait().unwrap().code().unwrap_or(-1);
        Failed { exit, stdout: String::new(), stderr: self.said() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config_of(cluster: &Cluster, node: &str) -> String {
    cluster.node_config(node).display().to_string()
}

fn data_of(cluster: &Cluster, member: &str) -> PathBuf {
    cluster.folder().join("nodes").join(member).join("data")
}

/// The two other members.
fn others_than(member: &str) -> [&'static str; 2] {
    let others: Vec<&str> = MEMBERS.into_iter().filter(|m| *m != member).collect();
    others.try_into().unwrap()
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Has a folder be as this copy is.
fn put_back(older: &Path, folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    copy(older, folder);
}

fn empty(folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir(folder).unwrap();
}

/// Every file of a folder, with a hash of its content.
fn all_of(folder: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let hash = blake3::hash(&fs::read(&path).unwrap());
                files.insert(path, hash);
            }
        }
    }
    files
}

/// Waits until this member has acknowledged all that the cluster has.
fn wait_for_all_at(cluster: &Cluster, member: &str) {
    let reached = cluster.json(&["status"])["index"].as_u64().unwrap();
    cluster.wait_status("the member has all there is", LONG, |s| {
        let members = s["members"].as_array().unwrap();
        members.iter().any(|m| m["name"] == member && m["matched"].as_u64() >= Some(reached))
    });
}

fn log_of(cluster: &Cluster, node: &str) -> String {
    fs::read_to_string(cluster.folder().join("logs").join(format!("{node}.log"))).unwrap()
}

fn assert_no_panic(cluster: &Cluster, nodes: &[&str]) {
    for node in nodes {
        let log = log_of(cluster, node);
        assert!(!log.contains("panicked"), "{node} panicked: {log}");
    }
}

/// A put is acknowledged by two of three, and one of the two forgets it. With the third one, which never
/// heard of it, it would be a majority.
#[test]
fn a_member_whose_folder_was_made_anew_takes_no_part() {
    let cluster = Cluster::up_with(&["--data", "3"]);
    cluster.run(&["bucket", "create", "b"]);
    let knows = cluster.leader();
    let [forgets, absent] = others_than(&knows);
    cluster.devnet("stop", absent, &[]);
    let content = bytes(1, 300_000);
    let file = cluster.write("in", &content);
    cluster.put(&file, &["b/kept", "--ack", "all"]);
    cluster.devnet("kill", forgets, &[]);
    let (config, data) = (config_of(&cluster, forgets), data_of(&cluster, forgets));
    empty(&data);
    let init = ["--config", &config, "metadata-node", "init"];
    let refused = wmall_fails(&init);
    refused.expect(5, "unsafe");
    for part in [knows.as_str(), "runs and knows a cluster", "wmall meta member rm"] {
        assert!(refused.stderr.contains(part), "{part:?} is not in {}", refused.stderr);
    }
    assert_eq!(all_of(&data), BTreeMap::new());
    // Nobody runs who could say so: it is made, and found out once somebody does.
    cluster.devnet("kill", &knows, &[]);
    let made = wmall(&init);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let forgetful = Node::run(&cluster, &config, "forgetful.log");
    cluster.devnet("start", absent, &[]);
    let ended = forgetful.ends();
    assert!(ended.expect(5, "unsafe").stderr.contains("the folder was made anew"), "{}", ended.stderr);
    assert_eq!(cluster.metric(absent, "wmall_raft_leader"), 0, "one of three leads");
    let alone = cluster.fails(&["--timeout", "3s", "get", "b/kept", "-O", "-"]);
    assert!(!alone.stderr.contains("error[not_found]"), "what was acknowledged is denied: {}", alone.stderr);
    cluster.devnet("start", &knows, &[]);
    cluster.assert_content("b/kept", &content);
    Node::run(&cluster, &config, "again.log").ends().expect(5, "unsafe");
    // Under a new id it is a member like any, and carries the cluster with the one that was absent.
    cluster.devnet("start", forgets, &["--wipe"]);
    cluster.devnet("kill", &knows, &[]);
    cluster.assert_content("b/kept", &content);
    cluster.run(&["bucket", "create", "c"]);
}

#[test]
fn a_member_that_was_put_back_to_an_older_copy_stops_and_the_others_go_on() {
    let cluster = Cluster::up_with(&["--data", "3"]);
    cluster.run(&["bucket", "create", "b"]);
    let leader = cluster.leader();
    let [member, other] = others_than(&leader);
    let (data, older) = (data_of(&cluster, member), PathBuf::from(cluster.path("older")));
    wait_for_all_at(&cluster, member);
    cluster.devnet("stop", member, &[]);
    copy(&data, &older);
    cluster.devnet("start", member, &[]);
    let mut files = cluster.put_files(1..3, 300_000, &[]);
    wait_for_all_at(&cluster, member);
    cluster.devnet("stop", member, &[]);
    put_back(&older, &data);
    let ended = Node::run(&cluster, &config_of(&cluster, member), "older.log").ends();
    ended.expect(5, "unsafe");
    for part in ["this folder ends at entry", "has heard it acknowledge entry", "wmall meta member rm"] {
        assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
    }
    files.extend(cluster.put_files(3..4, 300_000, &[]));
    cluster.assert_deep(&files);
    assert_no_panic(&cluster, &[&leader, other]);
    cluster.devnet("start", member, &["--wipe"]);
    cluster.devnet("kill", other, &[]);
    files.extend(cluster.put_files(4..5, 300_000, &[]));
    cluster.assert_deep(&files);
    assert_no_panic(&cluster, &MEMBERS);
}

#[test]
fn a_snapshot_is_not_restored_on_one_member_beside_others_that_run() {
    let cluster = Cluster::up_with(&["--data", "1"]);
    let snapshot = cluster.path("meta.snap");
    cluster.run(&["meta", "snapshot", "save", &snapshot]);
    let leader = cluster.leader();
    let [member, _] = others_than(&leader);
    cluster.devnet("stop", member, &[]);
    let (config, data) = (config_of(&cluster, member), data_of(&cluster, member));
    let restore = ["--config", &config, "meta", "snapshot", "restore", &snapshot];
    let before = all_of(&data);
    let refused = wmall_fails(&restore);
    assert!(refused.expect(5, "unsafe").stderr.contains("stop every member first"), "{}", refused.stderr);
    assert_eq!(all_of(&data), before);
    let aside = data.with_extension("aside");
    fs::rename(&data, &aside).unwrap();
    fs::create_dir(&data).unwrap();
    wmall_fails(&restore).expect(5, "unsafe");
    assert_eq!(all_of(&data), BTreeMap::new());
    fs::remove_dir(&data).unwrap();
    fs::rename(&aside, &data).unwrap();
    cluster.devnet("start", member, &[]);
    cluster.run(&["meta", "snapshot", "save", &snapshot]);
    wait_for_all_at(&cluster, member);
}

/// Has the members agree on so many entries, one by one.
fn agree_on(cluster: &Cluster, entries: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = ClientConfig::load(Path::new(&cluster.config())).unwrap();
        let store = Store::connect(&config).await.unwrap();
        let bucket = BucketName::new("b").unwrap();
        for _ in 0..entries {
            store.change_bucket(bucket.clone(), BucketChange::default()).await.unwrap();
        }
        store.close().await;
    });
}

/// Index of a member's newest snapshot: its name.
fn newest_snapshot(cluster: &Cluster, member: &str) -> u64 {
    let files = fs::read_dir(data_of(cluster, member).join("snapshots")).unwrap();
    let indices = files.filter_map(|file| {
        let path = file.unwrap().path();
        path.file_stem()?.to_str()?.parse().ok()
    });
    indices.max().unwrap_or(0)
}

/// What is left of its log begins in the middle of nowhere. With a snapshot of the leader's it goes on, and
/// has all there is.
#[test]
fn a_member_that_lost_its_snapshots_and_its_view_fetches_one_and_may_lead_again() {
    let cluster = Cluster::up_with(&["--data", "3"]);
    cluster.run(&["bucket", "create", "b"]);
    let mut files = cluster.put_files(1..3, 300_000, &[]);
    let [member, _] = others_than(&cluster.leader());
    cluster.reconfigure(member, |config| {
        config.insert("snapshot_entries".into(), 100.into());
    });
    let deadline = Instant::now() + LONG;
    while newest_snapshot(&cluster, member) < LOG_TAIL + 200 {
        assert!(Instant::now() < deadline, "no snapshot reaches that far");
        agree_on(&cluster, 200);
    }
    // What comes now comes behind the purge.
    files.extend(cluster.put_files(3..4, 300_000, &[]));
    wait_for_all_at(&cluster, member);
    cluster.devnet("kill", member, &[]);
    let data = data_of(&cluster, member);
    empty(&data.join("snapshots"));
    fs::remove_dir_all(data.join("view")).unwrap();
    cluster.devnet("start", member, &[]);
    let log = log_of(&cluster, member);
    for part in
        ["no snapshot here reaches as far as the log was cut off", "a snapshot of the leader's has come"]
    {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
    // It votes: with one other it is a majority. Then it must lead, since the one that is left lacks the last
    // entries.
    let [behind, other] = others_than(member);
    cluster.devnet("kill", behind, &[]);
    files.extend(cluster.put_files(4..5, 300_000, &[]));
    cluster.devnet("kill", other, &[]);
    cluster.devnet("start", behind, &[]);
    cluster.wait_status("the member leads", LONG, |s| {
        s["members"].as_array().unwrap().iter().any(|m| m["name"] == member && m["leader"] == true)
    });
    files.extend(cluster.put_files(5..6, 300_000, &[]));
    cluster.assert_deep(&files);
    assert_no_panic(&cluster, &MEMBERS);
}

/// How often a disk has been opened, as it says itself.
fn starts_of(disk: &Path) -> u64 {
    fs::read_to_string(disk.join("starts")).unwrap().trim().parse().unwrap()
}

/// Disks that came up as copies, as the events tell.
fn copies(cluster: &Cluster) -> usize {
    let events = cluster.json(&["events", "--limit", "10000"]);
    let kinds = events.as_array().unwrap().iter().filter(|e| e["what"]["kind"] == "disk_copied");
    kinds.count()
}

/// Chunks of which one piece counts, and of which none does: with the two other nodes silent, the first are
/// in danger, and the others can't be read.
fn one_and_none(status: &Value) -> [u64; 2] {
    [chunks(status, &["danger"]), chunks(status, &["unavailable"])]
}

/// The disk of data-1, and an older copy of it.
struct PutBackDisk<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
    older: PathBuf,
    files: Files,
}

impl PutBackDisk<'_> {
    fn stable(&self) -> u64 {
        self.cluster.wait_status("everything is stable", LONG, all_stable);
        chunks(&self.cluster.json(&["status"]), &["stable"])
    }

    /// Copies the disk, puts some more, and has the copy in its place: what that really holds counts once it
    /// has been looked through, and the rest once it is back. `meanwhile` comes before anybody has heard of
    /// it.
    fn happens(&mut self, seeds: std::ops::Range<u64>, meanwhile: impl FnOnce(&Self)) {
        let cluster = self.cluster;
        let (had, copied) = (self.stable(), copies(cluster));
        cluster.devnet("stop", "data-1", &[]);
        let _ = fs::remove_dir_all(&self.older);
        copy(&self.folder, &self.older);
        cluster.devnet("start", "data-1", &[]);
        self.files.extend(cluster.put_files(seeds, 2 << 20, &["--chunk-size", "256K"]));
        let (all, starts) = (self.stable(), starts_of(&self.folder));
        // Where its journal ends, the leader hears with the same heartbeat.
        cluster
            .wait_status("all of that is heard of", LONG, |s| disk(s, "data-1", "disk-1")["pieces"] == all);
        assert!(all > had && starts > starts_of(&self.older), "{had} of {all} chunks, {starts} starts");
        // The two others are off, so that nothing comes back before somebody has looked.
        DATA.iter().for_each(|n| cluster.devnet("stop", n, &[]));
        put_back(&self.older, &self.folder);
        meanwhile(self);
        cluster.devnet("start", "data-1", &[]);
        wait_until("the copy is told apart", LONG, || copies(cluster) == copied + 1);
        cluster.wait_status("what it really holds counts, and nothing else", LONG, |s| {
            assert_eq!(chunks(s, &["lost"]), 0, "{s}");
            node(s, "data-1")["state"] == "up" && one_and_none(s) == [had, all - had]
        });
        DATA[1..].iter().for_each(|n| cluster.devnet("start", n, &[]));
        assert_eq!(self.stable(), all);
        cluster.assert_deep(&self.files);
        let goes_on = starts_of(&self.folder);
        assert!(goes_on > starts, "{goes_on} is not above {starts}, which the disk had before");
    }
}

#[test]
fn a_disk_that_was_put_back_to_an_older_copy_counts_once_all_is_back() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let files = cluster.put_files(1..3, 2 << 20, &["--chunk-size", "256K"]);
    let (folder, older) = (cluster.disk("data-1"), PathBuf::from(cluster.path("older")));
    let mut disk = PutBackDisk { cluster: &cluster, folder, older, files };
    disk.happens(3..6, |_| {});
    // From now on it is the disk that it is, and its next start is one like any.
    let starts = starts_of(&disk.folder);
    cluster.devnet("stop", "data-1", &[]);
    cluster.devnet("start", "data-1", &[]);
    disk.files.extend(cluster.put_files(6..7, 300_000, &[]));
    assert!(starts_of(&disk.folder) > starts && copies(&cluster) == 1);
    // Opened once more where nobody hears of it, the copy has been opened as often as the disk and once more.
    disk.happens(7..9, |disk| {
        let starts = starts_of(&disk.folder);
        let nowhere = cluster.write("data-node.toml", &config_without_metadata(&cluster, "data-1"));
        let unheard = Node::run(&cluster, &nowhere, "unheard.log");
        wait_until("it is opened", LONG, || starts_of(&disk.folder) > starts);
        drop(unheard);
    });
}

/// The configuration of a data node that finds no metadata node.
fn config_without_metadata(cluster: &Cluster, node: &str) -> Vec<u8> {
    let text = fs::read_to_string(cluster.node_config(node)).unwrap();
    let mut config: toml::Table = text.parse().unwrap();
    for member in config["metadata"].as_array_mut().unwrap() {
        member.as_table_mut().unwrap().insert("address".into(), "127.0.0.1:9".into());
    }
    config.to_string().into_bytes()
}

fn free_port() -> String {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Has the data node of a folder live there, and listen elsewhere. Returns its configuration.
fn relocate(folder: &Path, listen: &str) -> String {
    let path = folder.join("data-node.toml");
    let mut config: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    let place = |name: &str| toml::Value::from(folder.join(name).display().to_string());
    config.insert("listen".into(), listen.into());
    config.insert("identity_dir".into(), place("identity"));
    config["disks"].as_array_mut().unwrap()[0].as_table_mut().unwrap().insert("path".into(), place("disk-1"));
    config.remove("ops");
    fs::write(&path, config.to_string()).unwrap();
    path.display().to_string()
}

/// What health says of second processes.
fn cloned(cluster: &Cluster) -> Option<String> {
    let findings = cluster.json_any(&["health"]);
    let finding = findings.as_array()?.iter().find(|f| f["code"] == "NODE_CLONED")?;
    Some(finding["what"].as_str()?.to_string())
}

/// Waits until a node is refused since another runs at this address, and both are named.
fn wait_until_refused(cluster: &Cluster, node: &Node, at: &str, elsewhere: &str) {
    wait_until("health names both", LONG, || {
        cloned(cluster).is_some_and(|what| what.contains(at) && what.contains(elsewhere))
    });
    let told = format!("data-1 runs already, at {at}");
    wait_until("it is told so", LONG, || node.said().contains(&told));
}

/// Two processes with one name, one identity and the same disks: one of them is the node, and the other one
/// is told so.
#[test]
fn a_second_process_of_a_data_node_is_refused_and_named() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let mut files = cluster.put_files(1..3, 2 << 20, &["--chunk-size", "256K"]);
    let (home, at) = (cluster.folder().join("nodes/data-1"), cluster.address("data-1"));
    let [original, clone] = ["original", "clone"].map(|name| PathBuf::from(cluster.path(name)));
    cluster.devnet("stop", "data-1", &[]);
    copy(&home, &original);
    copy(&home, &clone);
    cluster.devnet("start", "data-1", &[]);
    files.extend(cluster.put_files(3..4, 2 << 20, &["--chunk-size", "256K"]));
    let elsewhere = free_port();
    let second = Node::run(&cluster, &relocate(&clone, &elsewhere), "clone.log");
    wait_until_refused(&cluster, &second, &at, &elsewhere);
    // Who leads from now on has heard of neither, and the second one has asked all the time.
    cluster.devnet("kill", "metadata-1", &[]);
    cluster.devnet("start", "metadata-1", &[]);
    wait_until_refused(&cluster, &second, &at, &elsewhere);
    files.extend(cluster.put_files(4..5, 2 << 20, &["--chunk-size", "256K"]));
    cluster.wait_status("the first one goes on", LONG, |s| {
        all_stable(s) && node(s, "data-1")["address"] == at.as_str()
    });
    assert_eq!(copies(&cluster), 0);
    drop(second);
    // At the address of the first one, which can't run there any more, it is the node. What it lacks it is
    // given.
    cluster.devnet("stop", "data-1", &[]);
    put_back(&original, &clone);
    let second = Node::run(&cluster, &relocate(&clone, &at), "takes-over.log");
    wait_until("it is told apart", LONG, || copies(&cluster) == 1);
    cluster.wait_status("everything is stable", LONG, all_stable);
    cluster.assert_deep(&files);
    let elsewhere = free_port();
    let first = Node::run(&cluster, &relocate(&home, &elsewhere), "first.log");
    wait_until_refused(&cluster, &first, &at, &elsewhere);
    drop(first);
    wait_until("the finding goes", LONG, || cloned(&cluster).is_none());
    cluster.assert_deep(&files);
    drop(second);
}
