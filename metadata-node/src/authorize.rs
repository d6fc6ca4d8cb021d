//! What a caller may do beyond the table of roles: users by their scopes, operators anything, and nobody
//! what is not named here.
//!
//! A file's or chunk's id is a capability: it can't be guessed, names nothing but its content, and who was
//! told it may read what it names. So reading by id takes any scope at all; reading by name, listing and
//! changing take a scope of that bucket.

use wmall_proto::grade::GradesOf;
use wmall_proto::identity::{Access, Scope};
use wmall_proto::rpc::{CommitRequest, NameCommand, Query, Request, UserCommand};
use wmall_proto::{BucketName, ErrorCode, Role, RpcError};

/// What a request asks for.
enum Need<'a> {
    /// Nothing beyond the role.
    Role,
    /// Any scope, of at least this access.
    Some(Access),
    /// This access to this bucket; none is all of them.
    Bucket(Option<&'a BucketName>, Access),
    /// An operator.
    Operator,
}

/// Whether a caller may have this answered. The table of roles has let it through already.
pub(crate) fn authorize(
    role: Role,
    request: &Request,
    scopes: impl FnOnce() -> Result<Vec<Scope>, RpcError>,
) -> Result<(), RpcError> {
    if matches!(role, Role::Admin | Role::Data | Role::Metadata) {
        return Ok(());
    }
    let (allowed, what) = match need_of(request) {
        Need::Role => return Ok(()),
        Need::Operator => (false, "take an operator's certificate".to_string()),
        Need::Some(access) => (
            scopes()?.iter().any(|s| s.access >= access),
            format!("take a scope, such as BUCKET:{}", access.as_str()),
        ),
        Need::Bucket(bucket, access) => {
            let wanted = Scope { bucket: bucket.cloned(), access };
            (scopes()?.iter().any(|s| s.allows(bucket, access)), format!("take the scope {wanted}"))
        }
    };
    if allowed {
        return Ok(());
    }
    Err(RpcError::new(ErrorCode::Denied, format!("this would {what}"))
        .hint("an operator gives scopes: `wmall user set NAME SCOPE…`"))
}

fn need_of(request: &Request) -> Need<'_> {
    match request {
        Request::Read { query, .. } => of_query(query),
        Request::Commit { commit, .. } => match commit {
            CommitRequest::Part { bucket, .. } => Need::Bucket(bucket.as_ref(), Access::Write),
            CommitRequest::File { object, .. } => {
                Need::Bucket(object.as_ref().map(|(bucket, _)| bucket), Access::Write)
            }
        },
        Request::Name { command, .. } => of_name(command),
        Request::Administer { command, .. } => of_command(command),
        // The table of roles is all there is to these.
        Request::Raft(_)
        | Request::GetTopology { .. }
        | Request::Status
        | Request::Renew { .. }
        | Request::Issuer
        | Request::JoinAddress
        | Request::Member(_)
        | Request::Snapshot { .. }
        | Request::ListSnapshots
        | Request::Register(_)
        | Request::Heartbeat(_)
        | Request::CloseTickets { .. }
        | Request::ListMissing { .. }
        | Request::CheckCommitted { .. }
        | Request::ReportBad { .. }
        | Request::ReportLoss { .. }
        | Request::CheckRange(_)
        | Request::Challenge(_)
        | Request::ListPieces { .. }
        | Request::Attest { .. }
        | Request::Put(_)
        | Request::ReadPiece(_)
        | Request::CheckPiece { .. } => Need::Role,
    }
}

fn of_query(query: &Query) -> Need<'_> {
    match query {
        Query::File { .. } | Query::Chunk(_) | Query::Grades(GradesOf::File { .. }) => {
            Need::Some(Access::Read)
        }
        Query::Known { .. } => Need::Some(Access::Write),
        Query::Drain(_)
        | Query::Rehearse(_)
        | Query::Jobs
        | Query::Layout
        | Query::Grades(_)
        | Query::Groups { .. }
        | Query::Events { .. } => Need::Operator,
        Query::Object { bucket, .. }
        | Query::Objects { bucket, .. }
        | Query::Trash { bucket, .. }
        | Query::Bucket(bucket) => Need::Bucket(Some(bucket), Access::Read),
        Query::Buckets { .. } => Need::Bucket(None, Access::Read),
        Query::Tokens | Query::Users { .. } | Query::Audit { .. } => Need::Operator,
    }
}

fn of_name(command: &NameCommand) -> Need<'_> {
    let bucket = match command {
        NameCommand::Remove { bucket, .. } | NameCommand::Restore { bucket, .. } => Some(bucket),
        NameCommand::Unpin { .. } | NameCommand::Repin(_) => None,
    };
    Need::Bucket(bucket, if command.is_for_good() { Access::Admin } else { Access::Write })
}

fn of_command(command: &UserCommand) -> Need<'_> {
    match command {
        UserCommand::ChangeBucket { name, .. } | UserCommand::RemoveBucket { name, .. } => {
            Need::Bucket(Some(name), Access::Admin)
        }
        UserCommand::CreateBucket { .. } => Need::Bucket(None, Access::Admin),
        UserCommand::CreatePool { .. }
        | UserCommand::AllowDeletion { .. }
        | UserCommand::CreateToken { .. }
        | UserCommand::DropToken(_)
        | UserCommand::Revoke { .. }
        | UserCommand::SetScopes(_)
        | UserCommand::Operate(_) => Need::Operator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wmall_proto::rpc::Condition;
    use wmall_proto::{FileId, RequestId};

    fn check(role: Role, scopes: &[&str], request: &Request) -> bool {
        let scopes = scopes.iter().map(|s| s.parse().unwrap()).collect();
        authorize(role, request, || Ok(scopes)).is_ok()
    }

    fn read(query: Query) -> Request {
        Request::Read { linearizable: true, query }
    }

    #[test]
    fn each_act_takes_a_scope_of_its_own_bucket() {
        let (bucket, name) = ("b".parse::<BucketName>().unwrap(), "n".parse().unwrap());
        let request = RequestId([0; 16]);
        let list =
            read(Query::Objects { bucket: bucket.clone(), prefix: String::new(), after: None, limit: 1 });
        let remove = |purge| Request::Name {
            request,
            command: NameCommand::Remove {
                bucket: bucket.clone(),
                name: ObjectName::clone(&name),
                condition: Condition::None,
                purge,
            },
        };
        use wmall_proto::ObjectName;
        let unpin =
            Request::Name { request, command: NameCommand::Unpin { file: FileId([0; 32]), purge: false } };
        let by_id = read(Query::File { id: FileId([0; 32]), first: 0 });
        let drop = Request::Administer {
            request,
            command: UserCommand::RemoveBucket { name: bucket.clone(), purge: true },
        };
        let revoke = Request::Administer { request, command: UserCommand::AllowDeletion { force: false } };
        let requests = [list, remove(false), remove(true), unpin, by_id, drop, revoke, read(Query::Tokens)];
        let table: [(&[&str], [bool; 8]); 7] = [
            (&[], [false; 8]),
            (&["b:read"], [true, false, false, false, true, false, false, false]),
            (&["b:write"], [true, true, false, false, true, false, false, false]),
            (&["b:admin"], [true, true, true, false, true, true, false, false]),
            (&["other:admin"], [false, false, false, false, true, false, false, false]),
            (&["*:write"], [true, true, false, true, true, false, false, false]),
            (&["*:admin"], [true, true, true, true, true, true, false, false]),
        ];
        for (scopes, expected) in table {
            let found = requests.each_ref().map(|r| check(Role::Client, scopes, r));
            assert_eq!(found, expected, "{scopes:?}");
            assert_eq!(
                requests.each_ref().map(|r| check(Role::Validator, scopes, r)),
                expected,
                "{scopes:?}"
            );
        }
        assert_eq!(requests.each_ref().map(|r| check(Role::Admin, &[], r)), [true; 8]);
    }
}
