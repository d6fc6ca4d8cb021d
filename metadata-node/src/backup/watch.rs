//! How this member's backups are: what the task that writes them found last, for whoever asks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use wmall_proto::status::BackupStatus;

/// Bytes of a reason that are kept: it goes with every answer to the leader.
const MAX_REASON: usize = 200;

/// Knowledge of the task. None until it has begun; a member without `[backup]` has none.
#[derive(Default)]
pub(crate) struct BackupWatch(Mutex<Option<Known>>);

struct Known {
    every_ms: u64,
    /// When the task began, by the cluster's clock; unset while that has no reading.
    begun_ms: Option<u64>,
    /// When the newest file was written that was read back, by the cluster's clock.
    newest_ms: Option<u64>,
    /// Why the last try failed; none if it did not.
    write_failed: Option<String>,
    /// Why the folder could not be looked at.
    look_failed: Option<String>,
}

impl BackupWatch {
    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Backups are to be written from now on.
    pub(super) fn begin(&self, every_ms: u64) {
        let (begun_ms, newest_ms) = (None, None);
        *self.lock() = Some(Known { every_ms, begun_ms, newest_ms, write_failed: None, look_failed: None });
    }

    /// A look at the folder has found this as the newest file of this member.
    pub(super) fn looked(&self, newest: Result<Option<u64>, String>) {
        if let Some(known) = &mut *self.lock() {
            match newest {
                Ok(newest) => (known.newest_ms, known.look_failed) = (newest, None),
                Err(why) => known.look_failed = Some(bounded(why)),
            }
        }
    }

    /// A try has ended so.
    pub(super) fn wrote(&self, outcome: Result<u64, String>) {
        if let Some(known) = &mut *self.lock() {
            match outcome {
                Ok(at_ms) => (known.newest_ms, known.write_failed) = (Some(at_ms), None),
                Err(why) => known.write_failed = Some(bounded(why)),
            }
        }
    }

    /// For the status, at this reading of the cluster's clock.
    pub(crate) fn status(&self, now_ms: u64) -> Option<BackupStatus> {
        let mut known = self.lock();
        let known = known.as_mut()?;
        if now_ms > 0 {
            known.begun_ms.get_or_insert(now_ms);
        }
        let last_ms = known.newest_ms.or(known.begun_ms).unwrap_or(now_ms);
        let failed = known.write_failed.clone().or_else(|| known.look_failed.clone());
        Some(BackupStatus { every_ms: known.every_ms, age_ms: now_ms.saturating_sub(last_ms), failed })
    }
}

/// When a file is to be written: an interval after the newest one, which may be of a process before, or after
/// the last try; soon where there is none; and after a failure a tenth of an interval after the last try.
pub(super) fn is_due(
    every_ms: u64,
    now_ms: u64,
    newest_ms: Option<u64>,
    (since_try_ms, last_failed): (u64, bool),
) -> bool {
    const SOON_MS: u64 = 60_000;
    match newest_ms {
        _ if last_failed => since_try_ms >= (every_ms / 10).max(1000).min(every_ms),
        Some(newest) => now_ms >= newest.saturating_add(every_ms) || since_try_ms >= every_ms,
        None => since_try_ms >= every_ms.min(SOON_MS),
    }
}

fn bounded(mut why: String) -> String {
    why.truncate((0..=MAX_REASON).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0));
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(age_ms: u64, failed: Option<&str>) -> Option<BackupStatus> {
        Some(BackupStatus { every_ms: 100, age_ms, failed: failed.map(Into::into) })
    }

    #[test]
    fn the_age_is_that_of_the_newest_file_and_reasons_come_and_go() {
        let watch = BackupWatch::default();
        assert_eq!(watch.status(5), None, "no [backup]");
        watch.begin(100);
        assert_eq!(watch.status(0), status(0, None), "the clock has yet to begin");
        assert_eq!(watch.status(1000), status(0, None));
        assert_eq!(watch.status(1300), status(300, None), "there has been none since the start");
        watch.looked(Ok(Some(900)));
        assert_eq!(watch.status(1300), status(400, None));
        watch.wrote(Err("full".into()));
        watch.looked(Ok(Some(900)));
        assert_eq!(watch.status(1300), status(400, Some("full")), "a look mends no write");
        watch.wrote(Ok(1300));
        watch.looked(Err("gone".into()));
        assert_eq!(watch.status(1310), status(10, Some("gone")));
        watch.looked(Ok(None));
        assert_eq!(watch.status(1310), status(310, None), "and a file that was taken away is none");
        watch.wrote(Err("ä".repeat(MAX_REASON)));
        assert_eq!(watch.status(1310).unwrap().failed.unwrap().len(), MAX_REASON);
    }

    #[test]
    fn a_file_is_due_by_the_newest_one_and_not_by_the_start() {
        let hour = 3_600_000;
        let due = |now, newest, since_try, failed| is_due(hour, now, newest, (since_try, failed));
        assert!(!due(hour, Some(1), 5000, false) && due(hour + 1, Some(1), 5000, false));
        assert!(due(1, Some(9 * hour), hour, false), "a file of the future stops nothing");
        assert!(!due(9 * hour, None, 59_999, false) && due(9 * hour, None, 60_000, false));
        assert!(!due(9 * hour, Some(1), 359_999, true) && due(9 * hour, Some(1), 360_000, true));
        let due = |since_try, failed| is_due(1000, 9000, None, (since_try, failed));
        assert!(due(1000, false) && !due(999, true) && due(1000, true));
    }
}
