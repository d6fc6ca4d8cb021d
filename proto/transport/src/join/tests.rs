use std::time::SystemTime;

use wmall_proto::Role;
use wmall_proto::join::JoinAddress;

use super::*;
use crate::testing::{HOUR, Place, loopback, subject};

/// A doorkeeper that answers as it is told.
struct Door(Box<dyn Fn(JoinRequest) -> JoinReply + Send + Sync>);

impl JoinHandler for Door {
    async fn join(&self, request: JoinRequest) -> JoinReply {
        (self.0)(request)
    }
}

/// Serves strangers until the test's runtime ends.
fn open(identity: &Identity, door: impl Fn(JoinRequest) -> JoinReply + Send + Sync + 'static) -> JoinAddress {
    let port = JoinServer::bind(loopback(), identity).unwrap();
    let join = port.0.local_addr().unwrap();
    tokio::spawn(async move { port.serve(Arc::new(Door(Box::new(door)))).await });
    JoinAddress { name: identity.peer().node.clone(), address: join, join }
}

fn token(identity: &Identity, metadata: Vec<JoinAddress>) -> JoinToken {
    JoinToken {
        cluster: identity.cluster(),
        ca: identity.ca_fingerprint(),
        secret: [3; 32],
        role: Role::Data,
        name: None,
        metadata,
    }
}

fn no(code: ErrorCode, reason: &str, hint: &str) -> JoinReply {
    Err(RpcError::new(code, reason).hint(hint))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_goes_past_every_error() {
    let place = Place::new();
    let folder = place.issue(Role::Metadata, "metadata-1", SystemTime::now() + 3 * HOUR);
    let ahead = Identity::load(&folder).unwrap();
    let wrong = place.identity(Role::Metadata, "metadata-2");
    let well = place.identity(Role::Metadata, "metadata-3");
    let issuer = place.issuer();
    let metadata = vec![
        open(&ahead, |_| no(ErrorCode::Internal, "it is not asked", "")),
        open(&wrong, |_| no(ErrorCode::BadToken, "expired by the clock here", "")),
        open(&well, move |request| issuer.answer(&request.csr, &subject(Role::Data, "data-1"))),
    ];
    let name = NodeName::new("data-1").unwrap();
    let joined = join(&place.folder("joined"), &token(&well, metadata), &name).await.unwrap();
    assert_eq!(joined.peer().node, name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_word_on_a_token_is_final() {
    let place = Place::new();
    let identities =
        ["metadata-1", "metadata-2", "metadata-3"].map(|name| place.identity(Role::Metadata, name));
    let follows = |_: JoinRequest| no(ErrorCode::NotLeader, "does not lead", "metadata-2");
    let metadata = vec![
        open(&identities[0], follows),
        open(&identities[1], |_| no(ErrorCode::BadToken, "the token was used, by data-4", "")),
        open(&identities[2], follows),
    ];
    let name = NodeName::new("data-1").unwrap();
    let refused = join(&place.folder("refused"), &token(&identities[0], metadata), &name).await;
    let JoinError::Refused(error) = refused.unwrap_err() else { panic!("another error") };
    assert_eq!(error.code, ErrorCode::BadToken);
    let expected = "metadata-1, metadata-3: does not lead; metadata-2: the token was used, by data-4";
    assert_eq!(error.reason, expected);
}

#[test]
fn a_joiner_that_gives_up_names_all() {
    let mut said = Said::default();
    for (member, reason) in ["gone", "late"].into_iter().enumerate() {
        let name = NodeName::new(format!("metadata-{}", member + 1)).unwrap();
        said.hear(member, &name, RpcError::new(ErrorCode::Unreachable, reason));
    }
    let error = not_taken(&said);
    assert_eq!(error.code, ErrorCode::Unreachable);
    assert_eq!(error.reason, "no metadata node took the token; metadata-1: gone; metadata-2: late");
}
