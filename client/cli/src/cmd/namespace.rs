//! `ls`, `pool`, `bucket`.

use wmall_proto::file::{ObjectEntry, TrashEntry};
use wmall_proto::pg::MAX_PG_BITS;
use wmall_proto::pool::{Bucket, BucketChange, BucketRules};
use wmall_proto::{BucketName, ObjectName};

use super::Context;
use super::place::grades;
use crate::args::{BucketCommand, BucketRuleArgs, LsArgs, PoolCommand};
use crate::exit::Failure;
use crate::output::{Listing, bytes, table, time};

/// Entries that are asked for at once: what the metadata nodes give at most.
const PAGE: u64 = 1000;

/// Lists objects, page by page, to the end or a limit.
pub(crate) async fn ls(context: &Context, args: LsArgs) -> Result<(), Failure> {
    let LsArgs { place, limit, after, removed, former } = args;
    let (bucket, prefix) = place.split_once('/').unwrap_or((&place, ""));
    let bucket = BucketName::new(bucket).map_err(Failure::usage)?;
    let mut left = limit.unwrap_or(u64::MAX);
    if removed {
        // All versions of a name come before the next name, the latest last.
        let after = after.map(|name| (name, former.unwrap_or(u64::MAX)));
        return ls_removed(context, bucket, prefix, after, left).await;
    }
    let store = context.connect().await?;
    let mut listing = Listing::new(context.format, &["size", "modified", "name", "cid"]);
    let mut after = after;
    let mut more = true;
    while more && left > 0 {
        let page = left.min(PAGE) as u32;
        let (entries, goes_on) = store.list(bucket.clone(), prefix.to_string(), after.clone(), page).await?;
        listing.page(&entries, object_row)?;
        left -= (entries.len() as u64).min(left);
        (more, after) = (goes_on, entries.last().map(|e| e.name.clone()).or(after));
    }
    store.close().await;
    listing.end()?;
    if let Some(last) = after.filter(|_| more) {
        eprintln!("there are more; --after {:?} goes on behind the last, --limit shows more", last.as_str());
    }
    Ok(())
}

fn object_row(entry: &ObjectEntry) -> Vec<String> {
    let record = &entry.record;
    vec![bytes(record.size), time(record.modified_ms), entry.name.to_string(), record.file.to_string()]
}

/// Lists what was removed or replaced.
async fn ls_removed(
    context: &Context,
    bucket: BucketName,
    prefix: &str,
    mut after: Option<(ObjectName, u64)>,
    mut left: u64,
) -> Result<(), Failure> {
    let store = context.connect().await?;
    let columns = &["size", "removed", "until", "version", "name", "cid"];
    let mut listing = Listing::new(context.format, columns);
    let mut more = true;
    while more && left > 0 {
        let page = left.min(PAGE) as u32;
        let (entries, goes_on) = store.trash(bucket.clone(), prefix.to_string(), after.clone(), page).await?;
        listing.page(&entries, removed_row)?;
        left -= (entries.len() as u64).min(left);
        (more, after) = (goes_on, entries.last().map(|e| (e.name.clone(), e.version)).or(after));
    }
    store.close().await;
    listing.end()?;
    if let Some((name, version)) = after.filter(|_| more) {
        let name = name.as_str();
        eprintln!(
            "there are more; --after {name:?} --former {version} goes on behind the last, --limit shows more"
        );
    }
    Ok(())
}

fn removed_row(entry: &TrashEntry) -> Vec<String> {
    let object = &entry.record.object;
    let (removed, due) = (time(entry.record.removed_ms), time(entry.record.due_ms));
    let (version, name) = (entry.version.to_string(), entry.name.to_string());
    vec![bytes(object.size), removed, due, version, name, object.file.to_string()]
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn rules(args: &BucketRuleArgs) -> BucketRules {
    let default = BucketRules::default();
    BucketRules {
        retention_ms: args.retain.map_or(default.retention_ms, millis),
        undelete_ms: args.undelete.map_or(default.undelete_ms, millis),
        max_objects: args.max_objects.and_then(|q| q.0),
        max_bytes: args.max_bytes.and_then(|q| q.0),
    }
}

fn change(args: &BucketRuleArgs) -> BucketChange {
    BucketChange {
        retention_ms: args.retain.map(millis),
        undelete_ms: args.undelete.map(millis),
        max_objects: args.max_objects.map(|q| q.0),
        max_bytes: args.max_bytes.map(|q| q.0),
    }
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
        BucketCommand::Create { name, pool, rules: args } => {
            store.create_bucket(name, pool.as_ref(), rules(&args)).await?;
            store.close().await;
            return Ok(());
        }
        BucketCommand::Set { name, rules } => {
            store.change_bucket(name, change(&rules)).await?;
            store.close().await;
            return Ok(());
        }
        BucketCommand::Rm { name, purge } => {
            store.remove_bucket(name, purge).await?;
            store.close().await;
            return Ok(());
        }
        BucketCommand::Ls => store.buckets().await?,
        BucketCommand::Grades { name } => {
            let counts = store.bucket_grades(name).await?;
            store.close().await;
            return context.format.print(&counts, |counts| format!("objects: {}", grades(counts)));
        }
        BucketCommand::Show { name } => vec![store.bucket(name).await?],
    };
    let topology = store.topology();
    store.close().await;
    let pool = |b: &Bucket| {
        topology.pools.get(&b.pool).map_or_else(|| b.pool.0.to_string(), |t| t.pool.name.to_string())
    };
    context.format.print(&buckets, |buckets| {
        table(
            &["name", "pool", "objects", "bytes", "removed", "retention", "undelete", "created"],
            buckets.iter().map(|b| {
                let of = |used: String, quota: Option<String>| match quota {
                    Some(quota) => format!("{used} of {quota}"),
                    None => used,
                };
                let objects = of(b.objects.to_string(), b.rules.max_objects.map(|n| n.to_string()));
                let size = of(bytes(b.bytes), b.rules.max_bytes.map(bytes));
                let (retain, undelete) = (span(b.rules.retention_ms), span(b.rules.undelete_ms));
                let trash = format!("{} ({})", b.trash, bytes(b.trash_bytes));
                vec![b.name.to_string(), pool(b), objects, size, trash, retain, undelete, time(b.created_ms)]
            }),
        )
    })
}

/// A span of time for people.
fn span(ms: u64) -> String {
    match ms {
        0 => "-".into(),
        ms => humantime::format_duration(std::time::Duration::from_millis(ms)).to_string(),
    }
}
