//! Names under fire: eight clients put, get, remove and swap while leaders are killed, frozen, wiped and,
//! where this runs as root, cut off, members come back with a folder of before, and all of them are restored
//! from what is left; and every answer must be one that a single register could have given.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::task::JoinSet;
use wmall_client::{ClientConfig, PutOptions, Source, Store};
use wmall_proto::rpc::Condition;
use wmall_proto::{BucketName, ErrorCode, FileId, ObjectName};
use wmall_tests::history::{Answer, Ask, Operation, is_linearizable};
use wmall_tests::netns::{Cut, Namespaces};
use wmall_tests::{Cluster, restore_member, wait_until, wmall};

const CLIENTS: u64 = 8;
const NAMES: u64 = 3;
const MEMBERS: [&str; 3] = ["metadata-1", "metadata-2", "metadata-3"];
const RUN: Duration = Duration::from_millis(5500);
const LONG: Duration = Duration::from_secs(30);
/// Commands that a restored cluster has to answer before its round ends.
const ANSWERS_AFTER: usize = 200;

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

    async fn run(mut self, bucket: BucketName, round: u64, start: Instant, (log, pause): (Log, Arc<Pause>)) {
        let now = || start.elapsed().as_nanos() as u64;
        while start.elapsed() < RUN || pause.goes_on.load(Ordering::Relaxed) {
            if pause.no_cluster.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
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

/// Tells the clients of a round how far it is.
#[derive(Default)]
struct Pause {
    /// No member runs: each further command would only add an answer that is not known, and with each of these
    /// the histories to be tried double.
    no_cluster: AtomicBool,
    /// The round is not over, however long it takes.
    goes_on: AtomicBool,
}

/// A cluster whose members can be disturbed.
enum Subject {
    /// Processes side by side: they can be killed and frozen.
    Devnet(Box<Cluster>),
    /// Metadata nodes in namespaces of their own: they can be cut off as well. Takes root.
    Namespaces(Box<Namespaces>),
}

/// What happens to a member, mostly the leader, in the middle of a run. One is disturbed at a time, and is
/// good again before the next.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Killed, and back after a while. Meanwhile its folder is copied.
    Killed,
    /// Frozen until another leads; then it wakes up, still believing that it does.
    Frozen,
    /// Cut off, and later connected again.
    Cut(Cut),
    /// Killed, and its folder emptied: it comes back as another member.
    Wiped,
    /// Killed, and back with the copy: it has forgotten what it acknowledged since. It ends by itself, or is
    /// brought up by who leads; then it comes back as another member.
    PutBack,
    /// All are killed, their folders are lost but for a snapshot of the one that has most, and all begin
    /// again with that.
    Restored,
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

    /// One is put back after one was killed, since that makes the copy.
    fn trouble(&self, round: u64) -> Trouble {
        use Trouble::{Frozen, Killed, PutBack, Restored, Wiped};
        let (members, alone) = (Trouble::Cut(Cut::FromMembers), Trouble::Cut(Cut::Alone));
        match self {
            Self::Devnet(_) => {
                [Killed, PutBack, Restored, Frozen, Killed, PutBack, Wiped][round as usize % 7]
            }
            Self::Namespaces(_) => {
                [Killed, members, PutBack, Restored, Frozen, Killed, alone, PutBack, Wiped]
                    [round as usize % 9]
            }
        }
    }

    fn leader(&self) -> String {
        match self {
            Self::Devnet(cluster) => cluster.leader(),
            Self::Namespaces(cluster) => cluster.leader(),
        }
    }

    fn kill(&mut self, member: &str) {
        match self {
            Self::Devnet(cluster) => cluster.devnet("kill", member, &[]),
            Self::Namespaces(cluster) => cluster.kill(member),
        }
    }

    /// Starts a member, which may end at once.
    fn start(&mut self, member: &str) {
        match self {
            Self::Devnet(cluster) => {
                let net = cluster.folder().display().to_string();
                wmall(&["devnet", "start", member, "--dir", &net]);
            }
            Self::Namespaces(cluster) => cluster.start(member),
        }
    }

    fn runs(&mut self, member: &str) -> bool {
        match self {
            Self::Devnet(cluster) => entry(cluster, member)["running"] == true,
            Self::Namespaces(cluster) => cluster.runs(member),
        }
    }

    /// Takes a member in anew that does not run, with nothing of what it had.
    fn take_in(&mut self, member: &str) {
        // A copy of what it was is of no use to what it will be.
        let _ = std::fs::remove_dir_all(self.copy_of(member));
        match self {
            Self::Devnet(cluster) => {
                // Returns once nothing is left of the process, its sockets included.
                cluster.devnet("kill", member, &[]);
                cluster.devnet("start", member, &["--wipe"]);
            }
            Self::Namespaces(cluster) => cluster.take_in(member),
        }
    }

    fn signal(&self, member: &str, signal: Signal) {
        match self {
            Self::Devnet(cluster) => {
                let pid = entry(cluster, member)["pid"].as_i64().unwrap() as i32;
                kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
            }
            Self::Namespaces(cluster) => cluster.signal(member, signal),
        }
    }

    fn said(&self, member: &str) -> String {
        let log = match self {
            Self::Devnet(cluster) => cluster.folder().join("logs").join(format!("{member}.log")),
            Self::Namespaces(cluster) => cluster.log(member),
        };
        std::fs::read_to_string(log).unwrap()
    }

    fn data_of(&self, member: &str) -> PathBuf {
        self.config().with_file_name("nodes").join(member).join("data")
    }

    fn config_of(&self, member: &str) -> String {
        self.data_of(member).with_file_name("metadata-node.toml").display().to_string()
    }

    fn copy_of(&self, member: &str) -> PathBuf {
        self.data_of(member).with_file_name("data-of-before")
    }

    /// Runs a command as an operator.
    fn command(&self, args: &[&str]) -> Vec<u8> {
        let config = self.config().display().to_string();
        let output = wmall(&[&["--config", &config, "-q", "-o", "json"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The last entry that is agreed on, and the last one that a member has acknowledged to who leads.
    fn reached(&self, member: &str) -> (u64, u64) {
        let status: Value = serde_json::from_slice(&self.command(&["status"])).unwrap();
        let members = status["members"].as_array().unwrap();
        let matched = members.iter().find(|m| m["name"] == member).and_then(|m| m["matched"].as_u64());
        (status["index"].as_u64().unwrap(), matched.unwrap_or(0))
    }

    /// Waits until a member has acknowledged an entry that came after this call, or has ended by itself.
    fn takes_part(&mut self, member: &str) -> bool {
        // Whatever is acknowledged by now comes before this one.
        let agree = ["bucket", "set", "b", "--max-objects", "1000000"];
        self.command(&agree);
        let (before, _) = self.reached(member);
        self.command(&agree);
        let mut runs = true;
        wait_until("the member takes part, or ends", LONG, || {
            runs = self.runs(member);
            !runs || self.reached(member).1 > before
        });
        runs
    }

    /// A member whose folder was copied: the leader, if it is one.
    fn copied(&self) -> Option<String> {
        let mut members = MEMBERS.map(String::from);
        let leader = self.leader();
        members.sort_by_key(|member| *member != leader);
        members.into_iter().find(|member| self.copy_of(member).exists())
    }

    /// Lets it happen, and end. Blocks for as long.
    fn disturb(&mut self, trouble: Trouble, pause: &Pause) {
        let wait = |ms| std::thread::sleep(Duration::from_millis(ms));
        let leader = self.leader();
        match trouble {
            Trouble::Killed => {
                self.kill(&leader);
                let copy = self.copy_of(&leader);
                let _ = std::fs::remove_dir_all(&copy);
                copy_folder(&self.data_of(&leader), &copy);
                wait(1500);
                self.start(&leader);
                assert!(self.runs(&leader), "{leader} does not start again");
            }
            Trouble::Frozen => {
                self.signal(&leader, Signal::STOP);
                wait(3500);
                self.signal(&leader, Signal::CONT);
            }
            Trouble::Cut(cut) => {
                let Self::Namespaces(cluster) = self else { panic!("they can't be cut off") };
                cluster.cut(&leader, cut);
                wait(2500);
                assert_ne!(cluster.leader(), leader, "{cut:?}: it was cut off, and another leads");
                wait(500);
                cluster.heal();
            }
            Trouble::Wiped => {
                self.kill(&leader);
                self.take_in(&leader);
            }
            Trouble::PutBack => self.put_back(),
            Trouble::Restored => {
                pause.no_cluster.store(true, Ordering::Relaxed);
                MEMBERS.iter().for_each(|member| self.kill(member));
                self.restore();
                self.wait_until_it_takes_files();
                pause.no_cluster.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Waits until the new life of the metadata has begun, and puts are taken again.
    fn wait_until_it_takes_files(&self) {
        let (config, file) = (self.config().display().to_string(), self.config().with_file_name("probe"));
        std::fs::write(&file, "probe").unwrap();
        let put = ["--config", &config, "-q", "--timeout", "5s", "put", file.to_str().unwrap(), "b/probe"];
        wait_until("the restored cluster takes files", LONG, || wmall(&put).status.success());
    }

    /// Restores all members, none of which runs. Each command that was acknowledged is in the longest log of
    /// the latest term, so nothing of it may be lost.
    fn restore(&mut self) {
        self.agree_on_members();
        let ends = MEMBERS.map(|member| {
            let config = self.config_of(member);
            let told = json(&["--config", &config, "meta", "recover", "--from-survivor", "--dry-run"]);
            (told["last_term"].as_u64().unwrap(), told["last"].as_u64().unwrap(), member)
        });
        let (.., most) = ends.into_iter().max().unwrap();
        let snapshot = self.config().with_file_name("left.snap").display().to_string();
        let _ = std::fs::remove_file(&snapshot);
        json(&["--config", &self.config_of(most), "meta", "snapshot", "save", "--local", &snapshot]);
        let mut life = None;
        for member in MEMBERS {
            // A copy of what it was is of no use to what it will be.
            let _ = std::fs::remove_dir_all(self.copy_of(member));
            std::fs::remove_dir_all(self.data_of(member)).unwrap();
            life = restore_member(&self.config_of(member), &snapshot, life.as_deref());
        }
        MEMBERS.iter().for_each(|member| self.start(member));
        self.leader();
    }

    /// Has each member's configuration name all members as they are now: those that were taken in anew have
    /// other ids than the others' configurations know.
    fn agree_on_members(&self) {
        let read = |member: &str| -> toml::Table {
            std::fs::read_to_string(self.config_of(member)).unwrap().parse().unwrap()
        };
        let own = |member: &str| {
            let members = read(member)["members"].as_array().unwrap().clone();
            members.into_iter().find(|m| m["name"].as_str() == Some(member)).unwrap()
        };
        let all: Vec<toml::Value> = MEMBERS.iter().map(|member| own(member)).collect();
        for member in MEMBERS {
            let mut config = read(member);
            config.insert("members".into(), all.clone().into());
            config.remove("join");
            std::fs::write(self.config_of(member), config.to_string()).unwrap();
        }
    }

    fn put_back(&mut self) {
        let member = self.copied().expect("a folder was copied in a round before");
        let (data, said) = (self.data_of(&member), self.said(&member).len());
        self.kill(&member);
        std::fs::remove_dir_all(&data).unwrap();
        copy_folder(&self.copy_of(&member), &data);
        self.start(&member);
        // Most end before they take part.
        wait_until("the member is up, or ends", LONG, || {
            !self.runs(&member) || self.said(&member)[said..].contains("metadata node up")
        });
        if self.runs(&member) && self.takes_part(&member) {
            self.signal(&member, Signal::TERM);
            wait_until("it stops", LONG, || !self.runs(&member));
        } else {
            let said = self.said(&member).split_off(said);
            assert!(said.contains("error[unsafe]"), "{member} ended, and not since it was put back: {said}");
        }
        self.take_in(&member);
    }
}

/// How many commands have had an answer.
fn answers(log: &[(u64, Operation)]) -> usize {
    log.iter().filter(|(_, operation)| operation.answer != Answer::Unknown).count()
}

fn copy_folder(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Runs a command without a cluster, and parses its stdout.
fn json(args: &[&str]) -> Value {
    let output = wmall(&[&["-q", "-o", "json"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A node of a devnet, as its state file has it.
fn entry(cluster: &Cluster, name: &str) -> Value {
    let net = cluster.folder().display().to_string();
    let output = wmall(&["-o", "json", "devnet", "status", "--dir", &net]);
    let nodes: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    nodes.into_iter().find(|n| n["name"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_that_a_single_register_could_have_given() {
    let runs = std::env::var("WMALL_RUNS").ok().and_then(|r| r.parse().ok()).unwrap_or(14u64);
    let mut subject = tokio::task::block_in_place(Subject::up);
    let mut config = ClientConfig::load(&subject.config()).unwrap();
    config.timeout_ms = 2_500;
    let bucket = BucketName::new("b").unwrap();
    let (mut answered, mut unanswered) = (0, 0);
    for round in 0..runs {
        let (log, start, pause) = (Log::default(), Instant::now(), Arc::new(Pause::default()));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let store = Store::connect(&config).await.unwrap();
            let (dice, next, seen) = (round * CLIENTS + number, round << 20, vec![None; NAMES as usize]);
            let client = Client { store, number, dice, next, seen };
            clients.spawn(client.run(bucket.clone(), round, start, (log.clone(), pause.clone())));
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        let trouble = subject.trouble(round);
        let restores = matches!(trouble, Trouble::Restored);
        pause.goes_on.store(restores, Ordering::Relaxed);
        tokio::task::block_in_place(|| {
            subject.disturb(trouble, &pause);
            if restores {
                let before = answers(&log.lock().unwrap());
                wait_until("the restored cluster answers", LONG, || {
                    answers(&log.lock().unwrap()) > before + ANSWERS_AFTER
                });
            }
        });
        pause.goes_on.store(false, Ordering::Relaxed);
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let log = log.lock().unwrap();
        for name in 0..NAMES {
            let of_name: Vec<Operation> = log.iter().filter(|(n, _)| *n == name).map(|(_, o)| *o).collect();
            assert!(is_linearizable(&of_name), "round {round}, {trouble:?}, name {name}: {of_name:#?}");
        }
        answered += answers(&log);
        unanswered += log.len() - answers(&log);
    }
    println!("{runs} runs, {answered} answers, {unanswered} without one");
    assert!(
        answered as u64 > runs * 100 && unanswered < answered,
        "{answered} answers are too few to say anything"
    );
}
