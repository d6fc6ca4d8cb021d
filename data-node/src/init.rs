//! `wmall data-node init`: formats the disks that have no format yet, or one in the place of a disk that is
//! gone.

use wmall_proto::NodeName;

use crate::config::{Config, DiskConfig};
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
    /// The disk that is to be replaced is there.
    #[error(
        "disk {name} is in {path}; only one that is gone is replaced. To have its place for another, \
         `wmall disk replace` moves its pieces first"
    )]
    IsThere {
        /// Its name.
        name: NodeName,
        /// Its folder.
        path: String,
    },
    /// The configuration has no disk of that name.
    #[error("the configuration has no disk {name}; it has {known}")]
    NoSuchDisk {
        /// The name.
        name: NodeName,
        /// Names of those that it has.
        known: String,
    },
    /// It can't be told which disks there were.
    #[error("cannot read or write which disks were in use, in {path}: {source}")]
    Places {
        /// The folder of the identity.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Formats new disks and leaves the others as they are. A folder without a disk in which there was one is
/// refused, unless all of those are to be replaced: only who has emptied them may say so. Returns the names
/// of the new ones.
pub fn init(config: &Config, replace_all: bool) -> Result<Vec<String>, InitError> {
    let mut places = places(config)?;
    let mut formatted = Vec::new();
    for disk in config.raw.disks.iter().filter(|disk| !Superblock::exists(&disk.path)) {
        if let Some(before) = places.of(disk).filter(|_| !replace_all) {
            return Err(FormatError::absent(disk, before).into());
        }
        format(config, &mut places, disk)?;
        formatted.push(disk.name.to_string());
    }
    if formatted.is_empty() {
        return Err(InitError::NothingToDo(config.raw.name.to_string()));
    }
    Ok(formatted)
}

/// Formats the folder of one disk in place of the disk that was in it, whatever is with the others: one of
/// them may only be unmounted.
pub fn replace(config: &Config, name: &NodeName) -> Result<(), InitError> {
    let disks = &config.raw.disks;
    let Some(disk) = disks.iter().find(|disk| disk.name == *name) else {
        let known: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        return Err(InitError::NoSuchDisk { name: name.clone(), known: known.join(", ") });
    };
    if Superblock::exists(&disk.path) {
        return Err(InitError::IsThere { name: name.clone(), path: disk.path.display().to_string() });
    }
    format(config, &mut places(config)?, disk)
}

fn places(config: &Config) -> Result<Places, InitError> {
    Places::load(&config.raw.identity_dir).map_err(|source| failed(config, source))
}

fn format(config: &Config, places: &mut Places, disk: &DiskConfig) -> Result<(), InitError> {
    let made = Superblock::format(&disk.path)?;
    places.note(disk, made.incarnation).map_err(|source| failed(config, source))
}

fn failed(config: &Config, source: std::io::Error) -> InitError {
    InitError::Places { path: config.raw.identity_dir.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;
    use std::path::Path;

    fn config(folder: &Path) -> Config {
        let disk = |name: &str| DiskConfig {
            name: name.parse().unwrap(),
            path: folder.join(name),
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
            disks: vec![disk("disk-1"), disk("disk-2")],
            ops: None,
            log: Default::default(),
        };
        Config { raw }
    }

    #[test]
    fn a_disk_that_is_not_mounted_is_formatted_only_if_it_is_to_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        assert_eq!(init(&config, false).unwrap(), ["disk-1", "disk-2"]);
        assert!(matches!(init(&config, false), Err(InitError::NothingToDo(_))));
        let [path, other] = [0, 1].map(|i| &config.raw.disks[i].path);
        for path in [path, other] {
            std::fs::remove_dir_all(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }
        let refused = init(&config, false).unwrap_err();
        assert!(matches!(refused, InitError::Format(FormatError::Absent { .. })));
        assert!(refused.to_string().contains("is its file system mounted?"), "{refused}");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "nothing was changed");
        assert!(refused.to_string().contains("--replace disk-1 "), "{refused}");
        let [first, unknown] = ["disk-1", "disk-7"].map(|name| name.parse().unwrap());
        let refused = replace(&config, &unknown).unwrap_err();
        assert!(refused.to_string().contains("it has disk-1, disk-2"), "{refused}");
        replace(&config, &first).unwrap();
        assert_eq!(std::fs::read_dir(other).unwrap().count(), 0, "the other one may only be unmounted");
        assert!(matches!(replace(&config, &first), Err(InitError::IsThere { .. })));
        assert_eq!(init(&config, true).unwrap(), ["disk-2"]);
    }
}
