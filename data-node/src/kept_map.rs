//! The last map that the node has seen, beside each disk's data. With it a node that starts knows at once
//! whose certificates are refused, and a cluster that has lost its metadata finds its pools, rows and disks
//! again.
//!
//! Only a copy: what the metadata nodes say overrules it, and one that is missing or damaged is as good as
//! none.

use std::fs;
use std::path::Path;

use wmall_proto::topology::ClusterId;
use wmall_proto::{Topology, codec};
use wmall_runtime::folder::write_durably;

const FILE: &str = "map";
/// The copy, and one whose writing was cut short.
pub(crate) const FILES: [&str; 2] = [FILE, "map.new"];
const MAGIC: &[u8; 8] = b"WMALLMAP";
const VERSION: u8 = 2;
/// Magic, version and zeros, cluster.
const HEAD: usize = 32;

/// Writes the map to a disk's folder, durably, over the one before.
pub(crate) fn save(folder: &Path, cluster: ClusterId, map: &Topology) -> std::io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[VERSION, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&cluster.0);
    bytes.extend_from_slice(&codec::encode(map));
    let check = wmall_proto::ChunkId::of(&bytes);
    bytes.extend_from_slice(&check.0);
    write_durably(folder, FILE, &bytes, 0o644)
}

/// The newest map on these disks; none if there is no good one.
pub(crate) fn newest<'a>(folders: impl Iterator<Item = &'a Path>, cluster: ClusterId) -> Option<Topology> {
    folders.filter_map(|folder| load(folder, cluster)).max_by_key(|map| map.version)
}

fn load(folder: &Path, cluster: ClusterId) -> Option<Topology> {
    let bytes = fs::read(folder.join(FILE)).ok()?;
    let (body, check) = bytes.split_last_chunk::<32>()?;
    let head = body.get(..HEAD)?;
    let good = head.starts_with(MAGIC) && head[8] == VERSION && head[16..] == cluster.0;
    let whole = wmall_proto::ChunkId::of(body).0 == *check;
    if !good || !whole {
        tracing::warn!(folder = %folder.display(), "the copy of the map is of no use");
        return None;
    }
    codec::decode(&body[HEAD..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_good_map_of_this_cluster_is_taken() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = || [a.path(), b.path()].into_iter();
        let cluster = ClusterId([7; 16]);
        let map = |version| Topology { version, ..Topology::empty() };
        assert_eq!(newest(folders(), cluster), None);
        save(a.path(), cluster, &map(5)).unwrap();
        save(b.path(), cluster, &map(6)).unwrap();
        assert_eq!(newest(folders(), cluster), Some(map(6)));
        assert_eq!(newest(folders(), ClusterId([8; 16])), None, "another cluster's");
        let path = b.path().join(FILE);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert_eq!(newest(folders(), cluster), Some(map(5)), "byte {at}");
        }
    }
}
