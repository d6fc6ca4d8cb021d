//! `node token`, `node revoke`, `user`, `audit`.

use std::time::Duration;

use serde::Serialize;
use wmall_proto::identity::{AuditRecord, Scope, TokenId, TokenRecord, User};
use wmall_proto::{NodeName, Role};

use super::{Context, join};
use crate::args::{AuditArgs, TokenCommand, UserCommand};
use crate::exit::Failure;
use crate::output::{table, time};

/// A token as it is handed over.
#[derive(Serialize)]
struct NewToken {
    id: TokenId,
    role: Role,
    name: Option<NodeName>,
    scopes: Vec<Scope>,
    ttl_ms: u64,
    token: String,
}

pub(super) async fn token(context: &Context, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { role, name, scopes, ttl, wait_for_layout } => {
            create(context, role.into(), name, scopes, ttl, wait_for_layout).await
        }
        TokenCommand::Ls => {
            let store = context.connect().await?;
            let tokens = store.tokens().await?;
            store.close().await;
            context.format.print(&tokens, |all| {
                table(&["id", "role", "name", "scopes", "expires", "by", "used"], all.iter().map(row))
            })
        }
        TokenCommand::Rm { id } => {
            let store = context.connect().await?;
            let tokens = store.tokens().await?;
            let found = tokens.iter().find(|t| t.id.short() == id).map(|t| t.id);
            let found = found.ok_or_else(|| {
                Failure::check("not_found", format!("there is no token {id}")).hint("`wmall node token ls`")
            })?;
            store.drop_token(found).await?;
            store.close().await;
            Ok(())
        }
    }
}

async fn create(
    context: &Context,
    role: Role,
    name: Option<NodeName>,
    scopes: Vec<Scope>,
    ttl: Duration,
    wait_for_layout: bool,
) -> Result<(), Failure> {
    if wait_for_layout && role != Role::Data {
        return Err(Failure::check("bad_request", "only data nodes have a place in the layout".to_string())
            .hint("leave out --wait-for-layout"));
    }
    let store = context.connect().await?;
    let token = store.create_token(role, name.clone(), scopes.clone(), ttl, wait_for_layout).await?;
    store.close().await;
    let ttl_ms = ttl.as_millis() as u64;
    let new = NewToken { id: token.id(), role, name, scopes, ttl_ms, token: token.to_string() };
    if !context.quiet {
        eprintln!("token {} for one {role}, good for {}", new.id, humantime::format_duration(ttl));
    }
    context.format.print(&new, |new| new.token.clone())
}

fn row(token: &TokenRecord) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    vec![
        token.id.to_string(),
        token.role.to_string(),
        or_dash(token.name.as_ref().map(ToString::to_string)),
        words(&token.scopes),
        time(token.expires_ms),
        or_dash(token.created_by.as_ref().map(|by| by.name.to_string())),
        or_dash(token.used.as_ref().map(|(name, _)| name.to_string())),
    ]
}

fn words(scopes: &[Scope]) -> String {
    let words: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    if words.is_empty() { "-".into() } else { words.join(" ") }
}

pub(super) async fn revoke(context: &Context, name: NodeName, role: Option<Role>) -> Result<(), Failure> {
    let store = context.connect().await?;
    let revoked = store.revoke(name, role).await?;
    store.close().await;
    context.format.print(&revoked, |revoked| format!("revoked: {revoked}"))?;
    if revoked.role == Role::Metadata && !context.quiet {
        let name = revoked.name;
        eprintln!(
            "{name} is refused for good; it also had the key that certificates are issued with: if somebody else \
             may have it now, the cluster needs a new CA (SECURITY.md)"
        );
    }
    Ok(())
}

pub(super) async fn user(context: &Context, command: UserCommand) -> Result<(), Failure> {
    match command {
        UserCommand::Init { join: token, dir } => join::user(&token, &dir).await,
        UserCommand::Ls => {
            let store = context.connect().await?;
            let users = store.users().await?;
            store.close().await;
            context.format.print(&users, |all| {
                table(&["user", "scopes"], all.iter().map(|u| vec![u.name.to_string(), words(&u.scopes)]))
            })
        }
        UserCommand::Set { name, scopes } => {
            let store = context.connect().await?;
            store.set_scopes(User { name, scopes }).await?;
            store.close().await;
            Ok(())
        }
    }
}

/// Lists the audit log from a line on. The line before it is read too, so that the first one shown is held
/// against it.
pub(super) async fn audit(context: &Context, args: &AuditArgs) -> Result<(), Failure> {
    let first = args.first.max(1);
    let store = context.connect().await?;
    let (mut lines, mut next, mut more) = (Vec::new(), first.saturating_sub(1).max(1), true);
    while more && (lines.len() as u64) < u64::from(args.limit) + 1 {
        let (page, goes_on) = store.audit_log(next, 1000).await?;
        next += page.len() as u64;
        more = goes_on && !page.is_empty();
        lines.extend(page);
    }
    store.close().await;
    check(&lines)?;
    lines.retain(|l| l.number >= first);
    if lines.len() > args.limit as usize {
        lines.truncate(args.limit as usize);
        more = true;
    }
    if more {
        let next = lines.last().map_or(first, |l| l.number + 1);
        eprintln!("there are more; --first {next} goes on behind the last, --limit shows more");
    }
    context
        .format
        .print(&lines, |all| table(&["no", "time", "who", "refused", "what"], all.iter().map(audit_row)))
}

fn audit_row(line: &AuditRecord) -> Vec<String> {
    vec![
        line.number.to_string(),
        time(line.at_ms),
        line.by.as_ref().map_or_else(|| "-".into(), ToString::to_string),
        line.refused.map_or_else(|| "-".into(), |code| code.to_string()),
        line.act.clone(),
    ]
}

/// Each line must carry the hash of the one before.
fn check(lines: &[AuditRecord]) -> Result<(), Failure> {
    let follows =
        |pair: &[AuditRecord]| pair[1].number == pair[0].number + 1 && pair[1].before == pair[0].hash();
    let begins = |line: &AuditRecord| line.number != 1 || line.before == [0; 32];
    let broken = lines.windows(2).find(|pair| !follows(pair)).map(|pair| pair[1].number);
    match broken.or_else(|| lines.first().filter(|l| !begins(l)).map(|l| l.number)) {
        Some(number) => {
            let reason = format!("line {number} of the audit log does not follow from the one before it");
            Err(Failure::check("corrupt", reason)
                .hint("hold it against a backup: `wmall meta snapshot verify`"))
        }
        None => Ok(()),
    }
}
