//! The mix of faults of a seed: some have one kind of trouble, some have all.

use super::dice::Dice;

/// Kinds of messages that links may have something against.
const HUSHED: [&[&str]; 8] = [
    &["prepare"],
    &["commit", "pqc"],
    &["prepare", "commit", "pqc"],
    &["checkpoint"],
    &["view_change"],
    &["new_view"],
    &["pre_prepare", "pqc"],
    &["batch"],
];
/// What a seed draws.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// One message in so many is lost; none for 0.
    pub loss: u64,
    /// Kinds of messages of which two in three are lost.
    pub hushed: &'static [&'static str],
    /// One in so many comes twice.
    pub repeat: u64,
    /// The longest that a message takes.
    pub delay_ms: u64,
    /// The longest that a sync takes.
    pub sync_ms: u64,
    /// The longest that it takes to execute a block.
    pub execute_ms: u64,
    /// In one case of so many, who has prepared something is cut off at once, before others hear of it.
    pub cuts: u64,
    /// The longest that clients pause.
    pub pause_ms: u64,
    /// Crashes, against the number of partitions.
    pub crashes: u64,
    /// Partitions, against the number of crashes.
    pub partitions: u64,
    /// Validators change.
    pub changes: bool,
    /// Who crashes may have forgotten everything.
    pub amnesia: bool,
    /// The archive may hold the chain up: in so many of a hundred cases it stands still where it could go on.
    pub archive: u64,
    /// The most that a clock is ahead of the slowest one at the beginning.
    pub skew_ms: u64,
}

impl Mix {
    /// The mix of a world of so many validators.
    pub fn draw(size: usize, dice: &mut Dice) -> Self {
        Self {
            loss: if dice.one_in(3) { 0 } else { 5 + dice.roll(60) },
            hushed: if dice.one_in(2) { dice.pick(&HUSHED) } else { &[] },
            repeat: if dice.one_in(2) { 0 } else { 5 + dice.roll(60) },
            delay_ms: dice.pick(&[2, 10, 60, 250]),
            sync_ms: dice.pick(&[0, 1, 5, 40]),
            execute_ms: dice.pick(&[0, 0, 3, 40]),
            cuts: if dice.one_in(3) { 1 + dice.roll(8) } else { 0 },
            pause_ms: dice.pick(&[if size > 10 { 400 } else { 100 }, 400, 400, 1_200]),
            crashes: if dice.one_in(4) { 0 } else { 1 + dice.roll(4) },
            partitions: if dice.one_in(2) { 0 } else { 1 + dice.roll(3) },
            changes: dice.one_in(3),
            amnesia: dice.one_in(4),
            archive: if dice.one_in(2) { dice.pick(&[30, 90]) } else { 0 },
            skew_ms: if dice.one_in(3) { 800 } else { 0 },
        }
    }
}
