//! A pool of Reed-Solomon pieces: any two of six nodes may go, rot and lost disks heal, and no wrong byte
//! comes out.

use std::time::Duration;

use wmall_tests::{Cluster, bytes, wait_until, wmall};

const POOL: &[&str] = &["pool", "create", "rs-4-2", "--scheme", "rs:4+2", "--pgs", "64"];

fn all_stable(cluster: &Cluster) {
    cluster.wait_status("everything is stable", Duration::from_secs(60), |status| {
        let chunks = &status["chunks"];
        chunks["stable"] != 0 && ["warning", "danger", "unavailable", "lost"].iter().all(|g| chunks[g] == 0)
    });
}

/// Flips a byte in the middle of every segment of a node that holds much.
fn rot(cluster: &Cluster, node: &str, step: usize) {
    let folder = cluster.folder().join("nodes").join(node).join("disk-1/segments");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|&b| b != 0).unwrap_or(0);
        for at in (step..end).step_by(step) {
            bytes[at] ^= 0x40;
        }
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn five_nodes_are_too_few_for_six_pieces() {
    let cluster = Cluster::up();
    let refused = cluster.assert_refused(POOL, 1, "too_few_nodes");
    assert!(refused.stderr.contains("6 nodes"), "{}", refused.stderr);
    let file = cluster.write("in", b"x");
    cluster.fails(&["put", &file, "--scheme", "rs:4+2"]).expect(1, "not_found");
}

#[test]
fn any_two_of_six_may_go_and_a_lost_disk_is_made_anew_from_the_others() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "6"]);
    cluster.run(POOL);
    let content = bytes(1, (9 << 20) + 12_345);
    let file = cluster.write("in", &content);
    let cid = cluster.put(&file, &["--scheme", "rs:4+2", "--ack", "all", "--chunk-size", "1M"]);
    let small = cluster.put(&cluster.write("small", b"hello"), &["--pool", "rs-4-2", "--ack", "all"]);
    let deep = cluster.json(&["verify", &cid, "--deep"]);
    // Ten chunks and the block of the manifest, six pieces each.
    assert_eq!((&deep["pieces_good"], &deep["unreadable"]), (&66.into(), &0.into()), "{deep}");
    for (a, b) in [(1, 2), (3, 4), (5, 6), (1, 6), (2, 5)] {
        let (a, b) = (format!("data-{a}"), format!("data-{b}"));
        cluster.devnet("kill", &a, &[]);
        cluster.devnet("kill", &b, &[]);
        cluster.assert_content(&cid, &content);
        cluster.assert_content(&small, b"hello");
        cluster.devnet("start", &a, &[]);
        cluster.devnet("start", &b, &[]);
    }
    all_stable(&cluster);
    // A put while one is away misses a piece, which is made once it is back.
    cluster.devnet("kill", "data-3", &[]);
    let later = bytes(2, 3 << 20);
    let cid_later =
        cluster.put(&cluster.write("later", &later), &["--scheme", "rs:4+2", "--chunk-size", "1M"]);
    cluster.devnet("start", "data-3", &[]);
    all_stable(&cluster);
    // A wiped disk gets all its shards again, computed from others'.
    cluster.wipe("data-4");
    all_stable(&cluster);
    for cid in [&cid, &cid_later, &small] {
        let deep = cluster.json(&["verify", cid, "--deep"]);
        assert_eq!(
            (&deep["pieces_bad"], &deep["pieces_absent"], &deep["unreadable"]),
            (&0.into(), &0.into(), &0.into()),
            "{deep}"
        );
    }
}

#[test]
fn rotten_pieces_on_two_nodes_yield_no_wrong_byte_and_heal_by_being_read() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "6"]);
    cluster.run(POOL);
    let content = bytes(3, 12 << 20);
    let cid = cluster.put(&cluster.write("in", &content), &["--scheme", "rs:4+2", "--ack", "all"]);
    all_stable(&cluster);
    for node in ["data-2", "data-5"] {
        cluster.devnet("kill", node, &[]);
        rot(&cluster, node, 300_000);
        cluster.devnet("start", node, &[]);
    }
    cluster.assert_content(&cid, &content);
    wait_until("all pieces are good again", Duration::from_secs(60), || {
        let deep = cluster.json_any(&["verify", &cid, "--deep"]);
        ["pieces_bad", "pieces_unasked", "pieces_absent", "unreadable"].iter().all(|n| deep[n] == 0)
    });
}

#[test]
fn striped_files_come_back_from_data_nodes_alone_with_one_of_them_gone() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "6"]);
    cluster.run(POOL);
    let contents = [bytes(1, 700_000), bytes(2, 5 << 20), bytes(4, 40)];
    let mut files = Vec::new();
    for (i, content) in contents.iter().enumerate() {
        let path = cluster.write(&format!("in-{i}"), content);
        files.push((cluster.put(&path, &["--scheme", "rs:4+2", "--chunk-size", "64K"]), content));
    }
    let kept = |i: usize| cluster.folder().join(format!("nodes/data-{i}/disk-1/map"));
    wait_until("data nodes keep the map", Duration::from_secs(20), || (1..=6).all(|i| kept(i).exists()));
    all_stable(&cluster);
    for node in cluster.nodes() {
        cluster.devnet("kill", &node, &[]);
    }
    let metadata = cluster.folder().join("nodes/metadata-1");
    std::fs::remove_dir_all(metadata.join("data")).unwrap();
    for i in 2..=6 {
        cluster.devnet("start", &format!("data-{i}"), &[]);
    }
    let snapshot = cluster.path("rebuilt.snap");
    let seed = format!("data-2={}", cluster.address("data-2"));
    let rebuilt = cluster.json(&["meta", "rebuild", &snapshot, "--data", &seed, "--without-silent"]);
    assert_eq!(rebuilt["files_by_manifest"], 3, "{rebuilt}");
    assert_eq!(rebuilt["incomplete"].as_array().unwrap().len(), 0, "{rebuilt}");
    let config = metadata.join("metadata-node.toml").display().to_string();
    let restored = wmall(&["--config", &config, "meta", "snapshot", "restore", &snapshot]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    cluster.devnet("start", "metadata-1", &[]);
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
    }
    // What only the silent node had is made anew by it, though nobody knows what it hashes to.
    cluster.wipe("data-1");
    all_stable(&cluster);
    for (cid, _) in &files {
        let deep = cluster.json(&["verify", cid, "--deep"]);
        assert_eq!(
            (&deep["pieces_bad"], &deep["pieces_absent"], &deep["unreadable"]),
            (&0.into(), &0.into(), &0.into()),
            "{deep}"
        );
    }
}
