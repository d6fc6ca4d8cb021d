//! A second node dies while what the first one had is made anew: nothing is lost, and what is nearest to that goes first.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use wmall_tests::status::{all_stable, chunks, disk, slots};
use wmall_tests::{Cluster, wait_until};

const LONG: Duration = Duration::from_secs(90);

/// A second node dies when the first one's part has been made anew so far, in percent.
fn a_second_dies(percent: u64, scheme: &[&str], data: &str) {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", data, "--down-grace", "4s"]);
    cluster.limit_moves("metadata-1", 16);
    if !scheme.is_empty() {
        cluster.run(&["pool", "create", "rs-4-2", "--scheme", "rs:4+2", "--pgs", "128"]);
    }
    let files = cluster.put_files(1..7, 2 << 20, &[&["--chunk-size", "256K"], scheme].concat());
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
        assert_eq!(chunks(&status, &["lost"]), 0, "{status}");
        slots(&status, "data-1") + slots(&status, "data-2") == 0 && all_stable(&status)
    });
    cluster.assert_deep(&files);
}

const COPIES: &[&str] = &[];
const SHARDS: &[&str] = &["--scheme", "rs:4+2"];

#[test]
fn three_copies_when_a_tenth_has_been_made_anew() {
    a_second_dies(10, COPIES, "6");
}

#[test]
fn three_copies_when_half_has_been_made_anew() {
    a_second_dies(50, COPIES, "6");
}

#[test]
fn three_copies_when_nearly_all_has_been_made_anew() {
    a_second_dies(90, COPIES, "6");
}

#[test]
fn shards_when_a_tenth_has_been_made_anew() {
    a_second_dies(10, SHARDS, "8");
}

#[test]
fn shards_when_half_has_been_made_anew() {
    a_second_dies(50, SHARDS, "8");
}

#[test]
fn shards_when_nearly_all_has_been_made_anew() {
    a_second_dies(90, SHARDS, "8");
}

/// Two nodes are found down at the same moment, in zones of which others are left. What had a copy on both goes first.
#[test]
fn what_is_in_danger_is_made_anew_before_what_is_not() {
    let options = ["--metadata", "1", "--data", "8", "--zones", "4", "--down-grace", "4s"];
    let cluster = Cluster::up_with(&options);
    cluster.limit_moves("metadata-1", 2);
    // No head start for what is in danger: who is silent is down at once.
    cluster.reconfigure("metadata-1", |config| {
        config.insert("suspect_after_ms".into(), 4000.into());
    });
    cluster.run(&["pool", "create", "p", "--scheme", "3x", "--pgs", "256"]);
    let files = cluster.put_files(1..13, 2 << 20, &["--pool", "p", "--chunk-size", "64K"]);
    cluster.wait_status("everything is stable", LONG, all_stable);
    let status = cluster.json(&["status"]);
    let dead = ["data-1", "data-2"];
    let ids: Vec<Value> = dead.iter().map(|n| disk(&status, n, "disk-1")["id"].clone()).collect();
    dead.iter().for_each(|node| cluster.devnet("kill", node, &[]));
    // Groups of chunks that are in danger, and others that have a slot on one of the dead yet.
    let look = || -> (BTreeSet<u64>, BTreeSet<u64>) {
        let groups = cluster.json(&["pg", "ls", "p"]);
        let (mut danger, mut warning) = (BTreeSet::new(), BTreeSet::new());
        for group in groups.as_array().unwrap() {
            let number = group["number"].as_u64().unwrap();
            let slots = group["row"]["slots"].as_array().unwrap();
            if group["grades"]["now"]["danger"] != 0 {
                danger.insert(number);
            } else if slots.iter().any(|slot| ids.contains(slot)) {
                warning.insert(number);
            }
        }
        (danger, warning)
    };
    let mut first = look();
    wait_until("they are missed", LONG, || {
        first = look();
        !first.0.is_empty()
    });
    // The last look that shows some danger tells what else was done before that ended; the first that shows none, where there was
    // no look in between.
    let (mut last, mut over) = (first.clone(), first.clone());
    wait_until("nothing is in danger any more", LONG, || {
        over = look();
        if !over.0.is_empty() {
            last = over.clone();
        }
        over.0.is_empty()
    });
    let then = if last.0.len() < first.0.len() { last } else { over };
    let waiting = first.1.intersection(&then.1).count();
    assert!(first.0.len() > 5 && first.1.len() > 50, "{first:?}");
    assert!(waiting * 2 > first.1.len(), "only {waiting} of {} others still waited", first.1.len());
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
    }
}
