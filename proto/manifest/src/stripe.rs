//! A chunk as Reed-Solomon pieces: one stripe, cut into `data` pieces of equal length (the end filled with zeros) and
//! `parity` pieces computed from them. Piece `i` belongs to slot `i`; the first `data` of them are the chunk itself.
//!
//! Who hands in pieces has held each against its digest: the code can't tell a wrong one.

use bytes::Bytes;
use wmall_proto::Scheme;
use wmall_proto::chunk::PieceDigest;

use crate::erasure::{ErasureCode, Gf256};
use crate::spare;

/// Why pieces could not be made, or the chunk not be had from them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// Copies are no stripe.
    #[error("{0} keeps whole copies, no pieces")]
    NoStripe(Scheme),
    /// The processor lacks what the code was built for.
    #[error("Reed-Solomon pools need a processor with AVX2; use a pool of copies on this machine")]
    Processor,
    /// Not enough pieces, or of other lengths than the chunk's.
    #[error("{good} good pieces of the right length; {needed} are needed")]
    TooFew {
        /// Pieces that could be used.
        good: usize,
        /// What the scheme needs.
        needed: usize,
    },
    /// The code's own error.
    #[error("the erasure code failed: {0}")]
    Code(String),
}

/// How chunks of one scheme are cut and put together.
pub struct Stripe {
    data: usize,
    parity: usize,
    code: Box<dyn ErasureCode>,
}

impl Stripe {
    /// For a Reed-Solomon scheme.
    pub fn new(scheme: Scheme) -> Result<Self, StripeError> {
        let Scheme::ReedSolomon { data, parity } = scheme else {
            return Err(StripeError::NoStripe(scheme));
        };
        let (data, parity) = (usize::from(data), usize::from(parity));
        Ok(Self { data, parity, code: Box::new(Gf256::new(data, parity)?) })
    }

    /// The pieces of a chunk that came in these parts, slot by slot, all of `scheme.piece_length(chunk)` bytes.
    pub fn cut(&self, parts: &[Bytes]) -> Result<Vec<Bytes>, StripeError> {
        let length: usize = parts.iter().map(Bytes::len).sum();
        let each = length.div_ceil(self.data);
        let mut pieces: Vec<Bytes> = (0..self.data).map(|i| piece_of(parts, i * each, each)).collect();
        let mut parity: Vec<Vec<u8>> = (0..self.parity).map(|_| spare::buffer(each)).collect();
        let data: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
        self.code.encode(&data, &mut parity)?;
        pieces.extend(parity.into_iter().map(spare::lend));
        Ok(pieces)
    }

    /// The same, each with what it hashes to.
    pub fn cut_and_hash(&self, parts: &[Bytes]) -> Result<Vec<(Bytes, PieceDigest)>, StripeError> {
        let hashed = |piece: Bytes| {
            let digest = *blake3::hash(&piece).as_bytes();
            (piece, digest)
        };
        Ok(self.cut(parts)?.into_iter().map(hashed).collect())
    }

    /// The chunk of `length` bytes from any `data` of its pieces.
    pub fn join(&self, pieces: Vec<Option<Vec<u8>>>, length: u32) -> Result<Vec<Bytes>, StripeError> {
        let mut pieces = self.usable(pieces, length)?;
        if pieces[..self.data].iter().any(Option::is_none) {
            self.code.restore_data(&mut pieces)?;
        }
        let data = pieces.into_iter().take(self.data).flatten().map(Bytes::from).collect();
        Ok(clipped(data, length as usize))
    }

    /// The piece of one slot from any `data` of the others.
    pub fn rebuild(
        &self,
        pieces: Vec<Option<Vec<u8>>>,
        length: u32,
        slot: usize,
    ) -> Result<Bytes, StripeError> {
        let mut pieces = self.usable(pieces, length)?;
        if slot < self.data {
            self.code.restore_data(&mut pieces)
        } else {
            self.code.restore_all(&mut pieces)
        }?;
        let none = || StripeError::Code(format!("there is no slot {slot}"));
        pieces.into_iter().nth(slot).flatten().map(Bytes::from).ok_or_else(none)
    }

    /// One place a slot, and nothing in those whose length is wrong.
    fn usable(
        &self,
        mut pieces: Vec<Option<Vec<u8>>>,
        length: u32,
    ) -> Result<Vec<Option<Vec<u8>>>, StripeError> {
        let each = (length as usize).div_ceil(self.data);
        pieces.resize(self.data + self.parity, None);
        pieces.iter_mut().for_each(|piece| *piece = piece.take().filter(|p| p.len() == each));
        let (good, needed) = (pieces.iter().flatten().count(), self.data);
        if good < needed { Err(StripeError::TooFew { good, needed }) } else { Ok(pieces) }
    }
}

/// `length` bytes from `start` on, with zeros behind the end. What lies within one part is not copied.
fn piece_of(parts: &[Bytes], start: usize, length: usize) -> Bytes {
    let (mut at, mut copied) = (0, Vec::new());
    for part in parts {
        let (begin, end) = (at, at + part.len());
        at = end;
        let (from, to) = (start.max(begin), (start + length).min(end));
        if from >= to {
            continue;
        }
        if to - from == length {
            return part.slice(from - begin..to - begin);
        }
        if copied.is_empty() {
            copied.reserve_exact(length);
        }
        copied.extend_from_slice(&part[from - begin..to - begin]);
    }
    copied.resize(length, 0);
    copied.into()
}

/// The first `length` bytes.
fn clipped(parts: Vec<Bytes>, length: usize) -> Vec<Bytes> {
    let mut left = length;
    let mut out = Vec::with_capacity(parts.len());
    for mut part in parts {
        part.truncate(left);
        left -= part.len();
        if !part.is_empty() {
            out.push(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stripe(scheme: &str) -> Stripe {
        Stripe::new(scheme.parse().unwrap()).unwrap()
    }

    fn sample(length: usize) -> Vec<u8> {
        (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn flat(parts: Vec<Bytes>) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn pieces_are_pinned() {
        let pieces = stripe("rs:4+2").cut(&[Bytes::from_static(b"0123456789")]).unwrap();
        let hex: Vec<String> = pieces.iter().map(|p| wmall_proto::ids::to_hex(p)).collect();
        assert_eq!(hex[..4], ["303132", "333435", "363738", "390000"]);
        // By a second implementation of the construction, in another language.
        assert_eq!(hex[4..], ["ccc21d", "e76b98"]);
    }

    #[test]
    fn every_way_to_lose_two_of_six_is_survived_and_three_is_not() {
        let stripe = stripe("rs:4+2");
        let chunk = sample(100_003);
        let pieces = stripe.cut(&[Bytes::from(chunk.clone())]).unwrap();
        for lost in 0u8..64 {
            let kept = |i: usize| (lost & 1 << i == 0).then(|| pieces[i].to_vec());
            let kept: Vec<Option<Vec<u8>>> = (0..6).map(kept).collect();
            let joined = stripe.join(kept.clone(), 100_003);
            if lost.count_ones() > 2 {
                let good = 6 - lost.count_ones() as usize;
                assert_eq!(joined, Err(StripeError::TooFew { good, needed: 4 }));
                continue;
            }
            assert_eq!(flat(joined.unwrap()), chunk);
            for slot in (0..6).filter(|i| lost & 1 << i != 0) {
                assert_eq!(stripe.rebuild(kept.clone(), 100_003, slot).unwrap(), pieces[slot], "{slot}");
            }
        }
    }

    #[test]
    fn parity_is_the_same_in_memory_that_was_used_before() {
        let stripe = stripe("rs:4+2");
        let cut = |n: u8| {
            let chunk: Vec<u8> = sample(400_000).iter().map(|b| b ^ n).collect();
            stripe.cut(&[chunk.into()]).unwrap().iter().map(|piece| piece.to_vec()).collect::<Vec<_>>()
        };
        let first = cut(0);
        assert_ne!(cut(1)[4..], first[4..]);
        assert_eq!(cut(0), first);
    }

    #[test]
    fn pieces_of_another_length_do_not_count() {
        let stripe = stripe("rs:2+1");
        let pieces = stripe.cut(&[Bytes::from(sample(10))]).unwrap();
        let short = vec![Some(pieces[0].to_vec()), Some(pieces[1][1..].to_vec()), None];
        assert_eq!(stripe.join(short, 10), Err(StripeError::TooFew { good: 1, needed: 2 }));
        assert!(matches!(Stripe::new("3x".parse().unwrap()), Err(StripeError::NoStripe(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_pieces_that_are_enough_bring_the_chunk_back(
            (data, parity) in (1u8..9, 1u8..5),
            length in 1usize..5000,
            order: u64,
        ) {
            let scheme = Scheme::ReedSolomon { data, parity };
            let stripe = Stripe::new(scheme).unwrap();
            let chunk = sample(length);
            let cut = length / 3;
            let parts = [Bytes::copy_from_slice(&chunk[..cut]), Bytes::copy_from_slice(&chunk[cut..])];
            let pieces = stripe.cut(&parts).unwrap();
            prop_assert!(pieces.iter().all(|p| p.len() as u32 == scheme.piece_length(length as u32)));
            let mut slots: Vec<usize> = (0..scheme.width()).collect();
            slots.sort_by_key(|&s| (order ^ s as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut kept = vec![None; scheme.width()];
            slots[..usize::from(data)].iter().for_each(|&s| kept[s] = Some(pieces[s].to_vec()));
            prop_assert_eq!(flat(stripe.join(kept.clone(), length as u32).unwrap()), chunk);
            let last = slots[scheme.width() - 1];
            prop_assert_eq!(&stripe.rebuild(kept, length as u32, last).unwrap(), &pieces[last]);
        }
    }
}
