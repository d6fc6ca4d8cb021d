//! A failure shortened: of the thousands of troubles of a run, those without which it does not fail (delta debugging: Zeller
//! and Hildebrandt 2002, by complements only). What needs an unlikely order of messages is found again by trying other ones.

use std::collections::BTreeSet;

use wmall_rbft::Bug;

use super::fault::Fault;
use super::world::{Run, run_with};

/// Orders of messages that are tried with the troubles of one kind taken away, and with some of them.
const ORDERS: [u64; 2] = [12, 3];

/// What is left of a failure.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The troubles that are enough, and the order of messages.
    pub run: Run,
    /// How many there were.
    pub of: usize,
    /// How many runs it took.
    pub runs: usize,
    /// How it fails with those only.
    pub violation: String,
}

impl Shrunk {
    /// The troubles that are enough.
    pub fn kept(&self) -> &BTreeSet<Fault> {
        self.run.only.as_ref().unwrap_or(const { &BTreeSet::new() })
    }

    /// Whether it fails with these only, in some of so many orders of messages; then that is what is left.
    fn goes_without(&mut self, rest: &BTreeSet<Fault>, orders: u64, most: usize) -> bool {
        let from = self.run.order;
        for order in from..from + orders {
            if self.runs >= most {
                return false;
            }
            self.runs += 1;
            let run = Run { order, only: Some(rest.clone()), ..self.run };
            let (report, struck) = run_with(&run);
            if let Some(violation) = report.violation {
                // What did not happen any more is gone with it.
                self.run = Run { only: Some(struck.into_iter().collect()), ..run };
                self.violation = violation;
                return true;
            }
        }
        false
    }
}

/// Takes troubles away from the run of a seed for as long as it fails, in at most so many runs. None if it does not fail.
pub fn shrink(seed: u64, bug: Option<Bug>, most: usize) -> Option<Shrunk> {
    let run = Run { seed, bug, ..Run::default() };
    let (report, struck) = run_with(&run);
    let violation = report.violation?;
    let kept: BTreeSet<Fault> = struck.into_iter().collect();
    let (of, mut size) = (kept.len(), kept.len().div_ceil(2));
    let mut shrunk = Shrunk { run: Run { only: Some(kept), ..run }, of, runs: 1, violation };
    let kinds: BTreeSet<_> = shrunk.kept().iter().map(|fault| fault.kind).collect();
    for kind in kinds {
        let rest = shrunk.kept().iter().filter(|f| f.kind != kind).copied().collect();
        shrunk.goes_without(&rest, ORDERS[0], most);
    }
    while size > 0 && shrunk.runs < most {
        let (mut at, mut less) = (0, false);
        while at < shrunk.kept().len() && shrunk.runs < most {
            let gone = at..at + size;
            let left = shrunk.kept().iter().enumerate().filter(|(n, _)| !gone.contains(n));
            let rest = left.map(|(_, fault)| *fault).collect();
            if shrunk.goes_without(&rest, ORDERS[1], most) {
                less = true;
            } else {
                at += size;
            }
        }
        // With less around it, what was needed before may not be any more.
        size = if size == 1 && less { 1 } else { size.min(shrunk.kept().len()) / 2 };
    }
    Some(shrunk)
}
