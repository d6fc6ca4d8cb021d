//! Four replicas, real signatures, a network that loses nothing: what each input leads to, output by output.

mod batches;

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::core::Phase;
use crate::validators::tests::{set, signer};
use crate::vote::tests::CHAIN;

struct Cluster {
    replicas: Vec<Rbft>,
    keys: Vec<PublicKey>,
    sets: ValidatorSets,
    config: Config,
    batches: BTreeMap<Digest, Batch>,
    /// What each was told to do, in order, by name.
    told: Vec<Vec<&'static str>>,
    executed: Vec<Vec<Digest>>,
    disks: Vec<Durable>,
    now: u64,
    /// Checkpoint votes do not get through.
    hushed: bool,
}

fn name(output: &Output) -> &'static str {
    match output {
        Output::Persist(Record::Accepted { .. }) => "persist accepted",
        Output::Persist(Record::Prepared { .. }) => "persist prepared",
        Output::Persist(Record::Committed(_)) => "persist committed",
        Output::Persist(Record::Stable(_)) => "persist stable",
        Output::Persist(_) => "persist",
        Output::Send { message, .. } => message.kind(),
        Output::SendBatch { .. } => "send batch",
        Output::StoreBatch(_) => "store batch",
        Output::DropBatch(_) => "drop batch",
        Output::Execute(_) => "execute",
        _ => "else",
    }
}

impl Cluster {
    fn new() -> Self {
        let set = set(4);
        let config = Config { checkpoint_interval: 1, ..Config::default() };
        let keys: Vec<PublicKey> = (0..4).map(|n| *set.key(Seat(n)).unwrap()).collect();
        let replica = |n: u16| {
            let own = (keys[usize::from(n)], Box::new(signer(n)) as Box<dyn Signer>);
            Rbft::new(CHAIN, config, own, Durable::new(set.clone())).unwrap()
        };
        let replicas = (0..4).map(replica).collect();
        let sets = ValidatorSets::of(set.clone());
        let (told, executed) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
        let (batches, disks) = (BTreeMap::new(), vec![Durable::new(set); 4]);
        Self { replicas, keys, sets, config, batches, told, executed, disks, now: 1000, hushed: false }
    }

    /// All begin, or begin again, with what is on their disks.
    fn start(&mut self) {
        for (n, disk) in (0u16..).zip(&self.disks) {
            let at = usize::from(n);
            let own = (self.keys[at], Box::new(signer(n)) as Box<dyn Signer>);
            self.replicas[at] = Rbft::new(CHAIN, self.config, own, disk.clone()).unwrap();
        }
        let known = |(digest, batch): (&Digest, &Batch)| KnownBatch {
            digest: *digest,
            origin: batch.origin,
            done: false,
        };
        let batches: Vec<KnownBatch> = self.batches.iter().map(known).collect();
        let secret = Nonce(self.now);
        self.run((0..4).map(|n| (n, Input::Start { secret, change: None, batches: batches.clone() })));
    }

    /// Gives inputs, and what follows from them, until nothing follows any more.
    fn run(&mut self, inputs: impl IntoIterator<Item = (usize, Input)>) {
        let mut queue: VecDeque<(usize, Input)> = inputs.into_iter().collect();
        while let Some((at, input)) = queue.pop_front() {
            for output in self.replicas[at].step(Time(self.now), input) {
                self.told[at].push(name(&output));
                self.perform(at, output, &mut queue);
            }
        }
    }

    fn perform(&mut self, at: usize, output: Output, queue: &mut VecDeque<(usize, Input)>) {
        let from = self.keys[at];
        let (to, message) = match output {
            Output::Send { message: Message::Checkpoint { .. }, .. } if self.hushed => return,
            Output::Send { to, message } => (to, message),
            Output::Persist(record) => return self.disks[at].apply(&record),
            Output::SendBatch { to, digest } => (to, Message::Batch(self.batches[&digest].clone())),
            Output::StoreBatch(batch) => {
                queue.push_back((at, Input::BatchStored { digest: batch.digest(), done: false }));
                self.batches.insert(batch.digest(), batch);
                return;
            }
            Output::Execute(block) => {
                let (sequence, state) = (block.proposal.sequence, block.proposal.digest(&CHAIN));
                self.executed[at].push(state);
                return queue
                    .push_back((at, Input::Executed { sequence, state, change: None, done: Vec::new() }));
            }
            _ => return,
        };
        let receivers: Vec<usize> = match to {
            To::One(key) => (0..4).filter(|n| self.keys[*n] == key).collect(),
            To::All => (0..4).filter(|n| *n != at).collect(),
        };
        let rules = Rules {
            chain: &CHAIN,
            sets: &self.sets,
            checker: &Zip215,
            max_batches: self.config.max_batches,
            window: self.config.window(),
        };
        let verified = verify(rules, from, message).expect("correct replicas say nothing that is refused");
        queue.extend(receivers.into_iter().map(|n| (n, Input::Message(verified.clone()))));
    }
}

#[test]
fn a_batch_becomes_a_block_in_three_phases_and_each_promise_is_on_disk_first() {
    let mut cluster = Cluster::new();
    cluster.start();
    assert!(cluster.replicas.iter().all(|r| r.takes_part() && r.doing() == "active"));
    cluster.told.iter_mut().for_each(Vec::clear);

    let batch = Batch::sign(&CHAIN, cluster.keys[2], b"a request".to_vec(), &signer(2));
    cluster.run([(2, Input::Submit(batch))]);
    assert!(cluster.executed.iter().all(|blocks| blocks.len() == 1 && *blocks == cluster.executed[0]));
    assert!(cluster.replicas.iter().all(|r| (r.executed(), r.stable()) == (Sequence(1), Sequence(1))));
    let primary = [
        "store batch",
        "stored",
        "persist accepted",
        "pre_prepare",
        "persist prepared",
        "commit",
        "persist committed",
        "execute",
        "checkpoint",
        "persist stable",
    ];
    assert_eq!(cluster.told[0], primary);
    for backup in [1, 3] {
        let mut wanted = primary;
        wanted[3] = "prepare";
        assert_eq!(cluster.told[backup], wanted);
    }
    assert_eq!(cluster.told[2][..3], ["store batch", "send batch", "stored"]);
    // Once it is archived, nobody needs the batch any more.
    cluster.told.iter_mut().for_each(Vec::clear);
    cluster.run((0..4).map(|n| (n, Input::Archived(Sequence(1)))));
    assert!(cluster.told.iter().all(|told| told.contains(&"drop batch")));
}

/// A window of blocks is executed and no checkpoint of it is stable, and then all restart: while they ask each other where they are
/// they promise nothing, and what they execute meanwhile they have to vote for later, since nothing new can come.
#[test]
fn a_full_window_becomes_stable_after_all_have_restarted() {
    let mut cluster = Cluster::new();
    cluster.start();
    cluster.hushed = true;
    for n in 0..4u8 {
        let batch = Batch::sign(&CHAIN, cluster.keys[2], vec![n], &signer(2));
        cluster.run([(2, Input::Submit(batch))]);
    }
    let places = |cluster: &Cluster| -> Vec<(u64, u64)> {
        cluster.replicas.iter().map(|r| (r.executed().0, r.stable().0)).collect()
    };
    assert_eq!(places(&cluster), [(4, 0); 4], "the window is full");
    cluster.hushed = false;
    cluster.start();
    cluster.now += cluster.config.resend_ms;
    cluster.run((0..4).map(|n| (n, Input::Tick)));
    assert_eq!(places(&cluster), [(4, 4); 4]);
}

/// A replica of seat 3, begun and at nothing, and four who sign.
fn alone(interval: u64, durable: Durable, change: Option<SetChange>) -> Rbft {
    let config = Config { checkpoint_interval: interval, ..Config::default() };
    let own = (*durable.set.key(Seat(3)).unwrap(), Box::new(signer(3)) as Box<dyn Signer>);
    let mut replica = Rbft::new(CHAIN, config, own, durable).unwrap();
    replica.step(Time(1000), Input::Start { secret: Nonce(1), change, batches: Vec::new() });
    replica
}

fn checkpoint(sequence: u64) -> Certificate {
    let (epoch, view, digest) = (set(4).epoch(), View(0), Digest([7; 32]));
    let vote = Vote { epoch, kind: VoteKind::Checkpoint, view, sequence: Sequence(sequence), digest };
    let votes: Vec<SignedVote> = (0..3).map(|n| vote.sign(&CHAIN, Seat(n), &signer(n))).collect();
    Certificate::gather(3, 4, vote, &votes).unwrap()
}

/// PBFT section 4.4: what is below the checkpoint that a view begins from is decided, also where its state is not here yet. A vote
/// for it could make a quorum for something else.
#[test]
fn nothing_is_voted_for_below_a_checkpoint_that_is_proven() {
    let mut replica = alone(2, Durable::new(set(4)), None);
    replica.recovery = None;
    replica.certified(checkpoint(4));
    let mut proposed = |sequence: u64| {
        let proposal = Proposal::null(set(4).epoch(), Sequence(sequence));
        let digest = proposal.digest(&CHAIN);
        let vote = Vote {
            epoch: proposal.epoch,
            kind: VoteKind::Prepare,
            view: View(0),
            sequence: proposal.sequence,
            digest,
        };
        let vote = vote.sign(&CHAIN, Seat(0), &signer(0));
        replica.proposed(proposal, vote);
        replica.advance(Sequence(sequence));
        std::mem::take(&mut replica.out).iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(proposed(3), [""; 0]);
    assert_eq!(proposed(4), [""; 0]);
    assert_eq!(proposed(5), ["persist accepted", "prepare"]);
}

/// The others may have gone on, and have the state no more that this one waits for.
#[test]
fn who_waits_for_a_state_asks_where_the_others_are_by_now() {
    let mut replica = alone(2, Durable::new(set(4)), None);
    let keys: Vec<PublicKey> = (0..4).map(|n| *set(4).key(Seat(n)).unwrap()).collect();
    replica.recovery = None;
    let located = |replica: &mut Rbft, now: u64, at: u64| -> Vec<u64> {
        let asked = replica.step(Time(now), Input::Tick).into_iter().find_map(|output| match output {
            Output::Send { message: Message::RecoveryInit { nonce, .. }, .. } => Some(nonce),
            _ => None,
        });
        let nonce = asked.unwrap_or_else(|| panic!("it asks nobody at {now}"));
        (0..2).for_each(|n| replica.located(keys[n], nonce, Some(checkpoint(at))));
        let wanted = |output| if let Output::Update(c) = output { Some(c.vote.sequence.0) } else { None };
        std::mem::take(&mut replica.out).into_iter().filter_map(wanted).collect()
    };
    assert_eq!(located(&mut replica, 60_000, 4), [4]);
    assert_eq!(replica.doing(), "updating");
    assert_eq!(located(&mut replica, 120_000, 8), [8]);
    assert_eq!(located(&mut replica, 180_000, 8), [8], "said again");
}

/// What is archived is said by each for itself: it is under nobody's signature.
#[test]
fn nobody_says_what_is_archived_for_another_one() {
    let mut replica = alone(2, Durable::new(set(4)), None);
    let keys: Vec<PublicKey> = (0..4).map(|n| *set(4).key(Seat(n)).unwrap()).collect();
    let vote = |seat: u16| checkpoint(2).vote.sign(&CHAIN, Seat(seat), &signer(seat));
    for seat in 0..3 {
        replica.take_checkpoint(&keys[2], vote(seat), Sequence(u64::MAX));
    }
    assert_eq!(replica.agreed_archived, Sequence(0), "one of them has said so, and it may lie");
    replica.take_checkpoint(&keys[1], vote(1), Sequence(9));
    assert_eq!(replica.agreed_archived, Sequence(9));
}

/// The end of an epoch is two records, and a crash may come between them.
#[test]
fn an_epoch_whose_end_is_on_disk_goes_over_at_the_next_start() {
    let mut durable = Durable::new(set(4));
    durable.apply(&Record::Stable(checkpoint(4)));
    let keys: Vec<PublicKey> = (0..4).map(|n| *set(4).key(Seat(n)).unwrap()).collect();
    let change = SetChange { asked: Sequence(0), keys, rejoined: Vec::new() };
    let replica = alone(1, durable, Some(change));
    assert_eq!((replica.epoch(), replica.durable.base), (Epoch(4), Sequence(4)));
}

/// A primary that leaves a sequence out: no request waits for that one, and nothing behind it can be executed.
#[test]
fn a_gap_behind_which_blocks_are_committed_is_complained_about() {
    let mut replica = alone(10, Durable::new(set(4)), None);
    replica.recovery = None;
    let committed = |sequence: u64| {
        let proposal = Proposal::null(set(4).epoch(), Sequence(sequence));
        Committed { proposal, certificate: checkpoint(sequence) }
    };
    let ticks = |replica: &mut Rbft, from: u64| -> Vec<&'static str> {
        let times = (from..from + 10_000).step_by(500);
        times.flat_map(|now| replica.step(Time(now), Input::Tick)).map(|o| name(&o)).collect()
    };
    assert!(!ticks(&mut replica, 2_000).contains(&"view_change"), "there is nothing to wait for");
    replica.committed(committed(3));
    assert!(ticks(&mut replica, 20_000).contains(&"view_change"));
    assert_eq!(replica.executing, Sequence(0));
}

#[test]
fn two_checkpoint_votes_for_different_states_are_shown() {
    let mut replica = alone(2, Durable::new(set(4)), None);
    replica.out.clear();
    let key = *set(4).key(Seat(1)).unwrap();
    let vote = checkpoint(2).vote;
    for digest in [Digest([7; 32]), Digest([7; 32]), Digest([8; 32])] {
        assert!(replica.out.is_empty(), "once is no equivocation");
        replica.take_checkpoint(&key, Vote { digest, ..vote }.sign(&CHAIN, Seat(1), &signer(1)), Sequence(0));
    }
    let shown = replica.out.iter().any(|o| matches!(o, Output::Evidence(e) if e.seat == Seat(1)));
    assert!(shown, "{:?}", replica.out);
}

/// A body goes to those who have not said that they have it, and a primary is blamed by what a quorum says it has.
#[test]
fn what_waits_goes_to_those_who_lack_it() {
    let mut replica = alone(10, Durable::new(set(4)), None);
    let keys: Vec<PublicKey> = (0..4).map(|n| *set(4).key(Seat(n)).unwrap()).collect();
    replica.recovery = None;
    let batch = Batch::sign(&CHAIN, keys[1], b"it".to_vec(), &signer(1));
    let digest = batch.digest();
    replica.take_batch(keys[1], batch.digest(), batch);
    replica.batch_stored(digest, false);
    replica.batches.report(Seat(1), &[digest], 9);
    let mut now = 1000;
    let mut tick = |replica: &mut Rbft| {
        now += 2_000;
        replica.out.clear();
        replica.forward_overdue(Time(now), Time(now + 2_000));
        let to = |output: &Output| if let Output::SendBatch { to, .. } = output { Some(*to) } else { None };
        (replica.out.iter().filter_map(to).collect::<Vec<_>>(), replica.view().0)
    };
    // The first time, and then for want of a quorum that has it.
    let lack = [0, 2].map(|n| To::One(keys[n])).to_vec();
    assert_eq!(tick(&mut replica), (lack.clone(), 0));
    assert_eq!(tick(&mut replica), (lack, 0), "two have it, and one of them may lie");
    replica.batches.report(Seat(2), &[digest], 9);
    assert_eq!(tick(&mut replica), (vec![], 1), "three do");
}

/// Who has started promises nothing before a quorum has said where it is, whatever is certified meanwhile.
#[test]
fn who_is_lost_stays_silent_until_it_is_told() {
    let mut replica = alone(2, Durable::new(set(4)), None);
    replica.certified(checkpoint(4));
    for now in (2_000..60_000).step_by(500) {
        let out = replica.step(Time(now), Input::Tick);
        assert!(!out.iter().any(|o| matches!(o, Output::Update(_))), "it asks on");
        assert_eq!((replica.doing(), replica.takes_part()), ("negotiating", false));
    }
}

/// A view that began while nothing of it came through: who asks where the chain is hears of that, too.
#[test]
fn who_has_missed_the_beginning_of_a_view_is_told() {
    let mut replica = alone(2, Durable::new(set(4)), None);
    let keys: Vec<PublicKey> = (0..4).map(|n| *set(4).key(Seat(n)).unwrap()).collect();
    replica.recovery = None;
    let out = replica.step(Time(60_000), Input::Tick);
    let asked = out.into_iter().find_map(|output| match output {
        Output::Send { message: Message::Negotiate { nonce, view, .. }, .. } => Some((nonce, view)),
        _ => None,
    });
    let (nonce, view) = asked.expect("it asks");
    assert_eq!(view, View(1), "what it is in it knows");
    let (epoch, view, signature) = (set(4).epoch(), View(2), [0; 64]);
    let new_view = NewView { epoch, view, changes: Vec::new(), signature };
    replica.negotiated(keys[0], Nonce(nonce.0 ^ 1), epoch, Some(new_view.clone()));
    assert_eq!(replica.view(), View(0), "that was no answer to it");
    replica.negotiated(keys[0], nonce, epoch, Some(new_view.clone()));
    assert_eq!((replica.view(), replica.phase), (View(2), Phase::Active));
    // And it tells others, if they do not know.
    replica.out.clear();
    for (view, told) in [(2, true), (3, false)] {
        replica.answer_negotiate(keys[1], Nonce(7), epoch, View(view));
        let wanted = told.then(|| new_view.clone());
        let answer = Message::Negotiated { nonce: Nonce(7), epoch, new_view: wanted };
        assert_eq!(replica.out.pop(), Some(Output::Send { to: To::One(keys[1]), message: answer }));
    }
}

/// A state that was fetched may have it, and then nobody will ever propose it to this one.
#[test]
fn a_batch_that_comes_after_its_state_waits_for_nobody() {
    let mut replica = alone(2, Durable::new(set(4)), None);
    let key = *set(4).key(Seat(1)).unwrap();
    let batch = |n: u8| Batch::sign(&CHAIN, key, vec![n], &signer(1));
    let digests = [batch(0).digest(), batch(1).digest()];
    for (n, done) in [(0, true), (1, false)] {
        replica.take_batch(key, batch(n).digest(), batch(n));
        replica.batch_stored(digests[usize::from(n)], done);
    }
    assert_eq!(replica.batches.waiting().copied().collect::<Vec<_>>(), [digests[1]]);
    assert!(replica.out.contains(&Output::DropBatch(digests[0])), "nothing makes room for more of them");
    assert!(!replica.batches.knows(&digests[0]));
    // And what was forgotten while it was being written may go again.
    replica.out.clear();
    replica.batch_stored(Digest([9; 32]), false);
    assert_eq!(replica.out.iter().map(name).collect::<Vec<_>>(), ["drop batch"]);
}

/// Keys cost nothing: who has no seat makes nobody hold anything.
#[test]
fn batches_of_strangers_leave_nothing_behind() {
    let mut replica = alone(2, Durable::new(set(4)), None);
    let before = replica.size();
    for n in 0..50u8 {
        let stranger = [n; 32];
        let batch = Batch { origin: stranger, payload: vec![n], signature: [0; 64] };
        replica.take_batch(stranger, batch.digest(), batch);
    }
    assert_eq!(replica.size(), before);
}

/// The primary of view 3, and wishes for that: one of them proves that a batch was prepared that is nowhere else.
#[test]
fn a_view_begins_only_with_what_its_primary_has() {
    let key = *set(4).key(Seat(1)).unwrap();
    let batch = Batch::sign(&CHAIN, key, b"hidden".to_vec(), &signer(1));
    let (epoch, sequence, digest) = (set(4).epoch(), Sequence(1), batch.digest());
    let proposal = Proposal { epoch, sequence, time_ms: 1, batches: vec![digest] };
    let prepared = Prepared { proposal: proposal.clone(), certificate: checkpoint(1) };
    let wish = |seat: u16, prepared: Vec<Prepared>| {
        let (view, seat, signature) = (View(3), Seat(seat), [0; 64]);
        ViewChange { epoch, view, stable: None, prepared, seat, signature }
    };
    let waits = || {
        let mut replica = alone(10, Durable::new(set(4)), None);
        replica.recovery = None;
        replica.change_view(View(3));
        replica.out.clear();
        replica.take_view_change(&key, wish(0, vec![prepared.clone()]));
        replica.take_view_change(&key, wish(1, Vec::new()));
        let out: Vec<&str> = replica.out.iter().map(name).collect();
        assert_eq!(out, ["fetch_batches"], "a quorum wishes for it; what is not here is asked for, once");
        replica
    };
    let begun = |replica: &Rbft| -> Option<Vec<u16>> {
        let new_view = replica.durable.new_view.as_ref()?;
        Some(new_view.changes.iter().map(|c| c.seat.0).collect())
    };
    // Another quorum does without it.
    let mut replica = waits();
    replica.take_view_change(&key, wish(2, Vec::new()));
    assert_eq!((begun(&replica), replica.phase), (Some(vec![1, 2, 3]), Phase::Active));
    assert_eq!(replica.log.len(), 0);
    // Whoever has come further comes first, and all stand in the order of their seats, or nobody would believe it.
    let mut replica = waits();
    let further = ViewChange { stable: Some(checkpoint(1)), ..wish(2, Vec::new()) };
    replica.take_view_change(&key, further);
    assert_eq!(begun(&replica), Some(vec![0, 1, 2]), "what is below the checkpoint nobody needs");
    // Or somebody has it after all, and it is taken although its sender's account is full.
    let mut replica = waits();
    replica.config.batches_per_seat = 0;
    replica.take_batch(key, digest, batch);
    assert_eq!(begun(&replica), None, "it is not on disk yet");
    replica.batch_stored(digest, true);
    assert_eq!((begun(&replica), replica.phase), (Some(vec![0, 1, 3]), Phase::Active));
    assert!(replica.batches.has_all(&proposal) && replica.is_listed(&digest));
}

/// Who has left signs what it likes under the name of an epoch that is over.
#[test]
fn a_checkpoint_of_an_epoch_that_is_over_leads_nowhere() {
    let mut durable = Durable::new(set(4));
    durable.apply(&Record::Stable(checkpoint(4)));
    let keys: Vec<PublicKey> = (0..4).map(|n| *set(4).key(Seat(n)).unwrap()).collect();
    let key = keys[0];
    let change = SetChange { asked: Sequence(0), keys, rejoined: Vec::new() };
    let mut replica = alone(1, durable, Some(change));
    replica.certified(checkpoint(400));
    assert_eq!(replica.ahead, None);
    let (view, prepared, signature) = (View(1), Vec::new(), [0; 64]);
    let change = |sequence: u64| {
        let (stable, prepared) = (Some(checkpoint(sequence)), prepared.clone());
        ViewChange { epoch: Epoch(4), view, stable, prepared, seat: Seat(0), signature }
    };
    replica.take_view_change(&key, change(400));
    assert_eq!(replica.wishes.len(), 0);
    replica.take_view_change(&key, change(4));
    assert_eq!(replica.wishes.len(), 1, "where the epoch began");
}

/// A view begins behind a checkpoint that this one does not have yet: what is cast below that in this view nobody correct has
/// cast, and it would fill a second window.
#[test]
fn a_view_has_no_votes_below_where_it_begins() {
    let mut replica = alone(10, Durable::new(set(4)), None);
    replica.recovery = None;
    let wish = |seat: u16| {
        let (epoch, view, signature) = (set(4).epoch(), View(1), [0; 64]);
        ViewChange {
            epoch,
            view,
            stable: Some(checkpoint(40)),
            prepared: Vec::new(),
            seat: Seat(seat),
            signature,
        }
    };
    let (epoch, view, signature) = (set(4).epoch(), View(1), [0; 64]);
    replica.take_new_view(NewView { epoch, view, changes: [0, 1, 2].map(wish).to_vec(), signature });
    assert_eq!((replica.view(), replica.stable(), replica.log.len()), (View(1), Sequence(0), 0));
    let vote = checkpoint(1).vote;
    for sequence in [1, 40, 41].map(Sequence) {
        let vote = Vote { kind: VoteKind::Prepare, view, sequence, ..vote };
        replica.take_vote(vote.sign(&CHAIN, Seat(3), &signer(3)));
    }
    assert_eq!(replica.log.len(), 0);
}
