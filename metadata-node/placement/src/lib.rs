//! Decisions about where pieces go and how safe they are, as functions of values.
//!
//! Owns no state, does no I/O. The first rows of a pool (weighted rendezvous under the zone rule, then
//! balancing), the grades, which slots move next, and the completeness ratio.

#![warn(missing_docs)]

mod balance;
mod budget;
mod capacity;
mod drain;
mod forecast;
mod grading;
mod halt;
mod layout;
mod loads;
mod rendezvous;
mod repair;
mod snapshot;
mod zone_rule;

pub use budget::Budget;
pub use capacity::{DiskSpace, PoolNeed, capacity};
pub use drain::{DrainPreview, preview_drain};
pub use forecast::{Space, forecast};
pub use grading::{GroupFacts, PieceFact, grade, tally};
pub use halt::Halt;
pub use layout::{DiskChange, Drafted, LayoutPreview, preview_layout};
pub use rendezvous::{PlacementError, propose_rows};
pub use repair::{PlannedMove, Policy, Reason, RepairPlan, plan_repairs};
pub use snapshot::{DiskFact, DiskState, GroupFact, SlotFact, Snapshot};
pub use zone_rule::{Candidate, ZoneRule};
