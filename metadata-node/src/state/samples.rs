//! Pieces that a disk should have, chosen at random.

use wmall_proto::chunk::{ChunkRecord, PieceDigest, UNKNOWN_DIGEST};
use wmall_proto::pg::PgKey;
use wmall_proto::{ChunkId, DiskId, PoolId};
use wmall_runtime::view::StoreError;

use super::derived::Derived;
use super::txn::decode;
use super::{State, keys};

/// Groups that are tried: many are empty in a young cluster.
const TRIES: u64 = 64;

/// A piece that a disk is said to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) pool: PoolId,
    pub(crate) chunk: ChunkId,
    pub(crate) slot: u8,
    pub(crate) digest: PieceDigest,
    pub(crate) piece_length: u32,
    /// Raft index of the chunk's commit.
    pub(crate) committed_at: u64,
}

impl State {
    /// A piece that counts on this disk; none if none was found in a few tries.
    pub(crate) fn sample(&self, disk: DiskId, random: [u8; 32]) -> Result<Option<Expected>, StoreError> {
        let derived = self.read();
        let groups: Vec<PgKey> = super::clean_groups(&derived.topology, disk)
            .into_iter()
            .filter(|group| derived.groups.get(group).is_some_and(|n| *n > 0))
            .collect();
        if groups.is_empty() {
            return Ok(None);
        }
        let seed = random.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        for i in 0..TRIES {
            let group = groups[(seed.wrapping_add(i) % groups.len() as u64) as usize];
            // Within the group, from a random id on, and from the first if there is none behind that.
            for from in [Some(random), None] {
                if let Some(expected) = self.first_from(&derived, disk, group, from)? {
                    return Ok(Some(expected));
                }
            }
        }
        Ok(None)
    }

    fn first_from(
        &self,
        derived: &Derived,
        disk: DiskId,
        (pool, pg): PgKey,
        from: Option<[u8; 32]>,
    ) -> Result<Option<Expected>, StoreError> {
        let Some(table) = derived.topology.pools.get(&pool) else { return Ok(None) };
        let (low, high) = pg.range(table.pool.pg_bits);
        // The group's own bits are the first ones; behind them the id is random.
        let start = from.map_or(low, |random| {
            let mut id = random;
            id[..4].copy_from_slice(&low.0[..4]);
            let spread = u32::from_be_bytes([high.0[0], high.0[1], high.0[2], high.0[3]])
                - u32::from_be_bytes([low.0[0], low.0[1], low.0[2], low.0[3]]);
            let offset = u32::from_be_bytes([random[0], random[1], random[2], random[3]]) & spread;
            let head = u32::from_be_bytes([low.0[0], low.0[1], low.0[2], low.0[3]]) + offset;
            id[..4].copy_from_slice(&head.to_be_bytes());
            ChunkId(id)
        });
        let after = super::tickets::below(&keys::chunk(pool, &start));
        let prefix = keys::chunks(pool);
        let page = self.store.scan(&prefix, Some(&after), 1)?;
        let Some((key, _)) = page.first() else { return Ok(None) };
        let id = key.get(prefix.len()..).and_then(|id| <[u8; 32]>::try_from(id).ok()).map(ChunkId);
        match id.filter(|id| *id <= high) {
            Some(chunk) => self.expected(derived, disk, pool, chunk),
            None => Ok(None),
        }
    }

    /// The piece of this chunk that counts on the disk, if one does.
    fn expected(
        &self,
        derived: &Derived,
        disk: DiskId,
        pool: PoolId,
        chunk: ChunkId,
    ) -> Result<Option<Expected>, StoreError> {
        let Some((_, row)) = derived.topology.row_of(pool, &chunk) else { return Ok(None) };
        let Some(slot) = row.slot_of(disk).filter(|slot| row.dirty_at[usize::from(*slot)].is_none()) else {
            return Ok(None);
        };
        let Some(bytes) = self.store.get(&keys::chunk(pool, &chunk))? else { return Ok(None) };
        let record: ChunkRecord = decode(&bytes)?;
        if record.condemned.is_some() || self.store.get(&keys::ticket(disk, pool, &chunk))?.is_some() {
            return Ok(None);
        }
        let scheme = derived.topology.pools[&pool].pool.scheme;
        let digest = match scheme.is_striped() {
            false => Some(chunk.0),
            true => self.digests(pool, &chunk)?.get(usize::from(slot)).copied(),
        };
        let (piece_length, committed_at) = (scheme.piece_length(record.length), record.committed_at);
        let known = digest.filter(|digest| *digest != UNKNOWN_DIGEST);
        Ok(known.map(|digest| Expected { pool, chunk, slot, digest, piece_length, committed_at }))
    }

    /// Whether the disk is still said to have this piece.
    pub(crate) fn still_expects(&self, disk: DiskId, expected: &Expected) -> Result<bool, StoreError> {
        let derived = self.read();
        let now = self.expected(&derived, disk, expected.pool, expected.chunk)?;
        Ok(now.as_ref() == Some(expected))
    }
}
