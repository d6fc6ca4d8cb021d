//! Lets new nodes and users in, and gives those that are in new certificates.
//!
//! A token is used up by a Raft entry before its certificate is issued: of two who show the same one, one gets
//! in. The leader issues, to strangers and for renewals: it alone knows of every revocation.

use std::sync::Arc;
use std::time::Duration;

use wmall_proto::identity::{Revocation, TokenId, TokenRecord};
use wmall_proto::join::{IssuedCertificate, JoinReply, JoinRequest};
use wmall_proto::{ChunkId, ErrorCode, NodeName, Role, RpcError};
use wmall_transport::{Issuer, JoinHandler, Peer, Subject};

use crate::command::Command;
use crate::leader::{ClusterClock, Proposer, ReadIndex};
use crate::state::State;

/// How long certificates are valid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetimes {
    pub(crate) node: Duration,
    pub(crate) user: Duration,
}

impl Lifetimes {
    fn of(self, role: Role) -> Duration {
        match role {
            Role::Metadata | Role::Data | Role::Validator => self.node,
            Role::Client | Role::Admin => self.user,
        }
    }
}

/// The doorkeeper.
pub(crate) struct Door {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) state: Arc<State>,
    pub(crate) proposer: Proposer,
    pub(crate) reads: ReadIndex,
    pub(crate) clock: Arc<ClusterClock>,
}

impl JoinHandler for Door {
    async fn join(&self, request: JoinRequest) -> JoinReply {
        let JoinRequest { secret, name, csr } = request;
        let id = TokenId::of(&secret);
        self.reads.wait().await?;
        let map_version = self.state.topology().version;
        // Who knows no token makes no log grow.
        let key = ChunkId::of(&wmall_transport::requested_key(&csr)?).0;
        let asker = (name.clone(), key);
        let good = |t: &TokenRecord| {
            t.expires_ms > self.clock.now_ms() && t.used.as_ref().is_none_or(|used| *used == asker)
        };
        let token = self.state.token(&id);
        if let Some((by, _)) = token.as_ref().and_then(|t| t.used.as_ref()).filter(|used| **used != asker) {
            return Err(bad_token(format!("the token was used, by {by}")));
        }
        let Some(token) = token.filter(good) else {
            return Err(bad_token("the token is unknown or has expired".into()));
        };
        self.proposer.propose(None, Command::UseToken { id, name: name.clone(), key }).await?;
        tracing::info!(token = %id, role = %token.role, %name, "a token was used");
        self.issue(token.role, name, &csr, map_version)
    }
}

fn bad_token(why: String) -> RpcError {
    RpcError::new(ErrorCode::BadToken, why).hint("ask an operator for a new one: `wmall node token create`")
}

impl Door {
    /// A new certificate for a caller whose present one has been accepted.
    pub(crate) async fn renew(&self, peer: &Peer, csr: &[u8]) -> Result<IssuedCertificate, RpcError> {
        // A member that is cut off from the others may not know of a revocation.
        self.reads.wait().await?;
        // The connection was let in; what was revoked since then must not live on by renewal.
        let topology = self.state.topology();
        if peer.is_revoked(&topology.revoked) {
            return Err(RpcError::new(ErrorCode::Denied, "the certificate was revoked"));
        }
        self.issue(peer.role, peer.node.clone(), csr, topology.version)
    }

    /// Issues by the map that the holder was judged by: a revocation that comes meanwhile refuses this
    /// certificate too.
    fn issue(
        &self,
        role: Role,
        node: NodeName,
        csr: &[u8],
        map_version: u64,
    ) -> Result<IssuedCertificate, RpcError> {
        let topology = self.state.topology();
        let revoked = topology.revoked.iter().find(|r| r.actor.role == role && r.actor.name == node);
        if revoked.is_some_and(|r| r.before == Revocation::FOR_GOOD) {
            let reason = format!("metadata node {node} was revoked, for good");
            return Err(RpcError::new(ErrorCode::Denied, reason).hint("choose another name"));
        }
        let lifetime = self.lifetimes.of(role);
        self.issuer.answer(csr, &Subject { role, node, lifetime, map_version })
    }
}
