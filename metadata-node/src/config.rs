//! The configuration of a metadata node: the file as it is written, then as it has been checked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wmall_proto::NodeName;
use wmall_proto::topology::MetadataAddress;
use wmall_runtime::config::{self, ConfigError};
use wmall_runtime::logging::LogConfig;
use wmall_runtime::ops::OpsConfig;

use crate::backup::BackupConfig;
use crate::gauge::VolumeConfig;
use crate::state::LONGEST_LIFE_MS;

/// Long enough to be renewed at all.
const SHORTEST_LIFE_MS: u64 = 3_000;

/// `metadata-node.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// This node's name, as in its certificate.
    pub name: NodeName,
    /// Where data lives.
    pub data_dir: PathBuf,
    /// Folder with `ca.pem`, `cert.pem` and `key.pem`.
    pub identity_dir: PathBuf,
    /// UDP address for calls.
    pub listen: SocketAddr,
    /// UDP address where those are answered who have a token; none if absent, and then nobody joins here.
    pub join_listen: Option<SocketAddr>,
    /// How long a node's certificate is valid. It renews itself after two thirds of that.
    #[serde(default = "default_node_certificate_ms")]
    pub node_certificate_ms: u64,
    /// How long a user's certificate is valid, likewise.
    #[serde(default = "default_user_certificate_ms")]
    pub user_certificate_ms: u64,
    /// The members that the cluster starts with, this one among them.
    pub members: Vec<MemberEntry>,
    /// Other metadata nodes, as the token of a node that joined named them: they are asked whether they know
    /// a cluster, and for a snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<MetadataAddress>,
    /// Whether this member is new in a cluster that runs: it waits until `wmall meta member add` takes it in.
    #[serde(default)]
    pub join: bool,
    /// Backups by the clock; none if absent.
    pub backup: Option<BackupConfig>,
    /// The room that the volume of `data_dir` is to keep.
    #[serde(default)]
    pub volume: VolumeConfig,
    /// A snapshot is taken, and the log before it dropped, after so many entries.
    #[serde(default = "default_snapshot_entries")]
    pub snapshot_entries: u64,
    /// A data node that is silent for so long is suspect.
    #[serde(default = "default_suspect_ms")]
    pub suspect_after_ms: u64,
    /// A data node that is silent for so long is down.
    #[serde(default = "default_down_ms")]
    pub down_after_ms: u64,
    /// A chunk that nothing refers to is deleted after so long.
    #[serde(default = "default_condemned_ms")]
    pub condemned_grace_ms: u64,
    /// An upload that has not committed after so long never will, and what it brought is deleted.
    #[serde(default = "default_upload_ms")]
    pub upload_grace_ms: u64,
    /// How repairs go.
    #[serde(default)]
    pub repair: RepairConfig,
    /// Between samples of what the cluster needs, from which the forecast is made; 720 are kept.
    #[serde(default = "default_sample_ms")]
    pub usage_sample_ms: u64,
    /// Between challenges of one disk, in which it has to prove that it has a piece, and between calls of a
    /// node that show whether it can be reached.
    #[serde(default = "default_challenge_ms")]
    pub challenge_ms: u64,
    /// Between calls of one data node, by which the leader knows that its address leads to it.
    #[serde(default = "default_reach_ms")]
    pub reach_ms: u64,
    /// The operations' HTTP endpoint; none if absent.
    pub ops: Option<OpsConfig>,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
}

/// How repairs, drains and balancing go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepairConfig {
    /// Slots of groups that may be on their way to one disk at once.
    pub slots_to_disk: usize,
    /// Slots that may be on their way from one disk that answers.
    pub slots_from_disk: usize,
    /// Bytes of slots that may be on their way to one disk at once, and from one that answers, for drains and
    /// balance; a slot counts for an eighth of it at most.
    pub disk_bytes: u64,
    /// The same for all disks of one node, which share its link.
    pub link_bytes: u64,
    /// Substitute also what vanished together with much else: for when that is known to be gone.
    pub override_halt: bool,
}

impl Default for RepairConfig {
    fn default() -> Self {
        Self {
            slots_to_disk: 64,
            slots_from_disk: 64,
            disk_bytes: 32 << 30,
            link_bytes: 64 << 30,
            override_halt: false,
        }
    }
}

/// A first member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberEntry {
    /// Its Raft id, never given to another.
    pub id: u64,
    /// Its name.
    pub name: NodeName,
    /// Where it listens.
    pub address: SocketAddr,
}

fn default_snapshot_entries() -> u64 {
    20_000
}

fn default_node_certificate_ms() -> u64 {
    30 * 86_400_000
}

fn default_user_certificate_ms() -> u64 {
    180 * 86_400_000
}

fn default_suspect_ms() -> u64 {
    3_000
}

fn default_down_ms() -> u64 {
    600_000
}

fn default_condemned_ms() -> u64 {
    600_000
}

fn default_sample_ms() -> u64 {
    3_600_000
}

fn default_reach_ms() -> u64 {
    10_000
}

fn default_challenge_ms() -> u64 {
    10_000
}

fn default_upload_ms() -> u64 {
    86_400_000
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file's values.
    pub raw: RawConfig,
    /// This member's Raft id.
    pub id: u64,
    /// Where the others reach it.
    pub address: SocketAddr,
}

impl Config {
    /// Loads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let raw: RawConfig = config::load(path)?;
        raw.validate().map_err(|why| ConfigError::Invalid { path: path.display().to_string(), why })
    }
}

impl RawConfig {
    /// The defaults, for a member of this name and these places.
    pub fn new(
        name: NodeName,
        data_dir: PathBuf,
        identity_dir: PathBuf,
        listen: SocketAddr,
        members: Vec<MemberEntry>,
    ) -> Self {
        Self {
            name,
            data_dir,
            identity_dir,
            listen,
            join_listen: None,
            node_certificate_ms: default_node_certificate_ms(),
            user_certificate_ms: default_user_certificate_ms(),
            members,
            seeds: Vec::new(),
            join: false,
            backup: None,
            volume: VolumeConfig::default(),
            snapshot_entries: default_snapshot_entries(),
            suspect_after_ms: default_suspect_ms(),
            down_after_ms: default_down_ms(),
            condemned_grace_ms: default_condemned_ms(),
            upload_grace_ms: default_upload_ms(),
            repair: RepairConfig::default(),
            usage_sample_ms: default_sample_ms(),
            challenge_ms: default_challenge_ms(),
            reach_ms: default_reach_ms(),
            ops: None,
            log: LogConfig::default(),
        }
    }

    /// Checks that the values go together.
    pub fn validate(self) -> Result<Config, String> {
        if !self.join && !matches!(self.members.len(), 1 | 3 | 5) {
            return Err(format!("`members` has {} entries; a cluster has 1, 3 or 5", self.members.len()));
        }
        let mut ids: Vec<u64> = self.members.iter().map(|m| m.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.members.len() {
            return Err("two `members` have the same id".into());
        }
        let own = self.members.iter().find(|m| m.name == self.name);
        let own = own.ok_or_else(|| format!("`members` does not name this node, {}", self.name))?;
        if self.suspect_after_ms < 1000 || self.down_after_ms < self.suspect_after_ms {
            return Err("`suspect_after_ms` is at least 1000, and `down_after_ms` no less than that".into());
        }
        if self.challenge_ms == 0 || self.reach_ms == 0 || self.usage_sample_ms == 0 {
            return Err("`challenge_ms`, `reach_ms` and `usage_sample_ms` are more than 0".into());
        }
        if self.upload_grace_ms < 1000 {
            return Err("`upload_grace_ms` is at least 1000".into());
        }
        for (what, ms) in [
            ("node_certificate_ms", self.node_certificate_ms),
            ("user_certificate_ms", self.user_certificate_ms),
        ] {
            if !(SHORTEST_LIFE_MS..=LONGEST_LIFE_MS).contains(&ms) {
                return Err(format!("`{what}` is between {SHORTEST_LIFE_MS} and {LONGEST_LIFE_MS}"));
            }
        }
        if self.join_listen.is_some_and(|a| a.ip().is_unspecified() || a.port() == 0 || a == self.listen) {
            return Err("`join_listen` is an address that others can reach, and not that of `listen`".into());
        }
        let (id, address) = (own.id, own.address);
        Ok(Config { id, address, raw: self })
    }
}
