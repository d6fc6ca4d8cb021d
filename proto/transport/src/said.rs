//! The words of the metadata nodes on one question, each for itself, and the one error that they come to.
//!
//! One member's word is not the cluster's: its clock may be off, its disk broken, its connections cut. Such a
//! word is final once every member has said the like. Verdicts of the replicated state are deliberately
//! absent: one is enough.

use wmall_proto::{ErrorCode, NodeName, RpcError};

/// A member by its place in the list, and its last word.
#[derive(Debug)]
struct Word {
    member: usize,
    node: NodeName,
    error: RpcError,
}

/// How much a word counts beside others.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// Nothing was heard.
    Silence,
    /// A refusal that may be the member's own affair.
    Refusal,
    /// A fault that passes, of which the member itself told.
    Passing,
    /// A member that would serve the call has no room.
    Full,
    /// A refusal by the member that another one calls the leader.
    Leaders,
}

/// The last word of each member that was asked, in the order of asking.
#[derive(Debug, Default)]
pub(crate) struct Said {
    words: Vec<Word>,
    /// A member may have carried the request out. A later word of it that it did nothing is about a later try.
    uncertain: bool,
}

impl Said {
    /// Notes a member's word. Silence does not take the place of a word.
    pub(crate) fn hear(&mut self, member: usize, node: &NodeName, error: RpcError) {
        self.uncertain |= !did_nothing(error.code);
        let Some(word) = self.words.iter_mut().find(|w| w.member == member) else {
            return self.words.push(Word { member, node: node.clone(), error });
        };
        if !is_silence(error.code) || is_silence(word.error.code) {
            word.error = error;
        }
    }

    /// Adds the words of a later round.
    pub(crate) fn take(&mut self, later: Self) {
        self.uncertain |= later.uncertain;
        later.words.into_iter().for_each(|word| self.hear(word.member, &word.node, word.error));
    }

    /// Whether a member may have carried the request out, or may still do so.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// How many members were asked.
    pub(crate) fn count(&self) -> usize {
        self.words.len()
    }

    /// The code of a member's word; none if it was not asked.
    pub(crate) fn code_of(&self, member: usize) -> Option<ErrorCode> {
        self.words.iter().find(|w| w.member == member).map(|w| w.error.code)
    }

    /// Whether another member has named this one as the leader.
    pub(crate) fn is_named(&self, node: &NodeName) -> bool {
        self.words.iter().any(|w| w.error.code == ErrorCode::NotLeader && w.error.hint == node.as_str())
    }

    /// Whether each of so many members has refused, and time alone changes nothing about it.
    pub(crate) fn is_final(&self, members: usize) -> bool {
        self.words.len() == members && self.words.iter().all(|w| !w.error.code.is_transient())
    }

    /// Whether the leader has refused, by the word of another member that it leads.
    pub(crate) fn leader_refused(&self) -> bool {
        self.words.iter().any(|w| self.weight(w) == Weight::Leaders)
    }

    /// One error for all: code and hint of the word that counts most, the later of two such, and each
    /// member's reason.
    pub(crate) fn error(&self) -> RpcError {
        match self.words.iter().max_by_key(|w| self.weight(w)) {
            None => RpcError::new(ErrorCode::Unreachable, "no metadata node answers"),
            Some(only) if self.words.len() == 1 => only.error.clone(),
            Some(most) => RpcError { reason: self.told(), ..most.error.clone() },
        }
    }

    /// The same for a caller that gave up waiting: a passing fault is told as the state of the cluster that
    /// it means.
    pub(crate) fn given_up(&self) -> RpcError {
        let error = self.error();
        let because = |state: &str| match self.words.is_empty() {
            true => state.to_string(),
            false => format!("{state}; {}", self.told()),
        };
        match error.code {
            ErrorCode::NotLeader => RpcError::new(ErrorCode::NoQuorum, because("no metadata node leads"))
                .hint("check that a majority of the metadata nodes is up"),
            code if is_silence(code) => {
                RpcError::new(ErrorCode::Unreachable, because("no metadata node answers"))
                    .hint("check the addresses in the configuration, and that the metadata nodes are up")
            }
            _ => error,
        }
    }

    /// Each member with its reason, in one line; those that say the same together.
    pub(crate) fn told(&self) -> String {
        let mut told: Vec<(String, &str)> = Vec::new();
        for Word { node, error, .. } in &self.words {
            if let Some((names, _)) = told.iter_mut().find(|(_, reason)| *reason == error.reason) {
                *names = format!("{names}, {node}");
            } else {
                told.push((node.to_string(), error.reason.as_str()));
            }
        }
        // Errors of a connection begin with the member and its address.
        let line = |(names, reason): (String, &str)| match reason.starts_with(&format!("{names} at ")) {
            true => reason.to_string(),
            false => format!("{names}: {reason}"),
        };
        told.into_iter().map(line).collect::<Vec<_>>().join("; ")
    }

    fn weight(&self, word: &Word) -> Weight {
        match word.error.code {
            code if is_silence(code) => Weight::Silence,
            ErrorCode::Busy => Weight::Full,
            code if code.is_transient() => Weight::Passing,
            _ if self.is_named(&word.node) => Weight::Leaders,
            _ => Weight::Refusal,
        }
    }
}

/// Whether a member that says this has not carried the request out, and will not.
fn did_nothing(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotLeader | ErrorCode::Busy | ErrorCode::Denied)
}

fn is_silence(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Unreachable | ErrorCode::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of metadata-1, metadata-2 and so on.
    fn said(words: &[(ErrorCode, &str, &str)]) -> Said {
        let mut said = Said::default();
        for (member, (code, reason, hint)) in words.iter().enumerate() {
            said.hear(member, &name(member), RpcError::new(*code, *reason).hint(*hint));
        }
        said
    }

    fn name(member: usize) -> NodeName {
        NodeName::new(format!("metadata-{}", member + 1)).unwrap()
    }

    fn error(code: ErrorCode, reason: &str, hint: &str) -> RpcError {
        RpcError::new(code, reason).hint(hint)
    }

    const SILENT: (ErrorCode, &str, &str) = (ErrorCode::Unreachable, "no answer within 1.5 s", "");
    const LATE: (ErrorCode, &str, &str) = (ErrorCode::Timeout, "did not answer in time", "");
    const DENIED: (ErrorCode, &str, &str) = (ErrorCode::Denied, "not valid yet", "the clocks");
    const FOLLOWS: (ErrorCode, &str, &str) = (ErrorCode::NotLeader, "does not lead", "metadata-1");
    const ASTRAY: (ErrorCode, &str, &str) = (ErrorCode::NotLeader, "does not lead", "");

    #[test]
    fn the_word_that_counts_most_wins_and_all_are_named() {
        use ErrorCode as E;
        // All refuse.
        let all = "metadata-1, metadata-2, metadata-3: not valid yet";
        assert_eq!(said(&[DENIED; 3]).error(), error(E::Denied, all, "the clocks"));
        // A member's own word beats silence, wherever it stands.
        let first = "metadata-1: not valid yet; metadata-2, metadata-3: no answer within 1.5 s";
        assert_eq!(said(&[DENIED, SILENT, SILENT]).error(), error(E::Denied, first, "the clocks"));
        let last = "metadata-1: no answer within 1.5 s; metadata-2: did not answer in time; \
                    metadata-3: not valid yet";
        assert_eq!(said(&[SILENT, LATE, DENIED]).error(), error(E::Denied, last, "the clocks"));
        // One member's refusal does not hide that the others have no leader.
        let astray =
            "metadata-1: not valid yet; metadata-2: does not lead; metadata-3: no answer within 1.5 s";
        assert_eq!(said(&[DENIED, ASTRAY, SILENT]).error(), error(E::NotLeader, astray, ""));
        // That of the leader is what counts.
        let leads = "metadata-1: not valid yet; metadata-2, metadata-3: does not lead";
        assert_eq!(said(&[DENIED, FOLLOWS, FOLLOWS]).error(), error(E::Denied, leads, "the clocks"));
        // Of two that count the same, the later.
        let late = "metadata-1: no answer within 1.5 s; metadata-2: did not answer in time";
        assert_eq!(said(&[SILENT, LATE]).error(), error(E::Timeout, late, ""));
    }

    #[test]
    fn one_word_stays_as_it_is_and_none_is_silence() {
        assert_eq!(said(&[DENIED]).error(), error(ErrorCode::Denied, "not valid yet", "the clocks"));
        assert_eq!(Said::default().error(), error(ErrorCode::Unreachable, "no metadata node answers", ""));
    }

    #[test]
    fn a_reason_that_names_its_member_is_not_named_twice() {
        let at = |reason| (ErrorCode::Unreachable, reason, "");
        let (one, two) = ("metadata-1 at 10.0.0.1:7001: gone", "metadata-2 at 10.0.0.2:7001: gone");
        assert_eq!(said(&[at(one), at(two)]).told(), format!("{one}; {two}"));
    }

    #[test]
    fn giving_up_tells_of_the_cluster() {
        let majority = "check that a majority of the metadata nodes is up";
        let expected =
            "no metadata node leads; metadata-1: no answer within 1.5 s; metadata-2: does not lead";
        assert_eq!(said(&[SILENT, ASTRAY]).given_up(), error(ErrorCode::NoQuorum, expected, majority));
        let addresses = "check the addresses in the configuration, and that the metadata nodes are up";
        let expected = "no metadata node answers; metadata-1, metadata-2: no answer within 1.5 s";
        assert_eq!(said(&[SILENT, SILENT]).given_up(), error(ErrorCode::Unreachable, expected, addresses));
        let expected = "no metadata node answers";
        assert_eq!(Said::default().given_up(), error(ErrorCode::Unreachable, expected, addresses));
        let expected = "metadata-1: not valid yet; metadata-2: no answer within 1.5 s";
        assert_eq!(said(&[DENIED, SILENT]).given_up(), error(ErrorCode::Denied, expected, "the clocks"));
    }

    #[test]
    fn final_is_what_all_have_said() {
        assert!(said(&[DENIED; 3]).is_final(3));
        assert!(!said(&[DENIED; 2]).is_final(3));
        for other in [SILENT, LATE, FOLLOWS, ASTRAY] {
            assert!(!said(&[DENIED, DENIED, other]).is_final(3), "{other:?}");
        }
        assert!(said(&[DENIED, SILENT, FOLLOWS]).leader_refused());
        assert!(!said(&[DENIED, SILENT, ASTRAY]).leader_refused());
        assert!(!said(&[SILENT, FOLLOWS, FOLLOWS]).leader_refused());
    }

    #[test]
    fn a_later_round_is_believed_but_where_it_is_silent() {
        let mut words = said(&[DENIED, ASTRAY, SILENT]);
        words.take(said(&[SILENT, DENIED, LATE]));
        let expected = "metadata-1, metadata-2: not valid yet; metadata-3: did not answer in time";
        assert_eq!(words.error(), error(ErrorCode::Denied, expected, "the clocks"));
        assert_eq!(words.count(), 3);
        assert_eq!(words.code_of(2), Some(ErrorCode::Timeout));
        assert_eq!(words.code_of(3), None);
    }

    #[test]
    fn a_request_that_may_have_had_an_effect_stays_such_whatever_is_said_later() {
        assert!(!said(&[FOLLOWS, DENIED, ASTRAY]).is_uncertain());
        assert!(said(&[FOLLOWS, LATE]).is_uncertain());
        for words in [[LATE, FOLLOWS], [FOLLOWS, LATE]] {
            let mut of_one = Said::default();
            let hear =
                |said: &mut Said, (code, reason, hint)| said.hear(0, &name(0), error(code, reason, hint));
            words.into_iter().for_each(|word| hear(&mut of_one, word));
            assert!(of_one.is_uncertain(), "{words:?}");
            let mut both = said(&[FOLLOWS]);
            both.take(of_one);
            assert!(both.is_uncertain(), "{words:?}");
        }
    }
}
