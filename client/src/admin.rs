//! Everything but the bytes: pools, buckets, listings, status.

use wmall_proto::chunk::ChunkView;
use wmall_proto::file::ObjectEntry;
use wmall_proto::pool::Bucket;
use wmall_proto::rpc::{Query, QueryReply, Request, Response, UserCommand};
use wmall_proto::status::ClusterStatus;
use wmall_proto::{BucketName, ChunkId, ObjectName, Pool, PoolName, RequestId, Scheme};

use crate::error::ClientError;
use crate::store::{Store, unexpected};

impl Store {
    async fn administer(&self, command: UserCommand) -> Result<(), ClientError> {
        let request = RequestId(wmall_runtime::random::bytes());
        self.inner.ask(&Request::Administer { request, command }).await?;
        Ok(())
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
    pub async fn create_bucket(&self, name: BucketName, pool: Option<&PoolName>) -> Result<(), ClientError> {
        let pool = self.inner.pool(pool).await?.name;
        self.administer(UserCommand::CreateBucket { name, pool }).await
    }

    /// Removes an empty bucket.
    pub async fn remove_bucket(&self, name: BucketName) -> Result<(), ClientError> {
        self.inner.forget_bucket(&name);
        self.administer(UserCommand::RemoveBucket { name }).await
    }

    /// All buckets.
    pub async fn buckets(&self) -> Result<Vec<Bucket>, ClientError> {
        match self.inner.read(Query::Buckets).await? {
            QueryReply::Buckets(buckets) => Ok(buckets),
            _ => Err(unexpected().into()),
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
