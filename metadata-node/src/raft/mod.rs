//! openraft's shells: the log in the journal, the state machine behind its adapter, the network on our
//! calls. They translate and decide nothing.

mod answers;
mod due;
mod leadership;
mod log_store;
mod machine;
mod network;
mod peers;
mod snapshot;
mod wire;

pub(crate) use due::snapshots_by_bytes;
pub(crate) use leadership::is_leader;
pub use log_store::{LogStore, LogStoreError};
pub use machine::Machine;
pub use network::{Network, answer};
pub use peers::NotAMember;
pub(crate) use peers::{Peers, hello_all};
pub use snapshot::{SnapshotError, SnapshotFolder, SnapshotSummary};
