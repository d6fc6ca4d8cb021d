//! Chunks whose pieces are shards: their digests are bound, and nothing else passes for them.

use super::*;

const RS: PoolId = PoolId(2);

/// With a second pool of `rs:2+1` on disks 2, 3 and 4.
fn machine() -> Machine {
    let mut m = Machine::new();
    let based_on = m.state.topology().version;
    let rows = vec![vec![DiskId(2), DiskId(3), DiskId(4)]];
    let (name, scheme) = ("rs".parse().unwrap(), "rs:2+1".parse().unwrap());
    m.run(Command::CreatePool { name, scheme, pg_bits: 0, rows, based_on }).unwrap();
    m
}

fn digest(n: u64, slot: u8) -> PieceDigest {
    let mut digest = id(n).0;
    digest[31] = slot + 1;
    digest
}

fn shard_chunk(n: u64, slots: &[u8]) -> PromisedChunk {
    let promise = |&slot: &u8| Promise {
        slot,
        disk: DiskId(u32::from(slot) + 2),
        incarnation: Incarnation([slot + 2; 16]),
    };
    let digests = (0..3).map(|slot| digest(n, slot)).collect();
    let promises = slots.iter().map(promise).collect();
    PromisedChunk { id: id(n), length: CHUNK, row_version: 1, digests, promises }
}

/// A file of one such chunk; the blocks of its manifest are whole.
fn commit(m: &mut Machine, chunk: PromisedChunk, ack: Ack) -> Result<Response, RpcError> {
    let Command::CommitFile { mut file, mut chunks } = file(vec![chunk], ack) else { panic!() };
    file.pool = RS;
    let mut block = shard_chunk(1000, &[0, 1, 2]);
    (block.id, block.length) = (chunks[1].id, chunks[1].length);
    chunks[1] = block;
    m.run(Command::CommitFile { file, chunks })
}

fn close(m: &mut Machine, disk: u32, chunk: ChunkId, digest: PieceDigest) {
    m.run(Command::CloseTickets {
        disk: DiskId(disk),
        incarnation: Incarnation([disk as u8; 16]),
        pieces: vec![FetchedPiece { pool: RS, chunk, slot: disk as u8 - 2, digest }],
        clean: vec![],
        as_of: u64::MAX,
    })
    .unwrap();
}

fn listed(m: &Machine, disk: u32) -> Vec<(u8, Vec<PieceDigest>)> {
    match m.state.list_missing(DiskId(disk), Listing::default(), &Silent::new()).unwrap() {
        Response::Missing { pieces, .. } => pieces.into_iter().map(|p| (p.slot, p.digests)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_quorum_is_one_more_than_the_data_and_the_rest_becomes_tickets_with_digests() {
    let mut m = machine();
    let few = Err(ErrorCode::TooFewReceipts);
    assert_eq!(code(commit(&mut m, shard_chunk(1, &[0, 1]), Ack::Quorum)), few, "width 3 has a quorum of 3");
    assert_eq!(code(commit(&mut m, shard_chunk(1, &[0, 1, 2]), Ack::Quorum)), Ok(()));
    assert_eq!(m.state.digests(RS, &id(1)).unwrap(), shard_chunk(1, &[]).digests);
    m.run(Command::ReportBad { disk: DiskId(3), chunks: vec![(RS, id(1))] }).unwrap();
    assert_eq!(listed(&m, 3), [(1, shard_chunk(1, &[]).digests)]);
    close(&mut m, 3, id(1), digest(1, 2));
    assert_eq!(m.tickets(), 1, "another slot's piece closes no ticket");
    close(&mut m, 3, id(1), digest(1, 1));
    assert_eq!(m.tickets(), 0);
    m.assert_same_after_reload();
}

#[test]
fn digests_are_bound_by_the_first_commit() {
    let mut m = machine();
    let mut other = shard_chunk(1, &[0, 1, 2]);
    other.digests.pop();
    assert_eq!(code(commit(&mut m, other, Ack::Quorum)), Err(ErrorCode::BadRequest), "one a slot");
    assert_eq!(
        code(m.commit(vec![shard_chunk(1, &[0, 1, 2])], Ack::Quorum)),
        Err(ErrorCode::BadRequest),
        "not where there are copies"
    );
    commit(&mut m, shard_chunk(1, &[0, 1, 2]), Ack::All).unwrap();
    let mut other = shard_chunk(1, &[0, 1, 2]);
    other.digests[2][0] ^= 1;
    assert_eq!(code(commit(&mut m, other, Ack::All)), Err(ErrorCode::BadReceipt));
    commit(&mut m, shard_chunk(1, &[0, 1, 2]), Ack::All).unwrap();
}

#[test]
fn digests_go_with_their_chunk_and_a_recount_finds_those_that_did_not() {
    let mut m = machine();
    commit(&mut m, shard_chunk(1, &[0, 1, 2]), Ack::All).unwrap();
    let audit = |m: &Machine, without: &[u8]| {
        let mut auditor = Auditor::default();
        let pairs = m.pairs();
        let kept = pairs.iter().filter(|(key, _)| key.as_slice() != without);
        kept.for_each(|(key, value)| auditor.take(key, value).unwrap());
        auditor.finish().troubles
    };
    assert_eq!(audit(&m, b""), Vec::<String>::new());
    assert_eq!(audit(&m, &keys::digests(RS, &id(1))).len(), 1);
    let Command::CommitFile { file, .. } = file(vec![shard_chunk(1, &[])], Ack::All) else { panic!() };
    m.run(Command::Name(wmall_proto::rpc::NameCommand::Unpin { file: file.id, purge: true })).unwrap();
    let at = m.index;
    let condemned = |chunk| crate::command::CondemnedChunk { pool: RS, chunk, at };
    let chunks: Vec<_> =
        m.pairs().keys().filter(|k| k[0] == b's').map(|k| k[3..].try_into().unwrap()).collect();
    m.run(Command::DeleteChunks(chunks.into_iter().map(|c| condemned(ChunkId(c))).collect())).unwrap();
    assert!(m.pairs().keys().all(|key| key[0] != b's'), "nothing of them is left");
    assert_eq!(audit(&m, b""), Vec::<String>::new());
}

#[test]
fn what_a_rebuild_could_not_know_is_learnt_from_the_disk_that_makes_the_piece() {
    let m = machine();
    let map = m.state.topology();
    let manifest = Manifest::new(u64::from(CHUNK), CHUNK, vec![id(1)]).unwrap();
    let block = manifest.block_ids()[0];
    let holders = [(id(1), vec![DiskId(2), DiskId(4)]), (block, vec![DiskId(2), DiskId(3), DiskId(4)])];
    let holders = holders.into_iter().map(|(chunk, disks)| ((RS, chunk), disks)).collect();
    let shards = |n: u64, slots: &[u8]| slots.iter().map(|&s| (s, digest(n, s))).collect::<Vec<_>>();
    let shards =
        [((RS, id(1)), shards(1, &[0, 2])), ((RS, block), shards(1000, &[0, 1, 2]))].into_iter().collect();
    let state = State::open(Box::new(MemoryStore::default())).unwrap();
    state.adopt_map(&map).unwrap();
    state.adopt_files(&[FoundFile { pool: RS, manifest }], &map, &holders, &shards).unwrap();
    let mut m = Machine { state, index: map.version + 1, ahead_ms: 0 };
    assert_eq!(listed(&m, 3), [(1, vec![digest(1, 0), wmall_proto::chunk::UNKNOWN_DIGEST, digest(1, 2)])]);
    close(&mut m, 3, id(1), digest(1, 1));
    assert_eq!((m.tickets(), m.state.digests(RS, &id(1)).unwrap()), (0, shard_chunk(1, &[]).digests));
    assert_eq!(code(commit(&mut m, shard_chunk(1, &[0, 1, 2]), Ack::All)), Ok(()));
}

#[test]
fn a_doubted_shard_is_bad_only_if_another_one_was_committed() {
    let mut m = machine();
    commit(&mut m, shard_chunk(1, &[0, 1, 2]), Ack::Quorum).unwrap();
    let doubted = |n, slot, digest| wmall_proto::rpc::DoubtedPiece {
        key: wmall_proto::feed::PoolChunk { pool: RS, chunk: id(n) },
        slot,
        digest,
    };
    let contradicts = |piece| m.state.contradicts(&piece).unwrap();
    assert!(!contradicts(doubted(1, 1, digest(1, 1))), "whatever a caller says of it");
    assert!(contradicts(doubted(1, 1, digest(1, 2))), "another slot's");
    assert!(!contradicts(doubted(7, 1, digest(7, 1))), "of a chunk that nobody has committed");
    assert!(!contradicts(doubted(1, 9, digest(1, 1))), "of a slot that there is not");
}

#[test]
fn bad_pieces_of_a_disk_have_a_line_a_minute() {
    use wmall_proto::event::EventKind;
    let mut m = Machine::new();
    let report = |m: &mut Machine, n| {
        m.commit(vec![chunk(n, &[0, 1, 2])], Ack::All).unwrap();
        m.run(Command::ReportBad { disk: DiskId(2), chunks: vec![(POOL, id(n))] }).unwrap();
    };
    let told = |m: &Machine| match m.state.query(&Query::Events { first: 1, limit: 100 }, &Silent::new()) {
        Ok(QueryReply::Events { events, .. }) => events
            .iter()
            .filter_map(|e| match e.what {
                EventKind::PiecesBad { disk: DiskId(2), pieces } => Some(pieces),
                _ => None,
            })
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    (1..=5).for_each(|n| report(&mut m, n));
    assert_eq!(told(&m), [1], "the first at once");
    m.index += 60_000;
    report(&mut m, 6);
    assert_eq!(told(&m), [1, 5], "and the rest together");
    m.assert_same_after_reload();
}
