mod forged;
mod unreadable;

use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::RealDisk;
use crate::sim::{Crash, Fault, SimDisk};

const SEGMENT: u64 = 4096;

fn options() -> Options {
    Options {
        identity: [5; 16],
        nonce: |number| [number as u8 ^ 0x5a; 16],
        segment_bytes: SEGMENT,
        max_bytes: 100 * SEGMENT,
        reserve_bytes: 0,
        queue_bytes: 1 << 20,
        replay_from: None,
        name: "journal-test".into(),
    }
}

fn record(n: u32, length: usize) -> Record {
    let payload = vec![Bytes::from(vec![n as u8; length / 2]), vec![!n as u8; length - length / 2].into()];
    Record {
        kind: 1,
        meta: n.to_le_bytes().to_vec(),
        payload,
        cold: n.is_multiple_of(3),
        ..Record::default()
    }
}

fn number(meta: &[u8]) -> u32 {
    u32::from_le_bytes(meta.try_into().unwrap())
}

/// Opens and returns the numbers that the replay found, in order.
fn reopen(disk: Arc<dyn Disk>) -> Result<(Journal, Vec<u32>), OpenError> {
    let mut seen = Vec::new();
    let journal = Journal::open(disk, options(), |found| {
        seen.push(number(found.meta));
        Ok(())
    })?;
    Ok((journal, seen))
}

/// The same small history on any disk: appends of many sizes over several segments. Returns what was
/// acknowledged.
fn history(disk: Arc<dyn Disk>) -> Vec<u32> {
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let Ok((journal, _)) = reopen(disk) else { return Vec::new() };
    for n in 0..24u32 {
        let records = vec![record(2 * n, (n as usize * 97) % 900), record(2 * n + 1, 40)];
        let sink = acknowledged.clone();
        if n % 3 == 0 {
            if journal.append_and_wait(records).is_ok() {
                sink.lock().unwrap().extend([2 * n, 2 * n + 1]);
            }
        } else {
            journal.append(records, move |outcome| {
                if outcome.is_ok() {
                    sink.lock().unwrap().extend([2 * n, 2 * n + 1]);
                }
            });
        }
    }
    drop(journal);
    Arc::try_unwrap(acknowledged).unwrap().into_inner().unwrap()
}

/// The conformance test of [`Disk`]: the same on the real one and the simulated one.
fn appends_survive_a_clean_stop(disk: Arc<dyn Disk>) {
    let acknowledged = history(disk.clone());
    assert_eq!(acknowledged, (0..48).collect::<Vec<_>>());
    let mut payloads = Vec::new();
    let mut places = Vec::new();
    let journal = Journal::open(disk, options(), |found| {
        payloads.push((number(found.meta), found.payload_length));
        places.push((found.position, found.payload_offset));
        Ok(())
    })
    .unwrap();
    assert_eq!(payloads.iter().map(|p| p.0).collect::<Vec<_>>(), acknowledged);
    assert!(journal.segments().len() > 2, "the history spans segments");
    for ((n, length), (position, offset)) in payloads.into_iter().zip(places) {
        let mut bytes = vec![0; length as usize];
        journal.read(position.segment, offset, &mut bytes).unwrap();
        assert_eq!(bytes, record(n, length as usize).payload.concat());
        assert_eq!(Journal::payload_offset(position, 4), offset);
    }
}

#[test]
fn a_real_disk_conforms() {
    let folder = tempfile::tempdir().unwrap();
    appends_survive_a_clean_stop(Arc::new(RealDisk::open(folder.path().join("j")).unwrap()));
}

#[test]
fn the_simulated_disk_conforms() {
    appends_survive_a_clean_stop(Arc::new(SimDisk::new()));
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    let whole = SimDisk::new();
    history(Arc::new(whole.clone()));
    // Batches form by chance, so the count of operations varies; enumerate to well past the usual.
    for at in 1..=whole.operations() + 8 {
        for how in [Crash::Drop, Crash::Tear, Crash::Reorder] {
            let disk = SimDisk::new();
            disk.fail_at(at, Fault::PowerCut);
            let acknowledged = history(Arc::new(disk.clone()));
            let after = disk.crash(how, at);
            let (journal, seen) = reopen(Arc::new(after.clone())).unwrap_or_else(|e| {
                panic!("power cut at {at}, {how:?}: {e}");
            });
            let expected: Vec<u32> = (0..seen.len() as u32).collect();
            assert_eq!(seen, expected, "a prefix, in order: cut at {at}, {how:?}");
            assert!(seen.len() >= acknowledged.len(), "cut at {at}, {how:?}: {acknowledged:?}");
            // Recovery is idempotent, and the journal goes on from there.
            journal.append_and_wait(vec![record(seen.len() as u32, 8)]).unwrap();
            drop(journal);
            let (_, again) = reopen(Arc::new(after)).unwrap();
            assert_eq!(again.len(), seen.len() + 1, "cut at {at}, {how:?}");
        }
    }
}

#[test]
fn an_io_error_fences_and_is_never_retried() {
    let disk = SimDisk::new();
    let (journal, _) = reopen(Arc::new(disk.clone())).unwrap();
    journal.append_and_wait(vec![record(0, 8)]).unwrap();
    disk.fail_at(disk.operations() + 2, Fault::IoError); // the sync of the next batch
    assert!(matches!(journal.append_and_wait(vec![record(1, 8)]), Err(AppendError::Fenced(_))));
    let before = disk.operations();
    assert!(matches!(journal.append_and_wait(vec![record(2, 8)]), Err(AppendError::Fenced(_))));
    assert_eq!(disk.operations(), before, "a fenced journal does not touch its disk");
    assert!(journal.fenced().is_some());
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::new();
    let (journal, _) = reopen(Arc::new(disk.clone())).unwrap();
    journal.append_and_wait(vec![record(0, 3000)]).unwrap();
    disk.fail_at(disk.operations() + 1, Fault::Full); // the birth of the next segment
    assert_eq!(journal.append_and_wait(vec![record(1, 3000)]), Err(AppendError::Full));
    journal.append_and_wait(vec![record(1, 3000)]).unwrap();
    drop(journal);
    assert_eq!(reopen(Arc::new(disk)).unwrap().1, [0, 1]);
}

/// An open that fails for want of files has written nothing. The same error of a write or a sync fences.
#[test]
fn a_process_without_files_is_busy_and_its_disk_is_well() {
    let disk = SimDisk::new();
    let (journal, _) = reopen(Arc::new(disk.clone())).unwrap();
    journal.append_and_wait(vec![record(0, 3000)]).unwrap();
    disk.fail_at(disk.operations() + 1, Fault::NoFiles); // the birth of the next segment
    assert_eq!(journal.append_and_wait(vec![record(1, 3000)]), Err(AppendError::Busy));
    assert_eq!(journal.fenced(), None);
    journal.append_and_wait(vec![record(1, 3000)]).unwrap();
    disk.fail_at(disk.operations() + 4, Fault::NoFiles); // the sync of the third one's headers
    assert!(matches!(journal.append_and_wait(vec![record(2, 3000)]), Err(AppendError::Fenced(_))));
    drop(journal);
    assert_eq!(reopen(Arc::new(disk)).unwrap().1, [0, 1]);
}

#[test]
fn segments_stay_within_their_bound() {
    let disk = SimDisk::new();
    let small = Options { max_bytes: 2 * SEGMENT, ..options() };
    let journal = Journal::open(Arc::new(disk), small, |_| Ok(())).unwrap();
    let appended = (0..5).take_while(|&n| journal.append_and_wait(vec![record(n, 3000)]).is_ok()).count();
    assert_eq!((appended, journal.segments().len()), (2, 2));
    assert_eq!(journal.append_and_wait(vec![record(9, 3000)]), Err(AppendError::Full));
    journal.append_and_wait(vec![record(9, 30)]).unwrap();
}

#[test]
fn rot_before_acknowledged_records_is_an_error_and_not_a_tail() {
    let disk = SimDisk::new();
    let (journal, _) = reopen(Arc::new(disk.clone())).unwrap();
    let at: Vec<Position> =
        (0..4).map(|n| journal.append_and_wait(vec![record(n, 100)]).unwrap()[0]).collect();
    drop(journal);
    for (victim, &place) in at.iter().enumerate().take(3) {
        for byte in [0, 20, 33, 60] {
            let rotten = disk.crash(Crash::Drop, 0);
            rotten.flip("0000000000.seg", place.offset as usize + byte);
            match reopen(Arc::new(rotten)).map(|(_, seen)| seen) {
                Err(OpenError::Corrupt { position, .. }) => assert_eq!(position, place),
                other => panic!("record {victim}, byte {byte}: {other:?}"),
            }
        }
    }
}

/// What a killed process had written but not synced is believed by the next one, so it must be safe by then.
#[test]
fn a_power_cut_after_a_restart_takes_nothing_that_the_restart_has_seen() {
    let whole = SimDisk::new();
    history(Arc::new(whole.clone()));
    for at in 1..=whole.operations() + 8 {
        let disk = SimDisk::new();
        disk.fail_at(at, Fault::PowerCut);
        history(Arc::new(disk.clone()));
        let after = disk.killed();
        let (journal, seen) = reopen(Arc::new(after.clone())).unwrap();
        drop(journal);
        let later = after.crash(Crash::Drop, at);
        let (_, again) = reopen(Arc::new(later)).unwrap();
        assert_eq!(again, seen, "killed at {at}");
    }
}

/// A sync fails, the process is started again without a restart of the machine: what the kernel has in memory
/// and never wrote must not be taken for durable, whatever a later sync says.
#[test]
fn what_a_failed_sync_did_not_write_is_not_believed_after_a_restart() {
    let whole = SimDisk::new();
    history(Arc::new(whole.clone()));
    let mut lost = 0;
    for at in 1..=whole.operations() + 8 {
        let disk = SimDisk::new();
        disk.fail_at(at, Fault::IoError);
        let acknowledged = history(Arc::new(disk.clone()));
        let after = disk.killed();
        let (journal, seen) =
            reopen(Arc::new(after.clone())).unwrap_or_else(|e| panic!("error at {at}: {e}"));
        assert!(seen.starts_with(&acknowledged), "error at {at}: {acknowledged:?} of {seen:?}");
        lost += 48 - seen.len();
        // It goes on, and then the power fails.
        let next = seen.len() as u32;
        journal.append_and_wait(vec![record(next, 8)]).unwrap();
        drop(journal);
        let (_, again) = reopen(Arc::new(after.crash(Crash::Drop, at))).unwrap();
        let expected: Vec<u32> = seen.iter().copied().chain([next]).collect();
        assert_eq!(again, expected, "error at {at}: believed and gone");
    }
    assert!(lost > 0, "no error was met");
}

/// An owner that can do without single records gets all the others, and is told.
#[test]
fn rot_can_be_passed_over_record_by_record() {
    let disk = SimDisk::new();
    let (journal, _) = reopen(Arc::new(disk.clone())).unwrap();
    let at: Vec<Position> =
        (0..12).map(|n| journal.append_and_wait(vec![record(n, 900)]).unwrap()[0]).collect();
    assert_eq!(journal.segments().len(), 3);
    drop(journal);
    for (victim, place) in at.iter().enumerate().take(11) {
        for byte in [0, 20, 33, 300] {
            let rotten = disk.crash(Crash::Drop, 0);
            rotten.flip(&format!("{:010}.seg", place.segment), place.offset as usize + byte);
            let (mut seen, mut payloads, mut gaps) = (Vec::new(), Vec::new(), 0);
            let journal = Journal::open_damaged(
                Arc::new(rotten.clone()),
                options(),
                |found| {
                    seen.push(number(found.meta));
                    Ok(())
                },
                |damage| match damage {
                    Damage::Payload(found) => payloads.push(number(found.meta)),
                    Damage::Gap { segment, from, .. } => {
                        assert_eq!(Position { segment, offset: from }, *place);
                        gaps += 1;
                    }
                    Damage::Retired(why) => panic!("{why}"),
                },
            )
            .unwrap();
            let context = format!("record {victim}, byte {byte}: {seen:?}");
            let others: Vec<u32> = (0..12).filter(|n| *n != victim as u32).collect();
            let last_segment = place.segment == 2;
            match byte {
                // Payloads of sealed segments are checked by whoever reads them.
                300 if !last_segment => assert_eq!(seen.len(), 12, "{context}"),
                300 => assert_eq!((&seen, &payloads), (&others, &vec![victim as u32]), "{context}"),
                _ => assert_eq!((&seen, gaps), (&others, 1), "{context}"),
            }
            journal.append_and_wait(vec![record(50, 8)]).unwrap();
        }
    }
}

/// The last batch has nothing behind it that vouches for it, until a mark is written.
#[test]
fn rot_in_the_last_batch_is_told_from_a_torn_tail_once_it_has_its_mark() {
    let disk = SimDisk::new();
    let (journal, _) = reopen(Arc::new(disk.clone())).unwrap();
    let at = journal.append_and_wait(vec![record(0, 100)]).unwrap()[0];
    let before = disk.operations();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while disk.operations() == before {
        assert!(std::time::Instant::now() < deadline, "no mark is written");
        std::thread::yield_now();
    }
    drop(journal);
    let rotten = disk.killed();
    rotten.flip("0000000000.seg", at.offset as usize + 60);
    assert!(matches!(reopen(Arc::new(rotten)), Err(OpenError::Corrupt { .. })));
    // The mark is nobody's record, and what comes behind it is found.
    let (journal, seen) = reopen(Arc::new(disk.clone())).unwrap();
    assert_eq!(seen, [0]);
    journal.append_and_wait(vec![record(1, 100)]).unwrap();
    drop(journal);
    assert_eq!(reopen(Arc::new(disk)).unwrap().1, [0, 1]);
}

/// A mark is not synced. If a power cut takes it and leaves a part of the batch behind it, that is a torn
/// tail and no rot.
#[test]
fn a_batch_behind_a_lost_mark_does_not_vouch_for_it() {
    let disk = SimDisk::new();
    let (journal, _) = reopen(Arc::new(disk.clone())).unwrap();
    let first = journal.append_and_wait(vec![record(0, 100)]).unwrap()[0];
    let before = disk.operations();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while disk.operations() == before {
        assert!(std::time::Instant::now() < deadline, "no mark is written");
        std::thread::yield_now();
    }
    let second = journal.append_and_wait(vec![record(1, 100)]).unwrap()[0];
    drop(journal);
    // As if the second batch's sync had not come, and the sector with the mark had not reached the disk.
    let after = disk.crash(Crash::Drop, 0);
    let mark = first.offset + record(0, 100).size();
    let gap = vec![0u8; (second.offset - mark) as usize];
    assert!(!gap.is_empty(), "there is a mark between the two");
    let file = after.open("0000000000.seg").unwrap();
    file.write_at(&[gap.into()], mark).unwrap();
    file.sync_all().unwrap();
    assert_eq!(reopen(Arc::new(after)).unwrap().1, [0]);
}

#[test]
fn a_foreign_or_missing_segment_is_refused() {
    let disk = SimDisk::new();
    history(Arc::new(disk.clone()));
    let foreign = Options { identity: [6; 16], ..options() };
    assert!(matches!(
        Journal::open(Arc::new(disk.clone()), foreign, |_| Ok(())),
        Err(OpenError::WrongIdentity { segment: 0 })
    ));
    disk.remove("0000000001.seg").unwrap();
    assert!(matches!(
        reopen(Arc::new(disk)),
        Err(OpenError::Corrupt { position: Position { segment: 1, .. }, .. })
    ));
}

#[test]
fn replay_starts_where_it_is_told_and_retired_segments_are_gone() {
    let disk = SimDisk::new();
    history(Arc::new(disk.clone()));
    let mut places = Vec::new();
    let journal = Journal::open(Arc::new(disk.clone()), options(), |found| {
        places.push(found.position);
        Ok(())
    })
    .unwrap();
    let from = places[30];
    journal.retire_below(from.segment).unwrap();
    assert_eq!(journal.segments()[0], from.segment);
    drop(journal);
    let mut seen = Vec::new();
    let at = Options { replay_from: Some(from), ..options() };
    Journal::open(Arc::new(disk), at, |found| {
        seen.push(number(found.meta));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, (30..48).collect::<Vec<_>>());
}

/// A history that retires segments from the middle while it goes on. Returns what was acknowledged, and the
/// segments whose retirement was.
fn history_with_retirement(disk: Arc<dyn Disk>) -> (Vec<u32>, Vec<u64>) {
    let (mut acknowledged, mut retired) = (Vec::new(), Vec::new());
    let Ok((journal, _)) = reopen(disk) else { return (acknowledged, retired) };
    for n in 0..14u32 {
        if journal.append_and_wait(vec![record(n, 1500)]).is_ok() {
            acknowledged.push(n);
        }
        // Two records a segment.
        let gone = match n {
            6 => 1,
            9 => 3,
            12 => 0,
            _ => continue,
        };
        if journal.retire(gone).is_ok() && journal.fenced().is_none() {
            retired.push(gone);
        }
    }
    (acknowledged, retired)
}

#[test]
fn a_power_cut_while_segments_are_retired_loses_nothing_else() {
    let whole = SimDisk::new();
    let (all, gone) = history_with_retirement(Arc::new(whole.clone()));
    assert_eq!((all.len(), gone), (14, vec![1, 3, 0]));
    let in_retired = |n: u32| [0, 1, 3].contains(&(n / 2));
    for at in 1..=whole.operations() {
        for how in [Crash::Drop, Crash::Tear, Crash::Reorder] {
            let disk = SimDisk::new();
            disk.fail_at(at, Fault::PowerCut);
            let (acknowledged, retired) = history_with_retirement(Arc::new(disk.clone()));
            let after = disk.crash(how, at);
            let (journal, seen) =
                reopen(Arc::new(after.clone())).unwrap_or_else(|e| panic!("power cut at {at}, {how:?}: {e}"));
            for n in &acknowledged {
                assert!(seen.contains(n) || in_retired(*n), "cut at {at}, {how:?}: {n} is lost");
            }
            for segment in &retired {
                assert!(!journal.segments().contains(segment), "cut at {at}, {how:?}: {segment} is back");
            }
            journal.append_and_wait(vec![record(99, 8)]).unwrap();
            drop(journal);
            let (_, again) = reopen(Arc::new(after)).unwrap();
            assert_eq!(again.len(), seen.len() + 1, "cut at {at}, {how:?}");
        }
    }
}

#[test]
fn a_gap_that_was_not_retired_is_damage_and_the_reserve_is_for_maintenance() {
    let disk = SimDisk::new();
    history_with_retirement(Arc::new(disk.clone()));
    let rotten = disk.crash(Crash::Drop, 0);
    rotten.flip("retired", 20);
    assert!(matches!(reopen(Arc::new(rotten)), Err(OpenError::Retired(_))));
    for gone in [2, 4] {
        let holed = disk.crash(Crash::Drop, 0);
        holed.remove(&format!("{gone:010}.seg")).unwrap();
        let opened = reopen(Arc::new(holed));
        assert!(
            matches!(opened, Err(OpenError::Corrupt { position: Position { segment, .. }, .. }) if segment == gone)
        );
    }
    let small = Options { max_bytes: 3 * SEGMENT, reserve_bytes: SEGMENT, ..options() };
    let journal = Journal::open(Arc::new(SimDisk::new()), small, |_| Ok(())).unwrap();
    let appended = (0..5).take_while(|&n| journal.append_and_wait(vec![record(n, 3000)]).is_ok()).count();
    assert_eq!(appended, 2);
    let (sender, receiver) = std::sync::mpsc::channel();
    journal.append_maintenance(vec![record(7, 3000)], move |outcome| {
        let _ = sender.send(outcome.is_ok());
    });
    assert!(receiver.recv().unwrap());
    let mut seen = Vec::new();
    journal
        .scan(
            1,
            |found| {
                seen.push(number(found.meta));
                Ok(())
            },
            |_| {},
        )
        .unwrap();
    assert_eq!(seen, [1]);
}

/// The newest segment is never retired: a list that is alone is what is left of a journal.
#[test]
fn a_list_of_retired_segments_without_segments_is_damage_and_no_empty_journal() {
    let disk = SimDisk::new();
    history_with_retirement(Arc::new(disk.clone()));
    for name in disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")) {
        disk.remove(name).unwrap();
    }
    assert_eq!(disk.list().unwrap(), ["retired"]);
    for _ in 0..2 {
        let missing =
            |e: &OpenError| matches!(e, OpenError::Corrupt { position, .. } if position.segment == 2);
        assert!(reopen(Arc::new(disk.clone())).is_err_and(|e| missing(&e)));
        let damaged = Journal::open_damaged(Arc::new(disk.clone()), options(), |_| Ok(()), |_| {});
        assert!(damaged.is_err_and(|e| missing(&e)));
    }
}

#[test]
fn limits_are_errors() {
    let (journal, _) = reopen(Arc::new(SimDisk::new())).unwrap();
    let large = record(0, SEGMENT as usize);
    assert!(matches!(journal.append_and_wait(vec![large]), Err(AppendError::TooLarge(_))));
    let meta = Record { meta: vec![0; MAX_META + 1], ..Record::default() };
    assert!(matches!(journal.append_and_wait(vec![meta]), Err(AppendError::TooLarge(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_in_a_segment_open_or_are_refused(
        junk in proptest::collection::vec(any::<u8>(), 1..600),
        at in 0usize..3000,
    ) {
        let disk = SimDisk::new();
        history(Arc::new(disk.clone()));
        let file = disk.open("0000000000.seg").unwrap();
        file.write_at(&[junk.into()], at as u64).unwrap();
        file.sync_all().unwrap();
        if let Ok((_, seen)) = reopen(Arc::new(disk)) {
            prop_assert_eq!(seen, (0..48).collect::<Vec<_>>());
        }
    }
}

/// Long and short ones, some of them past the page cache: read back and replayed as they were written.
#[test]
fn what_is_cold_is_written_like_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    let long = Options { segment_bytes: 8 << 20, max_bytes: 64 << 20, queue_bytes: 64 << 20, ..options() };
    let open = |seen: &mut Vec<u32>| {
        let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
        let found = |found: Found<'_>| {
            seen.push(number(found.meta));
            Ok(())
        };
        Journal::open(disk, long.clone(), found).unwrap()
    };
    let records = |n: u32| vec![record(n, 300_000 + 7919 * n as usize), record(n + 1, 5 * n as usize)];
    let mut seen = Vec::new();
    let journal = open(&mut seen);
    let mut places = Vec::new();
    for n in (0..60).step_by(2) {
        places.push(journal.append_and_wait(records(n)).unwrap());
    }
    drop(journal);
    let journal = open(&mut seen);
    assert_eq!(seen, (0..60).collect::<Vec<_>>());
    for (n, places) in (0..60).step_by(2).zip(places) {
        for (record, place) in records(n).iter().zip(places) {
            let length = record.payload_length();
            let at = place.offset + (crate::format::RECORD_FIXED + record.meta.len() + 4) as u64;
            let there = journal.read_vec(place.segment, at, length).unwrap();
            assert!(there == record.payload.concat(), "record {n}");
        }
    }
}
