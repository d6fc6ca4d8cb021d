//! `wmall job`.

use std::time::{Duration, Instant};

use wmall_client::Store;
use wmall_proto::job::{JobChange, JobState, JobView, Operation};

use super::Context;
use crate::args::JobCommand;
use crate::exit::Failure;
use crate::output::{bytes, table, time};

/// Between looks.
const LOOK: Duration = Duration::from_millis(500);
/// Between lines of progress.
const TELL: Duration = Duration::from_secs(30);

pub(super) async fn run(context: &Context, command: JobCommand) -> Result<(), Failure> {
    let store = context.connect().await?;
    let change = match command {
        JobCommand::Ls => {
            let jobs = store.jobs().await?;
            store.close().await;
            return context.format.print(&jobs, |jobs| list(jobs));
        }
        JobCommand::Show { number } => {
            let job = store.job(number).await?;
            store.close().await;
            return context.format.print(&job, describe);
        }
        JobCommand::Watch { number, wait } => {
            let job = until_ended(context, &store, number, wait).await?;
            store.close().await;
            return context.format.print(&job, describe);
        }
        JobCommand::Pause { number } => (number, JobChange::Pause),
        JobCommand::Resume { number } => (number, JobChange::Resume),
        JobCommand::Cancel { number } => (number, JobChange::Cancel),
    };
    store.operate(Operation::Job { number: change.0, change: change.1 }).await?;
    let job = store.job(change.0).await?;
    store.close().await;
    context.format.print(&job, describe)
}

/// Waits for the end of a job. One that was cancelled is an error: what was waited for did not come about.
pub(super) async fn until_ended(
    context: &Context,
    store: &Store,
    number: u64,
    limit: Duration,
) -> Result<JobView, Failure> {
    let begun = Instant::now();
    let mut told = begun;
    loop {
        let view = store.job(number).await?;
        match view.job.state {
            JobState::Done => return Ok(view),
            JobState::Cancelled => {
                return Err(Failure::check("cancelled", format!("job {number} was cancelled")));
            }
            JobState::Running | JobState::Paused => {}
        }
        if begun.elapsed() >= limit {
            let reason = format!("job {number} is not done: {}", progress(&view));
            return Err(Failure::goes_on(reason).hint(format!("`wmall job watch {number}` waits again")));
        }
        if told.elapsed() >= TELL && !context.quiet {
            told = Instant::now();
            eprintln!("job {number}: {}", progress(&view));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn progress(view: &JobView) -> String {
    let left = view.slots_left + view.leaving;
    let eta = view.eta_ms.map_or_else(String::new, |ms| format!(", about {} left", span(ms)));
    let permille = view.permille();
    format!("{}.{}%, {left} of {} slots left{eta}", permille / 10, permille % 10, view.job.slots)
}

fn span(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms.div_ceil(1000))).to_string()
}

fn list(jobs: &[JobView]) -> String {
    let row = |v: &JobView| {
        let permille = v.permille();
        vec![
            v.job.number.to_string(),
            v.job.kind.as_str().into(),
            v.job.what.clone(),
            v.job.state.as_str().into(),
            format!("{}.{}%", permille / 10, permille % 10),
            v.eta_ms.map_or_else(|| "-".into(), span),
            time(v.job.created_ms),
        ]
    };
    table(&["job", "kind", "what", "state", "done", "left", "begun"], jobs.iter().map(row))
}

fn describe(view: &JobView) -> String {
    let job = &view.job;
    let ended = job.ended_ms.map_or_else(|| "-".into(), time);
    let stuck = match view.stuck {
        0 => String::new(),
        n => format!("\nstuck     {n} slots have no place now; `wmall node ls`"),
    };
    format!(
        "job       {} ({} {})\nstate     {}\nprogress  {}\nbytes     {} in all, about\nbegun     {}\nended     {ended}{stuck}",
        job.number,
        job.kind.as_str(),
        job.what,
        job.state.as_str(),
        progress(view),
        bytes(job.bytes),
        time(job.created_ms),
    )
}
