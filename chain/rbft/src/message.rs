//! What replicas say to each other.

use bincode::{Decode, Encode};

use crate::certificate::Certificate;
use crate::ids::{ChainId, Digest, Epoch, Nonce, Seat, Sequence, View};
use crate::proposal::{Batch, Proposal};
use crate::signature::Signature;
use crate::vote::SignedVote;

/// Entries that one answer to [`Message::FetchPqc`] has.
pub const MAX_PQC: usize = 64;
/// Digests that one message lists.
pub const MAX_DIGESTS: usize = 256;

/// A proposal that a quorum has prepared, and the proof (PBFT section 4.4: the set P).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Prepared {
    /// The proposal.
    pub proposal: Proposal,
    /// Of prepare votes; its view is the one in which it was prepared.
    pub certificate: Certificate,
}

/// A proposal that a quorum has committed, and the proof.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Committed {
    /// The proposal.
    pub proposal: Proposal,
    /// Of commit votes.
    pub certificate: Certificate,
}

/// A replica wants another view, and says what it has prepared (PBFT section 4.4).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ViewChange {
    /// In whose rule.
    pub epoch: Epoch,
    /// The view that it wants.
    pub view: View,
    /// Its stable checkpoint (the set C); none before the epoch's first one.
    pub stable: Option<Certificate>,
    /// What it has prepared above that (the set P), in the order of sequences, each once.
    pub prepared: Vec<Prepared>,
    /// Who.
    pub seat: Seat,
    /// By that seat, over [`ViewChange::signing_bytes`].
    pub signature: Signature,
}

/// The primary of a new view says how it begins.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewView {
    /// In whose rule.
    pub epoch: Epoch,
    /// The view.
    pub view: View,
    /// A quorum of view changes for it, in the order of their seats. What follows from them, everybody computes; it stands
    /// for the pre-prepares of the proposals that it leads to.
    pub changes: Vec<ViewChange>,
    /// By the primary, over [`NewView::signing_bytes`].
    pub signature: Signature,
}

/// What a replica knows of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PqcEntry {
    /// The proposal.
    pub proposal: Proposal,
    /// Commit votes of a quorum, if it has them; then nothing else is needed.
    pub committed: Option<Certificate>,
    /// The primary's prepare vote of the replica's present view, if it has it.
    pub proposed: Option<SignedVote>,
    /// The replica's own votes of its present view.
    pub votes: Vec<SignedVote>,
}

/// All there is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// A batch: disseminated by its origin, forwarded to the primary, or fetched.
    Batch(Batch),
    /// These batches are on the sender's disk.
    Stored(Vec<Digest>),
    /// Asks for batches.
    FetchBatches(Vec<Digest>),
    /// The primary's proposal, with its prepare vote.
    PrePrepare {
        /// The proposal.
        proposal: Proposal,
        /// The primary's vote for it.
        vote: SignedVote,
    },
    /// A prepare vote.
    Prepare(SignedVote),
    /// A commit vote.
    Commit(SignedVote),
    /// A checkpoint vote.
    Checkpoint {
        /// The vote.
        vote: SignedVote,
        /// Up to where the sender has seen the chain archived. Anybody may lie; the (F + 1)-th highest counts.
        persisted: Sequence,
    },
    /// Up to where the sender has seen the chain archived, while it has no checkpoint vote of this epoch to say it with.
    Archived {
        /// The sender's epoch: a peer of an earlier one learns of it.
        epoch: Epoch,
        /// As in [`Message::Checkpoint`].
        persisted: Sequence,
    },
    /// A wish for another view.
    ViewChange(ViewChange),
    /// The beginning of a view.
    NewView(NewView),
    /// Recovery, first step: which view is it?
    Negotiate {
        /// To be in the answer.
        nonce: Nonce,
        /// The asker's epoch.
        epoch: Epoch,
        /// The first view that it would like to hear of.
        view: View,
    },
    /// The answer.
    Negotiated {
        /// Of the question.
        nonce: Nonce,
        /// The answerer's epoch.
        epoch: Epoch,
        /// The newest view that began, if it is of the asker's epoch, and not before the one that was asked for.
        new_view: Option<NewView>,
    },
    /// Recovery, second step: where does the chain stand?
    RecoveryInit {
        /// To be in the answer.
        nonce: Nonce,
        /// The asker's epoch.
        epoch: Epoch,
    },
    /// The answer.
    Recovery {
        /// Of the question.
        nonce: Nonce,
        /// The answerer's stable checkpoint; of an asker in an earlier epoch, the one that ended that.
        stable: Option<Certificate>,
        /// Up to where the answerer has executed.
        executed: Sequence,
    },
    /// Recovery, last step, and whenever something seems to be lost: asks for what is known of these sequences.
    FetchPqc {
        /// The first.
        from: Sequence,
        /// The last.
        to: Sequence,
    },
    /// The answer.
    Pqc(Vec<PqcEntry>),
}

impl Message {
    /// The word for logs, metrics and the simulator.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Batch(_) => "batch",
            Self::Stored(_) => "stored",
            Self::FetchBatches(_) => "fetch_batches",
            Self::PrePrepare { .. } => "pre_prepare",
            Self::Prepare(_) => "prepare",
            Self::Commit(_) => "commit",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Archived { .. } => "archived",
            Self::ViewChange(_) => "view_change",
            Self::NewView(_) => "new_view",
            Self::Negotiate { .. } => "negotiate",
            Self::Negotiated { .. } => "negotiated",
            Self::RecoveryInit { .. } => "recovery_init",
            Self::Recovery { .. } => "recovery",
            Self::FetchPqc { .. } => "fetch_pqc",
            Self::Pqc(_) => "pqc",
        }
    }
}

impl ViewChange {
    /// What is signed: `wmall.rbftviewc1`, chain 32, epoch 8, view 8, seat 2, then BLAKE3 over what it claims: for the
    /// checkpoint and each prepared proposal the bytes of the vote that its certificate is of, the checkpoint's place zero
    /// bytes if there is none. Certificates' own signatures are not under it: any valid one serves.
    pub fn signing_bytes(&self, chain: &ChainId) -> Vec<u8> {
        let mut claims = blake3::Hasher::new();
        match &self.stable {
            Some(stable) => claims.update(&stable.vote.signing_bytes(chain)),
            None => claims.update(&[0; 105]),
        };
        for prepared in &self.prepared {
            claims.update(&prepared.certificate.vote.signing_bytes(chain));
        }
        let mut bytes = Vec::with_capacity(98);
        bytes.extend_from_slice(b"wmall.rbftviewc1");
        bytes.extend_from_slice(&chain.0.0);
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&self.view.0.to_le_bytes());
        bytes.extend_from_slice(&self.seat.0.to_le_bytes());
        bytes.extend_from_slice(claims.finalize().as_bytes());
        bytes
    }
}

impl NewView {
    /// What is signed: `wmall.rbftnewvi1`, chain 32, epoch 8, view 8, then BLAKE3 over the signing bytes of the view
    /// changes.
    pub fn signing_bytes(&self, chain: &ChainId) -> Vec<u8> {
        let mut changes = blake3::Hasher::new();
        for change in &self.changes {
            changes.update(&change.signing_bytes(chain));
        }
        let mut bytes = Vec::with_capacity(96);
        bytes.extend_from_slice(b"wmall.rbftnewvi1");
        bytes.extend_from_slice(&chain.0.0);
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&self.view.0.to_le_bytes());
        bytes.extend_from_slice(changes.finalize().as_bytes());
        bytes
    }
}
