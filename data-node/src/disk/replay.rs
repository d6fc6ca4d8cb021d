//! From a journal to an index: what every start does with the records that the index lacks.

use std::sync::Arc;

use wmall_journal::{Damage, Disk, Journal, Options, Position};

use super::books::Books;
use super::error::DiskError;
use super::index::{Index, IndexBatch};
use super::piece::Entry;

/// Entries that are replayed into the index together.
const REPLAY_BATCH: usize = 512;

/// Opens the journal and brings the index up to it. Pieces that are rotten are passed over and noted, to be
/// reported; what can't even be told apart makes the disk a lost one, whose every group is looked through.
pub(super) fn replay(
    disk: Arc<dyn Disk>,
    options: Options,
    index: &mut Index,
    covered: Option<Position>,
    books: &Books,
) -> Result<Journal, DiskError> {
    let mut batch = IndexBatch::default();
    let mut waiting = 0;
    let (mut rotten, mut lost) = (Vec::new(), false);
    let damaged = |damage: Damage<'_>| {
        tracing::error!(?damage, "a damaged place in the disk's journal");
        match damage {
            Damage::Payload(found) => match Entry::decode(found.kind, found.meta) {
                Some(Entry::Piece(header) | Entry::Copy(header)) => {
                    rotten.push((header.key(), found.position))
                }
                _ => lost = true,
            },
            Damage::Gap { .. } | Damage::Retired(_) => lost = true,
        }
    };
    let replay = |found: wmall_journal::Found<'_>| {
        let entry = Entry::decode(found.kind, found.meta);
        let entry = entry.ok_or_else(|| format!("a record of kind {} is unknown", found.kind))?;
        if covered.is_some_and(|c| found.position <= c) {
            return Ok(());
        }
        let entered = index.enter(&mut batch, &entry, found.position, found.payload_length);
        entered.map_err(|e| e.to_string())?;
        waiting += 1;
        if waiting >= REPLAY_BATCH {
            waiting = 0;
            index.apply(std::mem::take(&mut batch)).map_err(|e| e.to_string())?;
        }
        Ok(())
    };
    let journal = Journal::open_damaged(disk, options, replay, damaged)?;
    for (key, position) in rotten {
        books.add_rotten(key);
        // The keeper writes its tombstone.
        if let Some(held) = index.held(&batch, &key)?.filter(|h| h.located.position == position) {
            index.discard(&mut batch, &key, held)?;
        }
    }
    if lost {
        index.set_lost(&mut batch, true);
    }
    // A segment may be gone whose retirement the view has not heard of.
    let there = journal.segments();
    let gone: Vec<u64> = index.wanted.keys().copied().filter(|s| !there.contains(s)).collect();
    gone.into_iter().for_each(|segment| index.forget_segment(&mut batch, segment));
    index.apply(batch)?;
    index.replayed();
    Ok(journal)
}
