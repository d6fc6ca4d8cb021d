//! Calls each data node where it says that it is. Its heartbeats are calls of its own, so a wrong address,
//! a firewall or a full table of connections stops everybody but the node itself, which looks well by them.
//!
//! One task on the leader: every [`Reach::run`] round it calls each node that is up, [`AT_ONCE`] at a time. A
//! failed call counts only if a heartbeat came after it began: a node that stops or starts is silent, and
//! that is seen elsewhere. Memory: failures in a row of each node of the map; a new leader begins without.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wmall_proto::rpc::Request;
use wmall_proto::status::NodeState;
use wmall_proto::topology::NodeInfo;
use wmall_proto::{ErrorCode, NodeName, Role, RpcError};
use wmall_transport::{Endpoint, Target};

use super::Liveness;
use crate::state::State;
use crate::types::Raft;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long after a failed call a heartbeat is waited for: two of them.
const BEATS: Duration = Duration::from_secs(2);
/// Calls under way.
const AT_ONCE: usize = 16;

/// Calls that failed in a row, by node.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<NodeName, (SocketAddr, u64)>>);

impl Failures {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, (SocketAddr, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls to this address of the node have failed since the last one that did not.
    pub(crate) fn of(&self, node: &NodeInfo) -> u64 {
        self.lock().get(&node.name).filter(|(at, _)| *at == node.address).map_or(0, |(_, failed)| *failed)
    }

    fn note(&self, node: &NodeInfo, reached: bool) {
        let mut failures = self.lock();
        if reached {
            failures.remove(&node.name);
            return;
        }
        let entry = failures.entry(node.name.clone()).or_insert((node.address, 0));
        // At another address it has another chance.
        *entry = (node.address, if entry.0 == node.address { entry.1 + 1 } else { 1 });
    }
}

/// The task.
pub(crate) struct Reach {
    pub(crate) raft: Raft,
    pub(crate) state: Arc<State>,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) endpoint: Endpoint,
    pub(crate) failures: Arc<Failures>,
    /// Between rounds.
    pub(crate) every: Duration,
}

impl Reach {
    /// Runs as long as it is not aborted.
    pub(crate) async fn run(self) {
        let (this, room) = (Arc::new(self), Arc::new(Semaphore::new(AT_ONCE)));
        loop {
            tokio::time::sleep(this.every).await;
            if !crate::raft::is_leader(&this.raft) {
                this.failures.lock().clear();
                continue;
            }
            let topology = this.state.topology();
            this.failures.lock().retain(|node, _| topology.nodes.contains_key(node));
            let mut running = JoinSet::new();
            for node in topology.nodes.values().filter(|node| this.is_up(&node.name)) {
                let (this, room, node) = (this.clone(), room.clone(), node.clone());
                running.spawn(async move {
                    let _place = room.acquire_owned().await;
                    this.call(&node).await;
                });
            }
            while running.join_next().await.is_some() {}
        }
    }

    /// True if this leader has heard it lately.
    fn is_up(&self, node: &NodeName) -> bool {
        let (state, heard, _) = self.liveness.of(node, Instant::now());
        state == NodeState::Up && heard.is_some()
    }

    async fn call(&self, node: &NodeInfo) {
        let target = Target { role: Role::Data, node: node.name.clone(), address: node.address };
        let begun = Instant::now();
        let answer = self.endpoint.call(&target, &Request::GetTopology { known: u64::MAX }, DEADLINE).await;
        match answer {
            Err(error) if is_unreached(&error) => {
                tokio::time::sleep(BEATS).await;
                if self.liveness.heard_after(&node.name, begun) {
                    self.failures.note(node, false);
                    tracing::debug!(%error, node = %node.name, address = %node.address, "heard, and not reached");
                }
            }
            _ => self.failures.note(node, true),
        }
    }
}

/// True if the node has not answered. One that says no has; a denial comes from another one, whose
/// certificate is not the node's: data nodes deny this question to nobody who may ask it.
fn is_unreached(error: &RpcError) -> bool {
    matches!(error.code, ErrorCode::Unreachable | ErrorCode::Timeout | ErrorCode::Denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_in_a_row_and_for_an_address() {
        let at = |port| NodeInfo {
            name: "data-1".parse().unwrap(),
            zone: "z".parse().unwrap(),
            address: ([127, 0, 0, 1], port).into(),
            waiting_zone: None,
            maintenance_until_ms: None,
        };
        let failures = Failures::default();
        assert_eq!(failures.of(&at(1)), 0);
        (0..3).for_each(|_| failures.note(&at(1), false));
        assert_eq!((failures.of(&at(1)), failures.of(&at(2))), (3, 0));
        failures.note(&at(2), false);
        assert_eq!((failures.of(&at(1)), failures.of(&at(2))), (0, 1), "another address is another way");
        failures.note(&at(2), true);
        assert_eq!(failures.of(&at(2)), 0);
    }

    #[test]
    fn a_node_that_says_no_was_reached_and_another_in_its_place_was_not() {
        let unreached = |code| is_unreached(&RpcError::new(code, "x"));
        assert!([ErrorCode::Timeout, ErrorCode::Unreachable, ErrorCode::Denied].into_iter().all(unreached));
        assert!(![ErrorCode::Busy, ErrorCode::ShuttingDown].into_iter().any(unreached));
    }
}
