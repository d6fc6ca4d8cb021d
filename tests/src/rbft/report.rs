//! What runs of the simulator come to: without trouble met they would show nothing.

use std::fmt;
use std::ops::{Index, IndexMut};

/// Declares what is counted: its name for people, and how often the seeds of `make test` must meet it at each number of
/// validators.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $word:literal, $floor:literal;)*) => {
        /// What is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Count {
            $($(#[$doc])* $name,)*
        }

        impl Count {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// For people.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// How often it must happen at each number of validators in the seeds of `make test`.
            pub fn floor(self) -> u64 {
                match self {
                    $(Self::$name => $floor,)*
                }
            }
        }
    };
}

counts! {
    /// Events.
    Events: "events", 7_000_000;
    /// Blocks of the chain.
    Blocks: "blocks", 500;
    /// Checkpoints that became stable, at all nodes.
    Checkpoints: "checkpoints", 500;
    /// Views that were entered, at all nodes.
    Views: "views", 50;
    /// Epochs that began, at all nodes.
    Epochs: "epochs", 50;
    /// Recoveries that came to their end: view, place, state and what is under way.
    Recoveries: "recoveries", 200;
    /// States that were fetched.
    Updates: "state updates", 50;
    /// Sources that gave another state than that of the checkpoint, and were passed over.
    LiedAboutState: "states that were none", 5;
    /// Times that nobody within reach had the state.
    NoSource: "states not to be had", 0;
    /// Validators that have forgotten everything.
    Forgotten: "that forgot", 10;
    /// And rejoined.
    Rejoins: "rejoined", 5;
    /// Batches that were not taken.
    Busy: "batches refused", 0;
    /// Messages that were lost.
    Lost: "messages lost", 5_000;
    /// Messages that came twice.
    Repeated: "repeated", 5_000;
    /// Messages that were overtaken on their link.
    Overtaken: "overtaken", 5_000;
    /// Times that the network was parted.
    Partitions: "partitions", 20;
    /// Times that one was cut off just when it had prepared something.
    Cuts: "cut off when prepared", 20;
    /// Crashes.
    Crashes: "crashes", 50;
    /// Of these, with a part of what was written and not synced gone.
    Torn: "with writes lost", 20;
    /// Power cuts of all at once.
    PowerCuts: "of all at once", 10;
    /// Syncs that took longer than messages do.
    SlowSyncs: "slow syncs", 1_000;
    /// Times that the archive stood still.
    Held: "halts of the archive", 50;
    /// Validators whose clocks are wrong, within the drift that is allowed.
    Skewed: "wrong clocks", 50;
    /// Messages that an adversary left out.
    Omitted: "left out by adversaries", 1_000;
    /// Batches that it kept to itself.
    Withheld: "batches withheld", 20;
    /// Votes of two kinds, said to one half and the other.
    Equivocated: "equivocations", 1_000;
    /// Proposals of two kinds.
    TwoProposals: "equivocating proposals", 20;
    /// Fields that were changed.
    Changed: "fields changed", 1_000;
    /// Messages repeated that were said long ago, by anybody.
    Replayed: "replays", 1_000;
    /// Of these, in a later view or epoch.
    ReplayedLater: "across views and epochs", 100;
    /// Lies to who recovers.
    LiedToRecovering: "lies to who recovers", 100;
    /// Answers about what is under way that prove nothing.
    ForgedPqc: "forged PQC", 20;
    /// Views at the end of the numbers.
    HugeView: "huge views", 10;
    /// View changes and new views with a certificate inside that proves nothing or something else.
    NestedCertificate: "invalid certificates inside", 10;
    /// Messages that no core would say, put together of what was heard.
    Composed: "composed", 1_000;
    /// Messages of validators of which there are two.
    Twins: "messages of twins", 5_000;
    /// Equivocations that were shown.
    Evidence: "equivocations shown", 20;
    /// What the specification judged.
    Judged: "acts judged by the specification", 20_000;
    /// Worlds whose signatures were real.
    Sealed: "worlds of real signatures", 0;
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// Validators.
    pub size: usize,
    counts: Vec<u64>,
    /// What did not hold.
    pub violation: Option<String>,
}

impl Default for Report {
    fn default() -> Self {
        Self { size: 0, counts: vec![0; Count::ALL.len()], violation: None }
    }
}

impl Index<Count> for Report {
    type Output = u64;

    fn index(&self, count: Count) -> &u64 {
        &self.counts[count as usize]
    }
}

impl IndexMut<Count> for Report {
    fn index_mut(&mut self, count: Count) -> &mut u64 {
        &mut self.counts[count as usize]
    }
}

impl Report {
    /// Of so many validators.
    pub fn of(size: usize) -> Self {
        Self { size, ..Self::default() }
    }

    /// Adds what another run came to.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.counts.iter_mut().zip(&other.counts) {
            *sum += more;
        }
    }

    /// What happened less often than it must.
    pub fn below_the_floor(&self) -> Vec<String> {
        let below = Count::ALL.iter().filter(|count| self[**count] < count.floor());
        below.map(|c| format!("{} {}, {} at least are wanted", self[*c], c.word(), c.floor())).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = Count::ALL.iter().map(|c| format!("{} {}", self[*c], c.word())).collect();
        f.write_str(&all.join(", "))
    }
}
