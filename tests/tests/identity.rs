//! Who gets in, what they may do, and who is shown the door: tokens, scopes, revocation, certificates that end
//! and renew themselves, and the record of it all.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wmall_client::{ClientConfig, PutOptions, Source, Store};
use wmall_tests::{Cluster, binary, bytes, wait_until, wmall, wmall_fails};

/// A node outside the devnet, ended with the test.
struct Node(Child);

impl Node {
    fn run(config: &str, role: &str) -> Self {
        let mut command = Command::new(binary());
        command.args(["--config", config, role, "run"]).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> String {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn token(cluster: &Cluster, options: &[&str]) -> String {
    let stdout = cluster.run(&[&["node", "token", "create"], options].concat());
    stdout.lines().last().expect("a token").to_string()
}

/// Becomes a user and returns their configuration.
fn user(cluster: &Cluster, role: &str, name: &str, scopes: &[&str]) -> String {
    let mut options = vec!["--role", role, "--name", name];
    scopes.iter().for_each(|s| options.extend(["--scope", s]));
    let dir = cluster.path(name);
    let joined = wmall(&["user", "init", "--join", &token(cluster, &options), "--dir", &dir]);
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    format!("{dir}/client.toml")
}

fn as_user(config: &str, args: &[&str]) -> std::process::Output {
    wmall(&[&["--config", config, "-q", "--timeout", "10s"], args].concat())
}

fn refused(config: &str, args: &[&str]) {
    wmall_fails(&[&["--config", config, "-q", "--timeout", "10s"], args].concat()).expect(77, "denied");
}

fn join_data_node(cluster: &Cluster, token: &str, name: &str) -> Result<String, String> {
    let dir = cluster.path(name);
    let port = free_port();
    let args = ["data-node", "init", "--join", token, "--dir", &dir, "--name", name, "--listen", &port];
    let output = wmall(&[&args[..], &["--zone", "zone-9", "--disk-bytes", "1G"]].concat());
    match output.status.success() {
        true => Ok(format!("{dir}/data-node.toml")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn a_token_lets_one_node_in_once() {
    let cluster = Cluster::up_with(&["--metadata", "3", "--data", "3"]);
    let good = token(&cluster, &["--role", "data"]);
    let config = join_data_node(&cluster, &good, "data-4").unwrap();
    let node = Node::run(&config, "data-node");
    let up = |name: &'static str| {
        move |status: &serde_json::Value| {
            let nodes = status["nodes"].as_array().unwrap();
            nodes.iter().any(|n| n["name"] == name && n["state"] == "up" && !n["silent_ms"].is_null())
        }
    };
    cluster.wait_status("the new node is heard of", Duration::from_secs(20), up("data-4"));
    // A second use, by somebody else; a name that is taken; one that the token is not for.
    let again = join_data_node(&cluster, &good, "data-5").unwrap_err();
    assert!(again.contains("error[bad_token]") && again.contains("used, by data-4"), "{again}");
    let taken = join_data_node(&cluster, &token(&cluster, &["--role", "data"]), "data-1").unwrap_err();
    assert!(taken.contains("error[already_exists]"), "{taken}");
    let bound = token(&cluster, &["--role", "data", "--name", "data-7"]);
    let other = join_data_node(&cluster, &bound, "data-8").unwrap_err();
    assert!(other.contains("error[usage]") && other.contains("data-7"), "{other}");
    // Made void, and expired.
    let void = token(&cluster, &["--role", "data", "--name", "data-9"]);
    let listed = cluster.json(&["node", "token", "ls"]);
    let id = listed.as_array().unwrap().iter().find(|t| t["name"] == "data-9").unwrap()["id"].clone();
    cluster.run(&["node", "token", "rm", id.as_str().unwrap()]);
    let gone = join_data_node(&cluster, &void, "data-9").unwrap_err();
    assert!(gone.contains("error[bad_token]"), "{gone}");
    let short = token(&cluster, &["--role", "data", "--name", "data-10", "--ttl", "1s"]);
    let made = Instant::now();
    wait_until("the token expires", Duration::from_secs(5), || made.elapsed() > Duration::from_secs(1));
    let late = join_data_node(&cluster, &short, "data-10").unwrap_err();
    assert!(late.contains("error[bad_token]"), "{late}");
    // Whoever was interrupted may ask again with the same key: here, before the certificate was written.
    let half = token(&cluster, &["--role", "data", "--name", "data-11"]);
    join_data_node(&cluster, &half, "data-11").unwrap();
    std::fs::remove_file(cluster.path("data-11/identity/cert.pem")).unwrap();
    join_data_node(&cluster, &half, "data-11").unwrap();
    // A token of another cluster, and one that was cut short.
    let damaged =
        wmall_fails(&["user", "init", "--join", &half[..half.len() - 3], "--dir", &cluster.path("x")]);
    assert_eq!(damaged.exit, 2, "{}", damaged.stderr);
    // A metadata node joins too, and gets what certificates are issued with.
    let meta = token(&cluster, &["--role", "metadata"]);
    let (dir, listen) = (cluster.path("metadata-4"), free_port());
    let args = ["metadata-node", "init", "--join", &meta, "--dir", &dir, "--name", "metadata-4"];
    let joined = wmall(&[&args[..], &["--listen", &listen, "--id", "4"]].concat());
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let member = Node::run(&format!("{dir}/metadata-node.toml"), "metadata-node");
    cluster.run(&["meta", "member", "add", &format!("metadata-4={listen}"), "--id", "4"]);
    let members = cluster.json(&["meta", "member", "ls"]);
    assert_eq!(members.as_array().unwrap().len(), 4);
    cluster.run(&["meta", "member", "rm", "4"]);
    drop((node, member));
}

#[test]
fn users_do_what_their_scopes_say_until_they_are_revoked() {
    let cluster = Cluster::up_with(&["--metadata", "3", "--data", "3"]);
    cluster.run(&["bucket", "create", "logs"]);
    cluster.run(&["bucket", "create", "points"]);
    let content = bytes(1, 300_000);
    let file = cluster.write("file", &content);
    let alice = user(&cluster, "client", "alice", &["logs:write", "points:read"]);
    let bob = user(&cluster, "validator", "bob", &[]);
    assert!(as_user(&alice, &["put", &file, "logs/a"]).status.success());
    assert!(as_user(&alice, &["get", "logs/a", "-O", &cluster.path("out")]).status.success());
    assert!(std::fs::read(cluster.path("out")).unwrap() == content);
    refused(&alice, &["put", &file, "points/a"]);
    refused(&alice, &["put", &file]);
    refused(&alice, &["bucket", "set", "logs", "--max-objects", "1"]);
    refused(&alice, &["bucket", "ls"]);
    refused(&alice, &["rm", "logs/a", "--purge"]);
    refused(&alice, &["node", "token", "create", "--role", "admin", "--name", "eve"]);
    refused(&alice, &["user", "set", "alice", "*:admin"]);
    refused(&alice, &["audit"]);
    refused(&alice, &["meta", "snapshot", "save", &cluster.path("stolen")]);
    cluster.run(&["put", &file, "points/a"]);
    assert!(as_user(&alice, &["ls", "points"]).status.success());
    refused(&alice, &["rm", "points/a"]);
    refused(&bob, &["ls", "logs"]);
    // A scope that is given or taken counts at once.
    cluster.run(&["user", "set", "bob", "logs:read"]);
    assert!(as_user(&bob, &["ls", "logs"]).status.success());
    cluster.run(&["user", "set", "alice", "logs:read"]);
    refused(&alice, &["put", &file, "logs/b"]);
    cluster.run(&["user", "set", "alice", "*:admin"]);
    assert!(as_user(&alice, &["bucket", "ls"]).status.success());
    assert!(as_user(&alice, &["bucket", "create", "hers"]).status.success());
    // Revoked: refused by every member; let in again by a new token only.
    cluster.run(&["node", "revoke", "alice", "--role", "client"]);
    refused(&alice, &["ls", "logs"]);
    std::fs::remove_dir_all(cluster.path("alice")).unwrap();
    let alice = user(&cluster, "client", "alice", &["logs:read"]);
    assert!(as_user(&alice, &["ls", "logs"]).status.success());
    refused(&alice, &["bucket", "ls"]);
    // All of it can be read up, what was refused as well, and follows line by line.
    cluster.fails(&["bucket", "rm", "points"]).expect(1, "not_empty");
    let log = cluster.json(&["audit"]);
    let log = log.as_array().unwrap();
    for (number, line) in log.iter().enumerate() {
        assert_eq!(line["number"], number as u64 + 1);
    }
    let find = |act: &str| {
        log.iter().find(|l| l["act"].as_str().unwrap().starts_with(act)).unwrap_or_else(|| panic!("{act}"))
    };
    assert_eq!(find("join as client alice")["by"], serde_json::Value::Null);
    assert_eq!(find("node revoke client alice")["by"]["name"], "admin");
    assert_eq!(find("bucket create hers")["by"]["name"], "alice");
    assert_eq!(find("bucket rm points")["refused"], "not_empty");
    let tail = cluster.json(&["audit", "--first", "3", "--limit", "2"]);
    assert_eq!(tail.as_array().unwrap().len(), 2);
    assert_eq!(tail[0]["number"], 3);
}

#[test]
fn a_revoked_data_node_is_shut_out_everywhere() {
    let cluster = Cluster::up_with(&["--metadata", "3", "--data", "4"]);
    let file = cluster.write("file", &bytes(2, 9 << 20));
    let cid = cluster.put(&file, &["--ack", "all"]);
    cluster.run(&["node", "revoke", "data-2"]);
    cluster.wait_status("it is silent", Duration::from_secs(20), |status| {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().any(|n| n["name"] == "data-2" && n["state"] != "up")
    });
    // Its process runs; nobody talks to it. Reading and writing go on without it.
    cluster.assert_content(&cid, &bytes(2, 9 << 20));
    let other = cluster.write("other", &bytes(3, 9 << 20));
    cluster.put(&other, &[]);
    let data_2 = cluster.folder().join("nodes/data-2/identity").display().to_string();
    let config = std::fs::read_to_string(cluster.config()).unwrap();
    let admin = cluster.folder().join("identities/admin").display().to_string();
    let as_node = cluster.write("n.toml", config.replace(&admin, &data_2).as_bytes());
    let shut = wmall_fails(&["--config", &as_node, "-q", "--timeout", "10s", "status"]);
    shut.expect(77, "denied");
    assert!(shut.stderr.contains("was revoked"), "{}", shut.stderr);
    // A token for its name brings it back, with what it holds.
    cluster.devnet("stop", "data-2", &[]);
    let back = token(&cluster, &["--role", "data", "--name", "data-2"]);
    let (dir, node) = (cluster.path("fresh"), cluster.folder().join("nodes/data-2"));
    let port = free_port();
    let args = ["data-node", "init", "--join", &back, "--dir", &dir, "--listen", &port, "--zone", "z"];
    assert!(wmall(&args).status.success());
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::copy(format!("{dir}/identity/{file}"), node.join("identity").join(file)).unwrap();
    }
    cluster.devnet("start", "data-2", &[]);
    cluster.wait_status("it is back, and all is stable", Duration::from_secs(30), |status| {
        let nodes = status["nodes"].as_array().unwrap();
        let chunks = &status["chunks"];
        nodes.iter().all(|n| n["state"] == "up")
            && chunks["warning"] == 0
            && chunks["danger"] == 0
            && chunks["unavailable"] == 0
    });
}

/// Puts and gets by one connection to the cluster, until told to stop; each call must do. Returns how many.
fn stay_connected(config: String, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let config = ClientConfig::load(std::path::Path::new(&config)).unwrap();
            let store = Store::connect(&config).await.unwrap();
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                let content = bytes(1_000_000 + calls, 5_000);
                let put = store.put(&mut content.as_slice(), &PutOptions::default()).await;
                let summary = put.unwrap_or_else(|e| panic!("call {calls}: {e}"));
                let mut download = store.get(&Source::File(summary.id), None).await.unwrap();
                let mut back = Vec::new();
                while let Some(part) = download.next().await.unwrap_or_else(|e| panic!("call {calls}: {e}")) {
                    back.extend_from_slice(&part);
                }
                assert!(back == content);
                calls += 1;
            }
            store.close().await;
            calls
        })
    })
}

#[test]
fn certificates_renew_themselves_and_no_request_is_dropped() {
    let life = "12s";
    let cluster = Cluster::up_with(&["--metadata", "3", "--data", "3", "--certificate-life", life]);
    let carol = user(&cluster, "client", "carol", &["*:write"]);
    // The first certificates live for weeks; these nodes begin with short ones.
    let nodes = cluster.nodes();
    for node in &nodes {
        let role = node.split('-').next().unwrap();
        let identity = cluster.folder().join("nodes").join(node).join("identity").display().to_string();
        let net = cluster.folder().display().to_string();
        let issue = ["cluster", "issue", "--dir", &net, "--role", role, "--name", node, "--out", &identity];
        assert!(wmall(&[&issue[..], &["--lifetime", "60s"]].concat()).status.success());
        cluster.devnet("stop", node, &[]);
        cluster.devnet("start", node, &[]);
    }
    cluster.wait_status("all are up", Duration::from_secs(30), |status| {
        status["nodes"].as_array().unwrap().iter().all(|n| n["state"] == "up" && !n["silent_ms"].is_null())
    });
    let certificate = |node: &str| {
        std::fs::read(cluster.folder().join("nodes").join(node).join("identity/cert.pem")).unwrap()
    };
    let first: Vec<Vec<u8>> = nodes.iter().map(|n| certificate(n)).collect();
    let mut seen: Vec<std::collections::BTreeSet<Vec<u8>>> = vec![Default::default(); nodes.len()];
    let file = cluster.write("file", &bytes(4, 200_000));
    // One that stays connected, all the time and beyond the end of the certificate that it began with.
    let stop = Arc::new(AtomicBool::new(false));
    let connected = stay_connected(carol.clone(), stop.clone());
    let begun = Instant::now();
    // Until every node has gone through three certificates of its own; without a pause, and without a failure.
    let mut rounds = 0;
    while seen.iter().any(|certificates| certificates.len() < 3) {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "{:?}",
            seen.iter().map(|s| s.len()).collect::<Vec<_>>()
        );
        let put = as_user(&carol, &["put", &file, "--ack", "all"]);
        assert!(put.status.success(), "round {rounds}: {}", String::from_utf8_lossy(&put.stderr));
        let cid = String::from_utf8(put.stdout).unwrap();
        let got = as_user(&carol, &["get", cid.trim(), "-O", &cluster.path("out")]);
        assert!(got.status.success(), "round {rounds}: {}", String::from_utf8_lossy(&got.stderr));
        for ((node, seen), first) in nodes.iter().zip(&mut seen).zip(&first) {
            let now = certificate(node);
            if now != *first {
                seen.insert(now);
            }
        }
        rounds += 1;
    }
    assert!(rounds > 20, "{rounds}");
    assert!(begun.elapsed() > Duration::from_secs(12), "no certificate has ended yet");
    stop.store(true, Ordering::Relaxed);
    let calls = connected.join().unwrap();
    assert!(calls > 100, "{calls}");
    // Carol's own, which began with twelve seconds, was renewed by her commands. One that ends is refused, and
    // can't be renewed; the folder of `cluster init` helps.
    let net = cluster.folder().display().to_string();
    let out = cluster.path("carol/identity");
    let issue = |lifetime: &str| {
        let args = ["cluster", "issue", "--dir", &net, "--role", "client", "--name", "carol", "--out", &out];
        assert!(wmall(&[&args[..], &["--lifetime", lifetime]].concat()).status.success());
    };
    issue("1s");
    let made = Instant::now();
    wait_until("the certificate ends", Duration::from_secs(5), || made.elapsed() > Duration::from_secs(2));
    refused(&carol, &["ls", "b"]);
    issue("1h");
    assert!(as_user(&carol, &["put", &file]).status.success());
}
