//! The room on the members' volumes. Each member looks at its own and says it with its answers to Raft; the
//! leader refuses what makes the metadata grow while a quorum would be at risk by it, long before a log finds
//! no room: a member whose log can't be written ends, and all of them have the same to write.
//!
//! One function decides; the rest is memory: what this member measured, and what it has heard of each other
//! one. Bounded by the members.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use wmall_proto::volume::{MemberVolumes, VolumeStatus, VolumeUse, mebibytes};
use wmall_proto::{ErrorCode, NodeName, RpcError};

use crate::raft::is_leader;
use crate::types::Raft;

/// A member's word counts for so long.
const HEARD_FOR: Duration = Duration::from_secs(30);

/// Why nothing that grows may be taken; none if it may. `voters` says of each what it has said lately. One
/// that has not been heard of is no help to a quorum, whatever room it has.
fn refusal(voters: &[(String, Option<MemberVolumes>)]) -> Option<String> {
    let is_low = |said: &MemberVolumes| said.data.is_some_and(|room| room.is_low());
    let well = voters.iter().filter(|(_, said)| said.is_some_and(|said| !is_low(&said))).count();
    if well * 2 > voters.len() {
        return None;
    }
    let low = voters.iter().filter_map(|(name, said)| {
        let room = said.filter(is_low)?.data?;
        let (free, bound) = (mebibytes(room.free_bytes), mebibytes(room.bound_bytes));
        Some(format!("the metadata volume of {name} has {free} free and is to keep {bound}"))
    });
    let low: Vec<String> = low.collect();
    (!low.is_empty()).then(|| low.join("; "))
}

/// The members' volumes, as far as they are known.
pub struct Volumes {
    name: NodeName,
    own: Mutex<MemberVolumes>,
    heard: Mutex<HashMap<String, (MemberVolumes, Instant)>>,
    raft: OnceLock<Raft>,
}

impl Volumes {
    /// Nothing is known yet.
    pub(crate) fn new(name: NodeName) -> Arc<Self> {
        Arc::new(Self { name, own: Mutex::default(), heard: Mutex::default(), raft: OnceLock::new() })
    }

    /// From now on this member may lead.
    pub(crate) fn take_part(&self, raft: Raft) {
        let _ = self.raft.set(raft);
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<String, (MemberVolumes, Instant)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_mut(&self) -> MutexGuard<'_, MemberVolumes> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what this member says of its own.
    pub(crate) fn measure(&self, change: impl FnOnce(&mut MemberVolumes)) {
        change(&mut self.own_mut());
    }

    /// This member's word on its own.
    pub(crate) fn own(&self) -> MemberVolumes {
        *self.own_mut()
    }

    /// Another member has said what room it has.
    pub(crate) fn hear(&self, name: &str, volumes: MemberVolumes) {
        self.heard().insert(name.to_string(), (volumes, Instant::now()));
    }

    /// The voters, and what each has said lately.
    fn voters(&self) -> Vec<(String, Option<MemberVolumes>)> {
        let Some(raft) = self.raft.get() else { return Vec::new() };
        let names: Vec<String> = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            membership.voter_ids().filter_map(|id| Some(membership.get_node(&id)?.name.clone())).collect()
        };
        let (now, own) = (Instant::now(), self.own());
        let mut heard = self.heard();
        heard.retain(|name, (_, at)| names.contains(name) && now.saturating_duration_since(*at) < HEARD_FOR);
        let said = |name: &String| match name == self.name.as_str() {
            true => Some(own),
            false => heard.get(name).map(|(volumes, _)| *volumes),
        };
        names.iter().map(|name| (name.clone(), said(name))).collect()
    }

    /// Why commands that make the metadata grow are refused; none if they are not, or if this member does not
    /// lead.
    pub(crate) fn full(&self) -> Option<String> {
        self.raft.get().filter(|raft| is_leader(raft))?;
        refusal(&self.voters())
    }

    /// Answers such a command.
    pub(crate) fn check(&self) -> Result<(), RpcError> {
        self.full().map_or(Ok(()), |reason| {
            Err(RpcError::new(ErrorCode::ClusterFull, reason)
                .hint("delete something, or make room on that volume; `wmall health` shows it"))
        })
    }

    /// All volumes that are known, for the status.
    pub(crate) fn all(&self) -> Vec<VolumeStatus> {
        let mut all = Vec::new();
        for (member, said) in self.voters() {
            let said = said.unwrap_or_default();
            for (holds, room) in [(VolumeUse::Metadata, said.data), (VolumeUse::Backup, said.backup)] {
                all.extend(room.map(|room| VolumeStatus { member: member.clone(), holds, room }));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use wmall_proto::volume::VolumeRoom;

    use super::*;

    /// Members by their free MiB, of which 256 are to stay free; none for one that is not heard.
    fn verdict(free: &[Option<u64>]) -> Option<String> {
        let said = |mib: u64| MemberVolumes {
            data: Some(VolumeRoom { free_bytes: mib << 20, bound_bytes: 256 << 20 }),
            backup: Some(VolumeRoom { free_bytes: 0, bound_bytes: 1 }),
        };
        let voter = |(i, free): (usize, &Option<u64>)| (format!("meta-{}", i + 1), free.map(said));
        refusal(&free.iter().enumerate().map(voter).collect::<Vec<_>>())
    }

    #[test]
    fn growth_is_refused_when_a_quorum_would_be_at_risk() {
        assert_eq!(verdict(&[Some(256), Some(9999), Some(300)]), None);
        assert_eq!(verdict(&[Some(9999), Some(40), Some(9999)]), None, "one of three");
        let why = verdict(&[Some(9999), Some(40), Some(255)]).unwrap();
        assert_eq!(
            why,
            "the metadata volume of meta-2 has 40 MiB free and is to keep 256 MiB; \
             the metadata volume of meta-3 has 255 MiB free and is to keep 256 MiB"
        );
        assert!(verdict(&[Some(9999), Some(40), None]).is_some(), "one is down: the low one is needed");
        assert_eq!(verdict(&[Some(9999), None, None]), None, "silence alone is no lack of room");
        assert!(verdict(&[Some(40)]).is_some());
        assert_eq!(verdict(&[Some(40), Some(40), Some(999), Some(999), Some(999)]), None);
        assert!(verdict(&[Some(40), Some(40), Some(40), Some(999), Some(999)]).is_some());
        assert_eq!(verdict(&[]), None);
    }

    #[test]
    fn a_volume_that_can_t_be_measured_stops_nobody() {
        assert_eq!(refusal(&[("meta-1".into(), Some(MemberVolumes::default()))]), None);
    }
}
