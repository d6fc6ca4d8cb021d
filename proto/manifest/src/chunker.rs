//! Cuts a stream into chunks of one size without copying what the reader wrote.

use bytes::{BufMut, Bytes, BytesMut, buf::Limit};

/// Collects bytes until a chunk is full. The reader writes straight into [`Chunker::room`].
#[derive(Debug)]
pub struct Chunker {
    chunk_size: usize,
    buffer: BytesMut,
    total: u64,
}

impl Chunker {
    /// A chunker for chunks of this many bytes; see [`crate::check_chunk_size`] for the bounds.
    pub fn new(chunk_size: u32) -> Self {
        Self { chunk_size: chunk_size as usize, buffer: BytesMut::new(), total: 0 }
    }

    /// Room for exactly the rest of the present chunk. Allocates a chunk's worth on first use.
    pub fn room(&mut self) -> Limit<&mut BytesMut> {
        let missing = self.chunk_size - self.buffer.len();
        self.buffer.reserve(missing);
        (&mut self.buffer).limit(missing)
    }

    /// The chunk, if it is full now.
    pub fn take_full(&mut self) -> Option<Bytes> {
        (self.buffer.len() == self.chunk_size).then(|| self.take())
    }

    /// The last, shorter chunk, if any bytes are left, and the length of the whole file.
    pub fn finish(mut self) -> (Option<Bytes>, u64) {
        let last = (!self.buffer.is_empty()).then(|| self.take());
        (last, self.total)
    }

    fn take(&mut self) -> Bytes {
        self.total += self.buffer.len() as u64;
        std::mem::take(&mut self.buffer).freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_join_to_the_input_however_it_arrives(
            input in proptest::collection::vec(any::<u8>(), 0..2000),
            size in 1u32..300,
            step in 1usize..500,
        ) {
            let mut chunker = Chunker::new(size);
            let mut chunks = Vec::new();
            let mut rest = &input[..];
            while !rest.is_empty() {
                let mut room = chunker.room();
                let n = room.remaining_mut().min(step).min(rest.len());
                room.put_slice(&rest[..n]);
                rest = &rest[n..];
                chunks.extend(chunker.take_full());
            }
            let (last, total) = chunker.finish();
            prop_assert!(chunks.iter().all(|c| c.len() == size as usize));
            chunks.extend(last);
            prop_assert_eq!(total, input.len() as u64);
            prop_assert_eq!(chunks.concat(), input);
        }
    }
}
