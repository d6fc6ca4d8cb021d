//! A server of which one holder takes all it can get, and the others find what is kept for them.

use std::time::Duration;

use wmall_proto::rpc::{Request, Response};
use wmall_proto::topology::MetadataAddress;
use wmall_proto::{ErrorCode, Role};

use crate::endpoint::Endpoint;
use crate::outgoing::Target;
use crate::testing::{Place, Says, serve};

const TIMEOUT: Duration = Duration::from_secs(10);

fn target(member: MetadataAddress) -> Target {
    Target { role: Role::Metadata, node: member.name, address: member.address }
}

/// A server that says yes to everything.
fn server(place: &Place) -> Target {
    target(serve(&place.identity(Role::Metadata, "metadata-1"), Says::new(Ok(Response::Done))))
}

#[tokio::test]
async fn one_holder_s_connections_leave_room_for_others() {
    let place = Place::new();
    let server = server(&place);
    let hoarder = place.identity(Role::Client, "hoarder");
    let mut held = Vec::new();
    let refused = loop {
        let endpoint = Endpoint::client(&hoarder).unwrap();
        match endpoint.call(&server, &Request::Status, TIMEOUT).await {
            Ok(_) => held.push(endpoint),
            Err(error) => break error,
        }
    };
    assert_eq!((held.len(), refused.code), (256, ErrorCode::Busy), "{refused}");
    for (role, name) in [(Role::Client, "other"), (Role::Admin, "operator"), (Role::Metadata, "metadata-2")] {
        let endpoint = Endpoint::client(&place.identity(role, name)).unwrap();
        endpoint.call(&server, &Request::Status, TIMEOUT).await.unwrap();
    }
    held.pop().unwrap().close().await;
    // The server hears of the end a little later.
    let deadline = std::time::Instant::now() + TIMEOUT;
    loop {
        let again = Endpoint::client(&hoarder).unwrap().call(&server, &Request::Status, TIMEOUT).await;
        match again {
            Ok(_) => break,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test]
async fn a_header_that_is_claimed_takes_no_room_and_one_that_comes_is_read() {
    let place = Place::new();
    let server = server(&place);
    let [liar, other] = ["liar", "other"].map(|name| {
        let identity = place.identity(Role::Client, name);
        Endpoint::client(&identity).unwrap()
    });
    let connection = liar.pool.get(&liar.quinn, &server).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..400 {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&(8u32 << 20).to_le_bytes()).await.unwrap();
        held.push((send, receive));
    }
    // More than a step, of the liar itself as well.
    let large = Request::Renew { csr: vec![7; 2 << 20] };
    for endpoint in [&other, &liar] {
        endpoint.call(&server, &large, TIMEOUT).await.unwrap();
    }
}
