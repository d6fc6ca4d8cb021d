//! Receipts: a disk's signed promise that it holds a piece.
//!
//! The piece is held until the fence passes the start of the upload that the receipt is for, whatever becomes
//! of the chunk meanwhile, and the receipt is good exactly as long. It names the disk's incarnation, so a
//! wiped disk's receipts prove nothing.

use bincode::{Decode, Encode};
use ed25519_zebra::{Signature, SigningKey, VerificationKey};

use crate::chunk::ChunkCommit;
use crate::ids::{ChunkId, DiskId, Incarnation, PoolId, UploadId};
use crate::scheme::Scheme;
use crate::topology::ClusterId;

/// Domain separator and version of the signed bytes.
const DOMAIN: &[u8; 16] = b"wmall.receipt.v1";
/// The same of an attestation.
const ATTESTATION: &[u8; 16] = b"wmall.attest..v1";

/// Everything a receipt promises, before the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Receipt {
    /// The disk that promises.
    pub disk: DiskId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// The upload the piece came with.
    pub upload: UploadId,
    /// The chunk's pool.
    pub pool: PoolId,
    /// The row version the piece was taken under.
    pub row_version: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// The slot of the row.
    pub slot: u8,
    /// BLAKE3 of the piece: the chunk id itself for a copy.
    pub digest: [u8; 32],
    /// Bytes of the chunk; of a copy they are the piece's.
    pub length: u32,
}

/// The part of a receipt that a commit carries; the rest is in the commit itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptProof {
    /// The disk that promises.
    pub disk: DiskId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// The slot of the row.
    pub slot: u8,
    /// ed25519 over [`Receipt::signing_bytes`].
    pub signature: [u8; 64],
}

/// A receipt with its signature, as a data node hands it out.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedReceipt {
    /// What is promised.
    pub receipt: Receipt,
    /// ed25519 over [`Receipt::signing_bytes`].
    pub signature: [u8; 64],
}

/// A disk's word that it has a piece now, given to whoever asks and to nobody else: it promises nothing, and
/// no commit takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Attestation {
    /// The disk.
    pub disk: DiskId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// What the asker drew, so that an old answer does not pass for a new one.
    pub nonce: [u8; 16],
    /// The chunk's pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The slot that the piece was written for.
    pub slot: u8,
    /// Bytes of the piece.
    pub length: u32,
}

/// An attestation with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedAttestation {
    /// What is said.
    pub attestation: Attestation,
    /// ed25519 over [`Attestation::signing_bytes`].
    pub signature: [u8; 64],
}

impl Attestation {
    /// The canonical bytes that are signed; the layout is in `docs/formats.md`.
    pub fn signing_bytes(&self, cluster: &ClusterId) -> Vec<u8> {
        let mut out = Vec::with_capacity(107);
        out.extend_from_slice(ATTESTATION);
        out.extend_from_slice(&cluster.0);
        out.extend_from_slice(&self.disk.0.to_le_bytes());
        out.extend_from_slice(&self.incarnation.0);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.pool.0.to_le_bytes());
        out.extend_from_slice(&self.chunk.0);
        out.push(self.slot);
        out.extend_from_slice(&self.length.to_le_bytes());
        out
    }

    /// Signs it with the disk's key.
    pub fn sign(self, cluster: &ClusterId, key: &SigningKey) -> SignedAttestation {
        let signature = key.sign(&self.signing_bytes(cluster)).to_bytes();
        SignedAttestation { attestation: self, signature }
    }
}

impl SignedAttestation {
    /// Checks the signature against the disk's public key, as the map has it.
    pub fn verify(&self, cluster: &ClusterId, key: &[u8; 32]) -> Result<(), BadReceipt> {
        let key = VerificationKey::try_from(*key).map_err(|_| BadReceipt)?;
        let signature = Signature::from_bytes(&self.signature);
        key.verify(&signature, &self.attestation.signing_bytes(cluster)).map_err(|_| BadReceipt)
    }
}

/// The signature is not this disk's over these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the receipt's signature does not verify")]
pub struct BadReceipt;

impl Receipt {
    /// The canonical bytes that are signed; the layout is in `docs/formats.md`.
    pub fn signing_bytes(&self, cluster: &ClusterId) -> Vec<u8> {
        let mut out = Vec::with_capacity(147);
        out.extend_from_slice(DOMAIN);
        out.extend_from_slice(&cluster.0);
        out.extend_from_slice(&self.disk.0.to_le_bytes());
        out.extend_from_slice(&self.incarnation.0);
        out.extend_from_slice(&self.upload.0);
        out.extend_from_slice(&self.pool.0.to_le_bytes());
        out.extend_from_slice(&self.row_version.to_le_bytes());
        out.extend_from_slice(&self.chunk.0);
        out.push(self.slot);
        out.extend_from_slice(&self.digest);
        out.extend_from_slice(&self.length.to_le_bytes());
        out
    }

    /// Signs it with the disk's key.
    pub fn sign(self, cluster: &ClusterId, key: &SigningKey) -> SignedReceipt {
        let signature = key.sign(&self.signing_bytes(cluster)).to_bytes();
        SignedReceipt { receipt: self, signature }
    }
}

impl SignedReceipt {
    /// Checks the signature against the disk's public key.
    pub fn verify(&self, cluster: &ClusterId, key: &VerificationKey) -> Result<(), BadReceipt> {
        let signature = Signature::from_bytes(&self.signature);
        key.verify(&signature, &self.receipt.signing_bytes(cluster)).map_err(|_| BadReceipt)
    }

    /// The part that a commit carries.
    pub fn into_proof(self) -> ReceiptProof {
        let Receipt { disk, incarnation, slot, .. } = self.receipt;
        ReceiptProof { disk, incarnation, slot, signature: self.signature }
    }
}

impl ReceiptProof {
    /// Puts the receipt together again from the commit it came in: none if the commit has no such piece.
    pub fn within(
        &self,
        upload: UploadId,
        (pool, scheme): (PoolId, Scheme),
        chunk: &ChunkCommit,
    ) -> Option<SignedReceipt> {
        let Self { disk, incarnation, slot, signature } = *self;
        let digest = if scheme.is_striped() { *chunk.digests.get(usize::from(slot))? } else { chunk.id.0 };
        let receipt = Receipt {
            disk,
            incarnation,
            upload,
            pool,
            row_version: chunk.row_version,
            chunk: chunk.id,
            slot,
            digest,
            length: chunk.length,
        };
        Some(SignedReceipt { receipt, signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (ClusterId, Receipt) {
        let receipt = Receipt {
            disk: DiskId(3),
            incarnation: Incarnation([1; 16]),
            upload: UploadId([2; 16]),
            pool: PoolId(4),
            row_version: 5,
            chunk: ChunkId([6; 32]),
            slot: 2,
            digest: [6; 32],
            length: 4096,
        };
        (ClusterId([9; 16]), receipt)
    }

    #[test]
    fn signing_bytes_are_pinned() {
        let (cluster, receipt) = sample();
        let bytes = receipt.signing_bytes(&cluster);
        assert_eq!(bytes.len(), 147);
        assert_eq!(
            crate::ids::to_hex(blake3::hash(&bytes).as_bytes()),
            "0a6a28e25cb1e996a7b387a59b2641d5968ba9bb00acbf87add09843262db9a5"
        );
    }

    #[test]
    fn an_attestation_is_fresh_and_passes_for_no_receipt() {
        let (cluster, r) = sample();
        let key = SigningKey::from([7u8; 32]);
        let public: [u8; 32] = VerificationKey::from(&key).into();
        let (disk, incarnation, pool, chunk) = (r.disk, r.incarnation, r.pool, r.chunk);
        let attestation =
            Attestation { disk, incarnation, nonce: [5; 16], pool, chunk, slot: 2, length: 4096 };
        assert_eq!(
            crate::ids::to_hex(blake3::hash(&attestation.signing_bytes(&cluster)).as_bytes()),
            "d7ae406ef6c10163347fa5037adf7df259fcb4ae76fdee75068b41fba3bc2648"
        );
        let signed = attestation.sign(&cluster, &key);
        assert_eq!(signed.verify(&cluster, &public), Ok(()));
        let changes: [fn(&mut Attestation); 7] = [
            |a| a.disk.0 += 1,
            |a| a.incarnation.0[0] += 1,
            |a| a.nonce[0] += 1,
            |a| a.pool.0 += 1,
            |a| a.chunk.0[0] += 1,
            |a| a.slot += 1,
            |a| a.length += 1,
        ];
        for change in changes {
            let mut forged = signed.clone();
            change(&mut forged.attestation);
            assert_eq!(forged.verify(&cluster, &public), Err(BadReceipt));
        }
        assert_eq!(signed.verify(&ClusterId([8; 16]), &public), Err(BadReceipt));
        let receipt = SignedReceipt { receipt: r, signature: signed.signature };
        assert_eq!(receipt.verify(&cluster, &VerificationKey::from(&key)), Err(BadReceipt));
    }

    #[test]
    fn every_field_is_under_the_signature() {
        let (cluster, receipt) = sample();
        let key = SigningKey::from([7u8; 32]);
        let public = VerificationKey::from(&key);
        let signed = receipt.sign(&cluster, &key);
        assert_eq!(signed.verify(&cluster, &public), Ok(()));
        let changes: [fn(&mut Receipt); 9] = [
            |r| r.disk.0 += 1,
            |r| r.incarnation.0[0] += 1,
            |r| r.upload.0[0] += 1,
            |r| r.pool.0 += 1,
            |r| r.row_version += 1,
            |r| r.chunk.0[0] += 1,
            |r| r.slot += 1,
            |r| r.digest[0] += 1,
            |r| r.length += 1,
        ];
        for change in changes {
            let mut forged = signed.clone();
            change(&mut forged.receipt);
            assert_eq!(forged.verify(&cluster, &public), Err(BadReceipt));
        }
        assert_eq!(signed.verify(&ClusterId([8; 16]), &public), Err(BadReceipt));
    }
}
