//! What is removed can be had back for a while, and then it is gone from every disk; what is wanted stays.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;
use wmall_tests::{Cluster, bytes, wait_until};

/// Graces of a second or two, so that a test can wait for what takes a day.
fn quick() -> Cluster {
    let options = ["--data", "3", "--disk-bytes", "512M", "--condemned-grace", "1s", "--upload-grace", "2s"];
    Cluster::up_with(&options)
}

/// A file of several chunks has its manifest stored as one more.
fn manifest_bytes(chunks: u64) -> u64 {
    32 + 32 * chunks
}

fn pieces(status: &Value) -> Vec<u64> {
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().map(|n| n["disks"][0]["pieces"].as_u64().unwrap()).collect()
}

#[test]
fn what_is_removed_comes_back_within_the_grace_and_leaves_the_disks_after_it() {
    let cluster = quick();
    cluster.run(&["bucket", "create", "b", "--undelete", "3s"]);
    let (one, two) = (bytes(1, 3_000_000), bytes(2, 3_000_000));
    let file = cluster.write("one", &one);
    let cid = cluster.put(&file, &["b/one", "--chunk-size", "1M", "--ack", "all"]);
    let file = cluster.write("two", &two);
    cluster.put(&file, &["b/two", "--chunk-size", "1M", "--ack", "all"]);
    cluster.run(&["rm", "b/one"]);
    cluster.fails(&["get", "b/one", "-O", "-"]).expect(1, "not_found");
    cluster.fails(&["rm", "b/one"]).expect(1, "not_found");
    let removed = cluster.json(&["ls", "b", "--removed"]);
    assert_eq!(
        (removed[0]["name"].as_str(), removed[0]["object"]["file"].as_str()),
        (Some("one"), Some(&*cid))
    );
    cluster.run(&["undelete", "b/one"]);
    cluster.assert_content("b/one", &one);
    cluster.fails(&["undelete", "b/one"]).expect(1, "already_exists");
    // The grace passes: the file is gone by name and by id, and its pieces from every disk.
    cluster.run(&["rm", "b/one"]);
    cluster.wait_status("the pieces are gone", Duration::from_secs(30), |s| {
        s["trash"] == 0 && s["condemned_chunks"] == 0 && pieces(s) == [4, 4, 4]
    });
    cluster.fails(&["undelete", "b/one"]).expect(1, "not_found");
    cluster.fails(&["get", &cid, "-O", "-"]).expect(1, "not_found");
    cluster.assert_content("b/two", &two);
    let status = cluster.json(&["status"]);
    assert_eq!(
        (&status["files"], &status["objects"], &status["chunk_bytes"]),
        (&1.into(), &1.into(), &(3_000_000 + manifest_bytes(3)).into())
    );
    // Without a name: by id.
    let file = cluster.write("three", &bytes(3, 500_000));
    let pinned = cluster.put(&file, &["--ack", "all"]);
    cluster.run(&["rm", &pinned]);
    cluster.run(&["undelete", &pinned]);
    cluster.run(&["verify", &pinned, "--deep"]);
    cluster.run(&["rm", &pinned, "--purge"]);
    cluster.fails(&["get", &pinned, "-O", "-"]).expect(1, "not_found");
    cluster.run(&["rm", "b/two", "--purge"]);
    cluster.run(&["bucket", "rm", "b"]);
    cluster.wait_status("nothing is left", Duration::from_secs(30), |s| pieces(s) == [0, 0, 0]);
    // Removed and put again at once: whatever the deletion had begun, the file is whole.
    let again = cluster.put(&file, &["--ack", "all"]);
    assert_eq!(again, pinned);
    cluster.run(&["verify", &again, "--deep"]);
}

#[test]
fn a_bucket_s_rules_hold() {
    let cluster = quick();
    let file = cluster.write("in", &bytes(1, 100_000));
    let other = cluster.write("other", &bytes(2, 100_000));
    cluster.run(&["bucket", "create", "b", "--retain", "4s", "--max-objects", "2"]);
    let first = cluster.put(&file, &["b/x", "--if-absent"]);
    cluster.fails(&["put", &other, "b/x", "--if-absent"]).expect(1, "precondition_failed");
    cluster.fails(&["put", &other, "b/x"]).expect(1, "locked");
    cluster.fails(&["rm", "b/x", "--purge"]).expect(1, "locked");
    cluster.fails(&["bucket", "set", "b", "--retain", "1s"]).expect(1, "locked");
    cluster.put(&other, &["b/y"]);
    cluster.fails(&["put", &other, "b/z"]).expect(1, "quota_exceeded");
    cluster.run(&["bucket", "set", "b", "--max-objects", "none", "--max-bytes", "250K"]);
    cluster.fails(&["put", &other, "b/z"]).expect(1, "quota_exceeded");
    cluster.run(&["bucket", "set", "b", "--max-bytes", "none"]);
    wait_until("the retention is over", Duration::from_secs(20), || {
        let config = cluster.config();
        let args = ["--config", &config, "-q", "put", &other, "b/x", "--if-match", &first];
        wmall_tests::wmall(&args).status.success()
    });
    cluster.fails(&["put", &file, "b/x", "--if-match", &first]).expect(1, "precondition_failed");
    cluster.assert_content("b/x", &bytes(2, 100_000));
    // What a name pointed to before is a former version.
    assert_eq!(cluster.json(&["ls", "b", "--removed"])[0]["object"]["file"], first.as_str());
    let listed = cluster.json(&["ls", "b", "--after", "x"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[test]
fn chunks_that_the_cluster_has_are_not_sent_again() {
    let cluster = quick();
    let content = bytes(1, 8 << 20);
    let file = cluster.write("in", &content);
    cluster.put(&file, &["--chunk-size", "1M", "--ack", "all"]);
    let mut longer = content.clone();
    longer.extend(bytes(2, 1 << 20));
    let file = cluster.write("longer", &longer);
    let summary = cluster.json(&["put", &file, "--chunk-size", "1M", "--ack", "all"]);
    assert_eq!((&summary["chunks"], &summary["known_chunks"]), (&9.into(), &8.into()));
    let cid = summary["id"].as_str().unwrap();
    cluster.assert_content(cid, &longer);
    cluster.run(&["verify", cid, "--deep"]);
    // From a pipe there is no second time, so everything is sent; the result is the same.
    let piped = std::process::Command::new(wmall_tests::binary())
        .args(["--config", &cluster.config(), "-q", "put", "-", "--chunk-size", "1M"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap().trim(), cid);
}

#[test]
fn an_upload_that_was_broken_off_leaves_nothing_for_long() {
    let cluster = quick();
    let content = bytes(1, 20 << 20);
    // From a pipe that stalls, so that the put is under way for as long as it takes.
    let mut put = std::process::Command::new(wmall_tests::binary())
        .args(["--config", &cluster.config(), "-q", "put", "-", "--chunk-size", "1M"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = put.stdin.take().unwrap();
    pipe.write_all(&content).unwrap();
    let staged = || {
        let config = cluster.config();
        let output = wmall_tests::wmall(&["--config", &config, "-o", "json", "status"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (status["nodes"].is_array() && pieces(&status).iter().sum::<u64>() > 0, status)
    };
    wait_until("pieces arrive", Duration::from_secs(30), || staged().0);
    put.kill().unwrap();
    put.wait().unwrap();
    drop(pipe);
    cluster.wait_status("the orphans are gone", Duration::from_secs(40), |s| {
        s["files"] == 0 && pieces(s) == [0, 0, 0]
    });
    let path = cluster.write("whole", &content);
    let cid = cluster.put(&path, &["--chunk-size", "1M", "--ack", "all"]);
    cluster.run(&["verify", &cid, "--deep"]);
}

#[test]
fn a_node_that_was_away_hears_of_deletions_and_room_comes_back() {
    let cluster = quick();
    cluster.run(&["bucket", "create", "b", "--undelete", "1s"]);
    let keep = cluster.write("keep", &bytes(100, 2 << 20));
    let kept = cluster.put(&keep, &["b/keep", "--chunk-size", "1M", "--ack", "all"]);
    for i in 0..6u64 {
        let file = cluster.write("in", &bytes(i, 30 << 20));
        cluster.put(&file, &[&format!("b/{i}"), "--chunk-size", "1M", "--ack", "all"]);
    }
    let segments = |s: &Value| -> Vec<u64> {
        let nodes = s["nodes"].as_array().unwrap();
        nodes.iter().map(|n| n["disks"][0]["segment_bytes"].as_u64().unwrap()).collect()
    };
    let before = segments(&cluster.json(&["status"]));
    cluster.devnet("kill", "data-3", &[]);
    for i in 0..6 {
        cluster.run(&["rm", &format!("b/{i}"), "--purge"]);
    }
    cluster.wait_status("two nodes have deleted", Duration::from_secs(40), |s| pieces(s)[..2] == [3, 3]);
    // The metadata nodes forget the feed; the node that comes back asks about what it has.
    for i in 1..=3 {
        cluster.devnet("stop", &format!("metadata-{i}"), &[]);
        cluster.devnet("start", &format!("metadata-{i}"), &[]);
    }
    cluster.devnet("start", "data-3", &[]);
    cluster.wait_status("the third has deleted too", Duration::from_secs(40), |s| pieces(s) == [3, 3, 3]);
    cluster.wait_status("segments were given back", Duration::from_secs(60), |s| {
        segments(s).iter().zip(&before).all(|(now, before)| now * 2 <= *before)
    });
    cluster.run(&["verify", &kept, "--deep"]);
    cluster.assert_content("b/keep", &bytes(100, 2 << 20));
}
