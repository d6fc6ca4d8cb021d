//! When the other members answered last, and what they said of themselves. The replicated position of a
//! member that is gone stays as it was; the time since its last answer does not.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wmall_proto::status::BackupStatus;

/// Answers by the member's name. Bounded by the members.
#[derive(Default)]
pub(crate) struct Answers(Mutex<BTreeMap<String, (Instant, Option<BackupStatus>)>>);

impl Answers {
    /// A member has answered.
    pub(super) fn hear(&self, member: &str, backup: Option<BackupStatus>, now: Instant) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answers.get_mut(member) {
            Some(known) => *known = (now, backup),
            None => drop(answers.insert(member.to_string(), (now, backup))),
        }
    }

    /// Forgets all but these.
    pub(crate) fn retain(&self, is_member: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| is_member(name));
    }

    /// How long a member has been silent to one that has led for so long, and its backups as it said last.
    pub(crate) fn of(&self, member: &str, led: Duration, now: Instant) -> (Duration, Option<BackupStatus>) {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, backup)) = answers.get(member) else { return (led, None) };
        (led.min(now.saturating_duration_since(*at)), backup.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_last_answer_and_from_the_election_at_most() {
        let (answers, start) = (Answers::default(), Instant::now());
        let s = Duration::from_secs;
        assert_eq!(answers.of("m", s(3), start), (s(3), None), "it never answered this leader");
        let backup = BackupStatus { every_ms: 1, age_ms: 2, failed: None };
        answers.hear("m", Some(backup.clone()), start);
        assert_eq!(answers.of("m", s(900), start + s(7)), (s(7), Some(backup)));
        assert_eq!(answers.of("m", s(2), start + s(7)).0, s(2), "a new leader has not waited longer");
        answers.hear("m", None, start + s(8));
        assert_eq!(answers.of("m", s(900), start + s(8)), (s(0), None));
        answers.retain(|name| name != "m");
        assert_eq!(answers.of("m", s(4), start), (s(4), None));
    }
}
