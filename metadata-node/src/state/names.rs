//! Names: pointed, removed, had back. What a name stops pointing to is kept as a former version, which
//! holds its file, until the bucket's grace is over.

use wmall_proto::file::{FileRecord, ObjectRecord, Pin, TrashRecord};
use wmall_proto::pool::{Bucket, BucketChange, DEFAULT_UNDELETE_MS};
use wmall_proto::rpc::{Condition, NameCommand, Response};
use wmall_proto::{BucketName, ErrorCode, FileId, ObjectName, RpcError};

use super::apply::{Context, Outcome, Refusal};
use super::keys;
use super::lists::StoredFile;
use crate::command::Due;

/// Former versions that one step of a bucket's removal drops: each may release a whole file.
const DROPPED_AT_ONCE: usize = 256;

impl Context<'_> {
    pub(super) fn change_name(&mut self, command: NameCommand) -> Outcome {
        match command {
            NameCommand::Remove { bucket, name, condition, purge } => {
                self.remove_name(&bucket, &name, condition, purge)
            }
            NameCommand::Restore { bucket, name, version } => self.restore_name(&bucket, &name, version),
            NameCommand::Unpin { file, purge } => self.unpin(&file, purge),
            NameCommand::Repin(file) => self.repin(&file),
        }
    }

    /// Changes what a bucket's owner asks of it. A retention is a promise to others and only grows.
    pub(super) fn change_bucket(&mut self, name: &BucketName, change: &BucketChange) -> Outcome {
        let mut bucket = self.bucket(name)?;
        let rules = &mut bucket.rules;
        if change.retention_ms.is_some_and(|ms| ms < rules.retention_ms) {
            let reason = format!("the retention of bucket {name} can be lengthened and never shortened");
            return Err(RpcError::new(ErrorCode::Locked, reason).into());
        }
        rules.retention_ms = change.retention_ms.unwrap_or(rules.retention_ms);
        rules.undelete_ms = change.undelete_ms.unwrap_or(rules.undelete_ms);
        rules.max_objects = change.max_objects.unwrap_or(rules.max_objects);
        rules.max_bytes = change.max_bytes.unwrap_or(rules.max_bytes);
        self.txn.put(keys::bucket(name), &bucket);
        Ok(Response::Done)
    }

    /// Whether a name may be pointed to a file of this size, of which so many objects and bytes count for the
    /// bucket's quota already. Changes nothing.
    pub(super) fn check_point(
        &self,
        (bucket, name): &(BucketName, ObjectName),
        condition: Condition,
        (file, size): (&FileId, u64),
        (counted_objects, counted_bytes): (u64, u64),
    ) -> Result<(), Refusal> {
        let record = self.bucket(bucket)?;
        let before: Option<ObjectRecord> = self.txn.get(&keys::object(bucket, name))?;
        check_condition(bucket, name, before.as_ref(), condition)?;
        if let Some(old) = before.as_ref().filter(|o| o.file != *file) {
            check_retention(&record, name, old, self.now_ms)?;
        }
        // What the name points to now stays in the bucket, as a former version, unless it is the same file.
        let same = before.filter(|o| o.file == *file);
        let (same_objects, same_bytes) = same.map_or((0, 0), |o| (1, o.size));
        let objects = (record.objects + record.trash + 1).saturating_sub(same_objects + counted_objects);
        let bytes = record.all_bytes().saturating_add(size).saturating_sub(same_bytes + counted_bytes);
        over_quota(bucket, "objects", objects, record.rules.max_objects)?;
        Ok(over_quota(bucket, "bytes", bytes, record.rules.max_bytes)?)
    }

    /// Points a name to a file, which [`Context::check_point`] has found to be allowed.
    pub(super) fn point(
        &mut self,
        (bucket, name): &(BucketName, ObjectName),
        file: FileId,
        size: u64,
    ) -> Result<(), Refusal> {
        let key = keys::object(bucket, name);
        let before: Option<ObjectRecord> = self.txn.get(&key)?;
        let mut record = self.bucket(bucket)?;
        match &before {
            Some(old) => record.bytes = record.bytes.saturating_sub(old.size),
            None => {
                record.objects += 1;
                self.derived.counters.objects += 1;
            }
        }
        record.bytes += size;
        if before.as_ref().map(|o| o.file) != Some(file) {
            self.change_references(&file, 1)?;
            if let Some(old) = before {
                self.keep_version(&mut record, name, old)?;
            }
        }
        self.txn.put(keys::bucket(bucket), &record);
        self.txn.put(key, &ObjectRecord { file, size, modified_ms: self.now_ms });
        Ok(())
    }

    fn remove_name(
        &mut self,
        bucket: &BucketName,
        name: &ObjectName,
        condition: Condition,
        purge: bool,
    ) -> Outcome {
        let mut record = self.bucket(bucket)?;
        let key = keys::object(bucket, name);
        let object: Option<ObjectRecord> = self.txn.get(&key)?;
        let missing = || RpcError::not_found(format!("object {bucket}/{name}"));
        let object = object.ok_or_else(missing)?;
        check_condition(bucket, name, Some(&object), condition)?;
        check_retention(&record, name, &object, self.now_ms)?;
        self.txn.remove(key);
        record.objects = record.objects.saturating_sub(1);
        record.bytes = record.bytes.saturating_sub(object.size);
        self.derived.counters.objects = self.derived.counters.objects.saturating_sub(1);
        if purge {
            self.change_references(&object.file, -1)?;
        } else {
            self.keep_version(&mut record, name, object)?;
        }
        self.txn.put(keys::bucket(bucket), &record);
        Ok(Response::Done)
    }

    /// Keeps a former version, whose reference to the file goes with it.
    fn keep_version(
        &mut self,
        bucket: &mut Bucket,
        name: &ObjectName,
        object: ObjectRecord,
    ) -> Result<(), Refusal> {
        let due_ms = self.now_ms.saturating_add(bucket.rules.undelete_ms);
        let record = TrashRecord { object, removed_ms: self.now_ms, due_ms };
        // Several versions of one name may go in one entry; each needs a number of its own.
        let mut version = self.index << 16;
        while self.txn.get::<TrashRecord>(&keys::trash(&bucket.name, name, version))?.is_some() {
            version += 1;
        }
        self.txn.put(keys::trash(&bucket.name, name, version), &record);
        self.txn.put(keys::due(due_ms, &Due::Trash(bucket.name.clone(), name.clone(), version)), &());
        bucket.trash += 1;
        bucket.trash_bytes = bucket.trash_bytes.saturating_add(record.object.size);
        self.derived.counters.trash += 1;
        Ok(())
    }

    fn restore_name(&mut self, bucket: &BucketName, name: &ObjectName, version: Option<u64>) -> Outcome {
        self.bucket(bucket)?;
        if self.txn.get::<ObjectRecord>(&keys::object(bucket, name))?.is_some() {
            let reason = format!("{bucket}/{name} points to something; remove it first");
            return Err(RpcError::new(ErrorCode::AlreadyExists, reason).into());
        }
        let missing = || {
            RpcError::not_found(format!("removed object {bucket}/{name}"))
                .hint("`wmall ls --removed` lists what can be had back")
        };
        let version = match version {
            Some(version) => version,
            None => self.newest_version(bucket, name)?.ok_or_else(missing)?,
        };
        let trash: Option<TrashRecord> = self.txn.get(&keys::trash(bucket, name, version))?;
        let trash = trash.ok_or_else(missing)?;
        let place = (bucket.clone(), name.clone());
        let file = (&trash.object.file, trash.object.size);
        self.check_point(&place, Condition::Absent, file, (1, trash.object.size))?;
        // The new reference comes before the old one goes, so that the file is held all the time.
        self.point(&place, trash.object.file, trash.object.size)?;
        self.drop_version(bucket, name, version)?;
        Ok(Response::Done)
    }

    fn newest_version(&self, bucket: &BucketName, name: &ObjectName) -> Result<Option<u64>, Refusal> {
        let mut prefix = keys::trash(bucket, name, 0);
        prefix.truncate(prefix.len() - 8);
        let newest = self.txn.last_under(&prefix)?;
        Ok(newest.and_then(|key| keys::parse_trash(&key)).map(|(_, _, version)| version))
    }

    /// Removes a bucket without objects. With `purge` its former versions go too: from now on nobody can have
    /// them back or see the bucket, and what is more than a step's worth follows step by step.
    pub(super) fn remove_bucket(&mut self, name: &BucketName, purge: bool) -> Outcome {
        let bucket = self.bucket(name)?;
        if bucket.objects > 0 {
            let reason = format!("bucket {name} holds {} objects", bucket.objects);
            return Err(RpcError::new(ErrorCode::NotEmpty, reason)
                .hint("remove them first: `wmall ls` lists them, `wmall rm` removes one")
                .into());
        }
        if bucket.trash > 0 && !purge {
            let reason = format!("bucket {name} holds {} removed objects that can be had back", bucket.trash);
            return Err(RpcError::new(ErrorCode::NotEmpty, reason)
                .hint(format!("`wmall bucket rm {name} --purge` removes them for good"))
                .into());
        }
        self.txn.put(keys::due(self.now_ms, &Due::Bucket(name.clone())), &());
        self.txn.put(keys::bucket(name), &Bucket { removing: true, ..bucket });
        self.drop_bucket(self.now_ms, name)?;
        Ok(Response::Done)
    }

    /// A step of the removal of a bucket: some of its former versions and, when none is left, the bucket.
    pub(super) fn drop_bucket(&mut self, at_ms: u64, name: &BucketName) -> Result<(), Refusal> {
        let versions = self.txn.first_under(&keys::trash_of(name), DROPPED_AT_ONCE)?;
        for (bucket, name, version) in versions.iter().filter_map(|key| keys::parse_trash(key)) {
            self.drop_version(&bucket, &name, version)?;
        }
        if versions.len() < DROPPED_AT_ONCE {
            self.txn.remove(keys::bucket(name));
            self.txn.remove(keys::due(at_ms, &Due::Bucket(name.clone())));
        }
        Ok(())
    }

    /// Lets a former version go, if it is there.
    pub(super) fn drop_version(
        &mut self,
        bucket: &BucketName,
        name: &ObjectName,
        version: u64,
    ) -> Result<(), Refusal> {
        let key = keys::trash(bucket, name, version);
        let Some(trash) = self.txn.get::<TrashRecord>(&key)? else { return Ok(()) };
        self.txn.remove(key);
        self.txn.remove(keys::due(trash.due_ms, &Due::Trash(bucket.clone(), name.clone(), version)));
        if let Some(mut record) = self.txn.get::<Bucket>(&keys::bucket(bucket))? {
            record.trash = record.trash.saturating_sub(1);
            record.trash_bytes = record.trash_bytes.saturating_sub(trash.object.size);
            self.txn.put(keys::bucket(bucket), &record);
        }
        self.derived.counters.trash = self.derived.counters.trash.saturating_sub(1);
        Ok(self.change_references(&trash.object.file, -1)?)
    }

    fn unpin(&mut self, id: &FileId, purge: bool) -> Outcome {
        let (mut stored, key) = self.file(id)?;
        let file = &mut stored.record;
        match file.pin {
            Pin::Held => {}
            Pin::Until(_) if purge => {}
            Pin::None | Pin::Until(_) => {
                let reason = format!("file {id} is held by {} names and by nothing else", file.references);
                return Err(RpcError::new(ErrorCode::NotFound, reason)
                    .hint("remove the names that point to it")
                    .into());
            }
        }
        self.forget_due(id, file);
        if purge {
            file.pin = Pin::None;
        } else {
            let due_ms = self.now_ms.saturating_add(DEFAULT_UNDELETE_MS);
            file.pin = Pin::Until(due_ms);
            self.txn.put(keys::due(due_ms, &Due::Pin(*id)), &());
        }
        self.txn.put(key, &stored);
        self.release_if_unused(id)?;
        Ok(Response::Done)
    }

    fn repin(&mut self, id: &FileId) -> Outcome {
        let (mut stored, key) = self.file(id)?;
        if !matches!(stored.record.pin, Pin::Until(_)) {
            return Err(RpcError::not_found(format!("removed file {id}")).into());
        }
        self.forget_due(id, &stored.record);
        stored.record.pin = Pin::Held;
        self.txn.put(key, &stored);
        Ok(Response::Done)
    }

    /// A pin's time to go is no longer wanted.
    pub(super) fn forget_due(&mut self, id: &FileId, file: &FileRecord) {
        if let Pin::Until(due_ms) = file.pin {
            self.txn.remove(keys::due(due_ms, &Due::Pin(*id)));
        }
    }

    pub(super) fn file(&self, id: &FileId) -> Result<(StoredFile, Vec<u8>), Refusal> {
        let key = keys::file(id);
        let stored: Option<StoredFile> = self.txn.get(&key)?;
        Ok((stored.ok_or_else(|| RpcError::not_found(format!("file {id}")))?, key))
    }
}

/// Refuses what a bucket's quota has no room for.
pub(super) fn over_quota(
    bucket: &BucketName,
    what: &str,
    wanted: u64,
    quota: Option<u64>,
) -> Result<(), RpcError> {
    match quota {
        Some(quota) if wanted > quota => {
            let reason = format!(
                "bucket {bucket} would hold {wanted} {what}, with removed objects and parts of uploads; its \
                 quota is {quota}"
            );
            Err(RpcError::new(ErrorCode::QuotaExceeded, reason).hint(
                "`wmall bucket set` changes quotas; removed objects make room when their grace is over, and \
                     `wmall ls --removed` lists them",
            ))
        }
        _ => Ok(()),
    }
}

fn check_condition(
    bucket: &BucketName,
    name: &ObjectName,
    now: Option<&ObjectRecord>,
    condition: Condition,
) -> Result<(), RpcError> {
    let holds = match condition {
        Condition::None => true,
        Condition::Absent => now.is_none(),
        Condition::Match(file) => now.is_some_and(|o| o.file == file),
    };
    if holds {
        return Ok(());
    }
    let reason = match now {
        Some(object) => format!("{bucket}/{name} points to {}", object.file),
        None => format!("{bucket}/{name} points to nothing"),
    };
    Err(RpcError::new(ErrorCode::PreconditionFailed, reason))
}

fn check_retention(
    bucket: &Bucket,
    name: &ObjectName,
    object: &ObjectRecord,
    now_ms: u64,
) -> Result<(), RpcError> {
    let until = object.modified_ms.saturating_add(bucket.rules.retention_ms);
    if bucket.rules.retention_ms == 0 || now_ms >= until {
        return Ok(());
    }
    let left = std::time::Duration::from_millis(until - now_ms);
    let reason = format!(
        "{}/{name} is locked by the bucket's retention for another {} s",
        bucket.name,
        left.as_secs().max(1)
    );
    Err(RpcError::new(ErrorCode::Locked, reason))
}
