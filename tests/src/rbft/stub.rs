//! Signatures that nobody in a simulation can forge, since nobody has another one's signer; and that cost next to nothing.

use wmall_rbft::{Checker, PublicKey, Signature, Signer};

/// Signs as this key.
pub struct StubSigner(pub PublicKey);

/// Checks what [`StubSigner`] signs.
pub struct StubChecker;

fn mix(key: &PublicKey, bytes: &[u8]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    let mut eat = |part: &[u8]| {
        for word in part.chunks(8) {
            let mut padded = [0u8; 8];
            padded[..word.len()].copy_from_slice(word);
            state = (state ^ u64::from_le_bytes(padded)).wrapping_mul(0x0100_0000_01b3_9e37);
            state ^= state >> 29;
        }
    };
    eat(key);
    eat(bytes);
    state
}

impl Signer for StubSigner {
    fn sign(&self, bytes: &[u8]) -> Signature {
        let mut signature = [0u8; 64];
        signature[..8].copy_from_slice(&mix(&self.0, bytes).to_le_bytes());
        signature
    }
}

impl Checker for StubChecker {
    fn check(&self, key: &PublicKey, bytes: &[u8], signature: &Signature) -> bool {
        signature[..8] == mix(key, bytes).to_le_bytes() && signature[8..] == [0; 56]
    }
}
