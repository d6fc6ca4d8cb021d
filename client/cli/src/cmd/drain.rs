//! Emptying nodes and disks: `drain`, `undrain`, `replace`.

use std::time::Duration;

use wmall_proto::job::{Operation, Place};
use wmall_proto::status::DrainView;

use super::{Context, job};
use crate::args::DrainArgs;
use crate::exit::Failure;
use crate::output::bytes;

pub(crate) async fn drain(context: &Context, place: Place, args: DrainArgs) -> Result<(), Failure> {
    let store = context.connect().await?;
    if !args.dry_run {
        // One that is under way already is waited for like a new one.
        let before = store.drain_view(place.clone()).await?;
        let number = match before.job {
            Some(number) => Some(number),
            None => store.operate(Operation::Drain(place.clone())).await?,
        };
        if let (Some(limit), Some(number)) = (args.wait, number) {
            job::until_ended(context, &store, number, limit).await?;
        }
    }
    let view = store.drain_view(place).await?;
    store.close().await;
    context.format.print(&view, |view| text(view, args.dry_run))
}

pub(crate) async fn replace(
    context: &Context,
    (old, new): (Place, Place),
    wait: Option<Duration>,
) -> Result<(), Failure> {
    let store = context.connect().await?;
    let number = store.operate(Operation::Replace { old: old.clone(), new }).await?;
    if let (Some(limit), Some(number)) = (wait, number) {
        job::until_ended(context, &store, number, limit).await?;
    }
    let view = store.drain_view(old).await?;
    store.close().await;
    context.format.print(&view, |view| text(view, false))
}

pub(crate) async fn undrain(context: &Context, place: Place) -> Result<(), Failure> {
    let store = context.connect().await?;
    store.operate(Operation::Undrain(place)).await?;
    store.close().await;
    Ok(())
}

fn text(view: &DrainView, dry_run: bool) -> String {
    let DrainView { what, slots, leaving, bytes: size, stuck, .. } = view;
    if view.slots == 0 && view.leaving == 0 {
        return format!("{what} is empty: it holds no piece that the cluster needs");
    }
    let size = bytes(*size);
    match (dry_run, stuck) {
        (true, 0) => {
            format!("{slots} slots with about {size} would move from {what}; each has a place elsewhere")
        }
        (true, stuck) => format!(
            "{stuck} of the {slots} slots on {what} have nowhere to go under the zone rule; the drain would be refused"
        ),
        (false, _) => {
            let job = view.job.map_or_else(String::new, |n| format!(" by job {n}"));
            format!(
                "{what} is being emptied{job}: {slots} slots with about {size} to move, {leaving} on their way"
            )
        }
    }
}
