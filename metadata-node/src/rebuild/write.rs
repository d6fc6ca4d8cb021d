//! From what was found to files in a state, in batches, with a line for each in a list.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use wmall_manifest::{Block, Manifest};
use wmall_proto::chunk::{DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE};
use wmall_proto::{ChunkId, PoolId, Topology};
use wmall_runtime::view::StoreError;

use super::{BATCH, Found, MAX_NAMED, RebuildError, Rebuilt};
use crate::state::{FoundFile, State};

/// What writing may run into, before the path is added.
pub(super) enum WriteError {
    Store(StoreError),
    List(std::io::Error),
}

impl WriteError {
    pub(super) fn at(self, out: &Path) -> RebuildError {
        match self {
            Self::Store(error) => error.into(),
            Self::List(source) => RebuildError::Folder { path: out.display().to_string(), source },
        }
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        Self::List(error)
    }
}

/// Writes files in batches, and a line for each.
pub(super) struct Writer<'a> {
    pub(super) state: &'a State,
    pub(super) found: &'a Found,
    pub(super) map: &'a Topology,
    pub(super) files: Vec<FoundFile>,
    pub(super) chunks: usize,
    pub(super) list: BufWriter<File>,
}

impl Writer<'_> {
    fn add(&mut self, pool: PoolId, manifest: Manifest, how: &str) -> Result<(), WriteError> {
        let name = self.map.pools.get(&pool).map_or("-", |t| t.pool.name.as_str());
        writeln!(self.list, "{} {name} {} {how}", manifest.id(), manifest.size())?;
        self.chunks += manifest.chunks().len();
        self.files.push(FoundFile { pool, manifest });
        if self.chunks >= BATCH { self.flush() } else { Ok(()) }
    }

    pub(super) fn flush(&mut self) -> Result<(), WriteError> {
        self.chunks = 0;
        let files = std::mem::take(&mut self.files);
        Ok(self.state.adopt_files(&files, self.map, &self.found.holders, &self.found.shards)?)
    }

    /// Files by their roots. Returns the chunks that belong to one, blocks included.
    pub(super) fn add_manifests(
        &mut self,
        blocks: &HashMap<(PoolId, ChunkId), Block>,
        report: &mut Rebuilt,
    ) -> Result<BTreeSet<(PoolId, ChunkId)>, WriteError> {
        let mut named = BTreeSet::new();
        let mut roots: BTreeSet<&(PoolId, ChunkId)> = self.found.blocks.iter().collect();
        roots.retain(|key| !matches!(blocks.get(*key), Some(Block::Part(_))));
        for &&(pool, root) in &roots {
            if !self.map.pools.contains_key(&pool) {
                continue;
            }
            let made = blocks
                .get(&(pool, root))
                .map(|block| Manifest::from_root(block, |id| blocks.get(&(pool, *id)).cloned()));
            let manifest = match made {
                // Bytes that only look like a root: a user's, who put such a file.
                Some(Err(_)) => continue,
                Some(Ok(Some(manifest))) if manifest.block_ids().last() == Some(&root) => manifest,
                Some(Ok(_)) | None => {
                    report.incomplete.push(root);
                    continue;
                }
            };
            let needed = self.map.pools.get(&pool).map_or(1, |t| t.pool.scheme.needed());
            let length = |i: usize, chunk: &ChunkId| {
                let key = (pool, *chunk);
                let slots: Option<BTreeSet<u8>> =
                    self.found.shards.get(&key).map(|s| s.iter().map(|(slot, _)| *slot).collect());
                let there = self.found.lengths.get(&key).filter(|_| slots.is_none_or(|s| s.len() >= needed));
                (there.copied(), manifest.chunk_length(i))
            };
            let lengths = manifest.chunks().iter().enumerate().map(|(i, chunk)| length(i, chunk));
            // As above: no file of ours says another length than its chunks have.
            if lengths.clone().any(|(there, said)| there.is_some_and(|there| there != said)) {
                continue;
            }
            let missing = lengths.filter(|(there, _)| there.is_none()).count() as u64;
            if missing > 0 && !self.found.committed.contains(&(pool, root)) {
                report.incomplete.push(root);
                continue;
            }
            report.chunks_without_piece += missing;
            named.extend(manifest.chunks().iter().chain(&manifest.block_ids()).map(|id| (pool, *id)));
            report.files_by_manifest += 1;
            self.add(pool, manifest, "manifest")?;
        }
        report.incomplete.truncate(MAX_NAMED);
        Ok(named)
    }

    /// Every other chunk is a file by itself; one that is too long for the usual chunk size, of the largest.
    pub(super) fn add_chunks(
        &mut self,
        named: &BTreeSet<(PoolId, ChunkId)>,
        report: &mut Rebuilt,
    ) -> Result<(), WriteError> {
        let mut derived = Vec::new();
        for (&(pool, chunk), &length) in &self.found.lengths {
            if !self.map.pools.contains_key(&pool) {
                report.unknown_pool += 1;
                continue;
            }
            if named.contains(&(pool, chunk)) {
                if (1..=DEFAULT_CHUNK_SIZE).contains(&length) {
                    derived.push((pool, chunk, length));
                }
                continue;
            }
            let size = if length <= DEFAULT_CHUNK_SIZE { DEFAULT_CHUNK_SIZE } else { MAX_CHUNK_SIZE };
            let Ok(manifest) = Manifest::new(u64::from(length), size, vec![chunk]) else { continue };
            report.files_by_chunk += 1;
            let certain = self.found.committed.contains(&(pool, chunk));
            report.uncertain += u64::from(!certain);
            self.add(pool, manifest, if certain { "chunk" } else { "uncertain" })?;
        }
        report.derived = derived.len() as u64;
        for batch in derived.chunks(BATCH) {
            self.state.adopt_derived(batch)?;
        }
        Ok(())
    }
}
