//! The SDK: files in, files out, every byte verified.
//!
//! [`Store::connect`] needs a configuration (`client.toml`); [`Store::put`] and [`Store::get`] stream with
//! bounded memory, retry and fail over by themselves, and may be dropped at any point: nothing goes on
//! behind the caller's back, and no half-put file ever becomes visible.

#![warn(missing_docs)]

mod admin;
mod config;
mod error;
mod gather;
mod get;
mod identity;
mod latency;
mod map;
mod put;
mod refusals;
mod running;
mod store;
mod verify;

pub use config::ClientConfig;
pub use error::ClientError;
pub use get::{Download, Source};
pub use put::{BeforeCommit, PutOptions, PutSummary};
pub use store::{Progress, Store};
pub use verify::{VerifyReport, VerifyTrouble};
