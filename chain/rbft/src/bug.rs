//! Bugs that can be planted, one at a time, so that the simulator can show that it finds each. In builds without the feature
//! `testing` there are none, and asking for one costs nothing.

/// A bug.
#[cfg(feature = "testing")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The names say it.
pub enum Bug {
    SmallQuorum,
    PreparedWithoutData,
    ForgottenPrepared,
    ViewGoesBack,
    VoteBeforePersist,
    UnauthenticatedPqc,
    DuplicateSigners,
    CheckpointByFew,
    NewViewFromLowerView,
    NeverComplains,
    WindowNotEnforced,
    NonceNotChecked,
    EpochNotInVote,
    AmnesiacVotes,
    EarlyEpoch,
    EarlyBatchDrop,
    ViewInDigest,
    UnboundedLog,
}

#[cfg(feature = "testing")]
impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::SmallQuorum,
        Self::PreparedWithoutData,
        Self::ForgottenPrepared,
        Self::ViewGoesBack,
        Self::VoteBeforePersist,
        Self::UnauthenticatedPqc,
        Self::DuplicateSigners,
        Self::CheckpointByFew,
        Self::NewViewFromLowerView,
        Self::NeverComplains,
        Self::WindowNotEnforced,
        Self::NonceNotChecked,
        Self::EpochNotInVote,
        Self::AmnesiacVotes,
        Self::EarlyEpoch,
        Self::EarlyBatchDrop,
        Self::ViewInDigest,
        Self::UnboundedLog,
    ];
}
