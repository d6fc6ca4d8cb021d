//! What every long-running process needs and no two should do differently: configuration, logging,
//! the operations' HTTP endpoint, the lock on its folder, and stopping.

#![warn(missing_docs)]

pub mod ballast;
pub mod boot;
pub mod clock;
pub mod config;
pub mod folder;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod ops;
pub mod random;
pub mod shutdown;
pub mod view;
pub mod volume;

pub use config::ConfigError;
pub use folder::{FolderError, FolderLock};
pub use ops::{Ops, OpsConfig, Readiness};
pub use shutdown::Shutdown;
