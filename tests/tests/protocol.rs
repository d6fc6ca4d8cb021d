//! Calls that the command line never makes: stale rows, wrong bytes, roles that overstep.

use std::sync::Arc;
use std::time::Duration;

use wmall_client::{PutOptions, Store};
use wmall_devnet::{InProcess, UpOptions};
use wmall_proto::rpc::{Ack, PutRequest, RaftRequest, ReadRequest, Request, Response};
use wmall_proto::{ChunkId, ErrorCode, NodeName, PoolId, RpcError, UploadId};
use wmall_transport::{Endpoint, Identity, Target};

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
        Endpoint::client(Arc::new(Identity::load(&folder).unwrap())).unwrap()
    }

    /// The node of slot 0 of a chunk, and the row's version.
    fn primary(&self, chunk: &ChunkId) -> (Target, u64) {
        let topology = self.store.topology();
        let (_, row) = topology.row_of(PoolId(1), chunk).unwrap();
        let node = topology.node_of(row.slots[0]).unwrap();
        (Target { node: node.name.clone(), address: node.address }, row.version)
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
    }
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
    let read = Request::ReadPiece(ReadRequest { pool: PoolId(1), chunk, offset: 0, length: u32::MAX });
    let refused = client.call(&target, &read, TIMEOUT).await;
    assert_eq!(code(refused), Err(ErrorCode::NotFound), "nothing was kept of all that");
    let right = put(&client, &target, put_request(chunk, length, version), &content).await;
    assert!(matches!(right, Ok(Response::Put(outcome)) if outcome.receipts.len() == 1));
    let read = Request::ReadPiece(ReadRequest { pool: PoolId(1), chunk, offset: length + 1, length: 1 });
    let beyond = client.call(&target, &read, TIMEOUT).await;
    assert_eq!(code(beyond), Err(ErrorCode::RangeOutOfBounds));
    fixture.cluster.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_do_not_overstep() {
    let fixture = fixture().await;
    let data = fixture.store.topology().nodes.values().next().unwrap().clone();
    let data = Target { node: data.name, address: data.address };
    let raft = Request::Raft(RaftRequest::Vote(Vec::new()));
    for identity in ["identities/client", "identities/admin", "nodes/data-1/identity"] {
        let endpoint = fixture.endpoint(identity);
        let answer = endpoint.call(&data, &raft, TIMEOUT).await;
        assert_eq!(answer.unwrap_err().code, ErrorCode::Denied, "{identity}");
    }
    // A node that is reached under another name than its certificate's is not talked to.
    let client = fixture.endpoint("identities/client");
    let wrong = Target { node: NodeName::new("data-9").unwrap(), address: data.address };
    let answer = client.call(&wrong, &Request::Status, TIMEOUT).await;
    assert_eq!(answer.unwrap_err().code, ErrorCode::Denied);
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
