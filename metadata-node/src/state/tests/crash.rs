//! Crashes of what stands beside the log: a view that was written out up to any entry, and a snapshot file
//! that was written up to any byte.

use std::fs;

use wmall_proto::identity::{Actor, TokenId, TokenRecord, User};
use wmall_proto::rpc::NameCommand;
use wmall_proto::{ObjectName, Role};

use super::*;
use crate::raft::SnapshotFolder;

/// Entries of every kind, as the log has them.
fn history() -> Vec<(LogId<u64>, bytes::Bytes)> {
    let mut dice = 11u64;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    let name = |n: u64| ObjectName::new(format!("n{n}")).unwrap();
    let mut entries = Vec::new();
    for n in 0..160u64 {
        let command = match roll(13) {
            0..=3 => {
                let slots: &[u8] = if roll(3) == 0 { &[0, 1] } else { &[0, 1, 2] };
                let mut put = file(vec![chunk(roll(12), slots), chunk(roll(12), slots)], Ack::Quorum);
                if let Command::CommitFile { file, .. } = &mut put {
                    file.object = Some((b(), name(roll(5))));
                }
                put
            }
            4 => Command::Name(NameCommand::Remove {
                bucket: b(),
                name: name(roll(5)),
                condition: Condition::None,
                purge: roll(2) == 0,
            }),
            5 => Command::MarkDirty(DiskId(1 + roll(3) as u32)),
            6 => Command::FenceUploads { before_ms: n / 4 },
            7 => Command::Revoke {
                name: NodeName::new(format!("u{}", roll(4))).unwrap(),
                role: Some(Role::Client).filter(|_| roll(2) == 0),
                by: None,
            },
            8 => Command::SetScopes(User {
                name: NodeName::new("alice").unwrap(),
                scopes: vec!["b:read".parse().unwrap()],
            }),
            9 => Command::MoveSlots(vec![crate::command::SlotMove {
                group: (POOL, PgId(0)),
                slot: roll(3) as u8,
                to: DiskId(1 + roll(4) as u32),
                row_version: 1 + roll(5),
                reason: wmall_placement::Reason::Lost,
            }]),
            10 => Command::NoteDisks { down: vec![DiskId(1 + roll(4) as u32)], back: vec![DiskId(1)] },
            11 => Command::CloseTickets {
                disk: DiskId(4),
                incarnation: Incarnation([4; 16]),
                pieces: (0..12).map(|n| fetched(roll(3) as u8, id(n))).collect(),
                clean: vec![(POOL, PgId(0))],
                as_of: u64::MAX,
            },
            _ => Command::CreateToken(TokenRecord {
                id: TokenId([roll(200) as u8; 32]),
                role: Role::Data,
                name: None,
                scopes: vec![],
                expires_ms: n + 20,
                created_by: None,
                wait_for_layout: false,
                used: None,
            }),
        };
        let by = (n % 3 == 0).then(|| Actor { role: Role::Admin, name: NodeName::new("ops").unwrap() });
        let item = Envelope { request: Some(RequestId::new(100 + n, [n as u8; 10])), by, command };
        let now_ms = 100 + n;
        let bytes = codec::encode(&Batch { now_ms, items: vec![item] });
        entries.push((LogId::new(CommittedLeaderId::new(1, 1), 1000 + n), bytes.into()));
    }
    entries
}

fn begun() -> State {
    let m = Machine::new();
    let state = State::open(Box::new(MemoryStore::default())).unwrap();
    state.load(m.pairs().into_iter().map(Ok)).unwrap();
    state
}

fn pairs(state: &State) -> BTreeMap<Vec<u8>, Vec<u8>> {
    state.store.scan(b"", None, usize::MAX).unwrap().into_iter().collect()
}

fn apply(state: &State, entries: &[(LogId<u64>, bytes::Bytes)]) {
    for (id, bytes) in entries {
        state.apply(vec![(*id, StateEntry::Commands(bytes.clone()))]).unwrap();
    }
}

#[test]
fn a_view_that_was_written_up_to_any_entry_catches_up_to_the_same() {
    let entries = history();
    let whole = begun();
    apply(&whole, &entries);
    let expected = pairs(&whole);
    for cut in 0..=entries.len() {
        let before = begun();
        apply(&before, &entries[..cut]);
        // What is on disk; memory is gone.
        let after = State::open(Box::new(MemoryStore::default())).unwrap();
        after.load(pairs(&before).into_iter().map(Ok)).unwrap();
        apply(&after, &entries[cut..]);
        assert!(pairs(&after) == expected, "cut after {cut} entries");
        // Several entries in one batch of the view come to the same as one by one.
        let together = begun();
        apply(&together, &entries[..cut]);
        let rest = entries[cut..].iter().map(|(id, bytes)| (*id, StateEntry::Commands(bytes.clone())));
        together.apply(rest.collect()).unwrap();
        assert!(pairs(&together) == expected, "one batch after {cut} entries");
    }
}

#[test]
fn of_a_snapshot_that_was_cut_anywhere_nothing_is_believed() {
    let entries = history();
    let (folder, state) = (tempfile::tempdir().unwrap(), begun());
    let snapshots = SnapshotFolder::open(folder.path(), [7; 16]).unwrap();
    apply(&state, &entries[..40]);
    let (first, _) = snapshots.save(&state).unwrap();
    apply(&state, &entries[40..]);
    let expected = pairs(&state);
    let (second, _) = snapshots.save(&state).unwrap();
    let path = folder.path().join(&second.snapshot_id);
    let whole = fs::read(&path).unwrap();
    // The rename was durable and the bytes were not, which the order of the writer rules out; and a file that
    // is under its temporary name, which it does not.
    for cut in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        fs::write(&path, &whole[..cut]).unwrap();
        fs::write(folder.path().join("building.new"), &whole[..cut]).unwrap();
        let again = SnapshotFolder::open(folder.path(), [7; 16]).unwrap();
        let (meta, _) = again.newest().unwrap().unwrap();
        assert_eq!(meta.last_log_id, first.last_log_id, "cut at {cut}: the one before counts");
        assert!(!folder.path().join("building.new").exists());
    }
    fs::write(&path, &whole).unwrap();
    let again = SnapshotFolder::open(folder.path(), [7; 16]).unwrap();
    let (meta, newest) = again.newest().unwrap().unwrap();
    assert_eq!(meta.last_log_id, second.last_log_id);
    let restored = State::open(Box::new(MemoryStore::default())).unwrap();
    again.restore(&newest, &restored).unwrap();
    assert!(pairs(&restored) == expected);
}

/// A thousand single-byte flips: the snapshot is passed over for the one before, and no command takes it for
/// good.
#[test]
fn a_flipped_byte_in_a_snapshot_is_never_believed() {
    let entries = history();
    let (folder, state) = (tempfile::tempdir().unwrap(), begun());
    let snapshots = SnapshotFolder::open(folder.path(), [7; 16]).unwrap();
    apply(&state, &entries[..40]);
    let (first, _) = snapshots.save(&state).unwrap();
    apply(&state, &entries[40..]);
    let (second, _) = snapshots.save(&state).unwrap();
    let path = folder.path().join(&second.snapshot_id);
    let mut content = fs::read(&path).unwrap();
    for flip in 0..1000 {
        let at = flip * 7919 % content.len();
        content[at] ^= 1 << (flip % 8);
        fs::write(&path, &content).unwrap();
        let again = SnapshotFolder::open(folder.path(), [7; 16]).unwrap();
        let (meta, _) = again.newest().unwrap().unwrap();
        assert_eq!(meta.last_log_id, first.last_log_id, "flip at {at}");
        assert!(SnapshotFolder::summary(&path).is_err(), "flip at {at}");
        content[at] ^= 1 << (flip % 8);
    }
}
