//! The born record of a metadata node's folder: which member it is, and in which life. Written last when the
//! folder is made, so a folder with one is whole; never written again.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wmall_proto::{Incarnation, Role};
use wmall_runtime::folder::write_durably;

/// Its file.
const FILE: &str = "born.json";
const VERSION: u32 = 2;

/// The member that a folder is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Born {
    /// Raft id.
    pub(crate) id: u64,
    /// The life that began with the folder.
    pub(crate) incarnation: Incarnation,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    role: Role,
    id: u64,
    incarnation: Incarnation,
}

impl Born {
    /// A life that begins now.
    pub(crate) fn new(id: u64) -> Self {
        Self { id, incarnation: Incarnation(wmall_runtime::random::bytes()) }
    }

    /// The life of a member of a restored cluster. All members have to name the others' lives, and none of
    /// them runs yet, so each is derived from the life of the cluster, which the first of them drew, and the
    /// member's id.
    pub(crate) fn restored(id: u64, life: Incarnation) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("wmall.member.restored.v1");
        hasher.update(&life.0);
        hasher.update(&id.to_le_bytes());
        let mut incarnation = [0; 16];
        hasher.finalize_xof().fill(&mut incarnation);
        Self { id, incarnation: Incarnation(incarnation) }
    }

    /// The record of a folder; none if it holds no metadata node.
    pub(crate) fn load(folder: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(folder.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let record: Record = serde_json::from_slice(&bytes)?;
        if record.version != VERSION || record.role != Role::Metadata {
            let found = format!("{FILE} is of version {} for role {}", record.version, record.role);
            return Err(io::Error::new(io::ErrorKind::InvalidData, found));
        }
        Ok(Some(Self { id: record.id, incarnation: record.incarnation }))
    }

    /// Writes it durably.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        let Self { id, incarnation } = *self;
        let record = Record { version: VERSION, role: Role::Metadata, id, incarnation };
        let mut text = serde_json::to_vec(&record)?;
        text.push(b'\n');
        write_durably(folder, FILE, &text, 0o644)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Born::load(folder.path()).unwrap(), None);
        let born = Born::new(7);
        born.save(folder.path()).unwrap();
        assert_eq!(Born::load(folder.path()).unwrap(), Some(born));
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap().replace("\"version\":2", "\"version\":1");
        fs::write(&path, text).unwrap();
        assert!(Born::load(folder.path()).is_err());
        let of = |id, life: u8| Born::restored(id, Incarnation([life; 16])).incarnation;
        assert_eq!(of(1, 7), of(1, 7));
        assert!(of(1, 7) != of(2, 7) && of(1, 7) != of(1, 8));
    }
}
