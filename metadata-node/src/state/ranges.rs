//! What a disk should have of a range of chunk ids, held against what it says it has.

use wmall_proto::ChunkId;
use wmall_proto::feed::FeedItem;
use wmall_proto::range::{LISTED, RangeClaim, RangeSum, RangeVerdict};
use wmall_runtime::view::StoreError;

use super::{State, keys};

/// Chunks that are read together.
const PAGE: usize = 4096;

impl State {
    /// Judges a claim. Only a slot that is vouched for is held to it, and chunks with tickets are not expected. What has
    /// changed since the place in the feed that the claim is of makes it one that can't be judged.
    pub(crate) fn check_range(&self, claim: &RangeClaim) -> Result<RangeVerdict, StoreError> {
        let derived = self.read();
        let (range, topology) = (&claim.range, &derived.topology);
        let within = |chunk: &ChunkId| range.low <= *chunk && *chunk <= range.high;
        let settled = |chunk: &ChunkId| {
            let row =
                topology.row_of(range.pool, chunk).map(|(key, row)| (key, row, row.slot_of(claim.disk)));
            match row {
                Some((key, row, Some(slot))) => {
                    let slot = usize::from(slot);
                    row.dirty_at[slot].is_none().then(|| (key, row.sources[slot].is_empty()))
                }
                _ => None,
            }
        };
        // One group at a time: both ends must be in a slot of the disk that is vouched for.
        let (Some((group, true)), Some((last, _))) = (settled(&range.low), settled(&range.high)) else {
            return Ok(RangeVerdict::NotNow);
        };
        let news = derived.feed.items_behind(claim.feed);
        let changes = |item: &FeedItem| match item {
            FeedItem::Committed { chunk, .. } | FeedItem::Deleted(chunk) => {
                chunk.pool == range.pool && within(&chunk.chunk)
            }
            FeedItem::Released { .. } | FeedItem::Fenced { .. } => false,
        };
        let changed = match news {
            Some(mut items) => items.any(changes),
            None => true,
        };
        if group != last || changed {
            return Ok(RangeVerdict::NotNow);
        }
        let ticketed = derived.tickets.get(&(claim.disk, group)).is_some_and(|n| *n > 0);
        let (mut sum, mut listed) = (RangeSum::default(), Vec::new());
        let prefix = keys::chunks(range.pool);
        let mut after = super::tickets::below(&keys::chunk(range.pool, &range.low));
        'pages: loop {
            let page = self.store.scan(&prefix, Some(&after), PAGE)?;
            let Some((end, _)) = page.last() else { break };
            after.clone_from(end);
            for (key, _) in &page {
                let id = key.get(prefix.len()..).and_then(|id| <[u8; 32]>::try_from(id).ok()).map(ChunkId);
                let Some(id) = id else { continue };
                if id > range.high {
                    break 'pages;
                }
                if ticketed && self.store.get(&keys::ticket(claim.disk, range.pool, &id))?.is_some() {
                    continue;
                }
                sum.add(&id);
                if listed.len() as u64 <= LISTED {
                    listed.push(id);
                }
            }
        }
        Ok(match sum {
            sum if sum == claim.sum => RangeVerdict::Same,
            sum if sum.count <= LISTED => RangeVerdict::Chunks(listed),
            _ => RangeVerdict::Differs,
        })
    }
}
