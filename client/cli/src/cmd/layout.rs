//! `wmall layout`: weights are staged, looked at, and applied as a whole.

use wmall_proto::job::Operation;
use wmall_proto::layout::{LayoutChange, LayoutDisk, LayoutView};

use super::{Context, consent};
use crate::args::LayoutCommand;
use crate::exit::Failure;
use crate::output::{bytes, table};

pub(super) async fn run(context: &Context, command: LayoutCommand) -> Result<(), Failure> {
    let store = context.connect().await?;
    let change = match command {
        LayoutCommand::Show => None,
        LayoutCommand::Stage { disk, weight } => Some(LayoutChange::Stage { disk, weight }),
        LayoutCommand::Apply { draft, consent } => {
            let change = LayoutChange::Apply { version: draft };
            let what = describe(&store.layout().await?);
            let given = consent::given(consent, &store, &Operation::Layout(change.clone()), &what).await?;
            given.then_some(change)
        }
        LayoutCommand::Revert => Some(LayoutChange::Revert),
    };
    if let Some(change) = change {
        store.operate(Operation::Layout(change)).await?;
    }
    let view = store.layout().await?;
    store.close().await;
    context.format.print(&view, describe)
}

fn describe(view: &LayoutView) -> String {
    let change =
        |before: String, after: String| if before == after { before } else { format!("{before} -> {after}") };
    let disk = |d: &LayoutDisk| {
        vec![
            format!("{}/{}", d.node, d.name),
            d.zone.to_string(),
            change(d.weight.to_string(), d.draft_weight.to_string()),
            change(d.slots.to_string(), d.draft_slots.to_string()),
            bytes(d.bytes_in),
            bytes(d.bytes_out),
            d.why_nothing.clone().unwrap_or_default(),
        ]
    };
    let columns = ["disk", "zone", "weight", "slots", "comes", "goes", "why nothing"];
    let disks = table(&columns, view.disks.iter().map(disk));
    let zone = |(zone, comes, goes): &(wmall_proto::ZoneName, u64, u64)| {
        vec![zone.to_string(), bytes(*comes), bytes(*goes)]
    };
    let zones = table(&["zone", "comes", "goes"], view.zones.iter().map(zone));
    let head = match view.version {
        None if view.slots == 0 => "nothing is staged, and nothing would move".to_string(),
        None => format!("nothing is staged; {} slots move for balance ({})", view.slots, bytes(view.bytes)),
        Some(version) => format!(
            "draft {version}: {} slots would move, about {}; `wmall layout apply --draft {version}`",
            view.slots,
            bytes(view.bytes)
        ),
    };
    let stuck = match view.stuck {
        0 => String::new(),
        n => format!("\n{n} slots would have no place under the zone rule: this would be refused"),
    };
    format!("{head}{stuck}\n\n{disks}\n\n{zones}")
}
