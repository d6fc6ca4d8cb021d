//! Strangers shout at every port: the nodes stay up, their memory stays bounded, and no honest request fails.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use wmall_tests::flood::Flood;
use wmall_tests::{Cluster, bytes, wait_until, wmall};

/// By how much a node's memory may grow, in KiB.
const GROWTH: u64 = 64 << 10;
const LENGTH: Duration = Duration::from_secs(8);

fn nodes(cluster: &Cluster) -> Vec<Value> {
    let net = cluster.folder().display().to_string();
    let output = wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn resident_kib(node: &Value) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node["pid"])).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_flood_on_every_port_costs_no_honest_request_and_no_memory() {
    let cluster = Cluster::up_with(&["--metadata", "3", "--data", "3"]);
    let file = cluster.write("file", &bytes(1, 500_000));
    cluster.put(&file, &["--ack", "all"]);
    let address = |node: &Value, what: &str| node[what].as_str().and_then(|a| a.parse::<SocketAddr>().ok());
    let before = nodes(&cluster);
    let udp = before.iter().flat_map(|n| [address(n, "address"), address(n, "join")]).flatten().collect();
    let tcp = before.iter().filter_map(|n| address(n, "ops")).collect();
    let memory: Vec<u64> = before.iter().map(resident_kib).collect();
    let (flood, begun) = (Flood::start(udp, tcp), Instant::now());
    wait_until("the flood has begun", Duration::from_secs(10), || flood.sent() > 1000);
    let mut rounds = 0;
    while begun.elapsed() < LENGTH {
        let content = bytes(100 + rounds, 300_000);
        let file = cluster.write("in", &content);
        let cid = cluster.put(&file, &["--ack", "all"]);
        cluster.assert_content(&cid, &content);
        rounds += 1;
    }
    assert!(flood.sent() > 20_000, "{} datagrams are no flood", flood.sent());
    let after = nodes(&cluster);
    for ((node, before), was) in after.iter().zip(&before).zip(memory) {
        assert_eq!(node["pid"], before["pid"], "it is still the same process");
        let now = resident_kib(node);
        assert!(now < was + GROWTH, "{} grew from {was} to {now} KiB", node["name"]);
    }
    drop(flood);
    // Somebody may still join.
    let stdout = cluster.run(&["node", "token", "create", "--role", "client", "--name", "late"]);
    let dir = cluster.path("late");
    let joined = wmall(&["user", "init", "--join", stdout.lines().last().unwrap(), "--dir", &dir]);
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
}
