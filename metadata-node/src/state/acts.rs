//! The audit log: a line for every act of an operator, done or refused, each with the hash of the one before.
//! Lines are added by the entry that carries the act, and never changed or removed.

use wmall_proto::ErrorCode;
use wmall_proto::identity::{Actor, AuditRecord};
use wmall_proto::job::JobKind;
use wmall_proto::rpc::NameCommand;

use super::apply::Context;
use super::keys;
use crate::command::{Command, Operate};

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

/// A bucket's rules, spelled by hand: these words are hashed, on members of two versions alike.
fn rule_words(
    retention_ms: Option<u64>,
    undelete_ms: Option<u64>,
    (max_objects, max_bytes): (Option<Option<u64>>, Option<Option<u64>>),
) -> String {
    let mut words = String::new();
    let quota = |limit: Option<u64>| limit.map_or_else(|| "none".to_string(), |n| n.to_string());
    let mut add = |option: &str, value: Option<String>| {
        words.extend(value.map(|value| format!(" --{option} {value}")));
    };
    add("retain", retention_ms.map(|ms| format!("{ms}ms")));
    add("undelete", undelete_ms.map(|ms| format!("{ms}ms")));
    add("max-objects", max_objects.map(quota));
    add("max-bytes", max_bytes.map(quota));
    words
}

fn operation(operate: &Operate) -> Option<String> {
    Some(match operate {
        Operate::StartJob { kind: JobKind::Drain, what, .. } => format!("drain {what}"),
        Operate::StartJob { kind: JobKind::Replace, what, .. } => format!("disk replace {what}"),
        Operate::Undrain { what, .. } => format!("undrain {what}"),
        Operate::ChangeJob { number, change } => format!("job {} {number}", change.as_str()),
        Operate::SetMaintenance { node, until_ms: Some(until) } => {
            format!("node maintenance {node} until {until}")
        }
        Operate::SetMaintenance { node, until_ms: None } => format!("node maintenance {node} --end"),
        Operate::StageWeight { disk, weight } => format!("layout stage {disk} --weight {weight}"),
        Operate::StageWaiting { node } => format!("layout accept {node}"),
        Operate::ApplyLayout { version } => format!("layout apply --draft {version}"),
        Operate::RevertLayout => "layout revert".into(),
        Operate::Mute { code, until_ms: Some(until) } => format!("health mute {code} until {until}"),
        Operate::Mute { code, until_ms: None } => format!("health unmute {code}"),
        Operate::Forget { what, .. } => format!("disk rm {what}"),
        Operate::Release { what, .. } => format!("disk release {what}"),
        Operate::EndJobs(_) => return None,
    })
}

/// What a command does, in the words of the command line; none for what is no operator's act.
pub(super) fn act_of(command: &Command) -> Option<String> {
    let act = match command {
        Command::Operate(operate) => return operation(operate),
        Command::CreatePool { name, scheme, pg_bits, .. } => {
            format!("pool create {name} --scheme {scheme} --pgs {}", 1u64 << pg_bits)
        }
        Command::CreateBucket { name, pool, rules } => {
            let (retention, undelete) = (Some(rules.retention_ms), Some(rules.undelete_ms));
            let quotas = (Some(rules.max_objects), Some(rules.max_bytes));
            format!("bucket create {name} --pool {pool}{}", rule_words(retention, undelete, quotas))
        }
        Command::ChangeBucket { name, change } => {
            let quotas = (change.max_objects, change.max_bytes);
            format!("bucket set {name}{}", rule_words(change.retention_ms, change.undelete_ms, quotas))
        }
        Command::Name(NameCommand::Remove { bucket, name, .. }) => format!("rm {bucket}/{name} --purge"),
        Command::Name(NameCommand::Unpin { file, .. }) => format!("rm {file} --purge"),
        Command::RemoveBucket { name, purge: false } => format!("bucket rm {name}"),
        Command::RemoveBucket { name, purge: true } => format!("bucket rm {name} --purge"),
        Command::AllowDeletion { .. } => "meta allow-deletion".into(),
        Command::CreateToken(token) => {
            let name = token.name.as_ref().map_or("any", |n| n.as_str());
            let scopes: Vec<String> = token.scopes.iter().map(ToString::to_string).collect();
            format!(
                "node token create {} --role {} --name {name} until {} [{}]{}",
                token.id,
                token.role,
                token.expires_ms,
                scopes.join(" "),
                if token.wait_for_layout { " --wait-for-layout" } else { "" }
            )
        }
        Command::DropToken(id) => format!("node token rm {id}"),
        Command::Revoke { name, role: Some(role), .. } => format!("node revoke {role} {name}"),
        // Once it is done, the role that was found stands in the line.
        Command::Revoke { name, role: None, .. } => format!("node revoke {name}"),
        Command::SetScopes(user) => {
            let scopes: Vec<String> = user.scopes.iter().map(ToString::to_string).collect();
            format!("user set {} [{}]", user.name, scopes.join(" "))
        }
        Command::Note { act } => act.clone(),
        _ => return None,
    };
    Some(act)
}
