//! Decisions about where pieces go and how safe they are, as functions of values.
//!
//! Owns no state, does no I/O. Today: the first rows of a pool (weighted rendezvous under the zone
//! rule, then balancing) and the grades. Repair planning, moves and capacity join it here.

#![warn(missing_docs)]

mod balance;
mod grading;
mod rendezvous;
mod zone_rule;

pub use grading::{GroupFacts, PieceFact, grade, tally};
pub use rendezvous::{PlacementError, propose_rows};
pub use zone_rule::{Candidate, ZoneRule};
