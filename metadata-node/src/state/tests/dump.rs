//! Dumps and loads beside what goes on: neither holds off what it need not.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// An entry that changes keys all over the map.
fn entry(index: u64, n: u64) -> (LogId<u64>, StateEntry) {
    let mut put = file(vec![chunk(n, &[0, 1]), chunk(n + 1, &[0, 1, 2])], Ack::Quorum);
    if let Command::CommitFile { file, .. } = &mut put {
        file.object = Some((b(), format!("n{}", n % 7).parse().unwrap()));
    }
    let items = vec![Envelope { request: None, by: None, command: put }];
    let bytes = codec::encode(&Batch { now_ms: index, items });
    (LogId::new(CommittedLeaderId::new(1, 1), index), StateEntry::Commands(bytes.into()))
}

#[test]
fn entries_are_applied_during_a_dump_which_is_of_its_beginning() {
    let mut m = Machine::new();
    m.commit((0..3000).map(|n| chunk(n, &[0, 1, 2])).collect(), Ack::All).unwrap();
    let (expected, before) = (m.pairs(), m.state.applied());
    let (index, mut count) = (Cell::new(m.index), 0u64);
    let mut dumped = BTreeMap::new();
    let applied = m.state.dump(|key, value| {
        // From within the dump: were applying held off, this would never return.
        if count.is_multiple_of(100) {
            index.set(index.get() + 1);
            m.state.apply(vec![entry(index.get(), 5 * count)]).unwrap();
        }
        count += 1;
        dumped.insert(key.to_vec(), value.to_vec());
        Ok(())
    });
    assert_eq!(applied.unwrap(), before);
    assert!(dumped == expected, "the dump is not the map of its beginning");
    assert_eq!(m.state.read().index(), index.get());
    assert!(m.pairs() != expected);
    let copy = State::open(Box::new(MemoryStore::default())).unwrap();
    copy.load(dumped.into_iter().map(Ok)).unwrap();
    assert_eq!(copy.applied(), before);
}

#[test]
fn queries_are_answered_during_a_load() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    let pairs = m.pairs();
    m.commit(vec![chunk(2, &[0, 1, 2])], Ack::All).unwrap();
    let asked = RefCell::new(0);
    let pairs = pairs.into_iter().map(|pair| {
        // From within the load: by what was there before, until all is there.
        assert!(m.state.query(&Query::Chunk(id(2)), &Silent::new()).is_ok());
        assert_eq!(m.state.read().index(), m.index);
        *asked.borrow_mut() += 1;
        Ok(pair)
    });
    m.state.load(pairs).unwrap();
    assert!(asked.into_inner() > 10);
    assert!(m.state.query(&Query::Chunk(id(2)), &Silent::new()).is_err());
    assert!(m.state.query(&Query::Chunk(id(1)), &Silent::new()).is_ok());
}

#[test]
fn a_load_that_breaks_off_leaves_what_was_there() {
    let mut m = Machine::new();
    m.commit(vec![chunk(1, &[0, 1, 2])], Ack::All).unwrap();
    let before = m.pairs();
    let broken = before.clone().into_iter().take(5).map(Ok);
    let broken = broken.chain([Err(StoreError("it ends early".into()))]);
    assert!(m.state.load(broken).is_err());
    assert!(m.pairs() == before && m.state.failed().is_none());
    m.commit(vec![chunk(2, &[0, 1, 2])], Ack::All).unwrap();
}

/// Measures how long entries wait for a dump and for a load of so many names (`WMALL_NAMES`), on the map as
/// nodes have it: `cargo test --profile ci --workspace --lib applying_beside -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn applying_beside_a_dump_of_many_names() {
    use std::time::{Duration, Instant};
    use wmall_runtime::view::{Buffered, SledStore};
    let names: u64 = std::env::var("WMALL_NAMES").map_or(1_000_000, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let store = |name| Box::new(Buffered::new(SledStore::create_anew(&folder.path().join(name)).unwrap()));
    let state = State::open(store("view")).unwrap();
    state.load(Machine::new().pairs().into_iter().map(Ok)).unwrap();
    let put = |index: u64| {
        let commands = (0..64).map(|n| {
            let number = index * 64 + n;
            let mut put = file(vec![chunk(number, &[0, 1, 2])], Ack::Quorum);
            if let Command::CommitFile { file, .. } = &mut put {
                file.object = Some((b(), format!("name-{number}").parse().unwrap()));
            }
            Envelope { request: None, by: None, command: put }
        });
        let bytes = codec::encode(&Batch { now_ms: 1_000_000 + index, items: commands.collect() });
        let begun = Instant::now();
        let id = LogId::new(CommittedLeaderId::new(1, 1), 1000 + index);
        state.apply(vec![(id, StateEntry::Commands(bytes.into()))]).unwrap();
        begun.elapsed()
    };
    let begun = Instant::now();
    let entries = names / 64;
    let mut alone: Vec<Duration> = (0..entries).map(put).collect();
    println!("{} names in {:?}", entries * 64, begun.elapsed());
    let snapshots = crate::raft::SnapshotFolder::open(&folder.path().join("snapshots"), [1; 16]).unwrap();
    let (path, index) = (folder.path().join("dump"), AtomicU64::new(entries));
    let (mut beside, took) = std::thread::scope(|scope| {
        let dump = scope.spawn(|| {
            let begun = Instant::now();
            snapshots.write(&state, &path).unwrap();
            begun.elapsed()
        });
        let mut beside = Vec::new();
        while !dump.is_finished() {
            beside.push(put(index.fetch_add(1, Ordering::Relaxed)));
        }
        (beside, dump.join().unwrap())
    });
    let told = |of: &mut Vec<Duration>| {
        of.sort_unstable();
        format!(
            "p50 {:?}, p99 {:?}, longest {:?}",
            of[of.len() / 2],
            of[of.len() * 99 / 100],
            of[of.len() - 1]
        )
    };
    println!("an entry of 64 names alone: {}", told(&mut alone));
    println!("{} entries beside a dump of {took:?}: {}", beside.len(), told(&mut beside));
    let copy = State::open(store("copy")).unwrap();
    let begun = Instant::now();
    snapshots.restore(&path, &copy).unwrap();
    println!("loaded in {:?}", begun.elapsed());
    assert_eq!(copy.read().topology.version, state.read().topology.version);
}
