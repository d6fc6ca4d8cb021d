//! `node`, `disk` and `pg`: places, and how safe what is in them is.

use serde::Serialize;
use wmall_proto::grade::{Grade, GradeCounts, GradesOf, GradesView};
use wmall_proto::job::{Operation, Place};
use wmall_proto::status::{DiskStatus, NodeStatus};
use wmall_proto::{DiskId, PgId, PgRow, PoolId, RpcError};

use super::show::{fetch_status, nodes};
use super::{Context, consent, drain, identity};
use crate::args::{Consent, DiskCommand, NodeCommand, PgCommand};
use crate::exit::Failure;
use crate::output::{bytes, table};

/// Grades in a line.
pub(super) fn grades(counts: &GradeCounts) -> String {
    let part = |grade: &Grade| match counts.get(*grade) {
        0 => None,
        n => Some(format!("{n} {}", grade.as_str())),
    };
    let parts: Vec<String> = Grade::ALL.iter().filter_map(part).collect();
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

/// Grades now, and after the loss that matters.
pub(super) fn now_and_without(view: &GradesView) -> String {
    let without = match &view.lost {
        Some(node) => format!("\nwithout {node}: {}", grades(&view.without)),
        None => String::new(),
    };
    format!("chunks now: {}{without}", grades(&view.now))
}

/// A place with the grades of what is in it.
#[derive(Serialize)]
struct Graded<T> {
    #[serde(flatten)]
    place: T,
    grades: GradesView,
}

pub(super) async fn node(context: &Context, command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::Token(command) => identity::token(context, command).await,
        NodeCommand::Drain { name, args } => drain::drain(context, Place::node(name), args).await,
        NodeCommand::Undrain { name } => drain::undrain(context, Place::node(name)).await,
        NodeCommand::Maintenance { name, time, end, force, consent } => {
            let for_ms = (!end).then_some(time.as_millis() as u64);
            let what = match end {
                true => format!("{name} is expected to be up again: its silence is a failure from now on"),
                false => format!("{name} may be silent for {}", humantime::format_duration(time)),
            };
            operate(context, Operation::Maintenance { node: name, for_ms, force }, Some((consent, what)))
                .await
        }
        NodeCommand::Revoke { name, role } => identity::revoke(context, name, role.map(Into::into)).await,
        NodeCommand::Ls => context.format.print(&fetch_status(context).await?.nodes, |all| nodes(all)),
        NodeCommand::Show { name } => {
            let store = context.connect().await?;
            let status = store.status().await?;
            let found = status.nodes.into_iter().find(|n| n.name == name);
            let missing = || RpcError::not_found(format!("data node named {name}")).hint("`wmall node ls`");
            let place = found.ok_or_else(missing)?;
            let grades = store.grades(GradesOf::Node(name)).await?;
            store.close().await;
            context.format.print(&Graded { place, grades }, |shown| {
                let node = std::slice::from_ref(&shown.place);
                format!("{}\n\n{}\n\n{}", nodes(node), disks(node), now_and_without(&shown.grades))
            })
        }
    }
}

/// Has something done that has no figures of its own; if it is said what that is, only with consent.
async fn operate(
    context: &Context,
    operation: Operation,
    what: Option<(Consent, String)>,
) -> Result<(), Failure> {
    let store = context.connect().await?;
    let given = match &what {
        Some((consent, what)) => consent::given(*consent, &store, &operation, what).await?,
        None => true,
    };
    if given {
        store.operate(operation).await?;
    } else if let Some((_, what)) = what {
        context
            .format
            .print(&serde_json::json!({ "would": what }), |_| format!("it would be done: {what}"))?;
    }
    store.close().await;
    Ok(())
}

pub(super) async fn disk(context: &Context, command: DiskCommand) -> Result<(), Failure> {
    match command {
        DiskCommand::Ls => context.format.print(&fetch_status(context).await?.nodes, |all| disks(all)),
        DiskCommand::Show { disk } => {
            let store = context.connect().await?;
            let mut status = store.status().await?;
            status.nodes.retain(|n| n.name == disk.node);
            let is_it = |d: &DiskStatus| disk.disk.as_ref().is_some_and(|name| d.name == name.as_str());
            status.nodes.iter_mut().for_each(|n| n.disks.retain(&is_it));
            let found = status.nodes.into_iter().find(|n| !n.disks.is_empty());
            let missing = || RpcError::not_found(format!("disk {disk}")).hint("`wmall disk ls`");
            let place = found.ok_or_else(missing)?;
            let grades = store.grades(GradesOf::Disk(place.disks[0].id)).await?;
            store.close().await;
            context.format.print(&Graded { place, grades }, |shown| {
                format!("{}\n\n{}", disks(std::slice::from_ref(&shown.place)), now_and_without(&shown.grades))
            })
        }
        DiskCommand::Drain { disk, args } => drain::drain(context, disk, args).await,
        DiskCommand::Undrain { disk } => drain::undrain(context, disk).await,
        DiskCommand::Replace { old, with, args } => drain::replace(context, (old, with), args).await,
        DiskCommand::Release { disk } => operate(context, Operation::Release(disk), None).await,
        DiskCommand::Rm { disk, consent } => {
            let what =
                format!("{disk} is empty, and would be forgotten; it would come back only as a new disk");
            operate(context, Operation::Forget(disk), Some((consent, what))).await
        }
    }
}

fn disks(nodes: &[NodeStatus]) -> String {
    let state = |d: &DiskStatus| match d {
        d if d.quarantined => "quarantined",
        d if d.failed => "failed",
        d if d.draining => "draining",
        d if !d.writable => "not writable",
        _ => "ok",
    };
    let row = |(n, d): (&NodeStatus, &DiskStatus)| {
        vec![
            format!("{}/{}", n.name, d.name),
            d.id.to_string(),
            d.weight.to_string(),
            state(d).to_string(),
            format!("{} of {}", bytes(d.used_bytes), bytes(d.capacity_bytes)),
            d.slots.to_string(),
            d.pieces.to_string(),
            d.tickets.to_string(),
            d.dirty_groups.to_string(),
        ]
    };
    let all = nodes.iter().flat_map(|n| n.disks.iter().map(move |d| (n, d)));
    let columns = ["disk", "number", "weight", "state", "used", "slots", "pieces", "tickets", "dirty groups"];
    table(&columns, all.map(row))
}

/// A placement group, its row and its grades.
#[derive(Serialize)]
struct Group {
    pool: PoolId,
    number: u32,
    row: PgRow,
    grades: GradesView,
}

pub(super) async fn pg(context: &Context, command: PgCommand) -> Result<(), Failure> {
    let store = context.connect().await?;
    let (name, wanted, all) = match command {
        PgCommand::Ls { pool, all } => (pool, None, all),
        PgCommand::Show { pool, number } => (pool, Some(number), true),
    };
    let topology = store.topology();
    let missing = || RpcError::not_found(format!("pool named {name}")).hint("`wmall pool ls`");
    let table_of = topology.pools.values().find(|t| t.pool.name == name).ok_or_else(missing)?;
    let pool = table_of.pool.id;
    let beyond = || RpcError::not_found(format!("placement group of pool {name}")).hint("`wmall pg ls`");
    if wanted.is_some_and(|n| n as usize >= table_of.rows.len()) {
        return Err(beyond().into());
    }
    let graded = match wanted {
        Some(number) => vec![(number, store.grades(GradesOf::Group(pool, PgId(number))).await?)],
        None => (0..).zip(store.group_grades(pool).await?).collect(),
    };
    store.close().await;
    let group = |(number, grades): (u32, GradesView)| {
        let row = table_of.rows.get(number as usize)?.clone();
        (all || grades.now.worst() > Grade::Stable).then_some(Group { pool, number, row, grades })
    };
    let groups: Vec<Group> = graded.into_iter().filter_map(group).collect();
    context.format.print(&groups, |groups| {
        let place = |disk: &DiskId| {
            let info = topology.disks.get(disk);
            info.map_or_else(|| disk.to_string(), |d| format!("{}/{}", d.node, d.name))
        };
        let row = |g: &Group| {
            let moving = g.row.sources.iter().flatten().count();
            let dirty = g.row.dirty_at.iter().flatten().count();
            vec![
                g.number.to_string(),
                g.row.version.to_string(),
                g.row.slots.iter().map(place).collect::<Vec<_>>().join(" "),
                moving.to_string(),
                dirty.to_string(),
                grades(&g.grades.now),
                grades(&g.grades.without),
            ]
        };
        let columns = ["group", "row", "slots", "moving", "dirty", "now", "without the worst node"];
        table(&columns, groups.iter().map(row))
    })
}
