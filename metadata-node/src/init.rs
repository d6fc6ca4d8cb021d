//! `wmall metadata-node init`: makes the folder of a new member. A member that takes part twice under one
//! id would break Raft's promises, so an existing folder is never made anew.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::config::Config;

/// The born record.
pub(crate) const BORN_FILE: &str = "born.json";

/// Why a folder can't be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is something in it.
    #[error("{0} is not empty; a metadata node's folder is made once")]
    NotEmpty(String),
    /// The disk's error.
    #[error("cannot write {path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Makes the folder that the configuration names, durably.
pub fn init(config: &Config) -> Result<(), InitError> {
    prepare(config)?;
    finish(config)
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
pub(crate) fn finish(config: &Config) -> Result<(), InitError> {
    let folder = &config.raw.data_dir;
    let failed = |source| InitError::Io { path: folder.display().to_string(), source };
    let record = format!("{{\"version\":1,\"role\":\"metadata\",\"id\":{}}}\n", config.id);
    write_born(folder, &record).map_err(failed)
}

fn write_born(folder: &Path, record: &str) -> std::io::Result<()> {
    let temporary = folder.join("born.json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(record.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, folder.join(BORN_FILE))?;
    File::open(folder)?.sync_all()
}
