//! What makes a folder a disk of the cluster: a random incarnation and a key, drawn when it is formatted.
//! A wiped disk is another disk, and what the old one promised is void.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ed25519_zebra::SigningKey;
use serde::{Deserialize, Serialize};
use wmall_proto::Incarnation;
use wmall_proto::ids::{parse_hex, to_hex};

const FILE: &str = "disk.json";
const VERSION: u32 = 1;

/// Why a folder is no disk, or can't be made one.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It was never formatted.
    #[error("{0} is not formatted; `wmall data-node init --config FILE` formats it")]
    NotFormatted(String),
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

    /// Formats an empty folder, durably.
    pub fn format(folder: &Path) -> Result<Self, FormatError> {
        let failed = |source| FormatError::Io { path: folder.display().to_string(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let foreign = |e: &fs::DirEntry| e.file_name() != "lost+found";
        let mut entries = fs::read_dir(folder).map_err(failed)?.filter_map(Result::ok);
        if entries.any(|e| foreign(&e)) {
            return Err(FormatError::NotEmpty(folder.display().to_string()));
        }
        let incarnation = Incarnation(wmall_runtime::random::bytes());
        let seed: [u8; 32] = wmall_runtime::random::bytes();
        let check = OnDisk::check(&incarnation, &seed);
        let on_disk = OnDisk { version: VERSION, incarnation, signing_key: to_hex(&seed), check };
        write(folder, &on_disk).map_err(failed)?;
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

fn write(folder: &Path, on_disk: &OnDisk) -> io::Result<()> {
    let temporary = folder.join("disk.json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    serde_json::to_writer_pretty(&mut file, on_disk)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(temporary, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}
