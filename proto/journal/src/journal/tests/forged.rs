//! Bytes that a writer stores and that look like records. Whoever stores them can't know a segment's nonce.

use super::*;

/// A payload that holds copies of all that is in a segment, each where it would say that it is.
fn planted(copy: &[u8], at: u64) -> Record {
    let payload = copy[at as usize..].to_vec();
    Record { kind: 1, meta: 7u32.to_le_bytes().to_vec(), payload: vec![payload.into()], ..Record::default() }
}

fn content(disk: &SimDisk, segment: &str) -> Vec<u8> {
    let file = disk.open(segment).unwrap();
    let size = file.size().unwrap() as usize;
    file.read_vec(0, size).unwrap()
}

/// A journal whose first segment holds records that say that what is before them was durable.
fn donor(nonce: Nonces) -> Vec<u8> {
    let disk = SimDisk::new();
    let with = Options { nonce, ..options() };
    let journal = Journal::open(Arc::new(disk.clone()), with, |_| Ok(())).unwrap();
    for n in 0..12 {
        journal.append_and_wait(vec![record(100 + n, 20 * n as usize)]).unwrap();
    }
    drop(journal);
    content(&disk, "0000000000.seg")
}

/// Appends a record whose payload is what a donor has at the very same offsets, and cuts the power: its
/// header is torn off, and its payload stands. Opens, strictly and passing over.
fn torn_over(nonce: Nonces) -> (Result<Vec<u32>, OpenError>, Vec<u32>) {
    let copy = donor(nonce);
    let disk = SimDisk::new();
    let (journal, _) = reopen(Arc::new(disk.clone())).unwrap();
    let tail = crate::format::SEGMENT_HEADER + record(0, 100).size();
    let start = tail + (crate::format::RECORD_FIXED + 4 + 4) as u64;
    let mut planted = planted(&copy, start);
    let room = (SEGMENT - start - 200) as usize;
    planted.payload = vec![planted.payload[0].slice(..room)];
    let at = journal.append_and_wait(vec![record(0, 100), planted]).unwrap()[1];
    assert_eq!(at, Position { segment: 0, offset: tail });
    drop(journal);
    let file = disk.open("0000000000.seg").unwrap();
    file.write_at(&[vec![0u8; (start - tail) as usize].into()], tail).unwrap();
    // The mark behind it, if there is one, did not reach the disk either.
    let end = tail + crate::format::record_size(4, room);
    let rest = (SEGMENT - crate::format::SEGMENT_FOOTER - end) as usize;
    file.write_at(&[vec![0u8; rest].into()], end).unwrap();
    file.sync_all().unwrap();
    let mut passed = Vec::new();
    let lenient = disk.killed();
    let replay = |found: Found<'_>| {
        passed.push(number(found.meta));
        Ok(())
    };
    Journal::open_damaged(Arc::new(lenient), options(), replay, |_| {}).unwrap();
    (reopen(Arc::new(disk)).map(|(_, seen)| seen), passed)
}

#[test]
fn a_payload_that_copies_records_of_another_journal_vouches_for_nothing_behind_a_torn_tail() {
    let (strict, passed) = torn_over(|_| [0xee; 16]);
    assert_eq!((strict.unwrap(), passed), (vec![0], vec![0]));
    // Nor do those of another segment of the same journal.
    let (strict, passed) = torn_over(|_| (options().nonce)(1));
    assert_eq!((strict.unwrap(), passed), (vec![0], vec![0]));
}

/// With the nonce known the payload would pass: this is what the nonce is for.
#[test]
fn a_payload_that_knew_the_nonce_would_pass_for_records() {
    let (strict, passed) = torn_over(options().nonce);
    assert!(matches!(strict, Err(OpenError::Corrupt { .. })), "{strict:?}");
    assert!(passed.len() > 1, "{passed:?}");
}
