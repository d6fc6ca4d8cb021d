//! openraft's shells: the log in the journal, the state machine behind its adapter, the network on our
//! calls. They translate and decide nothing.

mod log_store;
mod machine;
mod network;
mod snapshot;
mod wire;

pub use log_store::{LogStore, LogStoreError};
pub use machine::Machine;
pub use network::{Network, answer};
pub use snapshot::{SnapshotError, SnapshotFolder, SnapshotSummary};
