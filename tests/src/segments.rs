//! Reads the disk of a data node by the letter of `docs/formats.md`, and by none of the product's code: what is really
//! there, to hold words about it against, and to let rot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The record kinds that matter here.
const PIECE: u8 = 1;
const COPY: u8 = 4;
const TOMBSTONE: u8 = 3;
/// Bytes of a segment's header, and of a record's in front of its meta.
const SEGMENT_HEADER: usize = 64;
const RECORD_HEADER: usize = 32;

/// A pool and a chunk.
pub type Key = (u16, [u8; 32]);

/// A piece that a disk holds.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Its slot.
    pub slot: u8,
    /// Bytes of it.
    pub length: u64,
    /// The file that it is in.
    pub file: PathBuf,
    /// Where its bytes begin there.
    pub at: usize,
}

impl Piece {
    /// A byte in its middle rots.
    pub fn rot(&self) {
        let mut content = std::fs::read(&self.file).unwrap();
        content[self.at + self.length as usize / 2] ^= 0x10;
        std::fs::write(&self.file, content).unwrap();
    }
}

/// The pieces on a disk, by pool and chunk: of several records the last one that no tombstone ends.
pub fn pieces(disk: &Path) -> BTreeMap<Key, Piece> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(disk.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    files.sort();
    let mut pieces: BTreeMap<Key, ((u64, u64), Piece)> = BTreeMap::new();
    let mut ended: BTreeMap<Key, (u64, u64)> = BTreeMap::new();
    for file in files {
        let number: u64 = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let content = std::fs::read(&file).unwrap();
        let mut at = SEGMENT_HEADER;
        while at + RECORD_HEADER <= content.len() {
            let Some((kind, meta, payload)) = record(&content, at, number) else {
                at += 8;
                continue;
            };
            let body = at + RECORD_HEADER + meta + 4;
            if body + payload > content.len() {
                break;
            }
            let fields = &content[at + RECORD_HEADER..at + RECORD_HEADER + meta];
            let key = || (u16::from_le_bytes([fields[0], fields[1]]), fields[2..34].try_into().unwrap());
            let position = (number, at as u64);
            match kind {
                PIECE | COPY => {
                    let piece =
                        Piece { slot: fields[34], length: payload as u64, file: file.clone(), at: body };
                    pieces.insert(key(), (position, piece));
                }
                TOMBSTONE => {
                    let word = |i: usize| u64::from_le_bytes(fields[i..i + 8].try_into().unwrap());
                    let up_to = (word(34), word(42));
                    let last = ended.entry(key()).or_default();
                    *last = up_to.max(*last);
                }
                _ => {}
            }
            at = (body + payload + 4).next_multiple_of(8);
        }
    }
    let ends = |key: &Key| ended.get(key).copied().unwrap_or_default();
    let held = pieces.into_iter().filter(|(key, (position, _))| *position > ends(key));
    held.map(|(key, (_, piece))| (key, piece)).collect()
}

/// Kind and lengths of the record that begins here, if one does.
fn record(content: &[u8], at: usize, segment: u64) -> Option<(u8, usize, usize)> {
    let head = content.get(at..at + RECORD_HEADER)?;
    let word = |i: usize| u32::from_le_bytes(head[i..i + 4].try_into().unwrap());
    let own = u64::from_le_bytes(head[16..24].try_into().unwrap());
    let is_one = &head[..4] == b"WREC" && word(12) == segment as u32 && own == at as u64;
    is_one.then(|| (head[5], u16::from_le_bytes([head[6], head[7]]) as usize, word(8) as usize))
}
