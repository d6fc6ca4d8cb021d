//! `put`, `get`, `verify`, `rm`, `undelete`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::fs::File;
use wmall_client::{ClientError, PutOptions, PutSummary, Source, Store, VerifyReport};
use wmall_proto::rpc::Condition;
use wmall_proto::{ErrorCode, FileId, ObjectName, RpcError};
use wmall_runtime::OutFile;

use super::Context;
use crate::args::{GetArgs, PutArgs};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::progress::Shown;

/// Stores a file and prints its CID, alone on the last line.
pub(crate) async fn put(context: &Context, args: PutArgs) -> Result<(), Failure> {
    let stdin = args.file.as_os_str() == "-";
    let chunk_size = args.chunk_size.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let object = match args.object {
        Some((bucket, Some(name))) => Some((bucket, name)),
        Some((bucket, None)) => Some((bucket, own_name(&args.file, stdin)?)),
        None => None,
    };
    let file = if stdin { None } else { Some(Input::open(&args.file).await?) };
    let store = context.connect().await?;
    let shown = Shown::new("put", file.as_ref().map_or(0, Input::size), true, context.quiet);
    let options = PutOptions {
        chunk_size,
        ack: args.ack.into(),
        pool: args.pool,
        scheme: args.scheme,
        object,
        condition: condition(args.if_absent, args.if_match),
        progress: Some(shown.callback(context.quiet)),
        before_commit: None,
    };
    let summary = match file {
        Some(input) => input.put(&store, options).await?,
        None => store.put(&mut tokio::io::stdin(), &options).await?,
    };
    drop(shown);
    store.close().await;
    match context.format {
        Format::Table => output::line(&summary.id.to_string()),
        format => format.print(&summary, |_| String::new()),
    }
}

fn condition(absent: bool, file: Option<FileId>) -> Condition {
    match file {
        Some(file) => Condition::Match(file),
        None if absent => Condition::Absent,
        None => Condition::None,
    }
}

/// A file to put, and what it was when it was opened.
struct Input {
    path: PathBuf,
    file: File,
    before: std::fs::Metadata,
}

impl Input {
    async fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |e| Failure::local(format!("cannot read {}", path.display()), &e);
        let file = File::open(path).await.map_err(failed)?;
        let before = file.metadata().await.map_err(failed)?;
        if before.is_dir() {
            return Err(Failure::usage(format!("{} is a folder; put its files one by one", path.display())));
        }
        Ok(Self { path: path.to_path_buf(), file, before })
    }

    fn size(&self) -> u64 {
        self.before.len()
    }

    /// Puts it. One that changed meanwhile is some mixture of before and after: the user is told, and nothing
    /// points to it.
    async fn put(mut self, store: &Store, mut options: PutOptions) -> Result<PutSummary, Failure> {
        // A pipe or a device can't start again, and has no size and no time of change to go by.
        if !self.before.is_file() {
            return Ok(store.put(&mut self.file, &options).await?);
        }
        let failed = |e| Failure::local(format!("cannot read {}", self.path.display()), &e);
        let handle = self.file.try_clone().await.map_err(failed)?.into_std().await;
        let (path, before) = (self.path.clone(), self.before.clone());
        options.before_commit = Some(Arc::new(move |_, size| {
            let after = handle.metadata();
            let after = after.map_err(|source| ClientError::Local { what: "reading the input", source })?;
            let same = after.len() == before.len()
                && size == after.len()
                && after.modified().ok() == before.modified().ok();
            if same {
                return Ok(());
            }
            let reason = format!("{} changed while it was read; nothing was committed", path.display());
            let error = RpcError::new(ErrorCode::Changed, reason);
            Err(error.hint("put it again when nobody writes to it").into())
        }));
        Ok(store.put_again(&mut self.file, &options).await?)
    }
}

/// Removes a name, or lets go of a file.
pub(crate) async fn rm(
    context: &Context,
    source: Source,
    purge: bool,
    if_match: Option<FileId>,
) -> Result<(), Failure> {
    let store = context.connect().await?;
    match source {
        Source::Object(bucket, name) => store.remove(bucket, name, condition(false, if_match), purge).await?,
        Source::File(_) if if_match.is_some() => {
            return Err(Failure::usage("--if-match is for names; a CID is what it is"));
        }
        Source::File(file) => store.unpin(file, purge).await?,
    }
    store.close().await;
    Ok(())
}

/// Has back what was removed.
pub(crate) async fn undelete(context: &Context, source: Source, version: Option<u64>) -> Result<(), Failure> {
    let store = context.connect().await?;
    match source {
        Source::Object(bucket, name) => store.restore(bucket, name, version).await?,
        Source::File(_) if version.is_some() => {
            return Err(Failure::usage("--former is for names; a CID has none"));
        }
        Source::File(file) => store.repin(file).await?,
    }
    store.close().await;
    Ok(())
}

fn own_name(file: &Path, stdin: bool) -> Result<ObjectName, Failure> {
    let name = file.file_name().filter(|_| !stdin).and_then(|n| n.to_str());
    let name = name.ok_or_else(|| Failure::usage("name the object: BUCKET/NAME"))?;
    ObjectName::new(name).map_err(Failure::usage)
}

/// Gets a file. A file on disk appears under its name only when it is whole.
pub(crate) async fn get(context: &Context, args: GetArgs) -> Result<(), Failure> {
    let store = context.connect().await?;
    let download = match args.range {
        None => store.get(&args.source, None).await?,
        Some((first, Some(last))) => store.get(&args.source, Some(first..last.saturating_add(1))).await?,
        Some((first, None)) => {
            let (manifest, _) = store.manifest(&args.source).await?;
            // The name may point elsewhere by now, and this end is that file's.
            store.get(&Source::File(manifest.id()), Some(first..manifest.size())).await?
        }
    };
    let shown = Shown::new("get", download.length(), true, context.quiet);
    let progress = Some(shown.callback(context.quiet));
    let out = args.out.unwrap_or_else(|| default_name(&args.source));
    if out.as_os_str() == "-" {
        download.copy_to(&mut tokio::io::stdout(), progress).await.map_err(|error| match error {
            ClientError::Local { source, .. } => Failure::stdout(&source),
            other => other.into(),
        })?;
    } else {
        let failed = |e| Failure::local(format!("cannot write {}", out.display()), &e);
        let mut file = OutFile::create(&out).map_err(failed)?;
        let mut writer = File::from_std(file.file().try_clone().map_err(failed)?);
        download.copy_to(&mut writer, progress).await?;
        file.publish().map_err(failed)?;
    }
    drop(shown);
    store.close().await;
    Ok(())
}

fn default_name(source: &Source) -> PathBuf {
    match source {
        Source::File(id) => PathBuf::from(id.to_string()),
        // The last part only: an object's name must not choose a folder here.
        Source::Object(_, name) => {
            let last = name.as_str().rsplit('/').find(|p| !p.is_empty() && *p != "." && *p != "..");
            PathBuf::from(last.unwrap_or("object"))
        }
    }
}

/// Checks a file and fails if anything is wrong with it.
pub(crate) async fn verify(context: &Context, source: &Source, deep: bool) -> Result<(), Failure> {
    let store = context.connect().await?;
    let (manifest, _) = store.manifest(source).await?;
    let shown = Shown::new("verify", manifest.chunks().len() as u64, false, context.quiet);
    let report = store.verify(source, deep, Some(shown.callback(context.quiet))).await?;
    drop(shown);
    store.close().await;
    context.format.print(&report, describe)?;
    match (report.is_good(), report.is_complete()) {
        (true, true) => return Ok(()),
        (true, false) => {
            let why =
                format!("nothing bad was found; {} pieces could not be asked for", report.pieces_unasked);
            return Err(Failure::check("verify_incomplete", why)
                .hint("`wmall status` shows which data nodes do not answer; verify again when they do"));
        }
        (false, _) => {}
    }
    let why = format!("{} chunks unreadable, {} pieces bad", report.unreadable, report.pieces_bad);
    Err(Failure::check("verify_failed", why).hint("`wmall chunk show` tells where a chunk's pieces are"))
}

fn describe(report: &VerifyReport) -> String {
    let mut text = format!(
        "{} chunks: {} stable, {} warning, {} danger, {} unavailable, {} lost\n\
         pieces: {} signed for, {} read and good, {} bad, {} could not be asked for; {} known to be absent",
        report.chunks,
        report.grades.stable,
        report.grades.warning,
        report.grades.danger,
        report.grades.unavailable,
        report.grades.lost,
        report.pieces_attested,
        report.pieces_good,
        report.pieces_bad,
        report.pieces_unasked,
        report.pieces_absent
    );
    for trouble in &report.troubles {
        let node = trouble.node.as_ref().map_or_else(String::new, |n| format!(" on {n}"));
        text += &format!("\n  {}{node}: {}", trouble.chunk, trouble.what);
    }
    if report.troubles_unlisted > 0 {
        text += &format!("\n  and {} more", report.troubles_unlisted);
    }
    text
}
