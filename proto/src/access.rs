//! Who may call what: a table of role and call, denied unless it says otherwise.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::rpc::CallKind;

/// What a certificate says its holder is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A metadata node.
    Metadata,
    /// A data node.
    Data,
    /// A validator of the ledger; to the store it is a client.
    Validator,
    /// A user that reads and writes.
    Client,
    /// An operator.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Metadata, Self::Data, Self::Validator, Self::Client, Self::Admin];

    /// The word in the certificate's URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Data => "data",
            Self::Validator => "validator",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }

    /// Whether the holder of this role may make this call.
    pub fn may_call(self, call: CallKind) -> bool {
        use CallKind as C;
        match self {
            Self::Metadata => {
                matches!(
                    call,
                    C::Raft | C::Status | C::Renew | C::Issuer | C::Challenge | C::Snapshot | C::GetTopology
                )
            }
            Self::Data => matches!(
                call,
                C::Renew
                    | C::Register
                    | C::Heartbeat
                    | C::CloseTickets
                    | C::ListMissing
                    | C::CheckCommitted
                    | C::ReportBad
                    | C::ReportLoss
                    | C::CheckRange
                    | C::GetTopology
                    | C::Put
                    | C::ReadPiece
            ),
            Self::Validator | Self::Client => matches!(
                call,
                C::Renew
                    | C::GetTopology
                    | C::Read
                    | C::Status
                    | C::Commit
                    | C::Name
                    | C::Administer
                    | C::Put
                    | C::ReadPiece
                    | C::CheckPiece
                    | C::Attest
            ),
            Self::Admin => matches!(
                call,
                C::Renew
                    | C::GetTopology
                    | C::Read
                    | C::Status
                    | C::Commit
                    | C::Name
                    | C::Administer
                    | C::JoinAddress
                    | C::ListPieces
                    | C::Member
                    | C::Snapshot
                    | C::ListSnapshots
                    | C::Put
                    | C::ReadPiece
                    | C::CheckPiece
                    | C::Attest
            ),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|r| r.as_str() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who may make each call, one letter a role. A call that is not in here is nobody's.
    const TABLE: [(CallKind, &str); 27] = [
        (CallKind::Raft, "m"),
        (CallKind::GetTopology, "mdvca"),
        (CallKind::Read, "vca"),
        (CallKind::Status, "mvca"),
        (CallKind::Commit, "vca"),
        (CallKind::Name, "vca"),
        (CallKind::Administer, "vca"),
        (CallKind::Member, "a"),
        (CallKind::Snapshot, "ma"),
        (CallKind::Renew, "mdvca"),
        (CallKind::Issuer, "m"),
        (CallKind::JoinAddress, "a"),
        (CallKind::ListSnapshots, "a"),
        (CallKind::Register, "d"),
        (CallKind::Heartbeat, "d"),
        (CallKind::CloseTickets, "d"),
        (CallKind::ListMissing, "d"),
        (CallKind::CheckCommitted, "d"),
        (CallKind::ReportBad, "d"),
        (CallKind::ReportLoss, "d"),
        (CallKind::CheckRange, "d"),
        (CallKind::Challenge, "m"),
        (CallKind::ListPieces, "a"),
        (CallKind::Attest, "vca"),
        (CallKind::Put, "dvca"),
        (CallKind::ReadPiece, "dvca"),
        (CallKind::CheckPiece, "vca"),
    ];

    #[test]
    fn the_table_is_as_it_should_be_for_every_role_and_call() {
        for kind in CallKind::ALL {
            let (_, expected) = TABLE.iter().find(|(k, _)| *k == kind).expect("a row for every call");
            let letter = |role: &Role| role.as_str().as_bytes()[0] as char;
            let found: String = Role::ALL.iter().filter(|r| r.may_call(kind)).map(letter).collect();
            assert_eq!(found, *expected, "{}", kind.as_str());
        }
    }
}
