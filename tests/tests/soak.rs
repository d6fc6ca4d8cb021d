//! The long versions. `make soak ROUNDS=n` runs them; docs/soak.md keeps the last figures.

use std::time::{Duration, Instant};

use wmall_tests::{Cluster, bytes};

fn rounds() -> u64 {
    std::env::var("WMALL_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20)
}

#[test]
#[ignore = "long; `make soak` runs it"]
fn all_processes_killed_again_and_again_under_load() {
    let cluster = Cluster::up();
    cluster.run(&["bucket", "create", "b"]);
    let (started, mut stored, mut cut) = (Instant::now(), Vec::new(), 0);
    for round in 0..rounds() {
        let mut puts = Vec::new();
        for i in 0..8u64 {
            let content = bytes(round * 1000 + i, 100_000 + (i as usize * 1_500_000));
            let file = cluster.write(&format!("in-{i}"), &content);
            puts.push((
                cluster.spawn(&["--timeout", "5s", "put", &file, &format!("b/{round}-{i}")]),
                content,
            ));
        }
        // A different moment each round.
        std::thread::sleep(Duration::from_millis(round * 37 % 900));
        for node in cluster.nodes() {
            cluster.devnet("kill", &node, &[]);
        }
        for (put, content) in puts {
            let output = put.wait_with_output().unwrap();
            if output.status.success() {
                stored.push((String::from_utf8(output.stdout).unwrap().trim().to_string(), content));
            } else {
                cut += 1;
            }
        }
        for node in cluster.nodes() {
            cluster.devnet("start", &node, &[]);
        }
        cluster.wait_status("all nodes up", Duration::from_secs(60), |s| {
            s["nodes"].as_array().unwrap().iter().all(|n| n["state"] == "up" && n["silent_ms"].is_number())
        });
        for (cid, content) in stored.iter().rev().take(16) {
            cluster.assert_content(cid, content);
        }
    }
    for (cid, content) in &stored {
        cluster.assert_content(cid, content);
    }
    println!(
        "{} rounds, {} files acknowledged, {cut} puts cut off, 0 lost, {:.0} s",
        rounds(),
        stored.len(),
        started.elapsed().as_secs_f64()
    );
}
