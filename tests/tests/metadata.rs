//! The metadata nodes' own lives: saved, restored, wiped, added, removed.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use wmall_tests::{Cluster, bytes, restore_member, wait_until, wmall, wmall_fails};

fn config_of(cluster: &Cluster, node: &str) -> String {
    cluster.folder().join("nodes").join(node).join("metadata-node.toml").display().to_string()
}

fn data_of(cluster: &Cluster, node: &str) -> PathBuf {
    cluster.folder().join("nodes").join(node).join("data")
}

const MEMBERS: [&str; 3] = ["metadata-1", "metadata-2", "metadata-3"];

#[test]
fn metadata_is_saved_checked_and_restored_and_nothing_is_deleted_until_somebody_has_looked() {
    let cluster = Cluster::up_with(&["--data", "3", "--condemned-grace", "1s", "--upload-grace", "2s"]);
    cluster.run(&["bucket", "create", "b"]);
    let (before, after) = (bytes(1, 3_000_000), bytes(2, 2_000_000));
    let file = cluster.write("before", &before);
    let kept = cluster.put(&file, &["b/kept", "--chunk-size", "1M", "--ack", "all"]);
    let snapshot = cluster.path("meta.snap");
    let summary = cluster.json(&["meta", "snapshot", "save", &snapshot]);
    assert_eq!(
        (&summary["files"], &summary["objects"], &summary["chunks"]),
        (&1.into(), &1.into(), &4.into()),
        "three chunks, and one for the manifest"
    );
    let verified: Value =
        serde_json::from_slice(&wmall(&["-o", "json", "meta", "snapshot", "verify", &snapshot]).stdout)
            .unwrap();
    assert_eq!(verified, summary);
    // What comes after the snapshot is lost with the metadata nodes.
    let file = cluster.write("after", &after);
    let lost = cluster.put(&file, &["b/lost", "--chunk-size", "1M", "--ack", "all"]);
    // A flipped byte anywhere is refused, and a good snapshot by another cluster's node; neither changes
    // anything.
    let other = cluster.path("other");
    let names = ["--metadata", "metadata-1=127.0.0.1:1", "--data", "data-1=127.0.0.1:2@z"];
    let made = wmall(&[&["cluster", "init", "--dir", &other], &names[..]].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let foreign = format!("{other}/nodes/metadata-1/metadata-node.toml");
    let refused = wmall_fails(&["--config", &foreign, "meta", "snapshot", "restore", &snapshot]);
    assert!(refused.stderr.contains("another cluster"), "{}", refused.stderr);
    let content = std::fs::read(&snapshot).unwrap();
    for at in [0, 9, 20, content.len() / 2, content.len() - 1] {
        let mut rotten = content.clone();
        rotten[at] ^= 1;
        let path = cluster.write("rotten.snap", &rotten);
        assert_eq!(wmall_fails(&["meta", "snapshot", "verify", &path]).exit, 1, "byte {at}");
    }
    MEMBERS.iter().for_each(|m| cluster.devnet("kill", m, &[]));
    let mut life = None;
    for member in MEMBERS {
        let config = config_of(&cluster, member);
        let refused = wmall_fails(&["--config", &config, "meta", "snapshot", "restore", &snapshot]);
        assert!(refused.stderr.contains("not empty"), "{}", refused.stderr);
        std::fs::remove_dir_all(data_of(&cluster, member)).unwrap();
        let mut foreign = content.clone();
        foreign[12] ^= 1;
        let foreign = cluster.write("foreign.snap", &foreign);
        wmall_fails(&["--config", &config, "meta", "snapshot", "restore", &foreign]);
        life = restore_member(&config, &snapshot, life.as_deref());
        assert!(life.is_some());
    }
    MEMBERS.iter().for_each(|m| cluster.devnet("start", m, &[]));
    cluster.wait_status("all nodes are heard of", Duration::from_secs(60), |s| {
        s["deletion_held"] == true
            && s["nodes"].as_array().unwrap().iter().all(|n| n["silent_ms"].is_number())
    });
    cluster.assert_content("b/kept", &before);
    cluster.run(&["verify", &kept, "--deep"]);
    cluster.fails(&["get", &lost, "-O", "-"]).expect(1, "not_found");
    // The pieces of what was lost are still there, and a put of the same bytes finds them.
    let pieces = |s: &Value| s["nodes"][0]["disks"][0]["pieces"].as_u64().unwrap();
    assert_eq!(pieces(&cluster.json(&["status"])), 4 + 3);
    let again = cluster.write("again", &bytes(3, 1_000_000));
    let new = cluster.put(&again, &["b/new", "--ack", "all"]);
    cluster.run(&["verify", &new, "--deep"]);
    cluster.run(&["rm", "b/new", "--purge"]);
    // The rows of the snapshot are believed only once the data nodes have looked.
    cluster.wait_status("the data nodes have looked", Duration::from_secs(40), |s| {
        s["chunks"]["stable"] != 0 && s["chunks"]["unavailable"] == 0 && s["chunks"]["lost"] == 0
    });
    cluster.run(&["meta", "allow-deletion"]);
    cluster.wait_status("what nobody knows is gone", Duration::from_secs(40), |s| {
        s["deletion_held"] == false && pieces(s) == 4
    });
    cluster.run(&["verify", &kept, "--deep"]);
    let listed = cluster.json(&["meta", "snapshot", "ls"]);
    let listed = listed.as_array().unwrap();
    assert!(listed.iter().all(|s| s["bytes"].as_u64().unwrap() > 0 && s["backup"] == false), "{listed:?}");
    assert_eq!(listed.len(), 3, "each member has the one that it began with");
}

#[test]
fn backups_are_written_by_the_clock_and_old_ones_go() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    cluster.run(&["bucket", "create", "b"]);
    cluster.devnet("stop", "metadata-1", &[]);
    let (config, folder) = (config_of(&cluster, "metadata-1"), cluster.path("backups"));
    let text = std::fs::read_to_string(&config).unwrap();
    let backup = format!("{text}\n[backup]\ndir = \"{folder}\"\nevery_s = 1\nkeep = 2\n");
    std::fs::write(&config, backup).unwrap();
    cluster.devnet("start", "metadata-1", &[]);
    let files = || -> Vec<String> {
        let listed = cluster.json(&["meta", "snapshot", "ls"]);
        let backups = listed.as_array().unwrap().iter().filter(|s| s["backup"] == true);
        backups.map(|s| s["name"].as_str().unwrap().to_string()).collect()
    };
    let mut seen = std::collections::BTreeSet::new();
    wait_until("four backups were written", Duration::from_secs(30), || {
        seen.extend(files());
        seen.len() >= 4
    });
    cluster.devnet("stop", "metadata-1", &[]);
    let files = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path().display().to_string());
    let kept: Vec<String> = files.filter(|p| p.ends_with(".snap")).collect();
    // A stop may come between the newest's arrival and the oldest's end.
    assert!((2..=3).contains(&kept.len()), "{kept:?}");
    let verified = wmall(&["meta", "snapshot", "verify", kept.iter().max().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn a_wiped_metadata_node_comes_back_as_another_and_members_are_added_and_removed() {
    let cluster = Cluster::up_with(&["--data", "3"]);
    let content = bytes(1, 1_000_000);
    let file = cluster.write("in", &content);
    let cid = cluster.put(&file, &[]);
    for round in 0..2 {
        let name = cluster.leader();
        cluster.devnet("kill", &name, &[]);
        cluster.devnet("start", &name, &["--wipe"]);
        let members = cluster.json(&["meta", "member", "ls"]);
        let ids: Vec<u64> = members.as_array().unwrap().iter().map(|m| m["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), 3, "{members}");
        assert!(ids.contains(&(4 + round)), "an id is used once: {members}");
        cluster.assert_content(&cid, &content);
    }
    // The one that came last carries its part: with it and one other, the cluster writes.
    let members = cluster.json(&["meta", "member", "ls"]);
    let of = |id: u64| -> String {
        let member = members.as_array().unwrap().iter().find(|m| m["id"] == id);
        member.unwrap()["name"].as_str().unwrap().to_string()
    };
    let newest = of(5);
    let victim = MEMBERS.into_iter().find(|m| *m != newest).unwrap();
    cluster.devnet("kill", victim, &[]);
    cluster.run(&["bucket", "create", "b"]);
    cluster.devnet("start", victim, &[]);
    cluster.fails(&["meta", "member", "rm", "99"]).expect(1, "not_found");
    let address = members[0]["address"].as_str().unwrap();
    cluster
        .fails(&["meta", "member", "add", &format!("other={address}"), "--id", "9"])
        .expect(1, "already_exists");
    cluster.run(&["meta", "member", "rm", "4"]);
    assert_eq!(cluster.json(&["meta", "member", "ls"]).as_array().unwrap().len(), 2);
    cluster.run(&["bucket", "create", "c"]);
    cluster.assert_content(&cid, &content);
}

/// Runs a command on a metadata node's folder and parses the JSON on its stdout.
fn on_folder(config: &str, args: &[&str]) -> Value {
    let output = wmall(&[&["-o", "json", "--config", config], args].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until this member has all that the cluster has acknowledged.
fn wait_for_all_at(cluster: &Cluster, member: &str) {
    let reached = cluster.json(&["status"])["index"].as_u64().unwrap();
    cluster.wait_status("the member has all there is", Duration::from_secs(30), |s| {
        let members = s["members"].as_array().unwrap();
        members.iter().any(|m| m["name"] == member && m["matched"].as_u64() >= Some(reached))
    });
}

/// Two of three are lost for good. With the third one everything is there again, and two others join it.
#[test]
fn a_majority_that_is_lost_for_good_is_recovered_from_the_member_that_is_left() {
    let cluster = Cluster::up_with(&["--data", "3"]);
    cluster.run(&["bucket", "create", "b"]);
    let mut files = cluster.put_files(1..4, 300_000, &[]);
    let named = bytes(9, 2_500_000);
    let path = cluster.write("named", &named);
    files.push((cluster.put(&path, &["b/named", "--chunk-size", "1M", "--ack", "all"]), named.clone()));
    // One that did not lead: it may have entries of which it never heard that they were agreed on.
    let leader = cluster.leader();
    let survivor = MEMBERS.into_iter().find(|m| *m != leader).unwrap();
    wait_for_all_at(&cluster, survivor);
    let lost: Vec<&str> = MEMBERS.into_iter().filter(|m| *m != survivor).collect();
    lost.iter().for_each(|m| cluster.devnet("kill", m, &[]));
    for member in &lost {
        std::fs::remove_dir_all(data_of(&cluster, member)).unwrap();
        std::fs::create_dir(data_of(&cluster, member)).unwrap();
    }
    // It runs and does not lead: it saves what it has, and nothing else is done to its folder.
    let running = cluster.path("running.snap");
    let local = ["meta", "snapshot", "save", "--local", &running];
    let client = cluster.config();
    wait_until("a member that none leads saves what it has", Duration::from_secs(60), || {
        let from = [&["--config", &client], &local[..], &["--from", survivor]].concat();
        wmall(&from).status.success()
    });
    let config = config_of(&cluster, survivor);
    assert_eq!(on_folder(&config, &["meta", "snapshot", "verify", &running])["files"], 4);
    let recover = ["--config", &config, "meta", "recover", "--from-survivor"];
    wmall_fails(&[&recover[..], &["--yes"]].concat()).expect(5, "unsafe");
    wmall_fails(&[&["--config", &config], &local[..]].concat()).expect(5, "unsafe");
    cluster.devnet("kill", survivor, &[]);
    let stopped = cluster.path("stopped.snap");
    let saved = on_folder(&config, &["meta", "snapshot", "save", "--local", &stopped]);
    assert_eq!((&saved["files"], &saved["objects"]), (&4.into(), &1.into()), "{saved}");
    let told = on_folder(&config, &["meta", "recover", "--from-survivor", "--dry-run"]);
    assert_eq!((told["members"].as_array().unwrap().len(), &told["last"]), (3, &saved["index"]), "{told}");
    let refused = wmall_fails(&recover);
    assert!(refused.expect(5, "unsafe").stderr.contains("Lost for good"), "{}", refused.stderr);
    let recovered = on_folder(&config, &["meta", "recover", "--from-survivor", "--yes"]);
    let kept = PathBuf::from(recovered["kept"].as_str().unwrap());
    assert!(kept.join("born.json").exists(), "the folder of before is kept: {recovered}");
    wmall_fails(&[&recover[..], &["--yes"]].concat()).expect(5, "unsafe");
    cluster.devnet("start", survivor, &[]);
    cluster.wait_status("all data nodes are heard of", Duration::from_secs(60), |s| {
        s["deletion_held"] == true
            && s["nodes"].as_array().unwrap().iter().all(|n| n["silent_ms"].is_number())
    });
    assert_eq!(cluster.json(&["meta", "member", "ls"]).as_array().unwrap().len(), 1);
    files.iter().for_each(|(cid, content)| cluster.assert_content(cid, content));
    cluster.assert_content("b/named", &named);
    files.extend(cluster.put_files(5..6, 300_000, &[]));
    // The lost ones come as others, and carry the cluster without the one that was left.
    for member in &lost {
        cluster.devnet("start", member, &["--wipe"]);
    }
    let members = cluster.json(&["meta", "member", "ls"]);
    let ids: Vec<u64> = members.as_array().unwrap().iter().map(|m| m["id"].as_u64().unwrap()).collect();
    assert_eq!((ids.len(), ids.iter().filter(|id| **id > 3).count()), (3, 2), "{members}");
    cluster.devnet("kill", survivor, &[]);
    cluster.run(&["bucket", "create", "c"]);
    files.extend(cluster.put_files(6..7, 300_000, &[]));
    cluster.devnet("start", survivor, &[]);
    cluster.wait_status("the data nodes have looked", Duration::from_secs(60), |s| {
        s["chunks"]["stable"] != 0 && s["chunks"]["unavailable"] == 0 && s["chunks"]["lost"] == 0
    });
    cluster.run(&["meta", "allow-deletion"]);
    cluster.assert_deep(&files);
}

#[test]
fn a_rotten_raft_log_is_refused_and_says_what_to_do() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    for i in 0..20 {
        cluster.run(&["bucket", "create", &format!("b-{i}")]);
    }
    cluster.devnet("kill", "metadata-1", &[]);
    let log = data_of(&cluster, "metadata-1").join("raft/0000000000.seg");
    let mut content = std::fs::read(&log).unwrap();
    content[200] ^= 1;
    std::fs::write(&log, content).unwrap();
    let failed = wmall_fails(&["--config", &config_of(&cluster, "metadata-1"), "metadata-node", "run"]);
    for part in ["segment 0 is damaged at byte", "wmall meta member rm"] {
        assert!(failed.stderr.contains(part), "{part:?} is not in {}", failed.stderr);
    }
}
