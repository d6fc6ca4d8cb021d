//! Answers that are kept for callers who ask again, and which requests may not be judged any more.
//!
//! Kept in memory, in the order in which the requests were born, and in the map as one page for each entry. A
//! number in the counters says which births are forgotten: a request from before it is refused without
//! effect, since an earlier try of it may have taken effect. The number rises with the cluster's clock, and
//! earlier where [`MAX_BYTES`] are full, but never into the last [`SPARED_MS`]: one writer with long answers
//! must not have the first tries of others refused. Where that leaves no room, new requests wait. So a
//! request takes effect at most once, whatever is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use wmall_proto::clock::{ANSWERS_KEPT_MS, REQUEST_SKEW_MS};
use wmall_proto::{ErrorCode, RequestId, RpcError};

use super::derived::Clock;

/// Bytes that the kept answers may take in memory.
const MAX_BYTES: usize = 64 << 20;
/// Part of the bound that is kept for acts of operators, so that whoever fills the rest can be revoked.
const RESERVE: usize = 8;
/// Requests of the last so many milliseconds are judged, however full it is: what a request takes to get
/// here, and as much as its caller's clock may be behind.
const SPARED_MS: u64 = 15_000;
/// Bytes that an answer takes beside its own: its key, its places in the maps, its allocation.
const OVERHEAD: usize = 96;

/// The answers of one entry, as stored.
pub(super) type AnswerPage = Vec<(RequestId, Vec<u8>)>;

struct Kept {
    /// Index of the entry that gave it.
    index: u64,
    answer: Arc<[u8]>,
}

/// The kept answers.
pub(crate) struct Answers {
    by_request: BTreeMap<RequestId, Kept>,
    /// How many of each entry's answers are kept still.
    pages: BTreeMap<u64, usize>,
    bytes: usize,
    max_bytes: usize,
    spared_ms: u64,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            by_request: BTreeMap::new(),
            pages: BTreeMap::new(),
            bytes: 0,
            max_bytes: MAX_BYTES,
            spared_ms: SPARED_MS,
        }
    }
}

impl Answers {
    pub(super) fn get(&self, request: &RequestId) -> Option<Arc<[u8]>> {
        self.by_request.get(request).map(|kept| kept.answer.clone())
    }

    /// Keeps an answer that the entry at `index` gave.
    pub(super) fn insert(&mut self, index: u64, request: RequestId, answer: &[u8]) {
        let kept = Kept { index, answer: answer.into() };
        self.bytes += answer.len() + OVERHEAD;
        *self.pages.entry(index).or_insert(0) += 1;
        if let Some(before) = self.by_request.insert(request, kept) {
            self.let_go(&before);
        }
    }

    /// Forgets the answers to requests that were born before this time. Returns the entries whose pages may
    /// go from the map.
    pub(super) fn forget_before(&mut self, from_ms: u64) -> Vec<u64> {
        let first = RequestId::new(from_ms, [0; 10]);
        let mut gone = Vec::new();
        while let Some(oldest) = self.by_request.first_entry().filter(|oldest| *oldest.key() < first) {
            let kept = oldest.remove();
            gone.extend(self.let_go(&kept));
        }
        gone
    }

    /// Refuses a request whose answer there is no room for.
    pub(super) fn check_room(&self, of_operator: bool) -> Result<(), RpcError> {
        let reserve = if of_operator { self.max_bytes / RESERVE } else { 0 };
        if self.bytes <= self.max_bytes + reserve {
            return Ok(());
        }
        let reason = format!("the answers to requests of late take {} bytes", self.bytes);
        Err(RpcError::new(ErrorCode::Busy, reason).hint("try again in a few seconds"))
    }

    /// The earliest birth that fits within the bound, if not all do. Requests of late are spared.
    pub(super) fn overflows_until(&self, now_ms: u64) -> Option<u64> {
        let spared_from_ms = now_ms.saturating_sub(self.spared_ms);
        let mut over = self.bytes.checked_sub(self.max_bytes).filter(|over| *over > 0)?;
        for (request, kept) in &self.by_request {
            over = over.saturating_sub(kept.answer.len() + OVERHEAD);
            if over == 0 {
                return Some(spared_from_ms.min(request.born_ms() + 1));
            }
        }
        None
    }

    fn let_go(&mut self, kept: &Kept) -> Option<u64> {
        self.bytes -= kept.answer.len() + OVERHEAD;
        let left = self.pages.get_mut(&kept.index)?;
        *left -= 1;
        if *left > 0 {
            return None;
        }
        self.pages.remove(&kept.index);
        Some(kept.index)
    }

    #[cfg(test)]
    pub(super) fn set_bounds(&mut self, max_bytes: usize, spared_ms: u64) {
        (self.max_bytes, self.spared_ms) = (max_bytes, spared_ms);
    }

    #[cfg(test)]
    pub(super) fn requests(&self) -> Vec<RequestId> {
        self.by_request.keys().copied().collect()
    }
}

/// The earliest birth whose answers are kept at this time.
pub(super) fn kept_from(now_ms: u64) -> u64 {
    now_ms.saturating_sub(ANSWERS_KEPT_MS)
}

/// Refuses a request of which an earlier try may be forgotten, and one that would be remembered for too long.
pub(super) fn check_birth(request: &RequestId, from_ms: u64, clock: Clock) -> Result<(), RpcError> {
    let born_ms = request.born_ms();
    if born_ms < from_ms {
        let reason = format!(
            "the request was born {} ms ago, and answers to requests of the last {} ms are kept: whether an \
             earlier try took effect is not known any more",
            clock.now_ms.saturating_sub(born_ms),
            clock.now_ms.saturating_sub(from_ms),
        );
        return Err(RpcError::new(ErrorCode::RequestExpired, reason)
            .hint("this try changed nothing; look whether an earlier one did, and else ask anew"));
    }
    // In a new cluster and after a restore the clock has yet to begin.
    if !clock.may_jump && born_ms > clock.now_ms.saturating_add(REQUEST_SKEW_MS) {
        let reason = format!(
            "the request is born {} ms ahead of the cluster's clock; {REQUEST_SKEW_MS} at most",
            born_ms - clock.now_ms
        );
        return Err(RpcError::new(ErrorCode::Busy, reason)
            .hint("ask by the cluster's clock, which comes with the map"));
    }
    Ok(())
}
