//! Any bytes over a segment: it opens with a prefix of what was written, or is refused.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use wmall_journal::sim::SimDisk;
use wmall_journal::{Disk, Journal, Options, Record};

fn options() -> Options {
    Options {
        identity: [5; 16],
        segment_bytes: 4096,
        max_bytes: 1 << 20,
        reserve_bytes: 0,
        queue_bytes: 1 << 20,
        replay_from: None,
        name: "fuzz".into(),
    }
}

fuzz_target!(|input: (u16, Vec<u8>)| {
    let (at, junk) = input;
    let disk = SimDisk::new();
    let journal = Journal::open(Arc::new(disk.clone()), options(), |_| Ok(())).expect("an empty folder");
    for n in 0..12u8 {
        let record = Record { kind: 1, meta: vec![n], payload: vec![vec![n; 100].into()], payload_crc: None };
        journal.append_and_wait(vec![record]).expect("room");
    }
    drop(journal);
    let file = disk.open("0000000000.seg").expect("a segment");
    let at = usize::from(at) % 4096;
    let junk = &junk[..junk.len().min(4096 - at)];
    file.write_at(&[bytes::Bytes::copy_from_slice(junk)], at as u64).expect("in bounds");
    file.sync_all().expect("a sync");
    let mut seen = Vec::new();
    let opened = Journal::open(Arc::new(disk), options(), |found| {
        seen.push(found.meta.to_vec());
        Ok(())
    });
    if opened.is_ok() {
        // Junk that checks out as a record of that place is a record; all that was there before stays.
        assert!(seen.iter().take(12).enumerate().all(|(i, meta)| meta == &[i as u8] || i >= 11));
    }
});
