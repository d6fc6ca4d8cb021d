//! Emptying nodes and disks: `drain`, `undrain`, `replace`.

use wmall_client::Store;
use wmall_proto::job::{Operation, Place};
use wmall_proto::status::DrainView;

use super::{Context, consent, job};
use crate::args::DrainArgs;
use crate::exit::Failure;
use crate::output::bytes;

pub(crate) async fn drain(context: &Context, place: Place, args: DrainArgs) -> Result<(), Failure> {
    let store = context.connect().await?;
    let view = store.drain_view(place.clone()).await?;
    let operation = Operation::Drain(place.clone());
    // One that is under way already is waited for like a new one.
    let under_way = view.job.filter(|_| !args.consent.dry_run);
    empty(context, &store, (place, operation, under_way), args, text(&view, true)).await?;
    store.close().await;
    Ok(())
}

pub(crate) async fn replace(
    context: &Context,
    (old, new): (Place, Place),
    args: DrainArgs,
) -> Result<(), Failure> {
    let store = context.connect().await?;
    let view = store.drain_view(old.clone()).await?;
    let what = format!("{}; {new} takes over what it can", text(&view, true));
    let operation = Operation::Replace { old: old.clone(), new };
    empty(context, &store, (old, operation, None), args, what).await?;
    store.close().await;
    Ok(())
}

/// Has a place emptied, and tells how that stands; or tells what it would come to.
async fn empty(
    context: &Context,
    store: &Store,
    (place, operation, under_way): (Place, Operation, Option<u64>),
    args: DrainArgs,
    what: String,
) -> Result<(), Failure> {
    if args.consent.dry_run {
        // The figures first, also of what would be refused.
        let view = store.drain_view(place).await?;
        context.format.print(&view, |_| what.clone())?;
        if view.job.is_some() && matches!(operation, Operation::Drain(_)) {
            // It is under way, and would be waited for.
            return Ok(());
        }
        return consent::given(args.consent, store, &operation, &what).await.map(|_| ());
    }
    let number = match under_way {
        Some(number) => Some(number),
        None => {
            consent::given(args.consent, store, &operation, &what).await?;
            store.operate(operation).await?
        }
    };
    if let (Some(limit), Some(number)) = (args.wait, number) {
        job::until_ended(context, store, number, limit).await?;
    }
    let view = store.drain_view(place).await?;
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
