//! Real file systems that lose power or run out of room beneath: what was acknowledged is there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wmall_journal::{Journal, Options, RealDisk, Record};
use wmall_tests::power::{LoopDisk, is_root};
use wmall_tests::{Cluster, bytes, wait_until};

fn options() -> Options {
    Options {
        identity: [3; 16],
        nonce: |number| [number as u8; 16],
        segment_bytes: 1 << 20,
        max_bytes: 64 << 20,
        reserve_bytes: 1 << 20,
        queue_bytes: 4 << 20,
        replay_from: None,
        name: "power".into(),
    }
}

/// Opens the journal and reads every record whole.
fn open(disk: &LoopDisk) -> (Journal, BTreeSet<u64>) {
    let mut found = Vec::new();
    let folder = Arc::new(RealDisk::open(disk.path().join("journal")).unwrap());
    let journal = Journal::open(folder, options(), |record| {
        let number = u64::from_le_bytes(record.meta.try_into().map_err(|_| "no number")?);
        found.push((number, record.position.segment, record.payload_offset, record.payload_length));
        Ok(())
    })
    .unwrap();
    for &(number, segment, offset, length) in &found {
        let bytes = journal.read_vec(segment, offset, length as usize).unwrap();
        assert!(bytes.iter().all(|&b| b == number as u8), "record {number} came back changed");
    }
    (journal, found.into_iter().map(|f| f.0).collect())
}

/// Appends until the power fails, and notes what was acknowledged.
fn write_until_it_fails(journal: &Journal, first: u64, disk: &LoopDisk, after: Duration) -> BTreeSet<u64> {
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let cut_at = Instant::now() + after;
    let mut number = first;
    let mut cut = false;
    while journal.fenced().is_none() {
        if !cut && Instant::now() >= cut_at {
            disk.cut();
            cut = true;
        }
        // Now and then one that goes past the page cache.
        let length = (number as usize * 7919) % 30_000 + if number.is_multiple_of(12) { 300_000 } else { 0 };
        let payload = vec![vec![number as u8; length].into()];
        let record = Record {
            kind: 1,
            meta: number.to_le_bytes().to_vec(),
            payload,
            cold: number.is_multiple_of(3),
            ..Record::default()
        };
        let noted = acknowledged.clone();
        let n = number;
        journal.append(vec![record], move |outcome| {
            if outcome.is_ok() {
                noted.lock().unwrap().insert(n);
            }
        });
        number += 1;
        // Some in company, some alone.
        if number.is_multiple_of(5) {
            let _ = journal.append_and_wait(Vec::new());
        }
        // Old ones go, from the front and from the middle.
        let segments = journal.segments();
        if segments.len() > 12 {
            let _ = journal.retire(segments[number as usize % 4]);
        }
    }
    let acknowledged = acknowledged.lock().unwrap();
    acknowledged.clone()
}

#[test]
fn fifty_power_cuts_take_nothing_that_was_acknowledged() {
    if !is_root() {
        return;
    }
    let disk = LoopDisk::new(128);
    let cuts = std::env::var("WMALL_CUTS").ok().and_then(|c| c.parse().ok()).unwrap_or(50u64);
    let (mut first, mut total) = (0, 0);
    for cut in 0..cuts {
        let (journal, before) = open(&disk);
        // Higher than every number that was ever used.
        first = before.last().map_or(first, |n| n + 1).max(first) + 1_000;
        let written = write_until_it_fails(&journal, first, &disk, Duration::from_millis(cut * 13 % 70));
        let kept: BTreeSet<u64> = journal.segments().into_iter().collect();
        drop(journal);
        disk.restore();
        let (journal, after) = open(&disk);
        let there: BTreeSet<u64> = journal.segments().into_iter().collect();
        assert!(kept.is_subset(&there), "cut {cut}: segments are missing");
        // What was retired is gone on purpose; what is in this round's last segments is not.
        let newest = written.iter().rev().take(20);
        for n in newest {
            assert!(after.contains(n), "cut {cut}: record {n} was acknowledged and is lost");
        }
        total += written.len();
    }
    assert!(total > 100, "{total} records in {cuts} cuts");
}

/// All nodes of a cluster lie on one file system, and it loses its power under a load of puts: what was
/// acknowledged is there, by the metadata and by the data nodes.
#[test]
fn a_cluster_that_loses_its_power_has_all_that_it_acknowledged() {
    if !is_root() {
        return;
    }
    let cluster = Cluster::up_with(&["--data", "3", "--disk-bytes", "256M"]);
    let nodes = cluster.nodes();
    nodes.iter().for_each(|node| cluster.devnet("stop", node, &[]));
    let disk = LoopDisk::new(1800);
    let (there, here) = (cluster.folder().join("nodes"), disk.path().join("nodes"));
    assert!(std::process::Command::new("cp").arg("-a").args([&there, &here]).status().unwrap().success());
    assert!(std::process::Command::new("sync").status().unwrap().success());
    std::fs::remove_dir_all(&there).unwrap();
    std::os::unix::fs::symlink(&here, &there).unwrap();
    nodes.iter().for_each(|node| cluster.devnet("start", node, &[]));
    cluster.run(&["bucket", "create", "b"]);
    let cuts = std::env::var("WMALL_CUTS").ok().and_then(|c| c.parse().ok()).map_or(4, |c: u64| c / 100);
    let mut stored = Vec::new();
    for cut in 0..cuts {
        let putting: Vec<_> = (0..4u64)
            .map(|i| {
                let content = bytes(cut * 10 + i, 200_000 + i as usize * 700_000);
                let file = cluster.write(&format!("in-{i}"), &content);
                let name = format!("b/{cut}-{i}");
                let child = cluster.spawn(&["--timeout", "2s", "put", &file, &name, "--chunk-size", "256K"]);
                (name, content, child)
            })
            .collect();
        std::thread::sleep(Duration::from_millis(60 + cut * 197 % 700));
        disk.cut();
        nodes.iter().for_each(|node| cluster.devnet("kill", node, &[]));
        for (name, content, mut child) in putting {
            match child.try_wait().unwrap() {
                Some(status) if status.success() => stored.push((name, content)),
                // Nobody answers any more; it would try for a while.
                None => child.kill().and_then(|()| child.wait()).map(drop).unwrap(),
                Some(_) => {}
            }
        }
        disk.restore();
        nodes.iter().for_each(|node| cluster.devnet("start", node, &[]));
        // And one that nothing happens to.
        let (name, content) = (format!("b/quiet-{cut}"), bytes(cut * 10 + 9, 300_000));
        let file = cluster.write("quiet", &content);
        cluster.run(&["--timeout", "40s", "put", &file, &name, "--chunk-size", "256K"]);
        stored.push((name, content));
        for (name, content) in &stored {
            cluster.assert_content(name, content);
        }
    }
    cluster.wait_status("all is stable", Duration::from_secs(60), |s| {
        s["tickets"] == 0 && s["chunks"]["warning"] == 0 && s["chunks"]["danger"] == 0
    });
    for (name, _) in &stored {
        cluster.run(&["verify", name, "--deep"]);
    }
    nodes.iter().for_each(|node| cluster.devnet("kill", node, &[]));
}

/// A disk whose file system has less room than was configured: it refuses and does not fail, what it has can
/// be read, and deleting makes room.
#[test]
fn a_full_file_system_refuses_reads_on_and_recovers_by_deleting() {
    if !is_root() {
        return;
    }
    let options = ["--metadata", "1", "--data", "3", "--disk-bytes", "1G", "--condemned-grace", "1s"];
    let cluster = Cluster::up_with(&[&options[..], &["--upload-grace", "2s"]].concat());
    let disk = LoopDisk::new(300);
    cluster.add_disk("data-1", "disk-2", &disk.path().join("disk-2"), 1 << 30);
    cluster.run(&["pool", "create", "two", "--scheme", "3x", "--pgs", "64"]);
    cluster.run(&["bucket", "create", "b", "--pool", "two", "--undelete", "0s"]);
    let second = |s: &serde_json::Value| s["nodes"][0]["disks"][1].clone();
    let (mut stored, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(120));
    while second(&cluster.json(&["status"]))["writable"] == true {
        assert!(Instant::now() < deadline, "the disk does not fill");
        let (name, content) = (format!("b/{}", stored.len()), bytes(stored.len() as u64, 12 << 20));
        let file = cluster.write("in", &content);
        cluster.put(&file, &[&name, "--chunk-size", "1M"]);
        stored.push((name, content));
    }
    let full = second(&cluster.json(&["status"]));
    assert_eq!(full["failed"], false, "a full disk is no failed one: {full}");
    assert!(full["pieces"].as_u64() > Some(20), "{full}");
    for (name, content) in &stored {
        cluster.assert_content(name, content);
    }
    let kept = stored.split_off(stored.len() * 3 / 4);
    for (name, _) in &stored {
        cluster.run(&["rm", name, "--purge"]);
    }
    cluster.wait_status("there is room again, and all is in its place", Duration::from_secs(150), |s| {
        let disk = second(s);
        disk["writable"] == true
            && disk["failed"] == false
            && s["tickets"] == 0
            && s["chunks"]["warning"] == 0
    });
    for (name, _) in &kept {
        cluster.run(&["verify", name, "--deep"]);
    }
    cluster.devnet("kill", "data-1", &[]);
}

/// A disk of two fails to write back what it took: it takes nothing more, the node and the cluster go on, and
/// once it has room and has been looked through it counts again.
#[test]
fn an_fsync_error_fences_one_disk_and_it_counts_again_after_a_restart() {
    if !is_root() {
        return;
    }
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3", "--disk-bytes", "512M"]);
    let disk = LoopDisk::on_thin_ice(600, 140);
    cluster.add_disk("data-1", "disk-2", &disk.path().join("disk-2"), 256 << 20);
    cluster.run(&["pool", "create", "two", "--scheme", "3x", "--pgs", "64"]);
    // Until the ice breaks.
    let mut stored = Vec::new();
    let failed = |status: &serde_json::Value| status["nodes"][0]["disks"][1]["failed"] == true;
    let deadline = Instant::now() + Duration::from_secs(120);
    while !failed(&cluster.json(&["status"])) {
        assert!(Instant::now() < deadline, "the disk does not fail");
        let content = bytes(stored.len() as u64, 12 << 20);
        let file = cluster.write("in", &content);
        stored.push((cluster.put(&file, &["--pool", "two", "--chunk-size", "1M"]), content));
    }
    let status = cluster.json(&["status"]);
    assert!(status["summary"].as_str().unwrap().contains("data-1/disk-2"), "{}", status["summary"]);
    cluster.wait_status("it will have to be looked through", Duration::from_secs(20), |s| {
        s["nodes"][0]["disks"][1]["dirty_groups"].as_u64() > Some(0)
    });
    assert!(status["chunks"]["warning"].as_u64().unwrap() > 0, "its pieces do not count: {status}");
    // The cluster goes on, with that node's other disk too.
    let content = bytes(999, 12 << 20);
    let file = cluster.write("in", &content);
    stored.push((cluster.put(&file, &["--pool", "two", "--chunk-size", "1M"]), content));
    cluster.wait_status("tickets", Duration::from_secs(30), |s| s["tickets"].as_u64() > Some(0));
    for (cid, content) in &stored {
        cluster.assert_content(cid, content);
    }
    cluster.devnet("kill", "data-1", &[]);
    disk.thicken(700);
    wait_until("the file system can be mounted again", Duration::from_secs(20), || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| disk.restore())).is_ok()
    });
    cluster.devnet("start", "data-1", &[]);
    cluster.wait_status("it counts again", Duration::from_secs(90), |s| {
        let disk = &s["nodes"][0]["disks"][1];
        s["tickets"] == 0
            && s["chunks"]["warning"] == 0
            && disk["failed"] == false
            && disk["dirty_groups"] == 0
    });
    for (cid, _) in &stored {
        cluster.run(&["verify", cid, "--deep"]);
    }
}
