//! Linearizable reads: readers that arrive while a round with the quorum is under way share the next one
//! (Raft dissertation section 6.4).

use std::time::Duration;

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot};
use wmall_proto::{ErrorCode, RpcError};

use super::propose::not_leader;
use crate::types::Raft;

/// Readers that may wait.
const QUEUE: usize = 8192;
/// How long a round may take.
const TIMEOUT: Duration = Duration::from_secs(5);

type Waiting = oneshot::Sender<Result<(), RpcError>>;

/// The way to a linearizable read.
#[derive(Clone)]
pub struct ReadIndex {
    queue: mpsc::Sender<Waiting>,
}

impl ReadIndex {
    /// Starts the task.
    pub fn start(raft: Raft) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(raft, waiting));
        Self { queue }
    }

    /// Returns once this member's state includes every write that was acknowledged before the call.
    pub async fn wait(&self) -> Result<(), RpcError> {
        let (sender, receiver) = oneshot::channel();
        let full = |_| RpcError::new(ErrorCode::Busy, "the metadata leader has too many reads waiting");
        self.queue.try_send(sender).map_err(full)?;
        let gone = |_| RpcError::new(ErrorCode::ShuttingDown, "the metadata node is stopping");
        receiver.await.map_err(gone)?
    }
}

async fn run(raft: Raft, mut waiting: mpsc::Receiver<Waiting>) {
    let mut round = Vec::new();
    while waiting.recv_many(&mut round, QUEUE).await > 0 {
        let outcome = match tokio::time::timeout(TIMEOUT, raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refused(&error)),
            Err(_) => Err(no_quorum()),
        };
        for reader in round.drain(..) {
            let _ = reader.send(outcome.clone());
        }
    }
}

fn no_quorum() -> RpcError {
    RpcError::new(ErrorCode::NoQuorum, "no majority of the metadata nodes answers")
        .hint("check that a majority of the metadata nodes is up: `wmall status`")
}

fn refused(error: &RaftError<u64, CheckIsLeaderError<u64, crate::types::Member>>) -> RpcError {
    match error {
        RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)) => {
            not_leader(forward.leader_node.as_ref())
        }
        RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)) => no_quorum(),
        RaftError::Fatal(fatal) => {
            RpcError::new(ErrorCode::ShuttingDown, format!("this metadata node stopped: {fatal}"))
        }
    }
}
