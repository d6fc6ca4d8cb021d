//! Nodes die at the worst of moments, and nothing that was acknowledged is lost.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use wmall_tests::{Cluster, bytes, wait_until};

#[test]
fn any_two_of_five_data_nodes_may_go_after_ack_all() {
    let cluster = Cluster::up();
    let content = bytes(1, 20 << 20);
    let file = cluster.write("in", &content);
    let cid = cluster.put(&file, &["--ack", "all", "--chunk-size", "1M"]);
    for (a, b) in [(1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)] {
        let (a, b) = (format!("data-{a}"), format!("data-{b}"));
        cluster.devnet("kill", &a, &[]);
        cluster.devnet("kill", &b, &[]);
        cluster.assert_content(&cid, &content);
        cluster.devnet("start", &a, &[]);
        cluster.devnet("start", &b, &[]);
    }
    // The manifest is stored as one more.
    cluster.wait_status("all chunks stable again", Duration::from_secs(30), |s| {
        s["chunks"]["stable"] == 21 && s["chunks"]["warning"] == 0
    });
}

#[test]
fn a_gibibyte_survives_the_leader_and_a_data_node_dying_under_it() {
    let cluster = Cluster::up();
    let path = cluster.path("big");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let mut hasher = blake3::Hasher::new();
    for i in 0..1024u64 {
        let block = bytes(i + 1, 1 << 20);
        hasher.update(&block);
        out.write_all(&block).unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
    let leader = cluster.leader();
    let mut put = cluster.spawn(&["put", &path]);
    // Somewhere in the middle: once the nodes have taken some hundred megabytes, whenever that is.
    let taken = |node: &str| {
        let folder = cluster.folder().join("nodes").join(node).join("disk-1/segments");
        std::fs::read_dir(folder).map_or(0, |d| d.count())
    };
    wait_until("the put is under way", Duration::from_secs(60), || taken("data-2") >= 2);
    cluster.devnet("kill", "data-2", &[]);
    cluster.devnet("kill", &leader, &[]);
    let started = Instant::now();
    let status = put.wait().unwrap();
    let mut text = (String::new(), String::new());
    put.stdout.take().unwrap().read_to_string(&mut text.0).unwrap();
    put.stderr.take().unwrap().read_to_string(&mut text.1).unwrap();
    assert!(status.success(), "after {:?}: {}", started.elapsed(), text.1);
    let cid = text.0.trim();
    cluster.run(&["verify", cid]);
    let out = cluster.path("out");
    cluster.run(&["get", cid, "-O", &out]);
    let mut back = blake3::Hasher::new();
    std::io::copy(&mut std::fs::File::open(&out).unwrap(), &mut back).unwrap();
    assert_eq!(back.finalize(), hasher.finalize());
    // The one that missed writes fills them in by itself once it is back.
    cluster.devnet("start", "data-2", &[]);
    cluster.devnet("start", &leader, &[]);
    cluster.wait_status("every ticket is closed", Duration::from_secs(90), |s| {
        s["tickets"] == 0 && s["chunks"]["stable"] == 257
    });
    cluster.run(&["verify", cid, "--deep"]);
}

#[test]
fn everything_killed_at_once_comes_up_with_all_that_was_acknowledged() {
    let cluster = Cluster::up();
    cluster.run(&["bucket", "create", "b"]);
    let mut stored = Vec::new();
    for round in 0..3u64 {
        for i in 0..6u64 {
            let content = bytes(round * 100 + i, 10_000 + (i as usize * 400_000));
            let file = cluster.write("in", &content);
            stored.push((cluster.put(&file, &[&format!("b/{round}-{i}")]), content));
        }
        for node in cluster.nodes() {
            cluster.devnet("kill", &node, &[]);
        }
        for node in cluster.nodes() {
            cluster.devnet("start", &node, &[]);
        }
        cluster.wait_status("all nodes up", Duration::from_secs(30), |s| {
            let nodes = s["nodes"].as_array().unwrap();
            nodes.iter().all(|n| n["state"] == "up" && n["silent_ms"].is_number())
        });
        for (cid, content) in &stored {
            cluster.assert_content(cid, content);
        }
    }
    assert_eq!(cluster.json(&["bucket", "show", "b"])[0]["objects"], stored.len());
    cluster.wait_status("all stable", Duration::from_secs(30), |s| s["chunks"]["warning"] == 0);
    for (cid, _) in &stored {
        cluster.run(&["verify", cid, "--deep"]);
    }
}

/// The view of a killed node is behind its log, and the log is what counts: a leader that comes back must
/// not answer with the past while it catches up.
#[test]
fn the_first_answer_after_a_kill_knows_all_that_was_acknowledged() {
    let cluster = Cluster::up_with(&["--data", "3"]);
    let members = ["metadata-1", "metadata-2", "metadata-3"];
    for round in 1..=4 {
        let name = format!("bucket-{round}");
        cluster.run(&["bucket", "create", &name]);
        members.iter().for_each(|m| cluster.devnet("kill", m, &[]));
        members.iter().for_each(|m| cluster.devnet("start", m, &[]));
        cluster.run(&["bucket", "show", &name]);
    }
}

#[test]
fn a_wiped_data_node_is_filled_again_and_counted_only_then() {
    let cluster = Cluster::up_with(&["--data", "3"]);
    let content = bytes(4, 24 << 20);
    let file = cluster.write("in", &content);
    let cid = cluster.put(&file, &["--ack", "all", "--chunk-size", "256K"]);
    cluster.wipe("data-3");
    cluster.wait_status("filled", Duration::from_secs(60), |s| {
        let node = &s["nodes"].as_array().unwrap()[2]["disks"][0];
        s["chunks"]["stable"] == 97 && node["dirty_groups"] == 0 && node["pieces"] == 97
    });
    cluster.run(&["verify", &cid, "--deep"]);
    // Only the refilled node is left: it really has everything.
    cluster.devnet("kill", "data-1", &[]);
    cluster.devnet("kill", "data-2", &[]);
    cluster.assert_content(&cid, &content);
}

#[test]
fn a_rotten_piece_is_never_returned_and_is_healed_by_its_reader() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let content = bytes(5, 200_000);
    let file = cluster.write("in", &content);
    let cid = cluster.put(&file, &["--ack", "all"]);
    // A byte flips on two of three disks, under the running nodes.
    for node in ["data-1", "data-2"] {
        let segment = cluster.folder().join("nodes").join(node).join("disk-1/segments/0000000000.seg");
        let mut file = std::fs::OpenOptions::new().read(true).write(true).open(segment).unwrap();
        use std::io::{Seek, SeekFrom};
        let at = 100_000;
        let mut byte = [0u8];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut byte).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[byte[0] ^ 1]).unwrap();
    }
    cluster.assert_content(&cid, &content);
    // A reader that meets a rotten piece has its node look for itself; how far the healing has got by any
    // moment is open, that it ends with three good copies is not.
    wait_until("three good pieces again", Duration::from_secs(30), || {
        let config = cluster.config();
        let args = ["--config", &config, "-q", "-o", "json", "verify", &cid, "--deep"];
        let report: serde_json::Value =
            serde_json::from_slice(&wmall_tests::wmall(&args).stdout).unwrap_or_default();
        report["pieces_good"] == 3 && report["grades"]["stable"] == 1
    });
    cluster.assert_content(&cid, &content);
}
