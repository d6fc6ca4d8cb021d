//! The simulator of the consensus core: one seed, one world, replayed exactly.

mod adversary;
mod any;
mod compose;
mod dice;
mod fault;
mod keys;
mod ledger;
mod mix;
mod node;
mod report;
mod shell;
mod shrink;
mod spec;
mod storm;
mod streams;
mod stub;
mod troubles;
mod twins;
mod watch;
mod world;

pub use any::{Any, Believes};
pub use dice::Dice;
pub use fault::{Fault, FaultKind};
pub use keys::Keys;
pub use report::{Count, Report};
pub use shrink::{Shrunk, shrink};
pub use spec::Spec;
pub use storm::Stormed;
pub use stub::{StubChecker, StubSigner};
pub use world::{Run, SIZES, run, run_with};
