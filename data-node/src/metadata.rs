//! Calls to the metadata leader, wherever it is now.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wmall_proto::rpc::{Request, Response};
use wmall_proto::{ErrorCode, RpcError};
use wmall_transport::{Endpoint, Target};

use crate::config::MetadataAddress;

/// How long one member may take to answer.
const TIMEOUT: Duration = Duration::from_secs(12);

/// Remembers who led last.
pub(crate) struct Metadata {
    endpoint: Endpoint,
    members: Vec<Target>,
    leader: AtomicUsize,
}

impl Metadata {
    pub(crate) fn new(endpoint: Endpoint, members: &[MetadataAddress]) -> Self {
        let target = |m: &MetadataAddress| Target { node: m.name.clone(), address: m.address };
        Self { endpoint, members: members.iter().map(target).collect(), leader: AtomicUsize::new(0) }
    }

    /// Asks the member that led last, then whom it names, then the others; each at most once.
    pub(crate) async fn call(&self, request: &Request) -> Result<Response, RpcError> {
        let count = self.members.len();
        let mut next = self.leader.load(Ordering::Relaxed) % count;
        let mut last = RpcError::new(ErrorCode::Unreachable, "no metadata node answers");
        for _ in 0..=count {
            match self.endpoint.call(&self.members[next], request, TIMEOUT).await {
                Ok(response) => {
                    self.leader.store(next, Ordering::Relaxed);
                    return Ok(response);
                }
                Err(error) => {
                    let hinted = self.members.iter().position(|m| m.node.as_str() == error.hint);
                    let elsewhere = matches!(
                        error.code,
                        ErrorCode::NotLeader
                            | ErrorCode::Unreachable
                            | ErrorCode::Timeout
                            | ErrorCode::ShuttingDown
                            | ErrorCode::NoQuorum
                    );
                    if !elsewhere {
                        return Err(error);
                    }
                    next = match (error.code, hinted) {
                        (ErrorCode::NotLeader, Some(leader)) => leader,
                        _ => (next + 1) % count,
                    };
                    last = error;
                }
            }
        }
        Err(last)
    }
}
