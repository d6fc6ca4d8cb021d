//! What is signed and hashed, held against `docs/formats.md`. The vectors there were made by a second implementation, from the
//! table above them alone.

use crate::certificate::Certificate;
use crate::ids::{Digest, Epoch, Seat, Sequence, View};
use crate::message::{NewView, Prepared, ViewChange};
use crate::proposal::{Batch, Proposal};
use crate::validators::ValidatorSet;
use crate::vote::tests::{CHAIN, vote};
use crate::vote::{Vote, VoteKind};

const FORMATS: &str = include_str!("../../../docs/formats.md");

/// The vector of a row.
fn pinned(row: &str) -> &'static str {
    let line = FORMATS.lines().find(|line| line.starts_with(&format!("| {row}")));
    let line = line.unwrap_or_else(|| panic!("docs/formats.md has no row {row:?}"));
    line.rsplit('`').nth(1).unwrap_or_default()
}

fn hash(bytes: &[u8]) -> String {
    Digest(*blake3::hash(bytes).as_bytes()).to_string()
}

/// A certificate of a vote, of which only that is signed again.
fn of(vote: Vote) -> Certificate {
    Certificate { vote, signers: vec![7], signatures: vec![[0; 64]; 3] }
}

fn view_change(seat: u16, stable: Option<Certificate>, prepared: Vec<Prepared>) -> ViewChange {
    let (epoch, view) = (Epoch(3), View(6));
    ViewChange { epoch, view, stable, prepared, seat: Seat(seat), signature: [0; 64] }
}

#[test]
fn votes_are_signed_as_the_formats_say() {
    for (kind, row) in [
        (VoteKind::Prepare, "signed bytes of a prepare vote"),
        (VoteKind::Commit, "signed bytes of a commit vote"),
        (VoteKind::Checkpoint, "signed bytes of a checkpoint vote"),
    ] {
        assert_eq!(hash(&vote(kind).signing_bytes(&CHAIN)), pinned(row));
    }
}

#[test]
fn proposals_batches_and_sets_have_the_names_that_the_formats_say() {
    let batches = vec![Digest([1; 32]), Digest([2; 32])];
    let proposal = Proposal { epoch: Epoch(3), sequence: Sequence(70), time_ms: 1234, batches };
    assert_eq!(proposal.digest(&CHAIN).to_string(), pinned("proposal: epoch 3"));
    let batch = Batch { origin: [4; 32], payload: b"payload".to_vec(), signature: [0; 64] };
    assert_eq!(batch.digest().to_string(), pinned("batch: origin"));
    assert_eq!(hash(&Batch::signing_bytes(&CHAIN, &batch.digest())), pinned("signed bytes of that batch"));
    let set = ValidatorSet::new(Epoch(3), (1..=4).map(|n| [n; 32]).collect()).unwrap();
    assert_eq!(set.digest().to_string(), pinned("validator set: epoch"));
}

#[test]
fn views_are_changed_as_the_formats_say() {
    let nothing = view_change(2, None, Vec::new());
    assert_eq!(
        hash(&nothing.signing_bytes(&CHAIN)),
        pinned("signed bytes of a view change that has nothing")
    );
    let (epoch, sequence) = (Epoch(3), Sequence(71));
    let prepared = Prepared {
        proposal: Proposal::null(epoch, sequence),
        certificate: of(Vote { sequence, ..vote(VoteKind::Prepare) }),
    };
    let full = view_change(2, Some(of(vote(VoteKind::Checkpoint))), vec![prepared]);
    assert_eq!(hash(&full.signing_bytes(&CHAIN)), pinned("signed bytes of a view change with"));
    let changes = vec![view_change(0, None, Vec::new()), view_change(1, None, Vec::new()), full];
    let new_view = NewView { epoch, view: View(6), changes, signature: [0; 64] };
    assert_eq!(hash(&new_view.signing_bytes(&CHAIN)), pinned("signed bytes of a new view"));
}
