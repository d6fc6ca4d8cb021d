//! `ls`, `pool`, `bucket`.

use wmall_proto::file::ObjectEntry;
use wmall_proto::pg::MAX_PG_BITS;
use wmall_proto::{BucketName, ObjectName};

use super::Context;
use crate::args::{BucketCommand, PoolCommand};
use crate::exit::Failure;
use crate::output::{bytes, table, time};

/// Lists objects, page by page, up to a limit.
pub(crate) async fn ls(context: &Context, place: &str, limit: u32) -> Result<(), Failure> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let bucket = BucketName::new(bucket).map_err(Failure::usage)?;
    let store = context.connect().await?;
    let mut all: Vec<ObjectEntry> = Vec::new();
    let mut after: Option<ObjectName> = None;
    loop {
        let left = limit - (all.len() as u32).min(limit);
        let (page, more) = store.list(bucket.clone(), prefix.to_string(), after, left.clamp(1, 1000)).await?;
        all.extend(page);
        all.truncate(limit as usize);
        after = all.last().map(|e| e.name.clone());
        if !more || all.len() as u32 >= limit {
            if more {
                eprintln!("there are more; --limit shows more");
            }
            break;
        }
    }
    store.close().await;
    context.format.print(&all, |all| {
        table(
            &["size", "modified", "name", "cid"],
            all.iter().map(|e| {
                let record = &e.record;
                vec![
                    bytes(record.size),
                    time(record.modified_ms),
                    e.name.to_string(),
                    record.file.to_string(),
                ]
            }),
        )
    })
}

pub(crate) async fn pool(context: &Context, command: PoolCommand) -> Result<(), Failure> {
    match command {
        PoolCommand::Create { name, scheme, pgs } => {
            if !pgs.is_power_of_two() || pgs > 1 << MAX_PG_BITS {
                return Err(Failure::usage(format!("{pgs} is no power of two up to {}", 1 << MAX_PG_BITS)));
            }
            let store = context.connect().await?;
            store.create_pool(name, scheme, pgs.trailing_zeros() as u8).await?;
            store.close().await;
            Ok(())
        }
        PoolCommand::Ls => {
            let store = context.connect().await?;
            let pools = store.pools().await?;
            store.close().await;
            context.format.print(&pools, |pools| {
                table(
                    &["name", "scheme", "placement groups"],
                    pools.iter().map(|p| {
                        vec![p.name.to_string(), p.scheme.to_string(), (1u32 << p.pg_bits).to_string()]
                    }),
                )
            })
        }
    }
}

pub(crate) async fn bucket(context: &Context, command: BucketCommand) -> Result<(), Failure> {
    let store = context.connect().await?;
    let buckets = match command {
        BucketCommand::Create { name, pool } => {
            store.create_bucket(name, pool.as_ref()).await?;
            store.close().await;
            return Ok(());
        }
        BucketCommand::Rm { name } => {
            store.remove_bucket(name).await?;
            store.close().await;
            return Ok(());
        }
        BucketCommand::Ls => store.buckets().await?,
        BucketCommand::Show { name } => vec![store.bucket(name).await?],
    };
    let topology = store.topology();
    store.close().await;
    let pool = |b: &wmall_proto::pool::Bucket| {
        topology.pools.get(&b.pool).map_or_else(|| b.pool.0.to_string(), |t| t.pool.name.to_string())
    };
    context.format.print(&buckets, |buckets| {
        table(
            &["name", "pool", "objects", "bytes", "created"],
            buckets.iter().map(|b| {
                let (objects, size) = (b.objects.to_string(), bytes(b.bytes));
                vec![b.name.to_string(), pool(b), objects, size, time(b.created_ms)]
            }),
        )
    })
}
