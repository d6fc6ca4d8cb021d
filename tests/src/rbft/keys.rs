//! Who signs in a world: stubs that nobody in it can forge and that cost next to nothing; in some worlds ed25519, so that
//! nothing rests on what only the stubs do.

use ed25519_zebra::{SigningKey, VerificationKey};
use wmall_rbft::{Checker, Ed25519Signer, PublicKey, Signer, Zip215};

use super::stub::{StubChecker, StubSigner};

/// The keys of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Of stubs.
    Stub,
    /// Of ed25519.
    Real,
}

fn secret(n: usize) -> SigningKey {
    let mut seed = [7u8; 32];
    seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
    SigningKey::from(seed)
}

impl Keys {
    /// The key of a validator, by its number.
    pub fn key(self, n: usize) -> PublicKey {
        match self {
            Self::Stub => {
                let mut key = [0u8; 32];
                key[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
                key[31] = 7;
                key
            }
            Self::Real => VerificationKey::from(&secret(n)).into(),
        }
    }

    /// Who signs with that key.
    pub fn signer(self, n: usize) -> Box<dyn Signer> {
        match self {
            Self::Stub => Box::new(StubSigner(self.key(n))),
            Self::Real => Box::new(Ed25519Signer(secret(n))),
        }
    }

    /// Who checks.
    pub fn checker(self) -> &'static dyn Checker {
        match self {
            Self::Stub => &StubChecker,
            Self::Real => &Zip215,
        }
    }
}
