//! Commands do what they say, whole or not at all: what they write, how they end, what they list, and what is
//! left when they are refused.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use wmall_client::{ClientConfig, PutOptions, Store};
use wmall_proto::rpc::Condition;
use wmall_proto::{BucketName, ObjectName};
use wmall_tests::{Cluster, binary, bytes, wait_until, wmall};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn commands_are_whole() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    cluster.run(&["bucket", "create", "b"]);
    two_gets_into_one_file(&cluster);
    a_get_that_is_ended_leaves_nothing(&cluster);
    what_is_no_plain_file_stays_what_it_is(&cluster);
    nobody_reads_any_more(&cluster);
    listings_reach_their_end(&cluster);
    a_bucket_that_holds_objects_keeps_its_trash(&cluster);
    who_is_revoked_is_found_by_the_name(&cluster);
    nodes_that_start_at_once_are_all_known(&cluster);
}

/// Names in a folder that begin with a dot, which unfinished files do.
fn hidden(folder: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.starts_with('.')).collect()
}

/// Waits for the end of a process, and returns its exit code.
fn exit_of(child: &mut Child) -> i32 {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn two_gets_into_one_file(cluster: &Cluster) {
    let contents = [bytes(1, 9 << 20), bytes(2, 7 << 20)];
    for (content, name) in contents.iter().zip(["b/one", "b/two"]) {
        let file = cluster.write("in", content);
        cluster.put(&file, &[name]);
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let own = folder.path().join("out.part");
    std::fs::write(&own, "the user's own").unwrap();
    for _ in 0..3 {
        let mut gets = ["b/one", "b/two", "b/one"].map(|name| cluster.spawn(&["get", name, "-O", &out]));
        for get in &mut gets {
            assert_eq!(exit_of(get), 0);
        }
        let got = std::fs::read(&out).unwrap();
        assert!(contents.contains(&got), "{} bytes of both", got.len());
    }
    assert_eq!(std::fs::read(&own).unwrap(), b"the user's own");
    assert_eq!(hidden(folder.path()), [""; 0]);
}

/// The processes of the data nodes.
fn data_pids(cluster: &Cluster) -> Vec<Pid> {
    let net = cluster.folder().display().to_string();
    let output = wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
    let nodes: Value = serde_json::from_slice(&output.stdout).unwrap();
    let data = nodes.as_array().unwrap().iter().filter(|n| n["role"] == "data-node");
    data.map(|n| Pid::from_raw(n["pid"].as_i64().unwrap() as i32).unwrap()).collect()
}

fn a_get_that_is_ended_leaves_nothing(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let pids = data_pids(cluster);
    pids.iter().for_each(|pid| kill_process(*pid, Signal::STOP).unwrap());
    for (signal, exit) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut get = cluster.spawn(&["get", "b/one", "-O", &out]);
        wait_until("the get has begun its file", LIMIT, || !hidden(folder.path()).is_empty());
        kill_process(Pid::from_child(&get), signal).unwrap();
        assert_eq!(exit_of(&mut get), exit);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    pids.iter().for_each(|pid| kill_process(*pid, Signal::CONT).unwrap());
    cluster.run(&["get", "b/one", "-O", &out]);
    // An error leaves nothing either, and keeps what was there.
    let before = std::fs::read(&out).unwrap();
    cluster.fails(&["get", "b/none", "-O", &out]).expect(1, "not_found");
    cluster.fails(&["get", "b/one", "-O", &folder.path().display().to_string()]).expect(1, "local");
    assert!(std::fs::read(&out).unwrap() == before);
    assert_eq!(hidden(folder.path()), [""; 0]);
}

fn what_is_no_plain_file_stays_what_it_is(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let path = pipe.display().to_string();
    let mut get = cluster.spawn(&["get", "b/two", "-O", &path]);
    let mut got = Vec::new();
    std::fs::File::open(&pipe).unwrap().read_to_end(&mut got).unwrap();
    assert_eq!(exit_of(&mut get), 0);
    assert!(got == bytes(2, 7 << 20));
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    // A snapshot too, which is checked before a byte of it goes out.
    let mut save = cluster.spawn(&["meta", "snapshot", "save", &path]);
    let kept = folder.path().join("kept");
    std::io::copy(&mut std::fs::File::open(&pipe).unwrap(), &mut std::fs::File::create(&kept).unwrap())
        .unwrap();
    assert_eq!(exit_of(&mut save), 0);
    assert!(wmall(&["meta", "snapshot", "verify", &kept.display().to_string()]).status.success());
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

fn nobody_reads_any_more(cluster: &Cluster) {
    // One that shows a line and then waits; one that has nothing to show at all.
    let mut follow = cluster.spawn(&["events", "-f", "--first", "1"]);
    let mut line = String::new();
    let mut stdout = BufReader::new(follow.stdout.take().unwrap());
    cluster.run(&["node", "maintenance", "data-1", "--for", "1s"]);
    cluster.run(&["node", "maintenance", "data-1", "--end"]);
    if cluster.json(&["events"]).as_array().unwrap().is_empty() {
        drop(stdout);
    } else {
        stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with('1'), "{line}");
        drop(stdout);
    }
    assert_eq!(exit_of(&mut follow), 141);
    let mut quiet = cluster.spawn(&["events", "-f", "--first", "1000000"]);
    drop(quiet.stdout.take());
    assert_eq!(exit_of(&mut quiet), 141);
    let mut get = cluster.spawn(&["get", "b/one", "-O", "-"]);
    let mut first = [0; 10];
    let mut stdout = get.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    assert_eq!(exit_of(&mut get), 141);
    let mut said = String::new();
    get.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "", "who stopped reading knows");
}

/// Puts and removes one name so often that its former versions fill more than a page.
fn make_trash(cluster: &Cluster, rounds: usize) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = ClientConfig::load(std::path::Path::new(&cluster.config())).unwrap();
        let store = Store::connect(&config).await.unwrap();
        let bucket = BucketName::new("many").unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..16 {
            let (store, bucket) = (store.clone(), bucket.clone());
            tasks.spawn(async move {
                for _ in 0..rounds / 16 {
                    let name = ObjectName::new(format!("--help{task}")).unwrap();
                    let object = Some((bucket.clone(), name.clone()));
                    let options = PutOptions { object, ..PutOptions::default() };
                    store.put(&mut &b"x"[..], &options).await.unwrap();
                    store.remove(bucket.clone(), name, Condition::None, false).await.unwrap();
                }
            });
        }
        while let Some(joined) = tasks.join_next().await {
            joined.unwrap();
        }
        store.close().await;
    });
}

fn listings_reach_their_end(cluster: &Cluster) {
    cluster.run(&["bucket", "create", "many"]);
    make_trash(cluster, 1120);
    let removed = cluster.json(&["ls", "many", "--removed"]);
    let removed = removed.as_array().unwrap();
    assert_eq!(removed.len(), 1120);
    // One that stops says so, and how to go on.
    let config = cluster.config();
    let page = |options: &[&str]| {
        let output =
            wmall(&[&["--config", &config, "-o", "json", "ls", "many", "--removed"], options].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let entries: Value = serde_json::from_slice(&output.stdout).unwrap();
        (entries.as_array().unwrap().clone(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (first, said) = page(&["--limit", "1010"]);
    assert!(first == removed[..1010]);
    let last = &removed[1009];
    let (name, version) = (last["name"].as_str().unwrap(), last["version"].to_string());
    assert!(said.contains(&format!("--after \"{name}\" --former {version}")), "{said}");
    let (rest, said) = page(&["--after", name, "--former", &version]);
    assert!(rest == removed[1010..]);
    assert_eq!(said, "");
    // A name may look like an option.
    let file = cluster.write("in", b"x");
    for name in ["--help", "-q", "z"] {
        cluster.put(&file, &[&format!("many/{name}")]);
    }
    let names = |options: &[&str]| -> Vec<String> {
        let all = cluster.json(&[&["ls", "many"], options].concat());
        all.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&[]), ["--help", "-q", "z"]);
    assert_eq!(names(&["--after", "--help"]), ["-q", "z"]);
    assert_eq!(names(&["--after", "-q", "--limit", "1"]), ["z"]);
}

fn a_bucket_that_holds_objects_keeps_its_trash(cluster: &Cluster) {
    cluster.fails(&["bucket", "rm", "many", "--purge"]).expect(1, "not_empty");
    assert_eq!(cluster.json(&["ls", "many", "--removed"]).as_array().unwrap().len(), 1120);
    for name in ["--help", "-q", "z"] {
        cluster.run(&["rm", &format!("many/{name}")]);
    }
    cluster.fails(&["bucket", "rm", "many"]).expect(1, "not_empty");
    cluster.run(&["bucket", "rm", "many", "--purge"]);
    cluster.fails(&["ls", "many", "--removed"]).expect(1, "not_found");
    cluster.wait_status("all of it is gone", LIMIT, |s| s["trash"] == 0);
    cluster.run(&["bucket", "create", "many"]);
    assert_eq!(cluster.json(&["ls", "many", "--removed"]).as_array().unwrap().len(), 0);
}

fn who_is_revoked_is_found_by_the_name(cluster: &Cluster) {
    let nobody = cluster.fails(&["node", "revoke", "data-9"]);
    nobody.expect(1, "not_found");
    assert!(nobody.stderr.contains("--role"), "{}", nobody.stderr);
    cluster.fails(&["node", "revoke", "admin"]).expect(1, "bad_request");
    cluster.run(&["node", "token", "create", "--role", "client", "--name", "alice"]);
    assert_eq!(cluster.run(&["node", "revoke", "alice"]), "revoked: client alice\n");
    assert_eq!(
        cluster.json(&["node", "token", "ls"]).as_array().unwrap().len(),
        0,
        "nor does a token help her"
    );
    let offline = ["node", "revoke", "offline", "--role", "admin"];
    assert_eq!(cluster.run(&offline), "revoked: admin offline\n");
}

fn nodes_that_start_at_once_are_all_known(cluster: &Cluster) {
    let nodes = ["data-1", "data-2", "data-3"];
    nodes.iter().for_each(|node| cluster.devnet("stop", node, &[]));
    let net = cluster.folder().display().to_string();
    let start = |node: &str| {
        let mut command = Command::new(binary());
        command.args(["devnet", "start", node, "--dir", &net]).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut starts = nodes.map(start);
    // And one of them twice: it is started once.
    let mut again = start("data-1");
    let exits = starts.each_mut().map(exit_of);
    let twice = [exits[0], exit_of(&mut again)];
    assert_eq!((exits[1], exits[2], twice.iter().sum::<i32>()), (0, 0, 1), "{exits:?} {twice:?}");
    let output = wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(all.as_array().unwrap().iter().all(|n| n["running"] == true), "{all}");
}

/// As by the lid of a laptop, for longer than a chunk may take in all.
#[test]
#[ignore = "takes a minute; `make soak` runs it"]
fn a_put_whose_process_was_stopped_goes_on() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let content = bytes(9, 200 << 20);
    let file = cluster.write("in", &content);
    let mut put = cluster.spawn(&["put", &file]);
    wait_until("chunks are on their way", LIMIT, || {
        std::fs::read_dir(cluster.disk("data-1").join("segments"))
            .unwrap()
            .any(|segment| segment.unwrap().metadata().unwrap().len() > 4 << 20)
    });
    let pid = Pid::from_child(&put);
    kill_process(pid, Signal::STOP).unwrap();
    assert_eq!(put.try_wait().unwrap(), None, "it was not done before");
    std::thread::sleep(Duration::from_secs(50));
    kill_process(pid, Signal::CONT).unwrap();
    let mut cid = String::new();
    put.stdout.take().unwrap().read_to_string(&mut cid).unwrap();
    let mut said = String::new();
    put.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(put.wait().unwrap().success(), "{said}");
    cluster.assert_content(cid.trim(), &content);
}
