//! The validators of an epoch: their keys, by seat.

use std::collections::BTreeSet;

use crate::ids::{Digest, Epoch, Seat, View};
use crate::quorum::{Quorum, QuorumError};
use crate::signature::PublicKey;

/// Validators that a set may have: a certificate's bitmap and a message's size are bounded by it.
pub const MAX_VALIDATORS: usize = 128;

/// Why there is no such set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidatorSetError {
    /// Too few to tolerate anything.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// More than a certificate has room for.
    #[error("{0} validators; {MAX_VALIDATORS} at most")]
    TooMany(usize),
    /// One key would have two votes.
    #[error("seat {0} has the key of another")]
    Twice(Seat),
}

/// The set. Which seat a validator has is part of it: the order of the keys counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatorSet {
    epoch: Epoch,
    quorum: Quorum,
    keys: Vec<PublicKey>,
}

impl ValidatorSet {
    /// These keys, seat by seat.
    pub fn new(epoch: Epoch, keys: Vec<PublicKey>) -> Result<Self, ValidatorSetError> {
        if keys.len() > MAX_VALIDATORS {
            return Err(ValidatorSetError::TooMany(keys.len()));
        }
        let quorum = Quorum::new(keys.len() as u32)?;
        let mut seen = BTreeSet::new();
        if let Some(seat) = keys.iter().position(|key| !seen.insert(key)) {
            return Err(ValidatorSetError::Twice(Seat(seat as u16)));
        }
        Ok(Self { epoch, quorum, keys })
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many make a quorum.
    pub fn quorum(&self) -> usize {
        self.quorum.quorum() as usize
    }

    /// How many may be faulty.
    pub fn faulty(&self) -> usize {
        self.quorum.faulty() as usize
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.keys.len()
    }

    /// All seats.
    pub fn seats(&self) -> impl Iterator<Item = Seat> + use<> {
        (0..self.keys.len() as u16).map(Seat)
    }

    /// The key of a seat.
    pub fn key(&self, seat: Seat) -> Option<&PublicKey> {
        self.keys.get(usize::from(seat.0))
    }

    /// The seat of a key, if it has one.
    pub fn seat_of(&self, key: &PublicKey) -> Option<Seat> {
        self.keys.iter().position(|k| k == key).map(|seat| Seat(seat as u16))
    }

    /// Who proposes in a view: `view mod N` (PBFT section 4).
    pub fn primary(&self, view: View) -> Seat {
        Seat((view.0 % self.keys.len() as u64) as u16)
    }

    /// What headers name the set by: BLAKE3 over `wmall.rbft.set.1`, epoch u64, count u32, keys.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"wmall.rbft.set.1");
        hasher.update(&self.epoch.0.to_le_bytes());
        hasher.update(&(self.keys.len() as u32).to_le_bytes());
        self.keys.iter().for_each(|key| {
            hasher.update(key);
        });
        Digest(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::signature::Ed25519Signer;
    use ed25519_zebra::{SigningKey, VerificationKey};

    /// The key of a seat, the same in every test.
    pub(crate) fn signing_key(seat: u16) -> SigningKey {
        let mut seed = [7u8; 32];
        seed[..2].copy_from_slice(&seat.to_le_bytes());
        SigningKey::from(seed)
    }

    pub(crate) fn signer(seat: u16) -> Ed25519Signer {
        Ed25519Signer(signing_key(seat))
    }

    pub(crate) fn keys(count: u16) -> Vec<PublicKey> {
        (0..count).map(|seat| VerificationKey::from(&signing_key(seat)).into()).collect()
    }

    pub(crate) fn set(count: u16) -> ValidatorSet {
        ValidatorSet::new(Epoch(3), keys(count)).unwrap()
    }

    #[test]
    fn primaries_take_turns_and_a_set_has_one_name() {
        let four = set(4);
        assert_eq!((0..6).map(|v| four.primary(View(v)).0).collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1]);
        assert_eq!(four.primary(View(u64::MAX)), Seat(3));
        assert_eq!(four.seat_of(four.key(Seat(2)).unwrap()), Some(Seat(2)));
        let other = ValidatorSet::new(Epoch(4), keys(4)).unwrap();
        let mut turned = keys(4);
        turned.swap(0, 1);
        let turned = ValidatorSet::new(Epoch(3), turned).unwrap();
        assert_eq!(
            BTreeSet::from([four.digest(), other.digest(), turned.digest(), set(5).digest()]).len(),
            4
        );
    }

    #[test]
    fn what_is_no_set_is_refused() {
        assert_eq!(ValidatorSet::new(Epoch(0), keys(3)), Err(ValidatorSetError::Quorum(QuorumError(3))));
        let mut twice = keys(4);
        twice[3] = twice[0];
        assert_eq!(ValidatorSet::new(Epoch(0), twice), Err(ValidatorSetError::Twice(Seat(3))));
        let many = vec![[0u8; 32]; MAX_VALIDATORS + 1];
        assert_eq!(ValidatorSet::new(Epoch(0), many), Err(ValidatorSetError::TooMany(MAX_VALIDATORS + 1)));
    }
}
