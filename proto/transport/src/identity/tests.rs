use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::issuer::write_chain;
use crate::testing::{DAY, HOUR, LIFE, Place};

const SKEW_MS: u64 = 3_600_000;

fn ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A certificate that was issued at 100 hours and lives for 30.
fn peer() -> Peer {
    let hours = |n: u64| n * SKEW_MS;
    Peer {
        cluster: ClusterId([7; 16]),
        role: Role::Data,
        node: NodeName::new("data-1").unwrap(),
        map_version: 0,
        issued_ms: hours(100),
        begins_ms: hours(99),
        expires_ms: hours(130),
    }
}

#[test]
fn a_certificate_is_due_after_two_thirds_and_when_it_lies_ahead() {
    let (peer, hours) = (peer(), |n: u64| n * SKEW_MS);
    assert_eq!(peer.due_in(hours(99)), 21 * HOUR);
    assert_eq!(peer.due_in(hours(100)), 20 * HOUR);
    assert_eq!(peer.due_in(hours(120) - 1), Duration::from_millis(1));
    assert!(peer.is_due(hours(120)) && peer.is_due(hours(131)));
    // Before it begins by this clock.
    assert!(peer.is_due(hours(99) - 1) && peer.is_due(0));
    let valid = [hours(99) - 1, hours(99), hours(130) - 1, hours(130)].map(|now| peer.is_valid(now));
    assert_eq!(valid, [false, true, true, false]);
    // A serial number that was set behind a revocation puts nothing off.
    let late = Peer { issued_ms: hours(1000), ..peer };
    assert_eq!(late.due_in(hours(100)), 20 * HOUR);
}

#[test]
fn certificates_begin_before_they_are_issued() {
    let place = Place::new();
    let now = SystemTime::now();
    let identity = Identity::load(&place.issue(Role::Data, "data-1", now)).unwrap();
    let seconds = |n: u64| n / 1000 * 1000;
    let Peer { issued_ms, begins_ms, expires_ms, .. } = *identity.peer();
    assert_eq!(issued_ms, ms(now));
    assert_eq!(begins_ms, seconds(ms(now - HOUR)));
    assert_eq!(expires_ms, seconds(ms(now + LIFE)));
    // Clocks may differ by an hour.
    assert!(!identity.peer().is_ahead(ms(now - HOUR)));
    assert!(identity.peer().is_ahead(ms(now - HOUR) - 1000));
}

/// A folder with a certificate of `newest`, and one of `former` beside it with the same key.
fn two(place: &Place, newest: SystemTime, former: SystemTime) -> std::path::PathBuf {
    let folder = place.issue(Role::Data, "data-1", newest);
    let key = Identity::load(&folder).unwrap().key_pair().unwrap();
    let csr = crate::join::certificate_request(&key).unwrap();
    let subject = crate::testing::subject(Role::Data, "data-1");
    let issued = place.issuer().answer_at(&csr, &subject, former).unwrap();
    write_chain(&folder, FORMER_FILE, &[&issued.certificate, &issued.issuer]).unwrap();
    folder
}

#[test]
fn the_former_certificate_stands_in_while_the_newest_is_not_valid() {
    let place = Place::new();
    let now = SystemTime::now();
    let folder = two(&place, now, now - 20 * DAY);
    let issued = |at: SystemTime| Identity::load_at(&folder, ms(at)).unwrap().peer().issued_ms;
    // The newest one ahead, both good, the former ended, both ended, both ahead.
    assert_eq!(issued(now - 2 * HOUR), ms(now - 20 * DAY));
    assert_eq!(issued(now), ms(now));
    assert_eq!(issued(now + 11 * DAY), ms(now));
    assert_eq!(issued(now + 31 * DAY), ms(now));
    assert_eq!(issued(now - 21 * DAY), ms(now));
}

#[test]
fn a_former_certificate_of_another_key_does_not_count() {
    let place = Place::new();
    let now = SystemTime::now();
    let folder = two(&place, now, now - 20 * DAY);
    let stranger = Place::new();
    let other = two(&stranger, now, now - 20 * DAY);
    std::fs::copy(other.join(FORMER_FILE), folder.join(FORMER_FILE)).unwrap();
    let early = ms(now - 2 * HOUR);
    assert_eq!(Identity::load_at(&folder, early).unwrap().peer().issued_ms, ms(now));
    // A new identity in the folder leaves none of the old one.
    place.issue(Role::Data, "data-1", now);
    assert!(!folder.join(FORMER_FILE).exists());
}
