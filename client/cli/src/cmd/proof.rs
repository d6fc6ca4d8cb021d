//! `proof` and `verify-proof`.

use std::path::Path;

use wmall_client::Source;
use wmall_manifest::InclusionProof;
use wmall_proto::FileId;
use wmall_proto::chunk::MAX_CHUNK_SIZE;

use super::Context;
use crate::exit::Failure;
use crate::output::line;

/// A proof is a few kilobytes; more is something else.
const MAX_PROOF_BYTES: u64 = 1 << 20;

pub(crate) async fn make(context: &Context, cid: FileId, chunk: usize) -> Result<(), Failure> {
    let store = context.connect().await?;
    let (manifest, _) = store.manifest(&Source::File(cid)).await?;
    store.close().await;
    let count = manifest.chunks().len();
    let proof = manifest.prove(chunk).ok_or_else(|| {
        Failure::check("not_found", format!("there is no chunk {chunk}: the file has {count}, from 0 on"))
    })?;
    let json = serde_json::to_string_pretty(&proof);
    line(&json.map_err(|e| Failure::local("cannot print the proof", &e))?)
}

pub(crate) fn check(proof: &Path, cid: FileId, data: Option<&Path>) -> Result<(), Failure> {
    let text = read(proof, MAX_PROOF_BYTES)?;
    let parsed: InclusionProof = serde_json::from_slice(&text)
        .map_err(|e| Failure::check("bad_proof", format!("{} holds no proof: {e}", proof.display())))?;
    let verdict = match data {
        Some(path) => parsed.verify_bytes(cid, &read(path, u64::from(MAX_CHUNK_SIZE))?),
        None => parsed.verify(cid),
    };
    verdict.map_err(|e| Failure::check("bad_proof", e.to_string()))?;
    let what = if data.is_some() { "the bytes are" } else { "the chunk is" };
    line(&format!("proven: {what} chunk {} of {} of {cid}", parsed.index(), parsed.count()))
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let failed = |e: std::io::Error| Failure::local(format!("cannot read {}", path.display()), &e);
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > limit {
        let why = format!("{} has {length} bytes; {limit} at most", path.display());
        return Err(Failure::check("out_of_bounds", why));
    }
    std::fs::read(path).map_err(failed)
}
