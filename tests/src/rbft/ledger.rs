//! What a replica executes in a simulation: requests with numbers, each once; changes of the validators; rejoining.

use std::collections::{BTreeMap, BTreeSet};

use wmall_rbft::{Batch, Committed, Digest, Nonce, PublicKey, Sequence, SetChange};

/// Something that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Anything.
    Plain(u64),
    /// Another key in a seat.
    Swap(u16, PublicKey),
    /// A validator that has forgotten its promises.
    Rejoin(PublicKey, Nonce),
}

/// The requests of a batch as its payload.
pub fn encode(requests: &[Request]) -> Vec<u8> {
    let mut out = Vec::new();
    for request in requests {
        match request {
            Request::Plain(n) => {
                out.push(0);
                out.extend(n.to_le_bytes());
            }
            Request::Swap(seat, key) => {
                out.push(1);
                out.extend(seat.to_le_bytes());
                out.extend(key);
            }
            Request::Rejoin(key, nonce) => {
                out.push(2);
                out.extend(key);
                out.extend(nonce.0.to_le_bytes());
            }
        }
    }
    out
}

/// The requests of a payload; what makes no sense ends it.
pub fn decode(mut bytes: &[u8]) -> Vec<Request> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*head)
    }
    let mut requests = Vec::new();
    while let Some(tag) = take::<1>(&mut bytes) {
        let request = match tag[0] {
            0 => take(&mut bytes).map(|n| Request::Plain(u64::from_le_bytes(n))),
            1 => take(&mut bytes)
                .and_then(|seat| Some(Request::Swap(u16::from_le_bytes(seat), take(&mut bytes)?))),
            2 => take(&mut bytes)
                .and_then(|key| Some(Request::Rejoin(key, Nonce(u64::from_le_bytes(take(&mut bytes)?))))),
            _ => None,
        };
        match request {
            Some(request) => requests.push(request),
            None => break,
        }
    }
    requests
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// The last sequence that is in it.
    pub sequence: Sequence,
    /// Its digest.
    pub digest: Digest,
    /// The validators of its epoch.
    pub keys: Vec<PublicKey>,
    /// The change that is due.
    pub change: Option<SetChange>,
    /// Requests that it has executed.
    pub done: BTreeSet<u64>,
    /// K and L.
    interval: u64,
    window: u64,
}

impl Ledger {
    /// The genesis.
    pub fn new(keys: Vec<PublicKey>, interval: u64, window: u64) -> Self {
        let (sequence, digest) = (Sequence(0), Digest([0; 32]));
        Self { sequence, digest, keys, change: None, done: BTreeSet::new(), interval, window }
    }

    /// The last sequence of the epoch, if it is to end.
    fn end(&self) -> Option<u64> {
        let asked = self.change.as_ref()?.asked.0;
        Some((asked + self.window).div_ceil(self.interval) * self.interval)
    }

    /// Whether everything in a batch is executed. Each batch has a plain request in it.
    pub fn has_all_of(&self, batch: &Batch) -> bool {
        let done = |request| if let Request::Plain(n) = request { self.done.contains(&n) } else { true };
        decode(&batch.payload).into_iter().all(done)
    }

    /// The next block. Its batches must be there.
    pub fn execute(&mut self, block: &Committed, batches: &BTreeMap<Digest, Batch>, digest: &Digest) {
        let sequence = block.proposal.sequence;
        assert_eq!(sequence, self.sequence.next(), "out of order");
        if self.end().is_some_and(|end| sequence.0 > end)
            && let Some(change) = self.change.take()
        {
            self.keys = change.keys;
        }
        self.sequence = sequence;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest.0);
        hasher.update(&digest.0);
        for batch in &block.proposal.batches {
            for request in decode(&batches[batch].payload) {
                self.one(sequence, request);
            }
        }
        hasher.update(&(self.done.len() as u64).to_le_bytes());
        hasher.update(&[u8::from(self.change.is_some())]);
        self.digest = Digest(*hasher.finalize().as_bytes());
    }

    fn one(&mut self, asked: Sequence, request: Request) {
        let keys = self.keys.clone();
        match request {
            Request::Plain(n) => drop(self.done.insert(n)),
            // One change an epoch; who comes late asks again.
            _ if self.change.is_some() => {}
            Request::Swap(seat, key) => {
                let mut keys = keys;
                if !keys.contains(&key)
                    && let Some(place) = keys.get_mut(usize::from(seat))
                {
                    *place = key;
                    self.change = Some(SetChange { asked, keys, rejoined: Vec::new() });
                }
            }
            Request::Rejoin(key, nonce) => {
                if keys.contains(&key) {
                    self.change = Some(SetChange { asked, keys, rejoined: vec![(key, nonce)] });
                }
            }
        }
    }
}
