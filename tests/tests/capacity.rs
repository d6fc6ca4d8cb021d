//! The completeness ratio on real disks: the alarm at 0.70, who may write until when, and the way back.

use std::time::Duration;

use serde_json::Value;
use wmall_tests::{Cluster, bytes, wait_until, wmall};

const LONG: Duration = Duration::from_secs(60);
/// One chunk each: five fill a segment in whatever order they come, so a disk that is filled anew has room
/// for as much.
const FILE: usize = 6 << 20;

fn ratio(cluster: &Cluster) -> (f64, String) {
    let report = cluster.json(&["capacity"]);
    (report["ratio_ppm"].as_f64().unwrap() / 1e6, report["level"].as_str().unwrap().to_string())
}

/// The ratio once the heartbeats have told of what is there.
fn settled(cluster: &Cluster, bytes_put: u64) -> (f64, String) {
    wait_until("heartbeats tell of it", LONG, || {
        let status = cluster.json(&["status"]);
        let used = |n: &Value| n["disks"][0]["used_bytes"].as_u64().unwrap();
        status["nodes"].as_array().unwrap().iter().all(|n| used(n) >= bytes_put)
    });
    ratio(cluster)
}

#[test]
fn the_alarm_is_raised_writes_stop_in_turn_and_deletes_lead_back() {
    let options = ["--metadata", "1", "--data", "3", "--disk-bytes", "256M", "--condemned-grace", "1s"];
    // What was put a moment ago makes room once its upload is fenced.
    let cluster = Cluster::up_with(&[&options[..], &["--upload-grace", "10s"]].concat());
    cluster.run(&["bucket", "create", "ledger"]);
    let create =
        ["node", "token", "create", "--role", "validator", "--name", "v1", "--scope", "ledger:write"];
    let token = cluster.run(&create);
    let dir = cluster.path("validator");
    let joined = wmall(&["user", "init", "--join", token.lines().last().unwrap(), "--dir", &dir]);
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let validator = format!("{dir}/client.toml");
    let (mut seed, mut seen, mut files) = (0, vec![], vec![]);
    let mut put = |config: &str, name: &str| {
        seed += 1;
        let path = cluster.write("in", &bytes(seed, FILE));
        let place = format!("ledger/{name}-{seed}");
        wmall(&["--config", config, "-q", "put", &path, &place, "--ack", "all", "--chunk-size", "6M"])
    };
    // Everybody, until ordinary writes stop.
    let config = cluster.config();
    let stopped = loop {
        let output = put(&config, "c");
        if !output.status.success() {
            break String::from_utf8_lossy(&output.stderr).to_string();
        }
        files.push(format!("ledger/c-{}", files.len() + 1));
        let (ratio, level) = settled(&cluster, (files.len() * FILE) as u64);
        let by_hand = (files.len() * FILE * 3) as f64 / (3.0 * 224.0 * f64::from(1 << 20));
        // More than that is the end of each full segment, where no piece fitted.
        assert!((by_hand - 0.01..by_hand + 0.12).contains(&ratio), "{ratio} said, {by_hand} counted");
        seen.push((ratio, level));
        // The nodes hear of the level with their next heartbeat.
        std::thread::sleep(Duration::from_millis(1200));
    };
    assert!(stopped.contains("error[cluster_full]") && stopped.contains("wmall capacity"), "{stopped}");
    let (at, level) = ratio(&cluster);
    assert!((0.90..0.95).contains(&at) && level == "writes_stopped", "{at} {level}");
    let levels: Vec<&str> = seen.iter().map(|(_, l)| l.as_str()).collect();
    let first = |level: &str| seen.iter().find(|(_, l)| l == level).map_or(9.0, |(r, _)| *r);
    assert!(first("warning") >= 0.70 && first("danger") >= 0.85 && levels[0] == "safe", "{seen:?}");
    let summary = cluster.json(&["status"])["summary"].as_str().unwrap().to_string();
    assert!(summary.contains("only validators may write"), "{summary}");
    // The ledger, a little longer.
    let mut more = 0;
    loop {
        let output = put(&validator, "v");
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).to_string();
            assert!(stderr.contains("error[cluster_full]"), "{stderr}");
            break;
        }
        more += 1;
        settled(&cluster, ((files.len() + more) * FILE) as u64);
        std::thread::sleep(Duration::from_millis(1200));
    }
    assert!(more > 0 && ratio(&cluster).0 >= 0.95, "{more} {:?}", ratio(&cluster));
    // What is lost is made anew all the same.
    cluster.devnet("stop", "data-3", &[]);
    cluster.devnet("start", "data-3", &["--wipe"]);
    let grades =
        |s: &Value, names: &[&str]| names.iter().map(|g| s["chunks"][g].as_u64().unwrap()).sum::<u64>();
    cluster.wait_status("its pieces are missed", LONG, |s| grades(s, &["warning"]) > 0);
    let bad = ["warning", "danger", "unavailable", "lost"];
    cluster.wait_status("its disk is full again", LONG, |s| grades(s, &bad) == 0);
    wait_until("and its heartbeats say so", LONG, || ratio(&cluster).0 >= 0.95);
    // Reads go on, deletes go on, and what they free is room again.
    cluster.run(&["get", &files[0], "-O", &cluster.path("out")]);
    for file in &files[..files.len() / 2] {
        cluster.run(&["rm", file, "--purge"]);
    }
    wait_until("it is safe again", LONG, || ratio(&cluster).1 == "safe");
    wait_until("everybody may write again", LONG, || put(&config, "d").status.success());
}

/// A metadata node that is to keep more free than any volume has stands for one whose volume is full.
#[test]
fn without_room_for_metadata_only_what_makes_room_is_taken() {
    let cluster = Cluster::up_with(&["--metadata", "3", "--data", "3"]);
    cluster.run(&["bucket", "create", "b"]);
    let file = cluster.write("in", &bytes(1, 1 << 20));
    cluster.put(&file, &["b/before"]);
    let keep = |member: &str, reserve_bytes: i64| {
        cluster.reconfigure(member, |config| {
            let volume = config["volume"].as_table_mut().unwrap();
            volume.insert("reserve_bytes".into(), reserve_bytes.into());
        });
    };
    let finding = || {
        let findings = cluster.json_any(&["health"]);
        let all = findings.as_array().cloned().unwrap_or_default();
        all.into_iter().find(|f| f["code"] == "METADATA_VOLUME_LOW")
    };
    let try_to_put = || {
        let config = cluster.config();
        wmall(&["--config", &config, "-q", "put", &file, "b/other"])
    };
    keep("metadata-1", 1 << 60);
    let named = |f: &Value| f["what"].as_str().is_some_and(|what| what.contains("metadata-1"));
    wait_until("the member is named", LONG, || {
        finding().is_some_and(|f| named(&f) && f["severity"] == "warning")
    });
    cluster.put(&file, &["b/second"]);
    keep("metadata-2", 1 << 60);
    let refused = |stderr: &str| {
        stderr.contains("error[cluster_full]") && stderr.contains("the metadata volume of metadata-")
    };
    wait_until("a quorum is at risk", LONG, || {
        let output = try_to_put();
        !output.status.success() && refused(&String::from_utf8_lossy(&output.stderr))
    });
    let is_full = || {
        let findings = cluster.json_any(&["health"]);
        findings.as_array().is_some_and(|all| all.iter().any(|f| f["code"] == "METADATA_FULL"))
    };
    assert!(is_full());
    cluster.fails(&["bucket", "create", "other"]).expect(1, "cluster_full");
    // Reads, deletes and operators go on.
    cluster.run(&["get", "b/before", "-O", &cluster.path("out")]);
    cluster.run(&["rm", "b/before", "--purge"]);
    cluster.run(&["layout", "stage", "data-1/disk-1", "--weight", "90"]);
    cluster.run(&["layout", "revert"]);
    keep("metadata-2", 0);
    wait_until("everybody may write again", LONG, || try_to_put().status.success());
    keep("metadata-1", 0);
    wait_until("the finding goes", LONG, || finding().is_none());
}
