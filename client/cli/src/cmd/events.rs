//! `wmall events`.

use std::time::Duration;

use wmall_client::Store;
use wmall_proto::event::Event;

use super::Context;
use crate::args::EventsArgs;
use crate::exit::Failure;
use crate::output::{Format, line, table, time};

/// Lines that are asked for at once: what the metadata nodes give at most.
const PAGE: u32 = 1000;
/// Between looks for more.
const LOOK: Duration = Duration::from_secs(1);

/// The last lines, and with `--follow` those that come.
pub(super) async fn events(context: &Context, args: &EventsArgs) -> Result<(), Failure> {
    let store = context.connect().await?;
    // To follow from a beginning on means to be shown all that comes behind it.
    let limit = if args.follow && args.first.is_some() { usize::MAX } else { args.limit as usize };
    let (mut lines, mut next) = (Vec::new(), args.first.unwrap_or(1));
    let (mut earlier, mut later) = (false, false);
    loop {
        let (page, mut more) = store.events(next, PAGE).await?;
        next = page.last().map_or(next, |e| e.number + 1);
        lines.extend(page);
        // Without a beginning that was asked for, the end is what matters.
        let surplus = lines.len().saturating_sub(limit);
        if args.first.is_none() {
            earlier |= surplus > 0;
            lines.drain(..surplus);
        } else if surplus > 0 || (more && lines.len() == limit) {
            lines.truncate(limit);
            (later, more) = (true, false);
        }
        if args.follow && args.first.is_some() {
            show(context, &lines)?;
            lines.clear();
        }
        if !more {
            break;
        }
    }
    if args.follow {
        return follow(context, &store, lines, next).await;
    }
    store.close().await;
    context
        .format
        .print(&lines, |all| table(&["no", "time", "kind", "what"], all.iter().map(|e| row(e).to_vec())))?;
    if earlier {
        eprintln!("there are earlier lines; --limit shows more, --first 1 begins with the first");
    }
    if let Some(last) = lines.last().filter(|_| later) {
        let next = last.number + 1;
        eprintln!("there are more; --first {next} goes on behind the last, --limit shows more");
    }
    Ok(())
}

/// Shows these lines and, as long as somebody reads them, those that come.
async fn follow(
    context: &Context,
    store: &Store,
    mut lines: Vec<Event>,
    mut next: u64,
) -> Result<(), Failure> {
    let mut more = false;
    loop {
        show(context, &lines)?;
        if !more {
            tokio::time::sleep(LOOK).await;
        }
        (lines, more) = store.events(next, PAGE).await?;
        next = lines.last().map_or(next, |e| e.number + 1);
    }
}

fn show(context: &Context, lines: &[Event]) -> Result<(), Failure> {
    lines.iter().try_for_each(|event| match context.format {
        Format::Table => line(&row(event).join("  ")),
        format => format.print(event, |_| String::new()),
    })
}

fn row(event: &Event) -> [String; 4] {
    [event.number.to_string(), time(event.at_ms), event.what.as_str().to_string(), event.what.to_string()]
}
