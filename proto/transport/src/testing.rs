//! A cluster of a test: an authority in a folder, identities by clocks that are right or wrong, and members
//! that answer as they are told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use wmall_proto::rpc::Response;
use wmall_proto::topology::{ClusterId, MetadataAddress};
use wmall_proto::{NodeName, Role, RpcError};

use crate::authority::create_authority;
use crate::endpoint::Endpoint;
use crate::identity::Identity;
use crate::issuer::{Issuer, Subject};
use crate::serve::{Handler, Incoming};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
/// How long its certificates are valid.
pub(crate) const LIFE: Duration = Duration::from_secs(30 * 86_400);

pub(crate) struct Place {
    root: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        create_authority(&root.path().join("ca"), ClusterId([7; 16])).unwrap();
        Self { root }
    }

    pub(crate) fn issuer(&self) -> Issuer {
        Issuer::load(&self.root.path().join("ca")).unwrap()
    }

    /// A folder that nothing is in yet.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The folder of an identity that is issued at this time.
    pub(crate) fn issue(&self, role: Role, name: &str, now: SystemTime) -> PathBuf {
        let folder = self.folder(name);
        self.issuer().issue_at(&folder, &subject(role, name), now).unwrap();
        folder
    }

    /// An identity of this moment.
    pub(crate) fn identity(&self, role: Role, name: &str) -> Identity {
        Identity::load(&self.issue(role, name, SystemTime::now())).unwrap()
    }
}

pub(crate) fn subject(role: Role, name: &str) -> Subject {
    Subject { role, node: NodeName::new(name).unwrap(), lifetime: LIFE, map_version: 0 }
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Answers every call alike, and counts them.
pub(crate) struct Says {
    answer: Result<Response, RpcError>,
    asked: AtomicUsize,
}

impl Says {
    pub(crate) fn new(answer: Result<Response, RpcError>) -> Arc<Self> {
        Arc::new(Self { answer, asked: AtomicUsize::new(0) })
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Handler for Says {
    async fn handle(&self, call: Incoming) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        call.replier.send(self.answer.clone()).await;
    }
}

/// Serves until the test's runtime ends.
pub(crate) fn serve<H: Handler>(identity: &Identity, handler: Arc<H>) -> MetadataAddress {
    let endpoint = Endpoint::server(loopback(), identity).unwrap();
    let address = endpoint.address().unwrap();
    tokio::spawn(async move { endpoint.serve(handler).await });
    MetadataAddress { name: identity.peer().node.clone(), address }
}
