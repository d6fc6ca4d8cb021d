//! Bounds of a server for each holder of a certificate: one room for each thing that a peer can fill.
//!
//! Every bound holds for a holder first and for all of them second. A part of each room is kept for those who
//! have little, and a reserve for the cluster's nodes and for operators, so that an operator can revoke
//! whoever fills the rest.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use wmall_proto::identity::Actor;
use wmall_proto::{ErrorCode, Role, RpcError};

use crate::identity::Peer;
use crate::rate::{Rate, Rates};
use crate::share::{Bounds, Place, Refusal, Room};

const MIB: u64 = 1 << 20;

/// Handshakes under way, by source address: who has shown no certificate yet is no holder.
const HANDSHAKES: Bounds = Bounds { room: 256, most: 128, kept: 64, first: 16, reserve: 0 };
/// Connections that stand.
const CONNECTIONS: Bounds = Bounds { room: 1024, most: 256, kept: 256, first: 16, reserve: 256 };
/// Calls under way, from a stream's first byte to the end of its answer.
const CALLS: Bounds = Bounds { room: 8192, most: 1024, kept: 2048, first: 128, reserve: 2048 };
/// Bytes of requests' headers beyond [`FREE_HEADER`] each, from their arrival to the end of the call.
const HEADERS: Bounds =
    Bounds { room: 128 * MIB, most: 32 * MIB, kept: 64 * MIB, first: 8 * MIB, reserve: 64 * MIB };
/// Bytes of answers that their readers have not taken.
const ANSWERS: Bounds =
    Bounds { room: 256 * MIB, most: 64 * MIB, kept: 96 * MIB, first: 16 * MIB, reserve: 128 * MIB };
/// Calls a second. Thirty-two small puts at once are some two thousand.
const USER_RATE: Rate = Rate { a_second: 10_000, burst: 20_000 };
const NODE_RATE: Rate = Rate { a_second: 40_000, burst: 80_000 };

/// A header up to this size needs no place.
pub(crate) const FREE_HEADER: usize = 16 << 10;
/// Nor does an answer.
pub(crate) const FREE_ANSWER: usize = 16 << 10;

/// Somebody with a certificate; all of its certificates and processes are one holder.
pub type Holder = Arc<Actor>;

/// True for roles that may draw from the reserves.
pub fn is_privileged(role: Role) -> bool {
    matches!(role, Role::Metadata | Role::Data | Role::Admin)
}

/// All rooms of a server.
#[derive(Clone)]
pub(crate) struct Holders {
    handshakes: Room<IpAddr>,
    connections: Room<Holder>,
    calls: Room<Holder>,
    headers: Room<Holder>,
    answers: Room<Holder>,
    rates: Arc<Mutex<Rates<Holder>>>,
}

impl Default for Holders {
    fn default() -> Self {
        Self {
            handshakes: Room::new(HANDSHAKES),
            connections: Room::new(CONNECTIONS),
            calls: Room::new(CALLS),
            headers: Room::new(HEADERS),
            answers: Room::new(ANSWERS),
            rates: Arc::default(),
        }
    }
}

/// A peer with what it may have.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) holder: Holder,
    privileged: bool,
    holders: Holders,
}

impl Holders {
    pub(crate) fn handshakes(&self) -> &Room<IpAddr> {
        &self.handshakes
    }

    pub(crate) fn client(&self, peer: &Peer) -> Client {
        let (holder, privileged) = (Arc::new(peer.actor()), is_privileged(peer.role));
        Client { holder, privileged, holders: self.clone() }
    }
}

impl Client {
    /// A place for one more connection, how many this holder has then, and how many all have.
    pub(crate) fn connect(&self) -> Result<(Place<Holder>, u64, u64), Refusal> {
        let place = self.holders.connections.try_take(self.holder.clone(), self.privileged, 1)?;
        let (own, all) = self.connections();
        Ok((place, own, all))
    }

    /// How many connections this holder has now, and how many all have.
    pub(crate) fn connections(&self) -> (u64, u64) {
        let standing = self.holders.connections.standing(&self.holder);
        (standing.own, standing.room.saturating_add(standing.reserve))
    }

    /// A place for one more call.
    pub(crate) fn call(&self) -> Result<Place<Holder>, RpcError> {
        let rate = if self.privileged { NODE_RATE } else { USER_RATE };
        let mut rates = self.holders.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if !rates.take(&self.holder, rate) {
            let reason = format!("{} makes more than {} calls a second", self.holder, rate.a_second);
            return Err(RpcError::new(ErrorCode::Busy, reason).hint("make fewer calls, and try again"));
        }
        drop(rates);
        let place = self.holders.calls.try_take(self.holder.clone(), self.privileged, 1);
        place.map_err(|refusal| self.busy(refusal, "calls under way", CALLS))
    }

    /// An empty place for the bytes of a header.
    pub(crate) fn header(&self) -> Place<Holder> {
        self.holders.headers.place(self.holder.clone(), self.privileged)
    }

    pub(crate) fn no_header(&self, refusal: Refusal) -> RpcError {
        self.busy(refusal, "bytes of requests under way", HEADERS)
    }

    pub(crate) fn answers(&self) -> Answers {
        Answers { client: self.clone() }
    }

    fn busy(&self, refusal: Refusal, what: &str, bounds: Bounds) -> RpcError {
        let reason = match refusal {
            Refusal::Own => {
                format!("{} has too many {what} at this node; {} at most", self.holder, bounds.most)
            }
            Refusal::All => format!("this node has too many {what}; {} at most", bounds.room),
        };
        RpcError::new(ErrorCode::Busy, reason).hint("let what is under way end, and try again")
    }
}

/// Room for the bytes of a holder's answers.
#[derive(Clone)]
pub struct Answers {
    client: Client,
}

impl Answers {
    /// Room for an answer that is there already, at once or not at all.
    pub(crate) fn take(&self, bytes: usize) -> Result<Place<Holder>, RpcError> {
        let Client { holder, privileged, holders } = &self.client;
        let place = holders.answers.try_take(holder.clone(), *privileged, bytes as u64);
        place.map_err(|refusal| self.not_read(refusal))
    }

    /// Room for bytes that are about to be made: waits for readers to take what was there before, no longer
    /// than they may let others wait.
    pub async fn room(&self, bytes: usize) -> Result<Place<Holder>, RpcError> {
        let Client { holder, privileged, holders } = &self.client;
        let waiting =
            holders.answers.take(holder.clone(), *privileged, bytes as u64, crate::serve::TAKING_NOTHING);
        waiting.await.map_err(|refusal| self.not_read(refusal))
    }

    fn not_read(&self, refusal: Refusal) -> RpcError {
        self.client.busy(refusal, "bytes of answers that were not read", ANSWERS)
    }
}

/// Source that an address stands for: in IPv6 everybody has a whole network of them.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_holder_can_take_what_is_kept_for_others() {
        for bounds in [HANDSHAKES, CONNECTIONS, CALLS, HEADERS, ANSWERS] {
            let Bounds { room, most, kept, first, .. } = bounds;
            assert!(first <= most && kept < room && first * 4 <= kept, "{bounds:?}");
            assert!(most <= room - kept, "one holder alone never reaches the kept part: {bounds:?}");
        }
        for bounds in [CONNECTIONS, CALLS, HEADERS, ANSWERS] {
            assert!(bounds.reserve > 0, "{bounds:?}");
        }
    }

    #[test]
    fn a_network_of_addresses_is_one_source() {
        let ip = |text: &str| source(text.parse().unwrap());
        assert_eq!(ip("2001:db8:1:2:3:4:5:6"), ip("2001:db8:1:2:ffff::1"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("::ffff:10.1.2.3"), ip("10.1.2.3"));
        assert_ne!(ip("10.1.2.3"), ip("10.1.2.4"));
    }
}
