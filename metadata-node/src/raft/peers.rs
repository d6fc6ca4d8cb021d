//! The other members, as far as it matters that they, and this one, are who they were: incarnations are
//! compared before a message reaches openraft, and a member that has forgotten something that it acknowledged
//! stops.
//!
//! A member's vote and its acknowledgements are promises of its folder. A folder that was made anew has
//! another incarnation than the membership names, and a folder that was put back to an older copy ends before
//! what the leader, or another member, has heard it acknowledge. Either is refused here, and neither can be
//! refused by openraft, which knows members by their ids alone.
//!
//! Deliberately absent: a copy that was put back while no other member runs that has heard of the later one.
//! Nothing tells it from the member that it was (docs/limits.md).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use openraft::Vote;
use tokio::sync::watch;
use tokio::task::JoinSet;
use wmall_proto::rpc::{
    Acknowledged, KnownCluster, RaftAnswer, RaftCall, RaftRequest, RaftResponse, Request, Response,
};
use wmall_proto::{ErrorCode, Incarnation, NodeName, RpcError};
use wmall_transport::{Endpoint, Target};

use super::answers::Answers;
use super::log_store::LogStore;
use crate::backup::BackupWatch;
use crate::born::Born;
use crate::leader::{ClusterClock, Volumes};
use crate::types::{Member, Raft};

/// Why a folder is no member any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAMember {
    /// The cluster has another incarnation under this id.
    #[error(
        "{by} knows member {id} in another life than this folder's: the folder was made anew, and what the member had \
         promised is lost"
    )]
    Replaced {
        /// Raft id.
        id: u64,
        /// The member that says so.
        by: String,
    },
    /// The cluster has members, and this one is none of them.
    #[error("{by} knows a cluster that runs, and member {id} is not part of it")]
    Stranger {
        /// Raft id.
        id: u64,
        /// The member that says so.
        by: String,
    },
    /// The folder ends before what it has acknowledged.
    #[error(
        "this folder ends at entry {last}, and {by} has heard it acknowledge entry {acknowledged}: it was put back to an \
         older copy, or lost what was written"
    )]
    RolledBack {
        /// Last entry of the log.
        last: u64,
        /// Last entry that it acknowledged.
        acknowledged: u64,
        /// The member that says so.
        by: String,
    },
}

impl NotAMember {
    /// What an operator does about it.
    pub fn hint(&self) -> String {
        let again = "empty the folder and take the node in again under a new id: `wmall metadata-node init --join TOKEN \
                     --id ID`, then `wmall meta member add`";
        match self {
            Self::Stranger { .. } => format!("start it with `join = true` and a new id; or {again}"),
            _ => format!("let it go (`wmall meta member rm ID`), {again}"),
        }
    }
}

/// Who this member is, and what is known of the others.
pub struct Peers {
    born: Born,
    endpoint: Endpoint,
    log: LogStore,
    clock: Arc<ClusterClock>,
    volumes: Arc<Volumes>,
    /// How this member's backups are, which its answers say.
    backups: Arc<BackupWatch>,
    answers: Answers,
    raft: OnceLock<Raft>,
    /// Nothing is appended to others: they are to elect another leader.
    silent: AtomicBool,
    /// What leaders heard each member acknowledge, by Raft id: the last leader that names a member counts.
    /// Bounded by the members.
    acknowledged: Mutex<BTreeMap<u64, Acknowledged>>,
    stopped: watch::Sender<Option<NotAMember>>,
}

/// How long a member that starts waits for what the others know of it. Those that run answer at once, and
/// those that don't can't be waited for.
const HELLO: Duration = Duration::from_millis(500);

impl Peers {
    /// This member, in the life that its folder says.
    pub(crate) fn new(
        born: Born,
        endpoint: Endpoint,
        log: LogStore,
        clock: Arc<ClusterClock>,
        volumes: Arc<Volumes>,
        backups: Arc<BackupWatch>,
    ) -> Arc<Self> {
        Arc::new(Self {
            born,
            endpoint,
            log,
            clock,
            volumes,
            backups,
            answers: Answers::default(),
            raft: OnceLock::new(),
            silent: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            stopped: watch::Sender::new(None),
        })
    }

    /// From now on this member takes part.
    pub(crate) fn take_part(&self, raft: Raft) {
        let _ = self.raft.set(raft);
    }

    /// Appends nothing to the others from now on, or does again.
    pub(crate) fn fall_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Release);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// When the other members answered last.
    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// The endpoint that calls go out from.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns when this folder has turned out to be no member.
    pub(crate) async fn stopped(&self) -> NotAMember {
        let mut stopped = self.stopped.subscribe();
        loop {
            if let Some(why) = stopped.borrow_and_update().clone() {
                return why;
            }
            if stopped.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn stop(&self, why: NotAMember) -> RpcError {
        tracing::error!(%why, "this metadata node is no member");
        let error = RpcError::new(ErrorCode::Denied, why.to_string());
        self.stopped.send_replace(Some(why));
        error
    }

    fn members(&self) -> BTreeMap<u64, Member> {
        let Some(raft) = self.raft.get() else { return BTreeMap::new() };
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.nodes().map(|(id, member)| (*id, member.clone())).collect()
    }

    /// A message to another member, in the life that the membership names.
    pub(super) fn address(&self, to: &Member, message: RaftRequest) -> RaftCall {
        RaftCall {
            from: self.born.id,
            incarnation: self.born.incarnation,
            to: Some(to.incarnation),
            acknowledged: if matches!(message, RaftRequest::Append(_)) {
                self.replicated()
            } else {
                Vec::new()
            },
            message,
        }
    }

    /// For each member, the last entry that it has acknowledged to this one; empty unless this one leads.
    fn replicated(&self) -> Vec<(u64, u64)> {
        let Some(raft) = self.raft.get() else { return Vec::new() };
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        let matched = metrics.replication.iter().flatten();
        matched.filter_map(|(id, matched)| Some((*id, matched.as_ref()?.index))).collect()
    }

    /// Holds an answer against the life of the member that was asked.
    pub(super) fn judge_answer(&self, of: &Member, answer: RaftAnswer) -> Result<RaftResponse, RpcError> {
        if answer.incarnation != of.incarnation {
            let reason = format!("{} answers in another life than the membership names", of.name);
            return Err(RpcError::new(ErrorCode::Denied, reason));
        }
        self.clock.hear(&of.name, answer.now_ms);
        self.volumes.hear(&of.name, answer.volumes);
        self.answers.hear(&of.name, answer.backup, Instant::now());
        Ok(answer.message)
    }

    /// Refuses a message that is meant for another life of this member, or comes from another life of its
    /// sender. A greeting is how a folder that was made anew is told so, and promises nothing.
    pub(super) fn judge_call(&self, call: &RaftCall) -> Result<(), RpcError> {
        let stranger =
            |what: &str| RpcError::new(ErrorCode::Denied, format!("{what} than the membership names"));
        if call.to.is_some_and(|to| to != self.born.incarnation) {
            return Err(stranger("the member that was called is in another life"));
        }
        let members = self.members();
        if call.message != RaftRequest::Hello
            && members.get(&call.from).is_some_and(|known| known.incarnation != call.incarnation)
        {
            return Err(stranger("the caller is in another life"));
        }
        Ok(())
    }

    /// Holds what a leader has heard of this member against its log, and remembers what it has heard of the
    /// others. `vote` is the leader's.
    pub(super) fn hear(&self, call: &RaftCall, vote: Vote<u64>) -> Result<(), RpcError> {
        // A leader of before may have heard of entries that the present one has had taken back.
        if self.log.vote().is_some_and(|own| vote < own) {
            return Ok(());
        }
        let own = call.acknowledged.iter().find(|(id, _)| *id == self.born.id).map(|(_, index)| *index);
        let leader = (vote.leader_id.term, vote.leader_id.node_id);
        let heard = call.acknowledged.iter().map(|&(id, index)| (id, Acknowledged { leader, index }));
        let members = self.members();
        let mut known = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(heard);
        known.retain(|id, _| members.contains_key(id));
        drop(known);
        match own {
            Some(acknowledged) if acknowledged > self.log.last() => {
                let name = self.members().get(&call.from).map(|m| m.name.clone());
                let by = name.unwrap_or_else(|| format!("member {}", call.from));
                Err(self.stop(NotAMember::RolledBack { last: self.log.last(), acknowledged, by }))
            }
            _ => Ok(()),
        }
    }

    /// An answer of this member.
    pub(super) fn answer(&self, message: RaftResponse) -> Response {
        // A follower's view of the cluster's clock is moved on from when it last looked.
        let backup = self.backups.status(self.clock.now_ms());
        let now_ms = wmall_runtime::clock::now_ms();
        let volumes = self.volumes.own();
        let incarnation = self.born.incarnation;
        Response::Raft(RaftAnswer { incarnation, now_ms, volumes, backup, message })
    }

    /// The cluster that this member knows; none if it has never taken part in one.
    pub(super) fn known(&self, asking: u64) -> Option<KnownCluster> {
        let members = self.members();
        // One that has voted, and has yet to hear for whom, knows no cluster either.
        if self.log.is_pristine() || members.is_empty() {
            return None;
        }
        let vote = self.log.vote().unwrap_or_default();
        let leader = (vote.leader_id.term, vote.leader_id.node_id);
        let replicated = self.replicated().into_iter().find(|(id, _)| *id == asking);
        let replicated = replicated.map(|(_, index)| Acknowledged { leader, index });
        let heard = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).get(&asking).copied();
        let members = members.into_iter().map(|(id, member)| (id, member.incarnation)).collect();
        let led = self.raft.get().is_some_and(|raft| raft.metrics().borrow().current_leader.is_some());
        Some(KnownCluster { members, acknowledged: replicated.or(heard), led })
    }

    /// Asks the others what they know of this member before it takes part. Those that do not answer in
    /// [`HELLO`] are off, as far as this one can tell.
    pub(crate) async fn check_self(&self, others: &[(NodeName, Target)]) -> Result<(), NotAMember> {
        let vote = self.log.vote().unwrap_or_default();
        let (last, voted) = (self.log.last(), (vote.leader_id.term, vote.leader_id.node_id));
        for (name, known) in hello_all(&self.endpoint, self.born, others, HELLO).await {
            let Some(known) = known.1 else { continue };
            judge_self(self.born, (last, voted), &known, name.as_str())?;
        }
        Ok(())
    }

    /// Asks a node that is to become a member for its life. It must never have taken part in a cluster.
    pub(crate) async fn greet(&self, target: &Target, deadline: Duration) -> Result<Incarnation, RpcError> {
        let (incarnation, known) = hello(&self.endpoint, self.born, target, deadline).await?;
        match known {
            None => Ok(incarnation),
            Some(known) => {
                let ids: Vec<String> = known.members.iter().map(|(id, _)| id.to_string()).collect();
                let reason =
                    format!("{} has been part of a cluster (members {})", target.node, ids.join(", "));
                Err(RpcError::new(ErrorCode::Unsafe, reason).hint(
                    "empty its folder and run `wmall metadata-node init` with an id that no member ever had",
                ))
            }
        }
    }
}

/// What another member's knowledge says of this folder, which ends at an entry and has voted for a leader.
/// One without a leader may be what is left of a former life, in which this folder's member was another; it
/// has no say.
fn judge_self(
    born: Born,
    (last, voted): (u64, (u64, u64)),
    known: &KnownCluster,
    by: &str,
) -> Result<(), NotAMember> {
    let (id, by) = (born.id, by.to_string());
    match known.members.iter().find(|(member, _)| *member == id) {
        Some((_, life)) if *life != born.incarnation && known.led => Err(NotAMember::Replaced { id, by }),
        Some((_, life)) if *life != born.incarnation => {
            tracing::warn!(
                by,
                "a member without a leader knows this one in another life; is it of a former cluster?"
            );
            Ok(())
        }
        _ => match known.acknowledged {
            // By a later leader's will it may have been taken back.
            Some(Acknowledged { leader, index: acknowledged }) if acknowledged > last && voted <= leader => {
                Err(NotAMember::RolledBack { last, acknowledged, by })
            }
            _ => Ok(()),
        },
    }
}

/// A member's life and the cluster that it knows.
pub(crate) type Hello = (Incarnation, Option<KnownCluster>);

pub(crate) async fn hello(
    endpoint: &Endpoint,
    own: Born,
    target: &Target,
    deadline: Duration,
) -> Result<Hello, RpcError> {
    let Born { id: from, incarnation } = own;
    let message = RaftRequest::Hello;
    let call = RaftCall { from, incarnation, to: None, acknowledged: Vec::new(), message };
    match endpoint.call(target, &Request::Raft(call), deadline).await? {
        Response::Raft(RaftAnswer { incarnation, message: RaftResponse::Hello(known), .. }) => {
            Ok((incarnation, known))
        }
        _ => Err(RpcError::internal("the greeting got another answer")),
    }
}

/// Those of the others that answer within the deadline.
pub(crate) async fn hello_all(
    endpoint: &Endpoint,
    own: Born,
    others: &[(NodeName, Target)],
    deadline: Duration,
) -> Vec<(NodeName, Hello)> {
    let mut asked = JoinSet::new();
    for (name, target) in others.iter().cloned() {
        let endpoint = endpoint.clone();
        asked.spawn(async move { (name, hello(&endpoint, own, &target, deadline).await) });
    }
    let mut answers = Vec::new();
    while let Some(answered) = asked.join_next().await {
        if let Ok((name, Ok(hello))) = answered {
            answers.push((name, hello));
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_made_anew_and_one_that_was_put_back_are_no_members() {
        let born = Born { id: 2, incarnation: Incarnation([2; 16]) };
        let known = |life: u8, index: Option<u64>| KnownCluster {
            members: vec![(1, Incarnation([1; 16])), (2, Incarnation([life; 16]))],
            acknowledged: index.map(|index| Acknowledged { leader: (5, 1), index }),
            led: true,
        };
        let judge_as = |voted, known: &KnownCluster| judge_self(born, (10, voted), known, "metadata-1");
        let judge = |known: &KnownCluster| judge_as((5, 1), known);
        let by = || "metadata-1".to_string();
        assert_eq!(judge(&known(2, None)), Ok(()));
        assert_eq!(judge(&known(2, Some(10))), Ok(()));
        assert_eq!(judge(&known(9, Some(10))), Err(NotAMember::Replaced { id: 2, by: by() }));
        let rolled_back = NotAMember::RolledBack { last: 10, acknowledged: 11, by: by() };
        assert_eq!(judge(&known(2, Some(11))), Err(rolled_back.clone()));
        assert_eq!(judge_as((4, 3), &known(2, Some(11))), Err(rolled_back), "it forgot its vote as well");
        assert_eq!(judge_as((6, 1), &known(2, Some(11))), Ok(()), "a later leader has had it taken back");
        let leftover = KnownCluster { led: false, ..known(9, Some(99)) };
        assert_eq!(judge(&leftover), Ok(()), "of a former life of the cluster");
        // It was let go, or is yet to be taken in.
        let without = KnownCluster { members: vec![], acknowledged: None, led: true };
        assert_eq!(judge(&without), Ok(()));
    }
}
