//! Block files that look like the real thing: compressible headers, incompressible signatures, sizes all
//! over the place. The same seed makes the same bytes on every machine.

use std::io::{self, Write};

/// Bytes of a block's header.
const HEADER: usize = 80;

/// Writes one file of about `size` bytes: blocks behind one another, each with its magic and its length.
pub fn write_file(out: &mut impl Write, seed: u64, size: u64) -> io::Result<u64> {
    let mut written = 0;
    let mut number = 0u64;
    while written < size {
        let block = block(seed, number, (size - written).min(1 << 20) as usize);
        out.write_all(&block)?;
        written += block.len() as u64;
        number += 1;
    }
    Ok(written)
}

/// A block: magic, length, header with its parent's hash, then transactions.
fn block(seed: u64, number: u64, room: usize) -> Vec<u8> {
    let mut random = blake3::Hasher::new()
        .update(b"wmall.demo.block")
        .update(&seed.to_le_bytes())
        .update(&number.to_le_bytes())
        .finalize_xof();
    let mut body = Vec::with_capacity(room + 512);
    body.extend_from_slice(&1u32.to_le_bytes());
    body.extend_from_slice(blake3::hash(&number.to_le_bytes()).as_bytes());
    body.resize(HEADER, 0);
    while body.len() + 8 < room {
        // A transaction: what repeats (version, script prefix), then what does not (hash, signature).
        body.extend_from_slice(&[1, 0, 0, 0, 1]);
        let mut unique = [0u8; 180];
        random.fill(&mut unique);
        body.extend_from_slice(&unique);
        body.extend_from_slice(&[0x76, 0xa9, 0x14]);
    }
    let mut out = Vec::with_capacity(body.len() + 8);
    out.extend_from_slice(&[0xf9, 0xbe, 0xb4, 0xd9]);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_bytes() {
        let make = |seed| {
            let mut out = Vec::new();
            write_file(&mut out, seed, 3_000_000).unwrap();
            out
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        assert!(make(1).len() >= 3_000_000);
    }
}
