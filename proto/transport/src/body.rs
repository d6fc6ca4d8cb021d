//! Bulk bytes behind a header: as many as were announced, no more and no fewer.

use bytes::Bytes;
use quinn::RecvStream;
use wmall_proto::{ErrorCode, RpcError};

/// The bytes of a call or an answer, in the parts that the network delivers.
pub struct Body {
    stream: RecvStream,
}

impl Body {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream }
    }

    /// The next part; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
        self.next_of(usize::MAX).await
    }

    /// The next part, of so many bytes at most; none at the end. Dropped before it is ready, it loses
    /// nothing.
    pub async fn next_of(&mut self, most: usize) -> Result<Option<Bytes>, RpcError> {
        match self.stream.read_chunk(most, true).await {
            Ok(chunk) => Ok(chunk.map(|c| c.bytes)),
            Err(error) => {
                Err(RpcError::new(ErrorCode::Unreachable, format!("the peer stopped sending: {error}")))
            }
        }
    }
}

/// Reads exactly `length` bytes and hands each part to `each` as it comes. More or fewer are an error.
pub async fn collect(
    body: &mut Body,
    length: usize,
    mut each: impl FnMut(&Bytes) + Send,
) -> Result<Vec<Bytes>, RpcError> {
    let (mut parts, mut received) = (Vec::new(), 0);
    while let Some(part) = body.next().await? {
        received += part.len();
        if received > length {
            break;
        }
        each(&part);
        parts.push(part);
    }
    check_length(received, length)?;
    Ok(parts)
}

/// Refuses more or fewer bytes than were announced.
pub fn check_length(received: usize, length: usize) -> Result<(), RpcError> {
    if received == length {
        return Ok(());
    }
    let what = if received > length { "more than" } else { "only" };
    let reason = format!("{what} {received} bytes came where {length} were announced");
    Err(RpcError::new(ErrorCode::BadRequest, reason))
}
