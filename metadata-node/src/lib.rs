//! A metadata node: keeps what files are made of and where their chunks live, agreed on by Raft.
//!
//! The way of a call: `service.rs` checks it; reads go to `state/query.rs` (after a shared round of
//! `leader/read_index.rs` if they must be linearizable); changes go through `leader/propose.rs` into the
//! log (`raft/log_store.rs`, on the journal), and from there, on every member, to `state/apply.rs`.
//! Deliberately absent: pieces, and any decision about placement, which is in the crate `placement`.

mod authorize;
mod backup;
mod bootstrap;
mod born;
mod catch_up;
mod command;
mod config;
mod gauge;
mod init;
mod join;
mod leader;
mod members;
mod node;
mod operate;
mod ops;
mod raft;
mod rebuild;
mod receipts;
mod recover;
mod service;
mod state;
mod status;
mod survivor;
mod types;
mod view;

pub use backup::{BackupConfig, RestoreError, restore, verify as verify_snapshot};
pub use config::{Config, MemberEntry, RawConfig};
pub use gauge::VolumeConfig;
pub use init::{InitError, found, init};
pub use node::{RunError, run};
pub use raft::{NotAMember, SnapshotSummary};
pub use rebuild::{OtherMap, RebuildError, Rebuilt, rebuild};
pub use recover::{RecoverError, Recovered};
pub use state::Audit;
pub use survivor::{KnownMember, Standing, Survivor, SurvivorError};
