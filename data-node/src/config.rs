//! The configuration of a data node: the file as it is written, then as it has been checked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wmall_proto::layout::{MAX_WEIGHT, is_weight};
use wmall_proto::topology::MetadataAddress;
use wmall_proto::{NodeName, ZoneName};
use wmall_runtime::config::{self, ConfigError};
use wmall_runtime::logging::LogConfig;
use wmall_runtime::ops::OpsConfig;

/// The least room that a disk of ours is worth.
const MIN_DISK_BYTES: u64 = 256 << 20;

/// `data-node.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// This node's name, as in its certificate.
    pub name: NodeName,
    /// Its failure domain.
    pub zone: ZoneName,
    /// Folder with `ca.pem`, `cert.pem` and `key.pem`.
    pub identity_dir: PathBuf,
    /// UDP address for calls.
    pub listen: SocketAddr,
    /// Where the others reach it, if that is another address than `listen`.
    pub advertise: Option<SocketAddr>,
    /// The metadata nodes.
    pub metadata: Vec<MetadataAddress>,
    /// How long a scrub of everything may take.
    #[serde(default = "default_scrub_ms")]
    pub scrub_pass_ms: u64,
    /// Between two groups whose presence is compared with what the metadata nodes know; a pass takes as many as there are.
    #[serde(default = "default_compare_ms")]
    pub compare_ms: u64,
    /// Its disks.
    pub disks: Vec<DiskConfig>,
    /// The operations' HTTP endpoint; none if absent.
    pub ops: Option<OpsConfig>,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
}

/// A disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Its name on this node, which stays with it.
    pub name: NodeName,
    /// Its folder, on a file system of its own.
    pub path: PathBuf,
    /// The most bytes it may use.
    pub max_bytes: u64,
    /// Its share of the placement, relative to the other disks of the cluster: 1 to [`MAX_WEIGHT`].
    #[serde(default = "default_weight")]
    pub weight: u32,
}

/// How long a scrub may take unless told otherwise: two weeks.
pub const SCRUB_PASS_MS: u64 = 14 * 86_400_000;

fn default_scrub_ms() -> u64 {
    SCRUB_PASS_MS
}

/// Between two groups unless told otherwise: some 600 groups of a disk in an hour and a half.
pub const COMPARE_MS: u64 = 10_000;

fn default_compare_ms() -> u64 {
    COMPARE_MS
}

fn default_weight() -> u32 {
    100
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file's values.
    pub raw: RawConfig,
}

impl Config {
    /// Loads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let raw: RawConfig = config::load(path)?;
        raw.validate().map_err(|why| ConfigError::Invalid { path: path.display().to_string(), why })
    }
}

impl RawConfig {
    /// Where the others reach it.
    pub fn address(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.listen)
    }

    /// Checks that the values go together.
    pub fn validate(self) -> Result<Config, String> {
        if self.metadata.is_empty() {
            return Err("`metadata` names no metadata node".into());
        }
        let address = self.address();
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(format!(
                "nobody can reach {address}; set `advertise` to the address that others use"
            ));
        }
        if self.disks.is_empty() {
            return Err("`disks` is empty; a data node has at least one".into());
        }
        for (i, disk) in self.disks.iter().enumerate() {
            if disk.max_bytes < MIN_DISK_BYTES {
                let (name, bytes) = (&disk.name, disk.max_bytes);
                return Err(format!("disk {name} has `max_bytes` {bytes}; at least {MIN_DISK_BYTES}"));
            }
            if !is_weight(disk.weight) {
                let (name, weight) = (&disk.name, disk.weight);
                return Err(format!(
                    "disk {name} has `weight` {weight}; it is 1 to {MAX_WEIGHT}, and a disk that is to hold nothing is \
                     drained (`wmall disk drain`)"
                ));
            }
            let twin = self.disks[..i].iter().find(|d| d.name == disk.name || d.path == disk.path);
            if let Some(twin) = twin {
                return Err(format!("disks {} and {} share a name or a path", twin.name, disk.name));
            }
        }
        Ok(Config { raw: self })
    }
}
