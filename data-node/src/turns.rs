//! Whose turn it is to fetch a piece, in the order of asking: all disks of a node share its memory, and its clients' patience.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::traffic::{RECENT, Traffic};

/// Fetches under way for all disks of a node: with chunks of 4 MiB, 32 MiB of memory for copies, and twice that for shards.
const TOGETHER: usize = 8;

/// Whose turn it is to fetch, in the order of asking: all disks of a node share its memory, and its clients' patience.
#[derive(Clone)]
pub(crate) struct Turns {
    room: Arc<Semaphore>,
    /// While clients are served, for one at a time.
    alone: Arc<Mutex<()>>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(TOGETHER)), alone: Arc::default() }
    }

    /// Waits for a turn, which lasts as long as what this returns. None if there are no more turns.
    pub(crate) async fn next(
        &self,
        traffic: &Traffic,
    ) -> Option<(OwnedSemaphorePermit, Option<OwnedMutexGuard<()>>)> {
        let room = self.room.clone().acquire_owned().await.ok()?;
        // When clients stop, nobody has to wait for the one that went before, whatever that one does. The place in the queue is kept
        // over looks at that.
        let mut alone = std::pin::pin!(self.alone.clone().lock_owned());
        while traffic.fetches(TOGETHER, Instant::now()) == 1 {
            if let Ok(alone) = tokio::time::timeout(RECENT, alone.as_mut()).await {
                return Some((room, Some(alone)));
            }
        }
        Some((room, None))
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;

    /// What it comes to without waiting for anything.
    fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn one_has_its_turn_while_clients_are_served_and_several_have_when_they_stop() {
        let (turns, traffic) = (Turns::new(), Traffic::new());
        let mut held: Vec<_> =
            (0..TOGETHER).map(|_| at_once(turns.next(&traffic)).expect("a turn")).collect();
        assert!(at_once(turns.next(&traffic)).is_none(), "there is no more room");
        held.clear();
        traffic.note(Instant::now() + Duration::from_secs(3600));
        let first = at_once(turns.next(&traffic)).expect("one may");
        assert!(at_once(turns.next(&traffic)).is_none(), "the next one waits for it");
        drop(first);
        assert!(at_once(turns.next(&traffic)).is_some());
    }
}
