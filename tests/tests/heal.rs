//! Nobody runs a repair command: what is lost is made anew elsewhere, and what is to be emptied empties itself.

use std::time::Duration;

use serde_json::Value;
use wmall_tests::{Cluster, bytes, wait_until};

const LONG: Duration = Duration::from_secs(90);

fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["nodes"].as_array().unwrap().iter().find(|n| n["name"] == name).unwrap()
}

fn slots(status: &Value, name: &str) -> u64 {
    node(status, name)["disks"].as_array().unwrap().iter().map(|d| d["slots"].as_u64().unwrap()).sum()
}

fn all_stable(status: &Value) -> bool {
    let chunks = &status["chunks"];
    chunks["stable"] != 0
        && ["warning", "danger", "unavailable", "lost"].iter().all(|g| chunks[g] == 0)
        && status["repair"]["moving"] == 0
        && status["repair"]["waiting"] == 0
}

/// Every piece of these files is where the rows say, signed for and good.
fn assert_deep(cluster: &Cluster, files: &[(String, Vec<u8>)]) {
    for (cid, content) in files {
        cluster.assert_content(cid, content);
        let deep = cluster.json(&["verify", cid, "--deep"]);
        assert_eq!(
            (&deep["pieces_bad"], &deep["pieces_absent"], &deep["unreadable"]),
            (&0.into(), &0.into(), &0.into()),
            "{deep}"
        );
    }
}

fn put_files(cluster: &Cluster, options: &[&str]) -> Vec<(String, Vec<u8>)> {
    let put = |seed: u64| {
        let content = bytes(seed, (2 << 20) + 1000 * seed as usize);
        let path = cluster.write("in", &content);
        (cluster.put(&path, &[&["--ack", "all", "--chunk-size", "256K"], options].concat()), content)
    };
    (1..=6).map(put).collect()
}

#[test]
fn a_node_that_is_gone_for_good_is_replaced_and_then_another_one() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "6", "--down-grace", "4s"]);
    let files = put_files(&cluster, &[]);
    for gone in ["data-2", "data-5"] {
        cluster.wait_status("everything is stable", LONG, all_stable);
        cluster.devnet("kill", gone, &[]);
        cluster.wait_status("the loss shows", LONG, |s| s["chunks"]["warning"] != 0);
        cluster.wait_status("nothing is on the dead node", LONG, |s| slots(s, gone) == 0 && all_stable(s));
        assert_deep(&cluster, &files);
    }
    let events = cluster.run(&["events"]);
    for told in ["disk_down", "slots_move", "their disks do not answer", "moves_arrived"] {
        assert!(events.contains(told), "no {told} in {events}");
    }
    // Four nodes hold all of it now, and a put goes on.
    let late = bytes(77, 3 << 20);
    let cid = cluster.put(&cluster.write("late", &late), &["--ack", "all"]);
    cluster.assert_content(&cid, &late);
    // One of the dead comes back: it is given its share, and what it held before is no part of anything.
    cluster.devnet("start", "data-2", &[]);
    // Its share of five is 614 slots; balancing ends within a twentieth of that.
    cluster.wait_status("it is used again", LONG, |s| slots(s, "data-2") >= 580 && all_stable(s));
    assert_deep(&cluster, &files);
}

#[test]
fn a_node_that_is_back_within_the_grace_moves_nothing() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "5", "--down-grace", "60s"]);
    put_files(&cluster, &[]);
    let before = cluster.json(&["status"]);
    let shares = |s: &Value| -> Vec<u64> { (1..=5).map(|i| slots(s, &format!("data-{i}"))).collect() };
    assert_eq!(cluster.json(&["health"]).as_array().unwrap().len(), 0);
    cluster.devnet("kill", "data-3", &[]);
    cluster.wait_status("it is missed", LONG, |s| node(s, "data-3")["state"] == "suspect");
    let findings = cluster.json_any(&["health"]);
    let codes: Vec<&str> = findings.as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["CHUNKS_DEGRADED", "NODES_DOWN"], "{findings}");
    cluster.fails(&["health"]).expect(3, "health_warning");
    cluster.devnet("start", "data-3", &[]);
    cluster.wait_status("everything is stable", LONG, all_stable);
    assert_eq!(shares(&cluster.json(&["status"])), shares(&before));
}

#[test]
fn a_drain_under_load_fails_no_client_and_leaves_the_node_empty() {
    // What an upload brought to a slot that moved away is kept until the upload is too old to commit.
    let options = ["--metadata", "1", "--data", "5", "--upload-grace", "15s"];
    let cluster = Cluster::up_with(&options);
    let mut files = put_files(&cluster, &[]);
    cluster.wait_status("everything is stable", LONG, all_stable);
    let dry = cluster.json(&["node", "drain", "data-4", "--dry-run"]);
    assert!(dry["slots"].as_u64().unwrap() > 500 && dry["stuck"] == 0 && dry["draining"] == false, "{dry}");
    let mut drain = cluster.spawn(&["node", "drain", "data-4", "--wait", "5min"]);
    let mut seed = 100;
    while drain.try_wait().unwrap().is_none() {
        seed += 1;
        let content = bytes(seed, 700_000);
        let path = cluster.write("load", &content);
        files.push((cluster.put(&path, &["--ack", "all", "--chunk-size", "64K"]), content));
        let (cid, content) = &files[seed as usize % files.len()];
        cluster.assert_content(cid, content);
    }
    assert!(drain.wait().unwrap().success());
    let pieces = |s: &Value| -> u64 {
        node(s, "data-4")["disks"].as_array().unwrap().iter().map(|d| d["pieces"].as_u64().unwrap()).sum()
    };
    cluster.wait_status("it holds nothing", LONG, |s| slots(s, "data-4") == 0 && pieces(s) == 0);
    // Unplugged, it is missed by nobody.
    cluster.devnet("stop", "data-4", &[]);
    cluster.wait_status("everything is stable without it", LONG, all_stable);
    assert_deep(&cluster, &files);
    cluster.devnet("start", "data-4", &[]);
    cluster.run(&["node", "undrain", "data-4"]);
    cluster.wait_status("it is used again", LONG, |s| slots(s, "data-4") > 500 && all_stable(s));
}

#[test]
fn a_drain_that_cannot_end_is_refused_and_changes_nothing() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    cluster.put(&cluster.write("in", b"x"), &[]);
    let dry = cluster.fails(&["node", "drain", "data-1", "--dry-run"]);
    dry.expect(5, "unsafe");
    assert!(dry.stdout.starts_with("1024 of the 1024 slots on data-1 have nowhere to go"), "{}", dry.stdout);
    cluster.fails(&["node", "drain", "data-1"]).expect(5, "unsafe");
    cluster.fails(&["node", "drain", "data-9"]).expect(1, "not_found");
    let status = cluster.json(&["status"]);
    assert_eq!(node(&status, "data-1")["disks"][0]["draining"], false);
}

/// A second node dies when the first one's part has been made anew so far, in percent.
fn a_second_dies(percent: u64, scheme: &[&str], data: &str) {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", data, "--down-grace", "4s"]);
    if !scheme.is_empty() {
        cluster.run(&["pool", "create", "rs-4-2", "--scheme", "rs:4+2", "--pgs", "128"]);
    }
    let files = put_files(&cluster, scheme);
    cluster.wait_status("everything is stable", LONG, all_stable);
    let of_first = slots(&cluster.json(&["status"]), "data-1");
    cluster.devnet("kill", "data-1", &[]);
    let moving = |s: &Value| s["repair"]["moving"].as_u64().unwrap_or(0);
    cluster.wait_status("substitutes are being filled", LONG, |s| {
        let left = slots(s, "data-1");
        let arrived = of_first - left;
        // Who is slow to look may find the last of them filled already; a death right after that must do no harm either.
        (moving(s) > 0 || left == 0) && arrived.saturating_sub(moving(s)) * 100 >= of_first * (percent - 10)
    });
    cluster.devnet("kill", "data-2", &[]);
    wait_until("all files are readable meanwhile", LONG * 2, || {
        files.iter().for_each(|(cid, content)| cluster.assert_content(cid, content));
        let status = cluster.json(&["status"]);
        slots(&status, "data-1") + slots(&status, "data-2") == 0 && all_stable(&status)
    });
    assert_deep(&cluster, &files);
}

#[test]
fn shards_of_a_dead_node_are_made_anew_on_others_while_a_second_dies() {
    a_second_dies(10, &["--scheme", "rs:4+2"], "8");
}

#[test]
fn a_second_node_dies_when_half_of_the_first_has_been_made_anew() {
    a_second_dies(50, &[], "6");
}

#[test]
fn a_second_node_dies_when_nearly_all_of_the_first_has_been_made_anew() {
    a_second_dies(90, &[], "6");
}
