//! Commits and closed tickets: what disks have signed is verified here, before anything reaches the log, and
//! never again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ed25519_zebra::VerificationKey;
use wmall_manifest::check_chunk_size;
use wmall_proto::chunk::{ChunkCommit, MAX_PIECES_PER_COMMIT};
use wmall_proto::clock::UPLOAD_SKEW_MS;
use wmall_proto::identity::Actor;
use wmall_proto::receipt::{Receipt, SignedReceipt};
use wmall_proto::rpc::{CommitRequest, Response};
use wmall_proto::scheme::MAX_WIDTH;
use wmall_proto::topology::Topology;
use wmall_proto::{DiskId, ErrorCode, Incarnation, PgId, PoolId, RequestId, RpcError, Scheme, UploadId};

use crate::command::{Command, FetchedPiece};
use crate::service::{Service, bounded};

/// Chunks whose receipts are verified before others get their turn.
const VERIFY_AT_ONCE: usize = 16;

/// Public keys, decompressed once. Bounded by the disks that are registered.
#[derive(Default)]
pub(crate) struct KeyCache(Mutex<HashMap<[u8; 32], VerificationKey>>);

impl KeyCache {
    pub(crate) fn get(&self, bytes: [u8; 32]) -> Result<VerificationKey, RpcError> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(&bytes) {
            return Ok(*key);
        }
        let bad = |_| RpcError::new(ErrorCode::BadReceipt, "the disk's public key is malformed");
        let key = VerificationKey::try_from(bytes).map_err(bad)?;
        keys.insert(bytes, key);
        Ok(key)
    }
}

impl Service {
    pub(crate) async fn commit(
        &self,
        request: RequestId,
        by: Actor,
        mut commit: CommitRequest,
    ) -> Result<Response, RpcError> {
        self.must_lead()?;
        let topology = self.state.topology();
        if let Err(error) = self.check_commit(&topology, &mut commit).await {
            return Err(self.confirmed(&topology, error).await);
        }
        let command = Command::from_commit(by.clone(), commit);
        self.proposer.propose_for(Some(request), by, command).await
    }

    /// Returns a verdict that was reached by this map if the map is the cluster's, which takes a round to the
    /// members: one that led once, and has not heard yet that it does not, may have an old one. Returns a
    /// reason to ask again else.
    async fn confirmed(&self, topology: &Topology, error: RpcError) -> RpcError {
        match self.reads.wait().await {
            Err(no_leader) => no_leader,
            Ok(()) if self.state.topology().version == topology.version => error,
            Ok(()) => RpcError::new(ErrorCode::Busy, "the map has changed while receipts were looked at"),
        }
    }

    /// Verifies what the commit brings, and drops receipts that don't count.
    async fn check_commit(&self, topology: &Topology, commit: &mut CommitRequest) -> Result<(), RpcError> {
        drop_void_receipts(topology, commit);
        let (upload, pool, chunks) = match commit {
            CommitRequest::Part { upload, pool, chunks, .. } => (*upload, *pool, chunks),
            CommitRequest::File { upload, pool, chunks, chunk_size, .. } => {
                check_chunk_size(*chunk_size)
                    .map_err(|e| RpcError::new(ErrorCode::OutOfBounds, e.to_string()))?;
                (*upload, *pool, chunks)
            }
        };
        if upload.started_ms() > self.clock.now_ms().saturating_add(UPLOAD_SKEW_MS) {
            let reason = format!("upload {upload} begins more than an hour from now");
            return Err(RpcError::new(ErrorCode::BadRequest, reason)
                .hint("begin uploads by the cluster's clock, which comes with the map"));
        }
        if chunks.len() > MAX_PIECES_PER_COMMIT {
            let reason = format!("{} chunks in one commit; {MAX_PIECES_PER_COMMIT} at most", chunks.len());
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason));
        }
        if let Some(chunk) = chunks.iter().find(|c| c.receipts.len() > usize::from(MAX_WIDTH)) {
            let reason = format!("{} receipts for one chunk; {MAX_WIDTH} at most", chunk.receipts.len());
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason));
        }
        let unknown = || RpcError::not_found(format!("pool number {}", pool.0));
        let scheme = topology.pools.get(&pool).ok_or_else(unknown)?.pool.scheme;
        let width = if scheme.is_striped() { scheme.width() } else { 0 };
        let odd = |c: &&mut ChunkCommit| {
            let wanted = if c.receipts.is_empty() { 0 } else { width };
            c.digests.len() != wanted
        };
        if let Some(chunk) = chunks.iter_mut().find(odd) {
            let reason = format!("chunk {} comes with {} digests of pieces", chunk.id, chunk.digests.len());
            return Err(RpcError::new(ErrorCode::BadRequest, reason));
        }
        for few in chunks.chunks_mut(VERIFY_AT_ONCE) {
            for chunk in few {
                self.verify_receipts(topology, upload, (pool, scheme), chunk)?;
            }
            // Others get their turn: a full part has twelve thousand signatures at three copies.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Signatures are checked here and never again.
    fn verify_receipts(
        &self,
        topology: &Topology,
        upload: UploadId,
        (pool, scheme): (PoolId, Scheme),
        chunk: &mut ChunkCommit,
    ) -> Result<(), RpcError> {
        let (mut good, mut last) = (Vec::with_capacity(chunk.receipts.len()), None);
        for proof in &chunk.receipts {
            let signed = proof.within(upload, (pool, scheme), chunk);
            let unknown = || RpcError::new(ErrorCode::BadReceipt, format!("there is no slot {}", proof.slot));
            match signed.ok_or_else(unknown).and_then(|signed| self.verify_receipt(topology, &signed)) {
                Ok(()) => good.push(proof.clone()),
                Err(error) => last = Some(error),
            }
        }
        // One disk's lie is no reason to refuse what the others promise. Without any promise the chunk would
        // become a claim, which nobody made.
        if let Some(error) = last {
            if good.is_empty() {
                return Err(error);
            }
            tracing::warn!(%error, chunk = %chunk.id, "a receipt does not count");
            chunk.receipts = good;
        }
        Ok(())
    }

    fn verify_receipt(&self, topology: &Topology, signed: &SignedReceipt) -> Result<(), RpcError> {
        let disk = signed.receipt.disk;
        let info = topology.disks.get(&disk).ok_or_else(|| RpcError::not_found(disk))?;
        let key = self.keys.get(info.public_key)?;
        signed
            .verify(&self.cluster, &key)
            .map_err(|e| RpcError::new(ErrorCode::BadReceipt, format!("{disk}: {e}")))
    }

    pub(crate) async fn close_tickets(
        &self,
        by: Actor,
        disk: DiskId,
        receipts: Vec<SignedReceipt>,
        clean: Vec<(PoolId, PgId)>,
        as_of: u64,
    ) -> Result<Response, RpcError> {
        self.must_lead()?;
        bounded(receipts.len())?;
        bounded(clean.len() / 16)?;
        let topology = self.state.topology();
        let (incarnation, pieces) = match self.fetched(&topology, disk, &receipts) {
            Ok(fetched) => fetched,
            Err(error) => return Err(self.confirmed(&topology, error).await),
        };
        let command = Command::CloseTickets { disk, incarnation, pieces, clean, as_of };
        self.proposer.propose_for(None, by, command).await
    }

    /// The disk's incarnation, and what its receipts say that it has.
    fn fetched(
        &self,
        topology: &Topology,
        disk: DiskId,
        receipts: &[SignedReceipt],
    ) -> Result<(Incarnation, Vec<FetchedPiece>), RpcError> {
        let info = topology.disks.get(&disk).ok_or_else(|| RpcError::not_found(disk))?;
        let incarnation = info.incarnation;
        let mut pieces = Vec::with_capacity(receipts.len());
        for signed in receipts {
            if signed.receipt.disk != disk || signed.receipt.incarnation != incarnation {
                let reason = format!("a receipt is not of {disk} in its present life");
                return Err(RpcError::new(ErrorCode::BadReceipt, reason));
            }
            self.verify_receipt(topology, signed)?;
            let Receipt { pool, chunk, slot, digest, .. } = signed.receipt;
            pieces.push(FetchedPiece { pool, chunk, slot, digest });
        }
        Ok((incarnation, pieces))
    }
}

/// Receipts of a disk's former life prove nothing, and do not verify under its present key either.
fn drop_void_receipts(topology: &Topology, commit: &mut CommitRequest) {
    let (CommitRequest::Part { chunks, .. } | CommitRequest::File { chunks, .. }) = commit;
    for chunk in chunks {
        chunk.receipts.retain(|r| topology.disks.get(&r.disk).is_none_or(|d| d.incarnation == r.incarnation));
    }
}
