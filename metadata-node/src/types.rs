//! openraft's type parameters for this cluster.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wmall_proto::{Incarnation, NodeName, Role};

openraft::declare_raft_types!(
    /// Entries and answers are bytes, encoded before they reach openraft.
    pub TypeConfig:
        D = Bytes,
        R = Bytes,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = tokio::fs::File,
);

/// The Raft instance.
pub type Raft = openraft::Raft<TypeConfig>;

/// A metadata node, as the membership names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The life in which it is a member. Another one under its id has no vote, and its acknowledgements do
    /// not count.
    pub incarnation: Incarnation,
}

impl Default for Member {
    // openraft asks for a default; no member has it.
    fn default() -> Self {
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { name: String::new(), address, incarnation: Incarnation([0; 16]) }
    }
}

impl Member {
    /// How to call it, if its name is one.
    pub fn target(&self) -> Option<wmall_transport::Target> {
        let node = NodeName::new(self.name.as_str()).ok()?;
        Some(wmall_transport::Target { role: Role::Metadata, node, address: self.address })
    }
}
