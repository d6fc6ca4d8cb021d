//! Puts the parts together and runs them until a stop is asked for.
//!
//! Tasks: the control loop, the filler with one for each disk, the scrubber, the comparer of ranges, the
//! reporter of bad pieces, the server with its connections, the operations endpoint. Threads: two a disk, the
//! journal's writer and the index's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::{Gauge, IntGauge};
use tokio::sync::{mpsc, watch};
use wmall_proto::rpc::CallKind;
use wmall_proto::topology::ClusterId;
use wmall_proto::{Role, RpcError, Topology};
use wmall_runtime::Shutdown;
use wmall_runtime::metrics::Metrics;
use wmall_runtime::ops::{self, Ops, Readiness};
use wmall_transport::{BindError, Endpoint, Identity, IdentityError, Members, RenewBy, Renewal};

use crate::config::Config;
use crate::control::Control;
use crate::disk::{DiskError, DiskStore, FormatError, Places, Usage};
use crate::fill::{Filler, report_bad};
use crate::kept_map;
use crate::map::Map;
use crate::metrics::ScrubMetrics;
use crate::put::Intake;
use crate::ranges::Ranges;
use crate::scrub::Scrubber;
use crate::service::{ReadRooms, Service};
use crate::traffic::Traffic;
use crate::turns::Turns;

/// Bad pieces that may wait to be reported.
const BAD_QUEUE: usize = 1024;

/// Why a data node did not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each is the error of the part it names.
pub enum RunError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the certificate is for {found}, but the configuration is for data node {expected}")]
    WrongIdentity { found: String, expected: String },
    #[error("disk {name} cannot be used: {source}")]
    Disk { name: String, source: DiskError },
    #[error("{}", .0.reason)]
    Replaced(RpcError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot listen on {address} for operations")]
    Ops { address: std::net::SocketAddr, source: std::io::Error },
}

/// Runs a data node until the shutdown is requested.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    let open_files = wmall_runtime::files::raise_limit();
    let identity = load_identity(&config)?;
    let cluster = identity.cluster();
    let disks = Arc::new(open_disks(&config, cluster)?);
    let endpoint = Endpoint::server(config.raw.listen, &identity)?;
    let folders = || config.raw.disks.iter().map(|d| d.path.as_path());
    let kept = kept_map::newest(folders(), cluster).unwrap_or_else(Topology::empty);
    endpoint.set_revoked(&kept.revoked);
    let map = Arc::new(Map::new(kept));
    let metadata = Arc::new(Members::new(endpoint.clone(), &config.raw.metadata));
    let ready = Arc::new(AtomicBool::new(false));
    let (work, work_seen) = watch::channel(Vec::new());
    let (bad, bad_seen) = mpsc::channel(BAD_QUEUE);
    let traffic = Arc::new(Traffic::new());
    let control = Control::new(
        config.raw.clone(),
        endpoint.clone(),
        metadata.clone(),
        disks.clone(),
        (map.clone(), traffic.clone()),
        work,
        ready.clone(),
    );
    let renewal = Renewal { folder: config.raw.identity_dir.clone(), by: RenewBy::Members(metadata.clone()) };
    let renewal = tokio::spawn(renewal.run(endpoint.clone(), |_| {}));
    let filler = Filler {
        endpoint: endpoint.clone(),
        metadata: metadata.clone(),
        disks: disks.clone(),
        map: map.clone(),
        traffic: traffic.clone(),
        turns: Turns::new(),
    };
    let compared_map = map.clone();
    let metrics = Metrics::new();
    wmall_runtime::files::show_limit(&metrics, open_files);
    let (scrub_traffic, scrub_metrics) = (traffic.clone(), ScrubMetrics::new(&metrics));
    let service = Arc::new(Service {
        disks: disks.clone(),
        intake: Intake::new(endpoint.clone(), metadata.clone(), map, disks.clone()),
        rooms: ReadRooms::new(),
        calls: metrics.calls(&CallKind::ALL.map(CallKind::as_str)),
        bad,
        traffic,
    });
    if let Some(ops) = config.raw.ops.clone() {
        let address = ops.listen;
        let answers = Arc::new(DataOps::new(disks.clone(), ready, &metrics));
        let served = ops::serve(ops, answers, metrics, shutdown.clone()).await;
        served.map_err(|source| RunError::Ops { address, source })?;
    }
    let scrubber = Scrubber {
        disks: disks.clone(),
        traffic: scrub_traffic,
        pass: Duration::from_millis(config.raw.scrub_pass_ms),
        metrics: scrub_metrics,
    };
    let scrubber = tokio::spawn(scrubber.run(shutdown.clone()));
    let ranges = Ranges {
        metadata: metadata.clone(),
        disks: disks.clone(),
        map: compared_map,
        every: Duration::from_millis(config.raw.compare_ms.max(1)),
    };
    let ranges = tokio::spawn(ranges.run(shutdown.clone()));
    let reporter = tokio::spawn(report_bad(metadata, bad_seen));
    let mut control = tokio::spawn(control.run(shutdown.clone()));
    let filler = tokio::spawn(filler.run(work_seen, shutdown.clone()));
    tracing::info!(name = %config.raw.name, listen = %config.raw.listen, open_files, "data node up");
    let mut outcome = Ok(());
    tokio::select! {
        ended = &mut control => {
            if let Ok(Some(why)) = ended {
                outcome = Err(RunError::Replaced(why));
            }
        }
        () = endpoint.serve(service) => {}
        () = shutdown.requested() => {}
        () = all_disks_failed(&disks) => {
            tracing::error!("no disk of this node is left; stopping");
            std::process::abort();
        }
    }
    reporter.abort();
    renewal.abort();
    endpoint.close().await;
    let ending = async {
        let control = async { if control.is_finished() { None } else { control.await.ok() } };
        let _ = tokio::join!(control, filler, scrubber, ranges);
    };
    // One whose name was taken over has nothing to end in order.
    let grace = if outcome.is_ok() { wmall_runtime::shutdown::GRACE } else { Duration::ZERO };
    let _ = tokio::time::timeout(grace, ending).await;
    disks.iter().for_each(|disk| disk.flush());
    outcome
}

/// A disk that does not open is left out: its pieces do not count, and the others go on. With none left the
/// node does not start.
fn open_disks(config: &Config, cluster: ClusterId) -> Result<Vec<Arc<DiskStore>>, RunError> {
    let mut places = Places::load(&config.raw.identity_dir)
        .inspect_err(|error| tracing::error!(%error, "which disks were in use can't be read"))
        .ok();
    let (mut disks, mut failed) = (Vec::new(), None);
    for disk in &config.raw.disks {
        match DiskStore::open(disk, cluster) {
            Ok(store) => {
                let noted = places.as_mut().map(|places| places.note(disk, store.superblock.incarnation));
                if let Some(Err(error)) = noted {
                    tracing::warn!(%error, disk = %disk.name, "which disk is in this folder could not be noted");
                }
                disks.push(Arc::new(store));
            }
            Err(source) => {
                let before = places.as_ref().and_then(|places| places.of(disk));
                let source = match (source, before) {
                    (DiskError::Format(FormatError::NotFormatted(_)), Some(before)) => {
                        FormatError::absent(disk, before).into()
                    }
                    (source, _) => source,
                };
                let starved = source.is_of_process();
                let error = RunError::Disk { name: disk.name.to_string(), source };
                if starved {
                    // Nothing is wrong with the disk: a start with more files or memory opens it.
                    return Err(error);
                }
                tracing::error!(error = &error as &dyn std::error::Error, "a disk is left out");
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if disks.is_empty() => Err(error),
        _ => Ok(disks),
    }
}

/// Returns when a node has lost its last disk: nothing is left that it could do but mislead. It says so
/// first, for a few heartbeats: what it holds is looked through after the restart, and does not count before.
async fn all_disks_failed(disks: &[Arc<DiskStore>]) {
    const LOOK: Duration = Duration::from_millis(200);
    const LAST_WORDS: Duration = Duration::from_secs(4);
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        if disks.iter().all(|disk| disk.usage().failed) {
            tokio::time::sleep(LAST_WORDS).await;
            return;
        }
    }
}

fn load_identity(config: &Config) -> Result<Identity, RunError> {
    let identity = Identity::load(&config.raw.identity_dir)?;
    let peer = identity.peer();
    if peer.role != Role::Data || peer.node != config.raw.name {
        let (found, expected) = (format!("{} {}", peer.role, peer.node), config.raw.name.to_string());
        return Err(RunError::WrongIdentity { found, expected });
    }
    Ok(identity)
}

/// What the operations endpoint asks.
struct DataOps {
    disks: Arc<Vec<Arc<DiskStore>>>,
    ready: Arc<AtomicBool>,
    pieces: Option<IntGauge>,
    bytes: Option<IntGauge>,
    segments: Option<IntGauge>,
    writable: Option<IntGauge>,
    slow_sync: Option<Gauge>,
}

impl DataOps {
    fn new(disks: Arc<Vec<Arc<DiskStore>>>, ready: Arc<AtomicBool>, metrics: &Metrics) -> Self {
        Self {
            disks,
            ready,
            pieces: metrics.gauge("wmall_pieces", "Pieces on this node's disks."),
            bytes: metrics.gauge("wmall_piece_bytes", "Bytes of those pieces."),
            segments: metrics.gauge("wmall_segment_bytes", "Bytes of segments, dead records included."),
            writable: metrics.gauge("wmall_writable_disks", "Disks of this node that take writes."),
            slow_sync: metrics.ratio(
                "wmall_slow_sync_seconds",
                "Second longest write and sync of the last minute, or the one under way; of the slowest disk.",
            ),
        }
    }
}

fn set(gauge: Option<&IntGauge>, value: u64) {
    if let Some(gauge) = gauge {
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}

impl Ops for DataOps {
    fn role(&self) -> &'static str {
        "data-node"
    }

    fn readiness(&self) -> Readiness {
        if !self.ready.load(Ordering::Acquire) {
            return Readiness::NotReady("no metadata node takes this node's heartbeat".into());
        }
        let count = |what: fn(&Usage) -> bool| self.disks.iter().filter(|d| what(&d.usage())).count();
        match (count(|u| u.failed), count(|u| u.full)) {
            (0, 0) => Readiness::Ready,
            (failed, full) => Readiness::Degraded(format!(
                "of {} disks {failed} failed and {full} are full",
                self.disks.len()
            )),
        }
    }

    fn refresh(&self) {
        let usage: Vec<_> = self.disks.iter().map(|d| d.usage()).collect();
        set(self.pieces.as_ref(), usage.iter().map(|u| u.pieces).sum());
        set(self.bytes.as_ref(), usage.iter().map(|u| u.bytes).sum());
        set(self.segments.as_ref(), usage.iter().map(|u| u.segment_bytes).sum());
        set(self.writable.as_ref(), usage.iter().filter(|u| !u.failed && !u.full).count() as u64);
        if let Some(slow_sync) = &self.slow_sync {
            let slowest = usage.iter().map(|u| u.slow_sync).max().unwrap_or_default();
            slow_sync.set(slowest.as_secs_f64());
        }
    }
}
