//! The simulator of the consensus core: one seed, one world, replayed exactly.

mod adversary;
mod any;
mod dice;
mod ledger;
mod mix;
mod node;
mod report;
mod shell;
mod stub;
mod watch;
mod world;

pub use any::{Any, Believes};
pub use dice::Dice;
pub use report::Report;
pub use stub::{StubChecker, StubSigner};
pub use world::{SIZES, run};
