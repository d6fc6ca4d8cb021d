//! `wmall events`.

use std::time::Duration;

use wmall_proto::event::Event;

use super::Context;
use crate::args::EventsArgs;
use crate::exit::Failure;
use crate::output::{Format, line, table, time};

/// Between looks for more.
const LOOK: Duration = Duration::from_secs(1);

/// The last lines, and with `--follow` those that come.
pub(super) async fn events(context: &Context, args: &EventsArgs) -> Result<(), Failure> {
    let store = context.connect().await?;
    let (mut lines, mut next) = (Vec::new(), args.first.unwrap_or(1));
    loop {
        let (page, more) = store.events(next, 1000).await?;
        next = page.last().map_or(next, |e| e.number + 1);
        lines.extend(page);
        // Without a beginning that was asked for, the end is what matters.
        let surplus = lines.len().saturating_sub(args.limit as usize);
        if args.first.is_none() {
            lines.drain(..surplus);
        } else if surplus > 0 {
            lines.truncate(args.limit as usize);
            break;
        }
        if !more {
            break;
        }
    }
    if !args.follow {
        store.close().await;
        return context.format.print(&lines, |all| {
            table(&["no", "time", "kind", "what"], all.iter().map(|e| row(e).to_vec()))
        });
    }
    loop {
        for event in &lines {
            match context.format {
                Format::Table => line(&row(event).join("  "))?,
                format => format.print(event, |_| String::new())?,
            }
        }
        tokio::time::sleep(LOOK).await;
        (lines, _) = store.events(next, 1000).await?;
        next = lines.last().map_or(next, |e| e.number + 1);
    }
}

fn row(event: &Event) -> [String; 4] {
    [event.number.to_string(), time(event.at_ms), event.what.as_str().to_string(), event.what.to_string()]
}
