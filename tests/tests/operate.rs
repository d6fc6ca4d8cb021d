//! What operators do with nodes and disks: jobs, replacements, layouts, maintenance, mutes; and what is
//! refused.

use std::process::Child;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use wmall_tests::status::{disk, is_at_rest};
use wmall_tests::{Cluster, Files, bytes, wait_until, wmall};

const LONG: Duration = Duration::from_secs(90);

fn put_some(cluster: &Cluster) -> Files {
    cluster.put_files(1..5, 3 << 20, &["--chunk-size", "256K"])
}

/// A drain is a job: it is seen, held, let go on, given up, and ends by itself, whoever leads.
#[test]
fn a_job_is_paused_resumed_cancelled_and_outlives_its_leader() {
    let cluster = Cluster::up_with(&["--data", "5"]);
    // A few at a time, so that there is a middle to pause in.
    ["metadata-1", "metadata-2", "metadata-3"].iter().for_each(|member| cluster.limit_moves(member, 16));
    let files = put_some(&cluster);
    cluster.wait_status("everything is quiet", LONG, is_at_rest);
    let started = cluster.json(&["node", "drain", "data-2"]);
    assert_eq!(started["job"], 1, "{started}");
    wait_until("slots move", LONG, || cluster.run(&["events"]).contains("slots_move"));
    let paused = cluster.json(&["job", "pause", "1"]);
    assert_eq!(paused["state"], "paused");
    // What is on its way arrives; nothing else begins.
    cluster.wait_status("it stands still", LONG, |s| s["repair"]["moving"] == 0);
    let held = cluster.json(&["job", "show", "1"])["slots_left"].as_u64().unwrap();
    assert!(held > 0, "it was over before it was paused");
    let findings = cluster.json_any(&["health"]);
    assert!(findings.as_array().unwrap().iter().any(|f| f["code"] == "JOBS_PAUSED"), "{findings}");
    cluster.fails(&["health"]).expect(3, "health_warning");
    let muted = || {
        let findings = cluster.json_any(&["health"]);
        findings.as_array()?.iter().find(|f| f["code"] == "JOBS_PAUSED")?["muted"].as_bool()
    };
    cluster.run(&["health", "mute", "JOBS_PAUSED", "--ttl", "1h"]);
    assert_eq!(muted(), Some(true), "shown, and not counted");
    let is_well = || wmall(&["--config", &cluster.config(), "health"]).status.success();
    wait_until("what is muted does not count", LONG, is_well);
    cluster.run(&["health", "unmute", "JOBS_PAUSED"]);
    assert_eq!(muted(), Some(false));
    cluster.run(&["health", "mute", "JOBS_PAUSED", "--ttl", "2s"]);
    wait_until("the mute runs out", LONG, || muted() == Some(false));
    cluster.fails(&["health"]).expect(3, "health_warning");
    cluster.assert_refused(&["health", "mute", "NO_SUCH_CODE"], 1, "not_found");
    let before = cluster.json(&["events", "--first", "1"]);
    assert!(!before.as_array().unwrap().is_empty(), "slots have moved");
    let mut following = cluster.spawn(&["-o", "json", "events", "-f", "--first", "1"]);
    cluster.devnet("kill", &cluster.leader(), &[]);
    let after = cluster.json(&["events", "--first", "1"]);
    let kept = &after.as_array().unwrap()[..before.as_array().unwrap().len()];
    assert_eq!(kept, before.as_array().unwrap(), "who leads now has every line");
    let resumed = cluster.json(&["job", "resume", "1"]);
    assert_eq!((&resumed["state"], &resumed["number"]), (&"running".into(), &1.into()));
    let done = cluster.json(&["job", "watch", "1", "--wait", "3min"]);
    assert_eq!(
        (&done["state"], &done["slots_left"], &done["leaving"]),
        (&"done".into(), &0.into(), &0.into())
    );
    assert!(cluster.run(&["events"]).contains("job_done"));
    assert_follows(&mut following);
    cluster.assert_refused(&["job", "cancel", "1"], 1, "precondition_failed");
    cluster.assert_refused(&["job", "show", "77"], 1, "not_found");
    cluster.assert_refused(&["job", "pause", "77"], 1, "not_found");
    cluster.run(&["node", "undrain", "data-2"]);
    cluster
        .wait_status("it is used again", LONG, |s| disk(s, "data-2", "disk-1")["slots"].as_u64() > Some(500));
    let second = cluster.json(&["node", "drain", "data-3"]);
    let number = second["job"].to_string();
    cluster.fails(&["disk", "drain", "data-3/disk-1", "--wait", "1s"]).expect(6, "timeout");
    assert_eq!(cluster.json(&["job", "cancel", &number])["state"], "cancelled");
    cluster.wait_status("everything is quiet", LONG, is_at_rest);
    assert!(disk(&cluster.json(&["status"]), "data-3", "disk-1")["slots"].as_u64() > Some(400));
    assert_eq!(cluster.json(&["job", "ls"]).as_array().unwrap().len(), 2);
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
    }
}

/// Who follows the events sees every line once, in order, also while leaders change.
fn assert_follows(following: &mut Child) {
    let stdout = following.stdout.take().unwrap();
    let (lines, read) = mpsc::channel();
    std::thread::spawn(move || {
        let events = serde_json::Deserializer::from_reader(stdout).into_iter::<Value>();
        events.map_while(Result::ok).try_for_each(|event| lines.send(event))
    });
    for number in 1.. {
        let event = read.recv_timeout(LONG).expect("the next event");
        assert_eq!(event["number"], number, "{event}");
        if event["what"]["kind"] == "job_done" {
            break;
        }
    }
    following.kill().unwrap();
    following.wait().unwrap();
}

/// The sentence of a node operator: a new disk joins, the old one goes into it, and the tool says when it is
/// empty.
#[test]
fn a_disk_is_added_the_old_one_replaced_by_it_and_forgotten() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "4", "--disk-bytes", "512M"]);
    let files = put_some(&cluster);
    let other = cluster.folder().join("second");
    cluster.add_disk("data-1", "disk-2", &other, 512 << 20);
    let small = cluster.folder().join("small");
    cluster.add_disk("data-1", "disk-3", &small, 256 << 20);
    cluster.assert_refused(&["disk", "replace", "data-1/disk-1", "--with", "data-1/disk-3"], 5, "unsafe");
    cluster.assert_refused(
        &["disk", "replace", "data-1/disk-1", "--with", "data-1/disk-1"],
        1,
        "bad_request",
    );
    cluster.assert_refused(&["disk", "replace", "data-1/disk-1", "--with", "data-9/disk-1"], 1, "not_found");
    cluster.assert_refused(&["disk", "drain", "data-1/disk-9"], 1, "not_found");
    cluster.assert_refused(&["disk", "rm", "data-1/disk-1"], 5, "unsafe");
    // A dry run ends as the real one would, and changes nothing.
    let small = ["disk", "replace", "data-1/disk-1", "--with", "data-1/disk-3", "--dry-run"];
    cluster.assert_refused(&small, 5, "unsafe");
    cluster.assert_refused(&["disk", "rm", "data-1/disk-1", "--dry-run"], 5, "unsafe");
    let dry = cluster.json(&["disk", "replace", "data-1/disk-1", "--with", "data-1/disk-2", "--dry-run"]);
    assert!(dry["stuck"] == 0 && dry["slots"].as_u64() > Some(0) && dry["draining"] == false, "{dry}");
    // So does who thinks again.
    let (exit, told) =
        cluster.at_a_terminal(&["disk", "replace", "data-1/disk-1", "--with", "data-1/disk-2"], "n");
    assert!(exit == 1 && told.contains("Go on? [y/N]") && told.contains("error[declined]"), "{exit} {told}");
    assert_eq!(cluster.json(&["job", "ls"]).as_array().unwrap().len(), 0);
    cluster.wait_status("everything is quiet", LONG, is_at_rest);
    let before = disk(&cluster.json(&["status"]), "data-1", "disk-1")["slots"].as_u64().unwrap();
    assert!(before > 0);
    cluster.run(&["disk", "replace", "data-1/disk-1", "--with", "data-1/disk-2", "--wait", "3min"]);
    let status = cluster.json(&["status"]);
    assert_eq!(disk(&status, "data-1", "disk-1")["slots"], 0);
    let job = &cluster.json(&["job", "ls"])[0];
    assert_eq!((&job["kind"], &job["state"]), (&"replace".into(), &"done".into()), "{job}");
    // Out of the configuration, and then out of the map.
    cluster.reconfigure("data-1", |config| {
        config["disks"].as_array_mut().unwrap().retain(|d| d["name"].as_str() != Some("disk-1"));
    });
    cluster.run(&["disk", "rm", "data-1/disk-1", "--dry-run"]);
    assert_eq!(cluster.json(&["node", "show", "data-1"])["disks"].as_array().unwrap().len(), 3);
    let (exit, told) = cluster.at_a_terminal(&["disk", "rm", "data-1/disk-1"], "y");
    assert_eq!(exit, 0, "{told}");
    cluster.wait_status("everything is quiet", LONG, is_at_rest);
    assert_eq!(cluster.json(&["node", "show", "data-1"])["disks"].as_array().unwrap().len(), 2);
    for (cid, content) in &files {
        cluster.assert_content(cid, content);
        assert_eq!(cluster.json(&["verify", cid, "--deep"])["pieces_bad"], 0);
    }
}

#[test]
fn a_layout_is_staged_shown_and_applied_by_its_version() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "5"]);
    put_some(&cluster);
    cluster.wait_status("everything is quiet", LONG, is_at_rest);
    cluster.assert_refused(&["layout", "stage", "data-1/disk-1", "--weight", "0"], 1, "out_of_bounds");
    assert_eq!(cluster.fails(&["layout", "stage", "data-1/disk-1", "--weight", "-5"]).exit, 2);
    cluster.assert_refused(&["layout", "apply", "--draft", "1"], 1, "precondition_failed");
    let slots = |view: &Value, field: &str| {
        let disks = view["disks"].as_array().unwrap();
        disks.iter().find(|d| d["node"] == "data-1").unwrap()[field].as_u64().unwrap()
    };
    let shown = cluster.json(&["layout", "show"]);
    assert_eq!((&shown["version"], &shown["slots"]), (&Value::Null, &0.into()), "{shown}");
    let staged = cluster.json(&["layout", "stage", "data-1/disk-1", "--weight", "50"]);
    assert!(slots(&staged, "draft_slots") < slots(&staged, "slots") * 7 / 10, "{staged}");
    assert!(staged["bytes"].as_u64() > Some(0) && staged["zones"].as_array().unwrap().len() == 5, "{staged}");
    let version = staged["version"].to_string();
    cluster.run(&["layout", "stage", "data-2/disk-1", "--weight", "90"]);
    cluster.assert_refused(&["layout", "apply", "--draft", &version], 1, "precondition_failed");
    cluster.run(&["layout", "revert"]);
    let staged = cluster.json(&["layout", "stage", "data-1/disk-1", "--weight", "50"]);
    cluster.assert_refused(&["layout", "apply", "--draft", &version, "--dry-run"], 1, "precondition_failed");
    let draft = staged["version"].to_string();
    assert_eq!(cluster.json(&["layout", "apply", "--draft", &draft, "--dry-run"]), staged);
    cluster.run(&["layout", "apply", "--draft", &draft, "--yes"]);
    let foretold = slots(&staged, "draft_slots");
    cluster.wait_status("it is as was foretold", LONG, |s| {
        let now = disk(s, "data-1", "disk-1")["slots"].as_u64().unwrap();
        is_at_rest(s) && now.abs_diff(foretold) <= foretold / 20 + 1
    });
    // It holds over a restart.
    cluster.devnet("stop", "data-1", &[]);
    cluster.devnet("start", "data-1", &[]);
    assert_eq!(disk(&cluster.json(&["status"]), "data-1", "disk-1")["weight"], 50);
}

/// Silence that was announced is no loss, and what would make chunks unreadable is refused.
#[test]
fn a_node_in_maintenance_is_not_replaced_until_that_ends() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "5", "--down-grace", "4s"]);
    put_some(&cluster);
    cluster.wait_status("everything is quiet", LONG, is_at_rest);
    cluster.run(&["node", "maintenance", "data-2", "--for", "10min"]);
    let held = disk(&cluster.json(&["status"]), "data-2", "disk-1")["slots"].as_u64().unwrap();
    cluster.devnet("stop", "data-2", &[]);
    // Longer than the grace: by the leader's own word.
    cluster.wait_status("it is down", LONG, |s| s["nodes"][1]["state"] == "down");
    let status = cluster.json(&["status"]);
    assert_eq!(disk(&status, "data-2", "disk-1")["slots"].as_u64(), Some(held), "nothing was replaced");
    let findings = cluster.json_any(&["health"]);
    let codes: Vec<&str> = findings.as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"NODES_IN_MAINTENANCE") && !codes.contains(&"NODES_DOWN"), "{findings}");
    cluster.run(&["node", "maintenance", "data-2", "--end"]);
    cluster.wait_status("now it is", LONG, |s| disk(s, "data-2", "disk-1")["slots"] == 0 && is_at_rest(s));
    cluster.devnet("start", "data-2", &[]);
    cluster.run(&["pool", "create", "single", "--scheme", "1x", "--pgs", "64"]);
    // One copy, on whichever node: without that it could not be read.
    let content = bytes(9, 100_000);
    let cid = cluster.put(&cluster.write("in", &content), &["--pool", "single"]);
    let chunk = cluster.json(&["file", "show", &cid])["chunks"][0].as_str().unwrap().to_string();
    let views = cluster.json(&["chunk", "show", &chunk]);
    let place = views[0]["pieces"][0]["node"].as_str().unwrap().to_string();
    cluster.assert_refused(&["node", "maintenance", &place], 5, "unsafe");
    cluster.run(&["node", "maintenance", &place, "--force"]);
    cluster.assert_refused(&["node", "maintenance", "data-9"], 1, "not_found");
}

/// Grades of a file, a group, a disk and a node, and what would become of them.
#[test]
fn grades_are_told_for_every_place() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3", "--down-grace", "60s"]);
    let files = put_some(&cluster);
    let file = cluster.json(&["file", "show", &files[0].0]);
    assert_eq!(
        (&file["grades"]["now"]["stable"], &file["grades"]["without"]["warning"]),
        (&13.into(), &13.into())
    );
    cluster.run(&["bucket", "create", "b"]);
    let named = cluster.write("named", &files[1].1);
    cluster.put(&named, &["b/one", "--chunk-size", "256K"]);
    assert_eq!(cluster.json(&["bucket", "grades", "b"])["stable"], 1);
    let node = cluster.json(&["node", "show", "data-1"]);
    assert_eq!(node["grades"]["lost"], "data-1");
    assert_eq!(node["grades"]["now"]["stable"], node["grades"]["without"]["warning"], "{node}");
    let pool = cluster.json(&["pool", "ls"])[0]["name"].as_str().unwrap().to_string();
    assert_eq!(cluster.json(&["pg", "ls", &pool]), serde_json::json!([]));
    cluster.devnet("kill", "data-3", &[]);
    cluster.wait_status("it is missed", LONG, |s| s["chunks"]["warning"].as_u64() > Some(0));
    assert_eq!(cluster.json(&["bucket", "grades", "b"])["warning"], 1);
    let status = cluster.json(&["status"]);
    let groups = cluster.json(&["pg", "ls", &pool]);
    let warned: u64 =
        groups.as_array().unwrap().iter().map(|g| g["grades"]["now"]["warning"].as_u64().unwrap()).sum();
    assert_eq!(Some(warned), status["chunks"]["warning"].as_u64(), "groups and cluster say the same");
    let one = groups[0]["number"].to_string();
    assert_eq!(cluster.json(&["pg", "show", &pool, &one])[0]["grades"], groups[0]["grades"]);
    let disk = cluster.json(&["disk", "show", "data-1/disk-1"]);
    assert_eq!(disk["grades"]["without"]["danger"], status["chunks"]["warning"], "{disk}");
    cluster.fails(&["disk", "show", "data-1/disk-7"]).expect(1, "not_found");
    cluster.fails(&["pg", "show", &pool, "5000"]).expect(1, "not_found");
}

#[test]
fn a_forecast_is_made_from_what_was_stored() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3", "--disk-bytes", "1G"]);
    assert_eq!(cluster.json(&["capacity", "forecast"]), Value::Null);
    cluster.reconfigure("metadata-1", |config| {
        config.insert("usage_sample_ms".into(), 200.into());
    });
    let seed = std::cell::Cell::new(0);
    cluster.wait_status("growth is seen", LONG, |s| {
        put_another(&cluster, &seed);
        s["forecast"]["growth_per_day"].as_i64() > Some(0)
    });
    let forecast = cluster.json(&["capacity", "forecast"]);
    let crossings = forecast["crossings"].as_array().unwrap();
    let at: Vec<u64> = crossings.iter().map(|c| c["p50_ms"].as_u64().unwrap()).collect();
    assert!(at.len() == 3 && at.is_sorted(), "{forecast}");
    assert!(forecast["peers"]["in_90_days"].as_u64() > Some(0) || forecast["peers"]["in_90_days"].is_null());
    let findings = cluster.json_any(&["health"]);
    assert!(findings.as_array().unwrap().iter().any(|f| f["code"] == "CAPACITY_SOON"), "{findings}");
    let summary = cluster.json(&["status"])["summary"].as_str().unwrap().to_string();
    assert!(summary.contains("reaches 0.70 in 0 days"), "{summary}");
    assert!(cluster.run(&["capacity", "forecast"]).to_lowercase().contains("as likely as not"));
}

fn put_another(cluster: &Cluster, seed: &std::cell::Cell<u64>) {
    seed.set(seed.get() + 1);
    let path = cluster.write("in", &bytes(seed.get(), 2 << 20));
    cluster.put(&path, &[]);
}
