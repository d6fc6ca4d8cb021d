//! Calls to the metadata nodes: to the one that leads, wherever it is now, or to any of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use wmall_proto::rpc::{Request, Response};
use wmall_proto::topology::MetadataAddress;
use wmall_proto::{ErrorCode, NodeName, Role, RpcError};

use crate::endpoint::Endpoint;
use crate::outgoing::{Reply, Target};

/// How long one member may take to answer: a little more than it gives a proposal itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
/// Between rounds, growing up to the second number.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// The metadata nodes, and which of them led last.
pub struct Members {
    endpoint: Endpoint,
    members: Vec<Target>,
    leader: AtomicUsize,
    next: AtomicUsize,
}

impl Members {
    /// Calls go out from this endpoint. `members` is not empty.
    pub fn new(endpoint: Endpoint, members: &[MetadataAddress]) -> Self {
        let target =
            |m: &MetadataAddress| Target { role: Role::Metadata, node: m.name.clone(), address: m.address };
        let members = members.iter().map(target).collect();
        Self { endpoint, members, leader: AtomicUsize::new(0), next: AtomicUsize::new(0) }
    }

    /// Asks the member that led last, then whom it names, then the others; each about once.
    pub async fn call(&self, request: &Request) -> Result<Response, RpcError> {
        Ok(self.round(request, Instant::now() + CALL_TIMEOUT).await?.response)
    }

    /// The same for an answer with bytes behind it, each member having this long for all of it.
    pub async fn open(&self, request: &Request, timeout: Duration) -> Result<Reply, RpcError> {
        self.round(request, Instant::now() + timeout).await
    }

    /// Asks every member; for what each has of its own.
    pub async fn call_each(&self, request: &Request) -> Vec<(NodeName, Result<Response, RpcError>)> {
        let mut answers = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let answer = self.endpoint.call(member, request, CALL_TIMEOUT / 4).await;
            answers.push((member.node.clone(), answer));
        }
        answers
    }

    /// Goes round until the answer is not a passing fault, or the time is over. Safe for reads and for
    /// commands with a request id.
    pub async fn call_until(&self, request: &Request, deadline: Instant) -> Result<Response, RpcError> {
        let mut pause = FIRST_PAUSE;
        let mut said = nobody();
        loop {
            let error = match self.round(request, deadline.min(Instant::now() + CALL_TIMEOUT)).await {
                Ok(reply) => return Ok(reply.response),
                Err(error) => error,
            };
            if !error.code.is_transient() {
                return Err(error);
            }
            said = tells_more(said, error);
            if left(deadline) <= pause {
                return Err(at_the_end(said));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks any member, each in its turn; for what needs no leader.
    pub async fn call_any(&self, request: &Request, timeout: Duration) -> Result<Response, RpcError> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + timeout;
        let mut last = nobody();
        for i in 0..self.members.len() {
            let member = &self.members[first.wrapping_add(i) % self.members.len()];
            // What is left is shared among those that have not been asked, so that a silent one costs its part.
            let share = left(deadline) / (self.members.len() - i) as u32;
            match self.endpoint.call(member, request, share).await {
                Err(error) if error.code.is_transient() => last = error,
                answer => return answer,
            }
        }
        Err(last)
    }

    async fn round(&self, request: &Request, deadline: Instant) -> Result<Reply, RpcError> {
        let count = self.members.len();
        let mut next = self.leader.load(Ordering::Relaxed) % count;
        let mut last = nobody();
        for _ in 0..=count {
            let timeout = left(deadline);
            if timeout.is_zero() {
                break;
            }
            match self.endpoint.ask(&self.members[next], request, timeout).await {
                Ok(reply) => {
                    self.leader.store(next, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(error) if error.code == ErrorCode::NotLeader => {
                    let hinted = self.members.iter().position(|m| m.node.as_str() == error.hint);
                    next = hinted.unwrap_or((next + 1) % count);
                    last = tells_more(last, error);
                }
                Err(error) if error.code.is_transient() && error.code != ErrorCode::Busy => {
                    next = (next + 1) % count;
                    last = tells_more(last, error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn nobody() -> RpcError {
    RpcError::new(ErrorCode::Unreachable, "no metadata node answers")
}

/// Of two passing faults the one that a member itself told of; of two such, the later.
fn tells_more(before: RpcError, now: RpcError) -> RpcError {
    let silence = |e: &RpcError| matches!(e.code, ErrorCode::Unreachable | ErrorCode::Timeout);
    if silence(&now) && !silence(&before) { before } else { now }
}

/// A member's own view of a passing fault is of little use to whoever gave up waiting.
fn at_the_end(error: RpcError) -> RpcError {
    match error.code {
        ErrorCode::NotLeader => RpcError::new(ErrorCode::NoQuorum, "no metadata node leads")
            .hint("check that a majority of the metadata nodes is up"),
        ErrorCode::Unreachable | ErrorCode::Timeout => {
            let reason = format!("no metadata node answers; the last one tried: {}", error.reason);
            RpcError::new(ErrorCode::Unreachable, reason)
                .hint("check the addresses in the configuration, and that the metadata nodes are up")
        }
        _ => error,
    }
}
