//! Promises that are broken while every process that is left is well: health says so, and stops saying so
//! when they hold again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use wmall_tests::status::{all_stable, node};
use wmall_tests::{Cluster, wait_until};

const LONG: Duration = Duration::from_secs(60);
const MEMBERS: [&str; 3] = ["metadata-1", "metadata-2", "metadata-3"];

/// The words that health has for a code.
fn finding(cluster: &Cluster, code: &str) -> Option<String> {
    let findings = cluster.json_any(&["health"]);
    let found = findings.as_array()?.iter().find(|f| f["code"] == code)?;
    Some(found["what"].as_str()?.to_string())
}

fn comes(cluster: &Cluster, code: &str, named: &str) {
    wait_until(&format!("{code} names {named}"), LONG, || {
        finding(cluster, code).is_some_and(|what| what.contains(named))
    });
}

fn goes(cluster: &Cluster, code: &str) {
    // Without a leader nobody says anything.
    wait_until(&format!("{code} goes"), LONG, || {
        cluster.json_any(&["health"]).is_array() && finding(cluster, code).is_none()
    });
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn change(cluster: &Cluster, node: &str, how: impl FnOnce(&mut toml::Table)) {
    let path = cluster.node_config(node);
    let mut config: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    how(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

/// An address that nobody listens at.
fn nobody() -> String {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn is_healthy(cluster: &Cluster) -> bool {
    cluster.json_any(&["health"]) == Value::Array(vec![])
}

#[test]
fn broken_promises_are_named_until_they_hold_again() {
    let cluster = Cluster::up_with(&["--metadata", "3", "--data", "4"]);
    let backups = cluster.path("backups");
    let mut files = cluster.put_files(1..3, 1 << 20, &["--chunk-size", "64K"]);
    wait_until("it is healthy", LONG, || is_healthy(&cluster));
    // The disk of data-3 is put back to what it is now, except for its count of starts.
    let (disk, before) = (cluster.disk("data-3"), PathBuf::from(cluster.path("before")));
    cluster.devnet("stop", "data-3", &[]);
    copy(&disk, &before);
    cluster.devnet("start", "data-3", &[]);
    let all_up = |s: &Value| (1..=4).all(|i| node(s, &format!("data-{i}"))["state"] == "up");
    cluster.wait_status("all of them answer", LONG, |s| all_up(s) && all_stable(s));
    files.extend(cluster.put_files(3..7, 1 << 20, &["--chunk-size", "64K"]));
    cluster.devnet("stop", "data-3", &[]);
    fs::copy(disk.join("starts"), before.join("starts")).unwrap();
    fs::remove_dir_all(&disk).unwrap();
    copy(&before, &disk);
    // No leader remembers how far its journal went, nor what was committed of late.
    MEMBERS.iter().for_each(|member| cluster.devnet("stop", member, &[]));
    for member in MEMBERS {
        change(&cluster, member, |config| {
            config.insert("reach_ms".into(), 500.into());
            let mut backup = toml::Table::new();
            backup.insert("dir".into(), backups.as_str().into());
            backup.insert("every_s".into(), 1.into());
            config.insert("backup".into(), backup.into());
        });
    }
    MEMBERS.iter().for_each(|member| cluster.devnet("start", member, &[]));
    cluster.devnet("start", "data-3", &[]);
    // Whoever comes first, a reader or the comparison after the start: what is gone is missed, and made anew.
    files.iter().for_each(|(cid, _)| drop(cluster.json_any(&["verify", cid, "--deep"])));
    wait_until("what is gone is missed", LONG, || cluster.run(&["events"]).contains("pieces_bad"));
    cluster.wait_status("and made anew", LONG, all_stable);
    // From now on data-1 says that it is where nobody is. It is silent first, or it were a second process.
    let silent = |s: &Value| node(s, "data-1")["state"] != "up";
    let nowhere = nobody();
    cluster.devnet("stop", "data-1", &[]);
    cluster.wait_status("it is silent", LONG, silent);
    change(&cluster, "data-1", |config| drop(config.insert("advertise".into(), nowhere.as_str().into())));
    cluster.devnet("start", "data-1", &[]);
    // It was heard all the time, and nobody could call it.
    comes(&cluster, "NODE_UNREACHABLE", &format!("data-1 at {nowhere}"));
    assert_eq!(node(&cluster.json(&["status"]), "data-1")["state"], "up");
    let metric = "wmall_finding{code=\"NODE_UNREACHABLE\"}";
    assert_eq!(cluster.metric(&cluster.leader(), metric), 1);
    cluster.devnet("stop", "data-1", &[]);
    cluster.wait_status("it is silent", LONG, silent);
    change(&cluster, "data-1", |config| drop(config.remove("advertise")));
    cluster.devnet("start", "data-1", &[]);
    goes(&cluster, "NODE_UNREACHABLE");
    // The folder of the backups is gone, and something else is in its place.
    let holds_some = || fs::read_dir(&backups).is_ok_and(|mut files| files.next().is_some());
    wait_until("backups are written", LONG, holds_some);
    wait_until("a file is in the place of the folder", LONG, || {
        // A member may make it anew in between.
        let _ = fs::remove_dir_all(&backups);
        fs::write(&backups, "no folder").is_ok()
    });
    comes(&cluster, "BACKUP_FAILED", "metadata-2");
    comes(&cluster, "BACKUP_OLD", "metadata-3");
    fs::remove_file(&backups).unwrap();
    goes(&cluster, "BACKUP_FAILED");
    // One of three metadata nodes is down for good: all goes on, and health says so.
    let leader = cluster.leader();
    let follower = MEMBERS.into_iter().find(|member| *member != leader).unwrap();
    cluster.devnet("kill", follower, &[]);
    comes(&cluster, "MEMBERS_SILENT", follower);
    cluster.devnet("start", follower, &[]);
    goes(&cluster, "MEMBERS_SILENT");
    wait_until("it is healthy again", LONG, || is_healthy(&cluster));
    cluster.assert_deep(&files);
}
