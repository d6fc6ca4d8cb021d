//! `wmall data-node init`: formats the disks that have no format yet.

use crate::config::Config;
use crate::disk::{FormatError, Superblock};

/// Why the disks can't be formatted.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// One of them.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// All have a format already.
    #[error("every disk of {0} is formatted already; there is nothing to do")]
    NothingToDo(String),
}

/// Formats new disks and leaves the others as they are. Returns the names of the new ones.
pub fn init(config: &Config) -> Result<Vec<String>, InitError> {
    let mut formatted = Vec::new();
    for disk in &config.raw.disks {
        if !Superblock::exists(&disk.path) {
            Superblock::format(&disk.path)?;
            formatted.push(disk.name.to_string());
        }
    }
    if formatted.is_empty() {
        return Err(InitError::NothingToDo(config.raw.name.to_string()));
    }
    Ok(formatted)
}
