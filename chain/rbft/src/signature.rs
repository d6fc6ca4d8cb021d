//! Who signs, and how a signature is checked: ed25519 by the rules of ZIP-215, under which one check and a batch of them
//! agree on every input. Behind two small traits, so that a simulation of many years need not do the arithmetic.

use ed25519_zebra::{SigningKey, VerificationKey};

/// Bytes of a signature.
pub type Signature = [u8; 64];
/// Bytes of a public key.
pub type PublicKey = [u8; 32];

/// Signs as one validator.
pub trait Signer: Send {
    /// The same bytes have the same signature.
    fn sign(&self, bytes: &[u8]) -> Signature;
}

/// Tells whether signatures are who they say they are by.
pub trait Checker: Send + Sync {
    /// Whether this is the key's signature of these bytes.
    fn check(&self, key: &PublicKey, bytes: &[u8], signature: &Signature) -> bool;
}

/// ed25519.
pub struct Ed25519Signer(pub SigningKey);

impl Signer for Ed25519Signer {
    fn sign(&self, bytes: &[u8]) -> Signature {
        self.0.sign(bytes).to_bytes()
    }
}

/// ed25519 by the rules of ZIP-215.
pub struct Zip215;

impl Checker for Zip215 {
    fn check(&self, key: &PublicKey, bytes: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_zebra::Signature::from_bytes(signature);
        VerificationKey::try_from(*key).is_ok_and(|key| key.verify(&signature, bytes).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A point of small order as key, and a signature that only the rules of ZIP-215 take: the same answer from every
    /// implementation of these rules (ZIP-215, "Test vectors").
    #[test]
    fn the_rules_are_those_of_zip_215() {
        let mut identity = [0u8; 32];
        identity[0] = 1;
        let mut signature = [0u8; 64];
        signature[0] = 1;
        assert!(Zip215.check(&identity, b"Zcash", &signature));
        signature[32] = 1;
        assert!(!Zip215.check(&identity, b"Zcash", &signature));
    }
}
