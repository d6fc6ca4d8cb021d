//! What operators ask of nodes and disks, and the jobs that come of it.
//!
//! A job is durable: it is a record of the state machine, and what it does is done by the repair planner, which goes by
//! the marks that the job has set on its disks. So no job is lost with a leader, and none has to be resumed.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::DiskId;
use crate::names::{NameError, NodeName};

/// Jobs that are remembered; the oldest that have ended go.
pub const MAX_JOBS: usize = 1024;

/// A data node, or one of its disks: `NODE` or `NODE/DISK`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Place {
    /// The node.
    pub node: NodeName,
    /// The disk's name on it; all of its disks, if none.
    pub disk: Option<NodeName>,
}

impl Place {
    /// A whole node.
    pub fn node(node: NodeName) -> Self {
        Self { node, disk: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.disk {
            Some(disk) => write!(f, "{}/{disk}", self.node),
            None => self.node.fmt(f),
        }
    }
}

impl FromStr for Place {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((node, disk)) => Ok(Self { node: NodeName::new(node)?, disk: Some(NodeName::new(disk)?) }),
            None => Ok(Self::node(NodeName::new(text)?)),
        }
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Empties disks.
    Drain,
    /// Empties a disk into another one.
    Replace,
}

impl JobKind {
    /// The word, as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Replace => "replace",
        }
    }
}

/// How a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Under way.
    Running,
    /// Held by an operator: nothing more begins to move.
    Paused,
    /// Its disks are empty.
    Done,
    /// Given up by an operator: its disks keep what they have, and take pieces again.
    Cancelled,
}

impl JobState {
    /// The word, as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing changes it any more.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Job {
    /// Its number: 1, 2, 3 and so on, for ever.
    pub number: u64,
    /// What it does.
    pub kind: JobKind,
    /// To what, in the words of the command line.
    pub what: String,
    /// The disks that it empties.
    pub disks: Vec<DiskId>,
    /// Where to, if that was said.
    pub successor: Option<DiskId>,
    /// How it is.
    pub state: JobState,
    /// Slots of groups that the disks had when it began.
    pub slots: u64,
    /// Bytes of these, about.
    pub bytes: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// For how long it had run when it was paused last, without pauses.
    pub ran_ms: u64,
    /// Since when it runs; none while it does not.
    pub running_since_ms: Option<u64>,
}

/// A job, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// Slots that its disks still have.
    pub slots_left: u64,
    /// Slots that they have given away and still hold the pieces of, until the new disks have them.
    pub leaving: u64,
    /// Slots for which there is no other disk now.
    pub stuck: u64,
    /// In about so many milliseconds it is done, if it goes on like this.
    pub eta_ms: Option<u64>,
}

impl JobView {
    /// Parts of a thousand that are done.
    pub fn permille(&self) -> u64 {
        let left = self.slots_left + self.leaving;
        if self.job.state == JobState::Done || self.job.slots == 0 {
            return 1000;
        }
        1000 - (left.min(self.job.slots) * 1000 / self.job.slots)
    }

    /// The time that is left, by the time that it took so far.
    pub fn eta(job: &Job, left: u64, now_ms: u64) -> Option<u64> {
        let running = now_ms.saturating_sub(job.running_since_ms?) + job.ran_ms;
        let done = job.slots.checked_sub(left).filter(|done| *done > 0)?;
        u64::try_from(u128::from(running) * u128::from(left) / u128::from(done)).ok()
    }
}

/// What an operator does with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum JobChange {
    /// Nothing more begins to move.
    Pause,
    /// It goes on.
    Resume,
    /// It ends here.
    Cancel,
}

impl JobChange {
    /// The word of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

/// What an operator asks of nodes and disks. Unsafe steps are refused with what makes them so.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Operation {
    /// Has disks emptied; they get nothing new. Answered with the job's number.
    Drain(Place),
    /// Lets disks keep what they have, and take pieces again.
    Undrain(Place),
    /// Has a disk emptied into another one. Answered with the job's number.
    Replace {
        /// The disk to be emptied.
        old: Place,
        /// The disk that takes over.
        new: Place,
    },
    /// Changes a job.
    Job {
        /// Its number.
        number: u64,
        /// How.
        change: JobChange,
    },
    /// Has a node's silence cause no repairs for a while, but for chunks that the next loss would lose.
    Maintenance {
        /// The node.
        node: NodeName,
        /// For how long, in milliseconds; no longer at all, if none.
        for_ms: Option<u64>,
        /// Although chunks could not be read without it.
        force: bool,
    },
    /// Changes the layout draft, or what it is a draft of.
    Layout(crate::layout::LayoutChange),
    /// Leaves a finding out of what `wmall health` judges by.
    Mute {
        /// Its code.
        code: String,
        /// For how long, in milliseconds; no longer at all, if none.
        for_ms: Option<u64>,
    },
    /// Forgets a disk that has nothing and will not come back.
    Forget(Place),
    /// Lets a disk out of quarantine. Nothing that it holds counts before it has been looked through.
    Release(Place),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(slots: u64) -> Job {
        Job {
            number: 1,
            kind: JobKind::Drain,
            what: "data-1".into(),
            disks: vec![],
            successor: None,
            state: JobState::Running,
            slots,
            bytes: 0,
            created_ms: 0,
            ended_ms: None,
            ran_ms: 500,
            running_since_ms: Some(1000),
        }
    }

    #[test]
    fn the_time_left_goes_by_the_time_that_it_ran() {
        // A quarter took a second and a half: three times that is left.
        assert_eq!(JobView::eta(&job(100), 75, 2000), Some(4500));
        assert_eq!(JobView::eta(&job(100), 100, 2000), None, "nothing is done yet");
        assert_eq!(JobView::eta(&Job { running_since_ms: None, ..job(100) }, 75, 2000), None, "paused");
        assert_eq!(JobView::eta(&job(100), 130, 2000), None, "more than there was");
    }

    #[test]
    fn a_place_is_a_node_or_a_disk() {
        for text in ["data-1", "data-1/disk-2"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in ["", "/", "data-1/", "/disk", "a/b/c", "Data"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn progress_in_thousandths() {
        let view =
            |left, leaving| JobView { job: job(100), slots_left: left, leaving, stuck: 0, eta_ms: None };
        assert_eq!((view(100, 0).permille(), view(50, 25).permille(), view(0, 0).permille()), (0, 250, 1000));
    }
}
