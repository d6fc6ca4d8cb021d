//! The audit log: a line for every act of an operator, done or refused, each with the hash of the one before.
//! Lines are added by the entry that carries the act, and never changed or removed.

use wmall_proto::ErrorCode;
use wmall_proto::identity::{Actor, AuditRecord};

use super::apply::Context;
use super::keys;
use crate::command::Command;

impl Context<'_> {
    /// Adds a line, if the command is an act of somebody's.
    pub(super) fn note(&mut self, by: Option<Actor>, act: String, refused: Option<ErrorCode>) {
        let counters = &mut self.derived.counters;
        counters.acts += 1;
        let line = AuditRecord {
            number: counters.acts,
            at_ms: self.now_ms,
            by,
            act,
            refused,
            before: counters.last_act,
        };
        counters.last_act = line.hash();
        self.txn.put(keys::act(line.number), &line);
    }
}

/// What a command does, in the words of the command line; none for what is no operator's act.
pub(super) fn act_of(command: &Command) -> Option<String> {
    let act = match command {
        Command::CreatePool { name, scheme, pg_bits, .. } => {
            format!("pool create {name} --scheme {scheme} --pgs {}", 1u64 << pg_bits)
        }
        Command::CreateBucket { name, pool, rules } => {
            format!("bucket create {name} --pool {pool}: {rules:?}")
        }
        Command::ChangeBucket { name, change } => format!("bucket set {name}: {change:?}"),
        Command::RemoveBucket { name } => format!("bucket rm {name}"),
        Command::AllowDeletion { .. } => "meta allow-deletion".into(),
        Command::CreateToken(token) => {
            let name = token.name.as_ref().map_or("any", |n| n.as_str());
            let scopes: Vec<String> = token.scopes.iter().map(ToString::to_string).collect();
            format!(
                "node token create {} --role {} --name {name} until {} [{}]",
                token.id,
                token.role,
                token.expires_ms,
                scopes.join(" ")
            )
        }
        Command::DropToken(id) => format!("node token rm {id}"),
        Command::Revoke(actor) => format!("node revoke {actor}"),
        Command::SetScopes(user) => {
            let scopes: Vec<String> = user.scopes.iter().map(ToString::to_string).collect();
            format!("user set {} [{}]", user.name, scopes.join(" "))
        }
        Command::Note { act } => act.clone(),
        _ => return None,
    };
    Some(act)
}
