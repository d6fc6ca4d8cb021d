//! What a devnet may fail with.

use std::io;
use std::path::Path;

/// Why a devnet's command failed.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// There is a devnet in the folder already.
    #[error("{0} holds a devnet already; `wmall devnet down --dir {0}` removes it")]
    Exists(String),
    /// There is none.
    #[error("{0} holds no devnet; `wmall devnet up --dir {0}` makes one")]
    Missing(String),
    /// No node of that name.
    #[error("there is no node named {name}; there are {known}")]
    UnknownNode {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It runs, and should not.
    #[error("{0} is running already")]
    Running(String),
    /// It did not come up.
    #[error("{what} within {seconds} s; the logs are in {logs}")]
    NotReady {
        /// What did not happen.
        what: String,
        /// How long it was waited for.
        seconds: u64,
        /// Where to look.
        logs: String,
    },
    /// The numbers make no cluster.
    #[error("{0}")]
    Plan(String),
    /// The file system's or the process table's error.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The cluster's own error.
    #[error(transparent)]
    Client(#[from] wmall_client::ClientError),
    /// The certificates could not be made.
    #[error(transparent)]
    Authority(#[from] wmall_transport::AuthorityError),
    /// A node's own error.
    #[error("{0}")]
    Node(String),
}

/// Puts a place to an I/O error.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> DevnetError {
    let what = format!("cannot use {}", path.display());
    move |source| DevnetError::Io { what, source }
}
