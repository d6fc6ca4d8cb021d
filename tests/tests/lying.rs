//! A data node that lies: to readers, to those who write, and by withholding. Nobody gets a wrong byte, and it is found out.

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

/// Promises without pieces: challenges find them out. And once the node is honest again, the comparison with the metadata
/// finds what it lacks, piece by piece, though nobody reads anything.
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
