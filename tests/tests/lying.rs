//! A data node that lies: to readers, to those who write, and by withholding. Nobody gets a wrong byte, and
//! it is found out.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use wmall_tests::status::{self, all_stable, node};
use wmall_tests::{Cluster, Files};

const LONG: Duration = Duration::from_secs(120);

/// The liar in the place of a node, until it is dropped.
struct Liar(Child);

impl Liar {
    fn instead_of(cluster: &Cluster, name: &str, lies: &[&str]) -> Self {
        cluster.devnet("stop", name, &[]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_liar"));
        command.arg(cluster.node_config(name)).args(lies).stdout(Stdio::null()).stderr(Stdio::null());
        let liar = Self(command.spawn().unwrap());
        cluster.wait_status("the liar is up", LONG, |s| {
            let it = status::node(s, name);
            it["state"] == "up" && it["silent_ms"].as_u64().is_some_and(|ms| ms < 2000)
        });
        liar
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cluster that asks often, with a pool `p`.
fn cluster(data: &str, scheme: &str) -> Cluster {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", data, "--down-grace", "5s"]);
    cluster.reconfigure("metadata-1", |config| {
        config.insert("challenge_ms".into(), 300.into());
    });
    cluster.run(&["pool", "create", "p", "--scheme", scheme, "--pgs", "128"]);
    cluster
}

fn put_some(cluster: &Cluster, from: u64) -> Files {
    cluster.put_files(from..from + 4, 2 << 20, &["--pool", "p", "--chunk-size", "128K"])
}

#[test]
fn wrong_bytes_of_copies_reach_no_reader_and_lead_to_quarantine() {
    wrong_bytes_are_found_out("5", "3x");
}

#[test]
fn wrong_bytes_of_shards_reach_no_reader_and_lead_to_quarantine() {
    wrong_bytes_are_found_out("7", "rs:4+2");
}

fn wrong_bytes_are_found_out(data: &str, scheme: &str) {
    let cluster = cluster(data, scheme);
    let files = put_some(&cluster, 1);
    let _liar = Liar::instead_of(&cluster, "data-2", &["wrong-bytes"]);
    for _ in 0..3 {
        for (cid, content) in &files {
            cluster.assert_content(cid, content);
        }
    }
    let quarantined = |s: &Value| node(s, "data-2")["disks"][0]["quarantined"] == true;
    cluster.wait_status("it is in quarantine", LONG, quarantined);
    // What it should have held is made anew elsewhere, while it says that all is well.
    let empty = |s: &Value| node(s, "data-2")["disks"][0]["slots"] == 0;
    cluster.wait_status("it is replaced", LONG, |s| empty(s) && all_stable(s));
    assert!(cluster.run(&["events"]).contains("disk_quarantined"));
    let findings = cluster.json_any(&["health"]);
    assert!(findings.as_array().unwrap().iter().any(|f| f["code"] == "DISKS_QUARANTINED"), "{findings}");
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
        assert_eq!(cluster.json(&["verify", cid, "--deep"])["pieces_bad"], 0);
    }
    // The others were asked as often.
    let status = cluster.json(&["status"]);
    let honest = status["nodes"].as_array().unwrap().iter().filter(|n| n["name"] != "data-2");
    assert!(
        honest.flat_map(|n| n["disks"].as_array().unwrap()).all(|d| d["quarantined"] == false),
        "{status}"
    );
    cluster.run(&["disk", "release", "data-2/disk-1"]);
    cluster.fails(&["disk", "release", "data-1/disk-1"]).expect(1, "precondition_failed");
}

#[test]
fn who_withholds_copies_is_found_out() {
    withholding_is_found_out("5", "3x");
}

#[test]
fn who_withholds_shards_is_found_out() {
    withholding_is_found_out("7", "rs:4+2");
}

fn withholding_is_found_out(data: &str, scheme: &str) {
    let cluster = cluster(data, scheme);
    let files = put_some(&cluster, 11);
    let _liar = Liar::instead_of(&cluster, "data-4", &["withhold"]);
    let quarantined = |s: &Value| node(s, "data-4")["disks"][0]["quarantined"] == true;
    cluster.wait_status("it is in quarantine", LONG, quarantined);
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
    }
}

/// Promises without pieces: challenges find them out. And once the node is honest again, the comparison with
/// the metadata finds what it lacks, piece by piece, though nobody reads anything.
fn false_promises_are_found_out(data: &str, scheme: &str) {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", data]);
    // No challenges, no scrub: presence alone must tell.
    cluster.reconfigure("metadata-1", |config| {
        config.insert("challenge_ms".into(), 100_000_000.into());
    });
    cluster.run(&["pool", "create", "p", "--scheme", scheme, "--pgs", "16"]);
    let put = |seeds| cluster.put_files(seeds, 2 << 20, &["--pool", "p", "--chunk-size", "64K"]);
    let mut files = put(1..2);
    {
        let _liar = Liar::instead_of(&cluster, "data-3", &["false-receipts"]);
        files.extend(put(2..8));
        let status = cluster.json(&["status"]);
        assert_eq!(
            (&status["chunks"]["warning"], &status["tickets"]),
            (&0.into(), &0.into()),
            "they are believed"
        );
    }
    cluster.devnet("start", "data-3", &[]);
    cluster.reconfigure("data-3", |config| {
        config.insert("compare_ms".into(), 20.into());
    });
    let held = |s: &Value| node(s, "data-3")["disks"][0]["pieces"] == s["chunks"]["stable"];
    cluster.wait_status("it has what it promised", LONG, |s| held(s) && all_stable(s));
    assert!(cluster.run(&["events"]).contains("pieces_bad"), "somebody noticed");
    cluster.assert_deep(&files);
}

#[test]
fn copies_that_were_promised_and_never_stored_are_missed_without_being_read() {
    false_promises_are_found_out("3", "3x");
}

#[test]
fn shards_that_were_promised_and_never_stored_are_missed_without_being_read() {
    false_promises_are_found_out("6", "rs:4+2");
}

/// A node says that it is full, of dead bytes besides, and asks for the weight of all and another zone. No
/// other pays for that, and an operator is asked.
#[test]
fn who_claims_to_be_full_and_heavy_stops_nobody_and_draws_nothing() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "5"]);
    let config = cluster.node_config("data-3");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut changed: toml::Table = text.parse().unwrap();
    changed.insert("zone".into(), "elsewhere".into());
    changed["disks"][0].as_table_mut().unwrap().insert("weight".into(), 1_000_000.into());
    std::fs::write(&config, changed.to_string()).unwrap();
    let before = cluster.json(&["status"]);
    let _liar = Liar::instead_of(&cluster, "data-3", &["full"]);
    cluster.wait_status("it says so", LONG, |s| status::disk(s, "data-3", "disk-1")["writable"] == false);
    let files = cluster.put_files(1..5, 2 << 20, &["--chunk-size", "128K"]);
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
    }
    let after = cluster.json(&["status"]);
    assert_eq!(after["capacity"]["level"], "safe", "{after}");
    let ratio = after["capacity"]["ratio_ppm"].as_u64().unwrap();
    assert!(ratio <= 250_000, "a fifth of the cluster says to be full: {after}");
    let disk = status::disk(&after, "data-3", "disk-1");
    assert_eq!((&disk["weight"], &disk["waiting_weight"]), (&100.into(), &1_000_000.into()), "{disk}");
    assert!(status::slots(&after, "data-3") <= status::slots(&before, "data-3"), "{after}");
    let liar = node(&after, "data-3");
    assert_eq!(
        (&liar["zone"], &liar["waiting_zone"]),
        (&node(&before, "data-3")["zone"], &"elsewhere".into())
    );
    let findings = cluster.json_any(&["health"]).to_string();
    assert!(findings.contains("LAYOUT_WAITING") && findings.contains("asks for 1000000"), "{findings}");
    // An operator sees first what it would come to.
    let staged = cluster.json(&["layout", "accept", "data-3"]);
    let of_liar = staged["disks"].as_array().unwrap().iter().find(|d| d["node"] == "data-3").unwrap();
    assert_eq!((&of_liar["draft_weight"], &of_liar["draft_zone"]), (&1_000_000.into(), &"elsewhere".into()));
    cluster.run(&["layout", "revert"]);
    cluster.fails(&["layout", "accept", "data-1"]).expect(1, "precondition_failed");
}
