use std::sync::Arc;
use std::time::SystemTime;

use wmall_proto::{NodeName, Role};

use super::*;
use crate::identity::Identity;
use crate::testing::{HOUR, Place, Says, serve};

/// Much longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

fn no(code: ErrorCode, reason: &str) -> Result<Response, RpcError> {
    Err(RpcError::new(code, reason))
}

/// A member that does not lead, and names the one that does.
fn follower(leader: &str) -> Arc<Says> {
    Says::new(Err(RpcError::new(ErrorCode::NotLeader, "does not lead").hint(leader)))
}

/// Members that are well as to their connections, and say these things.
fn members(place: &Place, says: &[&Arc<Says>]) -> Members {
    let mut addresses = Vec::new();
    for (at, says) in says.iter().enumerate() {
        let identity = place.identity(Role::Metadata, &format!("metadata-{}", at + 1));
        addresses.push(serve(&identity, Arc::clone(says)));
    }
    asker(place, &addresses)
}

fn asker(place: &Place, addresses: &[MetadataAddress]) -> Members {
    Members::new(Endpoint::client(&place.identity(Role::Admin, "admin")).unwrap(), addresses)
}

/// A member with a certificate of the future: every caller refuses it.
fn ahead(place: &Place, name: &str) -> MetadataAddress {
    let folder = place.issue(Role::Metadata, name, SystemTime::now() + 3 * HOUR);
    serve(&Identity::load(&folder).unwrap(), Says::new(Ok(Response::Done)))
}

/// A member that refuses every caller's certificate.
fn distrustful(place: &Place, name: &str) -> MetadataAddress {
    let mut identity = place.identity(Role::Metadata, name);
    identity.ca = Place::new().identity(Role::Metadata, name).ca;
    serve(&identity, Says::new(Ok(Response::Done)))
}

/// An address where a socket is bound and nothing answers.
fn silent(socket: &std::net::UdpSocket, name: &str) -> MetadataAddress {
    MetadataAddress { name: NodeName::new(name).unwrap(), address: socket.local_addr().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_refuse_everybody_are_passed_over() {
    let place = Place::new();
    let well = Says::new(Ok(Response::Done));
    let third = serve(&place.identity(Role::Metadata, "metadata-3"), well.clone());
    let addresses = [ahead(&place, "metadata-1"), distrustful(&place, "metadata-2"), third];
    // Each way of asking, with a list that begins with those who refuse.
    assert_eq!(asker(&place, &addresses).call(&Request::Status).await, Ok(Response::Done));
    let until = asker(&place, &addresses).call_until(&Request::Status, Instant::now() + LONG).await;
    assert_eq!(until, Ok(Response::Done));
    let any = asker(&place, &addresses);
    for _ in 0..addresses.len() {
        assert_eq!(any.call_any(&Request::Status, LONG).await, Ok(Response::Done));
        assert_eq!(any.call_around(&Request::Status, LONG).await, Ok(Response::Done));
    }
    assert_eq!(any.call_each(&Request::Status).await, Ok(vec![Response::Done]));
    assert_eq!(well.asked(), 2 + 2 * addresses.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_members_refuse_is_denied_and_names_them() {
    let place = Place::new();
    let addresses = [ahead(&place, "metadata-1"), distrustful(&place, "metadata-2")];
    let members = asker(&place, &addresses);
    // All have refused, so the deadline is not waited for.
    let until = members.call_until(&Request::Status, Instant::now() + LONG).await.unwrap_err();
    let around = members.call_around(&Request::Status, LONG).await.unwrap_err();
    let each = members.call_each(&Request::Status).await.unwrap_err();
    for error in [until, around, each] {
        assert_eq!(error.code, ErrorCode::Denied, "{error}");
        for member in &addresses {
            assert!(error.reason.contains(&format!("{} at {}", member.name, member.address)), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_beats_silence_and_both_are_named() {
    let place = Place::new();
    let socket = std::net::UdpSocket::bind(crate::testing::loopback()).unwrap();
    let denies = Says::new(no(ErrorCode::Denied, "this would take the scope b:read"));
    let second = serve(&place.identity(Role::Metadata, "metadata-2"), denies);
    let members = asker(&place, &[silent(&socket, "metadata-1"), second]);
    let error = members.call(&Request::Status).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Denied);
    let expected = format!(
        "metadata-1 at {}: no answer within 1.5 s; metadata-2: this would take the scope b:read",
        socket.local_addr().unwrap()
    );
    assert_eq!(error.reason, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_is_final_at_once() {
    for code in [ErrorCode::NotFound, ErrorCode::AlreadyExists, ErrorCode::BadRequest, ErrorCode::Locked] {
        let place = Place::new();
        let (first, second) = (Says::new(no(code, "so it is")), Says::new(Ok(Response::Done)));
        let members = members(&place, &[&first, &second]);
        let expected = no(code, "so it is");
        assert_eq!(members.call(&Request::Status).await, expected);
        let until = members.call_until(&Request::Status, Instant::now() + LONG).await;
        assert_eq!(until, expected);
        assert_eq!(members.call_any(&Request::Status, LONG).await, expected);
        assert_eq!((first.asked(), second.asked()), (3, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_members_own_trouble_leads_on_to_the_next() {
    let own = [ErrorCode::Denied, ErrorCode::Internal, ErrorCode::ShuttingDown, ErrorCode::DiskFailed];
    for code in own {
        let place = Place::new();
        let (first, second) = (Says::new(no(code, "mine")), Says::new(Ok(Response::Done)));
        let members = members(&place, &[&first, &second]);
        assert_eq!(members.call(&Request::Status).await, Ok(Response::Done));
        // The next call begins where there was an answer.
        assert_eq!(members.call(&Request::Status).await, Ok(Response::Done));
        assert_eq!((first.asked(), second.asked()), (1, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_is_asked_once_and_the_leaders_word_counts() {
    let place = Place::new();
    let leader = Says::new(no(ErrorCode::Internal, "a defect"));
    let others = [follower("metadata-2"), follower("metadata-2")];
    let members = members(&place, &[&others[0], &leader, &others[1]]);
    let error = members.call(&Request::Status).await.unwrap_err();
    let reason = "metadata-1, metadata-3: does not lead; metadata-2: a defect";
    assert_eq!(error, RpcError::new(ErrorCode::Internal, reason));
    assert_eq!((others[0].asked(), leader.asked(), others[1].asked()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_leader_is_not_passed_over() {
    let place = Place::new();
    let full = || Says::new(no(ErrorCode::Busy, "full"));
    let (leader, other, third) = (full(), follower("metadata-1"), follower("metadata-1"));
    let first_asked = members(&place, &[&leader, &other, &third]);
    assert_eq!(first_asked.call(&Request::Status).await.unwrap_err().code, ErrorCode::Busy);
    assert_eq!((leader.asked(), other.asked(), third.asked()), (1, 1, 0));
    let (other, leader, third) = (follower("metadata-2"), full(), follower("metadata-2"));
    let then_asked = members(&place, &[&other, &leader, &third]);
    assert_eq!(then_asked.call(&Request::Status).await.unwrap_err().code, ErrorCode::Busy);
    assert_eq!((other.asked(), leader.asked(), third.asked()), (1, 1, 0));
}

/// A member that was cut off while it led takes calls in until it has no room, and never answers them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_leader_of_before_is_passed_over() {
    let place = Place::new();
    let (former, leader) = (Says::new(no(ErrorCode::Busy, "full")), Says::new(Ok(Response::Done)));
    let follower = follower("metadata-3");
    let members = members(&place, &[&former, &follower, &leader]);
    assert_eq!(members.call(&Request::Status).await, Ok(Response::Done));
    assert_eq!((former.asked(), follower.asked(), leader.asked()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_may_lead_by_now_is_asked_once_more() {
    let place = Place::new();
    let (first, second) = (follower(""), follower("metadata-1"));
    let members = members(&place, &[&first, &second]);
    let error = members.call(&Request::Status).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotLeader);
    assert_eq!((first.asked(), second.asked()), (2, 1));
}

#[test]
fn one_that_hangs_leaves_time_for_the_others() {
    let proposal = Duration::from_secs(10);
    let first = share(CALL_TIMEOUT, 3);
    assert_eq!(first, Duration::from_millis(11_250));
    assert!(first > proposal);
    assert_eq!(share(CALL_TIMEOUT - first, 1), Duration::from_millis(750));
}
