//! What is to be emptied empties itself: under load, past what can't be moved, or not at all where that would be unsafe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wmall_tests::segments;
use wmall_tests::status::{all_stable, chunks, disk, pieces, slots};
use wmall_tests::{Cluster, Files, bytes, wmall};

const LONG: Duration = Duration::from_secs(90);

/// Puts and gets until it is told to stop; each must succeed.
fn serve(cluster: &Cluster, client: u64, stop: &AtomicBool) -> Files {
    let mut files = Files::new();
    while !stop.load(Ordering::Relaxed) {
        let seed = 1000 * client + files.len() as u64;
        files.extend(cluster.put_files(seed..seed + 1, 400_000, &["--chunk-size", "64K"]));
        let (cid, content) = &files[files.len() / 2];
        cluster.assert_content(cid, content);
    }
    files
}

#[test]
fn a_drain_and_a_new_weight_under_load_fail_no_client_and_leave_the_node_empty() {
    // What an upload brought to a slot that moved away is kept until the upload is too old to commit.
    let options = ["--metadata", "1", "--data", "5", "--upload-grace", "15s"];
    let cluster = Cluster::up_with(&options);
    let mut files = cluster.put_files(1..7, 2 << 20, &["--chunk-size", "256K"]);
    cluster.wait_status("everything is stable", LONG, all_stable);
    let dry = cluster.json(&["node", "drain", "data-4", "--dry-run"]);
    assert!(dry["slots"].as_u64().unwrap() > 500 && dry["stuck"] == 0 && dry["draining"] == false, "{dry}");
    let stop = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let clients = [1, 2, 3].map(|client| {
            let (cluster, stop) = (&cluster, &stop);
            scope.spawn(move || serve(cluster, client, stop))
        });
        cluster.run(&["node", "drain", "data-4", "--wait", "5min"]);
        let staged = cluster.json(&["layout", "stage", "data-2/disk-1", "--weight", "50"]);
        let draft = staged["version"].to_string();
        let held = slots(&cluster.json(&["status"]), "data-2");
        cluster.run(&["layout", "apply", "--draft", &draft, "--yes"]);
        cluster.wait_status("the lighter disk has given some away", LONG, |s| {
            slots(s, "data-2") < held * 4 / 5 && s["repair"]["moving"] == 0 && s["repair"]["waiting"] == 0
        });
        stop.store(true, Ordering::Relaxed);
        clients.map(|client| client.join().unwrap())
    });
    assert!(served.iter().all(|files| !files.is_empty()), "everybody was served");
    files.extend(served.into_iter().flatten());
    cluster.wait_status("it holds nothing", LONG, |s| slots(s, "data-4") == 0 && pieces(s, "data-4") == 0);
    // Unplugged, it is missed by nobody.
    cluster.devnet("stop", "data-4", &[]);
    cluster.wait_status("everything is stable without it", LONG, all_stable);
    cluster.assert_deep(&files);
    cluster.devnet("start", "data-4", &[]);
    cluster.run(&["node", "undrain", "data-4"]);
    cluster.wait_status("it is used again", LONG, |s| slots(s, "data-4") > 500 && all_stable(s));
}

#[test]
fn a_drain_that_cannot_end_is_refused_and_changes_nothing() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    cluster.put(&cluster.write("in", b"x"), &[]);
    let dry = cluster.assert_refused(&["node", "drain", "data-1", "--dry-run"], 5, "unsafe");
    assert!(dry.stdout.starts_with("1024 of the 1024 slots on data-1 have nowhere to go"), "{}", dry.stdout);
    cluster.assert_refused(&["node", "drain", "data-1"], 5, "unsafe");
    cluster.assert_refused(&["node", "drain", "data-9"], 1, "not_found");
}

/// There is room on the fourth node, but that is in a zone which has its share already.
#[test]
fn a_drain_that_would_break_the_zone_rule_is_refused_and_changes_nothing() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "4", "--zones", "3"]);
    cluster.put(&cluster.write("in", &bytes(1, 1 << 20)), &["--chunk-size", "64K"]);
    let refused = cluster.assert_refused(&["node", "drain", "data-2", "--yes"], 5, "unsafe");
    assert!(refused.stderr.contains("zone"), "{}", refused.stderr);
    cluster.assert_refused(&["disk", "drain", "data-3/disk-1"], 5, "unsafe");
    // Where another node of its zone takes over, it is none.
    cluster.run(&["node", "drain", "data-1", "--wait", "2min"]);
    assert_eq!(slots(&cluster.json(&["status"]), "data-1"), 0);
}

/// A piece that nobody can read stops nothing but itself: all else leaves, the job says what is left, and ends when that is given up.
#[test]
fn what_cannot_be_read_is_set_aside_and_the_rest_moves() {
    let options = ["--metadata", "1", "--data", "4", "--condemned-grace", "1s", "--upload-grace", "15s"];
    let cluster = Cluster::up_with(&options);
    cluster.run(&["pool", "create", "single", "--scheme", "1x", "--pgs", "16"]);
    let files = cluster.put_files(1..5, 2 << 20, &["--pool", "single", "--chunk-size", "64K"]);
    cluster.wait_status("data-2 has some of it", LONG, |s| pieces(s, "data-2") > 8);
    cluster.devnet("stop", "data-2", &[]);
    let held = segments::pieces(&cluster.disk("data-2"));
    held.values().find(|piece| piece.length == 64 << 10).unwrap().rot();
    cluster.devnet("start", "data-2", &[]);
    let job = cluster.json(&["node", "drain", "data-2"])["job"].to_string();
    cluster.wait_status("all else is elsewhere", LONG, |s| {
        slots(s, "data-2") == 0 && s["repair"]["moving"] == 1 && chunks(s, &["lost"]) == 1
    });
    let left = cluster.json(&["job", "show", &job]);
    assert_eq!((&left["state"], &left["leaving"]), (&"running".into(), &1.into()), "{left}");
    let findings = cluster.json_any(&["health"]);
    assert!(findings.as_array().unwrap().iter().any(|f| f["code"] == "CHUNKS_LOST"), "{findings}");
    let config = cluster.config();
    let is_spoiled = |(cid, _): &(String, Vec<u8>)| {
        let got = wmall(&["--config", &config, "-q", "get", cid, "-O", &cluster.path("out")]);
        !got.status.success()
    };
    let (spoiled, whole): (Files, Files) = files.into_iter().partition(is_spoiled);
    assert_eq!((spoiled.len(), whole.len()), (1, 3), "one chunk of one file");
    for (cid, content) in &whole {
        cluster.assert_content(cid, content);
    }
    cluster.run(&["rm", &spoiled[0].0, "--purge"]);
    let done = cluster.json(&["job", "watch", &job, "--wait", "2min"]);
    assert_eq!(done["state"], "done");
    cluster.wait_status("it holds nothing", LONG, |s| pieces(s, "data-2") == 0 && s["tickets"] == 0);
    assert_eq!(disk(&cluster.json(&["status"]), "data-2", "disk-1")["slots"], 0);
}
