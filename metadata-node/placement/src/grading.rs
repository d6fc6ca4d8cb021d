//! Grades from facts: how many good pieces a chunk has, and whether the rest can still come back.

use wmall_proto::Scheme;
use wmall_proto::chunk::PieceState;
use wmall_proto::grade::{Grade, GradeCounts};

/// What is known of one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceFact {
    /// Whether it counts, may count again, or is known to be missing.
    pub state: PieceState,
}

/// A group and the chunks in it: most share the row's facts, a few have facts of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFacts {
    /// The pool's scheme.
    pub scheme: Scheme,
    /// Whether the row keeps the zone rule.
    pub rule_kept: bool,
    /// Per slot, what holds for a chunk without a ticket.
    pub row: Vec<PieceFact>,
    /// All chunks of the group.
    pub chunks: u64,
    /// Per chunk with tickets, the slots that they are about.
    pub ticketed: Vec<Vec<u8>>,
}

/// The grade of a chunk with these pieces.
pub fn grade(scheme: Scheme, rule_kept: bool, pieces: &[PieceFact]) -> Grade {
    let count = |state| pieces.iter().filter(|p| p.state == state).count();
    let (live, suspect) = (count(PieceState::Live), count(PieceState::Suspect));
    let (needed, width) = (scheme.needed(), scheme.width());
    if live < needed {
        return if live + suspect >= needed { Grade::Unavailable } else { Grade::Lost };
    }
    // A scheme that promises nothing beyond what it needs is never better than a warning.
    if width == needed {
        return Grade::Warning;
    }
    match live - needed {
        0 => Grade::Danger,
        margin if margin == width - needed && rule_kept => Grade::Stable,
        _ => Grade::Warning,
    }
}

/// Chunks per grade, group by group: work for the groups and the exceptions, none for the rest.
pub fn tally(groups: impl IntoIterator<Item = GroupFacts>) -> GradeCounts {
    let mut counts = GradeCounts::default();
    for group in groups {
        let plain = group.chunks.saturating_sub(group.ticketed.len() as u64);
        counts.add(grade(group.scheme, group.rule_kept, &group.row), plain);
        for slots in &group.ticketed {
            let mut pieces = group.row.clone();
            for &slot in slots {
                if let Some(piece) = pieces.get_mut(usize::from(slot)) {
                    piece.state = PieceState::Missing;
                }
            }
            counts.add(grade(group.scheme, group.rule_kept, &pieces), 1);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(states: &str) -> Vec<PieceFact> {
        let state = |c| match c {
            'L' => PieceState::Live,
            's' => PieceState::Suspect,
            _ => PieceState::Missing,
        };
        states.chars().map(|c| PieceFact { state: state(c) }).collect()
    }

    #[test]
    fn grades_by_the_book() {
        use Grade::*;
        let table = [
            ("3x", "LLL", Stable),
            ("3x", "LLs", Warning),
            ("3x", "LLm", Warning),
            ("3x", "Lsm", Danger),
            ("3x", "ssm", Unavailable),
            ("3x", "mmm", Lost),
            ("2x", "Lm", Danger),
            ("1x", "L", Warning),
            ("1x", "s", Unavailable),
            ("1x", "m", Lost),
            ("rs:4+2", "LLLLLL", Stable),
            ("rs:4+2", "LLLLLm", Warning),
            ("rs:4+2", "LLLLms", Danger),
            ("rs:4+2", "LLLmsm", Unavailable),
            ("rs:4+2", "LLLmmm", Lost),
        ];
        for (scheme, states, expected) in table {
            let scheme: Scheme = scheme.parse().unwrap();
            assert_eq!(grade(scheme, true, &facts(states)), expected, "{scheme} {states}");
        }
        assert_eq!(grade("3x".parse().unwrap(), false, &facts("LLL")), Warning, "zone rule broken");
    }

    #[test]
    fn a_tally_counts_exceptions_apart() {
        let group = GroupFacts {
            scheme: "3x".parse().unwrap(),
            rule_kept: true,
            row: facts("LLs"),
            chunks: 10,
            ticketed: vec![vec![0], vec![0, 1], vec![2]],
        };
        let counts = tally([group]);
        assert_eq!((counts.warning, counts.danger, counts.unavailable), (8, 1, 1));
        assert_eq!(counts.total(), 10);
        assert_eq!(counts.worst(), Grade::Unavailable);
    }
}
