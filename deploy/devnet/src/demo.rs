//! `wmall devnet demo`: a cluster comes up, files go in, a node dies, the files come out proven.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::fs::File;
use wmall_client::{PutOptions, Source, Store};
use wmall_proto::rpc::Ack;
use wmall_proto::status::NodeState;
use wmall_proto::{BucketName, FileId, ObjectName};

use crate::blocks;
use crate::cluster::{Devnet, UpOptions};
use crate::error::{DevnetError, at};

/// Files that are made when none are given: seed and size.
const GENERATED: [(u64, u64); 5] = [(1, 80), (2, 215_000), (3, 1_250_000), (4, 9_000_000), (5, 24_000_000)];

/// What the demonstration says goes here, a line at a time.
pub type Say<'a> = &'a mut dyn FnMut(&str);

struct Stored {
    path: PathBuf,
    id: FileId,
}

/// Runs the demonstration in this folder, which is removed at the end, unless the cluster does not even
/// come up: then its logs are what one needs.
pub async fn run(folder: &Path, binary: &Path, files: &[PathBuf], say: Say<'_>) -> Result<(), DevnetError> {
    let started = Instant::now();
    fs::create_dir_all(folder).map_err(at(folder))?;
    let files = if files.is_empty() { generate(folder)? } else { files.to_vec() };
    say("1. A cluster comes up: 3 metadata nodes, 5 data nodes, each a process of its own.");
    let options = UpOptions { detach: false, ..UpOptions::default() };
    let up = Devnet::up(folder, binary, &options).await;
    let mut devnet = up.inspect_err(|_| say(&format!("   It did not come up; see {}.", folder.display())))?;
    let outcome = scenes(&mut devnet, &files, say).await;
    let down = devnet.down();
    let _ = fs::remove_dir_all(folder);
    outcome?;
    down?;
    say(&format!("Done in {:.1} s; nothing is left running.", started.elapsed().as_secs_f64()));
    Ok(())
}

fn generate(folder: &Path) -> Result<Vec<PathBuf>, DevnetError> {
    let mut paths = Vec::new();
    for (seed, size) in GENERATED {
        let path = folder.join(format!("generated-{seed}.blk"));
        let file = fs::File::create(&path).map_err(at(&path))?;
        let mut out = std::io::BufWriter::new(file);
        blocks::write_file(&mut out, seed, size).map_err(at(&path))?;
        std::io::Write::flush(&mut out).map_err(at(&path))?;
        paths.push(path);
    }
    Ok(paths)
}

async fn scenes(devnet: &mut Devnet, files: &[PathBuf], say: Say<'_>) -> Result<(), DevnetError> {
    let store = devnet.connect().await?;
    say(&format!("   {}", store.status().await?.summary));
    say("2. Files go in, three copies of every chunk on disk before the answer.");
    let bucket = BucketName::new("blocks").map_err(|e| DevnetError::Plan(e.to_string()))?;
    store.create_bucket(bucket.clone(), None, wmall_proto::pool::BucketRules::default()).await?;
    let mut stored = Vec::new();
    for path in files {
        stored.push(put(&store, &bucket, path, say).await?);
    }
    say("3. What went where:");
    show_places(&store, &stored, say).await?;
    let victim = first_primary(&store, &stored).await?;
    say(&format!("4. {victim} is killed with SIGKILL."));
    devnet.kill(&victim)?;
    say("5. Every file is read back, every byte hashed:");
    for file in &stored {
        read_back(&store, file, say).await?;
    }
    say("6. A proof that a chunk belongs to its file, checked with nothing but the file's CID:");
    prove(&store, &stored, say).await?;
    say("7. Meanwhile the cluster has noticed:");
    let deadline = Instant::now() + Duration::from_secs(15);
    let status = loop {
        let status = store.status().await?;
        if status.nodes.iter().any(|n| n.state != NodeState::Up) || Instant::now() >= deadline {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    say(&format!("   {}", status.summary));
    store.close().await;
    Ok(())
}

async fn put(store: &Store, bucket: &BucketName, path: &Path, say: Say<'_>) -> Result<Stored, DevnetError> {
    let name = path.file_name().map_or_else(|| "file".into(), |n| n.to_string_lossy().into_owned());
    let object = ObjectName::new(name.clone()).map_err(|e| DevnetError::Plan(e.to_string()))?;
    let options =
        PutOptions { ack: Ack::All, object: Some((bucket.clone(), object)), ..PutOptions::default() };
    let started = Instant::now();
    let mut file = File::open(path).await.map_err(at(path))?;
    let summary = store.put(&mut file, &options).await?;
    say(&format!(
        "   {name}: {} bytes, {} chunks, {:.0} ms\n     {}",
        summary.size,
        summary.chunks,
        started.elapsed().as_secs_f64() * 1e3,
        summary.id
    ));
    Ok(Stored { path: path.to_path_buf(), id: summary.id })
}

async fn show_places(store: &Store, stored: &[Stored], say: Say<'_>) -> Result<(), DevnetError> {
    for file in stored {
        let (manifest, _) = store.manifest(&Source::File(file.id)).await?;
        for (number, chunk) in manifest.chunks().iter().enumerate().take(3) {
            for view in store.chunk(*chunk).await? {
                let nodes: Vec<&str> = view.pieces.iter().map(|p| p.node.as_str()).collect();
                let name = file.path.file_name().unwrap_or_default().to_string_lossy();
                say(&format!("   {name} chunk {number}: {} ({})", nodes.join(", "), view.grade.as_str()));
            }
        }
    }
    Ok(())
}

async fn first_primary(store: &Store, stored: &[Stored]) -> Result<String, DevnetError> {
    for file in stored.iter().rev() {
        let (manifest, _) = store.manifest(&Source::File(file.id)).await?;
        for chunk in manifest.chunks().iter().take(1) {
            if let Some(piece) = store.chunk(*chunk).await?.iter().find_map(|v| v.pieces.first()) {
                return Ok(piece.node.to_string());
            }
        }
    }
    Ok("data-1".into())
}

async fn read_back(store: &Store, file: &Stored, say: Say<'_>) -> Result<(), DevnetError> {
    let started = Instant::now();
    let mut download = store.get(&Source::File(file.id), None).await?;
    let mut hasher = blake3::Hasher::new();
    let mut length = 0;
    while let Some(part) = download.next().await? {
        hasher.update(&part);
        length += part.len();
    }
    let original = fs::read(&file.path).map_err(at(&file.path))?;
    if hasher.finalize() != blake3::hash(&original) {
        return Err(DevnetError::Node(format!("{} came back changed", file.path.display())));
    }
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let ms = started.elapsed().as_secs_f64() * 1e3;
    say(&format!("   {name}: {length} bytes, identical, {ms:.0} ms"));
    Ok(())
}

async fn prove(store: &Store, stored: &[Stored], say: Say<'_>) -> Result<(), DevnetError> {
    let Some(file) = stored.last() else { return Ok(()) };
    let (manifest, _) = store.manifest(&Source::File(file.id)).await?;
    let number = manifest.chunks().len().saturating_sub(1);
    let Some(proof) = manifest.prove(number) else { return Ok(()) };
    proof.verify(file.id).map_err(|e| DevnetError::Node(e.to_string()))?;
    say(&format!("   chunk {number} of {} is part of {}", proof.count(), file.id));
    Ok(())
}
