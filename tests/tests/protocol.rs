//! Calls that the command line never makes: stale rows, wrong bytes, roles that overstep.

use std::time::Duration;

use wmall_client::{ClientConfig, PutOptions, Store};
use wmall_devnet::{InProcess, UpOptions};
use wmall_proto::capacity::CapacityLevel;
use wmall_proto::challenge::Challenge;
use wmall_proto::health::health;
use wmall_proto::range::{Range, RangeClaim, RangeSum};
use wmall_proto::rpc::{
    Ack, CallKind, CommitRequest, DiskHeartbeat, DiskRegistration, Heartbeat, MemberCommand, NameCommand,
    PieceCheck, PutRequest, Query, RaftCall, RaftRequest, ReadRequest, RegisteredDisk, Registration, Request,
    Response, UserCommand,
};
use wmall_proto::{
    ChunkId, DiskId, ErrorCode, FileId, Incarnation, NodeName, PoolId, RequestId, Role, RpcError, UploadId,
};
use wmall_transport::{Endpoint, Identity, Issuer, Target};

const TIMEOUT: Duration = Duration::from_secs(10);

struct Fixture {
    _folder: tempfile::TempDir,
    cluster: InProcess,
    store: Store,
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let options = UpOptions { metadata: 1, data: 3, ..UpOptions::default() };
    let cluster = InProcess::up(&folder.path().join("net"), &options).await.unwrap();
    let store = cluster.connect().await.unwrap();
    Fixture { _folder: folder, cluster, store }
}

impl Fixture {
    fn endpoint(&self, identity: &str) -> Endpoint {
        let folder = self.cluster.layout().root().join(identity);
        Endpoint::client(&Identity::load(&folder).unwrap()).unwrap()
    }

    /// The node of slot 0 of a chunk, and the row's version.
    fn primary(&self, chunk: &ChunkId) -> (Target, u64) {
        let topology = self.store.topology();
        let (_, row) = topology.row_of(PoolId(1), chunk).unwrap();
        let node = topology.node_of(row.slots[0]).unwrap();
        (Target { role: Role::Data, node: node.name.clone(), address: node.address }, row.version)
    }
}

fn put_request(chunk: ChunkId, length: u32, row_version: u64) -> PutRequest {
    let upload = UploadId::new(wmall_runtime::clock::now_ms(), [3; 10]);
    PutRequest {
        upload,
        pool: PoolId(1),
        chunk,
        length,
        row_version,
        slot: 0,
        relay: vec![],
        ack: Ack::Quorum,
        shard: None,
    }
}

/// All of a chunk's piece, on whichever disk of the node it is.
fn whole(chunk: ChunkId) -> ReadRequest {
    ReadRequest { pool: PoolId(1), chunk, disk: None, slot: None, offset: 0, length: u32::MAX }
}

async fn put(
    endpoint: &Endpoint,
    target: &Target,
    request: PutRequest,
    bytes: &[u8],
) -> Result<Response, RpcError> {
    let mut call = endpoint.open(target, &Request::Put(request), TIMEOUT).await?;
    let _ = call.write(bytes.to_vec().into()).await;
    Ok(call.finish().await?.response)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_nodes_take_only_what_is_what_it_says() {
    let fixture = fixture().await;
    let client = fixture.endpoint("identities/client");
    let content = b"some bytes of a block".repeat(100);
    let (chunk, length) = (ChunkId::of(&content), content.len() as u32);
    let (target, version) = fixture.primary(&chunk);
    let code = |answer: Result<Response, RpcError>| answer.map(|_| ()).map_err(|e| e.code);
    let stale = put(&client, &target, put_request(chunk, length, version - 1), &content).await;
    assert_eq!(code(stale), Err(ErrorCode::StaleRow));
    let future = put(&client, &target, put_request(chunk, length, version + 1), &content).await;
    assert_eq!(code(future), Err(ErrorCode::StaleRow));
    let wrong = put(&client, &target, put_request(chunk, length, version), &vec![1; content.len()]).await;
    assert_eq!(code(wrong), Err(ErrorCode::HashMismatch));
    let short = put(&client, &target, put_request(chunk, length, version), &content[1..]).await;
    assert_eq!(code(short), Err(ErrorCode::BadRequest));
    let long = put(&client, &target, put_request(chunk, length - 1, version), &content).await;
    assert_eq!(code(long), Err(ErrorCode::BadRequest));
    let huge = put(&client, &target, put_request(chunk, u32::MAX, version), &content).await;
    assert_eq!(code(huge), Err(ErrorCode::OutOfBounds));
    let mut elsewhere = put_request(chunk, length, version);
    elsewhere.slot = 1;
    assert_eq!(code(put(&client, &target, elsewhere, &content).await), Err(ErrorCode::StaleRow));
    let read = Request::ReadPiece(whole(chunk));
    let refused = client.call(&target, &read, TIMEOUT).await;
    assert_eq!(code(refused), Err(ErrorCode::NotFound), "nothing was kept of all that");
    let right = put(&client, &target, put_request(chunk, length, version), &content).await;
    assert!(matches!(right, Ok(Response::Put(outcome)) if outcome.receipts.len() == 1));
    let read = ReadRequest { offset: length + 1, length: 1, ..whole(chunk) };
    let read = Request::ReadPiece(read);
    let beyond = client.call(&target, &read, TIMEOUT).await;
    assert_eq!(code(beyond), Err(ErrorCode::RangeOutOfBounds));
    fixture.cluster.down().await;
}

/// A node of several disks is asked for what one of them has: another's piece is no answer, or nobody would
/// see that one rot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_is_asked_of_one_disk() {
    let fixture = fixture().await;
    let content = b"on one disk and no other".repeat(100);
    let options = PutOptions { ack: Ack::All, ..PutOptions::default() };
    fixture.store.put(&mut content.as_slice(), &options).await.unwrap();
    let chunk = ChunkId::of(&content);
    let (target, _) = fixture.primary(&chunk);
    let topology = fixture.store.topology();
    let (_, row) = topology.row_of(PoolId(1), &chunk).unwrap();
    let client = fixture.endpoint("identities/client");
    let pool = PoolId(1);
    let calls = |disk: DiskId| {
        let check = Request::CheckPiece { pool, chunk, disk: Some(disk), slot: None, digest: None };
        let read = Request::ReadPiece(ReadRequest { disk: Some(disk), ..whole(chunk) });
        [Request::Attest { disk, slot: 2, pool, chunk, nonce: [5; 16] }, check, read]
    };
    let calls_of = calls(row.slots[0]);
    let [attest, check, read] = calls_of.each_ref().map(|call| client.call(&target, call, TIMEOUT));
    let Ok(Response::Attested(signed)) = attest.await else { panic!("it has it") };
    assert_eq!(
        (signed.attestation.disk, signed.attestation.slot),
        (row.slots[0], 2),
        "a copy is as good in any"
    );
    assert!(matches!(check.await, Ok(Response::Checked(PieceCheck::Good))));
    assert!(matches!(read.await, Ok(Response::Piece { .. })));
    let calls_of = calls(row.slots[1]);
    let [attest, check, read] = calls_of.each_ref().map(|call| client.call(&target, call, TIMEOUT));
    assert_eq!(attest.await.map_err(|e| e.code), Err(ErrorCode::NotFound));
    assert!(matches!(check.await, Ok(Response::Checked(PieceCheck::Absent))));
    assert_eq!(read.await.map_err(|e| e.code), Err(ErrorCode::NotFound));
    fixture.cluster.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_supply_no_shards_and_no_data_node_replaces_a_good_one() {
    let fixture = fixture().await;
    let (name, scheme) = ("rs".parse().unwrap(), "rs:2+1".parse().unwrap());
    fixture.store.create_pool(name, scheme, 0).await.unwrap();
    let content = b"a chunk of two halves and a sum.".repeat(64);
    let options = PutOptions { scheme: Some(scheme), ack: Ack::All, ..PutOptions::default() };
    let put_before = fixture.store.put(&mut content.as_slice(), &options).await.unwrap();
    let chunk = ChunkId::of(&content);
    let topology = fixture.store.topology();
    let pool = topology.pool_named(&"rs".parse().unwrap()).unwrap().id;
    let (_, row) = topology.row_of(pool, &chunk).unwrap();
    let node = topology.node_of(row.slots[0]).unwrap();
    let target = Target { role: Role::Data, node: node.name.clone(), address: node.address };
    let forged = vec![7u8; content.len() / 2];
    let digest = *blake3::hash(&forged).as_bytes();
    let shard = Some(wmall_proto::chunk::Shard { digest, chunk_length: content.len() as u32 });
    let request = |shard| PutRequest { pool, shard, ..put_request(chunk, forged.len() as u32, row.version) };
    let code = |answer: Result<Response, RpcError>| answer.map(|_| ()).map_err(|e| e.code);
    let client = fixture.endpoint("identities/client");
    assert_eq!(code(put(&client, &target, request(shard), &forged).await), Err(ErrorCode::Denied));
    let other = topology.nodes.values().find(|n| n.name != node.name).unwrap();
    let data = fixture.endpoint(&format!("nodes/{}/identity", other.name));
    assert_eq!(code(put(&data, &target, request(None), &forged).await), Err(ErrorCode::BadRequest));
    assert_eq!(code(put(&data, &target, request(shard), &forged).await), Err(ErrorCode::BadReceipt));
    let odd = shard.map(|s| wmall_proto::chunk::Shard { chunk_length: s.chunk_length + 9, ..s });
    assert_eq!(code(put(&data, &target, request(odd), &forged).await), Err(ErrorCode::BadRequest));
    let report = fixture.store.verify(&wmall_client::Source::File(put_before.id), true, None).await.unwrap();
    assert!(report.is_good() && report.pieces_absent == 0, "{report:?}");
    fixture.cluster.down().await;
}

/// What a disk lacked before the metadata were restored says nothing of what it lacks now, at whatever index
/// that was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_of_another_life_of_the_metadata_closes_nothing() {
    let fixture = fixture().await;
    let topology = fixture.store.topology();
    let disk = topology.disks.values().next().unwrap();
    let root = fixture.cluster.layout().root().to_path_buf();
    let issuer = Issuer::load(&root.join("ca")).unwrap();
    // As that disk's own node.
    let folder = root.join("listing");
    issuer.issue(&folder, Role::Data, &disk.node, Duration::from_secs(600)).unwrap();
    let endpoint = Endpoint::client(&Identity::load(&folder).unwrap()).unwrap();
    let client = ClientConfig::load(&fixture.cluster.layout().client()).unwrap();
    let metadata = &client.metadata[0];
    let target = Target { role: Role::Metadata, node: metadata.name.clone(), address: metadata.address };
    let list = Request::ListMissing { disk: disk.id, groups: vec![], but: vec![], after: None };
    let Ok(Response::Missing { epoch, as_of, .. }) = endpoint.call(&target, &list, TIMEOUT).await else {
        panic!("it may ask for its own");
    };
    let close =
        |epoch| Request::CloseTickets { disk: disk.id, receipts: vec![], clean: vec![], as_of, epoch };
    let other = endpoint.call(&target, &close(epoch + 1), TIMEOUT).await;
    assert_eq!(other.map_err(|e| e.code), Err(ErrorCode::PreconditionFailed));
    let own = endpoint.call(&target, &close(epoch), TIMEOUT).await;
    assert!(own.is_ok(), "{own:?}");
    endpoint.close().await;
    fixture.cluster.down().await;
}

/// A request of every kind, as small as it can be.
fn one_of_each() -> Vec<Request> {
    let (pool, chunk, disk) = (PoolId(1), ChunkId([0; 32]), DiskId(1));
    let now_ms = wmall_runtime::clock::now_ms();
    let (request, name) = (RequestId::new(now_ms, [9; 10]), NodeName::new("nobody").unwrap());
    let commit = CommitRequest::Part {
        upload: UploadId([0; 16]),
        pool,
        part: 0,
        bucket: None,
        chunks: vec![],
        ack: Ack::All,
    };
    let heartbeat = Heartbeat {
        node: name.clone(),
        process: [0; 16],
        now_ms: 0,
        disks: vec![],
        topology: 0,
        topology_epoch: 0,
        feed: 0,
        feed_epoch: 0,
    };
    let address = "127.0.0.1:1".parse().unwrap();
    let zone = "z".parse().unwrap();
    let all = vec![
        Request::Raft(RaftCall {
            from: 9,
            incarnation: Incarnation([9; 16]),
            to: None,
            acknowledged: Vec::new(),
            message: RaftRequest::Vote(Vec::new()),
        }),
        Request::GetTopology { known: u64::MAX },
        Request::Read { linearizable: false, query: Query::Chunk(chunk) },
        Request::Status,
        Request::Commit { request, commit },
        Request::Name { request, command: NameCommand::Repin(FileId([0; 32])) },
        Request::Administer {
            request,
            command: UserCommand::RemoveBucket { name: "none".parse().unwrap(), purge: true },
        },
        Request::Member(MemberCommand::Remove { id: 99 }),
        Request::Snapshot { local: false },
        Request::Renew { csr: vec![] },
        Request::Issuer,
        Request::JoinAddress,
        Request::ListSnapshots,
        Request::Register(Registration { node: name, zone, address, process: [0; 16], disks: vec![] }),
        Request::Heartbeat(heartbeat),
        Request::CloseTickets { disk, receipts: vec![], clean: vec![], as_of: 0, epoch: 0 },
        Request::ListMissing { disk, groups: vec![], but: vec![], after: None },
        Request::CheckCommitted { disk, chunks: vec![] },
        Request::ReportBad { disk, chunks: vec![], doubted: vec![] },
        Request::ReportLoss { disk },
        Request::CheckRange(RangeClaim {
            disk,
            range: Range { pool, low: chunk, high: chunk },
            feed: 0,
            sum: RangeSum::default(),
        }),
        Request::Challenge(Challenge { disk, pool, chunk, slot: 0, leaf: 0, nonce: [0; 16] }),
        Request::ListPieces { disk: 0, after: None },
        Request::Attest { disk: DiskId(1), slot: 0, pool, chunk, nonce: [0; 16] },
        Request::Put(put_request(chunk, 0, u64::MAX)),
        Request::ReadPiece(ReadRequest { pool, chunk, disk: None, slot: None, offset: 0, length: 1 }),
        Request::CheckPiece { pool, chunk, disk: None, slot: None, digest: None },
    ];
    let kinds: Vec<CallKind> = all.iter().map(Request::kind).collect();
    assert_eq!(kinds, CallKind::ALL, "one of each");
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_every_role_is_answered_or_denied_as_the_table_says() {
    let fixture = fixture().await;
    let root = fixture.cluster.layout().root().to_path_buf();
    let issuer = Issuer::load(&root.join("ca")).unwrap();
    let topology = fixture.store.topology();
    let data = topology.nodes.values().next().unwrap();
    let client = ClientConfig::load(&fixture.cluster.layout().client()).unwrap();
    let metadata = &client.metadata[0];
    let nodes = [
        Target { role: Role::Data, node: data.name.clone(), address: data.address },
        Target { role: Role::Metadata, node: metadata.name.clone(), address: metadata.address },
    ];
    for role in Role::ALL {
        // A name of its own: what a stranger of that role may do, not what the node itself may.
        let folder = root.join(format!("matrix-{role}"));
        let name = NodeName::new("matrix").unwrap();
        issuer.issue(&folder, role, &name, Duration::from_secs(600)).unwrap();
        let endpoint = Endpoint::client(&Identity::load(&folder).unwrap()).unwrap();
        for target in &nodes {
            for request in one_of_each() {
                let answer = endpoint.call(target, &request, TIMEOUT).await;
                let by_role = |e: &RpcError| e.code == ErrorCode::Denied && e.reason.contains("may not call");
                let denied = answer.as_ref().err().is_some_and(by_role);
                let kind = request.kind();
                let case = format!("{role} calls {} of {}", kind.as_str(), target.node);
                assert_eq!(denied, !role.may_call(kind), "{case}: {answer:?}");
                // What is let through by its role alone is still no way to speak for another, or to get at
                // what takes a scope; and never a way to bring a node down.
                let code = answer.as_ref().err().map(|e| e.code);
                assert_ne!(code, Some(ErrorCode::Internal), "{case}: {answer:?}");
                assert_ne!(code, Some(ErrorCode::Unreachable), "{case}: {answer:?}");
                if role == Role::Data && matches!(kind, CallKind::Register | CallKind::Heartbeat) {
                    let expected =
                        if *target == nodes[1] { ErrorCode::Denied } else { ErrorCode::BadRequest };
                    assert_eq!(code, Some(expected), "{case}: {answer:?}");
                }
            }
        }
        endpoint.close().await;
    }
    // A node that is reached under another name than its certificate's is not talked to.
    let client = fixture.endpoint("identities/client");
    let data_9 = NodeName::new("data-9").unwrap();
    let wrong = Target { role: Role::Data, node: data_9, address: data.address };
    let answer = client.call(&wrong, &Request::Status, TIMEOUT).await;
    assert_eq!(answer.unwrap_err().code, ErrorCode::Denied);
    // Nor one of the right name that is something else than it should be.
    let disguised = Target { role: Role::Metadata, node: data.name.clone(), address: data.address };
    let answer = client.call(&disguised, &Request::Status, TIMEOUT).await;
    assert_eq!(answer.unwrap_err().code, ErrorCode::Denied);
    fixture.cluster.down().await;
}

/// A node of a name of its own that was let in, and registers whatever it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_node_that_registers_without_end_fills_no_map_and_stops_no_put() {
    let fixture = fixture().await;
    let root = fixture.cluster.layout().root().to_path_buf();
    let (issuer, name) = (Issuer::load(&root.join("ca")).unwrap(), NodeName::new("hostile").unwrap());
    let folder = root.join("hostile");
    issuer.issue(&folder, Role::Data, &name, Duration::from_secs(600)).unwrap();
    let endpoint = Endpoint::client(&Identity::load(&folder).unwrap()).unwrap();
    let client = ClientConfig::load(&fixture.cluster.layout().client()).unwrap();
    let metadata = &client.metadata[0];
    let leader = Target { role: Role::Metadata, node: metadata.name.clone(), address: metadata.address };
    let mut registered = Vec::new();
    let mut refused = 0;
    for round in 0..8u8 {
        let disk = |i: u8| DiskRegistration {
            name: NodeName::new(format!("d-{round}-{i}")).unwrap(),
            weight: 1_000_000,
            max_bytes: 1,
            incarnation: Incarnation([round * 16 + i; 16]),
            public_key: [round; 32],
            starts: 1,
            end: (0, 0),
        };
        let registration = Registration {
            node: name.clone(),
            zone: format!("zone-{round}").parse().unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            process: [9; 16],
            disks: (0..16).map(disk).collect(),
        };
        match endpoint.call(&leader, &Request::Register(registration), TIMEOUT).await {
            Ok(Response::Registered(disks)) => registered.extend(disks),
            Err(error) => {
                assert_eq!(error.code, ErrorCode::OutOfBounds, "{error:?}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((registered.len(), refused), (64, 4), "as many disks as a node may have");
    let full = |disk: &RegisteredDisk| DiskHeartbeat {
        disk: disk.id,
        incarnation: Incarnation([0; 16]),
        used_bytes: u64::MAX,
        segment_bytes: u64::MAX,
        dead_bytes: u64::MAX,
        reserved_bytes: u64::MAX,
        capacity_bytes: u64::MAX,
        pieces: u64::MAX,
        end: (0, 0),
        writable: false,
        failed: false,
        sync_ms: 0,
        fenced_before_ms: 0,
    };
    let heartbeat = Heartbeat {
        node: name.clone(),
        process: [9; 16],
        now_ms: u64::MAX,
        disks: registered.iter().map(full).collect(),
        topology: 0,
        topology_epoch: 0,
        feed: u64::MAX,
        feed_epoch: 0,
    };
    endpoint.call(&leader, &Request::Heartbeat(heartbeat), TIMEOUT).await.unwrap();
    let status = fixture.store.status().await.unwrap();
    assert_eq!(status.capacity.level, CapacityLevel::Safe);
    let hostile = status.nodes.iter().find(|n| n.name == name).unwrap();
    let weight: u32 = hostile.disks.iter().map(|d| d.weight).sum();
    assert!(weight <= 300, "three times what others have, and not {weight}");
    assert!(hostile.waiting_zone.is_some());
    assert!(health(&status).iter().any(|finding| finding.code == "LAYOUT_WAITING"));
    let content = wmall_tests::bytes(5, 3 << 20);
    let put = fixture.store.put(&mut content.as_slice(), &PutOptions::default()).await;
    assert!(put.is_ok(), "{put:?}");
    endpoint.close().await;
    fixture.cluster.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_put_leaves_no_file_and_the_next_one_goes_well() {
    let fixture = fixture().await;
    let content = wmall_tests::bytes(8, 30 << 20);
    for ms in [1, 5, 20, 60] {
        let mut reader = content.as_slice();
        let options = PutOptions::default();
        let put = fixture.store.put(&mut reader, &options);
        let cut = tokio::time::timeout(Duration::from_millis(ms), put).await;
        if cut.is_err() {
            assert_eq!(fixture.store.status().await.unwrap().files, 0, "cut after {ms} ms");
        } else {
            break;
        }
    }
    let summary = fixture.store.put(&mut content.as_slice(), &PutOptions::default()).await.unwrap();
    let report = fixture.store.verify(&wmall_client::Source::File(summary.id), true, None).await.unwrap();
    assert!(report.is_good(), "{report:?}");
    fixture.cluster.down().await;
}
