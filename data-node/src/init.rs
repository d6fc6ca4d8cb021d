//! `wmall data-node init`: formats the disks that have no format yet.

use crate::config::Config;
use crate::disk::{FormatError, Places, Superblock};

/// Why the disks can't be formatted.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// One of them.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// All have a format already.
    #[error("every disk of {0} is formatted already; there is nothing to do")]
    NothingToDo(String),
    /// It can't be told which disks there were.
    #[error("cannot read or write which disks were in use, in {path}: {source}")]
    Places {
        /// The folder of the identity.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Formats new disks and leaves the others as they are. A folder without a disk in which there was one is refused, unless
/// what was there is to be replaced. Returns the names of the new ones.
pub fn init(config: &Config, replace: bool) -> Result<Vec<String>, InitError> {
    let identity = &config.raw.identity_dir;
    let failed = |source| InitError::Places { path: identity.display().to_string(), source };
    let mut places = Places::load(identity).map_err(failed)?;
    let mut formatted = Vec::new();
    for disk in config.raw.disks.iter().filter(|disk| !Superblock::exists(&disk.path)) {
        if let Some(before) = places.of(disk).filter(|_| !replace) {
            return Err(FormatError::absent(&disk.path, before).into());
        }
        let made = Superblock::format(&disk.path)?;
        places.note(disk, made.incarnation).map_err(failed)?;
        formatted.push(disk.name.to_string());
    }
    if formatted.is_empty() {
        return Err(InitError::NothingToDo(config.raw.name.to_string()));
    }
    Ok(formatted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DiskConfig, RawConfig};
    use std::path::Path;

    fn config(folder: &Path) -> Config {
        let disk = DiskConfig {
            name: "disk-1".parse().unwrap(),
            path: folder.join("disk-1"),
            max_bytes: 1 << 30,
            weight: 100,
        };
        let identity = folder.join("identity");
        std::fs::create_dir_all(&identity).unwrap();
        let raw = RawConfig {
            name: "data-1".parse().unwrap(),
            zone: "z".parse().unwrap(),
            identity_dir: identity,
            listen: "127.0.0.1:1".parse().unwrap(),
            advertise: None,
            metadata: Vec::new(),
            scrub_pass_ms: 1,
            compare_ms: 1,
            disks: vec![disk],
            ops: None,
            log: Default::default(),
        };
        Config { raw }
    }

    #[test]
    fn a_disk_that_is_not_mounted_is_formatted_only_if_it_is_to_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        assert_eq!(init(&config, false).unwrap(), ["disk-1"]);
        assert!(matches!(init(&config, false), Err(InitError::NothingToDo(_))));
        let path = &config.raw.disks[0].path;
        std::fs::remove_dir_all(path).unwrap();
        std::fs::create_dir(path).unwrap();
        let refused = init(&config, false).unwrap_err();
        assert!(matches!(refused, InitError::Format(FormatError::Absent { .. })));
        assert!(refused.to_string().contains("is its file system mounted?"), "{refused}");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "nothing was changed");
        assert_eq!(init(&config, true).unwrap(), ["disk-1"]);
    }
}
