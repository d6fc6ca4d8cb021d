//! `wmall verify`: metadata against the id, the disks' word against their keys, bytes against the chunks.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use wmall_proto::chunk::{ChunkView, PieceState};
use wmall_proto::grade::GradeCounts;
use wmall_proto::receipt::Attestation;
use wmall_proto::rpc::{Query, QueryReply, Request, Response};
use wmall_proto::{ChunkId, DiskId, ErrorCode, FileId, NodeName, PoolId, RpcError, Topology};

use crate::error::ClientError;
use crate::get::{Source, Wanted};
use crate::map::SlotTarget;
use crate::store::{Inner, Progress, Store, unexpected};

/// Chunks that are looked at side by side.
const PARALLEL: usize = 4;
/// How long a disk may take to sign for a piece.
const ATTEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Moves of a chunk's pieces that a verification follows before it reports what it sees.
const MAX_MOVES: usize = 4;
/// Troubles that a report lists; the counts count all.
const MAX_TROUBLES: usize = 100;

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// The file.
    pub file: Option<FileId>,
    /// Its chunks.
    pub chunks: u64,
    /// Chunks per grade.
    pub grades: GradeCounts,
    /// Pieces that their disks have signed for, now, under the keys that the map has.
    pub pieces_attested: u64,
    /// Pieces that were read and are good.
    pub pieces_good: u64,
    /// Pieces that should count and are not good, or could not be read from their disks.
    pub pieces_bad: u64,
    /// Pieces whose nodes refused to be asked or did not answer, which says nothing of the pieces.
    pub pieces_unasked: u64,
    /// Pieces that are known to be missing, or on nodes that do not answer.
    pub pieces_absent: u64,
    /// Chunks of which no good piece could be read.
    pub unreadable: u64,
    /// The first troubles, one by one.
    pub troubles: Vec<VerifyTrouble>,
    /// Troubles beyond those.
    pub troubles_unlisted: u64,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyTrouble {
    /// The chunk.
    pub chunk: ChunkId,
    /// The node, if it is about one piece.
    pub node: Option<NodeName>,
    /// What is wrong.
    pub what: String,
}

impl VerifyReport {
    /// Whether every chunk could be read and no piece that counts is bad.
    pub fn is_good(&self) -> bool {
        self.unreadable == 0 && self.pieces_bad == 0
    }

    /// True if every piece that should count was asked for with an answer.
    pub fn is_complete(&self) -> bool {
        self.pieces_unasked == 0
    }

    /// Counts a piece by what became of asking for it.
    fn count(&mut self, error: &RpcError) {
        match says_nothing_of_a_piece(error.code) {
            true => self.pieces_unasked += 1,
            false => self.pieces_bad += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.grades += other.grades;
        self.pieces_attested += other.pieces_attested;
        self.pieces_good += other.pieces_good;
        self.pieces_bad += other.pieces_bad;
        self.pieces_unasked += other.pieces_unasked;
        self.pieces_absent += other.pieces_absent;
        self.unreadable += other.unreadable;
        self.troubles.extend(other.troubles);
        let surplus = self.troubles.len().saturating_sub(MAX_TROUBLES) as u64;
        self.troubles_unlisted += other.troubles_unlisted + surplus;
        self.troubles.truncate(MAX_TROUBLES);
    }
}

impl Store {
    /// Checks a file: its manifest against its id, the signed word of each disk that should have a piece, and
    /// one good copy of each chunk; with `deep`, every piece. `progress` counts chunks.
    pub async fn verify(
        &self,
        source: &Source,
        deep: bool,
        progress: Option<Progress>,
    ) -> Result<VerifyReport, ClientError> {
        let (manifest, pool) = self.manifest(source).await?;
        let mut report = VerifyReport { file: Some(manifest.id()), ..VerifyReport::default() };
        let mut running = JoinSet::new();
        let chunks =
            manifest.chunks().iter().enumerate().map(|(i, &chunk)| (chunk, manifest.chunk_length(i)));
        // The blocks that the manifest is stored as are kept like any chunk.
        let blocks = manifest.blocks().into_iter().map(|b| (ChunkId::of(&b), b.len() as u32));
        let mut waiting = chunks.chain(blocks);
        loop {
            while running.len() < PARALLEL
                && let Some((chunk, length)) = waiting.next()
            {
                let store = self.inner.clone();
                running.spawn(async move { store.verify_chunk(pool, chunk, length, deep).await });
            }
            let Some(joined) = running.join_next().await else { return Ok(report) };
            report.add(joined.map_err(RpcError::internal)??);
            if let Some(progress) = &progress {
                progress(report.chunks);
            }
        }
    }
}

impl Inner {
    /// Looks at a chunk; and looks again, at where it is then, if something was amiss and its pieces have
    /// moved meanwhile.
    async fn verify_chunk(
        self: Arc<Self>,
        pool: PoolId,
        chunk: ChunkId,
        length: u32,
        deep: bool,
    ) -> Result<VerifyReport, RpcError> {
        let mut view = self.chunk_view(pool, chunk).await?;
        for _ in 0..MAX_MOVES {
            let seen = self.map.topology().row_of(pool, &chunk).map(|(_, row)| row.version);
            let report = self.look_at_chunk(&view, pool, chunk, length, deep).await?;
            if report.is_good() && report.is_complete() {
                return Ok(report);
            }
            self.refresh().await?;
            let now = self.chunk_view(pool, chunk).await?;
            if seen == Some(now.row_version) && now.pieces == view.pieces {
                return Ok(report);
            }
            view = now;
        }
        self.look_at_chunk(&view, pool, chunk, length, deep).await
    }

    async fn look_at_chunk(
        self: &Arc<Self>,
        view: &ChunkView,
        pool: PoolId,
        chunk: ChunkId,
        length: u32,
        deep: bool,
    ) -> Result<VerifyReport, RpcError> {
        let mut report = VerifyReport { chunks: 1, ..VerifyReport::default() };
        report.grades.add(view.grade, 1);
        let trouble = |node, what: String| VerifyTrouble { chunk, node, what };
        for piece in view.pieces.iter().filter(|p| p.state != PieceState::Live) {
            report.pieces_absent += 1;
            let what = format!("slot {} is {}", piece.slot, state_word(piece.state));
            report.troubles.push(trouble(Some(piece.node.clone()), what));
        }
        let topology = self.map.topology();
        let unknown = || RpcError::not_found(format!("pool number {} in this client's map", pool.0));
        let (_, row) = topology.row_of(pool, &chunk).ok_or_else(unknown)?;
        let scheme = topology.pools.get(&pool).ok_or_else(unknown)?.pool.scheme;
        let piece_length = scheme.piece_length(length);
        let wanted = |slot: u8| {
            // Without its digest no shard is right.
            let digest = Some(view.digests.get(usize::from(slot)).copied().unwrap_or_default());
            if scheme.is_striped() {
                Wanted { pool, chunk, slot: Some(slot), length: piece_length, digest }
            } else {
                Wanted::copy(pool, chunk, length)
            }
        };
        let live = |disk: DiskId| view.pieces.iter().any(|p| p.disk == disk && p.state == PieceState::Live);
        for slot in self.map.places(&topology, row, usize::from(chunk.0[31])) {
            if live(slot.disk) {
                match self.attested(&topology, &slot, pool, chunk, piece_length).await {
                    Ok(()) => report.pieces_attested += 1,
                    Err(error) => {
                        report.count(&error);
                        report.troubles.push(trouble(Some(slot.target.node.clone()), error.to_string()));
                        continue;
                    }
                }
            }
            if (deep && !live(slot.disk)) || (!deep && report.pieces_good >= scheme.needed() as u64) {
                continue;
            }
            match self.read_slot(&slot, wanted(slot.slot)).await {
                Ok(_) => {
                    report.pieces_good += 1;
                }
                Err(error) if live(slot.disk) => {
                    report.count(&error);
                    report.troubles.push(trouble(Some(slot.target.node.clone()), error.to_string()));
                }
                Err(_) => {}
            }
        }
        // Good pieces are bytes that were committed; that they make the chunk is seen by making it.
        let proven = report.pieces_good >= scheme.needed() as u64 && !scheme.is_striped();
        let readable = proven || self.fetch_chunk(pool, chunk, length).await.is_ok();
        if !readable {
            report.unreadable = 1;
            report.troubles.push(trouble(None, "too few slots deliver it".into()));
        }
        Ok(report)
    }

    /// Has the disk of a slot sign that it has the piece, and holds that against the map.
    async fn attested(
        &self,
        topology: &Topology,
        slot: &SlotTarget,
        pool: PoolId,
        chunk: ChunkId,
        length: u32,
    ) -> Result<(), RpcError> {
        let nonce = wmall_runtime::random::bytes();
        let request = Request::Attest { disk: slot.disk, slot: slot.slot, pool, chunk, nonce };
        let signed = match self.endpoint.call(&slot.target, &request, ATTEST_TIMEOUT).await? {
            Response::Attested(signed) => signed,
            _ => return Err(unexpected()),
        };
        let disk = topology.disks.get(&slot.disk);
        let disk = disk.ok_or_else(|| RpcError::internal("a slot without a disk"))?;
        let expected = Attestation {
            disk: disk.id,
            incarnation: disk.incarnation,
            nonce,
            pool,
            chunk,
            slot: slot.slot,
            length,
        };
        let cluster = self.endpoint.peer().cluster;
        let right = signed.attestation == expected && signed.verify(&cluster, &disk.public_key).is_ok();
        let wrong = || RpcError::new(ErrorCode::BadReceipt, format!("{} signed something else", disk.id));
        if right { Ok(()) } else { Err(wrong()) }
    }

    async fn chunk_view(&self, pool: PoolId, chunk: ChunkId) -> Result<ChunkView, RpcError> {
        match self.read(Query::Chunk(chunk)).await? {
            QueryReply::Chunk(views) => {
                let missing = || RpcError::not_found(format!("chunk {chunk} in pool number {}", pool.0));
                views.into_iter().find(|v| v.pool == pool).ok_or_else(missing)
            }
            _ => Err(unexpected()),
        }
    }
}

/// True if an error is about the node, its clock, its load or the way to it, and not about a piece.
fn says_nothing_of_a_piece(code: ErrorCode) -> bool {
    code.is_transient() || code == ErrorCode::Denied
}

fn state_word(state: PieceState) -> &'static str {
    match state {
        PieceState::Live => "live",
        PieceState::Suspect => "on a node that does not answer",
        PieceState::Missing => "missing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_can_not_be_asked_says_nothing_of_its_pieces() {
        let mut report = VerifyReport::default();
        for code in [ErrorCode::Denied, ErrorCode::Timeout, ErrorCode::Unreachable, ErrorCode::Busy] {
            report.count(&RpcError::new(code, "no"));
        }
        assert_eq!((report.pieces_unasked, report.pieces_bad), (4, 0));
        assert!(report.is_good() && !report.is_complete());
        for code in [
            ErrorCode::NotFound,
            ErrorCode::HashMismatch,
            ErrorCode::Corrupt,
            ErrorCode::DiskFailed,
            ErrorCode::BadReceipt,
        ] {
            report.count(&RpcError::new(code, "no"));
        }
        assert_eq!((report.pieces_unasked, report.pieces_bad), (4, 5));
        assert!(!report.is_good());
    }

    #[test]
    fn a_report_says_how_many_troubles_it_leaves_out() {
        let trouble = VerifyTrouble { chunk: ChunkId([0; 32]), node: None, what: "bad".into() };
        let part = VerifyReport { troubles: vec![trouble; 60], ..VerifyReport::default() };
        let mut report = VerifyReport::default();
        (0..3).for_each(|_| report.add(part.clone()));
        assert_eq!((report.troubles.len(), report.troubles_unlisted), (MAX_TROUBLES, 80));
    }
}
