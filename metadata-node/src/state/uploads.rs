//! Parts of uploads that wait for their file: how many bytes of them and how many uploads somebody may have.
//! Every member keeps them until their upload is fenced, a day unless told otherwise.
//!
//! The owner of a part stands beside it in the map, and the sums are made of that at a start.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use wmall_proto::identity::Actor;
use wmall_proto::{ErrorCode, PoolId, RpcError, UploadId};
use wmall_runtime::view::{Store, StoreError};
use wmall_transport::{Bounds, Refusal, Standing, is_privileged};

use super::apply::{Context, Refusal as Refused};
use super::derived::each;
use super::keys;
use super::txn::decode;

const MIB: u64 = 1 << 20;

/// Bytes of waiting parts: of everybody, and of one holder. A file of four million chunks has some 135 MB
/// of them, whatever its scheme.
const WAITING: Bounds =
    Bounds { room: 2048 * MIB, most: 512 * MIB, kept: 768 * MIB, first: 64 * MIB, reserve: 512 * MIB };
/// Uploads with waiting parts that one holder may have.
const MAX_UPLOADS: usize = 256;

/// Owner of a part, and its bytes in the map.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct PartOwner {
    owner: Actor,
    bytes: u64,
    /// Taken from the reserve.
    reserved: bool,
}

/// Waiting parts of one holder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Own {
    bytes: u64,
    /// Parts of each upload.
    uploads: BTreeMap<(UploadId, PoolId), u32>,
}

/// Waiting parts of everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WaitingParts {
    room: u64,
    reserve: u64,
    holders: BTreeMap<Actor, Own>,
}

impl WaitingParts {
    pub(super) fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut waiting = Self::default();
        each(store, keys::PART_OWNERS, |key, value| {
            let damaged = || StoreError("a part without an upload".into());
            let (upload, pool, _) = keys::parse_upload_part(key).ok_or_else(damaged)?;
            waiting.add((upload, pool), &decode(value)?);
            Ok(())
        })?;
        Ok(waiting)
    }

    fn standing(&self, owner: &Actor) -> Standing {
        let own = self.holders.get(owner).map_or(0, |own| own.bytes);
        Standing { own, room: self.room, reserve: self.reserve }
    }

    /// Judges if there is room for a part, and says from which part of the room it comes.
    fn admit(&self, owner: &Actor, upload: (UploadId, PoolId), bytes: u64) -> Result<PartOwner, RpcError> {
        let uploads = self.holders.get(owner).map(|own| &own.uploads);
        if uploads.is_some_and(|u| u.len() >= MAX_UPLOADS && !u.contains_key(&upload)) {
            let reason = format!(
                "{owner} has {MAX_UPLOADS} uploads whose parts wait; that is as many as one may have"
            );
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason).hint(HINT));
        }
        let part = WAITING.admit(self.standing(owner), is_privileged(owner.role), bytes);
        match part {
            Ok(part) => {
                let reserved = part == wmall_transport::Part::Reserve;
                Ok(PartOwner { owner: owner.clone(), bytes, reserved })
            }
            Err(Refusal::Own) => {
                let reason =
                    format!("the waiting parts of {owner} would be more than {} bytes", WAITING.most);
                Err(RpcError::new(ErrorCode::OutOfBounds, reason).hint(HINT))
            }
            Err(Refusal::All) => {
                let reason =
                    format!("the waiting parts of all uploads would be more than {} bytes", WAITING.room);
                Err(RpcError::new(ErrorCode::Busy, reason).hint("try again later"))
            }
        }
    }

    fn add(&mut self, upload: (UploadId, PoolId), part: &PartOwner) {
        let own = self.holders.entry(part.owner.clone()).or_default();
        own.bytes += part.bytes;
        *own.uploads.entry(upload).or_insert(0) += 1;
        *if part.reserved { &mut self.reserve } else { &mut self.room } += part.bytes;
    }

    fn remove(&mut self, upload: (UploadId, PoolId), part: &PartOwner) {
        let Some(own) = self.holders.get_mut(&part.owner) else { return };
        own.bytes = own.bytes.saturating_sub(part.bytes);
        if let Some(parts) = own.uploads.get_mut(&upload) {
            *parts = parts.saturating_sub(1);
            if *parts == 0 {
                own.uploads.remove(&upload);
            }
        }
        if own.uploads.is_empty() {
            self.holders.remove(&part.owner);
        }
        let sum = if part.reserved { &mut self.reserve } else { &mut self.room };
        *sum = sum.saturating_sub(part.bytes);
    }
}

/// Advice for somebody who has too much waiting.
const HINT: &str =
    "commit the files that the parts belong to, choose larger chunks, or wait until the uploads are fenced";

impl Context<'_> {
    /// Refuses a part for which its owner has no room. The same part again takes none.
    pub(super) fn admit_part(
        &self,
        owner: &Actor,
        (upload, pool, part): (UploadId, PoolId, u32),
        bytes: u64,
    ) -> Result<PartOwner, Refused> {
        let mut waiting = None;
        if let Some(before) = self.txn.get::<PartOwner>(&keys::part_owner(&upload, pool, part))? {
            let mut without = self.derived.waiting.clone();
            without.remove((upload, pool), &before);
            waiting = Some(without);
        }
        let waiting = waiting.as_ref().unwrap_or(&self.derived.waiting);
        Ok(waiting.admit(owner, (upload, pool), bytes)?)
    }

    /// A part waits from now on.
    pub(super) fn note_part(
        &mut self,
        (upload, pool, part): (UploadId, PoolId, u32),
        owner: &PartOwner,
    ) -> Result<(), Refused> {
        self.forget_part(&upload, pool, part)?;
        self.txn.put(keys::part_owner(&upload, pool, part), owner);
        self.derived.waiting.add((upload, pool), owner);
        Ok(())
    }

    /// A part waits no longer.
    pub(super) fn forget_part(&mut self, upload: &UploadId, pool: PoolId, part: u32) -> Result<(), Refused> {
        let key = keys::part_owner(upload, pool, part);
        if let Some(owner) = self.txn.get::<PartOwner>(&key)? {
            self.derived.waiting.remove((*upload, pool), &owner);
            self.txn.remove(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wmall_proto::Role;

    fn actor(role: Role, name: &str) -> Actor {
        Actor { role, name: name.parse().unwrap() }
    }

    fn upload(n: u64) -> (UploadId, PoolId) {
        (UploadId::new(n, [1; 10]), PoolId(1))
    }

    #[test]
    fn parts_are_bounded_by_holder_and_then_for_all() {
        let mut waiting = WaitingParts::default();
        let hoarder = actor(Role::Client, "hoarder");
        let mut add = |who: &Actor, n: u64, mib: u64| {
            let part = waiting.admit(who, upload(n), mib * MIB).map_err(|e| e.code)?;
            waiting.add(upload(n), &part);
            Ok(part)
        };
        let first = add(&hoarder, 1, 300).unwrap();
        assert_eq!(add(&hoarder, 1, 213), Err(ErrorCode::OutOfBounds));
        add(&hoarder, 1, 212).unwrap();
        // Others fill the room up to what is kept.
        for (n, mib) in [500, 500, 100, 100, 100, 65, 65].into_iter().enumerate() {
            let _ = add(&actor(Role::Client, &format!("other-{n}")), 2, mib);
        }
        let late = actor(Role::Client, "late");
        assert_eq!(add(&late, 3, 65), Err(ErrorCode::Busy));
        add(&late, 3, 64).unwrap();
        let operator = add(&actor(Role::Admin, "op"), 4, 65).unwrap();
        assert!(operator.reserved && !first.reserved);
        waiting.remove(upload(1), &first);
        assert_eq!(waiting.standing(&hoarder).own, 212 * MIB);
        waiting.remove(upload(4), &operator);
        assert_eq!(waiting.reserve, 0);
    }

    #[test]
    fn uploads_are_counted_and_one_that_ends_makes_room() {
        let (mut waiting, who) = (WaitingParts::default(), actor(Role::Client, "many"));
        let mut parts = Vec::new();
        for n in 0..MAX_UPLOADS as u64 {
            let part = waiting.admit(&who, upload(n), 10).unwrap();
            waiting.add(upload(n), &part);
            parts.push(part);
        }
        let more = waiting.admit(&who, upload(999), 10).unwrap_err();
        assert_eq!(more.code, ErrorCode::OutOfBounds);
        assert!(waiting.admit(&who, upload(5), 10).is_ok(), "one that has begun goes on");
        waiting.remove(upload(5), &parts[5]);
        assert!(waiting.admit(&who, upload(999), 10).is_ok());
        for (n, part) in parts.iter().enumerate().filter(|(n, _)| *n != 5) {
            waiting.remove(upload(n as u64), part);
        }
        assert_eq!(waiting, WaitingParts::default());
    }
}
