//! The first start of a cluster's first members: each asks the others for the life that they are in, and once
//! all have said it, the cluster begins with a membership that names them. All members come to the same one.
//!
//! A member that has been part of a cluster answers with what it knows of it. Then there is nothing to begin:
//! this folder is one of its members and will hear from its leader, or it is none and must not take part.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use openraft::error::{InitializeError, RaftError};
use wmall_proto::rpc::KnownCluster;
use wmall_proto::{Incarnation, NodeName};
use wmall_transport::Endpoint;

use crate::born::Born;
use crate::config::Config;
use crate::raft::{LogStore, NotAMember, hello_all};
use crate::types::{Member, Raft};

/// How long a round waits for answers, and between rounds.
const ROUND: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(150);
/// Between words in the log about members that do not answer.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Next step, by the others' answers.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All have said in which life they are.
    Begin(BTreeMap<NodeName, Incarnation>),
    /// A cluster runs in which this member has a place.
    Follow,
    /// These have not answered.
    Wait(Vec<NodeName>),
}

fn judge(
    born: Born,
    others: &[NodeName],
    answers: Vec<(NodeName, (Incarnation, Option<KnownCluster>))>,
) -> Result<Verdict, NotAMember> {
    let mut lives = BTreeMap::new();
    for (name, (incarnation, known)) in answers {
        if let Some(known) = known {
            let (id, by) = (born.id, name.to_string());
            return match known.members.iter().find(|(member, _)| *member == id) {
                Some((_, life)) if *life == born.incarnation => Ok(Verdict::Follow),
                Some(_) => Err(NotAMember::Replaced { id, by }),
                None => Err(NotAMember::Stranger { id, by }),
            };
        }
        lives.insert(name, incarnation);
    }
    let silent: Vec<NodeName> = others.iter().filter(|name| !lives.contains_key(*name)).cloned().collect();
    Ok(if silent.is_empty() { Verdict::Begin(lives) } else { Verdict::Wait(silent) })
}

/// Returns once this member is part of the cluster, or can't be.
pub(crate) async fn begin(
    config: &Config,
    born: Born,
    endpoint: &Endpoint,
    log: &LogStore,
    raft: &Raft,
) -> Result<(), NotAMember> {
    let others = crate::init::other_first_members(config);
    let names: Vec<NodeName> = others.iter().map(|(name, _)| name.clone()).collect();
    let mut said = Instant::now();
    while log.is_pristine() {
        let answers = hello_all(endpoint, born, &others, ROUND).await;
        match judge(born, &names, answers)? {
            Verdict::Begin(lives) => {
                initialize(config, born, &lives, raft).await;
                return Ok(());
            }
            Verdict::Follow => {}
            Verdict::Wait(silent) if said.elapsed() >= SAY_EVERY => {
                said = Instant::now();
                let silent: Vec<&str> = silent.iter().map(NodeName::as_str).collect();
                tracing::info!(
                    members = silent.join(", "),
                    "the cluster begins once all its first members have answered"
                );
            }
            Verdict::Wait(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn initialize(config: &Config, born: Born, lives: &BTreeMap<NodeName, Incarnation>, raft: &Raft) {
    let member = |m: &crate::config::MemberEntry| {
        let incarnation = lives.get(&m.name).copied().unwrap_or(born.incarnation);
        (m.id, Member { name: m.name.to_string(), address: m.address, incarnation })
    };
    let members: BTreeMap<u64, Member> = config.raw.members.iter().map(member).collect();
    match raft.initialize(members).await {
        // Another first member was quicker.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => tracing::error!(%error, "the cluster could not be begun"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_begins_when_all_have_said_who_they_are_and_only_if_none_knows_one() {
        let born = Born { id: 2, incarnation: Incarnation([2; 16]) };
        let name = |i: u8| NodeName::new(format!("metadata-{i}")).unwrap();
        let fresh = |i: u8| (name(i), (Incarnation([i; 16]), None));
        let knows = |i: u8, members: &[(u64, u8)]| {
            let members = members.iter().map(|(id, life)| (*id, Incarnation([*life; 16]))).collect();
            (name(i), (Incarnation([i; 16]), Some(KnownCluster { members, acknowledged: None, led: true })))
        };
        let others = [name(1), name(3)];
        let judge = |answers| judge(born, &others, answers);
        assert_eq!(judge(vec![fresh(1)]), Ok(Verdict::Wait(vec![name(3)])));
        let lives = BTreeMap::from([(name(1), Incarnation([1; 16])), (name(3), Incarnation([3; 16]))]);
        assert_eq!(judge(vec![fresh(1), fresh(3)]), Ok(Verdict::Begin(lives)));
        let by = "metadata-3".to_string();
        assert_eq!(judge(vec![fresh(1), knows(3, &[(1, 1), (2, 2), (3, 3)])]), Ok(Verdict::Follow));
        let replaced = NotAMember::Replaced { id: 2, by: by.clone() };
        assert_eq!(judge(vec![fresh(1), knows(3, &[(1, 1), (2, 9), (3, 3)])]), Err(replaced));
        let stranger = NotAMember::Stranger { id: 2, by };
        assert_eq!(judge(vec![fresh(1), knows(3, &[(1, 1), (3, 3)])]), Err(stranger));
    }
}
