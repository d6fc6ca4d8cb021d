//! The connection to a cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use wmall_proto::clock::LONGEST_RETRY_MS;
use wmall_proto::pool::Bucket;
use wmall_proto::rpc::{Query, QueryReply, Request, Response};
use wmall_proto::{BucketName, ErrorCode, Pool, PoolId, PoolName, RequestId, RpcError, Scheme, Topology};
use wmall_transport::{Endpoint, Identity, Members, Refused, RenewBy, Renewal};

use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::map::Map;
use crate::running::Running;

/// Buckets whose pool is remembered.
const MAX_BUCKETS: usize = 4096;

/// How long a command may be held up by the renewal of its certificate.
const RENEWAL: Duration = Duration::from_secs(2);

/// The cluster's clock is heard anew for a command if that was longer ago.
const HEARD_TIME: Duration = Duration::from_secs(5);

/// A command is repeated for no longer, whatever its user's timeout is: its answer is kept for so long.
const LONGEST_RETRY: Duration = Duration::from_millis(LONGEST_RETRY_MS);

/// Called with the bytes that are done, as they are.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// A cluster, from the outside. Clones share the connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    pub(crate) members: Arc<Members>,
    pub(crate) map: Map,
    /// Keeps the certificate valid, for those who stay connected.
    renewal: JoinHandle<()>,
    pub(crate) running: Arc<Running>,
    /// Looks at that clock.
    looking: JoinHandle<()>,
    timeout: Duration,
    /// Since when the present wait for the metadata nodes lasts; none if there is none. Reading the map and
    /// the question that it was read for share one timeout, so that a command ends when its user said.
    waiting_since: Mutex<Option<Instant>>,
    buckets: Mutex<HashMap<BucketName, PoolId>>,
}

impl Store {
    /// Loads the identity, binds a socket and reads the map. Needs a tokio runtime around it.
    pub async fn connect(config: &ClientConfig) -> Result<Self, ClientError> {
        let identity = Identity::load(&config.identity_dir)?;
        let endpoint = Endpoint::client(&identity)?;
        let members = Arc::new(Members::new(endpoint.clone(), &config.metadata));
        let renewal = Renewal { folder: config.identity_dir.clone(), by: RenewBy::Members(members.clone()) };
        if identity.peer().is_due(wmall_runtime::clock::now_ms()) {
            let trying = renew(&renewal, &endpoint);
            if tokio::time::timeout(RENEWAL, trying).await.is_err() {
                tracing::warn!("the certificate is due for renewal and was not renewed in time");
            }
        }
        let renewal = tokio::spawn(renewal.run(endpoint.clone(), |_| {}));
        let running = Arc::new(Running::new());
        let looking = tokio::spawn({
            let running = running.clone();
            async move { running.keep_looking().await }
        });
        let inner = Inner {
            renewal,
            running,
            looking,
            endpoint,
            members,
            map: Map::new(),
            timeout: Duration::from_millis(config.timeout_ms),
            waiting_since: Mutex::new(Some(Instant::now())),
            buckets: Mutex::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        store.inner.refresh().await?;
        Ok(store)
    }

    /// Closes the connections; what is under way fails.
    pub async fn close(&self) {
        self.inner.renewal.abort();
        self.inner.endpoint.close().await;
    }

    /// The map of the cluster, as of the last answer.
    pub fn topology(&self) -> Arc<Topology> {
        self.inner.map.topology()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.renewal.abort();
        self.looking.abort();
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Option<Instant>> {
        self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self) -> Instant {
        *self.waiting().get_or_insert_with(Instant::now) + self.timeout
    }

    /// Asks the leader, again and again until the deadline.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Response, RpcError> {
        let answer = loop {
            let begun = self.running.now();
            let answer = self.members.call_until(request, self.deadline()).await;
            // A process that was stopped has seen nobody fail. Every request may come twice.
            let failed = answer.as_ref().is_err_and(|e| e.code.is_transient());
            if !failed || self.running.stopped_since(begun).is_none() {
                break answer;
            }
            *self.waiting() = None;
        };
        // The map comes from any member and so tells nothing of the leader: what it cost counts. Any other
        // answer, and giving up, end the wait.
        if answer.is_err() || !matches!(request, Request::GetTopology { .. }) {
            *self.waiting() = None;
        }
        answer
    }

    /// Has the leader carry out a command, again and again until the deadline, all tries under one id: a
    /// command that took effect unseen answers the same again. The id is born by the cluster's clock, which
    /// is heard anew where that is a while ago.
    pub(crate) async fn command(
        &self,
        request: impl FnOnce(RequestId) -> Request,
    ) -> Result<Response, RpcError> {
        let mut request = request(self.new_request().await?);
        match self.command_once(&request).await {
            // The clock was heard of a member that is behind. The command was not tried before.
            Err(Refused { error, may_have_effect: false }) if error.code == ErrorCode::RequestExpired => {
                renumber(&mut request, self.new_request().await?);
                self.command_once(&request).await
            }
            answer => answer,
        }
        .map_err(|refused| refused.error)
    }

    async fn new_request(&self) -> Result<RequestId, RpcError> {
        if !self.map.has_heard_time_within(HEARD_TIME) {
            // Both share one timeout; without an answer to this one the command would have none either.
            self.refresh().await?;
        }
        Ok(RequestId::new(self.map.now_ms(), wmall_runtime::random::bytes()))
    }

    async fn command_once(&self, request: &Request) -> Result<Response, Refused> {
        let deadline = self.deadline().min(Instant::now() + LONGEST_RETRY);
        let answer = self.members.try_until(request, deadline).await;
        *self.waiting() = None;
        answer.inspect_err(|Refused { error, .. }| {
            // This machine may have slept, and its monotonic clock with it.
            if error.code == ErrorCode::RequestExpired {
                self.map.forget_time();
            }
        })
    }

    /// A read that includes every write acknowledged before it.
    pub(crate) async fn read(&self, query: Query) -> Result<QueryReply, RpcError> {
        match self.ask(&Request::Read { linearizable: true, query }).await? {
            Response::Read(reply) => Ok(reply),
            _ => Err(unexpected()),
        }
    }

    /// A read that any member may answer from what it has; for what proves itself.
    pub(crate) async fn read_stale(&self, query: Query) -> Result<QueryReply, RpcError> {
        let request = Request::Read { linearizable: false, query };
        let left = self.deadline().saturating_duration_since(Instant::now());
        let answer = self.members.call_any(&request, left).await;
        *self.waiting() = None;
        match answer? {
            Response::Read(reply) => Ok(reply),
            _ => Err(unexpected()),
        }
    }

    /// Reads the map again, if it has changed. Asks the leader, who also knows which nodes are silent,
    /// and any member when there is none.
    pub(crate) async fn refresh(&self) -> Result<(), RpcError> {
        let known = self.map.topology().version;
        let request = Request::GetTopology { known };
        match self.ask(&request).await? {
            Response::Topology(reply) => {
                self.map.update(reply)?;
                self.endpoint.set_revoked(&self.map.topology().revoked);
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }

    /// The pool that was asked for by name or scheme, or the one there is.
    pub(crate) async fn pool(
        &self,
        name: Option<&PoolName>,
        scheme: Option<Scheme>,
    ) -> Result<Pool, RpcError> {
        if let Ok(Some(pool)) = choose_pool(&self.map.topology(), name, scheme) {
            return Ok(pool);
        }
        self.refresh().await?;
        choose_pool(&self.map.topology(), name, scheme)?.ok_or_else(|| match (name, scheme) {
            (Some(name), _) => RpcError::not_found(format!("pool named {name}")).hint("`wmall pool ls`"),
            (None, Some(scheme)) => {
                let name = scheme.to_string().replace([':', '+'], "-");
                RpcError::not_found(format!("pool with the scheme {scheme}"))
                    .hint(format!("`wmall pool create {name} --scheme {scheme}` makes one"))
            }
            (None, None) => {
                RpcError::not_found("pool yet").hint("`wmall pool create 3x --scheme 3x` makes one")
            }
        })
    }

    /// The pool of a bucket, which stays the same as long as the bucket does.
    pub(crate) async fn bucket_pool(&self, name: &BucketName) -> Result<PoolId, RpcError> {
        let known = self.buckets.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some(pool) = known {
            return Ok(pool);
        }
        let QueryReply::Bucket(Bucket { pool, .. }) = self.read(Query::Bucket(name.clone())).await? else {
            return Err(unexpected());
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS {
            buckets.clear();
        }
        buckets.insert(name.clone(), pool);
        Ok(pool)
    }

    pub(crate) fn forget_bucket(&self, name: &BucketName) {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// A certificate that is due for renewal, and good for a while yet: one try, so that nobody waits for long.
async fn renew(renewal: &Renewal, endpoint: &Endpoint) {
    match renewal.renew().await {
        Ok(identity) => {
            if let Err(error) = endpoint.renew(&identity) {
                tracing::warn!(%error, "the new certificate can't be shown");
            }
        }
        Err(error) => tracing::warn!(%error, "the certificate is due for renewal and could not be renewed"),
    }
}

fn choose_pool(
    topology: &Topology,
    name: Option<&PoolName>,
    scheme: Option<Scheme>,
) -> Result<Option<Pool>, RpcError> {
    let fits = |pool: &&Pool| {
        name.is_none_or(|name| pool.name == *name) && scheme.is_none_or(|scheme| pool.scheme == scheme)
    };
    let mut pools = topology.pools.values().map(|t| &t.pool).filter(fits);
    match (pools.next(), pools.next()) {
        (None, _) => Ok(None),
        (Some(only), None) => Ok(Some(only.clone())),
        (Some(_), Some(_)) => {
            let which = scheme.map_or(String::new(), |scheme| format!(" with the scheme {scheme}"));
            Err(RpcError::new(ErrorCode::BadRequest, format!("there are several pools{which}"))
                .hint("name one with --pool; `wmall pool ls` lists them"))
        }
    }
}

pub(crate) fn unexpected() -> RpcError {
    RpcError::internal("the answer is of another kind than the question")
}

/// Gives a command another id.
fn renumber(request: &mut Request, id: RequestId) {
    if let Request::Commit { request, .. }
    | Request::Name { request, .. }
    | Request::Administer { request, .. } = request
    {
        *request = id;
    }
}
