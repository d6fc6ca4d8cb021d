//! Answers calls: checks what must not reach the log unchecked (names, signatures, bounds), then reads,
//! or proposes and waits.

use std::sync::Arc;
use std::time::Instant;

use wmall_placement::{Candidate, propose_rows};
use wmall_proto::feed::PoolChunk;
use wmall_proto::identity::{Actor, MAX_SCOPES, TokenRecord};
use wmall_proto::join::JoinAddress;
use wmall_proto::layout::{MAX_WEIGHT, is_weight};
use wmall_proto::pg::MAX_PG_BITS;
use wmall_proto::rpc::{
    DoubtedPiece, Heartbeat, HeartbeatReply, MemberCommand, NameCommand, Query, QueryReply, Registration,
    Request, Response, TopologyReply, UserCommand,
};
use wmall_proto::status::NodeState;
use wmall_proto::topology::{ClusterId, DiskInfo, MAX_DISKS_PER_NODE, MAX_ROWS_BYTES, Topology, row_bytes};
use wmall_proto::{
    ChunkId, DiskId, ErrorCode, NodeName, PoolId, PoolName, RequestId, Role, RpcError, Scheme,
};
use wmall_runtime::metrics::CallMetrics;
use wmall_runtime::view::StoreError;
use wmall_transport::{Handler, Incoming, Replier};

use crate::authorize::authorize;
use crate::command::Command;
use crate::join::Door;
use crate::leader::{ClusterClock, Liveness, Proposer, ReadIndex, Repairer, not_leader};
use crate::raft;
use crate::receipts::KeyCache;
use crate::state::{Listing, NO_EPOCH, QueryError, Silent, State};
use crate::status::StatusSource;
use crate::types::Raft;

/// Tries at a command whose proposal was overtaken by another change of the topology.
const TRIES: usize = 5;
/// How long a join token may be good.
const MIN_TTL_MS: u64 = 1_000;
const MAX_TTL_MS: u64 = 30 * 86_400_000;
/// Entries that one list in a request may have.
const MAX_LIST: usize = 8192;

/// Everything a call may need.
pub struct Service {
    pub(crate) cluster: ClusterId,
    pub(crate) raft: Raft,
    pub(crate) peers: Arc<raft::Peers>,
    pub(crate) clock: Arc<ClusterClock>,
    /// Between an upload's begin and its fence.
    pub(crate) upload_grace_ms: u64,
    pub(crate) state: Arc<State>,
    pub(crate) proposer: Proposer,
    pub(crate) reads: ReadIndex,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) repairer: Repairer,
    pub(crate) status: StatusSource,
    pub(crate) calls: Option<CallMetrics>,
    pub(crate) keys: KeyCache,
    pub(crate) members: crate::members::Members,
    pub(crate) door: Arc<Door>,
    /// Where this member answers strangers, if it does.
    pub(crate) join_address: Option<JoinAddress>,
    pub(crate) backups: crate::backup::Backups,
}

impl Handler for Service {
    async fn handle(&self, call: Incoming) {
        let Incoming { peer, request, replier, .. } = call;
        let (kind, started) = (request.kind(), Instant::now());
        if let Request::Snapshot { local } = request {
            let ok = self.send_snapshot(peer.actor(), local, replier).await;
            if let Some(calls) = &self.calls {
                calls.record(kind.as_str(), ok, started);
            }
            return;
        }
        let answer = self.answer(&peer, request).await;
        if let Some(calls) = &self.calls {
            calls.record(kind.as_str(), answer.is_ok(), started);
        }
        replier.send(answer).await;
    }
}

impl Service {
    async fn answer(&self, peer: &wmall_transport::Peer, request: Request) -> Result<Response, RpcError> {
        authorize(peer.role, &request, || self.state.scopes(&peer.node).map_err(|e| store_failed(&e)))?;
        match request {
            Request::Raft(call) => raft::answer(&self.raft, &self.peers, call).await,
            Request::GetTopology { known } => Ok(Response::Topology(self.topology(known))),
            Request::Read { linearizable, query } => self.read(linearizable, &query).await,
            Request::Status => self.cluster_status().await,
            Request::Commit { request, commit } => self.commit(request, peer.actor(), commit).await,
            Request::Name { request, command } => self.name(request, peer.actor(), command).await,
            Request::Administer { request, command } => self.administer(request, peer.actor(), command).await,
            Request::Member(command) => self.change_member(peer.actor(), command).await,
            Request::Renew { csr } => self.door.renew(peer, &csr).await.map(Response::Renewed),
            Request::Issuer => {
                let (certificate, key) = self.door.issuer.to_pem();
                Ok(Response::Issuer { certificate, key })
            }
            Request::JoinAddress => Ok(Response::JoinAddress(self.join_address.clone())),
            Request::ListSnapshots => self.backups.list().map(Response::Snapshots),
            Request::Snapshot { .. } => Err(RpcError::internal("a snapshot is not an answer of one message")),
            Request::Register(registration) => {
                own_name(peer, registration.node.as_str())?;
                self.register(peer.actor(), registration).await
            }
            Request::Heartbeat(heartbeat) => {
                own_name(peer, heartbeat.node.as_str())?;
                self.heartbeat(heartbeat).await
            }
            Request::CloseTickets { disk, receipts, clean, as_of, epoch } => {
                self.own_disk(peer, disk)?;
                if epoch != self.state.counters().1.feed_epoch {
                    let reason = "the listing is from before the metadata were restored";
                    return Err(RpcError::new(ErrorCode::PreconditionFailed, reason).hint("list again"));
                }
                self.close_tickets(peer.actor(), disk, receipts, clean, as_of).await
            }
            Request::ListMissing { disk, groups, but, after } => {
                self.own_disk(peer, disk)?;
                bounded(groups.len().max(but.len()))?;
                self.reads.wait().await?;
                let silent = self.silent(&self.state.topology());
                let listing = Listing { groups: &groups, but: &but, after: after.as_ref() };
                self.state.list_missing(disk, listing, &silent).map_err(|e| store_failed(&e))
            }
            Request::CheckCommitted { disk, chunks } => {
                self.own_disk(peer, disk)?;
                bounded(chunks.len())?;
                self.reads.wait().await?;
                let known = self.state.pieces_known(disk, &chunks).map_err(|e| store_failed(&e))?;
                Ok(Response::PiecesKnown(known))
            }
            Request::ReportBad { disk, chunks, doubted } => {
                self.own_disk(peer, disk)?;
                bounded(chunks.len().max(doubted.len()))?;
                self.report_bad(peer.actor(), disk, chunks, doubted).await
            }
            Request::CheckRange(claim) => {
                self.own_disk(peer, claim.disk)?;
                self.reads.wait().await?;
                let state = self.state.clone();
                let checking = move || state.check_range(&claim);
                let checked = tokio::task::spawn_blocking(checking).await.map_err(RpcError::internal)?;
                checked.map(Response::Range).map_err(|e| store_failed(&e))
            }
            Request::ReportLoss { disk } => {
                self.own_disk(peer, disk)?;
                self.must_lead()?;
                self.proposer.propose_for(None, peer.actor(), Command::MarkDirty(disk)).await
            }
            Request::Put(_)
            | Request::ReadPiece(_)
            | Request::CheckPiece { .. }
            | Request::Challenge(_)
            | Request::ListPieces { .. }
            | Request::Attest { .. } => {
                let reason = "a metadata node holds no pieces; this call is for a data node";
                Err(RpcError::new(ErrorCode::BadRequest, reason))
            }
        }
    }

    /// Writes all metadata as of now to a file and sends it. True if all of it went.
    async fn send_snapshot(&self, by: Actor, local: bool, mut replier: Replier) -> bool {
        let file = match self.note_snapshot(by, local).await {
            Ok(()) => self.backups.export(self.state.clone()).await,
            Err(error) => Err(error),
        };
        let sent = match file {
            Ok(file) => file.send(&mut replier).await,
            Err(error) => Err(error),
        };
        replier.conclude(sent).await
    }

    /// Leaves a line in the audit log. A member that is asked for its own snapshot does without if none
    /// leads.
    async fn note_snapshot(&self, by: Actor, local: bool) -> Result<(), RpcError> {
        let act = Command::Note { act: "meta snapshot save".into() };
        match self.proposer.propose_act(None, by.clone(), act).await {
            Err(RpcError { code: ErrorCode::NotLeader, hint, .. }) if local && !hint.is_empty() => {
                let reason = format!("{hint} leads, as far as this member knows, and has all that it has");
                Err(RpcError::new(ErrorCode::PreconditionFailed, reason)
                    .hint("leave out --local; or try again"))
            }
            Err(error)
                if local
                    && matches!(error.code, ErrorCode::NotLeader | ErrorCode::NoQuorum | ErrorCode::Busy) =>
            {
                tracing::warn!(%by, %error, "a snapshot is sent without a line in the audit log");
                Ok(())
            }
            noted => noted.map(|_| ()),
        }
    }

    pub(crate) fn silent(&self, topology: &Topology) -> Silent {
        self.liveness.silent(topology, Instant::now())
    }

    fn topology(&self, known: u64) -> TopologyReply {
        let topology = self.state.topology();
        // Only the leader knows who is silent; another member leaves the caller what it knows.
        let leads = self.must_lead().is_ok();
        let suspects = leads.then(|| self.liveness.silent_nodes(&topology, Instant::now()));
        let news = topology.version > known;
        let topology = news.then(|| self.state.encoded_map());
        TopologyReply { topology, suspects, now_ms: self.clock.told_ms().unwrap_or(0) }
    }

    async fn read(&self, linearizable: bool, query: &Query) -> Result<Response, RpcError> {
        if matches!(
            query,
            Query::Drain(_)
                | Query::Rehearse(_)
                | Query::Jobs
                | Query::Layout
                | Query::Grades(_)
                | Query::Groups { .. }
        ) {
            self.must_lead()?;
        }
        let planned = match query {
            Query::Drain(place) => Some(QueryReply::Drain(self.drain_view(place).await?)),
            Query::Rehearse(operation) => {
                self.rehearse(operation.clone()).await?;
                Some(QueryReply::Rehearsed)
            }
            Query::Jobs => Some(QueryReply::Jobs(self.job_views().await?)),
            Query::Layout => Some(QueryReply::Layout(self.layout_view().await?)),
            _ => None,
        };
        if let Some(reply) = planned {
            return Ok(Response::Read(reply));
        }
        if linearizable {
            self.reads.wait().await?;
        }
        let silent = match query {
            // Only these show which nodes are silent, and the leader alone knows.
            Query::Chunk(_) | Query::Grades(_) | Query::Groups { .. } => self.silent(&self.state.topology()),
            _ => Silent::new(),
        };
        // These walk through groups: not on the threads that answer the others.
        let answered = match query {
            Query::Grades(_) | Query::Groups { .. } => {
                let (state, query) = (self.state.clone(), query.clone());
                let walking = move || state.query(&query, &silent);
                tokio::task::spawn_blocking(walking).await.map_err(RpcError::internal)?
            }
            query => self.state.query(query, &silent),
        };
        match answered {
            Ok(reply) => Ok(Response::Read(reply)),
            Err(QueryError::Answer(error)) => Err(error),
            Err(QueryError::Store(error)) => Err(store_failed(&error)),
        }
    }

    async fn cluster_status(&self) -> Result<Response, RpcError> {
        self.reads.wait().await?;
        let status = self.status.compute(Instant::now()).map_err(|e| store_failed(&e))?;
        Ok(Response::Status(Box::new(status)))
    }

    /// What can't be had back is an operator's act, whoever does it.
    async fn name(&self, request: RequestId, by: Actor, command: NameCommand) -> Result<Response, RpcError> {
        self.must_lead()?;
        let for_good = command.is_for_good();
        let command = Command::Name(command);
        match for_good {
            true => self.proposer.propose_act(Some(request), by, command).await,
            false => self.proposer.propose_for(Some(request), by, command).await,
        }
    }

    async fn change_member(&self, by: Actor, command: MemberCommand) -> Result<Response, RpcError> {
        let act = match &command {
            MemberCommand::Add { id, name, address } => format!("meta member add {name}={address} --id {id}"),
            MemberCommand::Remove { id } => format!("meta member rm {id}"),
        };
        // Before the change: it may take the leader away that would note it.
        self.proposer.propose_act(None, by, Command::Note { act }).await?;
        self.members.change(command).await
    }

    async fn administer(
        &self,
        request: RequestId,
        by: Actor,
        command: UserCommand,
    ) -> Result<Response, RpcError> {
        self.must_lead()?;
        let command = match command {
            UserCommand::CreatePool { name, scheme, pg_bits } => {
                return self.create_pool(request, by, name, scheme, pg_bits).await;
            }
            UserCommand::CreateToken { id, role, name, scopes, ttl_ms, wait_for_layout } => {
                let expires_ms = self.clock.now_ms().saturating_add(ttl_ms);
                let created_by = Some(by.clone());
                let used = None;
                let token =
                    TokenRecord { id, role, name, scopes, expires_ms, created_by, wait_for_layout, used };
                check_token(&token, ttl_ms)?;
                Command::CreateToken(token)
            }
            UserCommand::DropToken(id) => Command::DropToken(id),
            UserCommand::Revoke { name, role } => Command::Revoke { name, role, by: Some(by.clone()) },
            UserCommand::SetScopes(user) => Command::SetScopes(user),
            UserCommand::CreateBucket { name, pool, rules } => Command::CreateBucket { name, pool, rules },
            UserCommand::RemoveBucket { name, purge } => Command::RemoveBucket { name, purge },
            UserCommand::ChangeBucket { name, change } => Command::ChangeBucket { name, change },
            UserCommand::AllowDeletion { force } => self.allow_deletion(force).await?,
            UserCommand::Operate(operation) => self.operate(operation).await?,
        };
        self.proposer.propose_act(Some(request), by, command).await
    }

    async fn create_pool(
        &self,
        request: RequestId,
        by: Actor,
        name: PoolName,
        scheme: Scheme,
        pg_bits: u8,
    ) -> Result<Response, RpcError> {
        let scheme = scheme.validate().map_err(|e| RpcError::new(ErrorCode::OutOfBounds, e.to_string()))?;
        if pg_bits > MAX_PG_BITS {
            let reason = format!("{pg_bits} bits of placement groups; {MAX_PG_BITS} at most");
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason));
        }
        self.check_map_size(&name, scheme, pg_bits)?;
        // The rows are made for a topology that may have changed by the time they are applied; then they
        // are refused, which is not kept, and made again under the same id.
        for _ in 0..TRIES {
            self.reads.wait().await?;
            let topology = self.state.topology();
            let candidates = self.candidates(&topology);
            let salt = wmall_proto::codec::encode(&name);
            let salt = ChunkId::of(&salt).0;
            let salt = salt[..8].iter().fold(0u64, |s, &b| s << 8 | u64::from(b));
            let rows = propose_rows(&candidates, scheme.width(), pg_bits, salt).map_err(|e| {
                RpcError::new(ErrorCode::TooFewNodes, e.to_string())
                    .hint("add data nodes, or choose a scheme with fewer pieces")
            })?;
            let command =
                Command::CreatePool { name: name.clone(), scheme, pg_bits, rows, based_on: topology.version };
            match self.proposer.propose_act(Some(request), by.clone(), command).await {
                Err(error) if error.code == ErrorCode::Busy => {}
                answer => return answer,
            }
        }
        Err(RpcError::new(ErrorCode::Busy, "nodes and disks keep changing").hint("try again"))
    }

    /// The disks that the rows of a new pool may name. One that was down and answers again is one of them,
    /// though nobody has noted that yet.
    fn candidates(&self, topology: &Topology) -> Vec<Candidate> {
        let candidate = |disk: &DiskInfo| {
            let zone = topology.nodes.get(&disk.node)?.zone.clone();
            Some(Candidate { disk: disk.id, node: disk.node.clone(), zone, weight: disk.weight })
        };
        let answers = |d: &DiskInfo| d.down_since_ms.is_none() || self.repairer.heard_well(topology, d.id);
        let believed = |d: &&DiskInfo| !d.draining && d.quarantined_ms.is_none() && answers(d);
        topology.disks.values().filter(believed).filter_map(candidate).collect()
    }

    /// Refuses a pool with which the map would not fit in a message any more.
    fn check_map_size(&self, name: &PoolName, scheme: Scheme, pg_bits: u8) -> Result<(), RpcError> {
        let bytes = |rows: usize, scheme: Scheme| rows * row_bytes(scheme.width());
        let topology = self.state.topology();
        // That there is one is what its maker has to hear first.
        if topology.pools.values().any(|t| t.pool.name == *name) {
            return Ok(());
        }
        let there: usize = topology.pools.values().map(|t| bytes(t.rows.len(), t.pool.scheme)).sum();
        let wanted = there + bytes(1 << pg_bits, scheme);
        if wanted <= MAX_ROWS_BYTES {
            return Ok(());
        }
        let reason = format!("the rows of all pools would grow to {wanted} bytes; {MAX_ROWS_BYTES} at most");
        Err(RpcError::new(ErrorCode::OutOfBounds, reason).hint("choose fewer placement groups"))
    }

    /// A node that comes up again as it was changes nothing, and so costs no entry.
    async fn register(&self, by: Actor, registration: Registration) -> Result<Response, RpcError> {
        if let Some(disk) = registration.disks.iter().find(|d| !is_weight(d.weight)) {
            let reason =
                format!("disk {} with a weight of {}; it is 1 to {MAX_WEIGHT}", disk.name, disk.weight);
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason));
        }
        self.reads.wait().await?;
        // Before it costs an entry; applying judges again.
        self.state.check_disks(&registration)?;
        if let Some(registered) = self.state.registered(&registration) {
            return Ok(Response::Registered(registered));
        }
        let replaces = self.refuse_clone(&registration)?;
        let older = self.older_copies(&registration);
        let command = Command::Register { registration, replaces, older };
        self.proposer.propose_for(None, by, command).await
    }

    /// Refuses a second process of a name whose first one runs elsewhere, and returns the one that it takes
    /// the place of. At the same address the first can't run any more, unless it is the later one by the
    /// starts of its disks.
    fn refuse_clone(&self, registration: &Registration) -> Result<Option<[u8; 16]>, RpcError> {
        let Registration { node, address, process, .. } = registration;
        let topology = self.state.topology();
        let runs = self.state.process_of(node);
        let Some(known) = topology.nodes.get(node).filter(|_| runs.is_some_and(|runs| runs != *process))
        else {
            return Ok(runs);
        };
        let now = Instant::now();
        let (state, heard, _) = self.liveness.of(node, now);
        if heard.is_none() && known.address != *address && !self.liveness.is_settled(&topology, now) {
            let reason = format!("whether {node} runs at {} is not known yet", known.address);
            return Err(RpcError::new(ErrorCode::Busy, reason));
        }
        let alive = state == NodeState::Up && heard.is_some();
        if !alive || (known.address == *address && self.state.starts_after(registration)) {
            return Ok(runs);
        }
        self.liveness.refuse(node, *address, Instant::now());
        let reason = format!("{node} runs already, at {}", known.address);
        Err(RpcError::new(ErrorCode::AlreadyExists, reason)
            .hint("stop one of the two; wipe the disks of a copy before it joins"))
    }

    /// Disks whose journals end before what this leader has heard of them in the same life: copies of before.
    fn older_copies(&self, registration: &Registration) -> Vec<DiskId> {
        let topology = self.state.topology();
        let (_, _, beats) = self.liveness.of(&registration.node, Instant::now());
        let of_node = topology.disks.values().filter(|d| d.node == registration.node);
        let is_older = |disk: &&DiskInfo| {
            let comes = registration.disks.iter().find(|r| r.name.as_str() == disk.name);
            let heard = beats.get(&disk.id);
            comes
                .zip(heard)
                .is_some_and(|(comes, heard)| comes.incarnation == heard.incarnation && comes.end < heard.end)
        };
        of_node.filter(is_older).map(|disk| disk.id).collect()
    }

    /// Refuses another process than the one that goes by a node's name. A member that is behind may not know
    /// of the one that came last, so it makes sure before it says so.
    async fn check_process(&self, node: &NodeName, process: [u8; 16]) -> Result<(), RpcError> {
        if self.state.process_of(node) == Some(process) {
            return Ok(());
        }
        self.reads.wait().await?;
        match self.state.process_of(node) {
            Some(known) if known == process => Ok(()),
            // One that went by this name before, and still runs: its disks are not those that count.
            Some(_) => {
                Err(RpcError::new(ErrorCode::Unsafe, format!("another process goes by the name {node} now"))
                    .hint("stop one of the two; wipe the disks of a copy before it joins"))
            }
            None => Err(RpcError::not_found(format!("data node {node}; it must register first"))),
        }
    }

    async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<Response, RpcError> {
        self.must_lead()?;
        bounded(heartbeat.disks.len() * (MAX_LIST / MAX_DISKS_PER_NODE))?;
        let topology = self.state.topology();
        if !topology.nodes.contains_key(&heartbeat.node) {
            let what = format!("data node {}; it must register first", heartbeat.node);
            return Err(RpcError::not_found(what));
        }
        self.clock.hear(heartbeat.node.as_str(), heartbeat.now_ms);
        self.check_process(&heartbeat.node, heartbeat.process).await?;
        let disks: Vec<DiskId> = heartbeat.disks.iter().map(|d| d.disk).collect();
        let (feed_epoch, feed) = self.state.feed((heartbeat.feed_epoch, heartbeat.feed), &disks);
        if feed_epoch == NO_EPOCH {
            return Err(RpcError::new(ErrorCode::Busy, "the metadata nodes come out of a restore"));
        }
        let work = self.state.work_of(&disks);
        // A version of another life of the metadata is no base of anything.
        let same_life = heartbeat.topology_epoch == feed_epoch;
        let (known, heartbeat_feed) = (heartbeat.topology, heartbeat.feed);
        self.liveness.hear(heartbeat, Instant::now());
        let changes = if same_life { self.state.map_changes(known) } else { None };
        let (topology, level) =
            (self.topology(if changes.is_some() { u64::MAX } else { known }), self.repairer.level());
        // A whole map may take a message for itself: the feed goes on with the next answer, asked for at
        // once.
        let feed = if topology.topology.is_some() { feed.put_off(heartbeat_feed) } else { feed };
        let upload_grace_ms = self.upload_grace_ms;
        let reply = HeartbeatReply { topology, changes, feed, feed_epoch, work, level, upload_grace_ms };
        Ok(Response::Heartbeat(reply))
    }

    /// The one place where reports of data nodes lead: what readers, scrubs and comparisons find. What a
    /// challenge finds is proposed as the same command. Chunks that nobody has committed, those with a ticket
    /// already, and doubted pieces that are what was committed cost no entry: whoever asks about random ids,
    /// or for one piece again and again, makes no log grow.
    async fn report_bad(
        &self,
        by: Actor,
        disk: DiskId,
        chunks: Vec<(PoolId, ChunkId)>,
        doubted: Vec<DoubtedPiece>,
    ) -> Result<Response, RpcError> {
        self.reads.wait().await?;
        let mut asked: Vec<PoolChunk> =
            chunks.into_iter().map(|(pool, chunk)| PoolChunk { pool, chunk }).collect();
        for piece in doubted {
            if self.state.contradicts(&piece).map_err(|e| store_failed(&e))? {
                asked.push(piece.key);
            }
        }
        let untold = self.state.untold(disk, &asked).map_err(|e| store_failed(&e))?;
        if untold.is_empty() {
            return Ok(Response::Done);
        }
        let chunks = untold.into_iter().map(|c| (c.pool, c.chunk)).collect();
        self.proposer.propose_for(None, by, Command::ReportBad { disk, chunks }).await
    }

    /// Spares a follower the work on a command that it would have to refuse.
    pub(crate) fn must_lead(&self) -> Result<(), RpcError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.current_leader == Some(metrics.id) {
            return Ok(());
        }
        let leader = metrics.current_leader;
        let node = leader.and_then(|id| metrics.membership_config.membership().get_node(&id));
        Err(not_leader(node))
    }

    fn own_disk(&self, peer: &wmall_transport::Peer, disk: DiskId) -> Result<(), RpcError> {
        let topology = self.state.topology();
        let info = topology.disks.get(&disk).ok_or_else(|| RpcError::not_found(disk))?;
        own_name(peer, info.node.as_str())
    }
}

/// What a token may promise.
fn check_token(token: &TokenRecord, ttl_ms: u64) -> Result<(), RpcError> {
    let is_user = matches!(token.role, Role::Client | Role::Validator);
    let refused = |code, why: &str| Err(RpcError::new(code, why));
    if !(MIN_TTL_MS..=MAX_TTL_MS).contains(&ttl_ms) {
        return refused(ErrorCode::OutOfBounds, "a token is good for a second at least and 30 days at most");
    }
    if token.name.is_none() && !matches!(token.role, Role::Data | Role::Metadata) {
        return refused(ErrorCode::BadRequest, "a token for a user or an operator is for one name");
    }
    if token.scopes.len() > MAX_SCOPES {
        return refused(ErrorCode::OutOfBounds, "a user has at most 256 scopes");
    }
    if !is_user && !token.scopes.is_empty() {
        return refused(ErrorCode::BadRequest, "only clients and validators have scopes");
    }
    Ok(())
}

fn own_name(peer: &wmall_transport::Peer, claimed: &str) -> Result<(), RpcError> {
    if peer.node.as_str() == claimed {
        return Ok(());
    }
    let reason = format!("{} may not speak for {claimed}", peer.node);
    Err(RpcError::new(ErrorCode::Denied, reason))
}

pub(crate) fn bounded(length: usize) -> Result<(), RpcError> {
    if length <= MAX_LIST {
        return Ok(());
    }
    let reason = format!("a list of {length} entries; {MAX_LIST} at most");
    Err(RpcError::new(ErrorCode::OutOfBounds, reason))
}

fn store_failed(error: &StoreError) -> RpcError {
    tracing::error!(%error, "the view failed");
    RpcError::internal(error)
}
