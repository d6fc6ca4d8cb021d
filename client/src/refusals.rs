//! Slots that refused a chunk, and whether all have. A refusal may be the view of the one node that says so:
//! of its clock, its disk, its load. It is final once no slot is left that has not refused.

use std::collections::BTreeMap;

use wmall_proto::{ErrorCode, RpcError};

/// The last word of each slot that refused by itself.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<u8, RpcError>);

impl Refusals {
    /// Notes what came of asking a slot. None: it took the chunk, or said nothing to go by.
    pub(crate) fn hear(&mut self, slot: u8, error: Option<&RpcError>) {
        // Neither changes while one waits.
        match error.filter(|e| matches!(e.code, ErrorCode::Denied | ErrorCode::DiskFull)) {
            Some(error) => drop(self.0.insert(slot, error.clone())),
            None => drop(self.0.remove(&slot)),
        }
    }

    /// The error of a chunk that none of these slots will take: what all have said, or that they said various
    /// things. None as long as one of them has not refused.
    pub(crate) fn verdict(&self, slots: impl Iterator<Item = u8>) -> Option<RpcError> {
        let mut words = Vec::new();
        for slot in slots {
            words.push(self.0.get(&slot)?);
        }
        let first = *words.first()?;
        if words.iter().all(|w| w.code == first.code) {
            return Some(first.clone());
        }
        let reasons: Vec<String> = words.iter().map(ToString::to_string).collect();
        Some(
            RpcError::new(ErrorCode::TooFewReceipts, reasons.join("; "))
                .hint("`wmall health` and `wmall disk ls` show what is wrong with nodes and disks"),
        )
    }

    /// True if a slot has refused.
    pub(crate) fn has(&self, slot: u8) -> bool {
        self.0.contains_key(&slot)
    }

    /// The row has changed, so the slots are others.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: ErrorCode) -> RpcError {
        RpcError::new(code, "no")
    }

    #[test]
    fn a_refusal_is_final_when_every_slot_has_refused() {
        let (denied, full, late) =
            (error(ErrorCode::Denied), error(ErrorCode::DiskFull), error(ErrorCode::Timeout));
        let mut refusals = Refusals::default();
        let verdict = |r: &Refusals, slots: &[u8]| r.verdict(slots.iter().copied()).map(|e| e.code);
        assert_eq!(verdict(&refusals, &[]), None, "all slots have promised, and zones are too few");
        refusals.hear(0, Some(&denied));
        assert_eq!(verdict(&refusals, &[0, 1, 2]), None, "one node's clock is no reason to give up");
        refusals.hear(1, Some(&denied));
        refusals.hear(2, Some(&late));
        assert_eq!(verdict(&refusals, &[0, 1, 2]), None);
        assert_eq!(verdict(&refusals, &[0, 1]), Some(ErrorCode::Denied), "the third one has promised");
        refusals.hear(2, Some(&full));
        assert_eq!(verdict(&refusals, &[0, 1, 2]), Some(ErrorCode::TooFewReceipts), "for various reasons");
        assert_eq!(verdict(&refusals, &[2]), Some(ErrorCode::DiskFull));
        refusals.hear(1, None);
        assert_eq!(verdict(&refusals, &[0, 1]), None, "it thinks otherwise now");
        refusals.clear();
        assert_eq!(verdict(&refusals, &[0]), None);
    }
}
