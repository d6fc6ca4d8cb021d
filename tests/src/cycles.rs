//! Kill and restart, again and again, under a load of puts, gets and removals; and what must hold after
//! each round.

use std::collections::BTreeMap;
use std::process::{Child, Output};
use std::time::Duration;

use crate::{Cluster, bytes, wmall};

/// Names that are used: few, so that they are written over and over.
const NAMES: u64 = 12;
/// Commands that run at the same time.
const PARALLEL: u64 = 6;

/// What a name may hold: several things after a command was cut off.
type Possible = Vec<Option<u64>>;

/// A small generator, so that a run can be told apart and repeated as far as processes allow.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Commands that were acknowledged.
    pub acknowledged: u64,
    /// Commands that were cut off.
    pub cut: u64,
}

enum Deed {
    Put(u64),
    Remove,
    /// Where to.
    Get(String),
}

struct Running {
    name: u64,
    deed: Deed,
    child: Child,
}

fn content(seed: u64) -> Vec<u8> {
    bytes(seed + 1, 50_000 + (seed as usize * 131_071) % 4_000_000)
}

/// Runs so many rounds and checks everything.
pub fn run(rounds: u64, seed: u64) -> Tally {
    let options = ["--disk-bytes", "512M", "--condemned-grace", "1s", "--upload-grace", "20s"];
    let cluster = Cluster::up_with(&options);
    cluster.run(&["bucket", "create", "b", "--undelete", "1s"]);
    let mut world: BTreeMap<u64, Possible> = (0..NAMES).map(|n| (n, vec![None])).collect();
    let (mut dice, mut tally) = (Dice(seed), Tally::default());
    for round in 0..rounds {
        let running = start_some(&cluster, &mut dice, round, &world);
        std::thread::sleep(Duration::from_millis(dice.roll(900)));
        cluster.nodes().iter().for_each(|node| cluster.devnet("kill", node, &[]));
        cluster.nodes().iter().for_each(|node| cluster.devnet("start", node, &[]));
        // Some of them go on where they were cut off, and succeed; that counts like any other success.
        for Running { name, deed, child } in running {
            let output = child.wait_with_output().unwrap();
            let possible = world.get_mut(&name).unwrap();
            match deed {
                Deed::Get(out) => check_get(&output, &out, possible),
                _ => note(possible, &deed, &output, &mut tally),
            }
        }
        cluster.wait_status("all nodes up", Duration::from_secs(60), |s| {
            s["nodes"].as_array().unwrap().iter().all(|n| n["state"] == "up" && n["silent_ms"].is_number())
        });
        for (name, possible) in &mut world {
            *possible = vec![observe(&cluster, *name, possible)];
        }
    }
    check_the_end(&cluster, &world);
    tally
}

fn start_some(
    cluster: &Cluster,
    dice: &mut Dice,
    round: u64,
    world: &BTreeMap<u64, Possible>,
) -> Vec<Running> {
    let first = dice.roll(NAMES);
    let mut running = Vec::new();
    for i in 0..PARALLEL {
        // Distinct names, so that each command's effect can be told.
        let name = (first + i) % NAMES;
        let place = format!("b/{name}");
        let there = world[&name] != [None];
        let deed = match dice.roll(6) {
            0 | 1 if there => Deed::Remove,
            2 if there => Deed::Get(cluster.path(&format!("got-{round}-{i}"))),
            _ => Deed::Put(round * 100 + i),
        };
        let child = match &deed {
            Deed::Put(seed) => {
                let file = cluster.write(&format!("in-{i}"), &content(*seed));
                cluster.spawn(&["--timeout", "2s", "put", &file, &place, "--chunk-size", "256K"])
            }
            Deed::Remove => cluster.spawn(&["--timeout", "2s", "rm", &place]),
            Deed::Get(out) => cluster.spawn(&["--timeout", "5s", "get", &place, "-O", out]),
        };
        running.push(Running { name, deed, child });
    }
    running
}

/// What a command's end says of its name.
fn note(possible: &mut Possible, deed: &Deed, output: &Output, tally: &mut Tally) {
    let after = match deed {
        Deed::Put(seed) => Some(*seed),
        Deed::Remove => None,
        Deed::Get(_) => return,
    };
    if output.status.success() {
        tally.acknowledged += 1;
        *possible = vec![after];
    } else {
        tally.cut += 1;
        possible.push(after);
    }
}

/// A get that was cut off says so by a code that means that; one that succeeds has what the name holds: nobody else
/// touches it meanwhile.
fn check_get(output: &Output, out: &str, possible: &Possible) {
    const CUT_OFF: [&str; 6] =
        ["unreachable", "no_quorum", "timeout", "unavailable", "shutting_down", "not_leader"];
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(CUT_OFF.iter().any(|code| stderr.contains(&format!("error[{code}]"))), "{stderr}");
        return;
    }
    let found = std::fs::read(out).unwrap();
    assert!(
        possible.iter().flatten().any(|seed| content(*seed) == found),
        "wrong bytes: none of {possible:?}"
    );
    std::fs::remove_file(out).unwrap();
}

/// What a name holds now, which must be something that it may.
fn observe(cluster: &Cluster, name: u64, possible: &Possible) -> Option<u64> {
    let (config, out) = (cluster.config(), cluster.path("observed"));
    let output = wmall(&["--config", &config, "-q", "get", &format!("b/{name}"), "-O", &out]);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("error[not_found]"), "b/{name}: {stderr}");
        assert!(possible.contains(&None), "b/{name} is gone; it should be one of {possible:?}");
        return None;
    }
    let found = std::fs::read(&out).unwrap();
    let is = |seed: &&Option<u64>| seed.is_some_and(|s| content(s) == found);
    *possible.iter().find(is).unwrap_or_else(|| panic!("b/{name} is none of {possible:?}"))
}

/// Once the graces are over: the books agree with a recount, every piece is where it should be, and nothing
/// is left of what was removed.
fn check_the_end(cluster: &Cluster, world: &BTreeMap<u64, Possible>) {
    cluster.wait_status("all is stable and nothing is left over", Duration::from_secs(120), |s| {
        let chunks = s["chunks"]["stable"].as_u64().unwrap();
        s["tickets"] == 0
            && s["trash"] == 0
            && s["condemned_chunks"] == 0
            && s["chunks"]["warning"] == 0
            && chunks > 0
    });
    // What uploads had brought that were cut off is gone once they are fenced: the data nodes have what the metadata
    // say, piece by piece and byte by byte.
    cluster.wait_status(
        "the data nodes hold what they should and nothing else",
        Duration::from_secs(180),
        |s| {
            let sum = |field: &str| -> u64 {
                let disks =
                    s["nodes"].as_array().unwrap().iter().flat_map(|n| n["disks"].as_array().unwrap());
                disks.map(|d| d[field].as_u64().unwrap()).sum()
            };
            let pieces = 3 * s["chunks"]["stable"].as_u64().unwrap();
            sum("pieces") == pieces && Some(sum("used_bytes")) == s["redundant_bytes"].as_u64()
        },
    );
    assert!(cluster.nodes().iter().any(|node| has_compacted(cluster, node)), "nothing was compacted");
    let there: Vec<u64> = world.iter().filter(|(_, p)| p[0].is_some()).map(|(n, _)| *n).collect();
    assert_eq!(cluster.json(&["bucket", "show", "b"])[0]["objects"], there.len());
    for name in there {
        cluster.run(&["verify", &format!("b/{name}"), "--deep"]);
    }
    let snapshot = cluster.path("end.snap");
    let audit = cluster.json(&["meta", "snapshot", "save", &snapshot]);
    assert_eq!(audit["troubles"], serde_json::json!([]), "references and counters equal a recount");
}

/// Whether a segment of a data node's disk is gone.
fn has_compacted(cluster: &Cluster, node: &str) -> bool {
    let folder = cluster.folder().join("nodes").join(node).join("disk-1/segments");
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.ok()?.file_name().to_str()?.strip_suffix(".seg")?.parse::<u64>().ok()
    };
    let numbers: std::collections::BTreeSet<u64> = entries.filter_map(number).collect();
    numbers.last().is_some_and(|last| *last + 1 > numbers.len() as u64)
}
