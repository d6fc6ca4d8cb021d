//! What makes a folder a disk of the cluster: a random incarnation and a key, drawn when it is formatted.
//! A wiped disk is another disk, and what the old one promised is void.

use std::fs;
use std::io;
use std::path::Path;

use ed25519_zebra::SigningKey;
use serde::{Deserialize, Serialize};
use wmall_proto::ids::{parse_hex, to_hex};
use wmall_proto::{Incarnation, NodeName};
use wmall_runtime::folder::write_durably;

use super::places::Place;
use crate::config::DiskConfig;
use crate::kept_map;

const FILE: &str = "disk.json";
/// Left behind by a format that was cut short.
const UNFINISHED: &str = "disk.json.new";
const VERSION: u32 = 1;

/// Why a folder is no disk, or can't be made one.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It was never formatted.
    #[error("{0} is not formatted; `wmall data-node init --config FILE` formats it")]
    NotFormatted(String),
    /// It was formatted, and holds no disk now.
    #[error(
        "{disk} was in {path}, and the folder holds no disk now: is its file system mounted? If the disk is gone, \
         `wmall data-node init --replace {name} --config FILE` formats another one in its place"
    )]
    Absent {
        /// The name that the configuration gives to the disk in this folder.
        name: NodeName,
        /// The folder.
        path: String,
        /// The disk that was there.
        disk: String,
    },
    /// There is something in it that is not ours.
    #[error("{0} is not empty and holds no disk of a cluster; nothing was changed")]
    NotEmpty(String),
    /// The superblock is damaged.
    #[error("{path} is damaged: {why}; restore it, or wipe the disk and let the cluster fill it anew")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The file system's error.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl FormatError {
    /// A folder in which there was a disk holds none.
    pub(crate) fn absent(disk: &DiskConfig, before: &Place) -> Self {
        let (name, path) = (disk.name.clone(), disk.path.display().to_string());
        Self::Absent { name, path, disk: before.to_string() }
    }
}

/// A disk's identity.
#[derive(Clone)]
pub struct Superblock {
    /// Its present life.
    pub incarnation: Incarnation,
    /// Signs its receipts.
    pub key: SigningKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    version: u32,
    incarnation: Incarnation,
    signing_key: String,
    /// Over the two, so that a changed digit does not make another disk of it.
    check: String,
}

impl OnDisk {
    fn check(incarnation: &Incarnation, seed: &[u8; 32]) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"wmall.disk.v1").update(&incarnation.0).update(seed);
        to_hex(&hasher.finalize().as_bytes()[..16])
    }
}

impl Superblock {
    /// Whether this folder has a format.
    pub fn exists(folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    /// Formats an empty folder, durably. A format that was cut short is begun again, and a copy of the map is
    /// no disk.
    pub fn format(folder: &Path) -> Result<Self, FormatError> {
        let failed = |source| FormatError::Io { path: folder.display().to_string(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let ours = |e: &fs::DirEntry| {
            let named =
                e.file_name() == UNFINISHED || kept_map::FILES.iter().any(|file| e.file_name() == *file);
            named && e.file_type().is_ok_and(|t| t.is_file())
        };
        let foreign = |e: &fs::DirEntry| e.file_name() != "lost+found" && !ours(e);
        let mut entries = fs::read_dir(folder).map_err(failed)?.filter_map(Result::ok);
        if entries.any(|e| foreign(&e)) {
            return Err(FormatError::NotEmpty(folder.display().to_string()));
        }
        let incarnation = Incarnation(wmall_runtime::random::bytes());
        let seed: [u8; 32] = wmall_runtime::random::bytes();
        let check = OnDisk::check(&incarnation, &seed);
        let on_disk = OnDisk { version: VERSION, incarnation, signing_key: to_hex(&seed), check };
        let mut text = serde_json::to_vec_pretty(&on_disk).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
        write_durably(folder, FILE, &text, 0o600).map_err(failed)?;
        Ok(Self { incarnation, key: SigningKey::from(seed) })
    }

    /// Reads the format of a folder.
    pub fn load(folder: &Path) -> Result<Self, FormatError> {
        let path = folder.join(FILE);
        let shown = path.display().to_string();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FormatError::NotFormatted(folder.display().to_string()));
            }
            Err(source) => return Err(FormatError::Io { path: shown, source }),
        };
        let damaged = |why: String| FormatError::Damaged { path: shown.clone(), why };
        let on_disk: OnDisk = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if on_disk.version != VERSION {
            return Err(damaged(format!("format version {} is not known here", on_disk.version)));
        }
        let seed: [u8; 32] =
            parse_hex(&on_disk.signing_key).ok_or_else(|| damaged("the key is malformed".into()))?;
        if on_disk.check != OnDisk::check(&on_disk.incarnation, &seed) {
            return Err(damaged("its checksum does not match".into()));
        }
        Ok(Self { incarnation: on_disk.incarnation, key: SigningKey::from(seed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_was_cut_short_is_begun_again_and_a_foreign_folder_is_never_formatted() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        for left in ["", "{\"version\":1,\"incarn"] {
            fs::write(folder.path().join(UNFINISHED), left).unwrap();
            assert!(matches!(Superblock::load(folder.path()), Err(FormatError::NotFormatted(_))));
            let made = Superblock::format(folder.path()).unwrap();
            assert_eq!(Superblock::load(folder.path()).unwrap().incarnation, made.incarnation);
            assert!(matches!(Superblock::format(folder.path()), Err(FormatError::NotEmpty(_))));
            fs::remove_file(folder.path().join(FILE)).unwrap();
        }
        fs::write(folder.path().join(UNFINISHED), "").unwrap();
        fs::write(folder.path().join("thesis.txt"), "mine").unwrap();
        assert!(matches!(Superblock::format(folder.path()), Err(FormatError::NotEmpty(_))));
        // A copy of the map that was left in an empty mount point stands in no format's way.
        let mount_point = tempfile::tempdir().unwrap();
        for file in kept_map::FILES {
            fs::write(mount_point.path().join(file), "any").unwrap();
        }
        Superblock::format(mount_point.path()).unwrap();
        // A folder of that name is none of ours.
        let foreign = tempfile::tempdir().unwrap();
        fs::create_dir(foreign.path().join(UNFINISHED)).unwrap();
        assert!(matches!(Superblock::format(foreign.path()), Err(FormatError::NotEmpty(_))));
    }
}
