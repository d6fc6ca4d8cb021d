//! Changes of the metadata nodes themselves: a member is taken in once it has caught up, or let go.
//!
//! One change at a time; openraft refuses a second. An id is used once: a member that lost its memory comes
//! back under a new one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use wmall_proto::rpc::{MemberCommand, Response};
use wmall_proto::{ErrorCode, Incarnation, RpcError};

use crate::leader::not_leader;
use crate::raft::Peers;
use crate::types::{Member, Raft};

/// How long a new member may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(90);
/// Between tries while another change is under way.
const PAUSE: Duration = Duration::from_millis(200);
/// The most members there may be for long.
const MAX_MEMBERS: usize = 5;

/// How long a node that is to become a member may take to say who it is.
const GREETING: Duration = Duration::from_secs(2);

/// Changes the membership.
pub(crate) struct Members {
    pub(crate) raft: Raft,
    pub(crate) peers: Arc<Peers>,
}

impl Members {
    pub(crate) async fn change(&self, command: MemberCommand) -> Result<Response, RpcError> {
        let changing = async {
            loop {
                let changed = match &command {
                    MemberCommand::Add { id, name, address } => {
                        let incarnation = Incarnation([0; 16]);
                        self.add(*id, Member { name: name.to_string(), address: *address, incarnation }).await
                    }
                    MemberCommand::Remove { id } => self.remove(*id).await,
                };
                match changed {
                    // The change before this one is agreed on any moment now, or the node that was there
                    // before has left a connection that has yet to end.
                    Err(error)
                        if matches!(
                            error.code,
                            ErrorCode::Busy | ErrorCode::Unreachable | ErrorCode::Timeout
                        ) =>
                    {
                        tokio::time::sleep(PAUSE).await;
                    }
                    changed => return changed,
                }
            }
        };
        let late = |_| {
            RpcError::new(ErrorCode::Timeout, format!("the members did not agree within {CATCH_UP:?}"))
                .hint("check that the new member runs, and is reachable, with `join = true`; then try again")
        };
        tokio::time::timeout(CATCH_UP, changing).await.map_err(late)?
    }

    fn present(&self) -> Vec<(u64, Member)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.nodes().map(|(id, node)| (*id, node.clone())).collect()
    }

    /// Takes a node in, in the life that it has now.
    async fn add(&self, id: u64, mut member: Member) -> Result<Response, RpcError> {
        let present = self.present();
        let same_place = |m: &Member| m.name == member.name && m.address == member.address;
        if let Some((_, same)) = present.iter().find(|(i, m)| *i == id && !same_place(m)) {
            let reason = format!("id {id} is that of {}; an id is used once", same.name);
            return Err(RpcError::new(ErrorCode::AlreadyExists, reason));
        }
        let twin =
            |(i, m): &&(u64, Member)| *i != id && (m.name == member.name || m.address == member.address);
        if let Some((other, twin)) = present.iter().find(twin) {
            let reason = format!("member {other} ({}) has that name or address", twin.name);
            return Err(RpcError::new(ErrorCode::AlreadyExists, reason)
                .hint(format!("`wmall meta member rm {other}` lets it go first")));
        }
        if present.len() > MAX_MEMBERS {
            let reason = format!("there are {} members; {MAX_MEMBERS} at most", present.len());
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason));
        }
        member.incarnation = match present.iter().find(|(i, _)| *i == id) {
            // It was being taken in when that was broken off.
            Some((_, same)) => same.incarnation,
            None => {
                let target =
                    member.target().ok_or_else(|| RpcError::internal("a member without a valid name"))?;
                self.peers.greet(&target, GREETING).await?
            }
        };
        self.raft.add_learner(id, member, true).await.map_err(|e| refused(&e))?;
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.raft.change_membership(change, false).await.map_err(|e| refused(&e))?;
        Ok(Response::Done)
    }

    async fn remove(&self, id: u64) -> Result<Response, RpcError> {
        let present = self.present();
        if !present.iter().any(|(i, _)| *i == id) {
            return Err(RpcError::not_found(format!("member with id {id}")).hint("`wmall meta member ls`"));
        }
        if present.len() == 1 {
            return Err(RpcError::new(ErrorCode::OutOfBounds, "the last member can't be removed"));
        }
        // One that was never caught up is no voter, and goes another way.
        let voter = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().voter_ids().any(|v| v == id)
        };
        let ids = BTreeSet::from([id]);
        let change = if voter { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) };
        self.raft.change_membership(change, false).await.map_err(|e| refused(&e))?;
        Ok(Response::Done)
    }
}

fn refused(error: &RaftError<u64, ClientWriteError<u64, Member>>) -> RpcError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            not_leader(forward.leader_node.as_ref())
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            let code = match error {
                ChangeMembershipError::InProgress(_) => ErrorCode::Busy,
                _ => ErrorCode::BadRequest,
            };
            RpcError::new(code, error.to_string()).hint("`wmall meta member ls` shows the members")
        }
        RaftError::Fatal(fatal) => {
            RpcError::new(ErrorCode::ShuttingDown, format!("this metadata node stopped: {fatal}"))
        }
    }
}
