//! openraft's messages over our calls.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wmall_proto::rpc::{RaftCall, RaftRequest, RaftResponse, Request, Response};
use wmall_proto::{ErrorCode, RpcError, codec};

use super::peers::Peers;
use super::snapshot::SnapshotFolder;
use super::wire::{Envelope, WireEntry, decode, from_json, from_wire, malformed, to_json, to_wire};
use crate::types::{Member, Raft, TypeConfig};

/// Makes a [`Peer`] for each member.
#[derive(Clone)]
pub struct Network(Arc<Peers>, Arc<SnapshotFolder>);

impl Network {
    /// Calls go out as this member's, and its folder of snapshots hears of those that are sent.
    pub fn new(peers: Arc<Peers>, snapshots: Arc<SnapshotFolder>) -> Self {
        Self(peers, snapshots)
    }
}

/// The way to one member.
pub struct Peer {
    peers: Arc<Peers>,
    snapshots: Arc<SnapshotFolder>,
    id: u64,
    member: Member,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, id: u64, node: &Member) -> Peer {
        Peer { peers: self.0.clone(), snapshots: self.1.clone(), id, member: node.clone() }
    }
}

type CallError<E> = RPCError<u64, Member, RaftError<u64, E>>;

impl Peer {
    async fn call<T, E>(&self, request: RaftRequest, timeout: Duration) -> Result<T, CallError<E>>
    where
        T: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let no_name = || RpcError::internal("a member without a valid name");
        let target = self.member.target().ok_or_else(no_name).map_err(lost)?;
        let call = Request::Raft(self.peers.address(&self.member, request));
        let answer = self.peers.endpoint().call(&target, &call, timeout).await;
        let message = match answer.map_err(lost)? {
            Response::Raft(answer) => self.peers.judge_answer(&self.member, answer).map_err(lost)?,
            other => return Err(lost(malformed(format!("an answer of another kind: {other:?}")))),
        };
        let bytes = match message {
            RaftResponse::Append(bytes) | RaftResponse::Vote(bytes) | RaftResponse::Snapshot(bytes) => bytes,
            RaftResponse::Hello(_) => return Err(lost(malformed("a greeting in the place of an answer"))),
        };
        let outcome: Result<T, RaftError<u64, E>> = from_json(&bytes).map_err(lost)?;
        outcome.map_err(|error| RPCError::RemoteError(RemoteError::new(self.id, error)))
    }
}

fn lost<E: std::error::Error>(error: RpcError) -> CallError<E> {
    match error.code {
        // openraft backs off from a peer that can't be reached at all.
        ErrorCode::Unreachable | ErrorCode::Denied => RPCError::Unreachable(Unreachable::new(&error)),
        _ => RPCError::Network(NetworkError::new(&error)),
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        if self.peers.is_silent() {
            let aside = RpcError::new(ErrorCode::Unreachable, "this member's clock is too far off to lead");
            return Err(lost(aside));
        }
        let AppendEntriesRequest { vote, prev_log_id, entries, leader_commit } = request;
        let head = to_json(&(vote, prev_log_id, leader_commit));
        let tail: Vec<WireEntry> = entries.iter().map(to_wire).collect();
        let bytes = codec::encode(&Envelope { head, tail });
        self.call(RaftRequest::Append(bytes), option.hard_ttl()).await
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RPCError<u64, Member, RaftError<u64, InstallSnapshotError>>>
    {
        self.snapshots.note_sending();
        let InstallSnapshotRequest { vote, meta, offset, data, done } = request;
        let bytes = codec::encode(&Envelope { head: to_json(&(vote, meta, offset, done)), tail: data });
        self.call(RaftRequest::Snapshot(bytes), option.hard_ttl()).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        self.call(RaftRequest::Vote(to_json(&request)), option.hard_ttl()).await
    }
}

/// Answers a message of another member. Who that is, and whom it means, is judged before openraft hears of
/// it.
pub async fn answer(raft: &Raft, peers: &Peers, call: RaftCall) -> Result<Response, RpcError> {
    peers.judge_call(&call)?;
    let response = match &call.message {
        RaftRequest::Append(bytes) => {
            let envelope: Envelope<Vec<WireEntry>> = decode(bytes)?;
            let (vote, prev_log_id, leader_commit) = from_json(&envelope.head)?;
            peers.hear(&call, vote)?;
            let entries = envelope.tail.into_iter().map(from_wire).collect::<Result<_, _>>()?;
            let request = AppendEntriesRequest { vote, prev_log_id, entries, leader_commit };
            RaftResponse::Append(outcome(raft.append_entries(request).await)?)
        }
        RaftRequest::Snapshot(bytes) => {
            let Envelope { head, tail: data } = decode(bytes)?;
            let (vote, meta, offset, done) = from_json(&head)?;
            let request = InstallSnapshotRequest { vote, meta, offset, data, done };
            RaftResponse::Snapshot(outcome(raft.install_snapshot(request).await)?)
        }
        RaftRequest::Vote(bytes) => {
            let request: VoteRequest<u64> = from_json(bytes)?;
            RaftResponse::Vote(outcome(raft.vote(request).await)?)
        }
        RaftRequest::Hello => RaftResponse::Hello(peers.known(call.from)),
    };
    Ok(peers.answer(response))
}

/// What openraft answered, to be sent back; one that has stopped answers nothing.
fn outcome<T: Serialize, E: Serialize + std::error::Error>(
    outcome: Result<T, RaftError<u64, E>>,
) -> Result<Vec<u8>, RpcError> {
    match outcome {
        Err(RaftError::Fatal(error)) => Err(RpcError::internal(error)),
        outcome => Ok(to_json(&outcome)),
    }
}
