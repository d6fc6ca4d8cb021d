//! A hostile user without any scope, against a user who puts and gets: every one of the latter's calls
//! succeeds, whatever the first one holds. An operator can revoke it at any time. How long the other's calls
//! took is printed, not judged.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use wmall_client::{ClientConfig, PutOptions, Source, Store};
use wmall_proto::rpc::{Ack, Request};
use wmall_proto::{ErrorCode, Role};
use wmall_tests::hostile::Hostile;
use wmall_tests::{Cluster, bytes, wmall};
use wmall_transport::{Endpoint, Identity, Target};

/// By how much the leader may grow for answers that were not read, in KiB: what a holder may have of them,
/// and of windows.
const GROWTH: u64 = 320 << 10;

/// Somebody with a certificate of their own, and scopes.
fn user(cluster: &Cluster, name: &str, scopes: &[&str]) -> ClientConfig {
    let mut options = vec!["node", "token", "create", "--role", "client", "--name", name];
    scopes.iter().for_each(|scope| options.extend(["--scope", scope]));
    let token = cluster.run(&options);
    let dir = cluster.path(name);
    let joined = wmall(&["user", "init", "--join", token.lines().last().unwrap(), "--dir", &dir]);
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    ClientConfig::load(std::path::Path::new(&format!("{dir}/client.toml"))).unwrap()
}

/// The user whose calls must succeed.
struct Honest {
    store: Store,
    pool: &'static str,
    puts: u64,
}

impl Honest {
    /// Puts and gets while an act is under way.
    async fn work(&mut self, act: &str, rounds: usize, length: usize) {
        let mut took = Vec::new();
        for _ in 0..rounds {
            self.puts += 1;
            let content = bytes(1000 + self.puts, length);
            let pool = Some(self.pool.parse().unwrap());
            let options = PutOptions { pool, chunk_size: Some(1 << 20), ..PutOptions::default() };
            let begun = Instant::now();
            let put = self.store.put(&mut content.as_slice(), &options).await;
            let put = put.unwrap_or_else(|e| panic!("a put beside {act}: {e}"));
            took.push(begun.elapsed());
            let begun = Instant::now();
            let got = self.store.get(&Source::File(put.id), None).await;
            let mut got = got.unwrap_or_else(|e| panic!("a get beside {act}: {e}"));
            let mut read = Vec::new();
            while let Some(part) = got.next().await.unwrap_or_else(|e| panic!("a get beside {act}: {e}")) {
                read.extend_from_slice(&part);
            }
            took.push(begun.elapsed());
            assert!(read == content, "beside {act} other bytes came back");
        }
        took.sort_unstable();
        println!("beside {act}: {} calls, p99 {:?}", took.len(), took[(took.len() * 99).div_ceil(100) - 1]);
    }
}

fn resident_kib(cluster: &Cluster, node: &str) -> u64 {
    let net = cluster.folder().display().to_string();
    let output = wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
    let nodes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let pid = &nodes.as_array().unwrap().iter().find(|n| n["name"] == node).unwrap()["pid"];
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn nobody_pays_for_a_hostile_neighbour() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    // A map of some mebibytes, and a pool of shards.
    cluster.run(&["pool", "create", "wide", "--scheme", "3x", "--pgs", "16384"]);
    cluster.run(&["pool", "create", "rs", "--scheme", "rs:2+1", "--pgs", "16"]);
    let (config, config_hostile) = (user(&cluster, "honest", &["*:write"]), user(&cluster, "hostile", &[]));
    let member = &config.metadata[0];
    let leader = Target { role: Role::Metadata, node: member.name.clone(), address: member.address };
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let identity = || Identity::load(&config_hostile.identity_dir).unwrap();
        let hostile = Hostile::new(identity());
        let store = Store::connect(&config).await.unwrap();
        let mut honest = Honest { store: store.clone(), pool: "wide", puts: 0 };
        let topology = store.topology();
        let wide = topology.pool_named(&"wide".parse().unwrap()).unwrap().id;
        honest.work("nobody", 2, 3 << 20).await;

        let (held, left) = hostile.connect(&leader, 1_100).await;
        assert!((1..1_000).contains(&left), "{left} of 1,100 connections were let be");
        // Somebody who comes now gets in, too.
        let late = Store::connect(&config).await.expect("a place that is kept for others");
        honest.work("1,100 connections", 2, 3 << 20).await;
        late.close().await;
        drop(held);

        let held = hostile.claim_headers(&leader, 500).await;
        honest.work("claimed headers", 2, 3 << 20).await;
        drop(held);

        let held = hostile.announce_chunks(&topology, wide, 48).await;
        honest.work("announced lengths", 1, 40 << 20).await;
        drop(held);

        let before = resident_kib(&cluster, leader.node.as_str());
        let held = hostile.leave_answers(&leader, 4, 400).await;
        honest.work("unread answers", 2, 3 << 20).await;
        let after = resident_kib(&cluster, leader.node.as_str());
        println!("the leader went from {before} to {after} KiB");
        assert!(after < before + GROWTH, "the leader grew from {before} to {after} KiB");
        drop(held);

        let data: Vec<Target> = topology.nodes.values().map(data_target).collect();
        let targets: Vec<Target> = data.iter().cloned().chain([leader.clone()]).collect();
        let held = hostile.flood(&targets, 64);
        honest.work("a flood of calls", 3, 3 << 20).await;
        let (answered, busy) = held.answered();
        println!("the flood had {answered} answers, {busy} of them busy");
        assert!(answered > 0);
        // It goes on while an operator ends it.
        let (_connections, _) = hostile.connect(&leader, 300).await;
        cluster.run(&["node", "revoke", "hostile", "--role", "client"]);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let endpoint = Endpoint::client(&identity()).unwrap();
            let asked = Request::GetTopology { known: u64::MAX };
            match endpoint.call(&leader, &asked, Duration::from_secs(5)).await {
                Err(error) if error.code == ErrorCode::Denied => break,
                other => assert!(Instant::now() < deadline, "the hostile user is not out: {other:?}"),
            }
        }
        drop(held);
        honest.work("one who was revoked", 1, 3 << 20).await;
        store.close().await;
    });
    lies_about_good_shards_change_nothing(&cluster, &runtime, &config);
}

fn data_target(node: &wmall_proto::topology::NodeInfo) -> Target {
    Target { role: Role::Data, node: node.name.clone(), address: node.address }
}

/// Calling good shards bad gets an answer, and neither a ticket nor a line in the event log comes of it.
fn lies_about_good_shards_change_nothing(cluster: &Cluster, runtime: &Runtime, config: &ClientConfig) {
    let liar = Hostile::new(Identity::load(&user(cluster, "liar", &[]).identity_dir).unwrap());
    runtime.block_on(async {
        let store = Store::connect(config).await.unwrap();
        let mut honest = Honest { store: store.clone(), pool: "rs", puts: 500 };
        let content = bytes(77, 200_000);
        let pool = Some("rs".parse().unwrap());
        let options = PutOptions { pool, ack: Ack::All, ..PutOptions::default() };
        let put = store.put(&mut content.as_slice(), &options).await.unwrap();
        let (manifest, pool) = store.manifest(&Source::File(put.id)).await.unwrap();
        let topology = store.topology();
        for chunk in manifest.chunks() {
            let (_, row) = topology.row_of(pool, chunk).unwrap();
            for &disk in &row.slots {
                let target = data_target(topology.node_of(disk).unwrap());
                let answered = liar.lie_about(&target, pool, *chunk, disk, 150).await;
                assert!(answered > 0, "{disk} answers nobody");
            }
        }
        honest.work("lies about shards", 1, 3 << 20).await;
        store.close().await;
    });
    assert!(!cluster.run(&["events"]).contains("pieces_bad"));
    // Slots that missed a write beside all that have what they should before long.
    cluster.wait_status("nothing is missing", Duration::from_secs(60), |s| s["tickets"] == 0);
}
