//! Calls to the metadata nodes: to the one that leads, wherever it is now, or to any of them.
//!
//! A verdict on the request or on the replicated state is final at once. Any other error may be one member's
//! own view and leads on to the next member (`said.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use wmall_proto::rpc::{Request, Response};
use wmall_proto::topology::MetadataAddress;
use wmall_proto::{ErrorCode, NodeName, RpcError};

use crate::endpoint::Endpoint;
use crate::outgoing::{Reply, Target};
use crate::said::Said;

/// How long one round may take. The first member's part is a little more than it gives a proposal itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
/// The part of a round that is kept for the members not yet asked: one that hangs leaves them a sixteenth.
const KEPT_FOR_OTHERS: u32 = 16;
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

/// An error, and whether the request may have been carried out all the same.
#[derive(Debug)]
pub struct Refused {
    /// The error.
    pub error: RpcError,
    /// False if every member that was asked before has said that it did nothing.
    pub may_have_effect: bool,
}

/// Why a round brought no answer.
enum Unanswered {
    /// Every member would say the same. Others may have said something before.
    Verdict(RpcError, Said),
    /// Each has a view of its own.
    Each(Said),
}

impl Members {
    /// Calls go out from this endpoint. `members` is not empty.
    pub fn new(endpoint: Endpoint, members: &[MetadataAddress]) -> Self {
        let members = members.iter().map(|m| Target::metadata(&m.name, m.address)).collect();
        Self { endpoint, members, leader: AtomicUsize::new(0), next: AtomicUsize::new(0) }
    }

    /// Asks the member that led last, then whom it names, then the others; each about once.
    pub async fn call(&self, request: &Request) -> Result<Response, RpcError> {
        Ok(self.open(request, CALL_TIMEOUT).await?.response)
    }

    /// The same for an answer with bytes behind it, all members together having this long for its beginning.
    pub async fn open(&self, request: &Request, timeout: Duration) -> Result<Reply, RpcError> {
        match self.round(request, Instant::now() + timeout).await {
            Ok(reply) => Ok(reply),
            Err(Unanswered::Verdict(error, _)) => Err(error),
            Err(Unanswered::Each(said)) => Err(said.error()),
        }
    }

    /// The same of the member with this name and no other.
    pub async fn open_at(
        &self,
        name: &NodeName,
        request: &Request,
        timeout: Duration,
    ) -> Result<Reply, RpcError> {
        let missing = || RpcError::not_found(format!("metadata node {name} in the configuration"));
        let member = self.members.iter().find(|m| m.node == *name).ok_or_else(missing)?;
        self.endpoint.ask(member, request, timeout).await
    }

    /// Asks every member for its own answer. It is an error only if none has one; members without are named
    /// in the log.
    pub async fn call_each(&self, request: &Request) -> Result<Vec<Response>, RpcError> {
        let (mut answers, mut said) = (Vec::with_capacity(self.members.len()), Said::default());
        for (at, member) in self.members.iter().enumerate() {
            match self.endpoint.call(member, request, CALL_TIMEOUT / 4).await {
                Ok(answer) => answers.push(answer),
                Err(error) => said.hear(at, &member.node, error),
            }
        }
        if answers.is_empty() {
            return Err(said.error());
        }
        if said.count() > 0 {
            tracing::warn!(error = %said.told(), "some metadata nodes have no answer");
        }
        Ok(answers)
    }

    /// Goes round until there is an answer or a verdict, every member has refused, or the time is over. Safe
    /// for reads and for commands with a request id.
    pub async fn call_until(&self, request: &Request, deadline: Instant) -> Result<Response, RpcError> {
        self.try_until(request, deadline).await.map_err(|refused| refused.error)
    }

    /// Does as [`Self::call_until`], and says if the request may have been carried out although it was
    /// refused.
    pub async fn try_until(&self, request: &Request, deadline: Instant) -> Result<Response, Refused> {
        let mut pause = FIRST_PAUSE;
        let mut said = Said::default();
        loop {
            match self.round(request, deadline.min(Instant::now() + CALL_TIMEOUT)).await {
                Ok(reply) => return Ok(reply.response),
                Err(Unanswered::Verdict(error, words)) => {
                    let may_have_effect = said.is_uncertain() || words.is_uncertain();
                    return Err(Refused { error, may_have_effect });
                }
                Err(Unanswered::Each(words)) if words.is_final(self.members.len()) => {
                    let may_have_effect = said.is_uncertain() || words.is_uncertain();
                    return Err(Refused { error: words.error(), may_have_effect });
                }
                Err(Unanswered::Each(words)) => said.take(words),
            }
            if left(deadline) <= pause {
                return Err(Refused { error: said.given_up(), may_have_effect: true });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks any member, each in its turn; for what needs no leader.
    pub async fn call_any(&self, request: &Request, timeout: Duration) -> Result<Response, RpcError> {
        self.around(request, timeout, ErrorCode::is_own_view).await
    }

    /// The same past every error; for what any one member can give and none can refuse for the others.
    pub async fn call_around(&self, request: &Request, timeout: Duration) -> Result<Response, RpcError> {
        self.around(request, timeout, |_| true).await
    }

    async fn around(
        &self,
        request: &Request,
        timeout: Duration,
        moves_on: fn(ErrorCode) -> bool,
    ) -> Result<Response, RpcError> {
        let (first, count) = (self.next.fetch_add(1, Ordering::Relaxed), self.members.len());
        let deadline = Instant::now() + timeout;
        let mut said = Said::default();
        for i in 0..count {
            let at = first.wrapping_add(i) % count;
            let member = &self.members[at];
            // The rest is shared among the members not yet asked, so that a silent one costs its part.
            let share = left(deadline) / (count - i) as u32;
            match self.endpoint.call(member, request, share).await {
                Err(error) if moves_on(error.code) => said.hear(at, &member.node, error),
                answer => return answer,
            }
        }
        Err(said.error())
    }

    async fn round(&self, request: &Request, deadline: Instant) -> Result<Reply, Unanswered> {
        let count = self.members.len();
        let (mut said, mut again) = (Said::default(), false);
        let mut next = Some(self.leader.load(Ordering::Relaxed) % count);
        while let Some(at) = next {
            let time = share(left(deadline), count.saturating_sub(said.count()));
            if time.is_zero() {
                break;
            }
            let member = &self.members[at];
            let error = match self.endpoint.ask(member, request, time).await {
                Ok(reply) => {
                    self.leader.store(at, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(error) if !error.code.is_own_view() => return Err(Unanswered::Verdict(error, said)),
                Err(error) => error,
            };
            if error.code == ErrorCode::Timeout {
                // It took nearly all of the time. The next round begins with another one.
                let another = (at + 1) % count;
                let _ = self.leader.compare_exchange(at, another, Ordering::Relaxed, Ordering::Relaxed);
            }
            // The others can't do what the leader has no room for. One that another member names leads.
            let full = error.code == ErrorCode::Busy && said.is_named(&member.node);
            let hinted = self.hinted(&error);
            said.hear(at, &member.node, error);
            next = match hinted {
                _ if full => None,
                Some(to) if said.code_of(to) == Some(ErrorCode::Busy) => None,
                Some(to) if said.code_of(to).is_none() => Some(to),
                // It did not lead when it was asked, and may by now. That is looked up once.
                Some(to) if to != at && !again && said.code_of(to) == Some(ErrorCode::NotLeader) => {
                    again = true;
                    Some(to)
                }
                _ => (1..count).map(|step| (at + step) % count).find(|&to| said.code_of(to).is_none()),
            };
        }
        Err(Unanswered::Each(said))
    }

    /// The member that another one names as the leader.
    fn hinted(&self, error: &RpcError) -> Option<usize> {
        if error.code != ErrorCode::NotLeader {
            return None;
        }
        self.members.iter().position(|m| m.node.as_str() == error.hint)
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// The time for one member out of what is left for all that are `unasked`, itself among them.
fn share(left: Duration, unasked: usize) -> Duration {
    if unasked > 1 { left - left / KEPT_FOR_OTHERS } else { left }
}

#[cfg(test)]
mod tests;
