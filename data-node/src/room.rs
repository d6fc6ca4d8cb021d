//! Memory for chunks that are being taken in, by whoever sends them.
//!
//! A put passes two bounds. What it announces counts against its own holder only ([`ANNOUNCED`]), so a length
//! that is claimed and never sent keeps nobody else out. What has come counts for everybody ([`ARRIVED`]),
//! and room for it is taken a [`STEP`] at a time before it is read.
//!
//! Why nothing locks up: puts that have come in part hold what they have and wait for more, so they could
//! wait for each other. The oldest put that still needs room is therefore never refused any. It ends at the
//! pace of its sender, and one that is slower than [`PACE`] while another holder waits gives its place up;
//! then the next is the oldest. Only one put at a time has more than there is room for, and the next one
//! waits until that has ended. So all of it is at most [`ARRIVED`] and one chunk with its pieces. A primary
//! waits for its relays, so these have a room of their own: no put of a user takes what a relay needs. The
//! bytes of a relayed put come only as fast as its primary finds room for them. One that is held up that way
//! gives its place up like any slow sender, and in this room for a relay of the same primary, too: else a
//! primary's put could wait for a relay that waits behind a relay of a put that waits for the first one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wmall_proto::{ErrorCode, RpcError};
use wmall_transport::{Bounds, Holder, Place, Room};

const MIB: u64 = 1 << 20;

/// Bytes that puts of one holder may have announced, chunks and their pieces together. There is no bound for
/// all.
const ANNOUNCED: u64 = 40 * MIB;
/// Announced bytes of relayed puts, whose holder is their primary: one of its users must not use up what it
/// has for all.
const RELAYED: u64 = 4 * ANNOUNCED;
/// Bytes that have come, and pieces that were cut of them.
const ARRIVED: Bounds = Bounds { room: 48 * MIB, most: 48 * MIB, kept: 8 * MIB, first: 8 * MIB, reserve: 0 };
/// Bytes that room is taken for at once.
pub(crate) const STEP: usize = 256 << 10;
/// How long a put waits for room that its own holder's puts take up.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes a second that a sender must keep up while other holders wait.
const PACE: u64 = 256 << 10;
/// How long a put is not judged by its pace.
const SETTLING: Duration = Duration::from_secs(1);
/// Between looks at whether a put is the oldest by now, or too slow.
pub(crate) const LOOK: Duration = Duration::from_millis(250);

/// True if a sender must give its place up.
fn is_too_slow(received: u64, elapsed: Duration, others_wait: bool) -> bool {
    others_wait && elapsed > SETTLING && u128::from(received) * 1000 < u128::from(PACE) * elapsed.as_millis()
}

/// Puts that still take room, in the order in which they came, and how many of each holder's wait.
#[derive(Default)]
struct Queue {
    next: u64,
    growing: BTreeMap<u64, Holder>,
    /// The put that has more than there was room for, until it ends.
    forced: Option<u64>,
    waiting: BTreeMap<Holder, usize>,
}

/// The room of one kind of puts.
pub(crate) struct IntakeRoom {
    announced: Room<Holder>,
    most_announced: u64,
    /// A holder stands for many senders: they are slow for each other as well.
    relayed: bool,
    arrived: Room<Holder>,
    queue: Mutex<Queue>,
}

/// A put's part of the room, until it is dropped.
pub(crate) struct Berth {
    room: Arc<IntakeRoom>,
    holder: Holder,
    number: u64,
    begun: Instant,
    /// Milliseconds that it has waited for room: its sender is not to blame for them.
    waited_ms: AtomicU64,
    _announced: Place<Holder>,
    arrived: Place<Holder>,
}

impl IntakeRoom {
    pub(crate) fn of_users() -> Arc<Self> {
        Self::new(ANNOUNCED, false)
    }

    pub(crate) fn of_relays() -> Arc<Self> {
        Self::new(RELAYED, true)
    }

    fn new(most_announced: u64, relayed: bool) -> Arc<Self> {
        let announced = Bounds { room: u64::MAX, most: most_announced, kept: 0, first: 0, reserve: 0 };
        let (announced, arrived) = (Room::new(announced), Room::new(ARRIVED));
        Arc::new(Self { announced, most_announced, relayed, arrived, queue: Mutex::default() })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others_wait(&self, holder: &Holder) -> bool {
        self.queue().waiting.keys().any(|waiting| self.relayed || waiting != holder)
    }

    /// Lets a put begin that will need so much: once its own holder's other puts leave room for it.
    pub(crate) async fn begin(self: &Arc<Self>, holder: &Holder, bytes: u64) -> Result<Arc<Berth>, RpcError> {
        // A chunk that takes more than that with all its pieces has the room to itself.
        let bytes = bytes.min(self.most_announced);
        let announced = self.announced.take(holder.clone(), false, bytes, ROOM_TIMEOUT).await;
        let busy = |_| {
            let reason = format!("{holder} has too many puts under way at this data node");
            RpcError::new(ErrorCode::Busy, reason).hint("send fewer chunks at once, and try again")
        };
        let (_announced, arrived) = (announced.map_err(busy)?, self.arrived.place(holder.clone(), false));
        let mut queue = self.queue();
        let number = queue.next;
        queue.next += 1;
        queue.growing.insert(number, holder.clone());
        drop(queue);
        let (room, holder, begun) = (self.clone(), holder.clone(), Instant::now());
        let waited_ms = AtomicU64::new(0);
        Ok(Arc::new(Berth { room, holder, number, begun, waited_ms, _announced, arrived }))
    }
}

impl Berth {
    /// Takes room up to so many bytes in all, waiting for others to end if there is none.
    pub(crate) async fn reach(&self, bytes: u64) {
        let more = bytes.saturating_sub(self.arrived.size());
        if more == 0 || self.arrived.grow(more).is_ok() {
            return;
        }
        let (_waiting, since) = (Waiting::new(self), Instant::now());
        self.wait_for(more).await;
        self.waited_ms.fetch_add(since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    async fn wait_for(&self, more: u64) {
        loop {
            let given = self.room.arrived.given();
            if self.arrived.grow(more).is_ok() {
                return;
            }
            if self.may_force() {
                return self.arrived.force(more);
            }
            // A put that has all it needs gives nothing back yet, and still makes another one the oldest.
            let _ = tokio::time::timeout(LOOK, given).await;
        }
    }

    /// Refuses a sender that is too slow for those who wait.
    pub(crate) fn check_pace(&self, received: u64) -> Result<(), RpcError> {
        let others_wait = self.room.others_wait(&self.holder);
        let waited = Duration::from_millis(self.waited_ms.load(Ordering::Relaxed));
        if !is_too_slow(received, self.begun.elapsed().saturating_sub(waited), others_wait) {
            return Ok(());
        }
        let reason = format!("a chunk comes at less than {} KiB a second while others wait", PACE >> 10);
        Err(RpcError::new(ErrorCode::Busy, reason).hint("send fewer chunks at once, and try again"))
    }

    /// The put needs no more room than it has.
    pub(crate) fn has_all(&self) {
        self.room.queue().growing.remove(&self.number);
    }

    /// True if this is the oldest put, and none but it has more than there is room for. It is that put from
    /// then on.
    fn may_force(&self) -> bool {
        let mut queue = self.room.queue();
        let oldest = queue.growing.keys().next() == Some(&self.number);
        let may = oldest && queue.forced.is_none_or(|forced| forced == self.number);
        if may {
            queue.forced = Some(self.number);
        }
        may
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        let mut queue = self.room.queue();
        queue.growing.remove(&self.number);
        queue.forced.take_if(|forced| *forced == self.number);
    }
}

/// A put that waits, as long as it does.
struct Waiting<'a>(&'a Berth);

impl<'a> Waiting<'a> {
    fn new(berth: &'a Berth) -> Self {
        *berth.room.queue().waiting.entry(berth.holder.clone()).or_insert(0) += 1;
        Self(berth)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.room.queue();
        if let Some(waiting) = queue.waiting.get_mut(&self.0.holder) {
            *waiting -= 1;
            if *waiting == 0 {
                queue.waiting.remove(&self.0.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wmall_proto::Role;
    use wmall_proto::identity::Actor;

    fn holder(name: &str) -> Holder {
        Arc::new(Actor { role: Role::Client, name: name.parse().unwrap() })
    }

    #[test]
    fn a_sender_is_too_slow_only_for_others_and_only_in_the_long_run() {
        let seconds = Duration::from_secs;
        assert!(is_too_slow(2 * PACE - 1, seconds(2), true));
        assert!(!is_too_slow(2 * PACE, seconds(2), true));
        assert!(!is_too_slow(0, seconds(2), false), "nobody waits");
        assert!(!is_too_slow(0, seconds(1), true), "it has just begun");
    }

    #[tokio::test]
    async fn lengths_that_are_only_announced_keep_nobody_out() {
        let room = IntakeRoom::of_users();
        let (liar, other) = (holder("liar"), holder("other"));
        let mut berths = Vec::new();
        for _ in 0..2 {
            berths.push(room.begin(&liar, 16 * MIB).await.unwrap());
        }
        let third = tokio::time::timeout(Duration::from_millis(50), room.begin(&liar, 16 * MIB)).await;
        assert!(third.is_err(), "it waits for its own");
        for berth in &berths {
            berth.reach(STEP as u64).await;
        }
        let put = room.begin(&other, 39 * MIB).await.unwrap();
        put.reach(39 * MIB).await;
        assert_eq!(room.arrived.standing(&liar).room, 39 * MIB + 2 * STEP as u64);
    }

    #[tokio::test]
    async fn puts_that_wait_for_each_other_end_one_after_the_other() {
        let room = IntakeRoom::of_users();
        let mut running = tokio::task::JoinSet::new();
        let (all, barrier) = (8, Arc::new(tokio::sync::Barrier::new(8)));
        for n in 0..all {
            let (room, barrier) = (room.clone(), barrier.clone());
            running.spawn(async move {
                let berth = room.begin(&holder(&format!("user-{n}")), 16 * MIB).await.unwrap();
                berth.reach(5 * MIB).await;
                // All have a part by now, and what all of them want is more than there is.
                barrier.wait().await;
                berth.reach(16 * MIB).await;
                let taken = room.arrived.standing(&berth.holder).room;
                assert!(taken <= ARRIVED.room + 16 * MIB, "{taken}");
                berth.has_all();
            });
        }
        let ended = tokio::time::timeout(Duration::from_secs(600), running.join_all()).await;
        assert_eq!(ended.unwrap().len(), all);
        assert_eq!(room.arrived.standing(&holder("user-0")).room, 0);
        assert!(room.queue().growing.is_empty() && room.queue().waiting.is_empty());
    }

    #[tokio::test]
    async fn whoever_is_slow_gives_its_place_up_when_another_one_waits() {
        let room = IntakeRoom::of_users();
        let mut slow = room.begin(&holder("slow"), 40 * MIB).await.unwrap();
        slow.reach(40 * MIB).await;
        let more = room.begin(&holder("more"), 16 * MIB).await.unwrap();
        more.reach(8 * MIB).await;
        let late = room.begin(&holder("late"), 4 * MIB).await.unwrap();
        Arc::get_mut(&mut slow).unwrap().begun = Instant::now().checked_sub(Duration::from_secs(9)).unwrap();
        assert!(slow.check_pace(0).is_ok(), "nobody waits");
        let waiting = tokio::spawn(async move { late.reach(4 * MIB).await });
        while room.queue().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(slow.check_pace(1).unwrap_err().code, ErrorCode::Busy);
        assert!(slow.check_pace(1 << 30).is_ok(), "a fast one stays");
        drop(slow);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn relays_of_one_primary_are_slow_for_each_other() {
        let primary = holder("data-1");
        for (room, slow_for_its_own) in [(IntakeRoom::of_users(), false), (IntakeRoom::of_relays(), true)] {
            *room.queue().waiting.entry(primary.clone()).or_insert(0) += 1;
            assert_eq!(room.others_wait(&primary), slow_for_its_own);
            assert!(room.others_wait(&holder("data-2")));
        }
    }
}
