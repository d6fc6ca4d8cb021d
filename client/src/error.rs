//! What a call of the SDK may fail with.

use wmall_manifest::ManifestError;
use wmall_proto::{ErrorCode, RpcError};
use wmall_transport::{BindError, IdentityError};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The cluster said no, or could not be reached.
    #[error(transparent)]
    Cluster(#[from] RpcError),
    /// The caller's own reader or writer failed.
    #[error("{what}: {source}")]
    Local {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// What was asked for is no file.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The identity can't be loaded.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No socket could be had.
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl ClientError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Cluster(error) => error.code,
            Self::Manifest(ManifestError::ChunkSize(_)) => ErrorCode::OutOfBounds,
            Self::Manifest(_) => ErrorCode::Corrupt,
            Self::Identity(_) => ErrorCode::Denied,
            Self::Local { .. } | Self::Bind(_) => ErrorCode::Internal,
        }
    }

    /// What to try; may be empty.
    pub fn hint(&self) -> &str {
        match self {
            Self::Cluster(error) => &error.hint,
            _ => "",
        }
    }
}
