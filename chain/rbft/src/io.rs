//! What goes into the core, and what comes out. Outputs are in order: what stands behind a [`Output::Persist`] may be sent
//! only when that is on disk.

use crate::certificate::Certificate;
use crate::durable::Record;
use crate::ids::{Digest, Nonce, Sequence};
use crate::message::{Committed, Message};
use crate::proposal::{Batch, Evidence};
use crate::signature::PublicKey;
use crate::validators::ValidatorSet;
use crate::verify::Verified;

/// What execution says of a change of validators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetChange {
    /// The sequence whose block asked for it first.
    pub asked: Sequence,
    /// The keys of the next epoch, seat by seat.
    pub keys: Vec<PublicKey>,
    /// Those of them that rejoin, with the nonces that they gave.
    pub rejoined: Vec<(PublicKey, Nonce)>,
}

/// A batch that was on disk before a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBatch {
    /// Which.
    pub digest: Digest,
    /// Whose.
    pub origin: PublicKey,
    /// Whether everything in it is executed in the state of the stable checkpoint.
    pub done: bool,
}

/// What may happen to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// It begins, or begins again, with the state of its stable checkpoint.
    Start {
        /// A number that nobody could foresee.
        secret: Nonce,
        /// The change of validators that is due by that state, if there is one.
        change: Option<SetChange>,
        /// The batches that are on disk.
        batches: Vec<KnownBatch>,
    },
    /// Time has gone by; at least as often as [`crate::Rbft::next_deadline`] asks for.
    Tick,
    /// A message has come, and was checked.
    Message(Verified),
    /// A message of an epoch that this replica does not know has come from this peer.
    Later(PublicKey),
    /// The shell has gathered a batch of its own clients.
    Submit(Batch),
    /// A batch that [`Output::StoreBatch`] handed over is on disk.
    BatchStored {
        /// Which.
        digest: Digest,
        /// Whether the state has executed all of it already.
        done: bool,
    },
    /// A block has been executed, in order.
    Executed {
        /// Which.
        sequence: Sequence,
        /// Digest of the state behind it.
        state: Digest,
        /// The change of validators that is due by then, if there is one: the same in every block from the one that asked
        /// for it to the end of the epoch.
        change: Option<SetChange>,
        /// Batches on disk of which everything is executed by now, in whatever batch it was: nobody else takes them any more.
        /// Those that were named before need not be named again, and may.
        done: Vec<Digest>,
    },
    /// The chain is archived up to here, and this replica has seen to it.
    Archived(Sequence),
    /// The state of a checkpoint is here, in place of executing.
    Updated {
        /// Of which checkpoint.
        certificate: Certificate,
        /// The change that is due by its state.
        change: Option<SetChange>,
        /// Batches on disk of which everything is executed in that state.
        done: Vec<Digest>,
    },
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Every other validator of the present epoch.
    All,
    /// One peer.
    One(PublicKey),
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To be on disk before anything behind it is done: sent, dropped or executed. An error of that stops the validator.
    Persist(Record),
    /// To be sent. It may be lost.
    Send {
        /// To whom.
        to: To,
        /// What.
        message: Message,
    },
    /// A batch to be put on disk, in a log of its own; [`Input::BatchStored`] answers.
    StoreBatch(Batch),
    /// A batch that is on disk, to be sent.
    SendBatch {
        /// To whom.
        to: To,
        /// Which.
        digest: Digest,
    },
    /// A batch that was submitted is not taken: too many of this validator's are not committed yet.
    Busy(Digest),
    /// A batch that nobody needs any more.
    DropBatch(Digest),
    /// The next block. Its batches are on disk; [`Input::Executed`] answers. Void if a state was fetched that has it.
    Execute(Committed),
    /// The state of this checkpoint is needed, from whom it can be had; [`Input::Updated`] answers. Said again now and then as
    /// long as it does not come; a later checkpoint takes the place of an earlier one.
    Update(Certificate),
    /// This nonce is to be ordered, as a request to rejoin.
    Rejoin(Nonce),
    /// Somebody has voted for two things at once.
    Evidence(Box<Evidence>),
    /// A quorum's state is not ours. The replica votes no more; what it has is kept for inquiry.
    Diverged {
        /// At which sequence.
        sequence: Sequence,
        /// Ours.
        ours: Digest,
        /// Theirs.
        theirs: Digest,
    },
    /// An epoch has begun.
    Epoch(ValidatorSet),
}
