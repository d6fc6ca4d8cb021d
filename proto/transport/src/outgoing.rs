//! Making calls.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use wmall_proto::codec;
use wmall_proto::rpc::{Request, Response};
use wmall_proto::{ErrorCode, NodeName, Role, RpcError};

use crate::body::Body;
use crate::endpoint::Endpoint;
use crate::pool::connection_error;

/// A node and where it listens; its certificate must carry the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// What it should be; its certificate must say so.
    pub role: Role,
    /// Its name.
    pub node: NodeName,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Target {
    /// A metadata node.
    pub fn metadata(name: &NodeName, address: SocketAddr) -> Self {
        Self { role: Role::Metadata, node: name.clone(), address }
    }
}

/// A call that is being made: the header is sent, bulk bytes may follow, then the answer comes.
pub struct Call {
    target: Target,
    send: SendStream,
    receive: RecvStream,
    deadline: Instant,
    round_trip: Duration,
}

/// The answer to a call, with the bytes behind it.
pub struct Reply {
    /// What the peer said.
    pub response: Response,
    /// The bytes behind it, if the response announces any.
    pub body: Body,
}

impl Endpoint {
    /// Makes a call without bulk bytes and waits for the answer, no longer than `timeout`.
    pub async fn call(
        &self,
        target: &Target,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, RpcError> {
        Ok(self.ask(target, request, timeout).await?.response)
    }

    /// The same, with the bytes behind the answer.
    pub async fn ask(
        &self,
        target: &Target,
        request: &Request,
        timeout: Duration,
    ) -> Result<Reply, RpcError> {
        self.open(target, request, timeout).await?.finish().await
    }

    /// The connection to a peer, to do on it what no caller of ours does.
    #[cfg(feature = "testing")]
    pub async fn connection(&self, target: &Target) -> Result<quinn::Connection, RpcError> {
        self.pool.get(&self.quinn, target).await
    }

    /// Starts a call; `timeout` covers everything up to its answer.
    pub async fn open(
        &self,
        target: &Target,
        request: &Request,
        timeout: Duration,
    ) -> Result<Call, RpcError> {
        let deadline = Instant::now() + timeout;
        let opening = async {
            let connection = self.pool.get(&self.quinn, target).await?;
            let (mut send, receive) = connection.open_bi().await.map_err(|e| connection_error(target, &e))?;
            let frame = Bytes::from(codec::encode_frame(request));
            send.write_chunk(frame).await.map_err(|e| not_written(target, e))?;
            let round_trip = connection.rtt();
            Ok(Call { target: target.clone(), send, receive, deadline, round_trip })
        };
        within(target, deadline, opening).await
    }
}

impl Call {
    /// How far away the peer is, as far as is known.
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Sends bulk bytes.
    pub async fn write(&mut self, part: Bytes) -> Result<(), RpcError> {
        let Self { target, send, deadline, .. } = self;
        let writing = async { send.write_chunk(part).await.map_err(|e| not_written(target, e)) };
        within(target, *deadline, writing).await
    }

    /// Ends the bulk bytes and waits for the answer.
    pub async fn finish(mut self) -> Result<Reply, RpcError> {
        // A stream that the peer has stopped already still carries its answer.
        let _ = self.send.finish();
        let Self { target, mut receive, deadline, .. } = self;
        let reading = async {
            let mut prefix = [0u8; 4];
            receive.read_exact(&mut prefix).await.map_err(|e| not_read(&target, e))?;
            let length = codec::check_frame_length(prefix).map_err(|e| malformed(&target, &e))?;
            let mut bytes = vec![0u8; length];
            receive.read_exact(&mut bytes).await.map_err(|e| not_read(&target, e))?;
            let answer: Result<Response, RpcError> =
                codec::decode(&bytes).map_err(|e| malformed(&target, &e))?;
            answer
        };
        let response = within(&target, deadline, reading).await?;
        Ok(Reply { response, body: Body::new(receive) })
    }
}

async fn within<T>(
    target: &Target,
    deadline: Instant,
    work: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    match tokio::time::timeout_at(deadline.into(), work).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let reason = format!("{} at {} did not answer in time", target.node, target.address);
            Err(RpcError::new(ErrorCode::Timeout, reason))
        }
    }
}

/// The reason that the peer closed the connection with says more than that it is gone.
fn not_written(target: &Target, error: WriteError) -> RpcError {
    match error {
        WriteError::ConnectionLost(lost) => connection_error(target, &lost),
        other => broken(target, &other),
    }
}

fn not_read(target: &Target, error: ReadExactError) -> RpcError {
    match error {
        ReadExactError::ReadError(ReadError::ConnectionLost(lost)) => connection_error(target, &lost),
        other => broken(target, &other),
    }
}

fn broken(target: &Target, error: &dyn std::fmt::Display) -> RpcError {
    let reason = format!("{} at {}: {error}", target.node, target.address);
    RpcError::new(ErrorCode::Unreachable, reason)
}

/// Garbage tells of the peer that sent it, and not of the request.
fn malformed(target: &Target, error: &dyn std::fmt::Display) -> RpcError {
    RpcError::internal(format!("{} at {} sent a {error}", target.node, target.address))
}
