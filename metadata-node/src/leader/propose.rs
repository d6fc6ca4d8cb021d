//! Group commit for the Raft log: commands that arrive while an entry is under way share the next one.
//!
//! One task. The queue before it holds [`QUEUE`] commands and [`QUEUE_BYTES`]; a full queue answers `busy`.
//! A command whose caller has given up before its turn is dropped. Up to [`IN_FLIGHT`] entries are under way
//! at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use wmall_proto::identity::Actor;
use wmall_proto::rpc::Response;
use wmall_proto::{ErrorCode, RequestId, RpcError, codec};

use super::{ClusterClock, Volumes};
use crate::command::{Batch, Command, Envelope};
use crate::types::Raft;

/// Commands that may wait.
const QUEUE: usize = 4096;
/// Bytes of commands that may wait.
const QUEUE_BYTES: usize = 64 << 20;
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
    _room: OwnedSemaphorePermit,
    reply: oneshot::Sender<Result<Response, RpcError>>,
}

/// The way into the log.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    volumes: Arc<Volumes>,
}

impl Proposer {
    /// Starts the task.
    pub(crate) fn start(raft: Raft, clock: Arc<ClusterClock>, volumes: Arc<Volumes>) -> Self {
        let (queue, commands) = mpsc::channel(QUEUE);
        tokio::spawn(run(raft, clock, commands));
        Self { queue, room: Arc::new(Semaphore::new(QUEUE_BYTES)), volumes }
    }

    /// Proposes a command and waits for its answer.
    pub async fn propose(&self, request: Option<RequestId>, command: Command) -> Result<Response, RpcError> {
        self.queue(Envelope { request, by: None, command }).await
    }

    /// The same for somebody's act, which goes into the audit log.
    pub async fn propose_act(
        &self,
        request: Option<RequestId>,
        by: Actor,
        command: Command,
    ) -> Result<Response, RpcError> {
        self.queue(Envelope { request, by: Some(by), command }).await
    }

    async fn queue(&self, envelope: Envelope) -> Result<Response, RpcError> {
        if envelope.command.grows() {
            self.volumes.check()?;
        }
        let bytes = codec::encode(&envelope).len();
        if bytes > MAX_COMMAND {
            let reason = format!("a command of {bytes} bytes; {MAX_COMMAND} at most");
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason));
        }
        let (reply, answer) = oneshot::channel();
        let full = || RpcError::new(ErrorCode::Busy, "the metadata leader has too many commands waiting");
        let room = self.room.clone().try_acquire_many_owned(bytes as u32).map_err(|_| full())?;
        self.queue.try_send(Waiting { envelope, bytes, _room: room, reply }).map_err(|_| full())?;
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
