//! What the cluster says of itself, held against a count of what is on its disks: status, metrics, events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use wmall_tests::segments::{self, Key};
use wmall_tests::status::{chunks, disk, is_at_rest, slots};
use wmall_tests::{Cluster, wait_until};

const LONG: Duration = Duration::from_secs(90);
const DATA: [&str; 5] = ["data-1", "data-2", "data-3", "data-4", "data-5"];

/// Keys of the pieces on each node, and their bytes.
fn count(cluster: &Cluster, nodes: &[&'static str]) -> BTreeMap<&'static str, (BTreeSet<Key>, u64)> {
    let of = |node: &&'static str| {
        let pieces = segments::pieces(&cluster.disk(node));
        let bytes = pieces.values().map(|p| p.length).sum();
        (*node, (pieces.into_keys().collect(), bytes))
    };
    nodes.iter().map(of).collect()
}

/// Chunks by the number of nodes that have a piece.
fn by_pieces(counted: &BTreeMap<&'static str, (BTreeSet<Key>, u64)>) -> BTreeMap<usize, u64> {
    let mut pieces: BTreeMap<&Key, usize> = BTreeMap::new();
    counted.values().flat_map(|(keys, _)| keys).for_each(|key| *pieces.entry(key).or_default() += 1);
    let mut chunks = BTreeMap::new();
    pieces.values().for_each(|n| *chunks.entry(*n).or_default() += 1);
    chunks
}

/// Waits until status and metrics say of these nodes what is on their disks, whatever that is by then.
fn agree(cluster: &Cluster, nodes: &[&'static str]) {
    wait_until("status and metrics agree with the disks", LONG, || {
        let (counted, status) = (count(cluster, nodes), cluster.json(&["status"]));
        counted.iter().all(|(node, (keys, bytes))| {
            let disk = disk(&status, node, "disk-1");
            let told = [disk["pieces"].as_u64().unwrap(), disk["used_bytes"].as_u64().unwrap()];
            let measured = ["wmall_pieces", "wmall_piece_bytes"].map(|m| cluster.metric(node, m));
            let real = [keys.len() as u64, *bytes];
            told == real && measured == real
        })
    });
    let (counted, status) = (by_pieces(&count(cluster, nodes)), cluster.json(&["status"]));
    let of = |pieces: usize| counted.get(&pieces).copied().unwrap_or(0);
    for (grade, pieces) in [("stable", 3), ("warning", 2), ("danger", 1)] {
        let metric = format!("wmall_chunks{{grade=\"{grade}\"}}");
        let told = (chunks(&status, &[grade]), cluster.metric("metadata-1", &metric));
        assert_eq!(told, (of(pieces), of(pieces)), "{grade} of {counted:?}");
    }
    assert_eq!(chunks(&status, &["unavailable", "lost"]), 0);
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
    let options = ["--metadata", "1", "--data", "5", "--down-grace", "5s", "--condemned-grace", "1s"];
    let cluster = Cluster::up_with(&[&options[..], &["--upload-grace", "15s"]].concat());
    let files = cluster.put_files(1..9, 1 << 20, &["--chunk-size", "64K"]);
    // Some of it goes again.
    for (cid, _) in &files[..3] {
        cluster.run(&["rm", cid, "--purge"]);
    }
    let rest = |s: &Value| is_at_rest(s) && s["condemned_chunks"] == 0;
    cluster.wait_status("everything is at rest", LONG, rest);
    agree(&cluster, &DATA);
    // One node is off, and nobody does anything about it yet: what it has is what is missed.
    cluster.run(&["node", "maintenance", "data-3", "--for", "10min"]);
    cluster.devnet("stop", "data-3", &[]);
    cluster.wait_status("it is missed", LONG, |s| chunks(s, &["warning"]) > 0);
    agree(&cluster, &["data-1", "data-2", "data-4", "data-5"]);
    let before = slots(&cluster.json(&["status"]), "data-3");
    cluster.run(&["node", "maintenance", "data-3", "--end"]);
    cluster.wait_status("it is replaced", LONG, |s| slots(s, "data-3") == 0 && rest(s));
    agree(&cluster, &["data-1", "data-2", "data-4", "data-5"]);
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
    cluster.wait_status("it is used again", LONG, |s| slots(s, "data-3") > 500 && rest(s));
    agree(&cluster, &DATA);
    assert_eq!(events(&cluster, "disk_back").len(), 1);
    cluster.assert_deep(&files[3..].to_vec());
}
