//! Memory at its highest, as the kernel counts it (`VmHWM`).

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wmall_devnet::{Devnet, NodeKind};

/// Bytes that a process has had resident at most so far.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib << 10)
}

/// The highest of the metadata nodes and of the data nodes.
pub(crate) fn of_nodes(devnet: &Devnet) -> Result<(u64, u64)> {
    let (mut metadata, mut data) = (0, 0);
    for node in devnet.nodes() {
        let bytes = peak(node.entry.pid)?;
        match node.entry.kind {
            NodeKind::MetadataNode { .. } => metadata = bytes.max(metadata),
            NodeKind::DataNode { .. } => data = bytes.max(data),
        }
    }
    Ok((metadata, data))
}

/// The highest of `wmall put` and `wmall get` of a file of 1 GiB.
pub(crate) fn of_client(binary: &Path, devnet: &Devnet, folder: &Path) -> Result<u64> {
    let (file, out) = (folder.join("gib"), folder.join("back"));
    let mut content = vec![0u8; 1 << 20];
    let mut writer = std::io::BufWriter::new(std::fs::File::create(&file)?);
    for i in 0..1024u64 {
        content[..8].copy_from_slice(&(i + 77).to_le_bytes());
        std::io::Write::write_all(&mut writer, &content)?;
    }
    drop(writer);
    let config = devnet.layout().client().display().to_string();
    let (file, out) = (file.display().to_string(), out.display().to_string());
    let (put, cid) = watched(binary, &["--config", &config, "-q", "put", &file])?;
    let (get, _) = watched(binary, &["--config", &config, "-q", "get", cid.trim(), "-O", &out])?;
    std::fs::remove_file(file)?;
    std::fs::remove_file(out)?;
    Ok(put.max(get))
}

/// Runs a command to its end, looking at its memory again and again. Returns its stdout too.
fn watched(binary: &Path, args: &[&str]) -> Result<(u64, String)> {
    let mut child = Command::new(binary).args(args).stdout(Stdio::piped()).spawn()?;
    let mut highest = 0;
    while child.try_wait()?.is_none() {
        // It may have ended in between.
        highest = peak(child.id()).unwrap_or(0).max(highest);
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "wmall {args:?} failed");
    Ok((highest, String::from_utf8(output.stdout)?))
}
