//! `wmall health`: exit code 0 if nothing needs attention, 3 for warnings, 4 for errors. What is muted is shown, and does
//! not count.

use wmall_proto::health::{Finding, Severity, health, worst};
use wmall_proto::job::Operation;

use super::Context;
use crate::args::HealthCommand;
use crate::exit::Failure;
use crate::output::table;

pub(super) async fn run(context: &Context, command: Option<HealthCommand>) -> Result<(), Failure> {
    let store = context.connect().await?;
    let mute = match command {
        None => None,
        Some(HealthCommand::Mute { code, ttl }) => {
            Some(Operation::Mute { code, for_ms: Some(ttl.as_millis() as u64) })
        }
        Some(HealthCommand::Unmute { code }) => Some(Operation::Mute { code, for_ms: None }),
    };
    if let Some(mute) = mute {
        store.operate(mute).await?;
        store.close().await;
        return Ok(());
    }
    let status = store.status().await?;
    store.close().await;
    let findings = health(&status);
    context.format.print(&findings, |all| describe(all))?;
    match worst(&findings) {
        None => Ok(()),
        Some(worst) => {
            let count = findings.iter().filter(|f| !f.muted).count();
            Err(Failure::unhealthy(worst == Severity::Error, count))
        }
    }
}

fn describe(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "healthy: nothing needs attention".into();
    }
    let severity = |f: &Finding| match f.severity {
        _ if f.muted => "muted",
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let row = |f: &Finding| vec![severity(f).into(), f.code.into(), f.what.clone(), f.advice.into()];
    table(&["", "code", "what", "try"], findings.iter().map(row))
}
