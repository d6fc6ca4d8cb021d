//! What a chain decides, and how long a replica waits. The first part must be the same everywhere.

use crate::codec::MAX_MESSAGE;
use crate::ids::{Digest, Sequence};
use crate::quorum::Quorum;
use crate::validators::MAX_VALIDATORS;

/// Why nothing can run by these parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// One that is 0 and must not be.
    #[error("{0} is 0; it must be at least 1")]
    Zero(&'static str),
    /// The longest wait is shorter than the first.
    #[error("max_timeout_ms is {longest}, less than request_timeout_ms, which is {first}")]
    Timeouts {
        /// `request_timeout_ms`.
        first: u64,
        /// `max_timeout_ms`.
        longest: u64,
    },
    /// The chain would stop at its first view change with a full window.
    #[error(
        "a view of {MAX_VALIDATORS} validators may begin with {bytes} bytes, and a message has {MAX_MESSAGE} at most: \
         lower checkpoint_interval or max_batches"
    )]
    NewView {
        /// How many it may need.
        bytes: u64,
    },
}

/// Parameters of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// K: a checkpoint every so many sequences. A chain parameter.
    pub checkpoint_interval: u64,
    /// Sequences beyond the agreed archived height up to which there may be proposals. A chain parameter.
    pub archive_bound: u64,
    /// Batches that a proposal may list. A chain parameter.
    pub max_batches: usize,
    /// How far a fresh proposal's time may be ahead of a replica's clock, in milliseconds.
    pub drift_ms: u64,
    /// How long a stored batch may go without being committed before it is forwarded, and then before the primary is
    /// complained about. Doubles with every view that brings nothing, up to the next value.
    pub request_timeout_ms: u64,
    /// The longest that is waited for a view.
    pub max_timeout_ms: u64,
    /// Between repetitions of what may have been lost.
    pub resend_ms: u64,
    /// Batches that a replica holds uncommitted from one peer: so many that the peer has made, and so many that it forwards.
    pub batches_per_seat: usize,
    /// How long an idle primary waits before it proposes nothing, where something waits for the next boundary.
    pub idle_ms: u64,
}

impl Config {
    /// Batches of which it is remembered that a peer has them, not committed: more than a peer usually holds.
    pub fn reports_per_seat(&self) -> usize {
        self.batches_per_seat.saturating_mul(16)
    }

    /// Whether a chain can run by these, also once it has all the validators that it may have.
    pub fn check(&self) -> Result<(), ConfigError> {
        let least = [
            ("checkpoint_interval", self.checkpoint_interval),
            ("archive_bound", self.archive_bound),
            ("max_batches", self.max_batches as u64),
            ("request_timeout_ms", self.request_timeout_ms),
            ("resend_ms", self.resend_ms),
            ("batches_per_seat", self.batches_per_seat as u64),
        ];
        if let Some((name, _)) = least.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero(name));
        }
        let (first, longest) = (self.request_timeout_ms, self.max_timeout_ms);
        if longest < first {
            return Err(ConfigError::Timeouts { first, longest });
        }
        let bytes = self.longest_new_view();
        if bytes > MAX_MESSAGE as u64 { Err(ConfigError::NewView { bytes }) } else { Ok(()) }
    }

    /// Bytes of a new view of all validators that there may be, with a full window: a quorum of view changes, each with a
    /// certificate for its checkpoint and one for each proposal of the window.
    fn longest_new_view(&self) -> u64 {
        let quorum = Quorum::new(MAX_VALIDATORS as u32).map_or(0, |quorum| u64::from(quorum.quorum()));
        // Lengths are eight bytes, kinds are four, an option is one.
        let numbers = |n: u64| n * size_of::<Sequence>() as u64;
        let digest = size_of::<Digest>() as u64;
        let certificate = numbers(3) + 4 + digest + 8 + (MAX_VALIDATORS as u64).div_ceil(8) + 8 + 64 * quorum;
        let proposal = (numbers(3) + 8).saturating_add((self.max_batches as u64).saturating_mul(digest));
        let prepared = self.window().saturating_mul(certificate.saturating_add(proposal));
        let change = (numbers(2) + 1 + certificate + 8 + 2 + 64).saturating_add(prepared);
        (4 + numbers(4) + 1 + 8 + 64).saturating_add(quorum.saturating_mul(change))
    }

    /// L = 4K: the sequences that may be under way above the stable checkpoint (PBFT section 4.3).
    pub fn window(&self) -> u64 {
        self.checkpoint_interval.saturating_mul(4)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            checkpoint_interval: 10,
            archive_bound: 1000,
            max_batches: 64,
            drift_ms: 5_000,
            request_timeout_ms: 2_000,
            max_timeout_ms: 60_000,
            resend_ms: 500,
            batches_per_seat: 128,
            idle_ms: 200,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Certificate;
    use crate::ids::{Epoch, Seat};
    use crate::message::{Message, NewView, Prepared, ViewChange};
    use crate::proposal::Proposal;
    use crate::vote::VoteKind;
    use crate::vote::tests::vote;

    #[test]
    fn what_nothing_can_run_by_is_refused() {
        let good = Config::default();
        assert_eq!(good.check(), Ok(()));
        let checked = |change: fn(&mut Config)| {
            let mut config = good;
            change(&mut config);
            config.check()
        };
        assert_eq!(checked(|c| c.checkpoint_interval = 0), Err(ConfigError::Zero("checkpoint_interval")));
        assert_eq!(checked(|c| c.batches_per_seat = 0), Err(ConfigError::Zero("batches_per_seat")));
        let timeouts = ConfigError::Timeouts { first: 2_000, longest: 1_999 };
        assert_eq!(checked(|c| c.max_timeout_ms = 1_999), Err(timeouts));
        let too_long = |checked| matches!(checked, Err(ConfigError::NewView { .. }));
        assert!(too_long(checked(|c| c.checkpoint_interval = 20)));
        assert!(too_long(checked(|c| c.max_batches = 128)));
        assert!(too_long(checked(|c| (c.checkpoint_interval, c.max_batches) = (u64::MAX, usize::MAX))));
    }

    /// The bound that is checked is that of the message which is really sent.
    #[test]
    fn the_longest_new_view_is_as_long_as_it_is_said_to_be() {
        let config = Config { checkpoint_interval: 2, max_batches: 3, ..Config::default() };
        let quorum = Quorum::new(MAX_VALIDATORS as u32).unwrap().quorum() as usize;
        let certificate = |kind| Certificate {
            vote: vote(kind),
            signers: vec![0; MAX_VALIDATORS / 8],
            signatures: vec![[0; 64]; quorum],
        };
        let batches = vec![Digest([1; 32]); config.max_batches];
        let proposal = Proposal { batches, ..Proposal::null(Epoch(3), Sequence(70)) };
        let prepared = Prepared { proposal, certificate: certificate(VoteKind::Prepare) };
        let change = ViewChange {
            epoch: Epoch(3),
            view: crate::View(5),
            stable: Some(certificate(VoteKind::Checkpoint)),
            prepared: vec![prepared; config.window() as usize],
            seat: Seat(1),
            signature: [0; 64],
        };
        let (epoch, view, signature) = (Epoch(3), crate::View(5), [0; 64]);
        let new_view = NewView { epoch, view, changes: vec![change; quorum], signature };
        let message = Message::Negotiated { nonce: crate::Nonce(1), epoch, new_view: Some(new_view) };
        assert_eq!(message.encode().len() as u64, config.longest_new_view());
    }
}
