//! Chance, one stream for each thing it decides of: what is decided in one place changes nothing in another, so that a run
//! with some of its troubles taken away is still the same run otherwise.

use std::collections::BTreeMap;

use super::dice::Dice;

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stream {
    /// What becomes of messages on the link between two nodes.
    Link(usize, usize),
    /// How long a node's disk takes, what its secret is, when it is cut off.
    Node(usize),
    /// What an adversary says.
    Lie(usize),
    /// Who asks for what.
    Client,
    /// What breaks.
    Fault,
    /// Whether the archive stands still.
    Archive,
}

/// The streams of a seed.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    seed: u64,
    order: u64,
    dice: BTreeMap<Stream, Dice>,
}

impl Streams {
    /// Of a seed; in another `order`, links and disks are faster and slower at other times.
    pub(super) fn new(seed: u64, order: u64) -> Self {
        Self { seed, order, dice: BTreeMap::new() }
    }

    /// The dice of a stream.
    pub(super) fn of(&mut self, stream: Stream) -> &mut Dice {
        let other = if matches!(stream, Stream::Link(..) | Stream::Node(_)) { self.order } else { 0 };
        let seed = self.seed ^ other << 40;
        self.dice.entry(stream).or_insert_with(|| {
            let [kind, a, b] = match stream {
                Stream::Link(from, to) => [1, from, to],
                Stream::Node(node) => [2, node, 0],
                Stream::Lie(node) => [3, node, 0],
                Stream::Client => [4, 0, 0],
                Stream::Fault => [5, 0, 0],
                Stream::Archive => [6, 0, 0],
            };
            let name = (kind << 32 | a << 16 | b) as u64;
            Dice::new(Dice::new(seed ^ name.rotate_left(20)).any() ^ name)
        })
    }

    /// Dice for one thing that happens, however often they are rolled.
    pub(super) fn once(&mut self, stream: Stream) -> Dice {
        Dice::new(self.of(stream).any())
    }
}
