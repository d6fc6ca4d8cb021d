//! Who may join, what users may do, and whose certificates are refused.
//!
//! Tokens are few and short-lived, and are held in memory beside the map; users are read from the map.

use wmall_proto::identity::{Actor, MAX_SCOPES, Revocation, Scope, TokenId, TokenRecord, User};
use wmall_proto::rpc::Response;
use wmall_proto::topology::MAX_REVOKED;
use wmall_proto::{ErrorCode, NodeName, Role, RpcError};
use wmall_runtime::view::StoreError;

use super::apply::{Context, Outcome, Refusal};
use super::recent::Part;
use super::txn::decode;
use super::{State, keys};

/// Tokens that may be good at once.
const MAX_TOKENS: usize = 1024;
/// No certificate lives longer, so what was revoked before is refused anyway.
pub(crate) const LONGEST_LIFE_MS: u64 = wmall_transport::LONGEST_LIFE.as_millis() as u64;

impl Context<'_> {
    pub(super) fn create_token(&mut self, token: TokenRecord) -> Outcome {
        if self.derived.join_tokens.contains_key(&token.id) {
            return Err(RpcError::new(ErrorCode::AlreadyExists, "there is such a token already").into());
        }
        let now = self.now_ms;
        let expired = self.derived.join_tokens.values().filter(|t| t.expires_ms <= now).map(|t| t.id);
        let expired: Vec<TokenId> = expired.collect();
        if self.derived.join_tokens.len() - expired.len() >= MAX_TOKENS {
            let reason = format!("there are {MAX_TOKENS} tokens that have not expired");
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason)
                .hint("`wmall node token rm` makes one void")
                .into());
        }
        for id in expired {
            self.remove_token(id);
        }
        self.txn.put(keys::token(&token.id), &token);
        self.derived.join_tokens.insert(token.id, token);
        Ok(Response::Done)
    }

    fn remove_token(&mut self, id: TokenId) {
        self.txn.remove(keys::token(&id));
        self.derived.join_tokens.remove(&id);
    }

    pub(super) fn drop_token(&mut self, id: TokenId) -> Outcome {
        if !self.derived.join_tokens.contains_key(&id) {
            return Err(RpcError::not_found(format!("token {id}")).hint("`wmall node token ls`").into());
        }
        self.remove_token(id);
        Ok(Response::Done)
    }

    /// A token is used once. The same key may ask again, since the answer may have been lost on its way.
    pub(super) fn use_token(&mut self, id: TokenId, name: NodeName, key: [u8; 32]) -> Outcome {
        let bad = |why: String| {
            RpcError::new(ErrorCode::BadToken, why)
                .hint("ask an operator for a new one: `wmall node token create`")
        };
        let token = self.derived.join_tokens.get(&id).filter(|t| t.expires_ms > self.now_ms);
        let Some(token) = token.cloned() else {
            return Err(bad("the token is unknown or has expired".into()).into());
        };
        match &token.used {
            Some(used) if *used == (name.clone(), key) => return Ok(Response::Done),
            Some((by, _)) => return Err(bad(format!("the token was used, by {by}")).into()),
            None => {}
        }
        match &token.name {
            Some(bound) if *bound != name => {
                return Err(bad(format!("the token is for {bound}, not for {name}")).into());
            }
            None if self.is_taken(&name) => {
                let reason = format!("somebody goes by the name {name} already");
                return Err(RpcError::new(ErrorCode::AlreadyExists, reason)
                    .hint("choose another name; a node that is to come back needs a token made for its name")
                    .into());
            }
            _ => {}
        }
        if matches!(token.role, Role::Client | Role::Validator) {
            let known: Option<User> = self.txn.get(&keys::user(&name))?;
            if known.is_none() || !token.scopes.is_empty() {
                let scopes = token.scopes.clone();
                self.txn.put(keys::user(&name), &User { name: name.clone(), scopes });
            }
        }
        self.note_holder(token.role, &name)?;
        if token.role == Role::Data && token.wait_for_layout {
            self.wait_for_layout(&name);
        }
        self.note(None, format!("join as {} {name} with token {id}", token.role), None);
        let used = TokenRecord { used: Some((name, key)), ..token };
        self.txn.put(keys::token(&id), &used);
        self.derived.join_tokens.insert(id, used);
        Ok(Response::Done)
    }

    /// Whether somebody goes by this name already, or is about to.
    fn is_taken(&self, name: &NodeName) -> bool {
        let promised = |t: &TokenRecord| {
            let used = t.used.as_ref().map(|(name, _)| name);
            t.expires_ms > self.now_ms && (t.name.as_ref() == Some(name) || used == Some(name))
        };
        self.derived.topology.nodes.contains_key(name)
            || self.is_member(name)
            || self.derived.join_tokens.values().any(promised)
    }

    fn is_member(&self, name: &NodeName) -> bool {
        self.derived.applied.membership.nodes().any(|(_, member)| member.name == name.as_str())
    }

    /// Keeps in mind that somebody has gone by this name in this role. Certificates are listed nowhere.
    pub(super) fn note_holder(&mut self, role: Role, name: &NodeName) -> Result<(), StoreError> {
        let key = keys::holder(&Actor { role, name: name.clone() });
        if self.txn.get::<()>(&key)?.is_none() {
            self.txn.put(key, &());
        }
        Ok(())
    }

    /// The roles in which a name is known: it was registered, joined, was promised a token or scopes, has
    /// acted, or was revoked before.
    fn roles_of(&self, name: &NodeName) -> Result<Vec<Role>, StoreError> {
        let mut roles = Vec::new();
        for role in Role::ALL {
            let actor = Actor { role, name: name.clone() };
            let revoked = self.derived.topology.revoked.iter().any(|r| r.actor == actor);
            let token = self.derived.join_tokens.values().any(|t| is_of(t, &actor));
            if revoked || token || self.txn.get::<()>(&keys::holder(&actor))?.is_some() {
                roles.push(role);
            }
        }
        // A name that was given scopes and never joined is a user's of either kind.
        let users = [Role::Validator, Role::Client];
        if !roles.iter().any(|r| users.contains(r)) && self.txn.get::<User>(&keys::user(name))?.is_some() {
            roles.extend(users);
        }
        Ok(roles)
    }

    /// The role in which a name is to be revoked if nobody says one.
    fn only_role_of(&self, name: &NodeName) -> Result<Role, Refusal> {
        match self.roles_of(name)?.as_slice() {
            [role] => Ok(*role),
            [] => Err(RpcError::not_found(format!("{name} among the nodes, users and operators that are known"))
                .hint(
                    "`wmall node ls`, `wmall user ls`, `wmall meta member ls` and `wmall audit` show names; for a \
                     certificate that was issued offline say the role: --role",
                )
                .into()),
            several => {
                let roles: Vec<&str> = several.iter().map(|r| r.as_str()).collect();
                let reason = format!("{name} may be a certificate of these roles: {}", roles.join(", "));
                Err(RpcError::new(ErrorCode::BadRequest, reason).hint("say which one: --role").into())
            }
        }
    }

    /// Refuses certificates that were issued by a map of before this entry: one says so of itself in its
    /// serial number. A metadata node can issue itself another, so its name is refused for good. A role that
    /// is said need not be known: certificates may have been issued offline.
    pub(super) fn revoke(&mut self, name: NodeName, role: Option<Role>, by: Option<Actor>) -> Outcome {
        let role = match role {
            Some(role) => role,
            None => self.only_role_of(&name)?,
        };
        let actor = Actor { role, name };
        if by.as_ref() == Some(&actor) {
            let reason = "nobody revokes their own certificate";
            return Err(RpcError::new(ErrorCode::BadRequest, reason)
                .hint("let another operator do it")
                .into());
        }
        if actor.role == Role::Metadata && self.is_member(&actor.name) {
            let reason = format!("{} is a member; the others would lose it", actor.name);
            return Err(RpcError::new(ErrorCode::Locked, reason)
                .hint("let it go first: `wmall meta member ls`, `wmall meta member rm ID`")
                .into());
        }
        let known = self.derived.topology.revoked.iter().any(|r| r.actor == actor);
        let ended = |r: &Revocation| {
            r.before != Revocation::FOR_GOOD && r.at_ms.saturating_add(LONGEST_LIFE_MS) < self.now_ms
        };
        let revoked = &self.derived.topology.revoked;
        let expired: Vec<Actor> = revoked.iter().filter(|r| ended(r)).map(|r| r.actor.clone()).collect();
        if !known && revoked.len() - expired.len() >= MAX_REVOKED {
            let reason = format!("{MAX_REVOKED} holders are refused already");
            return Err(RpcError::new(ErrorCode::OutOfBounds, reason)
                .hint("entries go 400 days after their revocation; until then, a new CA refuses everybody")
                .into());
        }
        expired.iter().for_each(|actor| self.txn.remove(keys::revoked(actor)));
        // A token that made this holder, or would, must not make it again.
        let tokens = self.derived.join_tokens.values().filter(|t| is_of(t, &actor)).map(|t| t.id);
        let tokens: Vec<TokenId> = tokens.collect();
        tokens.into_iter().for_each(|id| self.remove_token(id));
        let at_ms = self.now_ms;
        let topology = self.change_topology(Part::Rest);
        let before = if actor.role == Role::Metadata { Revocation::FOR_GOOD } else { topology.version };
        let revocation = Revocation { actor: actor.clone(), before, at_ms };
        let revoked = &mut topology.revoked;
        revoked.retain(|r| r.actor != actor && !expired.contains(&r.actor));
        let at = revoked.partition_point(|r| r.actor < actor);
        revoked.insert(at, revocation.clone());
        self.txn.put(keys::revoked(&actor), &revocation);
        Ok(Response::Revoked(actor))
    }

    pub(super) fn set_scopes(&mut self, user: User) -> Outcome {
        match user.scopes.len() {
            0 => self.txn.remove(keys::user(&user.name)),
            1..=MAX_SCOPES => self.txn.put(keys::user(&user.name), &user),
            many => {
                let reason = format!("{many} scopes for one user; {MAX_SCOPES} at most");
                return Err(RpcError::new(ErrorCode::OutOfBounds, reason).into());
            }
        }
        Ok(Response::Done)
    }
}

/// True if a token made this holder, or would.
fn is_of(token: &TokenRecord, actor: &Actor) -> bool {
    let used = token.used.as_ref().map(|(name, _)| name);
    token.role == actor.role && (token.name.as_ref() == Some(&actor.name) || used == Some(&actor.name))
}

impl State {
    /// A token that has not been forgotten.
    pub fn token(&self, id: &TokenId) -> Option<TokenRecord> {
        self.read().join_tokens.get(id).cloned()
    }

    /// What a user may do; nothing, if nobody said.
    pub fn scopes(&self, name: &NodeName) -> Result<Vec<Scope>, StoreError> {
        let _one_map = self.read();
        let stored = self.store.get(&keys::user(name))?;
        Ok(stored.map(|bytes| decode::<User>(&bytes)).transpose()?.map(|u| u.scopes).unwrap_or_default())
    }
}
