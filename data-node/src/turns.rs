//! Whose turn it is to fetch a piece, in the order of asking: all disks of a node share its memory, and its clients' patience.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::traffic::{RECENT, Traffic};

/// Fetches under way for all disks of a node: with chunks of 4 MiB, 32 MiB of memory for copies, and twice that for shards.
const TOGETHER: usize = 8;
/// Longer chunks take the place of several.
const USUAL: u32 = 4 << 20;
/// Who takes longer for a usual chunk, rests included, loses its turn: a disk that hangs must not keep the others waiting.
const LONGEST: Duration = Duration::from_secs(60);

/// Places that a chunk of so many bytes takes.
pub(crate) fn places(bytes: u32) -> usize {
    (bytes.div_ceil(USUAL) as usize).clamp(1, TOGETHER / 2)
}

/// Whose turn it is to fetch, in the order of asking: all disks of a node share its memory, and its clients' patience.
#[derive(Clone)]
pub(crate) struct Turns {
    room: Arc<Semaphore>,
    /// While clients are served, for one at a time.
    alone: Arc<Mutex<()>>,
}

/// A turn, for as long as it is held.
pub(crate) struct Turn {
    held: Option<(OwnedSemaphorePermit, Option<OwnedMutexGuard<()>>)>,
    /// After so long others need not wait for it.
    longest: Duration,
}

impl Turn {
    /// Does something in it. Whoever takes too long keeps none of the others waiting: what disks that hang have of the memory is
    /// bounded by what each may have under way.
    pub(crate) async fn spend<T>(mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        match tokio::time::timeout(self.longest, work.as_mut()).await {
            Ok(done) => done,
            Err(_) => {
                self.held = None;
                work.await
            }
        }
    }
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(TOGETHER)), alone: Arc::default() }
    }

    /// Waits for a turn, for a chunk that takes so many places. None if there are no more turns.
    pub(crate) async fn next(&self, traffic: &Traffic, places: usize) -> Option<Turn> {
        let room = self.room.clone().acquire_many_owned(places as u32).await.ok()?;
        let longest = LONGEST * places as u32;
        // When clients stop, nobody has to wait for the one that went before, whatever that one does. The place in the queue is kept
        // over looks at that.
        let mut alone = std::pin::pin!(self.alone.clone().lock_owned());
        while traffic.fetches(TOGETHER, Instant::now()) == 1 {
            if let Ok(alone) = tokio::time::timeout(RECENT, alone.as_mut()).await {
                return Some(Turn { held: Some((room, Some(alone))), longest });
            }
        }
        Some(Turn { held: Some((room, None)), longest })
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

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
            (0..TOGETHER).map(|_| at_once(turns.next(&traffic, 1)).expect("a turn")).collect();
        assert!(at_once(turns.next(&traffic, 1)).is_none(), "there is no more room");
        held.clear();
        traffic.note(Instant::now() + Duration::from_secs(3600));
        let first = at_once(turns.next(&traffic, 1)).expect("one may");
        assert!(at_once(turns.next(&traffic, 1)).is_none(), "the next one waits for it");
        drop(first);
        assert!(at_once(turns.next(&traffic, 1)).is_some());
    }

    #[tokio::test]
    async fn long_chunks_take_the_place_of_several() {
        let (turns, traffic) = (Turns::new(), Traffic::new());
        assert_eq!([1, 4 << 20, 6 << 20, 16 << 20, u32::MAX].map(places), [1, 1, 2, 4, 4]);
        let longest = places(16 << 20);
        let held: Vec<_> = (0..2).map(|_| at_once(turns.next(&traffic, longest)).expect("a turn")).collect();
        assert!(at_once(turns.next(&traffic, 1)).is_none(), "two of 16 MiB are as many as there may be");
        drop(held);
        assert!(at_once(turns.next(&traffic, longest)).is_some());
    }

    #[tokio::test]
    async fn who_takes_too_long_is_alone_no_more() {
        let (turns, traffic) = (Turns::new(), Traffic::new());
        traffic.note(Instant::now() + Duration::from_secs(3600));
        let first = at_once(turns.next(&traffic, 1)).expect("one may").expect("there are turns");
        let first = Turn { longest: Duration::ZERO, ..first };
        let hangs = tokio::spawn(first.spend(std::future::pending::<()>()));
        let second = tokio::time::timeout(Duration::from_secs(60), turns.next(&traffic, 1)).await;
        assert!(second.is_ok(), "the others wait for who hangs");
        hangs.abort();
    }

    #[tokio::test]
    async fn disks_that_hang_do_not_keep_all_turns() {
        let (turns, traffic) = (Turns::new(), Traffic::new());
        let mut hang = Vec::new();
        for _ in 0..TOGETHER {
            let turn = at_once(turns.next(&traffic, 1)).expect("a turn").expect("there are turns");
            let turn = Turn { longest: Duration::ZERO, ..turn };
            hang.push(tokio::spawn(turn.spend(std::future::pending::<()>())));
        }
        let next = tokio::time::timeout(Duration::from_secs(60), turns.next(&traffic, 1)).await;
        assert!(next.is_ok(), "the others wait for those that hang");
        hang.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
