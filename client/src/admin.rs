//! Everything but the bytes: pools, buckets, listings, status.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use wmall_proto::chunk::{ChunkView, MAX_CHUNKS_PER_COMMIT, MIN_CHUNK_SIZE};
use wmall_proto::event::Event;
use wmall_proto::file::{ObjectEntry, TrashEntry};
use wmall_proto::grade::{GradeCounts, GradesOf, GradesView};
use wmall_proto::job::{JobView, Operation, Place};
use wmall_proto::layout::LayoutView;
use wmall_proto::pool::{Bucket, BucketChange, BucketRules};
use wmall_proto::rpc::{
    Condition, MemberCommand, NameCommand, Query, QueryReply, Request, Response, SnapshotInfo, UserCommand,
};
use wmall_proto::status::{ClusterStatus, DrainView};
use wmall_proto::{
    BucketName, ChunkId, ErrorCode, FileId, NodeName, ObjectName, Pool, PoolId, PoolName, RpcError, Scheme,
};
use wmall_transport::Reply;

use crate::error::ClientError;
use crate::store::{Store, unexpected};

/// How long a change of the metadata nodes may take: a new one has to catch up.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(100);
/// How long a snapshot may take, to write and to send.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(110);

impl Store {
    pub(crate) async fn administer(&self, command: UserCommand) -> Result<(), ClientError> {
        self.inner.command(|request| Request::Administer { request, command }).await?;
        Ok(())
    }

    /// Has something done with nodes or disks. The number of the job that it began, if it did.
    pub async fn operate(&self, operation: Operation) -> Result<Option<u64>, ClientError> {
        let command = UserCommand::Operate(operation);
        match self.inner.command(|request| Request::Administer { request, command }).await? {
            Response::Job(number) => Ok(Some(number)),
            _ => Ok(None),
        }
    }

    /// Whether that would be done now; if not, the error that it would end with. Nothing is changed.
    pub async fn rehearse(&self, operation: Operation) -> Result<(), ClientError> {
        self.inner.read(Query::Rehearse(operation)).await?;
        Ok(())
    }

    /// All jobs, the newest first.
    pub async fn jobs(&self) -> Result<Vec<JobView>, ClientError> {
        match self.inner.read(Query::Jobs).await? {
            QueryReply::Jobs(jobs) => Ok(jobs),
            _ => Err(unexpected().into()),
        }
    }

    /// A job.
    pub async fn job(&self, number: u64) -> Result<JobView, ClientError> {
        let missing = || RpcError::not_found(format!("job {number}")).hint("`wmall job ls` lists them");
        Ok(self.jobs().await?.into_iter().find(|j| j.job.number == number).ok_or_else(missing)?)
    }

    /// The layout, and what its draft would do.
    pub async fn layout(&self) -> Result<LayoutView, ClientError> {
        match self.inner.read(Query::Layout).await? {
            QueryReply::Layout(view) => Ok(view),
            _ => Err(unexpected().into()),
        }
    }

    /// Grades of a part of what there is.
    pub async fn grades(&self, of: GradesOf) -> Result<GradesView, ClientError> {
        match self.inner.read(Query::Grades(of)).await? {
            QueryReply::Grades(view) => Ok(view),
            _ => Err(unexpected().into()),
        }
    }

    /// Grades of all groups of a pool, by number.
    pub async fn group_grades(&self, pool: PoolId) -> Result<Vec<GradesView>, ClientError> {
        let mut all: Vec<GradesView> = Vec::new();
        loop {
            match self.inner.read(Query::Groups { pool, first: all.len() as u32 }).await? {
                QueryReply::Groups(page) if page.is_empty() => return Ok(all),
                QueryReply::Groups(page) => all.extend(page),
                _ => return Err(unexpected().into()),
            }
        }
    }

    /// Objects of a bucket by the worst grade of their chunks. Walks through all of them.
    pub async fn bucket_grades(&self, bucket: BucketName) -> Result<GradeCounts, ClientError> {
        let (mut counts, mut after) = (GradeCounts::default(), None);
        loop {
            let (page, more) = self.list(bucket.clone(), String::new(), after, 1000).await?;
            for entry in &page {
                let most = entry.record.size.div_ceil(u64::from(MIN_CHUNK_SIZE));
                let grades = self.file_grades(entry.record.file, most).await?;
                counts.add(grades.now.worst(), 1);
            }
            after = page.last().map(|entry| entry.name.clone());
            if !more {
                return Ok(counts);
            }
        }
    }

    /// Grades of all chunks of a file, of which there are at most so many. Without the node that is the worst
    /// for each 4,096 of them, which for longer files is a bound for what the loss of any node may do.
    pub async fn file_grades(&self, id: FileId, chunks: u64) -> Result<GradesView, ClientError> {
        let mut all: Option<GradesView> = None;
        let mut first = 0;
        while first < chunks || all.is_none() {
            let page = self.grades(GradesOf::File { id, first }).await?;
            first += MAX_CHUNKS_PER_COMMIT as u64;
            if page.chunks == 0 && all.is_some() {
                break;
            }
            match &mut all {
                None => all = Some(page),
                Some(all) => {
                    all.now += page.now;
                    all.chunks += page.chunks;
                    all.without += page.without;
                    // Another node may be the worst for another page: then it is a bound, and no node's.
                    if all.lost != page.lost {
                        all.lost = None;
                    }
                }
            }
        }
        all.ok_or_else(|| unexpected().into())
    }

    /// Makes a pool with `1 << pg_bits` placement groups.
    pub async fn create_pool(&self, name: PoolName, scheme: Scheme, pg_bits: u8) -> Result<(), ClientError> {
        self.administer(UserCommand::CreatePool { name, scheme, pg_bits }).await?;
        Ok(self.inner.refresh().await?)
    }

    /// All pools.
    pub async fn pools(&self) -> Result<Vec<Pool>, ClientError> {
        Ok(self.status().await?.pools)
    }

    /// Makes a bucket in a pool; in the only one, if none is named.
    pub async fn create_bucket(
        &self,
        name: BucketName,
        pool: Option<&PoolName>,
        rules: BucketRules,
    ) -> Result<(), ClientError> {
        let pool = self.inner.pool(pool, None).await?.name;
        self.administer(UserCommand::CreateBucket { name, pool, rules }).await
    }

    /// Changes what a bucket's owner asks of it.
    pub async fn change_bucket(&self, name: BucketName, change: BucketChange) -> Result<(), ClientError> {
        self.administer(UserCommand::ChangeBucket { name, change }).await
    }

    /// A page of the event log from this line on, and whether there is more.
    pub async fn events(&self, first: u64, limit: u32) -> Result<(Vec<Event>, bool), ClientError> {
        match self.inner.read(Query::Events { first, limit }).await? {
            QueryReply::Events { events, more } => Ok((events, more)),
            _ => Err(unexpected().into()),
        }
    }

    /// What emptying a data node or a disk comes to, and how far it is.
    pub async fn drain_view(&self, place: Place) -> Result<DrainView, ClientError> {
        match self.inner.read(Query::Drain(place)).await? {
            QueryReply::Drain(view) => Ok(view),
            _ => Err(unexpected().into()),
        }
    }

    /// Lets data be deleted again after a restore; with `force` although chunks can't be read.
    pub async fn allow_deletion(&self, force: bool) -> Result<(), ClientError> {
        self.administer(UserCommand::AllowDeletion { force }).await
    }

    /// Takes a metadata node in that runs, empty, with `join = true`; returns once it is one of the voters.
    pub async fn add_member(&self, id: u64, name: NodeName, address: SocketAddr) -> Result<(), ClientError> {
        self.member(MemberCommand::Add { id, name, address }).await
    }

    /// Lets a metadata node go. Its id is never used again.
    pub async fn remove_member(&self, id: u64) -> Result<(), ClientError> {
        self.member(MemberCommand::Remove { id }).await
    }

    async fn member(&self, command: MemberCommand) -> Result<(), ClientError> {
        self.inner.members.open(&Request::Member(command), MEMBER_TIMEOUT).await?;
        Ok(())
    }

    /// Writes all metadata, as of now, to a file. Returns its bytes.
    pub async fn save_snapshot<W: AsyncWrite + Unpin>(&self, out: &mut W) -> Result<u64, ClientError> {
        let request = Request::Snapshot { local: false };
        receive_snapshot(self.inner.members.open(&request, SNAPSHOT_TIMEOUT).await?, out).await
    }

    /// The same from one member, as far as it has got; for when none leads.
    pub async fn save_local_snapshot<W: AsyncWrite + Unpin>(
        &self,
        member: &NodeName,
        out: &mut W,
    ) -> Result<u64, ClientError> {
        let request = Request::Snapshot { local: true };
        receive_snapshot(self.inner.members.open_at(member, &request, SNAPSHOT_TIMEOUT).await?, out).await
    }

    /// The snapshots and backups that the metadata nodes keep; of those that answer.
    pub async fn list_snapshots(&self) -> Result<Vec<SnapshotInfo>, ClientError> {
        let mut all = Vec::new();
        for answer in self.inner.members.call_each(&Request::ListSnapshots).await? {
            match answer {
                Response::Snapshots(snapshots) => all.extend(snapshots),
                _ => return Err(unexpected().into()),
            }
        }
        Ok(all)
    }

    async fn name(&self, command: NameCommand) -> Result<(), ClientError> {
        self.inner.command(|request| Request::Name { request, command }).await?;
        Ok(())
    }

    /// Removes a name. What it pointed to can be had back for the bucket's grace, unless it is purged.
    pub async fn remove(
        &self,
        bucket: BucketName,
        name: ObjectName,
        condition: Condition,
        purge: bool,
    ) -> Result<(), ClientError> {
        self.name(NameCommand::Remove { bucket, name, condition, purge }).await
    }

    /// Points a removed name again to what it pointed to: to its newest former version, if none is named.
    pub async fn restore(
        &self,
        bucket: BucketName,
        name: ObjectName,
        version: Option<u64>,
    ) -> Result<(), ClientError> {
        self.name(NameCommand::Restore { bucket, name, version }).await
    }

    /// Lets go of a file that was put without a name. It can be had back for a day, unless it is purged.
    pub async fn unpin(&self, file: FileId, purge: bool) -> Result<(), ClientError> {
        self.name(NameCommand::Unpin { file, purge }).await
    }

    /// Holds a file again that was let go.
    pub async fn repin(&self, file: FileId) -> Result<(), ClientError> {
        self.name(NameCommand::Repin(file)).await
    }

    /// A page of what the names of a bucket pointed to before, and whether there is more.
    pub async fn trash(
        &self,
        bucket: BucketName,
        prefix: String,
        after: Option<(ObjectName, u64)>,
        limit: u32,
    ) -> Result<(Vec<TrashEntry>, bool), ClientError> {
        match self.inner.read(Query::Trash { bucket, prefix, after, limit }).await? {
            QueryReply::Trash { entries, more } => Ok((entries, more)),
            _ => Err(unexpected().into()),
        }
    }

    /// Removes a bucket without objects; with `purge` also one from which something was removed that could
    /// still be had back. One that holds objects stays as it is (`not_empty`).
    pub async fn remove_bucket(&self, name: BucketName, purge: bool) -> Result<(), ClientError> {
        self.inner.forget_bucket(&name);
        self.administer(UserCommand::RemoveBucket { name, purge }).await
    }

    /// All buckets.
    pub async fn buckets(&self) -> Result<Vec<Bucket>, ClientError> {
        let mut all: Vec<Bucket> = Vec::new();
        loop {
            let after = all.last().map(|b| b.name.clone());
            match self.inner.read(Query::Buckets { after, limit: 1000 }).await? {
                QueryReply::Buckets { buckets, more } => {
                    all.extend(buckets);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(unexpected().into()),
            }
        }
    }

    /// A bucket.
    pub async fn bucket(&self, name: BucketName) -> Result<Bucket, ClientError> {
        match self.inner.read(Query::Bucket(name)).await? {
            QueryReply::Bucket(bucket) => Ok(bucket),
            _ => Err(unexpected().into()),
        }
    }

    /// A page of a bucket's objects and whether there are more.
    pub async fn list(
        &self,
        bucket: BucketName,
        prefix: String,
        after: Option<ObjectName>,
        limit: u32,
    ) -> Result<(Vec<ObjectEntry>, bool), ClientError> {
        match self.inner.read(Query::Objects { bucket, prefix, after, limit }).await? {
            QueryReply::Objects { entries, more } => Ok((entries, more)),
            _ => Err(unexpected().into()),
        }
    }

    /// A chunk, in every pool that has it, with the places of its pieces.
    pub async fn chunk(&self, id: ChunkId) -> Result<Vec<ChunkView>, ClientError> {
        match self.inner.read(Query::Chunk(id)).await? {
            QueryReply::Chunk(views) => Ok(views),
            _ => Err(unexpected().into()),
        }
    }

    /// The cluster's status.
    pub async fn status(&self) -> Result<ClusterStatus, ClientError> {
        match self.inner.ask(&Request::Status).await? {
            Response::Status(status) => Ok(*status),
            _ => Err(unexpected().into()),
        }
    }
}

/// Writes a snapshot's bytes, all of which have to come. Returns how many there are.
async fn receive_snapshot<W: AsyncWrite + Unpin>(mut reply: Reply, out: &mut W) -> Result<u64, ClientError> {
    let Response::Snapshot { length } = reply.response else { return Err(unexpected().into()) };
    let failed = |source| ClientError::Local { what: "writing the snapshot", source };
    let mut written = 0;
    let receiving = async {
        while let Some(part) = reply.body.next().await? {
            written += part.len() as u64;
            out.write_all(&part).await.map_err(failed)?;
        }
        out.flush().await.map_err(failed)?;
        Ok::<_, ClientError>(())
    };
    let late = |_| RpcError::new(ErrorCode::Timeout, "the snapshot comes too slowly");
    tokio::time::timeout(SNAPSHOT_TIMEOUT, receiving).await.map_err(late)??;
    if written == length {
        return Ok(written);
    }
    let reason = format!("{written} of {length} bytes of the snapshot came");
    Err(RpcError::new(ErrorCode::Unreachable, reason).hint("try again").into())
}
