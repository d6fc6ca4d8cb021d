//! `client.toml`: who one is and where the metadata nodes are.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wmall_proto::topology::MetadataAddress;
use wmall_runtime::config::{self, ConfigError};

/// The configuration of a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Folder with `ca.pem`, `cert.pem` and `key.pem`.
    pub identity_dir: PathBuf,
    /// The metadata nodes.
    pub metadata: Vec<MetadataAddress>,
    /// How long a call to them may take in all, retries included.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_timeout_ms() -> u64 {
    15_000
}

impl ClientConfig {
    /// Loads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config: Self = config::load_file(path)?;
        if config.metadata.is_empty() {
            let why = "`metadata` names no metadata node".to_string();
            return Err(ConfigError::Invalid { path: path.display().to_string(), why });
        }
        Ok(config)
    }
}
