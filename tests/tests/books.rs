//! What the cluster says of itself, held against a count of what is on its disks: status, metrics, events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use wmall_tests::segments::{self, Key};
use wmall_tests::status::{chunks, disk, is_at_rest, slots};
use wmall_tests::{Cluster, wait_until};

const LONG: Duration = Duration::from_secs(90);
const DATA: [&str; 7] = ["data-1", "data-2", "data-3", "data-4", "data-5", "data-6", "data-7"];
/// Its pool is the second one; the first is that of three copies.
const SHARDS: &[&str] = &["--chunk-size", "64K", "--scheme", "rs:4+2"];
const COPIES: &[&str] = &["--chunk-size", "64K", "--pool", "3x"];

type Counted = BTreeMap<&'static str, (BTreeSet<Key>, u64)>;

/// Keys of the pieces on each node, and their bytes.
fn count(cluster: &Cluster, nodes: &[&'static str]) -> Counted {
    let of = |node: &&'static str| {
        let pieces = segments::pieces(&cluster.disk(node));
        let bytes = pieces.values().map(|p| p.length).sum();
        (*node, (pieces.into_keys().collect(), bytes))
    };
    nodes.iter().map(of).collect()
}

/// Chunks by grade, as that follows from how many nodes have a piece.
fn grades(counted: &Counted) -> BTreeMap<&'static str, u64> {
    let mut pieces: BTreeMap<&Key, usize> = BTreeMap::new();
    counted.values().flat_map(|(keys, _)| keys).for_each(|key| *pieces.entry(key).or_default() += 1);
    let mut grades = BTreeMap::from(["stable", "warning", "danger", "lost"].map(|grade| (grade, 0)));
    for ((pool, _), n) in pieces {
        let (needed, width) = if *pool == 1 { (1, 3) } else { (4, 6) };
        let grade = match n {
            _ if n >= width => "stable",
            _ if n > needed => "warning",
            _ if n == needed => "danger",
            _ => "lost",
        };
        *grades.entry(grade).or_default() += 1;
    }
    grades
}

/// Waits until status and metrics say of these nodes what is on their disks, whatever that is by then.
fn agree(cluster: &Cluster, nodes: &[&'static str]) {
    wait_until("status and metrics agree with the disks", LONG, || {
        let (counted, status) = (count(cluster, nodes), cluster.json(&["status"]));
        let by_node = counted.iter().all(|(node, (keys, bytes))| {
            let disk = disk(&status, node, "disk-1");
            let told = [disk["pieces"].as_u64().unwrap(), disk["used_bytes"].as_u64().unwrap()];
            let measured = ["wmall_pieces", "wmall_piece_bytes"].map(|m| cluster.metric(node, m));
            let real = [keys.len() as u64, *bytes];
            told == real && measured == real
        });
        by_node
            && grades(&counted).into_iter().all(|(grade, real)| {
                let metric = format!("wmall_chunks{{grade=\"{grade}\"}}");
                chunks(&status, &[grade]) == real && cluster.metric("metadata-1", &metric) == real
            })
    });
}

/// Lines of the event log of one kind.
fn events(cluster: &Cluster, kind: &str) -> Vec<Value> {
    let all = cluster.json(&["events", "--limit", "10000"]);
    all.as_array().unwrap().iter().map(|e| e["what"].clone()).filter(|what| what["kind"] == kind).collect()
}

fn sum(events: &[Value]) -> u64 {
    events.iter().map(|e| e["slots"].as_u64().unwrap()).sum()
}

#[test]
fn status_metrics_and_events_agree_with_a_count_of_what_is_on_the_disks() {
    let options = ["--metadata", "1", "--data", "7", "--down-grace", "5s", "--condemned-grace", "1s"];
    let cluster = Cluster::up_with(&[&options[..], &["--upload-grace", "15s"]].concat());
    cluster.run(&["pool", "create", "rs-4-2", "--scheme", "rs:4+2", "--pgs", "256"]);
    let mut files = cluster.put_files(1..7, 1 << 20, COPIES);
    files.extend(cluster.put_files(11..15, 1 << 20, SHARDS));
    // Some of it goes again.
    for removed in [0, 1, 6] {
        cluster.run(&["rm", &files[removed].0, "--purge"]);
    }
    let rest = |s: &Value| is_at_rest(s) && s["condemned_chunks"] == 0;
    cluster.wait_status("everything is at rest", LONG, rest);
    agree(&cluster, &DATA);
    let others: Vec<&str> = DATA.into_iter().filter(|node| *node != "data-3").collect();
    // One node is off, and nobody does anything about it yet: what it has is what is missed.
    cluster.run(&["node", "maintenance", "data-3", "--for", "10min"]);
    cluster.devnet("stop", "data-3", &[]);
    cluster.wait_status("it is missed", LONG, |s| chunks(s, &["warning"]) > 0);
    agree(&cluster, &others);
    let before = slots(&cluster.json(&["status"]), "data-3");
    cluster.run(&["node", "maintenance", "data-3", "--end"]);
    cluster.wait_status("it is replaced", LONG, |s| slots(s, "data-3") == 0 && rest(s));
    agree(&cluster, &others);
    // Its slots went, each once; and all that moved has arrived.
    wait_until("the events tell of it", LONG, || {
        let moved = events(&cluster, "slots_move");
        let lost: Vec<Value> = moved.iter().filter(|e| e["reason"] == "lost").cloned().collect();
        sum(&lost) == before && sum(&events(&cluster, "moves_arrived")) == sum(&moved)
    });
    let down = events(&cluster, "disk_down");
    let status = cluster.json(&["status"]);
    let told: Vec<&Value> = down.iter().map(|e| &e["disk"]).collect();
    assert_eq!(told, [&disk(&status, "data-3", "disk-1")["id"]]);
    // It comes back, gets its share, and drops what is others' now.
    cluster.devnet("start", "data-3", &[]);
    cluster.wait_status("it is used again", LONG, |s| slots(s, "data-3") > 400 && rest(s));
    agree(&cluster, &DATA);
    assert_eq!(events(&cluster, "disk_back").len(), 1);
    files.retain(|(cid, _)| cluster.json_any(&["file", "show", cid]) != Value::Null);
    assert_eq!(files.len(), 7);
    cluster.assert_deep(&files);
}
