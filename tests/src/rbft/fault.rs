//! The troubles of a run, by name: each loss, crash, lie or request that happens. A run can be made again with some of them
//! and no others, and that is how a failure is shortened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Kinds of trouble, and of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// A message is lost on a link.
    Loss,
    /// A message comes twice.
    Repeat,
    /// A validator crashes, or the network parts or heals.
    Break,
    /// Who has prepared something is cut off.
    Cut,
    /// An adversary does not do as it should.
    Lie,
    /// The archive stands still for a while.
    Hold,
    /// A client asks for something.
    Request,
}

impl FaultKind {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Loss, "loss"),
        (Self::Repeat, "repeat"),
        (Self::Break, "break"),
        (Self::Cut, "cut"),
        (Self::Lie, "lie"),
        (Self::Hold, "hold"),
        (Self::Request, "request"),
    ];
}

/// The n-th of a kind in one place of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// On which link, at which node; 0 where there is only one place.
    pub place: u32,
    /// Which one, from 0 on.
    pub number: u32,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = FaultKind::ALL.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, word)| word);
        write!(f, "{word}.{}.{}", self.place, self.number)
    }
}

impl Fault {
    /// Some of them as one word, and back: as `WMALL_ONLY` takes them.
    pub fn list<'a>(faults: impl IntoIterator<Item = &'a Self>) -> String {
        faults.into_iter().map(Self::to_string).collect::<Vec<_>>().join(",")
    }

    /// What a list names.
    pub fn listed(list: &str) -> BTreeSet<Self> {
        list.split(',').filter_map(Self::parse).collect()
    }

    /// From what it is shown as.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let word = parts.next()?;
        let (kind, _) = FaultKind::ALL.into_iter().find(|(_, w)| *w == word)?;
        Some(Self { kind, place: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? })
    }
}

/// What may happen in a run, and what did.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Only these, if it says so.
    only: Option<BTreeSet<Fault>>,
    counts: BTreeMap<(FaultKind, u32), u32>,
    /// What happened, if it is to be remembered.
    struck: Option<Vec<Fault>>,
}

impl Faults {
    /// All that the seed brings.
    pub fn all() -> Self {
        Self::default()
    }

    /// All, and remembered.
    pub fn remembered() -> Self {
        Self { struck: Some(Vec::new()), ..Self::default() }
    }

    /// These and no others; remembered.
    pub fn only(these: BTreeSet<Fault>) -> Self {
        Self { only: Some(these), ..Self::remembered() }
    }

    /// A trouble is due in a place. Whether it happens.
    pub fn strikes(&mut self, kind: FaultKind, place: usize) -> bool {
        let place = place as u32;
        let count = self.counts.entry((kind, place)).or_default();
        let fault = Fault { kind, place, number: *count };
        *count += 1;
        let happens = self.only.as_ref().is_none_or(|only| only.contains(&fault));
        if happens && let Some(struck) = &mut self.struck {
            struck.push(fault);
        }
        happens
    }

    /// What happened.
    pub fn into_struck(self) -> Vec<Fault> {
        self.struck.unwrap_or_default()
    }
}
