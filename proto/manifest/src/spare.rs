//! Memory for parity, used again: a buffer that is new each time is megabytes for the kernel to find and fill with zeros, which takes
//! as long as a fifth of the coding.
//!
//! Bounded by [`KEPT_BYTES`] in a process. What comes out of it has the bytes of whoever had it before: for code that writes all of it.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// What is kept while nobody uses it; the oldest goes first.
const KEPT_BYTES: usize = 16 << 20;
/// Shorter ones cost little, and would be many.
const LEAST: usize = 64 << 10;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer of this length, with any content.
pub(crate) fn buffer(length: usize) -> Vec<u8> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    // Not a far longer one, which others need.
    let fits = |b: &Vec<u8>| b.capacity() >= length && b.capacity() / 2 <= length;
    let mut buffer = match kept.iter().rposition(fits) {
        Some(i) => kept.swap_remove(i),
        None => return vec![0; length],
    };
    drop(kept);
    buffer.resize(length, 0);
    buffer
}

/// The buffer as bytes, whose last owner gives it back.
pub(crate) fn lend(buffer: Vec<u8>) -> Bytes {
    Bytes::from_owner(Lent(buffer))
}

struct Lent(Vec<u8>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !(LEAST..=KEPT_BYTES).contains(&self.0.capacity()) {
            return;
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(std::mem::take(&mut self.0));
        while kept.iter().map(Vec::capacity).sum::<usize>() > KEPT_BYTES {
            kept.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_is_kept_up_to_a_bound() {
        let lent: Vec<Bytes> = (0..40).map(|_| lend(vec![7; 1 << 20])).collect();
        let copy = lent[0].clone();
        drop(lent);
        let bytes = || KEPT.lock().unwrap().iter().map(Vec::capacity).sum::<usize>();
        assert!(bytes() <= KEPT_BYTES && bytes() > KEPT_BYTES / 2, "{}", bytes());
        assert_eq!(copy[..3], [7, 7, 7], "somebody has this one still");
        assert_eq!((buffer(900_000).len(), buffer(3).len()), (900_000, 3));
    }
}
