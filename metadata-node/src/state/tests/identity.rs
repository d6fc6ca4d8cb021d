//! Tokens, revocations, users, and the lines that all of it leaves.

use wmall_proto::identity::{Actor, AuditRecord, Revocation, TokenId, TokenRecord, User};
use wmall_proto::{Role, rpc};

use super::*;

fn actor(role: Role, name: &str) -> Actor {
    Actor { role, name: NodeName::new(name).unwrap() }
}

fn token(id: u8, role: Role, name: Option<&str>, expires_ms: u64) -> TokenRecord {
    TokenRecord {
        id: TokenId([id; 32]),
        role,
        name: name.map(|n| NodeName::new(n).unwrap()),
        scopes: Vec::new(),
        expires_ms,
        created_by: None,
        wait_for_layout: false,
        used: None,
    }
}

fn revoke(name: &str, role: Option<Role>) -> Command {
    Command::Revoke { name: NodeName::new(name).unwrap(), role, by: Some(actor(Role::Admin, "ops")) }
}

fn use_token(m: &mut Machine, id: u8, name: &str, key: u8) -> Result<(), ErrorCode> {
    let name = NodeName::new(name).unwrap();
    code(m.run(Command::UseToken { id: TokenId([id; 32]), name, key: [key; 32] })).map(|_| ())
}

fn lines(m: &Machine) -> Vec<AuditRecord> {
    match m.state.query(&Query::Audit { first: 0, limit: 1000 }, &Silent::new()) {
        Ok(QueryReply::Audit { lines, more: false }) => lines,
        other => panic!("{other:?}"),
    }
}

/// What a recount finds.
fn troubles(pairs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<String> {
    let mut auditor = Auditor::default();
    pairs.iter().for_each(|(key, value)| auditor.take(key, value).unwrap());
    auditor.finish().troubles
}

#[test]
fn of_two_who_show_one_token_one_gets_in() {
    let mut m = Machine::new();
    m.run(Command::CreateToken(token(1, Role::Data, None, 1_000))).unwrap();
    assert_eq!(use_token(&mut m, 2, "data-9", 1), Err(ErrorCode::BadToken), "nobody made that one");
    assert_eq!(use_token(&mut m, 1, "data-1", 1), Err(ErrorCode::AlreadyExists), "a node goes by that name");
    assert_eq!(use_token(&mut m, 1, "data-9", 1), Ok(()), "a refusal does not use it up");
    assert_eq!(use_token(&mut m, 1, "data-9", 1), Ok(()), "the answer was lost, and the same key asks again");
    assert_eq!(use_token(&mut m, 1, "data-9", 2), Err(ErrorCode::BadToken), "another key");
    assert_eq!(use_token(&mut m, 1, "data-8", 1), Err(ErrorCode::BadToken), "another name");
    // A name that a token stands for is nobody else's, before it is used and afterwards.
    m.run(Command::CreateToken(token(3, Role::Data, Some("data-7"), 1_000))).unwrap();
    m.run(Command::CreateToken(token(4, Role::Data, None, 1_000))).unwrap();
    for name in ["data-7", "data-9"] {
        assert_eq!(use_token(&mut m, 4, name, 1), Err(ErrorCode::AlreadyExists), "{name}");
    }
    // One that was made for a node's name lets that node back in.
    m.run(Command::CreateToken(token(5, Role::Data, Some("data-1"), 1_000))).unwrap();
    assert_eq!(use_token(&mut m, 5, "data-1", 1), Ok(()));
    m.run(Command::CreateToken(token(6, Role::Data, None, m.index + 2))).unwrap();
    assert_eq!(use_token(&mut m, 6, "data-6", 1), Err(ErrorCode::BadToken), "expired at this very moment");
    // Who was revoked is not let in again by the token that let them in, whatever time it has left.
    m.run(revoke("data-9", Some(Role::Data))).unwrap();
    assert_eq!(use_token(&mut m, 1, "data-9", 1), Err(ErrorCode::BadToken), "revoked since");
    m.run(Command::DropToken(TokenId([4; 32]))).unwrap();
    assert_eq!(use_token(&mut m, 4, "data-5", 1), Err(ErrorCode::BadToken));
    assert_eq!(code(m.run(Command::DropToken(TokenId([4; 32])))), Err(ErrorCode::NotFound));
    m.assert_same_after_reload();
}

#[test]
fn what_is_revoked_stays_so_and_a_metadata_node_for_good() {
    let mut m = Machine::new();
    let version = m.state.topology().version;
    m.run(revoke("data-2", Some(Role::Data))).unwrap();
    let (at, first) = (m.index, m.state.topology().version);
    m.run(revoke("alice", Some(Role::Client))).unwrap();
    let second = m.state.topology().version;
    assert!(version < first && first < second);
    m.run(revoke("metadata-1", Some(Role::Metadata))).unwrap();
    let expected = [
        Revocation {
            actor: actor(Role::Metadata, "metadata-1"),
            before: Revocation::FOR_GOOD,
            at_ms: at + 2,
        },
        Revocation { actor: actor(Role::Data, "data-2"), before: first, at_ms: at },
        Revocation { actor: actor(Role::Client, "alice"), before: second, at_ms: at + 1 },
    ];
    let topology = m.state.topology();
    assert_eq!(topology.revoked, expected, "in the order of their holders, which readers rely on");
    assert!(topology.version > version, "everybody reads the map again");
    // Once more, later: one entry a holder.
    m.run(revoke("data-2", Some(Role::Data))).unwrap();
    assert_eq!(m.state.topology().revoked.len(), 3);
    assert_eq!(m.state.topology().revoked[1].before, m.state.topology().version);
    m.assert_same_after_reload();
}

#[test]
fn a_new_user_has_the_scopes_of_the_token_and_an_old_one_keeps_theirs() {
    let mut m = Machine::new();
    let scopes = |m: &Machine| {
        let scopes = m.state.scopes(&NodeName::new("alice").unwrap()).unwrap();
        scopes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let first =
        TokenRecord { scopes: vec!["b:write".parse().unwrap()], ..token(1, Role::Client, Some("alice"), 99) };
    m.run(Command::CreateToken(first)).unwrap();
    assert_eq!(scopes(&m), [""; 0]);
    use_token(&mut m, 1, "alice", 1).unwrap();
    assert_eq!(scopes(&m), ["b:write"]);
    // A token without scopes renews who she is, not what she may.
    m.run(Command::CreateToken(token(2, Role::Client, Some("alice"), 99))).unwrap();
    use_token(&mut m, 2, "alice", 2).unwrap();
    assert_eq!(scopes(&m), ["b:write"]);
    let name = NodeName::new("alice").unwrap();
    m.run(Command::SetScopes(User { name, scopes: vec![] })).unwrap();
    assert_eq!(scopes(&m), [""; 0]);
    m.assert_same_after_reload();
}

#[test]
fn every_act_leaves_a_line_and_the_lines_hang_together() {
    let mut m = Machine::new();
    let by = Some(actor(Role::Admin, "ops"));
    let act = |request, command| Envelope {
        request: Some(RequestId::new(u64::from(request), [request; 10])),
        by: by.clone(),
        command,
    };
    let bucket = |name: &str| Command::CreateBucket {
        name: name.parse().unwrap(),
        pool: "3x".parse().unwrap(),
        rules: BucketRules::default(),
    };
    m.apply(vec![act(1, bucket("one")), act(2, bucket("one"))]);
    // The same request again is the same act.
    m.apply(vec![act(1, bucket("one"))]);
    m.apply(vec![act(3, Command::Note { act: "meta member rm 3".into() })]);
    m.run(bucket("nobodys")).unwrap();
    m.run(Command::CreateToken(token(1, Role::Data, None, 1_000))).unwrap();
    use_token(&mut m, 1, "data-9", 1).unwrap();
    use_token(&mut m, 1, "data-9", 1).unwrap();
    let lines = lines(&m);
    let told: Vec<(u64, bool, Option<ErrorCode>)> =
        lines.iter().map(|l| (l.number, l.by.is_some(), l.refused)).collect();
    let expected =
        [(1, true, None), (2, true, Some(ErrorCode::AlreadyExists)), (3, true, None), (4, false, None)];
    assert_eq!(told, expected, "{lines:#?}");
    assert!(lines[3].act.starts_with("join as data data-9"), "{}", lines[3].act);
    assert_eq!(lines[0].before, [0; 32]);
    for pair in lines.windows(2) {
        assert_eq!(pair[1].before, pair[0].hash());
    }
    let page = m.state.query(&Query::Audit { first: 2, limit: 2 }, &Silent::new());
    let Ok(rpc::QueryReply::Audit { lines: page, more: true }) = page else { panic!("{page:?}") };
    assert_eq!(page, lines[1..3]);
    m.assert_same_after_reload();
    assert_eq!(troubles(&m.pairs()), [""; 0]);
    // A line that is changed, one that is taken out, and one that is cut off at the end, are found.
    let pairs = m.pairs();
    let key = |number: u64| {
        pairs.keys().find(|k| k[0] == b'z' && k.ends_with(&number.to_be_bytes())).unwrap().clone()
    };
    let mut changed = pairs.clone();
    let other = AuditRecord { act: "nothing".into(), ..lines[1].clone() };
    changed.insert(key(2), codec::encode(&other));
    let mut without = pairs.clone();
    without.remove(&key(3));
    let mut cut = pairs.clone();
    cut.remove(&key(4));
    for damaged in [changed, without, cut] {
        assert_ne!(troubles(&damaged), [""; 0]);
    }
}

#[test]
fn a_name_is_revoked_in_the_one_role_in_which_it_is_known() {
    let mut m = Machine::new();
    let revoked = |m: &mut Machine, name: &str| match m.run(revoke(name, None)) {
        Ok(Response::Revoked(actor)) => Ok(actor.role),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.code),
    };
    let before = m.state.topology().version;
    assert_eq!(revoked(&mut m, "nobody"), Err(ErrorCode::NotFound));
    assert_eq!(m.state.topology().version, before, "refused without any change");
    assert_eq!(revoked(&mut m, "data-1"), Ok(Role::Data), "it has registered");
    // A joined name is known when its token is long forgotten; a promised one, before its token is used.
    m.run(Command::CreateToken(token(1, Role::Client, Some("alice"), 1_000))).unwrap();
    m.run(Command::CreateToken(token(2, Role::Admin, Some("root"), 1_000))).unwrap();
    use_token(&mut m, 1, "alice", 1).unwrap();
    m.run(Command::DropToken(TokenId([1; 32]))).unwrap();
    assert_eq!(revoked(&mut m, "alice"), Ok(Role::Client));
    assert_eq!(revoked(&mut m, "root"), Ok(Role::Admin));
    assert_eq!(revoked(&mut m, "root"), Ok(Role::Admin), "once more, by the revocation itself");
    // Scopes alone do not say of which kind a user is; nor does a name that two go by.
    let bob = NodeName::new("bob").unwrap();
    m.run(Command::SetScopes(User { name: bob, scopes: vec!["b:read".parse().unwrap()] })).unwrap();
    assert_eq!(revoked(&mut m, "bob"), Err(ErrorCode::BadRequest));
    m.run(Command::CreateToken(token(3, Role::Client, Some("data-2"), 1_000))).unwrap();
    assert_eq!(revoked(&mut m, "data-2"), Err(ErrorCode::BadRequest));
    // An operator who has acted is known, and can't revoke their own certificate.
    let by = Some(actor(Role::Admin, "ops"));
    let noted = Command::Note { act: "meta member rm 3".into() };
    m.apply(vec![Envelope { request: None, by, command: noted }]);
    assert_eq!(revoked(&mut m, "ops"), Err(ErrorCode::BadRequest), "by itself");
    // A name of a certificate that was issued offline can't be known: the role that is said counts.
    let offline = m.run(revoke("offline", Some(Role::Admin))).unwrap();
    assert_eq!(offline, Response::Revoked(actor(Role::Admin, "offline")));
    let by = Some(actor(Role::Admin, "ops"));
    m.apply(vec![Envelope { request: None, by, command: revoke("alice", None) }]);
    assert_eq!(lines(&m).last().unwrap().act, "node revoke client alice", "the line says what was found");
    assert_eq!(troubles(&m.pairs()), [""; 0]);
    m.assert_same_after_reload();
}
