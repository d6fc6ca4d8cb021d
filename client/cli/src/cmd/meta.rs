//! `meta`: members, snapshots, restores.

use std::path::Path;

use wmall_metadata_node::{
    Audit, Config, InitError, RestoreError, SnapshotSummary, restore, verify_snapshot,
};
use wmall_proto::NodeName;
use wmall_proto::topology::MetadataAddress;
use wmall_runtime::{OutFile, ScratchFolder};

use super::Context;
use super::role::name_and_address;
use crate::args::{MemberCommand, MetaCommand, SnapshotCommand};
use crate::exit::Failure;
use crate::output::{bytes, line, table, time};

pub(crate) async fn run(context: &Context, command: MetaCommand) -> Result<(), Failure> {
    match command {
        MetaCommand::Snapshot(command) => snapshot(context, command).await,
        MetaCommand::Member(command) => member(context, command).await,
        MetaCommand::Rebuild { file, data, map_of, without_silent } => {
            rebuild(context, &file, &data, (map_of.as_ref(), without_silent)).await
        }
        MetaCommand::Recover(args) => super::recover::recover(context, &args).await,
        MetaCommand::AllowDeletion { force } => {
            let store = context.connect().await?;
            store.allow_deletion(force).await?;
            store.close().await;
            Ok(())
        }
    }
}

async fn snapshot(context: &Context, command: SnapshotCommand) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Save { file, local: true, from: None } => super::recover::save(context, &file).await,
        SnapshotCommand::Save { file, from, .. } => save(context, &file, from.as_ref()).await,
        SnapshotCommand::Verify { file } => {
            let failed = |e| Failure::local(format!("{} is no good snapshot", file.display()), &e);
            let summary = verify_snapshot(&file).map_err(failed)?;
            context.format.print(&summary, describe)?;
            match summary.audit.troubles.len() {
                0 => Ok(()),
                n => Err(Failure::check("inconsistent", format!("a recount finds {n} differences"))),
            }
        }
        SnapshotCommand::Restore { file, life } => {
            let config = Config::load(context.role_config()?)?;
            let failed = |e: RestoreError| match &e {
                RestoreError::Init(living @ InitError::Living { .. }) => Failure::metadata_init(living),
                _ => Failure::local(format!("{} was not restored", file.display()), &e),
            };
            let (summary, life) = restore(&config, &file, life).await.map_err(failed)?;
            context.format.print(&summary, describe)?;
            if config.raw.members.len() > 1 {
                let file = file.display();
                line(&format!("on the other members: wmall meta snapshot restore {file} --life {life}"))?;
            }
            line(&format!(
                "{} is ready; when every member is, start them, look at `wmall status` and at your data, and then \
                 let deletion go on: `wmall meta allow-deletion`",
                config.raw.name
            ))
        }
        SnapshotCommand::Ls => {
            let store = context.connect().await?;
            let all = store.list_snapshots().await?;
            store.close().await;
            context.format.print(&all, |all| {
                let row = |s: &wmall_proto::rpc::SnapshotInfo| {
                    let kind = if s.backup { "backup" } else { "raft" };
                    vec![s.member.clone(), kind.into(), bytes(s.bytes), time(s.written_ms), s.name.clone()]
                };
                table(&["member", "kind", "size", "written", "file"], all.iter().map(row))
            })
        }
    }
}

/// Saves the leader's, or that of one member. The file has its name once it is whole, checked, and on disk.
async fn save(context: &Context, file: &Path, from: Option<&wmall_proto::NodeName>) -> Result<(), Failure> {
    let failed = |e| Failure::local(format!("cannot write {}", file.display()), &e);
    let store = context.connect().await?;
    let (scratch, out) =
        (ScratchFolder::beside(file).map_err(failed)?, OutFile::create(file).map_err(failed)?);
    let staged = out.staged(&scratch);
    let mut writer = tokio::fs::File::create(&staged).await.map_err(failed)?;
    match from {
        Some(member) => store.save_local_snapshot(member, &mut writer).await?,
        None => store.save_snapshot(&mut writer).await?,
    };
    store.close().await;
    let bad = |e| Failure::local("the snapshot that came is no good", &e);
    let summary = verify_snapshot(&staged).map_err(bad)?;
    out.publish_staged(&scratch).map_err(failed)?;
    context.format.print(&summary, describe)
}

pub(super) fn describe(summary: &SnapshotSummary) -> String {
    let SnapshotSummary { cluster, index, audit } = summary;
    let Audit { files, objects, chunks, buckets, troubles } = audit;
    let mut text = format!(
        "cluster  {cluster}\nindex    {index}\nbuckets  {buckets}\nobjects  {objects}\nfiles    {files}\n\
         chunks   {chunks}\n"
    );
    text += if troubles.is_empty() { "every counter and reference agrees with a recount" } else { "" };
    text + &troubles.join("\n")
}

/// No metadata node is asked for anything: the client's configuration says who one is, and that is all.
async fn rebuild(
    context: &Context,
    file: &Path,
    data: &[String],
    (map_of, without_silent): (Option<&NodeName>, bool),
) -> Result<(), Failure> {
    let config = context.client_config()?;
    let mut seeds = Vec::new();
    for text in data {
        let (name, address) = name_and_address(text)?;
        seeds.push(MetadataAddress { name, address });
    }
    let failed = |e| Failure::local("nothing was rebuilt", &e);
    let rebuilding = wmall_metadata_node::rebuild(&config.identity_dir, &seeds, map_of, without_silent, file);
    let rebuilt = rebuilding.await;
    let rebuilt = rebuilt.map_err(failed)?;
    if !context.quiet {
        eprintln!(
            "{} is a snapshot now, {} lists its files: `wmall meta snapshot restore {}` on every metadata node",
            file.display(),
            file.with_extension("files").display(),
            file.display()
        );
    }
    context.format.print(&rebuilt, |r| {
        let names = |names: &[wmall_proto::NodeName]| {
            let names: Vec<&str> = names.iter().map(wmall_proto::NodeName::as_str).collect();
            if names.is_empty() { "-".to_string() } else { names.join(", ") }
        };
        let others = r.other_maps.iter().map(|m| format!("{} (version {})", m.node, m.version));
        let others: Vec<String> = others.collect();
        let rows = [
            ("map", format!("version {}, of {}", r.map_version, names(&r.map_of))),
            ("other maps", if others.is_empty() { "-".into() } else { others.join(", ") }),
            ("told", names(&r.nodes)),
            ("silent", names(&r.silent)),
            ("pieces", format!("{}, {} of pools that nobody knows", r.pieces, r.unknown_pool)),
            ("files", format!("{} with a manifest, {} of one chunk", r.files_by_manifest, r.files_by_chunk)),
            ("uncertain", format!("{} of these may never have been committed", r.uncertain)),
            (
                "derived",
                format!("{} chunks of files may have been files too, and are held by those alone", r.derived),
            ),
            ("missing", format!("{} chunks without a piece", r.chunks_without_piece)),
            ("incomplete", format!("{} manifests that are not whole", r.incomplete.len())),
        ];
        rows.map(|(what, text)| format!("{what:<12}{text}")).join("\n")
    })
}

async fn member(context: &Context, command: MemberCommand) -> Result<(), Failure> {
    let store = context.connect().await?;
    match command {
        MemberCommand::Ls => {
            let members = store.status().await?.members;
            store.close().await;
            return context.format.print(&members, |all| {
                let row = |m: &wmall_proto::status::MemberStatus| {
                    let role = if m.leader { "leader" } else { "follower" };
                    let matched = m.matched.map_or_else(|| "-".into(), |i| i.to_string());
                    vec![m.id.to_string(), m.name.clone(), m.address.clone(), role.into(), matched]
                };
                table(&["id", "name", "address", "role", "log"], all.iter().map(row))
            });
        }
        MemberCommand::Add { member, id } => {
            let (name, address) = name_and_address(&member)?;
            store.add_member(id, name, address).await?;
        }
        MemberCommand::Rm { id } => store.remove_member(id).await?,
    }
    store.close().await;
    Ok(())
}
