//! What is held of batches, on whose account, and for how long.

use crate::batches::{Batches, Offered};
use crate::held::Account;
use crate::ids::{Digest, Epoch, Seat, Sequence, Time};
use crate::proposal::Proposal;

#[test]
fn a_batch_is_held_on_the_account_of_who_sent_it() {
    let (a, b) = ([1; 32], [2; 32]);
    let mut batches = Batches::new(2);
    let digest = |n: u8| Digest([n; 32]);
    let offer = |batches: &mut Batches, n, account| batches.offer(digest(n), account, 2);
    // What b repeats of a's takes nothing from a.
    assert_eq!(offer(&mut batches, 0, Account::Forwarded(b)), Offered::New);
    assert_eq!(offer(&mut batches, 1, Account::Forwarded(b)), Offered::New);
    assert_eq!(offer(&mut batches, 2, Account::Forwarded(b)), Offered::Full);
    assert_eq!(offer(&mut batches, 3, Account::Made(a)), Offered::New);
    assert_eq!(offer(&mut batches, 4, Account::Made(b)), Offered::New);
    // What is proposed is taken all the same, until the view is over.
    batches.lend(digest(2));
    assert_eq!(batches.lent(), [], "it is not on disk");
    batches.stored(&digest(2), Time(0), Time(1));
    assert_eq!(batches.lent(), [digest(2)]);
    batches.give_back(&digest(2));
    // What is committed makes room.
    batches.is_in_the_state(&digest(0), Sequence(1));
    assert_eq!(offer(&mut batches, 2, Account::Forwarded(b)), Offered::New);
    // What was taken for a proposal only stays once somebody answers for it.
    batches.lend(digest(5));
    batches.stored(&digest(5), Time(0), Time(1));
    assert_eq!(offer(&mut batches, 5, Account::Made(a)), Offered::Known);
    assert_eq!(batches.lent(), []);
}

/// A primary takes from each account in turn: what has others before it there waits for them and not for the primary.
#[test]
fn only_what_stays_the_first_of_its_account_is_passed_over() {
    let (a, b) = ([1; 32], [2; 32]);
    let mut batches = Batches::new(2);
    let digest = |n: u8| Digest([n; 32]);
    for (n, account) in [(0, a), (1, a), (2, a), (3, b)] {
        assert_eq!(batches.offer(digest(n), Account::Made(account), 9), Offered::New);
        batches.stored(&digest(n), Time(0), Time(10));
    }
    let overdue = |batches: &mut Batches, now: u64, most: usize| -> Vec<(u8, bool)> {
        let all = batches.overdue(Time(now), Time(now + 10), most);
        all.into_iter().map(|(digest, passed_over)| (digest.0[0], passed_over)).collect()
    };
    assert_eq!(overdue(&mut batches, 9, 9), []);
    // Of each account in turn, and the rest the next time.
    assert_eq!(overdue(&mut batches, 10, 3), [(0, false), (3, false), (1, false)]);
    assert_eq!(overdue(&mut batches, 10, 3), [(2, false)]);
    batches.is_in_the_state(&digest(0), Sequence(1));
    // The second is the first now, and was not before; b's is so still.
    assert_eq!(overdue(&mut batches, 20, 9), [(1, false), (3, true), (2, false)]);
    assert_eq!(overdue(&mut batches, 30, 9), [(1, true), (3, true), (2, false)]);
    // In another view everything waits anew.
    batches.begin_anew(Time(40));
    assert_eq!(overdue(&mut batches, 40, 9), [(1, false), (3, false), (2, false)]);
}

/// Reports are remembered as long as they matter, and the newest of them.
#[test]
fn what_is_committed_takes_no_room_among_the_reports() {
    let mut batches = Batches::new(2);
    let digest = |n: u8| Digest([n; 32]);
    assert_eq!(batches.offer(digest(0), Account::Found, 9), Offered::New);
    batches.report(Seat(1), &[0, 1, 2].map(digest), 2);
    let known = |batches: &Batches| [0, 1, 2, 3].map(|n| batches.reports(&digest(n)));
    assert_eq!(known(&batches), [0, 1, 1, 0], "the oldest is gone");
    batches.report(Seat(1), &[1, 3].map(digest), 2);
    assert_eq!(known(&batches), [0, 1, 0, 1], "said again is new");
    batches.is_in_the_state(&digest(0), Sequence(1));
    batches.report(Seat(1), &[digest(0)], 2);
    assert_eq!(known(&batches), [0, 1, 0, 1], "nobody cares for what is committed");
    // One's own counts as soon as it is on disk, also after a restart.
    batches.found(digest(2), None, Time(0), Time(1));
    assert_eq!(known(&batches), [0, 1, 1, 1]);
}

/// The state has it from its block on, and says so with each block behind that: a batch is over when its block is.
#[test]
fn what_the_state_has_is_over_when_it_first_had_it() {
    let mut batches = Batches::new(2);
    let digest = Digest([1; 32]);
    batches.found(digest, None, Time(0), Time(1));
    for at in 7..20 {
        batches.is_in_the_state(&digest, Sequence(at));
    }
    assert_eq!((batches.over(Sequence(6)), batches.over(Sequence(7))), (vec![], vec![digest]));
    // Unless somebody has it committed once more.
    batches.committed(&Proposal { batches: vec![digest], ..Proposal::null(Epoch(0), Sequence(12)) });
    assert_eq!((batches.over(Sequence(11)), batches.over(Sequence(12))), (vec![], vec![digest]));
}
