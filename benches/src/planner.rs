//! The pure parts at the size of a large cluster: a plan after the loss of a zone, the grades after the loss of a node, and
//! the erasure code.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use reed_solomon_erasure::galois_8::ReedSolomon;
use wmall_manifest::Stripe;
use wmall_placement::{
    Budget, Candidate, DiskFact, DiskState, GroupFact, GroupFacts, PieceFact, Policy, SlotFact, Snapshot,
    plan_repairs, propose_rows, tally,
};
use wmall_proto::chunk::PieceState;
use wmall_proto::{DiskId, NodeName, PgId, PoolId, Scheme, ZoneName};

use crate::{RUNS, median};

const NODES: u32 = 100;
const ZONES: u32 = 10;
const PG_BITS: u8 = 16;
/// Chunks in all.
const CHUNKS: u64 = 10_000_000;
/// Bytes of a chunk.
const CHUNK: usize = 4 << 20;

/// What was measured.
pub(crate) struct Planner {
    pub(crate) plan: Duration,
    pub(crate) moves: usize,
    pub(crate) grades: Duration,
}

fn snapshot() -> Result<(Snapshot, Scheme)> {
    let scheme: Scheme = "3x".parse()?;
    let candidate = |i: u32| {
        let node = NodeName::new(format!("data-{i}"))?;
        let zone = ZoneName::new(format!("zone-{}", i % ZONES))?;
        anyhow::Ok(Candidate { disk: DiskId(i + 1), node, zone, weight: 100 })
    };
    let candidates: Vec<Candidate> = (0..NODES).map(candidate).collect::<Result<_>>()?;
    let rows = propose_rows(&candidates, scheme.width(), PG_BITS, 7)?;
    let fact = |candidate: Candidate| {
        let disk = candidate.disk;
        let (state, free_bytes) = (DiskState::Up, 10 << 40);
        (
            disk,
            DiskFact {
                candidate,
                state,
                draining: false,
                drain_paused: false,
                successor: None,
                free_bytes,
                last_bytes: free_bytes,
                down_since_ms: None,
            },
        )
    };
    let disks: BTreeMap<DiskId, DiskFact> = candidates.into_iter().map(fact).collect();
    let slot = |disk| SlotFact { disk, sources: Vec::new(), arriving: false, piece: PieceState::Live };
    let group = |(number, row): (usize, Vec<DiskId>)| GroupFact {
        key: (PoolId(1), PgId(number as u32)),
        row_version: 1,
        needed: scheme.needed(),
        slot_bytes: CHUNKS / (1 << PG_BITS) * CHUNK as u64,
        slots: row.into_iter().map(slot).collect(),
    };
    let groups = rows.into_iter().enumerate().map(group).collect();
    Ok((Snapshot { disks, groups, zones: ZONES as usize, now_ms: 1 << 40 }, scheme))
}

/// A disk is gone, and what it held does not count.
fn lose(snapshot: &mut Snapshot, gone: impl Fn(&Candidate) -> bool) {
    for fact in snapshot.disks.values_mut().filter(|f| gone(&f.candidate)) {
        (fact.state, fact.down_since_ms) = (DiskState::Down, Some(0));
    }
    for slot in snapshot.groups.iter_mut().flat_map(|g| &mut g.slots) {
        if snapshot.disks.get(&slot.disk).is_some_and(|f| f.state == DiskState::Down) {
            slot.piece = PieceState::Suspect;
        }
    }
}

pub(crate) fn run() -> Result<Planner> {
    let (whole, scheme) = snapshot()?;
    let mut zone_lost = whole.clone();
    lose(&mut zone_lost, |c| c.zone.as_str() == "zone-3");
    let (policy, budget) = (
        Policy { together_ms: 60_000, override_halt: true },
        Budget { to_disk: 64, from_disk: 64, ..Budget::ALL },
    );
    let (mut plans, mut moves) = (Vec::new(), 0);
    for _ in 0..RUNS {
        let begun = Instant::now();
        moves = plan_repairs(&zone_lost, &policy, &budget).moves.len();
        plans.push(begun.elapsed().as_secs_f64());
    }
    let mut node_lost = whole;
    lose(&mut node_lost, |c| c.node.as_str() == "data-3");
    let facts = |group: &GroupFact| GroupFacts {
        scheme,
        rule_kept: true,
        row: group.slots.iter().map(|s| PieceFact { state: s.piece }).collect(),
        chunks: CHUNKS / (1 << PG_BITS),
        ticketed: Vec::new(),
    };
    let mut grades = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let counts = tally(node_lost.groups.iter().map(facts));
        grades.push(begun.elapsed().as_secs_f64());
        anyhow::ensure!(counts.warning > 0, "the loss does not show");
    }
    let time = |values| Duration::from_secs_f64(median(values));
    Ok(Planner { plan: time(plans), moves, grades: time(grades) })
}

/// Bytes per second of cutting chunks at 4+2, and of the code alone on the same bytes.
pub(crate) fn encode() -> Result<(f64, f64)> {
    const TIMES: usize = 200;
    let chunk: Vec<u8> = (0..CHUNK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let stripe = Stripe::new("rs:4+2".parse()?)?;
    let code = ReedSolomon::new(4, 2).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    let parts = [Bytes::from(chunk.clone())];
    let (mut cut, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let begun = Instant::now();
        for _ in 0..TIMES {
            let pieces = stripe.cut(&parts)?;
            std::hint::black_box(pieces.last().context("no piece")?);
        }
        cut.push((CHUNK * TIMES) as f64 / begun.elapsed().as_secs_f64());
        let data: Vec<&[u8]> = chunk.chunks(CHUNK / 4).collect();
        let mut parity = vec![vec![0u8; CHUNK / 4]; 2];
        let begun = Instant::now();
        for _ in 0..TIMES {
            code.encode_sep(&data, &mut parity).map_err(|e| anyhow::anyhow!("{e:?}"))?;
            std::hint::black_box(&parity);
        }
        alone.push((CHUNK * TIMES) as f64 / begun.elapsed().as_secs_f64());
    }
    Ok((median(cut), median(alone)))
}
