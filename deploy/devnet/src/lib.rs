//! A whole cluster on one machine: its folders and configurations, its processes, and a demonstration.
//!
//! `D/devnet.json` says which nodes there are and which processes they run in; the commands that follow
//! (`kill`, `start`, `down`, …) read it, so they work from any shell.

#![warn(missing_docs)]

pub mod blocks;
mod cluster;
pub mod demo;
mod error;
mod in_process;
mod layout;
mod process;
mod state;

pub use cluster::{Devnet, NodeView, UpOptions};
pub use error::DevnetError;
pub use in_process::InProcess;
pub use layout::{Layout, NodeKind, NodePlan, Settings, write_cluster};
pub use state::NodeEntry;
