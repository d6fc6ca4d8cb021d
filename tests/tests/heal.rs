//! Nobody runs a repair command: what is lost is made anew elsewhere, and what is to be emptied empties
//! itself.

use std::time::Duration;

use serde_json::Value;
use wmall_tests::status::{all_stable, chunks, node, slots};
use wmall_tests::{Cluster, Files, bytes, wait_until};

const LONG: Duration = Duration::from_secs(90);

fn put_files(cluster: &Cluster) -> Files {
    cluster.put_files(1..7, 2 << 20, &["--chunk-size", "256K"])
}

#[test]
fn a_node_that_is_gone_for_good_is_replaced_and_then_another_one() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "6", "--down-grace", "4s"]);
    let files = put_files(&cluster);
    for gone in ["data-2", "data-5"] {
        cluster.wait_status("everything is stable", LONG, all_stable);
        cluster.devnet("kill", gone, &[]);
        cluster.wait_status("the loss shows", LONG, |s| chunks(s, &["warning"]) > 0);
        cluster.wait_status("nothing is on the dead node", LONG, |s| slots(s, gone) == 0 && all_stable(s));
        cluster.assert_deep(&files);
    }
    wait_until("the events tell of it", LONG, || {
        let events = cluster.run(&["events"]);
        ["disk_down", "slots_move", "their disks do not answer", "moves_arrived"]
            .iter()
            .all(|e| events.contains(e))
    });
    // Four nodes hold all of it now, and a put goes on.
    let late = bytes(77, 3 << 20);
    let cid = cluster.put(&cluster.write("late", &late), &["--ack", "all"]);
    cluster.assert_content(&cid, &late);
    // One of the dead comes back: it is given its share, and what it held before is no part of anything.
    cluster.devnet("start", "data-2", &[]);
    // Its share of five is 614 slots; balancing ends within a twentieth of that.
    cluster.wait_status("it is used again", LONG, |s| slots(s, "data-2") >= 580 && all_stable(s));
    cluster.assert_deep(&files);
}

#[test]
fn a_node_that_is_back_within_the_grace_moves_nothing() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "5", "--down-grace", "60s"]);
    put_files(&cluster);
    let before = cluster.json(&["status"]);
    let shares = |s: &Value| -> Vec<u64> { (1..=5).map(|i| slots(s, &format!("data-{i}"))).collect() };
    wait_until("it is healthy", LONG, || cluster.json_any(&["health"]).as_array().is_some_and(Vec::is_empty));
    cluster.devnet("kill", "data-3", &[]);
    cluster.wait_status("it is missed", LONG, |s| node(s, "data-3")["state"] == "suspect");
    let findings = cluster.json_any(&["health"]);
    let codes = findings.as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap());
    // The disks of a machine that is busy with tests may be slow.
    let codes: Vec<&str> = codes.filter(|code| *code != "DISK_SLOW").collect();
    assert_eq!(codes, ["CHUNKS_DEGRADED", "NODES_DOWN"], "{findings}");
    cluster.fails(&["health"]).expect(3, "health_warning");
    cluster.devnet("start", "data-3", &[]);
    cluster.wait_status("everything is stable", LONG, all_stable);
    assert_eq!(shares(&cluster.json(&["status"])), shares(&before));
}

/// Whoever dies while slots move: who leads, those that are filled and those that they are filled from, and
/// then everybody at once.
#[test]
fn backfill_goes_on_after_every_crash() {
    let cluster = Cluster::up_with(&["--data", "7", "--down-grace", "4s"]);
    // A few at a time, so that there is a middle to die in.
    for member in ["metadata-1", "metadata-2", "metadata-3"] {
        cluster.limit_moves(member, 4);
    }
    cluster.run(&["pool", "create", "rs-4-2", "--scheme", "rs:4+2", "--pgs", "64"]);
    let mut files = cluster.put_files(1..4, 2 << 20, &["--chunk-size", "256K", "--pool", "3x"]);
    files.extend(cluster.put_files(4..7, 2 << 20, &["--chunk-size", "256K", "--scheme", "rs:4+2"]));
    cluster.wait_status("everything is stable", LONG, all_stable);
    cluster.devnet("kill", "data-1", &[]);
    let is_under_way = |s: &Value| s["repair"]["moving"].as_u64() > Some(0) && slots(s, "data-1") > 0;
    cluster.wait_status("slots move", LONG, is_under_way);
    let leader = cluster.leader();
    cluster.devnet("kill", &leader, &[]);
    for i in 2..=7 {
        let name = format!("data-{i}");
        cluster.devnet("kill", &name, &[]);
        cluster.devnet("start", &name, &[]);
    }
    cluster.devnet("start", &leader, &[]);
    cluster.wait_status("slots move on", LONG, |s| is_under_way(s) || slots(s, "data-1") == 0);
    let others: Vec<String> = cluster.nodes().into_iter().filter(|n| n != "data-1").collect();
    others.iter().for_each(|node| cluster.devnet("kill", node, &[]));
    others.iter().for_each(|node| cluster.devnet("start", node, &[]));
    cluster.wait_status("all of it is made anew", LONG, |s| slots(s, "data-1") == 0 && all_stable(s));
    cluster.assert_deep(&files);
}

/// More than a quarter of the disks, and two whole zones, are more likely a cut cable than dead disks.
#[test]
fn what_vanishes_together_is_not_replaced_unless_an_operator_says_so() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "6", "--down-grace", "4s"]);
    let files = put_files(&cluster);
    cluster.wait_status("everything is stable", LONG, all_stable);
    let held = |s: &Value| ["data-2", "data-5"].map(|n| slots(s, n));
    let before = held(&cluster.json(&["status"]));
    let is_halted = |s: &Value| s["repair"]["halted"].is_string();
    for node in ["data-2", "data-5"] {
        cluster.devnet("kill", node, &[]);
    }
    cluster.wait_status("repairs are halted", LONG, is_halted);
    let status = cluster.json(&["status"]);
    assert!(chunks(&status, &["danger"]) > 0, "{status}");
    let findings = cluster.json_any(&["health"]);
    assert!(findings.as_array().unwrap().iter().any(|f| f["code"] == "REPAIR_HALTED"), "{findings}");
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
    }
    assert_eq!(held(&cluster.json(&["status"])), before, "nothing was given to others");
    // One is back: it has all that it had, and the other one is a loss like any.
    cluster.devnet("start", "data-5", &[]);
    cluster.wait_status("the other one is replaced", LONG, |s| slots(s, "data-2") == 0 && all_stable(s));
    let events = cluster.run(&["events"]);
    let at = |event: &str| events.find(event).unwrap_or_else(|| panic!("no {event} in {events}"));
    assert!(
        at("repair_halted") < at("repair_resumed") && at("repair_resumed") < at("slots_move"),
        "{events}"
    );
    // Two of the five that are left, and this time they are known to be gone.
    for node in ["data-1", "data-3"] {
        cluster.devnet("kill", node, &[]);
    }
    cluster.wait_status("repairs are halted again", LONG, is_halted);
    cluster.reconfigure("metadata-1", |config| {
        let repair = config["repair"].as_table_mut().unwrap();
        repair.insert("override_halt".into(), true.into());
    });
    cluster.wait_status("both are replaced", LONG, |s| {
        slots(s, "data-1") + slots(s, "data-3") == 0 && all_stable(s)
    });
    cluster.assert_deep(&files);
}
