//! What every long-running process needs and no two should do differently: configuration, logging,
//! the operations' HTTP endpoint, the lock on its folder, and stopping; and the files that commands write.

#![warn(missing_docs)]

pub mod ballast;
pub mod boot;
mod bounded;
pub mod clock;
pub mod config;
pub mod files;
pub mod folder;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod ops;
pub mod out_file;
pub mod random;
pub mod shutdown;
pub mod view;
pub mod volume;

pub use config::ConfigError;
pub use folder::{FolderError, FolderLock};
pub use ops::{Ops, OpsConfig, Readiness};
pub use out_file::{OutFile, ScratchFolder};
pub use shutdown::Shutdown;
