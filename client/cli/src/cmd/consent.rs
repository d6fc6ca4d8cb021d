//! Whether something that moves data or lets go of it is really to be done: `--dry-run`, `--yes`, or a question.

use std::io::{BufRead, IsTerminal, Write};

use wmall_client::Store;
use wmall_proto::job::Operation;

use crate::args::Consent;
use crate::exit::Failure;

/// Whether to go on: not on a dry run, which ends with the error that the operation itself would end with, and not if who sits
/// at the terminal says no to what is told. A script has made up its mind: without a terminal nobody is asked.
pub(super) async fn given(
    consent: Consent,
    store: &Store,
    operation: &Operation,
    what: &str,
) -> Result<bool, Failure> {
    if consent.dry_run {
        store.rehearse(operation.clone()).await?;
        return Ok(false);
    }
    if consent.yes || !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    // What would be refused is refused before it is asked for.
    store.rehearse(operation.clone()).await?;
    let what = what.to_string();
    tokio::task::spawn_blocking(move || ask(&what)).await.map_err(|e| Failure::local("the question", &e))?
}

/// The same for a step that may lose acknowledged data. A script has to say `--yes`: without a terminal the
/// step is refused, and the loss is told of.
pub(super) async fn explicit(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        eprintln!("{what}");
        let why = "this may lose what was acknowledged; nothing was changed";
        return Err(Failure::refused(why).hint("--yes does it, --dry-run says again what would be lost"));
    }
    let what = what.to_string();
    let asked = tokio::task::spawn_blocking(move || ask(&what)).await;
    asked.map_err(|e| Failure::local("the question", &e))?.map(|_| ())
}

fn ask(what: &str) -> Result<bool, Failure> {
    let failed = |e: std::io::Error| Failure::local("cannot ask", &e);
    let mut err = std::io::stderr().lock();
    write!(err, "{what}\nGo on? [y/N] ").and_then(|()| err.flush()).map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(true),
        _ => Err(Failure::check("declined", "nothing was changed").hint("--yes does it without asking")),
    }
}
