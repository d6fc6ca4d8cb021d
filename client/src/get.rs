//! Getting a file: its chunks side by side, each hashed before a byte of it is handed on, from another slot
//! when one is slow, silent or wrong.
//!
//! Bounds: [`WINDOW_BYTES`] of chunks are in memory at once.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use wmall_manifest::Manifest;
use wmall_proto::file::{FilePage, FileRecord};
use wmall_proto::rpc::{Query, QueryReply, ReadRequest, Request};
use wmall_proto::{BucketName, ChunkId, DiskId, ErrorCode, FileId, ObjectName, PoolId, RpcError};
use wmall_transport::collect;

use crate::error::ClientError;
use crate::map::SlotTarget;
use crate::store::{Inner, Progress, Store, unexpected};

/// Bytes of chunks on their way.
const WINDOW_BYTES: usize = 48 << 20;
/// Chunks on their way, however small.
const WINDOW_CHUNKS: usize = 32;
/// How long one slot may take.
pub(crate) const SLOT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a chunk may take in all, of the time that this process runs.
const CHUNK_DEADLINE: Duration = Duration::from_secs(40);
/// Between rounds over all slots.
const PAUSE: Duration = Duration::from_millis(200);

/// What to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file by its id.
    File(FileId),
    /// What a name points to now.
    Object(BucketName, ObjectName),
}

/// A part of a chunk that is wanted.
struct Cut {
    number: usize,
    within: Range<usize>,
}

/// A piece that is wanted from a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) pool: PoolId,
    pub(crate) chunk: ChunkId,
    /// None for a copy, which is the same in every slot.
    pub(crate) slot: Option<u8>,
    /// Bytes of the piece.
    pub(crate) length: u32,
    /// What it hashes to; none if whoever asks will see that for itself.
    pub(crate) digest: Option<[u8; 32]>,
}

impl Wanted {
    pub(crate) fn copy(pool: PoolId, chunk: ChunkId, length: u32) -> Self {
        Self { pool, chunk, slot: None, length, digest: Some(chunk.0) }
    }
}

/// A chunk on its way; dropping it breaks it off.
type Fetching = AbortOnDropHandle<Result<Vec<Bytes>, RpcError>>;

/// A file on its way, in order, verified.
pub struct Download {
    store: Arc<Inner>,
    manifest: Arc<Manifest>,
    pool: PoolId,
    waiting: VecDeque<Cut>,
    running: VecDeque<(Range<usize>, Fetching)>,
    ready: VecDeque<Bytes>,
    length: u64,
}

impl Store {
    /// Starts to get a file, or a range of it (end exclusive, within the file).
    pub async fn get(&self, source: &Source, range: Option<Range<u64>>) -> Result<Download, ClientError> {
        let (manifest, pool) = self.manifest(source).await?;
        let range = check_range(range, manifest.size())?;
        let length = range.end - range.start;
        let waiting = cuts(&manifest, range);
        Ok(Download {
            store: self.inner.clone(),
            manifest: Arc::new(manifest),
            pool,
            waiting,
            running: VecDeque::new(),
            ready: VecDeque::new(),
            length,
        })
    }

    /// A file's manifest, verified against its id, and a pool that has its chunks.
    pub async fn manifest(&self, source: &Source) -> Result<(Manifest, PoolId), ClientError> {
        let (page, pool) = match source {
            Source::File(id) => (self.inner.file_page(*id, 0).await?, None),
            Source::Object(bucket, name) => {
                let query = Query::Object { bucket: bucket.clone(), name: name.clone() };
                match self.inner.read(query).await? {
                    QueryReply::Object { record, pool, file } if record.file == file.id => (file, Some(pool)),
                    _ => return Err(unexpected().into()),
                }
            }
        };
        let FilePage { id, record, mut chunks, .. } = page;
        // Any member may have answered, and none is believed: the id that was asked for is what counts.
        if matches!(source, Source::File(asked) if *asked != id) {
            return Err(RpcError::new(ErrorCode::Corrupt, format!("file {id} came for another one")).into());
        }
        let count = record.chunk_count();
        while (chunks.len() as u64) < count {
            let next = self.inner.file_page(id, chunks.len() as u64).await?;
            if next.chunks.is_empty() {
                return Err(RpcError::new(ErrorCode::Corrupt, format!("file {id} lacks chunk ids")).into());
            }
            chunks.extend(next.chunks);
        }
        let FileRecord { size, chunk_size, pools, .. } = record;
        let manifest = Manifest::verified(id, size, chunk_size, chunks)?;
        let pool = pool.or(pools.first().copied());
        let pool = pool.ok_or_else(|| RpcError::internal("a file that is in no pool"))?;
        // The map may be older than the pool.
        if !self.inner.map.topology().pools.contains_key(&pool) {
            self.inner.refresh().await?;
        }
        Ok((manifest, pool))
    }
}

impl Inner {
    /// A page of a file. Its content proves itself, so any member may answer; one that does not know it yet
    /// is no proof that it is not there.
    pub(crate) async fn file_page(&self, id: FileId, first: u64) -> Result<FilePage, RpcError> {
        let query = Query::File { id, first };
        let reply = match self.read_stale(query.clone()).await {
            Err(error) if error.code == ErrorCode::NotFound => self.read(query).await?,
            reply => reply?,
        };
        match reply {
            QueryReply::File(page) => Ok(page),
            _ => Err(unexpected()),
        }
    }
}

fn check_range(range: Option<Range<u64>>, size: u64) -> Result<Range<u64>, RpcError> {
    let Some(range) = range else { return Ok(0..size) };
    if range.start < range.end && range.end <= size {
        return Ok(range);
    }
    let reason =
        format!("bytes {} to {} of a file of {size} bytes", range.start, range.end.saturating_sub(1));
    Err(RpcError::new(ErrorCode::RangeOutOfBounds, reason)
        .hint("a range is inclusive and lies within the file: 0-99 are its first 100 bytes"))
}

fn cuts(manifest: &Manifest, range: Range<u64>) -> VecDeque<Cut> {
    if range.is_empty() {
        return VecDeque::new();
    }
    let size = u64::from(manifest.chunk_size());
    let (first, last) = (range.start / size, (range.end - 1) / size);
    let cut = |number: u64| {
        let start = range.start.saturating_sub(number * size) as usize;
        let end = (range.end - number * size).min(size) as usize;
        Cut { number: number as usize, within: start..end }
    };
    (first..=last).map(cut).collect()
}

impl Download {
    /// The file's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes that this download delivers in all.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next bytes, in order; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some(part));
            }
            self.start_more();
            let Some((within, task)) = self.running.pop_front() else { return Ok(None) };
            let parts = task.await.map_err(RpcError::internal)??;
            self.start_more();
            self.ready = clip(parts, within);
        }
    }

    /// Writes everything to a writer. Returns the bytes written.
    pub async fn copy_to<W: AsyncWrite + Unpin>(
        mut self,
        writer: &mut W,
        progress: Option<Progress>,
    ) -> Result<u64, ClientError> {
        let failed = |source| ClientError::Local { what: "writing the output", source };
        let mut written = 0;
        while let Some(part) = self.next().await? {
            writer.write_all(&part).await.map_err(failed)?;
            written += part.len() as u64;
            if let Some(progress) = &progress {
                progress(written);
            }
        }
        writer.flush().await.map_err(failed)?;
        Ok(written)
    }

    fn start_more(&mut self) {
        let window = (WINDOW_BYTES / self.manifest.chunk_size() as usize).clamp(2, WINDOW_CHUNKS);
        while self.running.len() < window {
            let Some(cut) = self.waiting.pop_front() else { return };
            let (store, pool) = (self.store.clone(), self.pool);
            let chunk = self.manifest.chunks()[cut.number];
            let length = self.manifest.chunk_length(cut.number);
            let fetch = async move { store.fetch_chunk(pool, chunk, length).await };
            self.running.push_back((cut.within, AbortOnDropHandle::new(tokio::spawn(fetch))));
        }
    }
}

/// The parts that lie within a range of them all.
fn clip(parts: Vec<Bytes>, within: Range<usize>) -> VecDeque<Bytes> {
    let mut at = 0;
    let mut out = VecDeque::with_capacity(parts.len());
    for part in parts {
        let start = within.start.clamp(at, at + part.len()) - at;
        let end = within.end.clamp(at, at + part.len()) - at;
        at += part.len();
        if start < end {
            out.push_back(part.slice(start..end));
        }
    }
    out
}

impl Inner {
    /// A chunk's bytes, hashed. Slots are asked one after another, the next one when one fails or is slow;
    /// when all have failed, the map is read again, until the deadline.
    pub(crate) async fn fetch_chunk(
        self: &Arc<Self>,
        pool: PoolId,
        chunk: ChunkId,
        length: u32,
    ) -> Result<Vec<Bytes>, RpcError> {
        let begun = self.running.now();
        loop {
            let topology = self.map.topology();
            let unknown = || RpcError::not_found(format!("pool number {}", pool.0));
            let (_, row) = topology.row_of(pool, &chunk).ok_or_else(unknown)?;
            let scheme = topology.pools.get(&pool).ok_or_else(unknown)?.pool.scheme;
            let slots = self.map.places(&topology, row, scheme.first_slot(&chunk));
            let outcome = if scheme.is_striped() {
                self.gather(slots, scheme, pool, chunk, length).await
            } else {
                self.race(slots, pool, chunk, length).await
            };
            let error = match outcome {
                Ok(parts) => return Ok(parts),
                Err(error) => error,
            };
            if self.running.since(begun) + PAUSE >= CHUNK_DEADLINE {
                let reason = format!("chunk {chunk}: no slot delivers it; the last one: {error}");
                return Err(RpcError::new(ErrorCode::Unavailable, reason)
                    .hint("`wmall chunk show` tells where its pieces are"));
            }
            tokio::time::sleep(PAUSE).await;
            let _ = self.refresh().await;
        }
    }

    async fn race(
        self: &Arc<Self>,
        slots: Vec<SlotTarget>,
        pool: PoolId,
        chunk: ChunkId,
        length: u32,
    ) -> Result<Vec<Bytes>, RpcError> {
        let mut waiting = slots.into_iter();
        let mut running = JoinSet::new();
        let mut last = RpcError::new(ErrorCode::Unavailable, "the row has no slots");
        loop {
            if let Some(slot) = waiting.next() {
                let (store, wanted) = (self.clone(), Wanted::copy(pool, chunk, length));
                running.spawn(async move { store.read_slot(&slot, wanted).await });
            } else if running.is_empty() {
                return Err(last);
            }
            // A slot that is later than 95 of 100 gets company.
            let hedge = if waiting.len() == 0 { SLOT_TIMEOUT } else { self.map.late_after(length) };
            match tokio::time::timeout(hedge, running.join_next()).await {
                Ok(Some(Ok(Ok(parts)))) => return Ok(parts),
                Ok(Some(Ok(Err(error)))) => last = error,
                Ok(Some(Err(error))) => last = RpcError::internal(error),
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Reads a piece from one slot and, if it is known what it hashes to, hashes it as it comes.
    pub(crate) async fn read_slot(&self, slot: &SlotTarget, wanted: Wanted) -> Result<Vec<Bytes>, RpcError> {
        let mut timing = Timing {
            store: self,
            disk: slot.disk,
            bytes: wanted.length,
            started: Instant::now(),
            ended: None,
        };
        let begun = self.running.now();
        let outcome = tokio::time::timeout(SLOT_TIMEOUT, self.read_whole(slot, &wanted)).await;
        // While this process was stopped nobody had a chance to answer it.
        let stopped = self.running.stopped_since(begun).is_some();
        // One that failed at once says nothing of how fast the disk is.
        timing.ended = Some(matches!(outcome, Ok(Ok(_)) | Err(_)) && !stopped);
        drop(timing);
        let late = |_| RpcError::new(ErrorCode::Timeout, format!("{} is too slow", slot.target.node));
        let outcome = outcome.map_err(late).and_then(|o| o);
        if let Err(error) = &outcome {
            match error.code {
                ErrorCode::NotFound if slot.moving => {}
                // The node looks for itself and reports what it finds; nobody waits for that here.
                ErrorCode::HashMismatch | ErrorCode::NotFound => self.have_checked(slot, &wanted),
                _ if stopped => {}
                _ => self.map.avoid(&slot.target.node),
            }
        }
        outcome
    }

    pub(crate) fn have_checked(&self, slot: &SlotTarget, wanted: &Wanted) {
        let (endpoint, target) = (self.endpoint.clone(), slot.target.clone());
        let &Wanted { pool, chunk, slot: number, digest, .. } = wanted;
        let check = Request::CheckPiece { pool, chunk, disk: Some(slot.disk), slot: number, digest };
        tokio::spawn(async move {
            let _ = endpoint.call(&target, &check, SLOT_TIMEOUT).await;
        });
    }

    async fn read_whole(&self, slot: &SlotTarget, wanted: &Wanted) -> Result<Vec<Bytes>, RpcError> {
        let &Wanted { pool, chunk, slot: number, length, digest } = wanted;
        let disk = Some(slot.disk);
        let read = ReadRequest { pool, chunk, disk, slot: number, offset: 0, length: u32::MAX };
        let read = Request::ReadPiece(read);
        let call = self.endpoint.open(&slot.target, &read, SLOT_TIMEOUT).await?;
        let mut reply = call.finish().await?;
        let mut hasher = blake3::Hasher::new();
        let parts = collect(&mut reply.body, length as usize, |part| {
            if digest.is_some() {
                hasher.update(part);
            }
        })
        .await?;
        if digest.is_none_or(|digest| *hasher.finalize().as_bytes() == digest) {
            return Ok(parts);
        }
        tracing::warn!(node = %slot.target.node, %chunk, "wrong bytes; asking another node");
        let reason = format!("{} sent bytes that are not those of chunk {chunk}", slot.target.node);
        Err(RpcError::new(ErrorCode::HashMismatch, reason))
    }
}

/// Times a read, also one that is dropped because another one was faster.
struct Timing<'a> {
    store: &'a Inner,
    disk: DiskId,
    bytes: u32,
    started: Instant,
    /// Whether its time counts; none as long as it has not ended.
    ended: Option<bool>,
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        match self.ended {
            Some(true) => self.store.map.note_read(self.disk, self.bytes, took),
            Some(false) => {}
            None => self.store.map.note_given_up(self.disk, self.bytes, took),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(size: u64) -> Manifest {
        let count = size.div_ceil(65_536);
        let chunks = (0..count).map(|i| ChunkId::of(&i.to_le_bytes())).collect();
        Manifest::new(size, 65_536, chunks).unwrap()
    }

    fn plan(size: u64, range: Range<u64>) -> Vec<(usize, Range<usize>)> {
        cuts(&manifest(size), range).into_iter().map(|c| (c.number, c.within)).collect()
    }

    #[test]
    fn a_range_becomes_cuts_of_chunks() {
        assert_eq!(plan(200_000, 0..200_000).len(), 4);
        assert_eq!(plan(200_000, 65_535..65_537), [(0, 65_535..65_536), (1, 0..1)]);
        assert_eq!(plan(200_000, 70_000..70_010), [(1, 4464..4474)]);
        assert_eq!(plan(200_000, 196_608..200_000), [(3, 0..3392)]);
        assert_eq!(plan(0, 0..0), []);
    }

    #[test]
    fn ranges_outside_the_file_are_refused() {
        assert_eq!(check_range(None, 0).unwrap(), 0..0);
        assert_eq!(check_range(Some(0..10), 10).unwrap(), 0..10);
        for bad in [0..11, 10..11, 5..5, 0..0] {
            assert_eq!(check_range(Some(bad), 10).unwrap_err().code, ErrorCode::RangeOutOfBounds);
        }
    }

    #[test]
    fn clipping_keeps_exactly_the_range() {
        let whole: Vec<u8> = (0..100).collect();
        let parts: Vec<Bytes> = whole.chunks(7).map(Bytes::copy_from_slice).collect();
        for (start, end) in [(0, 100), (0, 1), (6, 8), (7, 14), (99, 100), (20, 80)] {
            let clipped: Vec<u8> =
                clip(parts.clone(), start..end).into_iter().flat_map(|b| b.to_vec()).collect();
            assert_eq!(clipped, whole[start..end]);
        }
    }
}
