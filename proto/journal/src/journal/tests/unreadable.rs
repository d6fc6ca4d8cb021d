//! Sectors that the disk can't read: an owner that can do without single records loses those that are hit and
//! no other, and one that can't is told.

use std::collections::BTreeSet;

use super::*;
use crate::sim::SECTOR;

const LONG: u64 = 64 << 10;
const PIECE: u64 = 4096;

fn long() -> Options {
    Options { segment_bytes: LONG, max_bytes: 100 * LONG, ..options() }
}

type Place = (u32, Position, u64);

/// Records of all sizes over several segments, the first of which are retired. Returns where they are.
fn written(disk: &SimDisk) -> Vec<Place> {
    let journal = Journal::open(Arc::new(disk.clone()), long(), |_| Ok(())).unwrap();
    let mut places = Vec::new();
    for n in 0..56u32 {
        let record = record(n, (n as usize * 1237) % 9000);
        let size = record.size();
        let at = journal.append_and_wait(vec![record]).unwrap()[0];
        places.push((n, at, size));
    }
    assert!(journal.segments().len() >= 4, "{:?}", journal.segments());
    journal.retire(1).unwrap();
    places.retain(|(_, at, _)| at.segment != 1);
    places
}

/// Records that touch the piece of 4 KiB that this sector is in.
fn hit(places: &[Place], segment: u64, sector: usize) -> BTreeSet<u32> {
    let from = (sector * SECTOR) as u64 / PIECE * PIECE;
    let touches = |at: u64, size: u64| at < from + PIECE && at + size > from;
    let of = |(n, at, size): &Place| (at.segment == segment && touches(at.offset, *size)).then_some(*n);
    places.iter().filter_map(of).collect()
}

/// What an opening finds: the records, those that it names as damaged, and whether it met what it can't name.
fn passed_over(disk: &SimDisk) -> (Journal, BTreeSet<u32>, BTreeSet<u32>, bool) {
    let (mut seen, mut named, mut unnamed) = (BTreeSet::new(), BTreeSet::new(), false);
    let replay = |found: Found<'_>| {
        seen.insert(number(found.meta));
        Ok(())
    };
    let damaged = |damage: Damage<'_>| match damage {
        Damage::Payload(found) => drop(named.insert(number(found.meta))),
        Damage::Gap { .. } | Damage::Retired(_) => unnamed = true,
    };
    let journal = Journal::open_damaged(Arc::new(disk.clone()), long(), replay, damaged).unwrap();
    (journal, seen, named, unnamed)
}

#[test]
fn an_unreadable_sector_anywhere_costs_the_records_that_it_hits_and_the_journal_goes_on() {
    let whole = SimDisk::new();
    let places = written(&whole);
    let all: BTreeSet<u32> = places.iter().map(|p| p.0).collect();
    let segments: BTreeSet<u64> = places.iter().map(|p| p.1.segment).collect();
    for &segment in &segments {
        for sector in 0..LONG as usize / SECTOR {
            let context = format!("segment {segment}, sector {sector}");
            let disk = whole.killed();
            disk.lose_sector(&format!("{segment:010}.seg"), sector);
            let hit = hit(&places, segment, sector);
            let (journal, seen, named, unnamed) = passed_over(&disk);
            let lost: BTreeSet<u32> = all.difference(&seen).copied().collect();
            assert!(lost.is_subset(&hit), "{context}: {lost:?} of {hit:?}");
            assert!(unnamed || lost.is_subset(&named), "{context}: {lost:?} are lost without a word");
            // Reading fails where it must, as an error of the medium, and nowhere else.
            for (n, at, _) in places.iter().filter(|(n, ..)| seen.contains(n)) {
                let length = record(*n, (*n as usize * 1237) % 9000).payload_length();
                let read = journal.read_vec(at.segment, Journal::payload_offset(*at, 4), length);
                assert!(read.is_ok() || hit.contains(n), "{context}: {n}");
                assert!(
                    read.is_ok() || read.is_err_and(|e| crate::Trouble::of(&e) == crate::Trouble::Medium),
                    "{context}: {n}"
                );
            }
            // What compaction scans says the same.
            if segment != *segments.last().unwrap() {
                let (mut scanned, mut gaps) = (BTreeSet::new(), 0);
                let visit = |found: Found<'_>| {
                    scanned.insert(number(found.meta));
                    Ok(())
                };
                journal.scan(segment, visit, |_| gaps += 1).unwrap();
                let of_it = |n: &&u32| places.iter().any(|p| p.0 == **n && p.1.segment == segment);
                let missed: BTreeSet<u32> = all.iter().filter(of_it).copied().collect();
                let missed: BTreeSet<u32> = missed.difference(&scanned).copied().collect();
                assert!(missed.is_subset(&hit) && (gaps > 0 || missed.is_empty()), "{context}: {missed:?}");
            }
            // It goes on, and what it takes is there at the next start.
            for n in 100..110 {
                journal.append_and_wait(vec![record(n, 5000)]).unwrap_or_else(|e| panic!("{context}: {e}"));
            }
            drop(journal);
            let (_, again, ..) = passed_over(&disk);
            assert!((100..110).all(|n| again.contains(&n)), "{context}: {again:?}");
            assert!(seen.is_subset(&again), "{context}");
        }
    }
}

/// A log that must be whole is never cut off at a place that can't be read.
#[test]
fn a_journal_that_must_be_whole_is_refused_or_has_everything() {
    let whole = SimDisk::new();
    let places = written(&whole);
    let all: Vec<u32> = places.iter().map(|p| p.0).collect();
    let segments: BTreeSet<u64> = places.iter().map(|p| p.1.segment).collect();
    let (mut refused, mut opened) = (0, 0);
    for &segment in &segments {
        for sector in 0..LONG as usize / SECTOR {
            let disk = whole.killed();
            disk.lose_sector(&format!("{segment:010}.seg"), sector);
            let mut seen = Vec::new();
            let replay = |found: Found<'_>| {
                seen.push(number(found.meta));
                Ok(())
            };
            match Journal::open(Arc::new(disk), long(), replay) {
                Ok(_) => {
                    assert_eq!(seen, all, "segment {segment}, sector {sector}");
                    opened += 1;
                }
                Err(OpenError::Corrupt { position, .. }) => {
                    assert_eq!(position.segment, segment, "sector {sector}");
                    refused += 1;
                }
                Err(error) => panic!("segment {segment}, sector {sector}: {error}"),
            }
        }
    }
    assert!(refused > 50 && opened > 50, "{refused} refused, {opened} opened");
}

/// The header is there twice; without both, the segment is a gap, and the records of the others stand.
#[test]
fn a_segment_without_its_headers_is_lost_alone() {
    let whole = SimDisk::new();
    let places = written(&whole);
    let last = places.last().unwrap().1.segment;
    for segment in [0, 2, last] {
        let disk = whole.killed();
        let name = format!("{segment:010}.seg");
        disk.lose_sector(&name, 0);
        disk.lose_sector(&name, LONG as usize / SECTOR - 1);
        let (journal, seen, _, unnamed) = passed_over(&disk);
        let others: BTreeSet<u32> = places.iter().filter(|p| p.1.segment != segment).map(|p| p.0).collect();
        assert!(unnamed && seen == others, "segment {segment}: {seen:?}");
        let at = journal.append_and_wait(vec![record(100, 10)]).unwrap()[0];
        assert!(at.segment >= last && (at.segment > last || segment != last));
        drop(journal);
        let replay = |_: Found<'_>| Ok(());
        assert!(matches!(
            Journal::open(Arc::new(disk), long(), replay),
            Err(OpenError::Corrupt { position, .. }) if position.segment == segment
        ));
    }
}

/// A segment that has lost its headers is told of where its records are to be replayed, not at every start.
#[test]
fn a_segment_without_its_headers_that_is_known_already_is_not_told_of() {
    let disk = SimDisk::new();
    let last = written(&disk).last().unwrap().1.segment;
    for sector in [0, LONG as usize / SECTOR - 1] {
        disk.lose_sector("0000000002.seg", sector);
    }
    let gaps = |from: Option<u64>| {
        let replay_from = from.map(|segment| Position { segment, offset: SEGMENT_HEADER });
        let (options, mut gaps) = (Options { replay_from, ..long() }, 0);
        let open = Journal::open_damaged(Arc::new(disk.clone()), options, |_| Ok(()), |_| gaps += 1);
        drop(open.unwrap());
        gaps
    };
    assert_eq!([None, Some(0), Some(2), Some(3), Some(last)].map(gaps), [1, 1, 1, 0, 0]);
}

/// What a crash left is cleared in steps, each of whole pieces but for the ends: a piece that can't be read
/// is overwritten at once, or not at all.
#[test]
fn a_long_torn_tail_with_unreadable_pieces_is_cleared() {
    const TAIL: usize = 3 << 20;
    let large = Options { segment_bytes: 6 << 20, max_bytes: 100 << 20, ..options() };
    let disk = SimDisk::new();
    let open = |disk: &SimDisk| Journal::open(Arc::new(disk.clone()), large.clone(), |_| Ok(()));
    let at = open(&disk).unwrap().append_and_wait(vec![record(0, 5100)]).unwrap()[0];
    let tail = at.offset + record(0, 5100).size();
    assert!(!tail.is_multiple_of(SECTOR as u64));
    let torn = vec![Bytes::from(vec![7u8; TAIL])];
    let file = disk.open("0000000000.seg").unwrap();
    file.write_at(&torn, tail).and_then(|()| file.sync_data()).unwrap();
    // Those that steps of 1 MiB from the tail on would overwrite in part.
    for end in [1u64 << 20, 2 << 20] {
        disk.lose_sector("0000000000.seg", (tail + end) as usize / SECTOR);
    }
    let journal = open(&disk).unwrap();
    for end in [1u64 << 20, 2 << 20, TAIL as u64 - 4096] {
        journal.read_vec(0, tail + end - 2048, 4096).unwrap().iter().for_each(|byte| assert_eq!(*byte, 0));
    }
}

/// Segments that the list of retired ones explained are not missed without it, and it is made anew.
#[test]
fn an_unreadable_list_of_retired_segments_is_made_anew() {
    let disk = SimDisk::new();
    let places = written(&disk);
    let all: BTreeSet<u32> = places.iter().map(|p| p.0).collect();
    disk.lose_sector("retired", 0);
    let refused = Journal::open(Arc::new(disk.clone()), long(), |_| Ok(()));
    assert!(matches!(refused, Err(OpenError::Retired(_))));
    let (journal, seen, _, unnamed) = passed_over(&disk);
    assert!(unnamed && seen == all);
    drop(journal);
    let (_, again, _, unnamed) = passed_over(&disk);
    assert!(!unnamed && again == all);
}

/// A disk that can't read much of a segment has failed as a whole.
#[test]
fn a_segment_of_which_much_is_unreadable_is_an_error_of_the_disk() {
    let large = Options { segment_bytes: 6 << 20, max_bytes: 100 << 20, ..options() };
    let disk = SimDisk::new();
    let open =
        |disk: &SimDisk| Journal::open_damaged(Arc::new(disk.clone()), large.clone(), |_| Ok(()), |_| {});
    open(&disk).unwrap().append_and_wait(vec![record(0, 5000)]).unwrap();
    for sector in 1..(6 << 20) / SECTOR - 1 {
        disk.lose_sector("0000000000.seg", sector);
    }
    assert!(matches!(open(&disk), Err(OpenError::Io(_))));
}
