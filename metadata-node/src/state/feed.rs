//! The last stretch of what became of chunks, for the data nodes' heartbeats.

use std::collections::VecDeque;

use wmall_proto::feed::{FeedItem, FeedPage};

/// Items that are held; a node further behind asks about its pieces instead.
const MAX_ITEMS: usize = 131_072;
/// Items that one page carries.
const PAGE: usize = 8192;

/// Complete for every index above `base`.
pub(crate) struct FeedRing {
    base: u64,
    last: u64,
    entries: VecDeque<(u64, FeedItem)>,
}

impl FeedRing {
    pub(super) fn new(base: u64) -> Self {
        Self { base, last: base, entries: VecDeque::new() }
    }

    pub(super) fn push(&mut self, index: u64, items: impl IntoIterator<Item = FeedItem>) {
        self.last = index;
        self.entries.extend(items.into_iter().map(|item| (index, item)));
        while self.entries.len() > MAX_ITEMS {
            // A whole entry goes at once, so that `base` never splits one.
            let Some(oldest) = self.entries.front().map(|e| e.0) else { break };
            while self.entries.front().is_some_and(|e| e.0 == oldest) {
                self.entries.pop_front();
            }
            self.base = oldest;
        }
    }

    /// What happened behind `position`; none if that can't be told: it is too long ago, or yet to come.
    pub(super) fn items_behind(&self, position: u64) -> Option<impl Iterator<Item = &FeedItem>> {
        if position < self.base || position > self.last {
            return None;
        }
        let start = self.entries.partition_point(|(i, _)| *i <= position);
        Some(self.entries.range(start..).map(|(_, item)| item))
    }

    /// What happened behind `position` and concerns the asking node.
    pub(crate) fn page(&self, position: u64, concerns: impl Fn(&FeedItem) -> bool) -> FeedPage {
        // A position ahead of this member's is one of a leader that knew more; it has missed nothing.
        if position < self.base {
            return FeedPage::Behind { position: self.last };
        }
        let start = self.entries.partition_point(|(i, _)| *i <= position);
        let (mut items, mut reached) = (Vec::new(), self.last.max(position));
        let mut more = false;
        for (index, item) in self.entries.range(start..) {
            let index = *index;
            // A page ends between entries.
            if items.len() >= PAGE && index != reached {
                more = true;
                break;
            }
            reached = index;
            if concerns(item) {
                items.push(item.clone());
            }
        }
        if !more {
            reached = self.last.max(position);
        }
        FeedPage::Items { position: reached, items, more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wmall_proto::feed::PoolChunk;
    use wmall_proto::{ChunkId, PoolId};

    fn chunk(n: u32) -> FeedItem {
        FeedItem::Deleted(PoolChunk { pool: PoolId(1), chunk: ChunkId::of(&n.to_le_bytes()) })
    }

    #[test]
    fn pages_join_to_everything_and_the_late_are_told() {
        let mut ring = FeedRing::new(10);
        for i in 0..200u64 {
            ring.push(11 + i, (0..100).map(|k| chunk(i as u32 * 100 + k)));
        }
        assert_eq!(ring.page(9, |_| true), FeedPage::Behind { position: 210 });
        let (mut position, mut all) = (10, Vec::new());
        loop {
            match ring.page(position, |_| true) {
                FeedPage::Items { position: next, items, more } => {
                    all.extend(items);
                    position = next;
                    if !more {
                        break;
                    }
                }
                FeedPage::Behind { .. } => panic!("not behind"),
            }
        }
        assert_eq!(position, 210);
        assert_eq!(all, (0..20_000).map(chunk).collect::<Vec<_>>());
    }

    #[test]
    fn the_ring_is_bounded_by_whole_entries() {
        let mut ring = FeedRing::new(0);
        for i in 1..=40u64 {
            ring.push(i, (0..4096).map(chunk));
        }
        assert!(ring.entries.len() <= MAX_ITEMS);
        assert_eq!(ring.entries.front().map(|e| e.0), Some(ring.base + 1));
        assert!(matches!(ring.page(0, |_| true), FeedPage::Behind { .. }));
    }
}
