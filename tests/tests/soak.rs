//! The long versions. `make soak ROUNDS=n` runs them; docs/soak.md keeps the last figures.

use std::time::Instant;

fn rounds() -> u64 {
    std::env::var("WMALL_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(200)
}

#[test]
#[ignore = "long; `make soak` runs it"]
fn all_processes_killed_again_and_again_under_load() {
    let started = Instant::now();
    let tally = wmall_tests::cycles::run(rounds(), 7);
    println!(
        "{} rounds, {} commands acknowledged, {} cut off, 0 lost, {:.0} s",
        rounds(),
        tally.acknowledged,
        tally.cut,
        started.elapsed().as_secs_f64()
    );
}
