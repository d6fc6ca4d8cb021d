//! Who may join, what users may do, and who did what.

use std::time::Duration;

use wmall_proto::identity::{Actor, AuditRecord, Scope, TokenId, TokenRecord, User};
use wmall_proto::join::JoinToken;
use wmall_proto::rpc::{Query, QueryReply, Request, Response, UserCommand};
use wmall_proto::{ErrorCode, NodeName, Role, RpcError};

use crate::error::ClientError;
use crate::store::{Store, unexpected};

impl Store {
    /// Makes a join token. Its secret is drawn here; the metadata nodes learn its id only. With
    /// `wait_for_layout` every disk of the data node that joins with it waits for an operator.
    pub async fn create_token(
        &self,
        role: Role,
        name: Option<NodeName>,
        scopes: Vec<Scope>,
        ttl: Duration,
        wait_for_layout: bool,
    ) -> Result<JoinToken, ClientError> {
        let mut metadata = Vec::new();
        for answer in self.inner.members.call_each(&Request::JoinAddress).await? {
            match answer {
                Response::JoinAddress(address) => metadata.extend(address),
                _ => return Err(unexpected().into()),
            }
        }
        if metadata.is_empty() {
            let reason = "no metadata node that answers has a join port";
            return Err(RpcError::new(ErrorCode::Unsupported, reason)
                .hint("set `join_listen` in the configuration of the metadata nodes")
                .into());
        }
        let token = JoinToken {
            cluster: self.inner.endpoint.cluster(),
            ca: self.inner.endpoint.ca_fingerprint(),
            secret: wmall_runtime::random::bytes(),
            role,
            name: name.clone(),
            metadata,
        };
        let ttl_ms = ttl.as_millis() as u64;
        let id = token.id();
        self.administer(UserCommand::CreateToken { id, role, name, scopes, ttl_ms, wait_for_layout }).await?;
        Ok(token)
    }

    /// Tokens that have not expired, used ones among them.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, ClientError> {
        match self.inner.read(Query::Tokens).await? {
            QueryReply::Tokens(tokens) => Ok(tokens),
            _ => Err(unexpected().into()),
        }
    }

    /// Makes a token void.
    pub async fn drop_token(&self, id: TokenId) -> Result<(), ClientError> {
        self.administer(UserCommand::DropToken(id)).await
    }

    /// Has everybody refuse the certificates that somebody has now, and returns who that is. Without a role
    /// the name has to be known in one role only: else `not_found`, or `bad_request` if there are several.
    pub async fn revoke(&self, name: NodeName, role: Option<Role>) -> Result<Actor, ClientError> {
        let command = UserCommand::Revoke { name, role };
        match self.inner.command(|request| Request::Administer { request, command }).await? {
            Response::Revoked(actor) => Ok(actor),
            _ => Err(unexpected().into()),
        }
    }

    /// Says what a user may do from now on; with no scopes, nothing.
    pub async fn set_scopes(&self, user: User) -> Result<(), ClientError> {
        self.administer(UserCommand::SetScopes(user)).await
    }

    /// All users.
    pub async fn users(&self) -> Result<Vec<User>, ClientError> {
        let mut all: Vec<User> = Vec::new();
        loop {
            let after = all.last().map(|u| u.name.clone());
            match self.inner.read(Query::Users { after, limit: 1000 }).await? {
                QueryReply::Users { users, more } => {
                    all.extend(users);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(unexpected().into()),
            }
        }
    }

    /// A page of the audit log from this line on, and whether there is more.
    pub async fn audit_log(&self, first: u64, limit: u32) -> Result<(Vec<AuditRecord>, bool), ClientError> {
        match self.inner.read(Query::Audit { first, limit }).await? {
            QueryReply::Audit { lines, more } => Ok((lines, more)),
            _ => Err(unexpected().into()),
        }
    }
}
