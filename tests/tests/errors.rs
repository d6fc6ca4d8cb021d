//! Everything a user can get wrong has an answer with a code, a reason and an exit code, and changes nothing.

use std::time::{Duration, Instant};

use wmall_tests::{Cluster, bytes, wmall, wmall_fails};

#[test]
fn wrong_names_and_numbers() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let file = cluster.write("in", &bytes(1, 1000));
    let unknown = "0".repeat(64);
    cluster.fails(&["get", &unknown, "-O", "-"]).expect(1, "not_found");
    cluster.fails(&["file", "show", &unknown]).expect(1, "not_found");
    cluster.fails(&["chunk", "show", &unknown]).expect(1, "not_found");
    cluster.fails(&["get", "no/such", "-O", "-"]).expect(1, "not_found");
    cluster.fails(&["put", &file, "no/such"]).expect(1, "not_found");
    cluster.fails(&["ls", "no"]).expect(1, "not_found");
    cluster.fails(&["node", "show", "data-9"]).expect(1, "not_found");
    for malformed in ["nonsense", "bafkqaaa", ""] {
        assert_eq!(cluster.fails(&["get", malformed]).exit, 2, "{malformed}");
    }
    let chunk_cid = cluster.fails(&["get", "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi"]);
    assert!(chunk_cid.stderr.contains("names a chunk, not a file"), "{}", chunk_cid.stderr);
    // As long as there is one pool, none need be named.
    for size in ["1K", "65535", "17M", "99G"] {
        cluster.fails(&["put", &file, "--chunk-size", size]).expect(1, "out_of_bounds");
    }
    cluster.fails(&["put", &cluster.path("missing")]).expect(1, "local");
    cluster.fails(&["put", &file, "--pool", "none"]).expect(1, "not_found");
    cluster.fails(&["pool", "create", "wide", "--scheme", "4x"]).expect(1, "too_few_nodes");
    cluster.fails(&["pool", "create", "rs", "--scheme", "rs:5+3"]).expect(1, "too_few_nodes");
    assert_eq!(cluster.fails(&["pool", "create", "odd", "--scheme", "2x", "--pgs", "1000"]).exit, 2);
    cluster.run(&["pool", "create", "large", "--scheme", "3x", "--pgs", "65536"]);
    cluster
        .fails(&["pool", "create", "larger", "--scheme", "3x", "--pgs", "65536"])
        .expect(1, "out_of_bounds");
    cluster.fails(&["pool", "create", "3x", "--scheme", "3x"]).expect(1, "already_exists");
    cluster.run(&["bucket", "create", "b", "--pool", "3x"]);
    cluster.fails(&["bucket", "create", "b", "--pool", "3x"]).expect(1, "already_exists");
    for name in ["B", "-b", "b b", &"b".repeat(64)] {
        assert_eq!(cluster.fails(&["bucket", "create", name]).exit, 2, "{name}");
    }
    assert_eq!(cluster.fails(&["put", &file, &format!("b/{}", "x".repeat(10_000))]).exit, 2);
    assert_eq!(cluster.fails(&["put", &file, "b/a\u{7}b"]).exit, 2);
    // Several pools make the choice ambiguous.
    cluster.run(&["pool", "create", "2x", "--scheme", "2x", "--pgs", "64"]);
    cluster.fails(&["put", &file]).expect(1, "bad_request");
    cluster.put(&file, &["--pool", "2x"]);
    let status = cluster.json(&["status"]);
    assert_eq!((&status["files"], &status["objects"]), (&1.into(), &0.into()), "errors change nothing");
}

#[test]
fn who_may_not_and_who_cannot() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let file = cluster.write("in", &bytes(2, 1000));
    let config = std::fs::read_to_string(cluster.config()).unwrap();
    // A client may do nothing until somebody says what; then store and read, and not administer.
    let client = cluster.write("c.toml", config.replace("identities/admin", "identities/client").as_bytes());
    wmall_fails(&["--config", &client, "-q", "put", &file]).expect(77, "denied");
    cluster.run(&["user", "set", "client", "*:write"]);
    assert!(wmall(&["--config", &client, "-q", "put", &file]).status.success());
    wmall_fails(&["--config", &client, "bucket", "create", "b"]).expect(77, "denied");
    // A data node's certificate is no client's.
    let data =
        cluster.write("d.toml", config.replace("identities/admin", "nodes/data-1/identity").as_bytes());
    wmall_fails(&["--config", &data, "put", &file]).expect(77, "denied");
    // An identity of another cluster.
    let other = cluster.path("other");
    let init = ["cluster", "init", "--dir", &other, "--metadata", "metadata-1=127.0.0.1:1"];
    assert!(wmall(&init).status.success());
    let admin = cluster.folder().join("identities/admin").display().to_string();
    let foreign = format!("{other}/identities/admin");
    let foreign = cluster.write("f.toml", config.replace(&admin, &foreign).as_bytes());
    wmall_fails(&["--config", &foreign, "--timeout", "5s", "status"]).expect(77, "denied");
    assert_eq!(cluster.json(&["status"])["files"], 1);
}

#[test]
fn configurations_and_folders() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let node = |name: &str, file: &str| cluster.folder().join("nodes").join(name).join(file);
    let meta_config = node("metadata-1", "metadata-node.toml").display().to_string();
    let data_config = node("data-1", "data-node.toml").display().to_string();
    assert!(wmall(&["--config", &meta_config, "metadata-node", "check-config"]).status.success());
    assert!(wmall(&["--config", &data_config, "data-node", "check-config"]).status.success());
    wmall_fails(&["--config", "/no/such.toml", "status"]).expect(78, "bad_config");
    wmall_fails(&["--config", "/no/such.toml", "data-node", "run"]).expect(78, "bad_config");
    let text = std::fs::read_to_string(&data_config).unwrap();
    let wrong = cluster.write("wrong.toml", format!("{text}\n[nonsense]\nx = 1\n").as_bytes());
    let line = text.lines().count() + 2;
    let failed = wmall_fails(&["--config", &wrong, "data-node", "check-config"]);
    failed.expect(78, "bad_config");
    assert!(failed.stderr.contains(&format!("line {line}")), "line {line}: {}", failed.stderr);
    let weightless = cluster.write("weightless.toml", text.replace("weight = 100", "weight = 0").as_bytes());
    let failed = wmall_fails(&["--config", &weightless, "data-node", "check-config"]);
    assert!(failed.expect(78, "bad_config").stderr.contains("weight"), "{}", failed.stderr);
    let none = cluster.write("none.toml", text.replace("[[disks]]", "[[disks]]\nweigth = 1").as_bytes());
    let failed = wmall_fails(&["--config", &none, "data-node", "run"]);
    failed.expect(78, "bad_config");
    assert!(failed.stderr.contains("weigth"), "{}", failed.stderr);
    // A second start on the same folders, and a start on a port that is taken.
    let failed = wmall_fails(&["--config", &data_config, "data-node", "run"]);
    assert!(failed.stderr.contains("in use by another process"), "{}", failed.stderr);
    let failed = wmall_fails(&["--config", &meta_config, "metadata-node", "run"]);
    assert!(failed.stderr.contains("in use by another process"), "{}", failed.stderr);
    let disk = node("data-1", "disk-1").display().to_string();
    let elsewhere = text.replace(&disk, &cluster.path("elsewhere"));
    let elsewhere = cluster.write("elsewhere.toml", elsewhere.as_bytes());
    let failed = wmall_fails(&["--config", &elsewhere, "data-node", "run"]);
    assert!(failed.stderr.contains("data-node init"), "not formatted: {}", failed.stderr);
    assert!(wmall(&["--config", &elsewhere, "data-node", "init"]).status.success());
    let failed = wmall_fails(&["--config", &elsewhere, "data-node", "run"]);
    assert!(failed.stderr.contains("cannot listen on UDP"), "port in use: {}", failed.stderr);
    // Folders are made once.
    let failed = wmall_fails(&["--config", &meta_config, "metadata-node", "init"]);
    assert!(failed.stderr.contains("not empty"), "{}", failed.stderr);
    let net = cluster.folder().display().to_string();
    wmall_fails(&["devnet", "up", "--dir", &net]).expect(1, "devnet");
    wmall_fails(&["devnet", "kill", "data-9", "--dir", &net]).expect(1, "devnet");
    wmall_fails(&["devnet", "start", "data-1", "--dir", &net]).expect(1, "devnet");
    cluster.devnet("kill", "metadata-1", &[]);
    let alone = wmall_fails(&["devnet", "start", "metadata-1", "--wipe", "--dir", &net]);
    assert_eq!(alone.exit, 69, "the only member can't be let go: {}", alone.stderr);
}

/// Somebody writes to a file while it is put: nothing is committed of the mixture, and no name points to it.
#[test]
fn a_file_that_changes_while_it_is_read() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    cluster.run(&["bucket", "create", "b"]);
    let file = cluster.write("big", &bytes(8, 400 << 20));
    let put = cluster.spawn(&["put", &file, "b/big"]);
    cluster.wait_status("the put is under way", Duration::from_secs(60), |s| {
        s["nodes"][0]["disks"][0]["used_bytes"].as_u64() > Some(0)
    });
    use std::io::Write;
    let mut writer = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    writer.write_all(b"more").unwrap();
    let output = put.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("error[changed]"), "{stderr}");
    assert_eq!(cluster.json(&["ls", "b"]), serde_json::json!([]));
    assert_eq!(cluster.json(&["status"])["files"], 0, "nothing was committed");
}

#[test]
fn unreachable_within_the_deadline() {
    let cluster = Cluster::up_with(&["--data", "3"]);
    let file = cluster.write("in", &bytes(3, 100_000));
    let cid = cluster.put(&file, &[]);
    // One of three is no majority: no writes, no linearizable reads, but files that prove themselves.
    cluster.devnet("kill", "metadata-2", &[]);
    cluster.devnet("kill", "metadata-3", &[]);
    cluster.fails(&["--timeout", "4s", "bucket", "create", "b"]).expect(69, "no_quorum");
    cluster.assert_content(&cid, &bytes(3, 100_000));
    cluster.devnet("kill", "metadata-1", &[]);
    let started = Instant::now();
    cluster.fails(&["--timeout", "3s", "get", &cid, "-O", "-"]).expect(69, "unreachable");
    cluster.fails(&["--timeout", "3s", "put", &file]).expect(69, "unreachable");
    assert!(started.elapsed() < Duration::from_secs(20), "the deadline is kept, with room for slow machines");
    for i in 1..=3 {
        cluster.devnet("start", &format!("metadata-{i}"), &[]);
    }
    cluster.run(&["verify", &cid]);
}
