//! Names under fire: eight clients put, get, remove and swap while leaders are killed, frozen and, where this runs as
//! root, cut off; and every answer must be one that a single register could have given.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use wmall_client::{ClientConfig, PutOptions, Source, Store};
use wmall_proto::rpc::Condition;
use wmall_proto::{BucketName, ErrorCode, FileId, ObjectName};
use wmall_tests::Cluster;
use wmall_tests::history::{Answer, Ask, Operation, is_linearizable};
use wmall_tests::netns::{Cut, Namespaces};

const CLIENTS: u64 = 8;
const NAMES: u64 = 3;
const RUN: Duration = Duration::from_millis(5500);

type Log = Arc<Mutex<Vec<(u64, Operation)>>>;

fn content(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(4)
}

fn file_of(value: u64) -> FileId {
    let bytes = content(value);
    let chunk = wmall_proto::ChunkId::of(&bytes);
    wmall_manifest::Manifest::new(bytes.len() as u64, 4 << 20, vec![chunk]).unwrap().id()
}

struct Client {
    store: Store,
    number: u64,
    dice: u64,
    next: u64,
    /// What it has seen a name point to, to swap from.
    seen: Vec<Option<u64>>,
}

impl Client {
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    fn choose(&mut self, name: u64) -> Ask {
        self.next += 1;
        let value = self.number << 32 | self.next;
        match (self.roll(10), self.seen[name as usize]) {
            (0..=2, _) => Ask::Get,
            (3 | 4, _) => Ask::PutIfAbsent(value),
            (5 | 6, Some(old)) => Ask::PutIfMatch(old, value),
            (7, _) => Ask::Remove,
            _ => Ask::Put(value),
        }
    }

    async fn perform(&self, bucket: &BucketName, name: &ObjectName, ask: Ask) -> Answer {
        let put = async |value, condition| {
            let object = Some((bucket.clone(), name.clone()));
            let options = PutOptions { object, condition, ..PutOptions::default() };
            self.store.put(&mut content(value).as_slice(), &options).await.map(|_| Answer::Done)
        };
        let outcome = match ask {
            Ask::Put(value) => put(value, Condition::None).await,
            Ask::PutIfAbsent(value) => put(value, Condition::Absent).await,
            Ask::PutIfMatch(old, value) => put(value, Condition::Match(file_of(old))).await,
            Ask::Remove => {
                let removed = self.store.remove(bucket.clone(), name.clone(), Condition::None, false).await;
                removed.map(|()| Answer::Done)
            }
            Ask::Get => self.get(bucket, name).await,
        };
        match outcome {
            Ok(answer) => answer,
            Err(error) => match (error.code(), ask) {
                (ErrorCode::NotFound, Ask::Get) => Answer::Value(None),
                (ErrorCode::NotFound, Ask::Remove) => Answer::Refused,
                (ErrorCode::PreconditionFailed, _) => Answer::Refused,
                _ => Answer::Unknown,
            },
        }
    }

    async fn get(&self, bucket: &BucketName, name: &ObjectName) -> Result<Answer, wmall_client::ClientError> {
        let mut download = self.store.get(&Source::Object(bucket.clone(), name.clone()), None).await?;
        let mut bytes = Vec::new();
        while let Some(part) = download.next().await? {
            bytes.extend_from_slice(&part);
        }
        Ok(Answer::Value(Some(u64::from_le_bytes(bytes[..8].try_into().unwrap()))))
    }

    async fn run(mut self, bucket: BucketName, round: u64, start: Instant, log: Log) {
        let now = || start.elapsed().as_nanos() as u64;
        while start.elapsed() < RUN {
            let name = self.roll(NAMES);
            let object = ObjectName::new(format!("{round}-{name}")).unwrap();
            let ask = self.choose(name);
            let from = now();
            let answer = self.perform(&bucket, &object, ask).await;
            let to = now();
            match (ask, answer) {
                (Ask::Get, Answer::Value(value)) => self.seen[name as usize] = value,
                (Ask::Put(v) | Ask::PutIfAbsent(v) | Ask::PutIfMatch(_, v), Answer::Done) => {
                    self.seen[name as usize] = Some(v);
                }
                _ => {}
            }
            log.lock().unwrap().push((name, Operation { ask, answer, from, to }));
            if answer == Answer::Unknown {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// A cluster whose leader can be disturbed.
enum Subject {
    /// Processes side by side: a leader can be killed and frozen.
    Devnet(Box<Cluster>),
    /// Metadata nodes in namespaces of their own: it can be cut off as well. Takes root.
    Namespaces(Box<Namespaces>),
}

/// What happens to the leader in the middle of a run.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Killed, and back after a while.
    Killed,
    /// Frozen until another leads; then it wakes up, still believing that it does.
    Frozen,
    /// Cut off, and later connected again.
    Cut(Cut),
}

impl Subject {
    fn up() -> Self {
        if wmall_tests::power::is_root() {
            let cluster = Namespaces::up();
            cluster.command(&["bucket", "create", "b"]);
            return Self::Namespaces(Box::new(cluster));
        }
        let cluster = Cluster::up_with(&["--data", "3"]);
        cluster.run(&["bucket", "create", "b"]);
        Self::Devnet(Box::new(cluster))
    }

    fn config(&self) -> PathBuf {
        match self {
            Self::Devnet(cluster) => cluster.config().into(),
            Self::Namespaces(cluster) => cluster.config(),
        }
    }

    fn trouble(&self, round: u64) -> Trouble {
        let all =
            [Trouble::Killed, Trouble::Frozen, Trouble::Cut(Cut::FromMembers), Trouble::Cut(Cut::Alone)];
        let kinds = if matches!(self, Self::Devnet(_)) { 2 } else { all.len() };
        all[round as usize % kinds]
    }

    /// Lets it happen, and end. Blocks for as long.
    fn disturb(&mut self, trouble: Trouble) {
        let wait = |ms| std::thread::sleep(Duration::from_millis(ms));
        let leader = match self {
            Self::Devnet(cluster) => cluster.leader(),
            Self::Namespaces(cluster) => cluster.leader(),
        };
        match (self, trouble) {
            (Self::Devnet(cluster), Trouble::Killed) => {
                cluster.devnet("kill", &leader, &[]);
                wait(1500);
                cluster.devnet("start", &leader, &[]);
            }
            (Self::Devnet(cluster), _) => {
                let process = pid(cluster, &leader);
                kill_process(process, Signal::STOP).unwrap();
                wait(3500);
                kill_process(process, Signal::CONT).unwrap();
            }
            (Self::Namespaces(cluster), Trouble::Killed) => {
                cluster.kill(&leader);
                wait(1500);
                cluster.start(&leader);
            }
            (Self::Namespaces(cluster), Trouble::Frozen) => {
                cluster.signal(&leader, Signal::STOP);
                wait(3500);
                cluster.signal(&leader, Signal::CONT);
            }
            (Self::Namespaces(cluster), Trouble::Cut(cut)) => {
                cluster.cut(&leader, cut);
                wait(2500);
                assert_ne!(cluster.leader(), leader, "{cut:?}: it was cut off, and another leads");
                wait(500);
                cluster.heal();
            }
        }
    }
}

/// The process of a node.
fn pid(cluster: &Cluster, name: &str) -> Pid {
    let net = cluster.folder().display().to_string();
    let output = wmall_tests::wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
    let nodes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let node = nodes.as_array().unwrap().iter().find(|n| n["name"] == name).unwrap();
    Pid::from_raw(node["pid"].as_i64().unwrap() as i32).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_that_a_single_register_could_have_given() {
    let runs = std::env::var("WMALL_RUNS").ok().and_then(|r| r.parse().ok()).unwrap_or(20u64);
    let mut subject = tokio::task::block_in_place(Subject::up);
    let mut config = ClientConfig::load(&subject.config()).unwrap();
    config.timeout_ms = 2_500;
    let bucket = BucketName::new("b").unwrap();
    let (mut answered, mut unanswered) = (0, 0);
    for round in 0..runs {
        let (log, start) = (Log::default(), Instant::now());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let store = Store::connect(&config).await.unwrap();
            let (dice, next, seen) = (round * CLIENTS + number, round << 20, vec![None; NAMES as usize]);
            let client = Client { store, number, dice, next, seen };
            clients.spawn(client.run(bucket.clone(), round, start, log.clone()));
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        let trouble = subject.trouble(round);
        tokio::task::block_in_place(|| subject.disturb(trouble));
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let log = log.lock().unwrap();
        for name in 0..NAMES {
            let of_name: Vec<Operation> = log.iter().filter(|(n, _)| *n == name).map(|(_, o)| *o).collect();
            assert!(is_linearizable(&of_name), "round {round}, {trouble:?}, name {name}: {of_name:#?}");
        }
        let unknown = log.iter().filter(|(_, o)| o.answer == Answer::Unknown).count();
        (answered, unanswered) = (answered + log.len() - unknown, unanswered + unknown);
    }
    println!("{runs} runs, {answered} answers, {unanswered} without one");
    assert!(
        answered as u64 > runs * 100 && unanswered < answered,
        "{answered} answers are too few to say anything"
    );
}
