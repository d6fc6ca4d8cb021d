//! Puts the parts together and runs them until a stop is asked for.
//!
//! Tasks beside openraft's own: the proposer, the read-index rounds, the collector, backups, the watch on
//! leadership, the server with its connections, the operations endpoint. All end with the process or with the
//! shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::SnapshotPolicy;
use openraft::storage::RaftLogStorage;
use wmall_placement::{Budget, Policy};
use wmall_proto::join::JoinAddress;
use wmall_proto::rpc::CallKind;
use wmall_proto::topology::MetadataAddress;
use wmall_proto::{NodeName, Role, RpcError};
use wmall_runtime::metrics::Metrics;
use wmall_runtime::ops;
use wmall_runtime::view::StoreError;
use wmall_runtime::{FolderError, FolderLock, Shutdown};
use wmall_transport::{
    AuthorityError, BindError, Endpoint, Identity, IdentityError, Issuer, JoinServer, RenewBy, Renewal,
    Target,
};

use crate::backup::{self, BackupWatch, Backups};
use crate::born::Born;
use crate::config::Config;
use crate::init::others;
use crate::join::{Door, Lifetimes};
use crate::leader::{
    Challenger, ClusterClock, Collector, Failures, Graces, Liveness, Proposer, Reach, ReadIndex, Repairer,
    Volumes,
};
use crate::members::Members;
use crate::ops::MetadataOps;
use crate::raft::{LogStore, LogStoreError, Machine, Network, NotAMember, Peers, SnapshotFolder};
use crate::receipts::KeyCache;
use crate::service::Service;
use crate::state::State;
use crate::status::StatusSource;
use crate::types::Raft;
use crate::view::{self, ViewError};
use crate::{bootstrap, catch_up, gauge};

/// Raft's heartbeat and election timeouts, in milliseconds. Generous: two cores may have to share ten
/// processes, and an fsync may take a while.
const HEARTBEAT_MS: u64 = 300;
const ELECTION_MIN_MS: u64 = 1_200;
const ELECTION_MAX_MS: u64 = 2_400;
/// Disks that are found down within this part of the grace vanished together, and within this time in any
/// case: what fell silent at one moment is found so by heartbeats and rounds that are a second apart.
const TOGETHER: u64 = 10;
const TOGETHER_MS: u64 = 2_500;
/// Log entries kept below a snapshot, for members that lag a little.
const LOG_TAIL: u64 = 2_000;
/// Bytes of a snapshot in one message.
const SNAPSHOT_PART: u64 = 2 << 20;

/// Why a metadata node did not run, or stopped.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each is the error of the part it names.
pub enum RunError {
    #[error(
        "{0} holds no metadata node; `wmall metadata-node init --config FILE` makes one, and a member whose \
         folder was lost must not come back under its old id"
    )]
    NotInitialised(String),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Issuer(#[from] AuthorityError),
    #[error("the certificate is due for renewal, and can't be renewed: {0}")]
    Renewal(RpcError),
    #[error("the certificate is for {found}, but the configuration is for metadata node {expected}")]
    WrongIdentity { found: String, expected: String },
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot listen on {address} for operations")]
    Ops { address: std::net::SocketAddr, source: std::io::Error },
    #[error("the folder is of member {found}, and the configuration of member {expected}")]
    WrongMember { found: u64, expected: u64 },
    #[error(transparent)]
    NotAMember(#[from] NotAMember),
    #[error(transparent)]
    Log(#[from] LogStoreError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("the snapshots' folder cannot be used")]
    Snapshots(#[from] std::io::Error),
    #[error("Raft stopped: {0}")]
    Raft(String),
    #[error("{0}; start the node again to have the view built anew from its snapshot and log")]
    ViewFailed(StoreError),
}

/// Runs a metadata node until the shutdown is requested or something it can't do without fails.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    wmall_runtime::memory::use_small_pages();
    let open_files = wmall_runtime::files::raise_limit();
    let folder = config.raw.data_dir.clone();
    let no_member = || RunError::NotInitialised(folder.display().to_string());
    let born = Born::load(&folder)?.ok_or_else(no_member)?;
    if born.id != config.id {
        return Err(RunError::WrongMember { found: born.id, expected: config.id });
    }
    let _lock = FolderLock::acquire(&folder)?;
    // On a full volume nothing could be opened beside it.
    let ballast = gauge::ballast(&folder, &config.raw.volume);
    let lifetimes = Lifetimes {
        node: Duration::from_millis(config.raw.node_certificate_ms),
        user: Duration::from_millis(config.raw.user_certificate_ms),
    };
    let issuer = Arc::new(Issuer::load(&config.raw.identity_dir)?);
    let renewal = Renewal {
        folder: config.raw.identity_dir.clone(),
        by: RenewBy::Issuer(issuer.clone(), lifetimes.node),
    };
    let identity = load_identity(&config, &renewal).await?;
    let cluster = identity.cluster();
    let endpoint = Endpoint::server(config.raw.listen, &identity)?;
    let join_port = config.raw.join_listen.map(|address| JoinServer::bind(address, &identity)).transpose()?;
    let join_port = join_port.map(Arc::new);
    let log = LogStore::open(&folder.join("raft"), cluster.0, config.id, config.raw.name.as_str())?;
    let snapshots = Arc::new(SnapshotFolder::open(&folder.join("snapshots"), cluster.0)?);
    let mut log = log.purge_behind(snapshots.published());
    let opened = match view::open(&folder, &log, &snapshots) {
        // One whose configuration names no others has to be taken in anew.
        Err(ViewError::Gap { purged }) if !others(&config).is_empty() => {
            let address = |(name, target): (_, Target)| MetadataAddress { name, address: target.address };
            let others: Vec<_> = others(&config).into_iter().map(address).collect();
            let fetching = catch_up::fetch_snapshot(&endpoint, &others, purged, &snapshots);
            if shutdown.or(fetching).await.is_none() {
                return Ok(());
            }
            let state = view::open(&folder, &log, &snapshots)?;
            // The snapshot reaches further than the log, which goes on behind it.
            if let Some(applied) = state.applied().log_id.filter(|applied| applied.index > log.last()) {
                log.purge(applied).await.map_err(|e| RunError::Raft(e.to_string()))?;
            }
            state
        }
        opened => opened?,
    };
    let state = Arc::new(opened);
    let pristine = log.is_pristine();
    // The log alone was put back, or lost: it ends before what this member's own view has of it.
    if let Some(applied) = state.applied().log_id.filter(|applied| applied.index > log.last()) {
        let (last, acknowledged, by) = (log.last(), applied.index, "its own view".into());
        return Err(NotAMember::RolledBack { last, acknowledged, by }.into());
    }
    let clock = ClusterClock::new(config.raw.name.clone(), state.clone());
    let volumes = Volumes::new(config.raw.name.clone());
    let watched = Arc::new(BackupWatch::default());
    let peers =
        Peers::new(born, endpoint.clone(), log.clone(), clock.clone(), volumes.clone(), watched.clone());
    if !pristine {
        peers.check_self(&other_members(&config, &state)).await?;
    }
    let raft = start_raft(&config, &peers, log.clone(), state.clone(), snapshots.clone()).await?;
    peers.take_part(raft.clone());
    clock.take_part(raft.clone());
    volumes.take_part(raft.clone());
    let liveness = Arc::new(Liveness::new(
        Duration::from_millis(config.raw.suspect_after_ms),
        Duration::from_millis(config.raw.down_after_ms),
    ));
    let by_bytes =
        tokio::spawn(crate::raft::snapshots_by_bytes(raft.clone(), log.clone(), snapshots.clone()));
    let watch = tokio::spawn(watch_leadership(raft.clone(), liveness.clone()));
    let aside = tokio::spawn(step_aside(raft.clone(), clock.clone(), peers.clone()));
    let metrics = Metrics::new();
    wmall_runtime::files::show_limit(&metrics, open_files);
    let proposer = {
        let (name, clock, volumes) = (config.raw.name.clone(), clock.clone(), volumes.clone());
        Proposer::start(raft.clone(), clock, name, volumes, state.clone())
    };
    let repair = config.raw.repair;
    let repairer = Repairer::new(
        raft.clone(),
        state.clone(),
        liveness.clone(),
        Policy {
            together_ms: (config.raw.down_after_ms / TOGETHER).max(TOGETHER_MS),
            override_halt: repair.override_halt,
        },
        Budget {
            to_disk: repair.slots_to_disk,
            from_disk: repair.slots_from_disk,
            disk_bytes: repair.disk_bytes,
            link_bytes: repair.link_bytes,
        },
        config.raw.usage_sample_ms,
        clock.clone(),
    );
    let failures = Arc::new(Failures::default());
    let status = StatusSource {
        cluster,
        raft: raft.clone(),
        state: state.clone(),
        liveness: liveness.clone(),
        repairer: repairer.clone(),
        clock: clock.clone(),
        volumes: volumes.clone(),
        name: config.raw.name.clone(),
        peers: peers.clone(),
        backups: watched.clone(),
        failures: failures.clone(),
    };
    let graces =
        Graces { condemned_ms: config.raw.condemned_grace_ms, upload_ms: config.raw.upload_grace_ms };
    let collector = Collector {
        raft: raft.clone(),
        state: state.clone(),
        proposer: proposer.clone(),
        clock: clock.clone(),
        graces,
    };
    let collector = tokio::spawn(collector.run());
    let backup = config.raw.backup.clone();
    let backup = backup.map(|b| {
        let (name, written) = (config.raw.name.to_string(), (state.clone(), snapshots.clone()));
        tokio::spawn(backup::run(b, name, written, clock.clone(), watched))
    });
    let reads = ReadIndex::start(raft.clone());
    let door = Arc::new(Door {
        issuer,
        lifetimes,
        state: state.clone(),
        proposer: proposer.clone(),
        reads: reads.clone(),
        clock: clock.clone(),
    });
    let repairing = tokio::spawn(repairer.clone().run(proposer.clone()));
    let challenger = Challenger {
        cluster,
        raft: raft.clone(),
        state: state.clone(),
        liveness: liveness.clone(),
        proposer: proposer.clone(),
        endpoint: endpoint.clone(),
        every: Duration::from_millis(config.raw.challenge_ms),
    };
    let reach = Reach {
        raft: raft.clone(),
        state: state.clone(),
        liveness: liveness.clone(),
        endpoint: endpoint.clone(),
        failures,
        every: Duration::from_millis(config.raw.reach_ms),
    };
    let mut tasks = vec![watch, by_bytes, aside, collector, repairing, tokio::spawn(challenger.run())];
    tasks.push(tokio::spawn(reach.run()));
    tasks.extend(backup);
    tasks.push(tokio::spawn(gauge::watch_data(folder, config.raw.volume, ballast, volumes.clone())));
    let backups = config.raw.backup.clone();
    tasks.extend(backups.map(|backups| tokio::spawn(gauge::watch_backups(backups, volumes))));
    tasks.push(tokio::spawn(refuse_revoked(state.clone(), endpoint.clone())));
    let shown = join_port.clone();
    tasks.push(tokio::spawn(renewal.run(endpoint.clone(), move |identity| {
        if let Some(Err(error)) = shown.as_ref().map(|port| port.renew(identity)) {
            tracing::error!(%error, "the join port can't show the new certificate");
        }
    })));
    if let Some(port) = join_port {
        let door = door.clone();
        tasks.push(tokio::spawn(async move { port.serve(door).await }));
    }
    let join_address = config.raw.join_listen.map(|join| JoinAddress {
        name: config.raw.name.clone(),
        address: config.address,
        join,
    });
    let service = Arc::new(Service {
        cluster,
        raft: raft.clone(),
        state: state.clone(),
        proposer,
        reads,
        door,
        join_address,
        liveness,
        repairer,
        status: status.clone(),
        calls: metrics.calls(&CallKind::ALL.map(CallKind::as_str)),
        keys: KeyCache::default(),
        peers: peers.clone(),
        clock: clock.clone(),
        upload_grace_ms: config.raw.upload_grace_ms,
        members: Members { raft: raft.clone(), peers: peers.clone() },
        backups: Backups {
            member: config.raw.name.to_string(),
            snapshots,
            config: config.raw.backup.clone(),
        },
    });
    if let Some(ops) = config.raw.ops.clone() {
        let address = ops.listen;
        let answers = Arc::new(MetadataOps::new(status, &metrics));
        let served = ops::serve(ops, answers, metrics, shutdown.clone()).await;
        served.map_err(|source| RunError::Ops { address, source })?;
    }
    tracing::info!(name = %config.raw.name, listen = %config.raw.listen, open_files, "metadata node up");
    let beginning = async {
        if pristine && !config.raw.join {
            bootstrap::begin(&config, born, &endpoint, &log, &raft).await?;
        }
        Err(peers.stopped().await)
    };
    let outcome = tokio::select! {
        () = endpoint.serve(service) => Ok(()),
        stopped = beginning => stopped.map_err(RunError::NotAMember),
        () = shutdown.requested() => Ok(()),
        // First: a view that failed stops Raft too, and is the reason.
        why = view_failed(&state) => Err(RunError::ViewFailed(why)),
        why = raft_died(&raft) => match state.failed() {
            Some(error) => Err(RunError::ViewFailed(error)),
            None => Err(RunError::Raft(why)),
        },
    };
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    endpoint.close().await;
    let _ = tokio::time::timeout(wmall_runtime::shutdown::GRACE, raft.shutdown()).await;
    state.flush();
    outcome
}

/// A member that was off for long may find its certificate ended, and one whose clock was wrong may find it
/// ahead: it has the issuer, and renews it first.
async fn load_identity(config: &Config, renewal: &Renewal) -> Result<Identity, RunError> {
    let mut identity = Identity::load(&config.raw.identity_dir)?;
    if identity.peer().is_due(wmall_runtime::clock::now_ms()) {
        identity = renewal.renew().await.map_err(RunError::Renewal)?;
    }
    let peer = identity.peer();
    if peer.role != Role::Metadata || peer.node != config.raw.name {
        let (found, expected) = (format!("{} {}", peer.role, peer.node), config.raw.name.to_string());
        return Err(RunError::WrongIdentity { found, expected });
    }
    Ok(identity)
}

/// The other members, by the membership that was applied last and by the configuration.
fn other_members(config: &Config, state: &State) -> Vec<(NodeName, Target)> {
    let applied = state.applied();
    let known = applied.membership.nodes().filter(|(id, _)| **id != config.id);
    let known = known.filter_map(|(_, member)| member.target()).map(|target| (target.node.clone(), target));
    let all: BTreeMap<NodeName, Target> = others(config).into_iter().chain(known).collect();
    all.into_iter().collect()
}

async fn start_raft(
    config: &Config,
    peers: &Arc<Peers>,
    log: LogStore,
    state: Arc<State>,
    snapshots: Arc<SnapshotFolder>,
) -> Result<Raft, RunError> {
    let settings = openraft::Config {
        cluster_name: config.raw.name.to_string(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.raw.snapshot_entries),
        max_in_snapshot_log_to_keep: LOG_TAIL,
        snapshot_max_chunk_size: SNAPSHOT_PART,
        install_snapshot_timeout: 10_000,
        max_payload_entries: 64,
        ..openraft::Config::default()
    };
    let settings = Arc::new(settings.validate().map_err(|e| RunError::Raft(e.to_string()))?);
    let network = Network::new(peers.clone(), snapshots.clone());
    let machine = Machine::new(state, snapshots);
    let raft = Raft::new(config.id, settings, network, log, machine).await;
    raft.map_err(|e| RunError::Raft(e.to_string()))
}

/// Lets the endpoint know whose certificates are refused, as the state machine learns of it.
async fn refuse_revoked(state: Arc<State>, endpoint: Endpoint) {
    let mut versions = state.map_versions();
    while versions.changed().await.is_ok() {
        endpoint.set_revoked(&state.topology().revoked);
    }
}

/// Keeps a member from leading while its clock is far off: it stands in no election, and as a leader it falls
/// silent, so that the others elect another one.
async fn step_aside(raft: Raft, clock: Arc<ClusterClock>, peers: Arc<Peers>) {
    const LOOK: Duration = Duration::from_secs(1);
    let mut aside = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = clock.steps_aside();
        if now != aside {
            tracing::warn!(aside = now, "whether this member's clock is too far off to lead has changed");
            aside = now;
            raft.runtime_config().elect(!aside);
            peers.fall_silent(aside);
        }
    }
}

/// Tells the table of heartbeats when this member begins and ceases to lead.
async fn watch_leadership(raft: Raft, liveness: Arc<Liveness>) {
    let mut metrics = raft.metrics();
    loop {
        let leads = {
            let now = metrics.borrow_and_update();
            now.current_leader == Some(now.id)
        };
        liveness.leads(leads, Instant::now());
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Returns when the view has failed: nothing of it is believed any more, and only a start builds it anew.
async fn view_failed(state: &State) -> StoreError {
    const LOOK: Duration = Duration::from_millis(500);
    loop {
        if let Some(error) = state.failed() {
            return error;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Returns when Raft has stopped by itself.
async fn raft_died(raft: &Raft) -> String {
    let mut metrics = raft.metrics();
    loop {
        if let Err(fatal) = &metrics.borrow_and_update().running_state {
            return fatal.to_string();
        }
        if metrics.changed().await.is_err() {
            return "its task ended".into();
        }
    }
}
