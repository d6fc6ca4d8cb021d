//! The disks that were last in the folders of the configuration: a file in the folder of the node's identity,
//! and so on another file system than they. By it a folder whose file system is not mounted is told from one
//! that was never formatted.
//!
//! Only a memory: what a folder itself says overrules it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wmall_proto::Incarnation;
use wmall_runtime::folder::write_durably;

use crate::config::DiskConfig;

const FILE: &str = "disks.json";
const VERSION: u32 = 1;

/// A disk that was in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    /// Its name on the node.
    name: String,
    /// Its life.
    incarnation: Incarnation,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    version: u32,
    disks: BTreeMap<PathBuf, Place>,
}

/// The disks that were in use, by folder.
#[derive(Debug)]
pub(crate) struct Places {
    folder: PathBuf,
    disks: BTreeMap<PathBuf, Place>,
}

impl Places {
    /// Reads what is known; nothing, if the file is missing.
    pub(crate) fn load(identity: &Path) -> io::Result<Self> {
        let folder = identity.to_path_buf();
        let bytes = match std::fs::read(folder.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { folder, disks: BTreeMap::new() });
            }
            read => read?,
        };
        let OnDisk { version, disks } = serde_json::from_slice(&bytes)?;
        if version != VERSION {
            let found = format!("{FILE} is of version {version}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, found));
        }
        Ok(Self { folder, disks })
    }

    /// The disk that was last in the folder of this one.
    pub(crate) fn of(&self, disk: &DiskConfig) -> Option<&Place> {
        self.disks.get(&disk.path)
    }

    /// Notes that a disk is in its folder, durably if that is news.
    pub(crate) fn note(&mut self, disk: &DiskConfig, incarnation: Incarnation) -> io::Result<()> {
        let place = Place { name: disk.name.to_string(), incarnation };
        if self.of(disk) == Some(&place) {
            return Ok(());
        }
        self.disks.insert(disk.path.clone(), place);
        let on_disk = OnDisk { version: VERSION, disks: self.disks.clone() };
        let mut text = serde_json::to_vec_pretty(&on_disk)?;
        text.push(b'\n');
        write_durably(&self.folder, FILE, &text, 0o600)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "disk {} (incarnation {})", self.name, self.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &Path) -> DiskConfig {
        let name = "d1".parse().unwrap();
        DiskConfig { name, path: path.to_path_buf(), max_bytes: 1 << 30, weight: 100 }
    }

    #[test]
    fn a_disk_is_remembered_by_its_folder_and_a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (disk(Path::new("/a")), disk(Path::new("/b")));
        let mut places = Places::load(folder.path()).unwrap();
        assert_eq!(places.of(&here), None);
        places.note(&here, Incarnation([1; 16])).unwrap();
        places.note(&here, Incarnation([2; 16])).unwrap();
        let again = Places::load(folder.path()).unwrap();
        assert_eq!(again.of(&here).map(|place| place.incarnation), Some(Incarnation([2; 16])));
        assert_eq!(again.of(&there), None);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Places::load(folder.path()).is_err());
    }
}
