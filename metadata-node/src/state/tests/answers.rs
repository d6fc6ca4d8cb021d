//! Whatever is asked again, and whatever is forgotten: no request takes effect twice.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wmall_proto::Role;
use wmall_proto::clock::{ANSWERS_KEPT_MS, REQUEST_SKEW_MS};
use wmall_proto::identity::Actor;

use super::*;

/// An act that leaves a line in the audit log each time it takes effect.
fn act(request: RequestId) -> Envelope {
    let by = Some(Actor { role: Role::Admin, name: NodeName::new("ops").unwrap() });
    Envelope { request: Some(request), by, command: Command::Note { act: "x".into() } }
}

/// Requests of so many milliseconds are judged, however full it is.
const SPARED_MS: u64 = 15_000;

fn now_ms(m: &Machine) -> u64 {
    m.index + m.ahead_ms
}

fn reloaded(m: &Machine, max_bytes: usize) -> Machine {
    let state = State::open(Box::new(MemoryStore::default())).unwrap();
    state.load(m.pairs().into_iter().map(Ok)).unwrap();
    assert_eq!(state.read().answers.requests(), m.state.read().answers.requests());
    state.write().answers.set_bounds(max_bytes, SPARED_MS);
    Machine { state, index: m.index, ahead_ms: m.ahead_ms }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_history_applies_a_request_at_most_once(
        steps in proptest::collection::vec((0u8..8, 0usize..40, 0u64..200_000), 1..120),
    ) {
        // Room for about ten answers.
        const MAX_BYTES: usize = 1100;
        let mut m = Machine::new();
        m.ahead_ms = 1_000_000;
        m.state.write().answers.set_bounds(MAX_BYTES, SPARED_MS);
        let mut all: Vec<RequestId> = Vec::new();
        let mut done: BTreeMap<RequestId, bool> = BTreeMap::new();
        for (what, which, ms) in steps {
            let requests: Vec<RequestId> = match what {
                // A new one, by a clock that is a little off.
                0..=3 => {
                    let born_ms = (now_ms(&m) + REQUEST_SKEW_MS / 2).saturating_sub(ms % REQUEST_SKEW_MS);
                    let request = RequestId::new(born_ms, [all.len() as u8; 10]);
                    all.push(request);
                    if what == 3 { vec![request, request] } else { vec![request] }
                }
                4 | 5 if !all.is_empty() => vec![all[which % all.len()]],
                6 => {
                    m.ahead_ms += ms;
                    continue;
                }
                _ => {
                    m = reloaded(&m, MAX_BYTES);
                    continue;
                }
            };
            let acts = m.state.counters().1.acts;
            let answers = m.apply(requests.iter().copied().map(act).collect());
            let mut effects = 0;
            for (request, answer) in requests.iter().zip(answers) {
                match answer {
                    Ok(Response::Done) if done.insert(*request, true).is_none() => effects += 1,
                    Ok(Response::Done) => {}
                    Err(error) => {
                        prop_assert!([ErrorCode::RequestExpired, ErrorCode::Busy].contains(&error.code));
                    }
                    other => panic!("{other:?}"),
                }
            }
            prop_assert_eq!(m.state.counters().1.acts, acts + effects);
            prop_assert!(m.state.read().answers.requests().len() <= 13, "bound and reserve");
        }
    }
}

#[test]
fn answers_are_kept_by_the_clock_and_their_pages_go_with_them() {
    let mut m = Machine::new();
    m.ahead_ms = 1_000_000;
    let pages = |m: &Machine| m.pairs().keys().filter(|key| key.starts_with(keys::ANSWERS)).count();
    let (first, second) = (RequestId::new(now_ms(&m), [1; 10]), RequestId::new(now_ms(&m) + 50, [2; 10]));
    m.apply(vec![act(first), act(second)]);
    let acts = m.state.counters().1.acts;
    m.ahead_ms += ANSWERS_KEPT_MS - 10;
    assert_eq!(m.apply(vec![act(first)]), [Ok(Response::Done)], "the last moment of its answer");
    assert_eq!(m.state.counters().1.acts, acts);
    m.ahead_ms += 20;
    let late = m.apply(vec![act(first)]).remove(0).unwrap_err();
    assert!(late.code == ErrorCode::RequestExpired && !late.hint.is_empty(), "{late:?}");
    assert_eq!(m.apply(vec![act(second)]), [Ok(Response::Done)], "the other one of its entry");
    assert_eq!((m.state.counters().1.acts, pages(&m)), (acts, 1));
    m.ahead_ms += 100;
    m.run(Command::Tick).unwrap();
    assert_eq!(pages(&m), 0);
    m.assert_same_after_reload();
}

/// One writer fills the room with requests of the future: others wait for room, and no first try of theirs is
/// refused as too old.
#[test]
fn answers_that_fill_their_room_do_not_make_the_requests_of_others_too_old() {
    let mut m = Machine::new();
    m.ahead_ms = 1_000_000;
    m.state.write().answers.set_bounds(1100, SPARED_MS);
    let note = |request| {
        let command = Command::Note { act: "x".into() };
        Envelope { request: Some(request), by: None, command }
    };
    let mut told = Vec::new();
    for n in 0..30 {
        let request = RequestId::new(now_ms(&m) + REQUEST_SKEW_MS, [n; 10]);
        told.push(code(m.apply(vec![note(request)]).remove(0)));
    }
    let taken = told.iter().take_while(|told| **told == Ok(())).count();
    assert!((5..20).contains(&taken), "{told:?}");
    assert!(told[taken..].iter().all(|told| *told == Err(ErrorCode::Busy)), "{told:?}");
    let other = RequestId::new(now_ms(&m), [99; 10]);
    assert_eq!(code(m.apply(vec![note(other)]).remove(0)), Err(ErrorCode::Busy), "and not too old");
    let operator = RequestId::new(now_ms(&m), [98; 10]);
    assert_eq!(m.apply(vec![act(operator)]), [Ok(Response::Done)], "operators have a reserve");
    m.assert_same_after_reload();
    m.ahead_ms += SPARED_MS - 1000;
    assert_eq!(code(m.apply(vec![note(other)]).remove(0)), Err(ErrorCode::Busy), "they are of late still");
    // Those of the future are of long ago by now, and the room is free.
    m.ahead_ms += REQUEST_SKEW_MS + 2000;
    let late = RequestId::new(now_ms(&m), [97; 10]);
    assert_eq!(m.apply(vec![note(late)]), [Ok(Response::Done)]);
}

#[test]
fn a_request_of_the_future_has_to_wait() {
    let mut m = Machine::new();
    m.ahead_ms = 1_000_000;
    m.run(Command::Tick).unwrap();
    let request = RequestId::new(now_ms(&m) + REQUEST_SKEW_MS + 100, [1; 10]);
    assert_eq!(code(m.apply(vec![act(request)]).remove(0)), Err(ErrorCode::Busy));
    m.ahead_ms += 200;
    assert_eq!(m.apply(vec![act(request)]), [Ok(Response::Done)], "the refusal was not kept");
}
