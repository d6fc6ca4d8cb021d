//! Rot that nobody reads: a scrub finds all of it, and all of it is made good.

use std::collections::BTreeSet;
use std::time::Duration;

use wmall_tests::{Cluster, bytes, wait_until};

const LONG: Duration = Duration::from_secs(90);

/// Flips a byte of every hundredth piece of a stopped node's disk, at least of one. Returns how many. Records begin with
/// `WREC`; kind 1 is a piece.
fn rot(cluster: &Cluster, node: &str) -> usize {
    let folder = cluster.folder().join("nodes").join(node).join("disk-1/segments");
    let mut pieces = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let content = std::fs::read(&path).unwrap();
        for at in (64..content.len().saturating_sub(200)).step_by(8) {
            if &content[at..at + 4] == b"WREC" && content[at + 5] == 1 {
                let meta = u16::from_le_bytes([content[at + 6], content[at + 7]]) as usize;
                let payload = u32::from_le_bytes(content[at + 8..at + 12].try_into().unwrap()) as usize;
                pieces.push((path.clone(), at + 32 + meta + 4 + payload / 2));
            }
        }
    }
    let chosen: BTreeSet<usize> = (0..pieces.len()).step_by(100).collect();
    for &i in &chosen {
        let (path, at) = &pieces[i];
        let mut content = std::fs::read(path).unwrap();
        content[*at] ^= 0x10;
        std::fs::write(path, content).unwrap();
    }
    chosen.len()
}

#[test]
fn one_piece_in_a_hundred_rots_and_all_of_them_are_found_and_healed() {
    let options = ["--metadata", "1", "--data", "4", "--scrub-pass", "6s"];
    let cluster = Cluster::up_with(&options);
    let files: Vec<(String, Vec<u8>)> = (1..=8)
        .map(|seed| {
            let content = bytes(seed, 3 << 20);
            let path = cluster.write("in", &content);
            (cluster.put(&path, &["--ack", "all", "--chunk-size", "64K"]), content)
        })
        .collect();
    let metric = |node: &str, name: &str| -> u64 { cluster.metric(node, name) };
    let nodes: Vec<String> = (1..=4).map(|i| format!("data-{i}")).collect();
    let passes = |least: u64| nodes.iter().all(|n| metric(n, "wmall_scrub_passes_total") >= least);
    wait_until("everything has been scrubbed once", LONG, || passes(1));
    assert!(nodes.iter().all(|n| metric(n, "wmall_scrub_bad_pieces_total") == 0), "nothing is wrong yet");
    // While a node is off; its start must not find it, for its index is trusted.
    let mut rotten = 0;
    for node in &nodes[..2] {
        cluster.devnet("stop", node, &[]);
        rotten += rot(&cluster, node);
        cluster.devnet("start", node, &[]);
    }
    assert!(rotten >= 4, "{rotten}");
    let found = || nodes.iter().map(|n| metric(n, "wmall_scrub_bad_pieces_total")).sum::<u64>();
    wait_until("all of it is found", LONG, || found() >= rotten as u64);
    wait_until("all of it is healed", LONG, || {
        files.iter().all(|(cid, _)| {
            let deep = cluster.json_any(&["verify", cid, "--deep"]);
            deep["pieces_bad"] == 0 && deep["pieces_absent"] == 0 && deep["unreadable"] == 0
        })
    });
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
    }
}
