//! Every metadata node and every backup is lost; the data nodes are there. Every committed file comes back.

use std::path::PathBuf;
use std::time::Duration;

use wmall_proto::rpc::{Request, Response};
use wmall_proto::{NodeName, Role};
use wmall_tests::{Cluster, bytes, restore_member, wait_until};
use wmall_transport::{Endpoint, Identity, Target};

/// Whether a data node's only disk has nothing but pieces that it knows to be committed.
fn knows_of_all_commits(cluster: &Cluster, node: &str) -> bool {
    let identity = Identity::load(&cluster.folder().join("identities/admin")).unwrap();
    let address = cluster.address(node).parse().unwrap();
    let target = Target { role: Role::Data, node: NodeName::new(node).unwrap(), address };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::client(&identity).unwrap();
        let mut after = None;
        loop {
            let list = Request::ListPieces { disk: 0, after };
            let answer = endpoint.call(&target, &list, Duration::from_secs(5)).await;
            let Ok(Response::Pieces(page)) = answer else {
                panic!("{node} does not list its pieces: {answer:?}")
            };
            if page.pieces.iter().any(|piece| !piece.committed) {
                return false;
            }
            after = page.next;
            if after.is_none() {
                return true;
            }
        }
    })
}

#[test]
fn every_committed_file_comes_back_from_data_nodes_alone() {
    let cluster = Cluster::up_with(&["--metadata", "3", "--data", "4"]);
    cluster.run(&["bucket", "create", "b"]);
    const M: usize = 1 << 20;
    let log = bytes(5, 9 * M);
    let contents: Vec<(Vec<u8>, &[&str])> = vec![
        (Vec::new(), &[]),
        (bytes(1, 1000), &[]),
        (bytes(2, 300_000), &["--chunk-size", "64K"]),
        (bytes(3, 70_000), &["b/named"]),
        (bytes(4, 60_000), &["--chunk-size", "1M"]),
        // The first chunk of the longer one is a file of its own; nothing but its id says so.
        (log[..4 * M].to_vec(), &[]),
        (log.clone(), &[]),
        // More chunks than one commit takes, so that its manifest has several blocks.
        (bytes(6, 4100 * (64 << 10) + 77), &["--chunk-size", "64K"]),
    ];
    let mut files = Vec::new();
    for (i, (content, options)) in contents.iter().enumerate() {
        let path = cluster.write(&format!("in-{i}"), content);
        files.push((cluster.put(&path, options), content));
    }
    // What was removed for good is no committed file; its chunks may still be there, and do no harm.
    cluster.run(&["put", &cluster.write("gone", &bytes(7, 50_000)), "b/gone"]);
    cluster.run(&["rm", "b/gone", "--purge"]);
    let kept = |node: &str| cluster.folder().join("nodes").join(node).join("disk-1/map");
    wait_until("data nodes keep the map", Duration::from_secs(20), || {
        (1..=4).all(|i| kept(&format!("data-{i}")).exists())
    });
    wait_until("data nodes know of the commits", Duration::from_secs(20), || {
        (1..=4).all(|i| knows_of_all_commits(&cluster, &format!("data-{i}")))
    });
    // A kill would take what their indices have not written out yet, and with it their knowledge of the last
    // commits.
    for node in cluster.nodes() {
        let verb = if node.starts_with("data") { "stop" } else { "kill" };
        cluster.devnet(verb, &node, &[]);
    }
    let metadata: Vec<String> = (1..=3).map(|i| format!("metadata-{i}")).collect();
    let folder = |node: &str| -> PathBuf { cluster.folder().join("nodes").join(node) };
    for node in &metadata {
        std::fs::remove_dir_all(folder(node).join("data")).unwrap();
    }
    // One data node does not come back in time. Three copies stand that.
    for i in 1..=3 {
        cluster.devnet("start", &format!("data-{i}"), &[]);
    }
    let file = cluster.path("rebuilt.snap");
    cluster.fails(&["meta", "rebuild", &file, "--data", "data-9=127.0.0.1:1"]).expect(1, "local");
    let seed = format!("data-2={}", cluster.address("data-2"));
    let refused = cluster.fails(&["meta", "rebuild", &file, "--data", &seed]);
    assert!(refused.stderr.contains("data-4") && !std::path::Path::new(&file).exists(), "{}", refused.stderr);
    let rebuilt = cluster.json(&["meta", "rebuild", &file, "--data", &seed, "--without-silent"]);
    let listed = std::fs::read_to_string(cluster.path("rebuilt.files")).unwrap();
    assert_eq!(rebuilt["nodes"].as_array().unwrap().len(), 3, "{rebuilt}");
    assert_eq!(rebuilt["silent"][0], "data-4");
    assert!(rebuilt["map_of"].as_array().unwrap().len() >= 2, "two nodes have the same map: {rebuilt}");
    assert_eq!(rebuilt["incomplete"].as_array().unwrap().len(), 0, "{rebuilt}");
    assert_eq!(rebuilt["files_by_manifest"], 5, "{rebuilt}");
    assert_eq!(rebuilt["chunks_without_piece"], 0, "{rebuilt}");
    // Every piece was known to be committed, also by a node whose index was closed in an instant.
    assert_eq!(rebuilt["uncertain"], 0, "{rebuilt}");
    let mut life = None;
    for node in &metadata {
        let config = folder(node).join("metadata-node.toml").display().to_string();
        life = restore_member(&config, &file, life.as_deref());
    }
    for node in &metadata {
        cluster.devnet("start", node, &[]);
    }
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
    }
    cluster.devnet("start", "data-4", &[]);
    cluster.wait_status("everything is stable again", Duration::from_secs(60), |status| {
        let chunks = &status["chunks"];
        let bad = ["warning", "danger", "unavailable", "lost"];
        status["nodes"].as_array().unwrap().iter().all(|n| n["state"] == "up")
            && bad.iter().all(|grade| chunks[grade] == 0)
    });
    for (cid, _) in &files {
        let report = cluster.json(&["verify", cid, "--deep"]);
        assert_eq!((&report["pieces_bad"], &report["unreadable"]), (&0.into(), &0.into()), "{report}");
    }
    // A file that goes takes its chunks along; what is a file of its own stays.
    assert!(listed.contains(&files[1].0) && listed.contains(&files[6].0), "{listed}");
    cluster.run(&["rm", &files[7].0, "--purge"]);
    cluster.fails(&["get", &files[7].0, "-O", "-"]).expect(1, "not_found");
    cluster.assert_content(&files[1].0, files[1].1);
    // And it is a cluster like any other.
    cluster.run(&["meta", "allow-deletion"]);
    cluster.run(&["bucket", "create", "b"]);
    cluster.put(&cluster.write("new", &bytes(8, 10 * M)), &["b/new", "--ack", "all"]);
    cluster.assert_content("b/new", &bytes(8, 10 * M));
    let saved = cluster.path("after.snap");
    cluster.run(&["meta", "snapshot", "save", &saved]);
    let summary = cluster.json(&["meta", "snapshot", "verify", &saved]);
    assert_eq!(summary["troubles"].as_array().unwrap().len(), 0, "{summary}");
}
