//! Parts of files too long for one commit. A part is judged, and its chunks are referenced, when it comes;
//! what is kept of it for the file's own commit is a few numbers. So that commit touches no chunk of a part,
//! and takes no longer for a long file.
//!
//! Until then the part counts for the quota of the bucket that it is meant for. One whose upload is fenced
//! goes.

use bincode::{Decode, Encode};
use wmall_manifest::{Block, PartSum, merkle_root};
use wmall_proto::chunk::{MAX_CHUNKS_PER_COMMIT, MAX_PIECES_PER_COMMIT};
use wmall_proto::pool::Bucket;
use wmall_proto::rpc::{CommitOutcome, Response};
use wmall_proto::{BucketName, ChunkId, ErrorCode, PoolId, RpcError, UploadId};

use super::apply::{Context, Outcome, Refusal};
use super::commit::Verdict;
use super::keys;
use super::names::over_quota;
use crate::command::{FileCommit, PartCommit, PromisedChunk};
use wmall_runtime::view::StoreError;

/// Parts that an upload may have: files of some four million chunks.
const MAX_PARTS: u32 = 1024;

/// Bytes that a part takes in the map while it waits: the list of its chunks and block, its numbers, its
/// owner.
const STORED_BYTES: u64 = MAX_PIECES_PER_COMMIT as u64 * 32 + 200;

/// A part that waits for its file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct StagedPart {
    /// Number of the list of its chunks and their block.
    pub(super) list: u64,
    /// The bucket whose quota it counts for, and the command that made that.
    pub(super) bucket: Option<(BucketName, u64)>,
    /// Bytes of each of its chunks.
    pub(super) chunk_size: u32,
    root: [u8; 32],
    pub(super) block: ChunkId,
    /// Life of the metadata in which it came, by where the rows of that life begin.
    pub(super) rows_from: u64,
}

impl StagedPart {
    /// Bytes of its chunks.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.chunk_size) * MAX_CHUNKS_PER_COMMIT as u64
    }

    pub(super) fn sum(&self) -> PartSum {
        PartSum { root: self.root, block: self.block }
    }
}

impl Context<'_> {
    /// Takes a part in: judges its chunks, references them, and keeps its sums with its upload.
    pub(super) fn commit_part(&mut self, part: PartCommit, chunks: Vec<PromisedChunk>) -> Outcome {
        let PartCommit { owner, upload, pool, part: number, bucket, ack } = part;
        let mut staged = sums(number, &chunks)?;
        staged.rows_from = self.derived.counters.rows_from;
        self.check_fence(&upload)?;
        if let Some(name) = bucket {
            staged.bucket = Some((name.clone(), self.bucket_in(&name, pool)?.made_at));
        }
        let place = self.admit_part(&owner, (upload, pool, number), STORED_BYTES)?;
        let key = keys::upload_part(&upload, pool, number);
        let before: Option<StagedPart> = self.txn.get(&key)?;
        self.check_staging(&staged, before.as_ref())?;
        let judged = match self.judge_all(pool, &chunks, ack)? {
            Verdict::Good(judged) => judged,
            Verdict::Need(chunks) => return Ok(Response::NeedChunks(chunks)),
        };
        let mut tickets = 0;
        for chunk in judged {
            let places = chunk.places;
            tickets += self.write_chunk(pool, chunk, places)?;
        }
        staged.list = self.keep_list(&chunks.iter().map(|c| c.id).collect());
        // The new references come before the old ones go, so that no chunk is condemned in between.
        if let Some(before) = before {
            self.unstage(&before)?;
            self.let_list_go(before.list, MAX_PIECES_PER_COMMIT as u64, &[pool])?;
        }
        self.change_staged(&staged, |staged, bytes| staged.saturating_add(bytes))?;
        self.txn.put(key, &staged);
        self.note_part((upload, pool, number), &place)?;
        Ok(Response::Committed(CommitOutcome { index: self.index, new_file: false, tickets }))
    }

    /// Whether the bucket that a part is meant for has room for it.
    fn check_staging(&self, staged: &StagedPart, before: Option<&StagedPart>) -> Result<(), Refusal> {
        let Some((name, _)) = &staged.bucket else { return Ok(()) };
        let bucket = self.bucket(name)?;
        let replaced = before.filter(|b| b.bucket == staged.bucket).map_or(0, StagedPart::bytes);
        let bytes = bucket.all_bytes().saturating_sub(replaced).saturating_add(staged.bytes());
        Ok(over_quota(name, "bytes", bytes, bucket.rules.max_bytes)?)
    }

    /// The parts that a file names, in order.
    pub(super) fn staged_parts(&self, file: &FileCommit) -> Result<Vec<StagedPart>, Refusal> {
        let bucket = file.object.as_ref().map(|(bucket, _)| bucket);
        let mut parts = Vec::new();
        for number in 0..file.parts.min(MAX_PARTS + 1) {
            let stored: Option<StagedPart> =
                self.txn.get(&keys::upload_part(&file.upload, file.pool, number))?;
            let missing = || RpcError::not_found(format!("part {number} of upload {}", file.upload));
            let part = stored.ok_or_else(missing)?;
            if part.bucket.as_ref().map(|(name, _)| name) != bucket {
                let reason = format!("part {number} was announced for another bucket than the file's");
                return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
            }
            if part.chunk_size != file.chunk_size {
                let reason = format!(
                    "chunks of part {number} have {} bytes, not {}",
                    part.chunk_size, file.chunk_size
                );
                return Err(RpcError::new(ErrorCode::BadRequest, reason).into());
            }
            parts.push(part);
        }
        Ok(parts)
    }

    /// A part no longer waits: it counts for its bucket's quota no more.
    pub(super) fn unstage(&mut self, part: &StagedPart) -> Result<(), StoreError> {
        self.change_staged(part, u64::saturating_sub)
    }

    fn change_staged(&mut self, part: &StagedPart, change: fn(u64, u64) -> u64) -> Result<(), StoreError> {
        let Some((name, made_at)) = &part.bucket else { return Ok(()) };
        let key = keys::bucket(name);
        // A bucket can be removed while parts for it wait, and made anew: they count for no other.
        if let Some(mut bucket) = self.txn.get::<Bucket>(&key)?.filter(|b| b.made_at == *made_at) {
            bucket.staged_bytes = change(bucket.staged_bytes, part.bytes());
            self.txn.put(key, &bucket);
        }
        Ok(())
    }

    /// Drops parts whose uploads are fenced.
    pub(super) fn drop_parts(&mut self, parts: &[(UploadId, PoolId, u32)]) -> Outcome {
        for (upload, pool, number) in parts {
            let key = keys::upload_part(upload, *pool, *number);
            if upload.started_ms() >= self.derived.counters.fenced_before_ms {
                continue;
            }
            let Some(part) = self.txn.get::<StagedPart>(&key)? else { continue };
            self.txn.remove(key);
            self.forget_part(upload, *pool, *number)?;
            self.unstage(&part)?;
            self.let_list_go(part.list, MAX_PIECES_PER_COMMIT as u64, &[*pool])?;
        }
        Ok(Response::Done)
    }
}

/// The sums of a part, which has no list, no bucket and no life yet.
fn sums(number: u32, chunks: &[PromisedChunk]) -> Result<StagedPart, RpcError> {
    let bad = |reason: String| Err(RpcError::new(ErrorCode::BadRequest, reason));
    if number >= MAX_PARTS {
        let reason = format!("part {number}; an upload has at most {MAX_PARTS}");
        return Err(RpcError::new(ErrorCode::OutOfBounds, reason).hint("choose larger chunks"));
    }
    let (block, chunks) = match chunks.split_last() {
        Some((block, rest)) if rest.len() == MAX_CHUNKS_PER_COMMIT => (block, rest),
        _ => {
            let found = chunks.len();
            return bad(format!(
                "a part has exactly {MAX_CHUNKS_PER_COMMIT} chunks and their block, not {found}"
            ));
        }
    };
    let chunk_size = chunks.first().map_or(0, |chunk| chunk.length);
    if let Some(other) = chunks.iter().find(|chunk| chunk.length != chunk_size) {
        return bad(format!("a part has chunks of {chunk_size} and of {} bytes", other.length));
    }
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    let root = merkle_root(&ids);
    if ChunkId::of(&Block::Part(ids).encode()) != block.id {
        return bad("the block of a part is not that of its chunks".into());
    }
    Ok(StagedPart { list: 0, bucket: None, chunk_size, root, block: block.id, rows_from: 0 })
}
