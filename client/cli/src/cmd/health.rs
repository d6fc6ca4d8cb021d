//! `wmall health`: exit code 0 if nothing needs attention, 3 for warnings, 4 for errors.

use wmall_proto::health::{Finding, Severity, health};

use super::Context;
use crate::exit::Failure;
use crate::output::table;

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let store = context.connect().await?;
    let status = store.status().await?;
    store.close().await;
    let findings = health(&status);
    context.format.print(&findings, |all| describe(all))?;
    match findings.iter().map(|f| f.severity).max() {
        None => Ok(()),
        Some(worst) => Err(Failure::unhealthy(worst == Severity::Error, findings.len())),
    }
}

fn describe(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "healthy: nothing needs attention".into();
    }
    let severity = |s: Severity| if s == Severity::Error { "error" } else { "warning" };
    let row = |f: &Finding| vec![severity(f.severity).into(), f.code.into(), f.what.clone(), f.advice.into()];
    table(&["", "code", "what", "try"], findings.iter().map(row))
}
