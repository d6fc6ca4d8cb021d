//! Faults around a disk that are none of the disk: a folder whose file system is not mounted, a format that
//! was cut short, and a process that others would run out of files.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use wmall_tests::status::all_stable;
use wmall_tests::{Cluster, bytes, wmall, wmall_fails};

const LONG: Duration = Duration::from_secs(60);

/// Where a node answers for operations.
fn ops_of(cluster: &Cluster, node: &str) -> String {
    let net = cluster.folder().display().to_string();
    let output = wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
    let nodes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = nodes.as_array().unwrap().iter().find(|n| n["name"] == node).unwrap();
    found["ops"].as_str().unwrap().to_string()
}

#[test]
fn idle_connections_and_missing_mounts_fail_no_disk() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let content = bytes(7, 300_000);
    let file = cluster.write("file", &content);
    let cid = cluster.put(&file, &["--ack", "all"]);

    // More connections than the port takes, all idle: it answers on, and nothing else is touched.
    let ops = ops_of(&cluster, "data-1");
    let idle: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(&ops).ok()).collect();
    assert!(idle.len() > 64, "{} connections", idle.len());
    assert!(cluster.metric("data-1", "wmall_open_files_limit") >= 1024);
    assert_eq!(cluster.metric("data-1", "wmall_writable_disks"), 1);
    cluster.put_files(1..3, 10_000, &[]);
    drop(idle);

    // The disk's file system is not mounted: its mount point is an empty folder.
    cluster.devnet("stop", "data-1", &[]);
    let config = cluster.node_config("data-1").display().to_string();
    let (disk, aside) = (cluster.disk("data-1"), cluster.disk("data-1").with_extension("aside"));
    fs::rename(&disk, &aside).unwrap();
    fs::create_dir(&disk).unwrap();
    for verb in ["run", "init"] {
        let failed = wmall_fails(&["--config", &config, "data-node", verb]);
        assert!(failed.stderr.contains("is its file system mounted?"), "{verb}: {}", failed.stderr);
        assert_eq!(fs::read_dir(&disk).unwrap().count(), 0, "{verb} leaves the folder alone");
    }
    // A format for good, cut short on its first try.
    fs::write(disk.join("disk.json.new"), "{").unwrap();
    let made = wmall(&["--config", &config, "data-node", "init", "--replace", "disk-1"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(disk.join("disk.json").exists() && !disk.join("disk.json.new").exists());
    // It was the mount after all: the disk is back as it was.
    fs::remove_dir_all(&disk).unwrap();
    fs::rename(&aside, &disk).unwrap();
    cluster.devnet("start", "data-1", &[]);
    cluster.wait_status("all is well again", LONG, all_stable);
    cluster.assert_content(&cid, &content);
}
