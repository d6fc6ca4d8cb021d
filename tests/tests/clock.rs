//! Clocks that are wrong for a while: those of leaders, of other members, of data nodes. Time is the
//! cluster's and no node's, so nothing is fenced, let go of or unlocked early, and nobody stays shut out.
//! Each part tells the history that it goes through.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wmall_client::{ClientConfig, Store};
use wmall_proto::health::health;
use wmall_proto::status::ClusterStatus;
use wmall_runtime::clock::now_ms;
use wmall_tests::faketime::{Clocks, RIGHT, is_there, wmall_at};
use wmall_tests::status::{all_stable, pieces};
use wmall_tests::{Cluster, binary, bytes, wait_until, wmall, wmall_fails};

const MEMBERS: [&str; 3] = ["metadata-1", "metadata-2", "metadata-3"];
const DATA_NODES: [&str; 3] = ["data-1", "data-2", "data-3"];
/// How long a clock is wrong: for some rounds of the collector, and some heartbeats.
const HELD: Duration = Duration::from_secs(3);
/// The most that the cluster's clock may be ahead of the right one: what the members' own differ by, and slow
/// tests.
const SLACK_MS: u64 = 2_000;
const SOON: Duration = Duration::from_secs(30);

/// Graces of seconds: what falls due by a wrong clock falls due within [`HELD`].
fn quick() -> Cluster {
    let options = ["--data", "3", "--disk-bytes", "512M", "--condemned-grace", "1s", "--upload-grace", "30s"];
    Cluster::up_with(&options)
}

/// What health says of clocks; none if nobody answers.
fn skew(cluster: &Cluster) -> Option<Vec<String>> {
    let findings = cluster.json_any(&["health"]);
    let of_clocks = findings.as_array()?.iter().filter(|f| f["code"] == "CLOCK_SKEW");
    Some(of_clocks.map(|f| f["what"].as_str().unwrap().to_string()).collect())
}

/// Waits until health names this node, and whether its clock is ahead (+) or behind (-).
fn wait_named(cluster: &Cluster, node: &str, sign: char) {
    let named = format!("{node} by {sign}");
    wait_until(&format!("health says {named}"), SOON, || {
        skew(cluster).is_some_and(|whats| whats.iter().any(|what| what.contains(&named)))
    });
}

/// Waits until health has nothing to say of clocks.
fn wait_agreed(cluster: &Cluster) {
    wait_until("all clocks agree", SOON, || skew(cluster).is_some_and(|whats| whats.is_empty()));
}

/// Waits until every member has what is agreed on from now on: none is on its way back.
fn wait_for_members(cluster: &Cluster, bucket: &str) {
    cluster.run(&["bucket", "create", bucket]);
    let reached = cluster.json(&["status"])["index"].as_u64().unwrap();
    cluster.wait_status("every member follows", SOON, |s| {
        let members = s["members"].as_array().unwrap();
        members.iter().all(|m| m["matched"].as_u64() >= Some(reached))
    });
}

/// Waits until every data node is heard of, and everything has all its pieces.
fn wait_whole(cluster: &Cluster) {
    cluster.wait_status("all nodes are up, and nothing is missing", SOON, |s| {
        let nodes = s["nodes"].as_array().unwrap();
        nodes.iter().all(|n| n["state"] == "up" && n["silent_ms"].is_number()) && all_stable(s)
    });
}

fn as_user(config: &str, args: &[&str]) -> std::process::Output {
    wmall(&[&["--config", config, "-q", "--timeout", "10s"], args].concat())
}

/// An operator who is connected already. A leader whose clock is past the end of all certificates lets nobody
/// in, and keeps the connections that stand.
struct Connected {
    store: Store,
    runtime: tokio::runtime::Runtime,
}

impl Connected {
    fn to(cluster: &Cluster) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = ClientConfig::load(Path::new(&cluster.config())).unwrap();
        let store = runtime.block_on(Store::connect(&config)).unwrap();
        let connected = Self { store, runtime };
        // The leader answers, so that is whom the connection is to.
        connected.status();
        connected
    }

    fn status(&self) -> ClusterStatus {
        self.runtime.block_on(self.store.status()).unwrap()
    }

    /// Waits until health names this node as ahead.
    fn wait_named(&self, node: &str) {
        let named = format!("{node} by +");
        wait_until(&format!("health says {named}"), SOON, || {
            let findings = health(&self.status());
            findings.iter().any(|f| f.code == "CLOCK_SKEW" && f.what.contains(&named))
        });
    }

    fn close(self) {
        self.runtime.block_on(self.store.close());
    }
}

/// An object that was removed, and can be had back for an hour, and one that is locked for 30 days.
struct Kept {
    removed: Vec<u8>,
    locked: Vec<u8>,
}

impl Kept {
    fn store(cluster: &Cluster) -> Self {
        let kept = Self { removed: bytes(1, 1_500_000), locked: bytes(2, 200_000) };
        cluster.run(&["bucket", "create", "trash", "--undelete", "1h"]);
        cluster.run(&["bucket", "create", "locked", "--retain", "30d"]);
        for (name, content) in [("trash/removed", &kept.removed), ("locked/x", &kept.locked)] {
            let file = cluster.write("in", content);
            cluster.put(&file, &[name, "--chunk-size", "1M", "--ack", "all"]);
        }
        cluster.run(&["rm", "trash/removed"]);
        kept
    }

    /// Both are as they were, and the cluster takes more: neither has anything been let go of, nor are
    /// uploads fenced.
    fn assert_still_there(&self, cluster: &Cluster, seed: u64) {
        cluster.fails(&["rm", "locked/x", "--purge"]).expect(1, "locked");
        assert_eq!(cluster.json(&["ls", "trash", "--removed"])[0]["name"], "removed");
        cluster.run(&["undelete", "trash/removed"]);
        cluster.assert_content("trash/removed", &self.removed);
        cluster.assert_content("locked/x", &self.locked);
        let more = cluster.put_files(seed..seed + 2, 300_000, &[]);
        wait_whole(cluster);
        cluster.assert_deep(&more);
        for name in ["trash/removed", "locked/x"] {
            cluster.run(&["verify", name, "--deep"]);
        }
        cluster.run(&["rm", "trash/removed"]);
    }
}

#[test]
fn a_leader_whose_clock_is_far_ahead_for_a_while_lets_go_of_nothing() {
    if !is_there() {
        return;
    }
    let cluster = quick();
    let clocks = Clocks::of(&cluster, &MEMBERS);
    let kept = Kept::store(&cluster);
    wait_for_members(&cluster, "before");
    let leader = cluster.leader();

    // The leader's clock goes 400 days ahead, for three seconds. Its own clock was what commands were dated
    // by: all uploads that began in the next 400 days were fenced, what had been removed went, and what was
    // locked could be removed.
    let connected = Connected::to(&cluster);
    clocks.set(&leader, "+400d");
    let wrong = Instant::now();
    connected.wait_named(&leader);
    std::thread::sleep(HELD.saturating_sub(wrong.elapsed()));
    let told = connected.status();
    assert!(told.now_ms < now_ms() + SLACK_MS, "the cluster's clock follows its leader's: {}", told.now_ms);
    assert_eq!((told.trash, told.files), (1, 2));
    clocks.set(&leader, RIGHT);
    connected.close();
    wait_agreed(&cluster);
    kept.assert_still_there(&cluster, 10);

    // It has stepped aside. Now the one that leads goes 31 days ahead, which is beyond both graces and not
    // beyond the certificates of users: they go on as if it were not so.
    let leader = cluster.leader();
    clocks.set(&leader, "+31d");
    let wrong = Instant::now();
    wait_named(&cluster, &leader, '+');
    while wrong.elapsed() < HELD {
        cluster.fails(&["rm", "locked/x", "--purge"]).expect(1, "locked");
        cluster.put_files(20..21, 100_000, &[]);
    }
    wait_until("another one leads", SOON, || cluster.leader() != leader);
    clocks.set(&leader, RIGHT);
    wait_agreed(&cluster);
    kept.assert_still_there(&cluster, 30);
}

#[test]
fn data_nodes_whose_clocks_are_wrong_for_a_while_lose_nothing() {
    if !is_there() {
        return;
    }
    let cluster = quick();
    let mut files = cluster.put_files(1..4, 400_000, &[]);
    let clocks = Clocks::of(&cluster, &["data-1", "data-2"]);
    wait_whole(&cluster);
    // From a pipe that stalls, so that a put is under way, and connected to all three.
    let content = bytes(9, 80 << 18);
    let (first, second) = content.split_at(40 << 18);
    let mut put = Command::new(binary())
        .args(["--config", &cluster.config(), "-q", "put", "-", "--chunk-size", "256K", "--ack", "all"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = put.stdin.take().unwrap();
    pipe.write_all(first).unwrap();
    cluster.wait_status("half of it is there", SOON, |s| {
        DATA_NODES.iter().all(|node| pieces(s, node) >= files.len() as u64 + 40)
    });
    // One goes 400 days ahead and one three hours behind. Neither lets anybody in who is not connected; over
    // connections that stand they go by the cluster's clock. By its own, the one that is behind refused an
    // upload of now as one of hours later. Fences go on meanwhile: the one takes them as they come, the other
    // in part.
    clocks.set("data-1", "+400d");
    clocks.set("data-2", "-3h");
    let wrong = Instant::now();
    wait_named(&cluster, "data-1", '+');
    wait_named(&cluster, "data-2", '-');
    pipe.write_all(second).unwrap();
    drop(pipe);
    let output = put.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cid = String::from_utf8(output.stdout).unwrap().trim().to_string();
    while wrong.elapsed() < HELD {
        files.iter().for_each(|(cid, content)| cluster.assert_content(cid, content));
    }
    let status = cluster.json(&["status"]);
    assert!(status["now_ms"].as_u64().unwrap() < now_ms() + SLACK_MS, "{status}");
    clocks.set("data-1", RIGHT);
    clocks.set("data-2", RIGHT);
    wait_agreed(&cluster);
    files.push((cid, content));
    // All three take pieces again, and a start finds their disks as they should be.
    files.extend(cluster.put_files(4..7, 400_000, &[]));
    ["data-1", "data-2"].iter().for_each(|node| clocks.restart(node));
    wait_whole(&cluster);
    files.extend(cluster.put_files(7..8, 400_000, &[]));
    cluster.assert_deep(&files);
}

/// Becomes a user and returns their configuration.
fn carol(cluster: &Cluster) -> String {
    let create = ["node", "token", "create", "--role", "client", "--name", "carol", "--scope", "*:write"];
    let stdout = cluster.run(&create);
    let (token, dir) = (stdout.lines().last().unwrap(), cluster.path("carol"));
    let joined = wmall(&["user", "init", "--join", token, "--dir", &dir]);
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    format!("{dir}/client.toml")
}

fn leads(status: &Value, who: impl Fn(&Value) -> bool) -> bool {
    status["members"].as_array().unwrap().iter().any(|m| m["leader"] == true && who(&m["name"]))
}

#[test]
fn members_whose_clocks_are_wrong_for_a_while_shut_nobody_out_and_let_nobody_stay() {
    if !is_there() {
        return;
    }
    let cluster = Cluster::up_with(&["--data", "3", "--disk-bytes", "512M"]);
    let clocks = Clocks::of(&cluster, &MEMBERS);
    let mut files = cluster.put_files(1..2, 300_000, &[]);

    // The member that everybody asks first is three hours behind, and does not lead: it calls every
    // certificate not valid yet. Its refusal was taken for the cluster's, by each command and by each data
    // node that was started.
    if cluster.leader() == MEMBERS[0] {
        cluster.devnet("stop", MEMBERS[0], &[]);
        cluster.wait_status("another one leads", SOON, |s| leads(s, |name| name != MEMBERS[0]));
        clocks.start(MEMBERS[0]);
    }
    wait_for_members(&cluster, "b");
    clocks.set(MEMBERS[0], "-3h");
    wait_named(&cluster, MEMBERS[0], '-');
    cluster.run(&["status"]);
    cluster.devnet("stop", "data-3", &[]);
    cluster.devnet("start", "data-3", &[]);
    // With three data nodes, each is needed for that: the one that was started has registered.
    files.extend(cluster.put_files(2..4, 300_000, &[]));
    files.iter().for_each(|(cid, content)| cluster.assert_content(cid, content));
    let carol = carol(&cluster);
    assert!(as_user(&carol, &["ls", "b"]).status.success());
    clocks.set(MEMBERS[0], RIGHT);
    wait_agreed(&cluster);

    a_certificate_from_ahead_is_revoked(&cluster, &clocks, &carol);
    a_member_that_renewed_itself_ahead_takes_part_again(&cluster, &clocks);
    wait_whole(&cluster);
    cluster.assert_deep(&files);
}

/// The issuer's clock is 20 minutes ahead while a user's certificate is renewed: one that looks as if it had
/// been issued 20 minutes later. Revoked after ten of these, it was good until it ended.
fn a_certificate_from_ahead_is_revoked(cluster: &Cluster, clocks: &Clocks<'_>, carol: &str) {
    // Only the leader issues.
    let leader = cluster.leader();
    clocks.set(&leader, "+20m");
    wait_named(cluster, &leader, '+');
    // More than two thirds into its life, so that it is renewed, and good for longer than the leader is
    // ahead.
    let (net, identity) = (cluster.folder().display().to_string(), cluster.path("carol/identity"));
    let issue =
        ["cluster", "issue", "--dir", &net, "--role", "client", "--name", "carol", "--out", &identity];
    let issued = wmall_at("-150m", &[&issue[..], &["--lifetime", "200m"]].concat());
    assert!(issued.status.success(), "{}", String::from_utf8_lossy(&issued.stderr));
    let listed = as_user(carol, &["ls", "b"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let shown = wmall_transport::Identity::load(Path::new(&identity)).unwrap();
    let renewed_ms = shown.peer().issued_ms;
    assert!(renewed_ms > now_ms() + 15 * 60_000, "renewed by another clock: at {renewed_ms}");
    clocks.set(&leader, RIGHT);
    wait_agreed(cluster);
    assert!(as_user(carol, &["ls", "b"]).status.success());
    cluster.run(&["node", "revoke", "carol", "--role", "client"]);
    let refused = wmall_fails(&["--config", carol, "-q", "--timeout", "10s", "ls", "b"]);
    refused.expect(77, "denied");
    assert!(refused.stderr.contains("was revoked"), "{}", refused.stderr);
}

/// A member's clock is 40 days ahead and it is started again: its certificate has ended by that clock, so it
/// issues itself another one, which begins in 40 days. With a right clock it showed that one, and nobody let
/// it in.
fn a_member_that_renewed_itself_ahead_takes_part_again(cluster: &Cluster, clocks: &Clocks<'_>) {
    let leader = cluster.leader();
    let follower = |but: &str| MEMBERS.into_iter().find(|m| *m != leader && *m != but).unwrap();
    let ahead = follower("");
    let identity = cluster.folder().join("nodes").join(ahead).join("identity");
    let certificate = || std::fs::read(identity.join("cert.pem")).unwrap();
    let before = certificate();
    clocks.set(ahead, "+40d");
    clocks.restart(ahead);
    assert!(certificate() != before, "it has issued itself none");
    let wrong = Instant::now();
    // The other two go on.
    cluster.run(&["bucket", "create", "meanwhile"]);
    std::thread::sleep(HELD.saturating_sub(wrong.elapsed()));
    clocks.set(ahead, RIGHT);
    clocks.restart(ahead);
    wait_for_members(cluster, "again");
    // It carries its part: with it and one other, the cluster writes.
    let other = follower(ahead);
    cluster.devnet("kill", other, &[]);
    cluster.run(&["bucket", "create", "with-it"]);
    clocks.start(other);
    wait_for_members(cluster, "all");
}
