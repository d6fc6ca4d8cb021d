//! Finds out whether this node's disks have what they should have, without reading a piece: group after
//! group, a fingerprint over the live pieces is held against one that a metadata node takes over its records.
//! Where they differ the range is cut, until it is short enough to be listed; what is missing then becomes
//! tickets, and what should not be there is asked about like any piece whose place in the feed was missed.
//!
//! A disk may come back as an older copy of itself, and nothing else tells that before a reader does. So
//! after a start all its groups are compared at once, those whose rows changed last first, for a part of the
//! time; then one every now and then.
//!
//! A task for each disk, one question at a time. Presence is all that this shows; `scrub.rs` and challenges
//! read.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wmall_proto::feed::PoolChunk;
use wmall_proto::range::{Range, RangeClaim, RangeSum, RangeVerdict};
use wmall_proto::rpc::{Request, Response};
use wmall_proto::{DiskId, PgId, RpcError, Topology};
use wmall_runtime::Shutdown;
use wmall_transport::Members;

use crate::disk::DiskStore;
use crate::map::Map;

/// Questions about one group: a range is cut into sixteen, of which few differ.
const MAX_QUESTIONS: usize = 512;
/// After a start, the rest between two groups: so many times what the one before took, and this at least, so
/// that a thousand groups are through in some minutes, and the metadata nodes serve others meanwhile.
const REST_FACTOR: u32 = 4;
const LEAST_REST: Duration = Duration::from_millis(50);
/// Until the feed has been followed, and until a group that has just changed is quiet.
const SETTLING: Duration = Duration::from_millis(500);
/// So often a group is tried in the pass after a start; one that changes all the time is left to the usual
/// pace.
const MAX_TRIES: u32 = 5;

/// The comparer.
pub(crate) struct Ranges {
    pub(crate) metadata: Arc<Members>,
    pub(crate) disks: Arc<Vec<Arc<DiskStore>>>,
    pub(crate) map: Arc<Map>,
    /// Between two groups of a disk.
    pub(crate) every: Duration,
}

/// The outcome of comparing a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// It is known what the disk has of it.
    Judged,
    /// It has changed meanwhile.
    NotNow,
    /// The disk can't say what it has: it has yet to follow the feed.
    Unready,
}

/// A group of a disk, and the disk's slot in it.
type Group = (Range, u8);

/// The pass after a start: each group of a disk until it has been judged.
#[derive(Debug)]
struct Pass(VecDeque<(Group, u32)>);

impl Pass {
    /// All groups, those whose rows changed last first.
    fn new(topology: &Topology, disk: DiskId) -> Self {
        let mut groups: Vec<(u64, Group)> = groups_of(topology, disk).collect();
        groups.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        Self(groups.into_iter().map(|(_, group)| (group, 0)).collect())
    }

    /// The next one; none at the end.
    fn next(&self) -> Option<&Group> {
        self.0.front().map(|(group, _)| group)
    }

    /// Notes the outcome. A group that could not be judged comes again behind the others.
    fn note(&mut self, compared: Compared) {
        if compared == Compared::Unready {
            return;
        }
        let Some((group, tries)) = self.0.pop_front() else { return };
        if compared == Compared::NotNow && tries + 1 < MAX_TRIES {
            self.0.push_back((group, tries + 1));
        }
    }
}

impl Ranges {
    /// Runs until a stop is asked for.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let this = Arc::new(self);
        let mut running = tokio::task::JoinSet::new();
        for disk in this.disks.iter() {
            let (this, disk, shutdown) = (this.clone(), disk.clone(), shutdown.clone());
            running.spawn(async move {
                // A stop may come in the middle of a question.
                let _ = shutdown.or(this.keep_compared(&disk)).await;
            });
        }
        while running.join_next().await.is_some() {}
    }

    async fn keep_compared(&self, disk: &Arc<DiskStore>) {
        self.compare_all(disk).await;
        let mut at: Option<Range> = None;
        loop {
            tokio::time::sleep(self.every).await;
            let Some(id) = disk.id().filter(|_| !disk.usage().failed) else { continue };
            let topology = self.map.get().topology;
            let Some((range, slot)) = next_group(&topology, id, at.as_ref()) else { continue };
            at = Some(range.clone());
            if let Err(error) = self.compare(disk, (id, slot), range).await {
                tracing::debug!(%error, disk = %disk.name, "a group was not compared");
            }
        }
    }

    /// The pass after a start.
    async fn compare_all(&self, disk: &Arc<DiskStore>) {
        let id = loop {
            // A map from before the start may be long past.
            match disk.id().filter(|_| self.map.version() > 0 && disk.feed_position().is_some()) {
                Some(id) => break id,
                None => tokio::time::sleep(SETTLING).await,
            }
        };
        let mut pass = Pass::new(&self.map.get().topology, id);
        let (begun, groups) = (Instant::now(), pass.0.len());
        while let Some((range, slot)) = pass.next().cloned().filter(|_| !disk.usage().failed) {
            let asked = Instant::now();
            let compared = self.compare(disk, (id, slot), range).await.unwrap_or_else(|error| {
                tracing::debug!(%error, disk = %disk.name, "a group was not compared");
                Compared::Unready
            });
            pass.note(compared);
            let rest = match compared {
                Compared::Judged => (asked.elapsed() * REST_FACTOR).max(LEAST_REST),
                Compared::NotNow | Compared::Unready => SETTLING,
            };
            tokio::time::sleep(rest.min(self.every)).await;
        }
        tracing::info!(disk = %disk.name, groups, took = ?begun.elapsed(), "compared after the start");
    }

    async fn compare(
        &self,
        disk: &Arc<DiskStore>,
        (id, slot): (DiskId, u8),
        whole: Range,
    ) -> Result<Compared, RpcError> {
        let (mut open, mut outcome) = (vec![whole], Compared::Judged);
        for _ in 0..MAX_QUESTIONS {
            let Some(range) = open.pop() else { return Ok(outcome) };
            let Some((claim, live)) = take(disk, (id, slot), &range).await? else {
                return Ok(if disk.feed_position().is_some() { Compared::NotNow } else { Compared::Unready });
            };
            match self.metadata.call(&Request::CheckRange(claim)).await? {
                Response::Range(RangeVerdict::Same) => {}
                Response::Range(RangeVerdict::NotNow) => outcome = Compared::NotNow,
                Response::Range(RangeVerdict::Differs) => {
                    let parts = range.cut();
                    // One that can't be cut any more is listed by whoever reads it.
                    if parts.len() > 1 {
                        open.extend(parts);
                    }
                }
                Response::Range(RangeVerdict::Chunks(wanted)) => {
                    self.settle(disk, id, &range, &live, &wanted).await?;
                }
                _ => return Err(RpcError::internal("the comparison got another answer")),
            }
        }
        Ok(outcome)
    }

    /// What is missing is reported, and what is too much is asked about.
    async fn settle(
        &self,
        disk: &DiskStore,
        id: DiskId,
        range: &Range,
        live: &BTreeSet<wmall_proto::ChunkId>,
        wanted: &[wmall_proto::ChunkId],
    ) -> Result<(), RpcError> {
        let missing: Vec<_> = wanted.iter().filter(|c| !live.contains(c)).map(|c| (range.pool, *c)).collect();
        if !missing.is_empty() {
            tracing::error!(disk = %disk.name, pieces = missing.len(), "pieces are missing that nobody had missed");
            self.metadata.call(&Request::ReportBad { disk: id, chunks: missing, doubted: vec![] }).await?;
        }
        let wanted: BTreeSet<_> = wanted.iter().collect();
        let surplus: Vec<PoolChunk> = live
            .iter()
            .filter(|c| !wanted.contains(c))
            .map(|&chunk| PoolChunk { pool: range.pool, chunk })
            .collect();
        if !surplus.is_empty() {
            let ask = Request::CheckCommitted { disk: id, chunks: surplus.clone() };
            match self.metadata.call(&ask).await? {
                Response::PiecesKnown(known) => disk.reconcile(surplus, known),
                _ => return Err(RpcError::internal("the question got another answer")),
            }
        }
        Ok(())
    }
}

/// What a disk has of a range, at a place in the feed; none if it can't be told now.
async fn take(
    disk: &Arc<DiskStore>,
    (id, slot): (DiskId, u8),
    range: &Range,
) -> Result<Option<(RangeClaim, BTreeSet<wmall_proto::ChunkId>)>, RpcError> {
    let (store, range) = (disk.clone(), range.clone());
    let taking = move || {
        let before = store.feed_position();
        let live =
            store.live_between(range.pool, (range.low, range.high), slot).map_err(RpcError::internal)?;
        // The feed went on meanwhile: some of it is of before, and some of after.
        let Some(feed) = before.filter(|_| before == store.feed_position()) else { return Ok(None) };
        let mut sum = RangeSum::default();
        live.iter().for_each(|chunk| sum.add(chunk));
        Ok(Some((RangeClaim { disk: id, range, feed, sum }, live.into_iter().collect())))
    };
    tokio::task::spawn_blocking(taking).await.map_err(RpcError::internal)?
}

/// The groups that a disk has a slot of and is vouched for, with the versions of their rows and its slot in
/// each.
fn groups_of(topology: &Topology, disk: DiskId) -> impl Iterator<Item = (u64, Group)> {
    topology.pools.iter().flat_map(move |(&pool, table)| {
        let bits = table.pool.pg_bits;
        table.rows.iter().enumerate().filter_map(move |(number, row)| {
            let slot = row.slot_of(disk).filter(|slot| row.dirty_at[usize::from(*slot)].is_none())?;
            let (low, high) = PgId(number as u32).range(bits);
            Some((row.version, (Range { pool, low, high }, slot)))
        })
    })
}

/// The group behind this one, going round.
fn next_group(topology: &Topology, disk: DiskId, after: Option<&Range>) -> Option<Group> {
    let mut first = None;
    for (_, group) in groups_of(topology, disk) {
        if after.is_none_or(|a| (group.0.pool, group.0.low) > (a.pool, a.low)) {
            return Some(group);
        }
        first = first.or(Some(group));
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use wmall_proto::topology::PoolTable;
    use wmall_proto::{PgRow, Pool, PoolId};

    /// Four groups of two copies; disk 1 has a slot of three, and is not vouched for in one of these.
    fn topology() -> Topology {
        let row = |version, slots: [u32; 2], dirty| {
            let slots = slots.map(DiskId).to_vec();
            let (dirty_at, sources) = (vec![dirty, None], vec![Vec::new(); 2]);
            PgRow { version, slots, dirty_at, sources }
        };
        let rows =
            vec![row(3, [1, 2], None), row(9, [2, 3], None), row(7, [1, 3], None), row(8, [1, 2], Some(5))];
        let pool =
            Pool { id: PoolId(1), name: "p".parse().unwrap(), scheme: "2x".parse().unwrap(), pg_bits: 2 };
        let pools = BTreeMap::from([(PoolId(1), PoolTable { pool, rows })]);
        Topology { pools, ..Topology::empty() }
    }

    /// The number of a group.
    fn number(group: &Group) -> u8 {
        group.0.low.0[0] >> 6
    }

    #[test]
    fn after_a_start_all_groups_are_compared_and_the_moved_ones_first() {
        let mut pass = Pass::new(&topology(), DiskId(1));
        let mut seen = Vec::new();
        while let Some(group) = pass.next() {
            seen.push(number(group));
            pass.note(Compared::Judged);
        }
        assert_eq!(seen, [2, 0]);
        let third: Vec<u8> = Pass::new(&topology(), DiskId(3)).0.iter().map(|(g, _)| number(g)).collect();
        assert_eq!(third, [1, 2]);
    }

    #[test]
    fn a_group_that_changes_comes_again_and_not_for_ever() {
        let mut pass = Pass::new(&topology(), DiskId(1));
        let mut seen = Vec::new();
        pass.note(Compared::Unready);
        while let Some(group) = pass.next() {
            let number = number(group);
            seen.push(number);
            pass.note(if number == 2 { Compared::NotNow } else { Compared::Judged });
        }
        assert_eq!(seen, [2, 0, 2, 2, 2, 2], "what waits for the feed costs no try");
    }

    #[test]
    fn the_usual_pace_goes_round() {
        let next = |after| next_group(&topology(), DiskId(1), after);
        let first = next(None).unwrap();
        let second = next(Some(&first.0)).unwrap();
        assert_eq!((number(&first), number(&second)), (0, 2));
        assert_eq!(next(Some(&second.0)), Some(first));
    }
}
