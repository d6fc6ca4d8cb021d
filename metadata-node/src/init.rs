//! `wmall metadata-node init`: makes the folder of a new member. A member that takes part twice under one id
//! would break Raft's promises, so an existing folder is never made anew, and neither is that of a member
//! which others know.

use std::fs;
use std::time::Duration;

use wmall_proto::NodeName;
use wmall_transport::{BindError, Endpoint, Identity, IdentityError, Target};

use crate::born::Born;
use crate::config::Config;
use crate::raft::hello_all;

/// How long the other members may take to say which cluster they know.
const ASKING: Duration = Duration::from_secs(2);

/// Why a folder can't be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is something in it.
    #[error("{0} is not empty; a metadata node's folder is made once")]
    NotEmpty(String),
    /// Members of the configuration run, and know a cluster.
    #[error(
        "{by} runs and knows a cluster of members {members}: a folder that is made now has none of what member {id} has \
         promised it"
    )]
    Living {
        /// The member that answers.
        by: String,
        /// Raft ids of its cluster.
        members: String,
        /// Raft id of this node.
        id: u64,
    },
    /// The others can't be asked.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The others can't be asked.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The disk's error.
    #[error("cannot write {path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl InitError {
    /// What an operator does about it; none where the error says it.
    pub fn hint(&self) -> Option<&'static str> {
        matches!(self, Self::Living { .. }).then_some(
            "let the lost member go (`wmall meta member rm ID`) and take the node in under a new id (`wmall metadata-node \
             init --join TOKEN --id ID`, `wmall meta member add`); to begin again with a snapshot, stop every member first",
        )
    }
}

/// Makes the folder that the configuration names, durably, unless another member knows a cluster that this
/// node was, or is not to be, part of.
pub async fn init(config: &Config) -> Result<(), InitError> {
    ask_others(config).await?;
    found(config)
}

/// Makes the folder of a first member of a cluster that is made now, so that no member has to be asked.
pub fn found(config: &Config) -> Result<(), InitError> {
    prepare(config)?;
    finish(config, Born::new(config.id))
}

/// The other members that the cluster starts with.
pub(crate) fn other_first_members(config: &Config) -> Vec<(NodeName, Target)> {
    let members = config.raw.members.iter().filter(|m| m.id != config.id);
    members.map(|m| (m.name.clone(), Target::metadata(&m.name, m.address))).collect()
}

/// The other metadata nodes that the configuration names, as members or as seeds.
pub(crate) fn others(config: &Config) -> Vec<(NodeName, Target)> {
    let mut others = other_first_members(config);
    for seed in config.raw.seeds.iter().filter(|seed| seed.name != config.raw.name) {
        if others.iter().all(|(name, _)| *name != seed.name) {
            others.push((seed.name.clone(), Target::metadata(&seed.name, seed.address)));
        }
    }
    others
}

/// Refuses where another metadata node of the configuration runs and knows a cluster that this node was, or
/// is not to be, part of.
pub(crate) async fn ask_others(config: &Config) -> Result<(), InitError> {
    let others = others(config);
    if others.is_empty() {
        return Ok(());
    }
    let endpoint = Endpoint::client(&Identity::load(&config.raw.identity_dir)?)?;
    let answers = hello_all(&endpoint, Born::new(config.id), &others, ASKING).await;
    endpoint.close().await;
    for (name, (_, known)) in answers {
        let Some(known) = known else { continue };
        let joins = config.raw.join && known.members.iter().all(|(id, _)| *id != config.id);
        if !joins {
            let ids: Vec<String> = known.members.iter().map(|(id, _)| id.to_string()).collect();
            return Err(InitError::Living { by: name.to_string(), members: ids.join(", "), id: config.id });
        }
    }
    Ok(())
}

/// Makes the folder, or finds it empty.
pub(crate) fn prepare(config: &Config) -> Result<(), InitError> {
    let folder = &config.raw.data_dir;
    let failed = |source| InitError::Io { path: folder.display().to_string(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    if fs::read_dir(folder).map_err(failed)?.next().is_some() {
        return Err(InitError::NotEmpty(folder.display().to_string()));
    }
    Ok(())
}

/// Writes the born record, without which no node starts: the last step.
pub(crate) fn finish(config: &Config, born: Born) -> Result<(), InitError> {
    let folder = &config.raw.data_dir;
    born.save(folder).map_err(|source| InitError::Io { path: folder.display().to_string(), source })
}
