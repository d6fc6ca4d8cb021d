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
        LayoutCommand::Accept { node } => Some(LayoutChange::Accept { node }),
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

/// Shows what is there, and what the node's configuration asks for, if that waits.
fn asked(there: String, waits: Option<&impl std::fmt::Display>) -> String {
    waits.map_or_else(|| there.clone(), |asked| format!("{there} (asks for {asked})"))
}

fn describe(view: &LayoutView) -> String {
    let change =
        |before: String, after: String| if before == after { before } else { format!("{before} -> {after}") };
    let disk = |d: &LayoutDisk| {
        vec![
            format!("{}/{}", d.node, d.name),
            asked(change(d.zone.to_string(), d.draft_zone.to_string()), d.waiting_zone.as_ref()),
            asked(change(d.weight.to_string(), d.draft_weight.to_string()), d.waiting_weight.as_ref()),
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
    let waits = |d: &&LayoutDisk| d.waiting_zone.is_some() || d.waiting_weight.is_some();
    let mut nodes: Vec<&str> = view.disks.iter().filter(waits).map(|d| d.node.as_str()).collect();
    nodes.dedup();
    let waiting = match nodes.is_empty() {
        true => String::new(),
        false => format!("\nwaits for a decision: {}; `wmall layout accept NODE`", nodes.join(", ")),
    };
    format!("{head}{stuck}{waiting}\n\n{disks}\n\n{zones}")
}
