//! `wmall node drain` and `undrain`.

use std::time::{Duration, Instant};

use wmall_client::Store;
use wmall_proto::NodeName;
use wmall_proto::status::DrainView;

use crate::cmd::Context;
use crate::exit::Failure;
use crate::output::bytes;

/// Between looks.
const LOOK: Duration = Duration::from_millis(500);
/// Between lines of progress.
const TELL: Duration = Duration::from_secs(30);

pub(crate) async fn drain(
    context: &Context,
    name: NodeName,
    dry_run: bool,
    wait: Option<Duration>,
) -> Result<(), Failure> {
    let store = context.connect().await?;
    if !dry_run {
        store.drain(name.clone(), true).await?;
    }
    let mut view = store.drain_view(name.clone()).await?;
    if let Some(limit) = wait.filter(|_| !dry_run) {
        view = until_empty(context, &store, view, limit).await?;
    }
    store.close().await;
    context.format.print(&view, |view| text(view, dry_run))
}

pub(crate) async fn undrain(context: &Context, name: NodeName) -> Result<(), Failure> {
    let store = context.connect().await?;
    store.drain(name, false).await?;
    store.close().await;
    Ok(())
}

fn is_empty(view: &DrainView) -> bool {
    view.slots == 0 && view.leaving == 0
}

async fn until_empty(
    context: &Context,
    store: &Store,
    mut view: DrainView,
    limit: Duration,
) -> Result<DrainView, Failure> {
    let (node, all) = (view.node.clone(), view.slots + view.leaving);
    let begun = Instant::now();
    let mut told = begun;
    while !is_empty(&view) {
        if begun.elapsed() >= limit {
            let reason =
                format!("{node} still has {} of {all} slots; the drain goes on", view.slots + view.leaving);
            return Err(
                Failure::goes_on(reason).hint(format!("`wmall node drain {node} --wait` waits again"))
            );
        }
        if told.elapsed() >= TELL && !context.quiet {
            told = Instant::now();
            eprintln!("{node}: {} of {all} slots left", view.slots + view.leaving);
        }
        tokio::time::sleep(LOOK).await;
        view = store.drain_view(node.clone()).await?;
        if !view.draining {
            return Err(Failure::check("cancelled", format!("{node} is not being drained any more")));
        }
    }
    Ok(view)
}

fn text(view: &DrainView, dry_run: bool) -> String {
    let DrainView { node, slots, leaving, bytes: size, stuck, .. } = view;
    if is_empty(view) {
        return format!("{node} is empty: it holds no piece that the cluster needs");
    }
    let size = bytes(*size);
    match (dry_run, stuck) {
        (true, 0) => {
            format!("{slots} slots with about {size} would move from {node}; each has a place elsewhere")
        }
        (true, stuck) => format!(
            "{stuck} of the {slots} slots on {node} have nowhere to go under the zone rule; the drain would be refused"
        ),
        (false, _) => format!(
            "{node} is being drained: {slots} slots with about {size} to move, {leaving} on their way"
        ),
    }
}
