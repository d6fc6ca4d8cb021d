//! What only the leader does: gathering commands into entries, sharing read-index rounds, counting
//! heartbeats, looking for what has fallen due, planning repairs, challenging disks, calling
//! nodes. All of it is memory that a new leader starts without.

mod challenge;
mod clock;
mod collector;
mod liveness;
mod propose;
mod reach;
mod read_index;
mod repair;
mod space;
mod volumes;
mod writes;

pub(crate) use challenge::Challenger;
pub(crate) use clock::{Clocks, ClusterClock};
pub(crate) use collector::new_epoch;
pub use collector::{Collector, Graces};
pub use liveness::Liveness;
pub use propose::Proposer;
pub(crate) use propose::not_leader;
pub(crate) use reach::{Failures, Reach};
pub use read_index::ReadIndex;
pub(crate) use repair::Repairer;
pub(crate) use space::Space;
pub(crate) use volumes::Volumes;
pub(crate) use writes::refusing_pools;
