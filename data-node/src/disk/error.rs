//! Why a disk is not in use, and why it takes something not now or not any more.

use wmall_journal::{AppendError, OpenError, Trouble};
use wmall_proto::{ErrorCode, RpcError};
use wmall_runtime::FolderError;
use wmall_runtime::view::StoreError;

use super::superblock::FormatError;

/// Why a disk is not in use.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each is the error of the part it names.
pub enum DiskError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(
        "the disk's journal does not open; nothing was changed. Wipe the disk to have the cluster fill it anew, \
         or restore it"
    )]
    Journal(#[from] OpenError),
    #[error("the disk's folder cannot be used")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Index(#[from] StoreError),
}

impl DiskError {
    /// Whether the process is short of files, memory or threads, which says nothing of the disk.
    pub(crate) fn is_of_process(&self) -> bool {
        let error = match self {
            Self::Folder(FolderError::Io { source, .. }) | Self::Format(FormatError::Io { source, .. }) => {
                source
            }
            Self::Journal(OpenError::Io(source)) | Self::Io(source) => source,
            _ => return false,
        };
        Trouble::of(error) == Trouble::Process
    }
}

/// The process is short of something, which is no fault of the disk.
pub(crate) fn starved(error: &std::io::Error) -> RpcError {
    RpcError::new(ErrorCode::Busy, format!("the node is short of files or memory: {error}"))
        .hint("raise the limit of open files, or add memory")
}

pub(super) fn append_failed(name: &str, error: &AppendError) -> RpcError {
    match error {
        AppendError::Fenced(why) => fenced(name, why),
        AppendError::Full => full(name),
        AppendError::Busy => RpcError::new(ErrorCode::Busy, format!("disk {name} can't take more now")),
        AppendError::Closed => RpcError::new(ErrorCode::ShuttingDown, "the data node is stopping"),
        AppendError::TooLarge(_) => RpcError::new(ErrorCode::OutOfBounds, error.to_string()),
    }
}

pub(super) fn fenced(name: &str, why: &str) -> RpcError {
    RpcError::new(ErrorCode::DiskFailed, format!("disk {name} takes no more writes: {why}"))
        .hint("replace the disk, or restart the node to have it checked")
}

pub(super) fn full(name: &str) -> RpcError {
    RpcError::new(ErrorCode::DiskFull, format!("disk {name} is full")).hint("add disks or nodes")
}
