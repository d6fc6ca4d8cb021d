//! Rot that nobody reads: a scrub finds all of it, and all of it is made good.

use std::time::Duration;

use wmall_tests::{Cluster, segments, wait_until};

const LONG: Duration = Duration::from_secs(90);

/// Every hundredth piece of a stopped node's disk rots, at least one. Returns how many.
fn rot(cluster: &Cluster, node: &str) -> usize {
    let held = segments::pieces(&cluster.disk(node));
    held.values().step_by(100).map(segments::Piece::rot).count()
}

#[test]
fn one_copy_in_a_hundred_rots_and_all_of_them_are_found_and_healed() {
    rot_is_found_and_healed(4, "3x");
}

#[test]
fn one_shard_in_a_hundred_rots_and_all_of_them_are_found_and_healed() {
    rot_is_found_and_healed(7, "rs:4+2");
}

fn rot_is_found_and_healed(data: usize, scheme: &str) {
    let number = data.to_string();
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", &number, "--scrub-pass", "6s"]);
    cluster.run(&["pool", "create", "p", "--scheme", scheme, "--pgs", "64"]);
    let files = cluster.put_files(1..9, 3 << 20, &["--pool", "p", "--chunk-size", "64K"]);
    let metric = |node: &str, name: &str| -> u64 { cluster.metric(node, name) };
    let nodes: Vec<String> = (1..=data).map(|i| format!("data-{i}")).collect();
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
            ["pieces_bad", "pieces_unasked", "pieces_absent", "unreadable"].iter().all(|n| deep[n] == 0)
        })
    });
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
    }
}

/// A pass that is cut off goes on where it was: what was read before a restart is not read again.
#[test]
fn a_scrub_goes_on_after_a_restart() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3", "--scrub-pass", "1h"]);
    cluster.put_files(1..5, 4 << 20, &["--chunk-size", "64K"]);
    let all = segments::pieces(&cluster.disk("data-1")).len() as u64;
    assert!(all > 250, "{all}");
    // Fast enough to see a middle, slow enough not to be through before that.
    cluster.reconfigure("data-1", |config| {
        config.insert("scrub_pass_ms".into(), 20_000.into());
    });
    let read = || cluster.metric("data-1", "wmall_scrubbed_pieces_total");
    wait_until("it is in the middle", LONG, || read() > all / 4);
    let first = read();
    assert!(first < all * 3 / 4, "{first} of {all} were read before anybody looked");
    cluster.devnet("stop", "data-1", &[]);
    cluster.devnet("start", "data-1", &[]);
    let passes = || cluster.metric("data-1", "wmall_scrub_passes_total");
    wait_until("the pass ends", LONG, || passes() == 1);
    let second = read();
    // A few were read between the look and the stop.
    let both = first + second;
    assert!(both <= all + 1 && both >= all - all / 3, "{first} and {second} of {all}");
}
