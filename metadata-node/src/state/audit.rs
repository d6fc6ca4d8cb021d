//! A recount: everything in the map, held against every counter and every reference in it. It knows the
//! layout of the map and nothing of the commands that made it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wmall_proto::chunk::{ChunkRecord, MAX_PIECES_PER_COMMIT, PieceDigest};
use wmall_proto::file::{ObjectRecord, Pin, TrashRecord};
use wmall_proto::identity::AuditRecord;
use wmall_proto::pool::{Bucket, Pool};
use wmall_proto::{ChunkId, DiskId, FileId, PoolId};

use super::derived::{Counters, PoolCounters};
use super::keys;
use super::lists::{Release, StoredFile, list_lengths};
use super::parts::StagedPart;
use super::txn::decode;
use wmall_runtime::view::StoreError;

/// Findings that are listed; there may be more.
const MAX_TROUBLES: usize = 100;

/// What a recount comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Audit {
    /// Files.
    pub files: u64,
    /// Objects.
    pub objects: u64,
    /// Chunks, in all pools.
    pub chunks: u64,
    /// Buckets.
    pub buckets: u64,
    /// What does not agree; empty if all does.
    pub troubles: Vec<String>,
}

/// What a bucket's names point to.
#[derive(Clone, Copy, Default)]
struct Contents {
    objects: u64,
    bytes: u64,
    /// Former versions, and their bytes.
    trash: u64,
    trash_bytes: u64,
}

/// Takes pairs in the order of their keys, or in any other.
#[derive(Default)]
pub struct Auditor {
    counters: Counters,
    files: HashMap<FileId, StoredFile>,
    /// Lists of chunks by their numbers.
    lists: HashMap<u64, Vec<ChunkId>>,
    /// Lists that wait to be released, and parts that wait for their files, with their pools.
    releases: HashMap<u64, Release>,
    parts: Vec<(PoolId, StagedPart)>,
    chunks: HashMap<(PoolId, ChunkId), ChunkRecord>,
    /// Lists of the digests of pieces, and how long each pool's are.
    digests: HashMap<PoolId, u64>,
    striped: HashMap<PoolId, u64>,
    /// Names, former versions included, that point to each file.
    names: HashMap<FileId, u64>,
    buckets: HashMap<String, Bucket>,
    contents: HashMap<String, Contents>,
    tickets: HashMap<DiskId, u64>,
    condemned: u64,
    groups: u64,
    events: u64,
    /// Hash of each line of the audit log and of the one before it, by its number.
    acts: BTreeMap<u64, ([u8; 32], [u8; 32])>,
}

impl Auditor {
    /// Notes a pair.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let bad = || StoreError("a key is damaged".into());
        let digest = |at: usize| key.get(at..at + 32).and_then(|d| d.try_into().ok()).ok_or_else(bad);
        let number =
            |at: usize| key.get(at..).and_then(|n| n.try_into().ok()).map(u64::from_be_bytes).ok_or_else(bad);
        match key.first() {
            Some(b'k') => self.counters = decode(value)?,
            Some(b'f') => drop(self.files.insert(FileId(digest(1)?), decode(value)?)),
            Some(b'l') => drop(self.lists.insert(number(1)?, decode(value)?)),
            Some(b'R') => drop(self.releases.insert(number(1)?, decode(value)?)),
            Some(b'u') => {
                let (_, pool, _) = keys::parse_upload_part(key).ok_or_else(bad)?;
                self.parts.push((pool, decode(value)?));
            }
            Some(b'c') => {
                let pool = key.get(1..3).and_then(|p| p.try_into().ok()).map(u16::from_be_bytes);
                let chunk = (PoolId(pool.ok_or_else(bad)?), ChunkId(digest(3)?));
                self.chunks.insert(chunk, decode(value)?);
            }
            Some(b's') => {
                let pool = key.get(1..3).and_then(|p| p.try_into().ok()).map(u16::from_be_bytes);
                let digests: Vec<PieceDigest> = decode(value)?;
                *self.digests.entry(PoolId(pool.ok_or_else(bad)?)).or_default() += digests.len() as u64;
            }
            Some(b'p') => {
                let pool: Pool = decode(value)?;
                if pool.scheme.is_striped() {
                    self.striped.insert(pool.id, pool.scheme.width() as u64);
                }
            }
            Some(b'o') => {
                let bucket = key[1..].split(|&b| b == 0).next().and_then(|b| std::str::from_utf8(b).ok());
                let object: ObjectRecord = decode(value)?;
                let content = self.contents.entry(bucket.ok_or_else(bad)?.to_string()).or_default();
                (content.objects, content.bytes) = (content.objects + 1, content.bytes + object.size);
                *self.names.entry(object.file).or_default() += 1;
            }
            Some(b'x') => {
                let (bucket, ..) = keys::parse_trash(key).ok_or_else(bad)?;
                let trash: TrashRecord = decode(value)?;
                let content = self.contents.entry(bucket.to_string()).or_default();
                (content.trash, content.trash_bytes) =
                    (content.trash + 1, content.trash_bytes + trash.object.size);
                *self.names.entry(trash.object.file).or_default() += 1;
            }
            Some(b'b') => {
                let bucket: Bucket = decode(value)?;
                self.buckets.insert(bucket.name.to_string(), bucket);
            }
            Some(b't') => {
                let (disk, ..) = keys::parse_ticket(key).ok_or_else(bad)?;
                *self.tickets.entry(disk).or_default() += 1;
            }
            Some(b'z') => {
                let line: AuditRecord = decode(value)?;
                self.acts.insert(line.number, (line.hash(), line.before));
            }
            Some(b'h') => self.events += 1,
            Some(b'w') => self.condemned += 1,
            Some(b'g') => self.groups += decode::<u64>(value)?,
            _ => {}
        }
        Ok(())
    }

    /// Holds everything against everything.
    pub fn finish(self) -> Audit {
        let mut troubles = Vec::new();
        let mut check = |what: &str, says: u64, counted: u64| {
            if says != counted && troubles.len() < MAX_TROUBLES {
                troubles.push(format!("{what}: {says} on record, {counted} by a recount"));
            }
        };
        let c = &self.counters;
        check("files", c.files, self.files.len() as u64);
        check("objects", c.objects, self.contents.values().map(|c| c.objects).sum());
        check("former versions", c.trash, self.contents.values().map(|c| c.trash).sum());
        check("condemned chunks", c.condemned.chunks, self.condemned);
        check("chunks by group", self.groups, self.chunks.len() as u64);
        for (disk, count) in &c.tickets {
            check(&format!("tickets of {disk}"), *count, self.tickets.get(disk).copied().unwrap_or(0));
        }
        check("lines of the event log", c.events.min(wmall_proto::event::MAX_EVENTS), self.events);
        check("lines of the audit log", c.acts, self.acts.len() as u64);
        let mut last = [0; 32];
        let broken =
            self.acts.values().filter(|(hash, before)| std::mem::replace(&mut last, *hash) != *before);
        check("lines of the audit log that do not follow from the one before", 0, broken.count() as u64);
        check("whether the audit log ends as it should", 1, u64::from(last == c.last_act));
        self.check_pools(&mut check);
        self.check_references(&mut check);
        let unknown = |name: &&String| !self.buckets.contains_key(*name);
        check("names in buckets that are not there", 0, self.contents.keys().filter(unknown).count() as u64);
        for (name, bucket) in &self.buckets {
            let counted = self.contents.get(name).copied().unwrap_or_default();
            check(&format!("objects of bucket {name}"), bucket.objects, counted.objects);
            check(&format!("bytes of bucket {name}"), bucket.bytes, counted.bytes);
            check(&format!("former versions in bucket {name}"), bucket.trash, counted.trash);
            check(&format!("bytes of former versions in {name}"), bucket.trash_bytes, counted.trash_bytes);
            let meant = |part: &StagedPart| {
                part.bucket.as_ref().is_some_and(|(b, made)| b.as_str() == name && *made == bucket.made_at)
            };
            let staged = self.parts.iter().filter(|(_, part)| meant(part)).map(|(_, part)| part.bytes());
            check(&format!("bytes of parts for bucket {name}"), bucket.staged_bytes, staged.sum());
        }
        Audit {
            files: self.files.len() as u64,
            objects: self.contents.values().map(|c| c.objects).sum(),
            chunks: self.chunks.len() as u64,
            buckets: self.buckets.len() as u64,
            troubles,
        }
    }

    fn check_pools(&self, check: &mut impl FnMut(&str, u64, u64)) {
        let mut pools: HashMap<PoolId, PoolCounters> = HashMap::new();
        let mut condemned = PoolCounters::default();
        for ((pool, _), record) in &self.chunks {
            let counted = pools.entry(*pool).or_default();
            counted.chunks += 1;
            counted.bytes += u64::from(record.length);
            if record.condemned.is_some() {
                condemned.chunks += 1;
                condemned.bytes += u64::from(record.length);
            }
        }
        for (pool, says) in &self.counters.pools {
            let counted = pools.get(pool).copied().unwrap_or_default();
            check(&format!("chunks of pool {}", pool.0), says.chunks, counted.chunks);
            check(&format!("bytes of pool {}", pool.0), says.bytes, counted.bytes);
            let digests = says.chunks * self.striped.get(pool).copied().unwrap_or(0);
            let there = self.digests.get(pool).copied().unwrap_or(0);
            check(&format!("digests of pieces of pool {}", pool.0), digests, there);
        }
        check("chunks marked as condemned", self.counters.condemned.chunks, condemned.chunks);
        check("bytes of condemned chunks", self.counters.condemned.bytes, condemned.bytes);
    }

    /// Names against files, lists against chunks.
    fn check_references(&self, check: &mut impl FnMut(&str, u64, u64)) {
        let mut wanted: HashMap<(PoolId, ChunkId), u64> = HashMap::new();
        let mut owned = BTreeSet::new();
        let mut count = |list: u64, pools: &[PoolId]| {
            let ids = self.lists.get(&list).map_or(&[][..], Vec::as_slice);
            for &pool in pools {
                ids.iter().for_each(|chunk| *wanted.entry((pool, *chunk)).or_default() += 1);
            }
            owned.insert(list).then_some(ids.len() as u64)
        };
        for (id, StoredFile { record, lists }) in &self.files {
            let names = self.names.get(id).copied().unwrap_or(0);
            check(&format!("names of file {id}"), record.references, names);
            let held = u64::from(names > 0 || record.pin != Pin::None);
            check(&format!("whether something holds file {id}"), 1, held);
            let lengths: Vec<u64> = list_lengths(record).collect();
            check(&format!("lists of file {id}"), lengths.len() as u64, lists.len() as u64);
            for (&list, length) in lists.iter().zip(lengths) {
                let counted = count(list, &record.pools).unwrap_or(0);
                check(&format!("chunks and blocks in list {list} of file {id}"), length, counted);
            }
        }
        for (pool, part) in &self.parts {
            let counted = count(part.list, &[*pool]).unwrap_or(0);
            let what = format!("chunks of a part, in list {}", part.list);
            check(&what, MAX_PIECES_PER_COMMIT as u64, counted);
        }
        for (&list, release) in &self.releases {
            let counted = count(list, &release.pools).unwrap_or(0);
            check(&format!("chunks of list {list}, which goes"), release.chunks, counted);
        }
        let stray = self.lists.keys().filter(|list| !owned.contains(list)).count();
        check("lists that nothing has", 0, stray as u64);
        for (key, record) in &self.chunks {
            let counted = wanted.remove(key).unwrap_or(0);
            check(&format!("references of chunk {}", key.1), record.references, counted);
            let condemned = u64::from(record.condemned.is_some());
            check(&format!("whether chunk {} is condemned", key.1), condemned, u64::from(counted == 0));
        }
        let unknown = |id: &&FileId| !self.files.contains_key(*id);
        check("names that point to no file", 0, self.names.keys().filter(unknown).count() as u64);
        check("chunks that files have and that have no record", 0, wanted.len() as u64);
    }
}
