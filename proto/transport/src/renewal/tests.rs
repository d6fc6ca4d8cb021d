use std::sync::Mutex;
use std::time::SystemTime;

use wmall_proto::Role;
use wmall_proto::topology::MetadataAddress;

use super::*;
use crate::serve::{Handler, Incoming};
use crate::testing::{DAY, HOUR, LIFE, Place, Says, loopback, serve};

/// Issues by a clock of its own.
struct Renews {
    issuer: Issuer,
    clock: Mutex<SystemTime>,
}

impl Handler for Renews {
    async fn handle(&self, call: Incoming) {
        let Incoming { peer, request, replier, .. } = call;
        let Request::Renew { csr } = request else { return };
        let subject = Subject { role: peer.role, node: peer.node, lifetime: LIFE, map_version: 0 };
        let now = *self.clock.lock().unwrap();
        replier.send(self.issuer.answer_at(&csr, &subject, now).map(Response::Renewed)).await;
    }
}

/// A data node that asks one member for its certificates.
struct Setting {
    member: Arc<Renews>,
    renewal: Renewal,
}

impl Setting {
    fn new(place: &Place, refusing: &[MetadataAddress]) -> Self {
        let folder = place.issue(Role::Data, "data-1", SystemTime::now() - 21 * DAY);
        let member = Arc::new(Renews { issuer: place.issuer(), clock: Mutex::new(SystemTime::now()) });
        let issuing = serve(&place.identity(Role::Metadata, "metadata-9"), member.clone());
        let mut addresses = refusing.to_vec();
        addresses.push(issuing);
        let endpoint = Endpoint::client(&Identity::load(&folder).unwrap()).unwrap();
        let members = Arc::new(Members::new(endpoint, &addresses));
        Self { member, renewal: Renewal { folder, by: RenewBy::Members(members) } }
    }

    /// Sets the member's clock and asks it.
    async fn renew_at(&self, clock: SystemTime) -> Result<Identity, RpcError> {
        *self.member.clock.lock().unwrap() = clock;
        self.renewal.renew().await
    }

    /// When the certificate was issued that the folder has for this time.
    fn shown_at(&self, now: SystemTime) -> u64 {
        Identity::load_at(&self.renewal.folder, ms(now)).unwrap().peer().issued_ms
    }
}

fn ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_goes_past_every_error() {
    let place = Place::new();
    let refuses = |name: &str, code: ErrorCode| {
        let says = Says::new(Err(RpcError::new(code, "mine")));
        serve(&place.identity(Role::Metadata, name), says)
    };
    let refusing = [refuses("metadata-1", ErrorCode::Denied), refuses("metadata-2", ErrorCode::BadRequest)];
    let setting = Setting::new(&place, &refusing);
    let now = SystemTime::now();
    assert_eq!(setting.renew_at(now).await.unwrap().peer().issued_ms, ms(now));
    assert_eq!(setting.shown_at(now), ms(now));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_an_issuer_that_is_ahead_waits() {
    let place = Place::new();
    let setting = Setting::new(&place, &[]);
    let now = SystemTime::now();
    let before = setting.shown_at(now);
    let ahead = now + 40 * DAY;
    let error = setting.renew_at(ahead).await.unwrap_err();
    assert!(error.reason.starts_with("the new certificate begins "), "{error}");
    // The one that is good now is shown until the other has begun.
    assert_eq!(setting.shown_at(now), before);
    assert_eq!(setting.shown_at(ahead), ms(ahead));
    // The issuer's clock is set right.
    assert_eq!(setting.renew_at(now).await.unwrap().peer().issued_ms, ms(now));
    assert_eq!(setting.shown_at(now), ms(now));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_clock_reaches_the_first_certificate_that_waits() {
    let place = Place::new();
    let setting = Setting::new(&place, &[]);
    let now = SystemTime::now();
    let before = setting.shown_at(now);
    // As a holder sees it whose clock is three hours slow: issuers are ahead, and go on.
    let first = now + 3 * HOUR;
    setting.renew_at(first).await.unwrap_err();
    setting.renew_at(first + HOUR).await.unwrap_err();
    assert_eq!(setting.shown_at(now), before);
    assert_eq!(setting.shown_at(now + 3 * HOUR), ms(first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_ended_is_not_kept() {
    let place = Place::new();
    let setting = Setting::new(&place, &[]);
    let now = SystemTime::now();
    let before = setting.shown_at(now);
    let error = setting.renew_at(now - 31 * DAY).await.unwrap_err();
    assert_eq!(error.reason, "the new certificate has ended by the clock here");
    assert_eq!(setting.shown_at(now), before);
    assert_eq!(setting.shown_at(now - 21 * DAY), before);
}

/// Runs the renewal of a metadata node, whose folder has this identity, until it shows another certificate.
async fn next_shown(place: &Place, folder: PathBuf) -> Peer {
    // The endpoint shows the newest certificate, as one that has run since before the clock was set.
    let endpoint = Endpoint::server(loopback(), &Identity::with(&folder, CERT_FILE).unwrap()).unwrap();
    let (told, mut news) = tokio::sync::mpsc::unbounded_channel();
    let renewal = Renewal { folder, by: RenewBy::Issuer(Arc::new(place.issuer()), LIFE) };
    let also = move |identity: &Identity| {
        let _ = told.send(identity.peer().clone());
    };
    let running = tokio::spawn(renewal.run(endpoint.clone(), also));
    let shown = news.recv().await.unwrap();
    running.abort();
    assert_eq!(endpoint.peer(), shown);
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_the_future_is_renewed_at_once() {
    let place = Place::new();
    let ahead = SystemTime::now() + 40 * DAY;
    let folder = place.issue(Role::Metadata, "metadata-1", ahead);
    let shown = next_shown(&place, folder.clone()).await;
    assert!(shown.is_valid(now_ms()) && !shown.is_due(now_ms()), "{shown:?}");
    assert_eq!(Identity::load(&folder).unwrap().peer(), &shown);
    // It is no use as the one that stands in.
    assert!(!folder.join(FORMER_FILE).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_set_back_brings_the_former_certificate_back() {
    let place = Place::new();
    let now = SystemTime::now();
    let folder = place.issue(Role::Metadata, "metadata-1", now - DAY);
    let former = Identity::load(&folder).unwrap();
    // The renewal that took place while the clock was ahead.
    let csr = certificate_request(&former.key_pair().unwrap()).unwrap();
    let subject = crate::testing::subject(Role::Metadata, "metadata-1");
    let issued = place.issuer().answer_at(&csr, &subject, now + 40 * DAY).unwrap();
    std::fs::rename(folder.join(CERT_FILE), folder.join(FORMER_FILE)).unwrap();
    write_chain(&folder, CERT_FILE, &[&issued.certificate, &issued.issuer]).unwrap();
    assert_eq!(&next_shown(&place, folder).await, former.peer());
}
