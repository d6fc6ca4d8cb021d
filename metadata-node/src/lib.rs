//! x
mod command;
mod raft;
mod state;
mod types;
