//! The consensus core in simulation: seeds draw the number of validators, the load, the faults and the adversaries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use wmall_rbft::Bug;
use wmall_tests::rbft::{Count, Fault, Report, Run, SIZES, Stormed, run, run_with, shrink};

/// Seeds of a run of the tests; `WMALL_SEEDS` and `WMALL_FROM` choose others.
const SEEDS: u64 = 5_000;
/// Runs that shortening a failure may take.
const SHORTENING: usize = 400;
/// Seeds within which each planted bug must be found: those of the run itself.
const HUNT: u64 = SEEDS;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// A line after so many seeds: what a run that is cut short has shown.
const TELL_EVERY: u64 = 1_000;

/// Runs seeds on all processors. What is found first ends it: what that was, with how little it shows.
fn run_all(from: u64, seeds: u64) -> (BTreeMap<usize, Report>, Vec<String>) {
    let next = AtomicU64::new(from);
    let (done, events, found) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut sums: BTreeMap<usize, Report> = BTreeMap::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return sums;
            }
            let report = run_one(seed);
            if let Some(violation) = &report.violation {
                next.store(u64::MAX / 2, Ordering::Relaxed);
                found.lock().unwrap().push(explain(seed, violation));
            }
            let all = events.fetch_add(report[Count::Events], Ordering::Relaxed) + report[Count::Events];
            let ended = done.fetch_add(1, Ordering::Relaxed) + 1;
            if ended.is_multiple_of(TELL_EVERY) {
                let found = found.lock().unwrap().len();
                println!("{ended} seeds of {seeds} from {from}: some {all} events, {found} violations");
            }
            sums.entry(report.size).or_default().add(&report);
        }
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut sums: BTreeMap<usize, Report> = BTreeMap::new();
    for (size, report) in parts.into_iter().flatten() {
        sums.entry(size).or_default().add(&report);
    }
    (sums, found.into_inner().unwrap())
}

/// Says what went wrong, and with how little.
fn explain(seed: u64, violation: &str) -> String {
    let again = format!("WMALL_FROM={seed} WMALL_SEEDS=1");
    let Some(shrunk) = shrink(seed, None, SHORTENING) else {
        return format!("seed {seed} ({again} shows it again), and only if nobody counts: {violation}");
    };
    format!(
        "seed {seed} ({again} shows it again): {violation}\n\n{} of its {} troubles and requests are enough \
         (after {} runs; WMALL_ORDER={} WMALL_ONLY={} with it shows that): {}",
        shrunk.kept().len(),
        shrunk.of,
        shrunk.runs,
        shrunk.run.order,
        Fault::list(shrunk.kept()),
        shrunk.violation
    )
}

/// A seed, with only the troubles that `WMALL_ONLY` names if it names any.
fn run_one(seed: u64) -> Report {
    match std::env::var("WMALL_ONLY") {
        Ok(list) => {
            let (order, only) = (number("WMALL_ORDER", 0), Some(Fault::listed(&list)));
            run_with(&Run { seed, bug: None, order, only }).0
        }
        Err(_) => run(seed, None),
    }
}

#[test]
fn no_seed_breaks_what_must_hold() {
    let (seeds, from) = (number("WMALL_SEEDS", SEEDS), number("WMALL_FROM", 0));
    let started = Instant::now();
    let (sums, found) = run_all(from, seeds);
    let mut all = Report::default();
    for (size, report) in &sums {
        println!("N = {size}: {report}");
        all.add(report);
    }
    let seconds = started.elapsed().as_secs_f64();
    let summary = format!("{seeds} seeds from {from} in {seconds:.0} s, {} violations: {all}", found.len());
    println!("{summary}");
    if let Ok(file) = std::env::var("WMALL_SUMMARY") {
        std::fs::write(file, summary + "\n").unwrap();
    }
    assert!(found.is_empty(), "{}", found.join("\n\n"));
    if seeds < SEEDS {
        return;
    }
    // Seeds that meet no trouble show nothing.
    for (size, sum) in &sums {
        let below = sum.below_the_floor();
        assert!(below.is_empty(), "N = {size}: {below:?}");
    }
    assert_eq!(sums.len(), SIZES.len());
    assert!(all[Count::Events] >= 50_000_000, "only {} events", all[Count::Events]);
    // Of many validators somebody always has a state.
    let missed = all[Count::NoSource];
    assert!(missed >= 100, "only {missed} times nobody had a state");
    let sealed = all[Count::Sealed];
    assert!(sealed >= 20, "only {sealed} worlds had real signatures");
}

/// Whatever comes, with whatever signatures: an answer or a refusal, no panic, and bounded memory. The replica takes part in
/// all of it: it recovers, votes, wishes, executes, forgets, and goes from epoch to epoch.
#[test]
fn any_message_is_taken_or_refused_in_any_state() {
    const A_LIFE: u64 = 1_500;
    let messages = number("WMALL_MESSAGES", 3_000_000);
    let (mut taken, mut kinds, mut said) = (0u64, BTreeMap::new(), BTreeMap::new());
    for life in 0..messages / A_LIFE {
        let mut replica = Stormed::new(life);
        for _ in 0..A_LIFE {
            let (kind, was_taken) = replica.hear();
            let count: &mut [u64; 2] = kinds.entry(kind).or_default();
            count[usize::from(!was_taken)] += 1;
            taken += u64::from(was_taken);
        }
        for (what, times) in replica.said {
            *said.entry(what).or_insert(0u64) += times;
        }
    }
    println!("taken and refused: {kinds:?}; said: {said:?}");
    assert!(taken > messages / 3, "nearly all were refused: {kinds:?}");
    assert!(kinds.len() == 16 && kinds.values().all(|[taken, _]| *taken > 0), "{kinds:?}");
    for what in
        ["prepare", "commit", "checkpoint", "view_change", "execute", "update", "epoch", "rejoin", "pqc"]
    {
        let least = messages / 100_000;
        assert!(said.get(what).is_some_and(|n| *n >= least), "{what}: of {said:?}");
    }
}

/// Each bug is found by the seeds that every run has, not by ones made for it.
#[test]
fn every_planted_bug_is_found() {
    let (seeds, from) = (number("WMALL_HUNT", HUNT), number("WMALL_FROM", 0));
    let only = std::env::var("WMALL_BUG").unwrap_or_default();
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| format!("{bug:?}").contains(&only)).collect();
    let next = AtomicUsize::new(0);
    let hunt = || {
        let mut missed = Vec::new();
        while let Some(&bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match (from..from + seeds).find_map(|seed| run(seed, Some(bug)).violation.map(|v| (seed, v))) {
                Some((seed, violation)) => {
                    let first = violation.lines().next().unwrap_or_default();
                    println!("{bug:?}: seed {seed}: {}", first.chars().take(120).collect::<String>());
                }
                None => missed.push(bug),
            }
        }
        missed
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let missed: Vec<Bug> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(hunt)).collect();
        running.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(missed.is_empty(), "not found in {seeds} seeds: {missed:?}");
}

/// A failure is told with what is needed for it, and that fails again in the same way.
#[test]
fn a_failure_is_shortened_and_shows_itself_again() {
    let bug = Some(Bug::CheckpointByFew);
    let seed = (0..HUNT).find(|seed| run(*seed, bug).violation.is_some()).expect("a seed that finds it");
    let shrunk = shrink(seed, bug, SHORTENING).expect("it fails");
    let list = Fault::list(shrunk.kept());
    println!("seed {seed}: {} of {} in {} runs: {list}", shrunk.kept().len(), shrunk.of, shrunk.runs);
    assert!(shrunk.kept().len() * 10 < shrunk.of, "{} of {} are left", shrunk.kept().len(), shrunk.of);
    assert_eq!(Fault::listed(&list), *shrunk.kept());
    let (again, struck) = run_with(&shrunk.run);
    assert_eq!(again.violation.as_deref(), Some(&*shrunk.violation));
    assert_eq!(struck.iter().copied().collect::<BTreeSet<_>>(), *shrunk.kept(), "all that is kept happens");
    let mended = Run { bug: None, ..shrunk.run };
    assert_eq!(run_with(&mended).0.violation, None, "and it is the bug");
}
