//! A member whose log was cut off below what its snapshots and its view reach, since these were damaged or
//! lost. What is left of its log counts, but it has no state to apply it to. So it takes no part, as voter or
//! leader, before it has a snapshot of the leader's that reaches as far.
//!
//! It asks for one until it gets one: nothing else can bring it up, and the others go on meanwhile.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use wmall_proto::rpc::{Request, Response};
use wmall_proto::topology::MetadataAddress;
use wmall_proto::{ErrorCode, RpcError};
use wmall_transport::{Endpoint, Members};

use crate::raft::SnapshotFolder;

/// How long a snapshot may take to come.
const RECEIVING: Duration = Duration::from_secs(1800);
/// Between tries.
const PAUSE: Duration = Duration::from_secs(2);

/// Returns once a snapshot of the leader's is among this member's own.
pub(crate) async fn fetch_snapshot(
    endpoint: &Endpoint,
    others: &[MetadataAddress],
    purged: u64,
    snapshots: &SnapshotFolder,
) {
    tracing::error!(
        purged,
        "no snapshot here reaches as far as the log was cut off; one of the leader's is fetched"
    );
    let members = Members::new(endpoint.clone(), others);
    loop {
        let fetched = fetch_once(&members, snapshots).await;
        if fetched.is_ok() && snapshots.published().borrow().is_some_and(|reached| reached >= purged) {
            tracing::info!("a snapshot of the leader's has come");
            return;
        }
        let error = fetched.err().map_or_else(|| "it does not reach far enough".into(), |e| e.to_string());
        tracing::warn!(error, "no snapshot could be had; trying again");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn fetch_once(members: &Members, snapshots: &SnapshotFolder) -> Result<(), RpcError> {
    let mut reply = members.open(&Request::Snapshot { local: false }, RECEIVING).await?;
    let Response::Snapshot { length } = reply.response else {
        return Err(RpcError::internal("the request for a snapshot got another answer"));
    };
    let path = snapshots.receiving();
    let options = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let mut file = options.map_err(RpcError::internal)?;
    let mut received = 0;
    let receiving = async {
        while let Some(part) = reply.body.next().await? {
            received += part.len() as u64;
            file.write_all(&part).map_err(RpcError::internal)?;
        }
        Ok::<_, RpcError>(())
    };
    let late = |_| RpcError::new(ErrorCode::Timeout, "the snapshot comes too slowly");
    tokio::time::timeout(RECEIVING, receiving).await.map_err(late)??;
    if received != length {
        let reason = format!("{received} of {length} bytes of the snapshot came");
        return Err(RpcError::new(ErrorCode::Unreachable, reason));
    }
    snapshots.accept(&mut file).map_err(RpcError::internal)?;
    Ok(())
}
