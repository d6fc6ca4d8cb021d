//! Everything about a message that takes a key, or no state: done beside the core, on as many processors as there are. What
//! comes out carries the proof of that in its type, and the core takes nothing else.

use crate::certificate::{BadCertificate, Certificate};
use crate::ids::{ChainId, Digest, Epoch, Sequence};
use crate::message::{MAX_DIGESTS, MAX_PQC, Message, NewView, PqcEntry, Prepared, ViewChange};
use crate::proposal::{Batch, MAX_BATCH_BYTES, Proposal};
use crate::sets::ValidatorSets;
use crate::signature::{Checker, PublicKey};
use crate::validators::ValidatorSet;
use crate::vote::{BadVote, SignedVote, VoteKind};

/// A message whose every signature was checked, and who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    from: PublicKey,
    message: Message,
    /// Of a batch: the check needs it, the core too, and it costs more than all else that the core does with one.
    digest: Option<Digest>,
}

impl Verified {
    /// Who sent it, as the transport knows.
    pub fn from(&self) -> &PublicKey {
        &self.from
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    pub(crate) fn into_parts(self) -> (PublicKey, Message, Option<Digest>) {
        (self.from, self.message, self.digest)
    }
}

/// Why a message is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Nothing can be checked: the set of that epoch is not known here.
    #[error("the validators of epoch {0} are not known")]
    UnknownEpoch(Epoch),
    /// A vote that does not count.
    #[error(transparent)]
    Vote(#[from] BadVote),
    /// A certificate that proves nothing.
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    /// The vote is not of this kind, or not about what it comes with.
    #[error("a vote that is about something else than what it comes with")]
    Mismatch,
    /// It is not the primary who says so.
    #[error("only the primary of the view may say so")]
    NotPrimary,
    /// Too long, out of order, or twice the same.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The signature of a batch, a view change or a new view is not its sender's.
    #[error("the signature of a {0} does not check out")]
    Signature(&'static str),
}

/// What a check goes by.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The chain.
    pub chain: &'a ChainId,
    /// Validators.
    pub sets: &'a ValidatorSets,
    /// Checks signatures.
    pub checker: &'a dyn Checker,
    /// Batches that a proposal may list.
    pub max_batches: usize,
    /// Sequences that may be under way above a checkpoint.
    pub window: u64,
}

/// Checks a message.
pub fn verify(rules: Rules<'_>, from: PublicKey, message: Message) -> Result<Verified, Rejected> {
    let mut digest = None;
    match &message {
        Message::Batch(batch) => digest = Some(rules.batch(batch)?),
        Message::Stored(digests) | Message::FetchBatches(digests) if digests.len() > MAX_DIGESTS => {
            return Err(Rejected::Malformed("a list that is too long"));
        }
        Message::PrePrepare { proposal, vote } => {
            rules.proposed(proposal, vote)?;
        }
        Message::Prepare(vote) => rules.vote(vote, VoteKind::Prepare)?,
        Message::Commit(vote) => rules.vote(vote, VoteKind::Commit)?,
        Message::Checkpoint { vote, .. } => rules.vote(vote, VoteKind::Checkpoint)?,
        Message::ViewChange(change) => rules.view_change(change)?,
        Message::NewView(new_view) | Message::Negotiated { new_view: Some(new_view), .. } => {
            rules.new_view(new_view)?;
        }
        Message::Recovery { stable: Some(stable), .. } => {
            rules.certificate(stable, VoteKind::Checkpoint)?;
        }
        Message::Pqc(entries) if entries.len() > MAX_PQC => {
            return Err(Rejected::Malformed("an answer that is too long"));
        }
        Message::Pqc(entries) => entries.iter().try_for_each(|entry| rules.entry(entry))?,
        Message::Archived { epoch, .. } => {
            rules.set(*epoch)?;
        }
        Message::Stored(_)
        | Message::FetchBatches(_)
        | Message::Negotiate { .. }
        | Message::Negotiated { new_view: None, .. }
        | Message::RecoveryInit { .. }
        | Message::Recovery { stable: None, .. }
        | Message::FetchPqc { .. } => {}
    }
    Ok(Verified { from, message, digest })
}

impl Rules<'_> {
    fn set(&self, epoch: Epoch) -> Result<&ValidatorSet, Rejected> {
        self.sets.get(epoch).ok_or(Rejected::UnknownEpoch(epoch))
    }

    fn batch(&self, batch: &Batch) -> Result<Digest, Rejected> {
        if batch.payload.len() > MAX_BATCH_BYTES {
            return Err(Rejected::Malformed("a batch that is too long"));
        }
        let digest = batch.digest();
        let bytes = Batch::signing_bytes(self.chain, &digest);
        if self.checker.check(&batch.origin, &bytes, &batch.signature) {
            return Ok(digest);
        }
        Err(Rejected::Signature("batch"))
    }

    fn vote(&self, vote: &SignedVote, kind: VoteKind) -> Result<(), Rejected> {
        if vote.vote.kind != kind {
            return Err(Rejected::Mismatch);
        }
        Ok(vote.verify(self.chain, self.set(vote.vote.epoch)?, self.checker)?)
    }

    fn certificate(&self, certificate: &Certificate, kind: VoteKind) -> Result<(), Rejected> {
        if certificate.vote.kind != kind {
            return Err(Rejected::Mismatch);
        }
        Ok(certificate.verify(self.chain, self.set(certificate.vote.epoch)?, self.checker)?)
    }

    /// A vote, or the vote of a certificate, is about this proposal.
    fn about(&self, vote: &crate::Vote, proposal: &Proposal) -> Result<(), Rejected> {
        let same = vote.epoch == proposal.epoch
            && vote.sequence == proposal.sequence
            && vote.digest == proposal.digest(self.chain);
        let in_bounds = proposal.batches.len() <= self.max_batches;
        match (same, in_bounds) {
            (true, true) => Ok(()),
            (true, false) => Err(Rejected::Malformed("a proposal of too many batches")),
            (false, _) => Err(Rejected::Mismatch),
        }
    }

    /// The vote is the primary's for the proposal.
    fn proposed(&self, proposal: &Proposal, vote: &SignedVote) -> Result<(), Rejected> {
        self.about(&vote.vote, proposal)?;
        if self.set(vote.vote.epoch)?.primary(vote.vote.view) != vote.seat {
            return Err(Rejected::NotPrimary);
        }
        self.vote(vote, VoteKind::Prepare)
    }

    fn prepared(&self, prepared: &Prepared) -> Result<(), Rejected> {
        self.about(&prepared.certificate.vote, &prepared.proposal)?;
        self.certificate(&prepared.certificate, VoteKind::Prepare)
    }

    fn view_change(&self, change: &ViewChange) -> Result<(), Rejected> {
        let set = self.set(change.epoch)?;
        let key = set.key(change.seat).ok_or(BadVote::Seat(change.seat))?;
        if !self.checker.check(key, &change.signing_bytes(self.chain), &change.signature) {
            return Err(Rejected::Signature("view change"));
        }
        if let Some(stable) = &change.stable {
            self.certificate(stable, VoteKind::Checkpoint)?;
        }
        let stable = change.stable.as_ref().map(|c| c.vote);
        if stable.is_some_and(|vote| vote.epoch > change.epoch) {
            return Err(Rejected::Malformed("a checkpoint of a later epoch"));
        }
        // Without a checkpoint of this epoch the base is not known here; the core holds it against its own.
        let from = stable.map(|vote| vote.sequence);
        let (mut last, mut first) = (from, None);
        for prepared in &change.prepared {
            let vote = prepared.certificate.vote;
            if vote.epoch != change.epoch || vote.view >= change.view {
                return Err(Rejected::Malformed("prepared in another epoch or a later view"));
            }
            if last.is_some_and(|last| vote.sequence <= last) {
                return Err(Rejected::Malformed("prepared proposals that are out of order"));
            }
            let low: Sequence = *first.get_or_insert(from.unwrap_or(vote.sequence));
            if vote.sequence > low.plus(self.window) {
                return Err(Rejected::Malformed("prepared beyond the window"));
            }
            last = Some(vote.sequence);
            self.prepared(prepared)?;
        }
        Ok(())
    }

    fn new_view(&self, new_view: &NewView) -> Result<(), Rejected> {
        let set = self.set(new_view.epoch)?;
        let primary = set.primary(new_view.view);
        let key = set.key(primary).ok_or(BadVote::Seat(primary))?;
        if !self.checker.check(key, &new_view.signing_bytes(self.chain), &new_view.signature) {
            return Err(Rejected::Signature("new view"));
        }
        if new_view.changes.len() != set.quorum() || !new_view.changes.is_sorted_by(|a, b| a.seat < b.seat) {
            return Err(Rejected::Malformed("no quorum of view changes, each once"));
        }
        for change in &new_view.changes {
            if (change.epoch, change.view) != (new_view.epoch, new_view.view) {
                return Err(Rejected::Malformed("a view change for another view"));
            }
            self.view_change(change)?;
        }
        Ok(())
    }

    fn entry(&self, entry: &PqcEntry) -> Result<(), Rejected> {
        if entry.votes.len() > 2 {
            return Err(Rejected::Malformed("more votes than a replica casts"));
        }
        if let Some(committed) = &entry.committed {
            self.about(&committed.vote, &entry.proposal)?;
            self.certificate(committed, VoteKind::Commit)?;
        }
        if let Some(proposed) = &entry.proposed {
            self.proposed(&entry.proposal, proposed)?;
        }
        for vote in &entry.votes {
            self.about(&vote.vote, &entry.proposal)?;
            let kind = if vote.vote.kind == VoteKind::Commit { VoteKind::Commit } else { VoteKind::Prepare };
            self.vote(vote, kind)?;
        }
        Ok(())
    }
}
