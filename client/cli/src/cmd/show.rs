//! `status`, `file`, `chunk`.

use serde::Serialize;
use wmall_proto::chunk::{ChunkView, PieceState};
use wmall_proto::grade::GradesView;
use wmall_proto::status::{ClusterStatus, NodeStatus};
use wmall_proto::{ChunkId, FileId};

use super::{Context, place};
use crate::args::{ChunkCommand, FileCommand};
use crate::exit::Failure;
use crate::output::{bytes, table};

pub(crate) async fn status(context: &Context) -> Result<(), Failure> {
    context.format.print(&fetch_status(context).await?, describe)
}

fn describe(status: &ClusterStatus) -> String {
    let c = &status.chunks;
    let members = status.members.iter().map(|m| {
        let role = if m.leader { "leader" } else { "follower" };
        let matched = m.matched.map_or_else(|| "-".into(), |i| i.to_string());
        let heard = if m.leader { "-".into() } else { format!("{} s ago", m.silent_ms / 1000) };
        vec![m.name.clone(), m.address.clone(), role.into(), matched, heard]
    });
    format!(
        "{}\n\n\
         chunks    {} stable, {} warning, {} danger, {} unavailable, {} lost\n\
         data      {} files, {} objects, {} ({} at full redundancy), {} tickets\n\
         repair    {} slots on their way, {} waiting, {} without a place{}\n\
         trash     {} removed objects, {} chunks ({}) to be deleted{}\n\
         cluster   {}\n\n{}\n\n{}",
        status.summary,
        c.stable,
        c.warning,
        c.danger,
        c.unavailable,
        c.lost,
        status.files,
        status.objects,
        bytes(status.chunk_bytes),
        bytes(status.redundant_bytes),
        status.tickets,
        status.repair.moving,
        status.repair.waiting,
        status.repair.stuck,
        status.repair.halted.as_ref().map_or_else(String::new, |why| format!("; halted: {why}")),
        status.trash,
        status.condemned_chunks,
        bytes(status.condemned_bytes),
        if status.deletion_held { "; deletion is held back" } else { "" },
        status.cluster,
        table(&["metadata node", "address", "role", "log", "heard"], members),
        nodes(&status.nodes)
    )
}

pub(super) fn nodes(nodes: &[NodeStatus]) -> String {
    table(
        &["data node", "zone", "address", "state", "pieces", "used", "missing"],
        nodes.iter().map(|n| {
            let sum = |of: fn(&wmall_proto::status::DiskStatus) -> u64| {
                n.disks.iter().map(of).fold(0, u64::saturating_add)
            };
            vec![
                n.name.to_string(),
                n.zone.to_string(),
                n.address.to_string(),
                format!(
                    "{}{}{}",
                    n.state.as_str(),
                    if n.disks.iter().any(|d| d.draining) { ", draining" } else { "" },
                    if n.maintenance_until_ms.is_some() { ", maintenance" } else { "" }
                ),
                sum(|d| d.pieces).to_string(),
                format!("{} in {}", bytes(sum(|d| d.used_bytes)), bytes(sum(|d| d.segment_bytes))),
                sum(|d| d.tickets).to_string(),
            ]
        }),
    )
}

pub(super) async fn fetch_status(context: &Context) -> Result<ClusterStatus, Failure> {
    let store = context.connect().await?;
    let status = store.status().await?;
    store.close().await;
    Ok(status)
}

/// A file, as `file show` prints it.
#[derive(Serialize)]
struct FileView {
    cid: FileId,
    size: u64,
    chunk_size: u32,
    merkle_root: String,
    pool: String,
    grades: GradesView,
    chunks: Vec<ChunkId>,
}

pub(crate) async fn file(context: &Context, command: FileCommand) -> Result<(), Failure> {
    let FileCommand::Show { source } = command;
    let store = context.connect().await?;
    let (manifest, pool) = store.manifest(&source).await?;
    let topology = store.topology();
    let grades = store.file_grades(manifest.id(), manifest.chunks().len() as u64).await?;
    store.close().await;
    let view = FileView {
        grades,
        cid: manifest.id(),
        size: manifest.size(),
        chunk_size: manifest.chunk_size(),
        merkle_root: wmall_proto::ids::to_hex(manifest.root()),
        pool: topology.pools.get(&pool).map_or_else(String::new, |t| t.pool.name.to_string()),
        chunks: manifest.chunks().to_vec(),
    };
    context.format.print(&view, |v| {
        let rows = v.chunks.iter().enumerate().map(|(i, c)| vec![i.to_string(), c.to_string()]);
        format!(
            "cid          {}\nsize         {} ({})\nchunk size   {}\nmerkle root  {}\npool         {}\n{}\n\n{}",
            v.cid,
            v.size,
            bytes(v.size),
            bytes(u64::from(v.chunk_size)),
            v.merkle_root,
            v.pool,
            place::now_and_without(&v.grades),
            table(&["chunk", "cid"], rows)
        )
    })
}

pub(crate) async fn chunk(context: &Context, command: ChunkCommand) -> Result<(), Failure> {
    let ChunkCommand::Show { cid } = command;
    let store = context.connect().await?;
    let views = store.chunk(cid).await?;
    store.close().await;
    context.format.print(&views, |views| views.iter().map(one_chunk).collect::<Vec<_>>().join("\n\n"))
}

fn one_chunk(view: &ChunkView) -> String {
    let state = |s: PieceState| match s {
        PieceState::Live => "live",
        PieceState::Suspect => "suspect",
        PieceState::Missing => "missing",
    };
    let rows = view.pieces.iter().map(|p| {
        vec![p.slot.to_string(), p.node.to_string(), p.disk.to_string(), state(p.state).to_string()]
    });
    format!(
        "cid         {}\nlength      {}\nreferences  {}\npool        {}\ngrade       {}\n\n{}",
        view.id,
        view.record.length,
        view.record.references,
        view.pool.0,
        view.grade.as_str(),
        table(&["slot", "node", "disk", "state"], rows)
    )
}
