//! Batches, and proposals that list them.

use bincode::{Decode, Encode};

use crate::ids::{ChainId, Digest, Epoch, Seat, Sequence};
use crate::signature::{PublicKey, Signature, Signer};

/// Bytes that a batch may have.
pub const MAX_BATCH_BYTES: usize = 4 << 20;

/// Clients' requests, as one replica gathered them. What they say is the ledger's business.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Batch {
    /// Who disseminates it.
    pub origin: PublicKey,
    /// The requests.
    pub payload: Vec<u8>,
    /// By the origin, over [`Batch::signing_bytes`]: nobody uses up another one's share of what is held.
    pub signature: Signature,
}

impl Batch {
    /// One of these requests.
    pub fn sign(chain: &ChainId, origin: PublicKey, payload: Vec<u8>, signer: &dyn Signer) -> Self {
        let mut batch = Self { origin, payload, signature: [0; 64] };
        batch.signature = signer.sign(&Self::signing_bytes(chain, &batch.digest()));
        batch
    }

    /// What is signed: `wmall.rbftbatsg1`, chain 32, digest 32.
    pub fn signing_bytes(chain: &ChainId, digest: &Digest) -> [u8; 80] {
        let mut bytes = [0u8; 80];
        bytes[..16].copy_from_slice(b"wmall.rbftbatsg1");
        bytes[16..48].copy_from_slice(&chain.0.0);
        bytes[48..].copy_from_slice(&digest.0);
        bytes
    }

    /// BLAKE3 over `wmall.rbftbatch1`, origin, payload.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"wmall.rbftbatch1");
        hasher.update(&self.origin);
        hasher.update(&self.payload);
        Digest(*hasher.finalize().as_bytes())
    }
}

/// What a sequence is to be: a block before it is executed. Without view and proposer, so that one that is proposed again
/// is the same block.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Proposal {
    /// In whose rule.
    pub epoch: Epoch,
    /// Its place.
    pub sequence: Sequence,
    /// The primary's clock, in milliseconds since the Unix epoch; 0 for one that fills a gap.
    pub time_ms: u64,
    /// Its batches, in order.
    pub batches: Vec<Digest>,
}

impl Proposal {
    /// PBFT's null request: fills a gap that a view change found.
    pub fn null(epoch: Epoch, sequence: Sequence) -> Self {
        Self { epoch, sequence, time_ms: 0, batches: Vec::new() }
    }

    /// BLAKE3 over `wmall.rbftpropo1`, chain, epoch u64, sequence u64, time u64, count u32, batch digests.
    pub fn digest(&self, chain: &ChainId) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"wmall.rbftpropo1");
        hasher.update(&chain.0.0);
        hasher.update(&self.epoch.0.to_le_bytes());
        hasher.update(&self.sequence.0.to_le_bytes());
        hasher.update(&self.time_ms.to_le_bytes());
        hasher.update(&(self.batches.len() as u32).to_le_bytes());
        self.batches.iter().for_each(|digest| {
            hasher.update(&digest.0);
        });
        Digest(*hasher.finalize().as_bytes())
    }
}

/// Equivocation: two different votes of one seat for one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// Who.
    pub seat: Seat,
    /// One vote.
    pub first: crate::SignedVote,
    /// The other one.
    pub second: crate::SignedVote,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposals_digest_names_every_field() {
        let chain = ChainId(Digest([9; 32]));
        let proposal = Proposal {
            epoch: Epoch(3),
            sequence: Sequence(70),
            time_ms: 1234,
            batches: vec![Digest([1; 32]), Digest([2; 32])],
        };
        let digest = proposal.digest(&chain);
        let changes: [fn(&mut Proposal); 5] = [
            |p| p.epoch.0 += 1,
            |p| p.sequence.0 += 1,
            |p| p.time_ms += 1,
            |p| p.batches.swap(0, 1),
            |p| p.batches.truncate(1),
        ];
        for change in changes {
            let mut other = proposal.clone();
            change(&mut other);
            assert_ne!(other.digest(&chain), digest);
        }
        assert_ne!(proposal.digest(&ChainId(Digest([8; 32]))), digest);
    }
}
