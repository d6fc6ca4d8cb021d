//! Group commit for the Raft log: commands that arrive while an entry is under way share the next one.
//!
//! One task. The queue before it holds as many commands and bytes as [`COMMANDS`] and [`BYTES`] say, of one
//! holder and of all; a full queue answers `busy`. Part of both is kept for operators and nodes, so that who
//! fills the rest can be revoked. A command whose caller has given up before its turn is dropped. Up to
//! [`IN_FLIGHT`] entries are under way at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use wmall_proto::identity::Actor;
use wmall_proto::rpc::Response;
use wmall_proto::{ErrorCode, NodeName, RequestId, Role, RpcError, codec};
use wmall_transport::{Bounds, Holder, Place, Refusal, Room, is_privileged};

use super::{ClusterClock, Volumes};
use crate::command::{Batch, Command, Envelope};
use crate::state::State;
use crate::types::Raft;

const MIB: u64 = 1 << 20;

/// Commands that may wait.
const COMMANDS: Bounds = Bounds { room: 3584, most: 1536, kept: 1024, first: 64, reserve: 512 };
/// Bytes of commands that may wait.
const BYTES: Bounds =
    Bounds { room: 48 * MIB, most: 24 * MIB, kept: 16 * MIB, first: 4 * MIB, reserve: 16 * MIB };
/// Commands in one entry.
const MAX_COMMANDS: usize = 256;
/// Bytes of commands after which an entry is closed.
const MAX_BYTES: usize = 1 << 20;
/// Bytes that one command may have: an entry must fit in a message, with room for the next command.
const MAX_COMMAND: usize = 4 << 20;
/// Entries above this are decoded once more before they are proposed: a value takes at most a few times in
/// memory what it takes encoded, and memory is what the decoder's limit counts.
const CHECKED: usize = 512 << 10;
/// Entries under way.
const IN_FLIGHT: usize = 3;
/// How long a command may take; after that its caller does not know and asks again with the same id.
const TIMEOUT: Duration = Duration::from_secs(10);

struct Waiting {
    envelope: Envelope,
    bytes: usize,
    _places: [Place<Holder>; 2],
    reply: oneshot::Sender<Result<Response, RpcError>>,
}

/// The way into the log.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Waiting>,
    commands: Room<Holder>,
    bytes: Room<Holder>,
    /// Holder of the commands that this member makes by itself.
    own: Holder,
    volumes: Arc<Volumes>,
    state: Arc<State>,
}

impl Proposer {
    /// Starts the task.
    pub(crate) fn start(
        raft: Raft,
        clock: Arc<ClusterClock>,
        name: NodeName,
        volumes: Arc<Volumes>,
        state: Arc<State>,
    ) -> Self {
        let (queue, waiting) = mpsc::channel((COMMANDS.room + COMMANDS.reserve) as usize);
        tokio::spawn(run(raft, clock, waiting));
        let (commands, bytes) = (Room::new(COMMANDS), Room::new(BYTES));
        let own = Arc::new(Actor { role: Role::Metadata, name });
        Self { queue, commands, bytes, own, volumes, state }
    }

    /// Proposes a command of this member's own and waits for its answer.
    pub async fn propose(&self, request: Option<RequestId>, command: Command) -> Result<Response, RpcError> {
        self.queue(self.own.clone(), Envelope { request, by: None, command }).await
    }

    /// Proposes a command of somebody else, whom it counts for.
    pub async fn propose_for(
        &self,
        request: Option<RequestId>,
        by: Actor,
        command: Command,
    ) -> Result<Response, RpcError> {
        self.queue(Arc::new(by), Envelope { request, by: None, command }).await
    }

    /// The same for somebody's act, which goes into the audit log.
    pub async fn propose_act(
        &self,
        request: Option<RequestId>,
        by: Actor,
        command: Command,
    ) -> Result<Response, RpcError> {
        self.queue(Arc::new(by.clone()), Envelope { request, by: Some(by), command }).await
    }

    /// Places in both rooms, or none.
    fn places(&self, holder: &Holder, bytes: usize) -> Result<[Place<Holder>; 2], RpcError> {
        let privileged = is_privileged(holder.role);
        let full = |refusal| {
            let reason = match refusal {
                Refusal::Own => format!("{holder} has too many commands waiting at the metadata leader"),
                Refusal::All => "the metadata leader has too many commands waiting".to_string(),
            };
            RpcError::new(ErrorCode::Busy, reason).hint("send fewer at once, and try again")
        };
        let command = self.commands.try_take(holder.clone(), privileged, 1).map_err(full)?;
        let bytes = self.bytes.try_take(holder.clone(), privileged, bytes as u64).map_err(full)?;
        Ok([command, bytes])
    }

    async fn queue(&self, holder: Holder, envelope: Envelope) -> Result<Response, RpcError> {
        // A retry whose first try took effect is to hear of it: its answer makes nothing grow.
        let answered = envelope.request.as_ref().is_some_and(|request| self.state.has_answer(request));
        if envelope.command.grows() && !answered {
            self.volumes.check()?;
        }
        let bytes = codec::encode(&envelope).len();
        if bytes > MAX_COMMAND {
            let reason = format!("a command of {bytes} bytes; {MAX_COMMAND} at most");
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason));
        }
        let (reply, answer) = oneshot::channel();
        let full = || RpcError::new(ErrorCode::Busy, "the metadata leader has too many commands waiting");
        let _places = self.places(&holder, bytes)?;
        self.queue.try_send(Waiting { envelope, bytes, _places, reply }).map_err(|_| full())?;
        match tokio::time::timeout(TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RpcError::new(ErrorCode::ShuttingDown, "the metadata node is stopping")),
            Err(_) => Err(RpcError::new(
                ErrorCode::NoQuorum,
                "the command was not agreed on within 10 s; it may still take effect",
            )
            .hint("check that a majority of the metadata nodes is up: `wmall status`")),
        }
    }
}

async fn run(raft: Raft, clock: Arc<ClusterClock>, mut commands: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Some(first) = commands.recv().await {
        // Waiting for a place first lets the batch grow while the entries before it are written.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        if first.reply.is_closed() {
            continue;
        }
        let (mut bytes, mut batch) = (first.bytes, vec![first]);
        while batch.len() < MAX_COMMANDS && bytes < MAX_BYTES {
            let Ok(next) = commands.try_recv() else { break };
            if next.reply.is_closed() {
                continue;
            }
            bytes += next.bytes;
            batch.push(next);
        }
        let (envelopes, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.envelope, w.reply)).unzip();
        let payload = Bytes::from(codec::encode(&Batch { now_ms: clock.stamp(), items: envelopes }));
        // What an apply could not decode would stop every member for good.
        if payload.len() > CHECKED && codec::decode::<Batch>(&payload).is_err() {
            let code = if replies.len() > 1 { ErrorCode::Busy } else { ErrorCode::OutOfBounds };
            let error = RpcError::new(code, "too much for one entry of the log").hint("send less at once");
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
            continue;
        }
        let raft = raft.clone();
        tokio::spawn(async move {
            let outcome = raft.client_write(payload).await;
            drop(place);
            let answers =
                outcome.map_err(|e| refused(&e)).and_then(|r| decode_answers(&r.data, replies.len()));
            match answers {
                Ok(answers) => {
                    for (reply, answer) in replies.into_iter().zip(answers) {
                        let _ = reply.send(answer);
                    }
                }
                Err(error) => {
                    for reply in replies {
                        let _ = reply.send(Err(error.clone()));
                    }
                }
            }
        });
    }
}

fn decode_answers(bytes: &[u8], expected: usize) -> Result<Vec<Result<Response, RpcError>>, RpcError> {
    let encoded: Vec<Vec<u8>> = codec::decode(bytes).map_err(RpcError::internal)?;
    if encoded.len() != expected {
        return Err(RpcError::internal("an entry has another number of answers than commands"));
    }
    Ok(encoded.iter().map(|b| codec::decode(b).map_err(RpcError::internal).and_then(|a| a)).collect())
}

fn refused(error: &RaftError<u64, ClientWriteError<u64, crate::types::Member>>) -> RpcError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            not_leader(forward.leader_node.as_ref())
        }
        RaftError::APIError(other) => RpcError::internal(other),
        RaftError::Fatal(fatal) => {
            RpcError::new(ErrorCode::ShuttingDown, format!("this metadata node stopped: {fatal}"))
        }
    }
}

/// The answer of a member that does not lead; the hint is the leader's name, or empty.
pub(crate) fn not_leader(leader: Option<&crate::types::Member>) -> RpcError {
    let hint = leader.map_or_else(String::new, |m| m.name.clone());
    RpcError::new(ErrorCode::NotLeader, "this metadata node does not lead").hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places for as many commands of so many bytes as this holder gets.
    fn fill(proposer: &Proposer, role: Role, name: &str, bytes: usize) -> Vec<[Place<Holder>; 2]> {
        let holder = Arc::new(Actor { role, name: name.parse().unwrap() });
        std::iter::from_fn(|| proposer.places(&holder, bytes).ok()).collect()
    }

    #[test]
    fn an_operator_finds_room_whatever_users_have_queued() {
        let (queue, _waiting) = mpsc::channel(1);
        let name: NodeName = "metadata-1".parse().unwrap();
        let volumes = Volumes::new(name.clone());
        let own = Arc::new(Actor { role: Role::Metadata, name });
        let store = wmall_runtime::view::MemoryStore::default();
        let state = Arc::new(State::open(Box::new(store)).unwrap());
        for bytes in [1, MAX_COMMAND] {
            let (commands, room) = (Room::new(COMMANDS), Room::new(BYTES));
            let proposer = Proposer {
                queue: queue.clone(),
                commands,
                bytes: room,
                own: own.clone(),
                volumes: volumes.clone(),
                state: state.clone(),
            };
            let first = fill(&proposer, Role::Client, "first", bytes);
            assert_eq!(first.len(), if bytes == 1 { 1536 } else { 6 });
            let mut others = Vec::new();
            for n in 0..100 {
                others.extend(fill(&proposer, Role::Client, &format!("other-{n}"), bytes));
            }
            assert_eq!(fill(&proposer, Role::Client, "late", bytes).len(), 0, "a hundred fill it");
            assert!(!fill(&proposer, Role::Admin, "operator", bytes).is_empty());
            assert!(!fill(&proposer, Role::Metadata, "metadata-1", bytes).is_empty());
        }
    }
}
