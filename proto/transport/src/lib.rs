//! Calls between the processes of a cluster: QUIC with mutual TLS, one stream a call.
//!
//! A call is a frame (length and encoded [`wmall_proto::rpc::Request`]), then bulk bytes if the call
//! carries any; the answer has the same form. Who may make which call is checked here, by the role in
//! the caller's certificate, before a handler sees it.
//!
//! Deliberately absent: retries of anything but calls to the metadata nodes that say they are safe to
//! repeat (`members.rs`), and any queue of its own: QUIC's windows and
//! the rooms of each holder (`holders.rs`) are the bounds.

#![warn(missing_docs)]

mod authority;
mod body;
mod clock;
mod credentials;
mod endpoint;
mod files;
mod holders;
mod identity;
mod issuer;
mod join;
mod members;
mod outgoing;
mod pool;
mod rate;
mod renewal;
mod said;
mod serve;
mod share;
mod socket;
#[cfg(test)]
mod testing;
mod tls;
mod tuning;

pub use authority::{AuthorityError, create_authority, create_issuer};
pub use body::{Body, check_length, collect};
pub use endpoint::{BindError, Endpoint};
pub use holders::{Answers, Holder, is_privileged};
pub use identity::{Identity, IdentityError, Peer};
pub use issuer::{Issuer, LONGEST_LIFE, Subject, requested_key};
pub use join::{JoinError, JoinHandler, JoinServer, join};
pub use members::{Members, Refused};
pub use outgoing::{Call, Reply, Target};
pub use rate::{Rate, Rates};
pub use renewal::{RenewBy, Renewal};
pub use serve::{Handler, Incoming, Replier};
pub use share::{Bounds, Ledger, Part, Place, Refusal, Room, Standing, Taken};
