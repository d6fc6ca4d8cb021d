//! A user without any scope who takes what a server gives: connections, places for headers, room for chunks,
//! memory for answers, checks and calls. Each act holds what it got until it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use wmall_proto::chunk::MAX_CHUNK_SIZE;
use wmall_proto::rpc::{Ack, PutRequest, Request};
use wmall_proto::{ChunkId, DiskId, ErrorCode, PoolId, Topology, UploadId};
use wmall_transport::{Endpoint, Identity, Target};

/// How long a call of the hostile user may take. Most of its calls end with what they hold.
const PATIENCE: Duration = Duration::from_secs(30);
/// Dials at once.
const DIALS: usize = 32;

/// The hostile user.
pub struct Hostile {
    identity: Arc<Identity>,
}

/// Everything that an act holds.
pub struct Held {
    /// Ends the tasks with it.
    _tasks: JoinSet<()>,
    _endpoints: Vec<Endpoint>,
    _connections: Vec<Box<dyn std::any::Any + Send>>,
    /// Calls that were answered, and those of them that were told `busy`.
    answered: Arc<[AtomicU64; 2]>,
}

impl Held {
    fn of(endpoints: Vec<Endpoint>) -> Self {
        let (tasks, connections) = (JoinSet::new(), Vec::new());
        let answered = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        Self { _tasks: tasks, _endpoints: endpoints, _connections: connections, answered }
    }

    /// Calls that were answered, and those of them that were told `busy`.
    pub fn answered(&self) -> (u64, u64) {
        let [all, busy] = &*self.answered;
        (all.load(Ordering::Relaxed), busy.load(Ordering::Relaxed))
    }
}

impl Hostile {
    /// With this identity.
    pub fn new(identity: Identity) -> Self {
        Self { identity: Arc::new(identity) }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::client(&self.identity).expect("a socket")
    }

    /// Dials a node that often, each time as another process, and keeps every connection that it is left.
    /// Returns how many that are.
    pub async fn connect(&self, target: &Target, dials: usize) -> (Held, usize) {
        let mut dialling = JoinSet::new();
        let mut endpoints = Vec::new();
        for n in 0..dials + DIALS {
            if n >= DIALS
                && let Some(Ok(Some(endpoint))) = dialling.join_next().await
            {
                endpoints.push(endpoint);
            }
            if n < dials {
                let (endpoint, target) = (self.endpoint(), target.clone());
                dialling.spawn(async move {
                    let asked = Request::GetTopology { known: u64::MAX };
                    endpoint.call(&target, &asked, Duration::from_secs(5)).await.is_ok().then_some(endpoint)
                });
            }
        }
        endpoints.extend(dialling.join_all().await.into_iter().flatten());
        let left = endpoints.len();
        (Held::of(endpoints), left)
    }

    /// Claims headers of 8 MiB on each stream that it may open, and sends a few bytes of them.
    pub async fn claim_headers(&self, target: &Target, streams: usize) -> Held {
        let endpoint = self.endpoint();
        let mut held = Held::of(Vec::new());
        if let Ok(connection) = endpoint.connection(target).await {
            for _ in 0..streams {
                let Ok((mut send, receive)) = connection.open_bi().await else { break };
                let mut claim = (8u32 << 20).to_le_bytes().to_vec();
                claim.extend_from_slice(&[0; 100]);
                let _ = send.write_all(&claim).await;
                held._connections.push(Box::new((send, receive)));
            }
        }
        held._endpoints.push(endpoint);
        held
    }

    /// Announces chunks of the greatest length in every group of a pool, and sends nothing of them.
    pub async fn announce_chunks(&self, topology: &Topology, pool: PoolId, chunks: u64) -> Held {
        let endpoint = self.endpoint();
        let mut held = Held::of(vec![endpoint.clone()]);
        for n in 0..chunks {
            let chunk = ChunkId::of(&n.to_le_bytes());
            let Some((_, row)) = topology.row_of(pool, &chunk) else { continue };
            let Some(node) = topology.node_of(row.slots[0]) else { continue };
            let target =
                Target { role: wmall_proto::Role::Data, node: node.name.clone(), address: node.address };
            let put = Request::Put(PutRequest {
                upload: UploadId::new(wmall_runtime::clock::now_ms(), [3; 10]),
                pool,
                chunk,
                length: MAX_CHUNK_SIZE,
                row_version: row.version,
                slot: 0,
                relay: vec![1, 2],
                ack: Ack::All,
                shard: None,
            });
            if let Ok(call) = endpoint.open(&target, &put, PATIENCE).await {
                held._connections.push(Box::new(call));
            }
        }
        held
    }

    /// Asks for the whole map again and again over several connections, and reads none of the answers.
    pub async fn leave_answers(&self, target: &Target, connections: usize, calls: usize) -> Held {
        let mut held = Held::of(Vec::new());
        for _ in 0..connections {
            let endpoint = self.endpoint();
            for _ in 0..calls {
                let asked = endpoint.open(target, &Request::GetTopology { known: 0 }, PATIENCE).await;
                held._connections.extend(asked.ok().map(|call| Box::new(call) as _));
            }
            held._endpoints.push(endpoint);
        }
        held
    }

    /// Has a piece checked against a wrong digest, that often. Returns how often that was answered.
    pub async fn lie_about(
        &self,
        target: &Target,
        pool: PoolId,
        chunk: ChunkId,
        disk: DiskId,
        times: usize,
    ) -> usize {
        let (endpoint, mut calls) = (self.endpoint(), JoinSet::new());
        for n in 0..times {
            let (endpoint, target) = (endpoint.clone(), target.clone());
            let check = Request::CheckPiece {
                pool,
                chunk,
                disk: Some(disk),
                slot: None,
                digest: Some([n as u8; 32]),
            };
            calls.spawn(async move { endpoint.call(&target, &check, PATIENCE).await.is_ok() });
        }
        calls.join_all().await.into_iter().filter(|ok| *ok).count()
    }

    /// Makes calls as fast as they are answered, until it is dropped.
    pub fn flood(&self, targets: &[Target], tasks: usize) -> Held {
        let mut held = Held::of(vec![self.endpoint()]);
        for n in 0..tasks {
            let (endpoint, target) = (held._endpoints[0].clone(), targets[n % targets.len()].clone());
            let answered = held.answered.clone();
            held._tasks.spawn(async move {
                loop {
                    let asked = Request::GetTopology { known: u64::MAX };
                    let answer = endpoint.call(&target, &asked, PATIENCE).await;
                    let busy = answer.as_ref().is_err_and(|e| e.code == ErrorCode::Busy);
                    answered[0].fetch_add(u64::from(answer.is_ok() || busy), Ordering::Relaxed);
                    answered[1].fetch_add(u64::from(busy), Ordering::Relaxed);
                    if answer.is_err() && !busy {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            });
        }
        held
    }
}
