//! Small secret files: readable by their owner only, written durably and never half.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::authority::AuthorityError;

pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), AuthorityError> {
    let failed = |source| AuthorityError::Write { path: path.display().to_string(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    // A name of its own: another process may be renewing the same identity.
    let mut random = [0u8; 8];
    let drawn = rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut random);
    drawn.map_err(|_| failed(std::io::Error::other("no random numbers")))?;
    let temporary = path.with_extension(format!("{}.new", wmall_proto::ids::to_hex(&random)));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    let folder = path.parent().map(File::open).transpose().map_err(failed)?;
    folder.map_or(Ok(()), |f| f.sync_all()).map_err(failed)
}

/// Removes a file, if it is there.
pub(crate) fn forget(path: &Path) -> Result<(), AuthorityError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(AuthorityError::Write { path: path.display().to_string(), source })
        }
        _ => Ok(()),
    }
}
