//! Is a history of a name linearizable? The search of Wing and Gong (1993) with the memory of Lowe (2017):
//! operations are put in some order that keeps to real time, and each must have answered as a register would.
//!
//! An operation without an answer may have taken effect at any time after it began, or never.

use std::collections::HashSet;

/// What was asked of a name. Values are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Point it to this value, whatever it points to.
    Put(u64),
    /// Only if it points to nothing.
    PutIfAbsent(u64),
    /// Only if it points to the first value; the second is the new one.
    PutIfMatch(u64, u64),
    /// Remove it.
    Remove,
    /// What does it point to?
    Get,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// The condition did not hold, or there was nothing to remove.
    Refused,
    /// It points to this.
    Value(Option<u64>),
    /// None came.
    Unknown,
}

/// An operation on one name, with the times of its begin and its end.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// What was asked.
    pub ask: Ask,
    /// What was answered.
    pub answer: Answer,
    /// When it was asked, by a clock that all share.
    pub from: u64,
    /// When it was answered.
    pub to: u64,
}

/// What a register answers, and what it holds then.
fn step(state: Option<u64>, ask: Ask) -> (Answer, Option<u64>) {
    match ask {
        Ask::Put(value) => (Answer::Done, Some(value)),
        Ask::PutIfAbsent(value) if state.is_none() => (Answer::Done, Some(value)),
        Ask::PutIfMatch(old, new) if state == Some(old) => (Answer::Done, Some(new)),
        Ask::Remove if state.is_some() => (Answer::Done, None),
        Ask::PutIfAbsent(_) | Ask::PutIfMatch(..) | Ask::Remove => (Answer::Refused, state),
        Ask::Get => (Answer::Value(state), state),
    }
}

/// Whether some order of the operations explains every answer. The name points to nothing at first.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    // An unanswered read says nothing.
    let known = |o: &&Operation| !(o.ask == Ask::Get && o.answer == Answer::Unknown);
    let mut all: Vec<Operation> = operations.iter().filter(known).copied().collect();
    all.sort_by_key(|o| o.from);
    let mut seen = HashSet::new();
    let done = vec![0u64; all.len().div_ceil(64)];
    let mut stack = vec![(done, None)];
    while let Some((done, state)) = stack.pop() {
        let open = |i: &usize| done[i / 64] >> (i % 64) & 1 == 0;
        let unanswered = |i: &usize| all[*i].answer == Answer::Unknown;
        // Whatever comes next began before the first of the others ended.
        let Some(limit) = (0..all.len()).filter(open).filter(|i| !unanswered(i)).map(|i| all[i].to).min()
        else {
            return true;
        };
        for i in (0..all.len()).filter(open).take_while(|&i| all[i].from <= limit) {
            let (answer, next) = step(state, all[i].ask);
            if answer == all[i].answer || unanswered(&i) {
                let mut then = done.clone();
                then[i / 64] |= 1 << (i % 64);
                if seen.insert((then.clone(), next)) {
                    stack.push((then, next));
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(ask: Ask, answer: Answer, from: u64, to: u64) -> Operation {
        Operation { ask, answer, from, to }
    }

    #[test]
    fn what_a_register_does_is_linearizable_and_what_it_does_not_is_not() {
        use Answer::{Done, Refused, Unknown, Value};
        use Ask::{Get, Put, PutIfAbsent, PutIfMatch, Remove};
        let put = op(Put(1), Done, 0, 10);
        // A read beside a write may see either; one behind it must see it.
        assert!(is_linearizable(&[put, op(Get, Value(None), 5, 6), op(Get, Value(Some(1)), 7, 8)]));
        assert!(!is_linearizable(&[put, op(Get, Value(Some(1)), 5, 6), op(Get, Value(None), 7, 8)]));
        assert!(!is_linearizable(&[put, op(Get, Value(None), 11, 12)]), "a stale read");
        // Two that each found nothing there.
        let absent = |v, from| op(PutIfAbsent(v), Done, from, from + 10);
        assert!(!is_linearizable(&[absent(1, 0), absent(2, 5)]));
        assert!(is_linearizable(&[absent(1, 0), op(PutIfAbsent(2), Refused, 5, 9)]));
        // An update that was lost.
        let swap = |new, from| op(PutIfMatch(1, new), Done, from, from + 10);
        assert!(!is_linearizable(&[put, swap(2, 20), swap(3, 25)]));
        // Unanswered writes may show late, or never, but not come and go.
        let lost = op(Put(2), Unknown, 12, 13);
        let read = |v, from| op(Get, Value(Some(v)), from, from + 1);
        assert!(is_linearizable(&[put, lost, read(1, 50), read(2, 90)]));
        assert!(is_linearizable(&[put, lost, read(1, 50), read(1, 90)]));
        assert!(!is_linearizable(&[put, lost, read(1, 50), read(2, 90), read(1, 95)]));
        // What was removed and acknowledged does not come back; twice it is not removed.
        assert!(!is_linearizable(&[put, op(Remove, Done, 20, 21), read(1, 30)]));
        assert!(!is_linearizable(&[put, op(Remove, Done, 20, 21), op(Remove, Done, 30, 31)]));
        assert!(is_linearizable(&[put, op(Remove, Done, 20, 21), op(Remove, Refused, 30, 31)]));
    }

    #[test]
    fn long_histories_are_decided() {
        // A register asked one thing after another, by eight clients in turn, with overlaps.
        let (mut state, mut operations) = (None, Vec::new());
        for i in 0..400u64 {
            let ask = match i % 5 {
                0 | 3 => Ask::Put(i),
                1 => Ask::Get,
                2 => Ask::PutIfAbsent(i),
                _ => Ask::Remove,
            };
            let (answer, next) = step(state, ask);
            state = next;
            operations.push(op(ask, answer, (i * 10).saturating_sub(25), i * 10 + 5));
        }
        assert!(is_linearizable(&operations));
        operations[301].answer = Answer::Value(Some(5));
        assert!(!is_linearizable(&operations));
    }
}
