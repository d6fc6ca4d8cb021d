//! Failures as the user sees them: a stable code, why, and what to try; and the exit codes.
//!
//! 0 ok, 1 failed, 2 usage, 3 health warning, 4 health error, 5 unsafe and refused, 6 timed out while the
//! work goes on, 69 unreachable, 77 denied, 78 bad config (the last three from sysexits.h). 128 and a number:
//! ended by that signal; 141 with nothing said, as by SIGPIPE: nobody reads stdout any more.

use std::fmt::Display;
use std::process::ExitCode;

use wmall_client::ClientError;
use wmall_devnet::DevnetError;
use wmall_metadata_node::{InitError, RecoverError, RunError, SurvivorError};
use wmall_proto::{ErrorCode, RpcError};
use wmall_runtime::{ConfigError, FolderError};
use wmall_transport::JoinError;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const WARNINGS: u8 = 3;
const ERRORS: u8 = 4;
const UNSAFE: u8 = 5;
const GOES_ON: u8 = 6;
const UNREACHABLE: u8 = 69;
const DENIED: u8 = 77;
const BAD_CONFIG: u8 = 78;
/// As shells show a process that SIGPIPE ended.
pub(crate) const STDOUT_CLOSED: u8 = by_signal(13);

/// As shells show a process that this signal ended.
pub(crate) const fn by_signal(number: i32) -> u8 {
    128 + (number as u8 & 0x7f)
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: String,
    reason: String,
    hint: String,
    exit: u8,
}

impl Failure {
    fn new(code: impl Into<String>, reason: impl Into<String>, exit: u8) -> Self {
        Self { code: code.into(), reason: reason.into(), hint: String::new(), exit }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Something on this machine.
    pub(crate) fn local(what: impl Display, why: &dyn std::error::Error) -> Self {
        Self::new("local", format!("{what}: {}", chain(why)), FAILED)
    }

    /// Something could not be written to stdout.
    pub(crate) fn stdout(why: &std::io::Error) -> Self {
        match why.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new("stdout_closed", why.to_string(), STDOUT_CLOSED),
            _ => Self::local("cannot write to stdout", why),
        }
    }

    /// The command line does not make sense.
    pub(crate) fn usage(why: impl Display) -> Self {
        Self::new("usage", why.to_string(), USAGE)
    }

    /// Something needs attention.
    pub(crate) fn unhealthy(errors: bool, findings: usize) -> Self {
        let (code, exit) = if errors { ("health_error", ERRORS) } else { ("health_warning", WARNINGS) };
        Self::new(code, format!("{findings} findings need attention"), exit)
    }

    /// What was waited for is still under way.
    pub(crate) fn goes_on(why: impl Into<String>) -> Self {
        Self::new("timeout", why, GOES_ON)
    }

    /// A check that came out badly.
    pub(crate) fn check(code: &str, why: impl Into<String>) -> Self {
        Self::new(code, why, FAILED)
    }

    /// A step that may lose data, and was not done.
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unsafe.as_str(), why, UNSAFE)
    }

    /// A long-running role ended with this error.
    pub(crate) fn role(role: &str, why: &dyn std::error::Error) -> Self {
        Self::new("node_stopped", format!("{role}: {}", chain(why)), FAILED)
    }

    /// A metadata node's folder was not made.
    pub(crate) fn metadata_init(why: &InitError) -> Self {
        match why.hint() {
            Some(hint) => Self::new(ErrorCode::Unsafe.as_str(), why.to_string(), UNSAFE).hint(hint),
            None => Self::role("metadata-node init", why),
        }
    }

    /// A data node ended with this error.
    pub(crate) fn data_node(why: &wmall_data_node::RunError) -> Self {
        match why {
            wmall_data_node::RunError::Replaced(error) => {
                Self::new(ErrorCode::Unsafe.as_str(), error.reason.clone(), UNSAFE).hint(error.hint.clone())
            }
            _ => Self::role("data-node", why),
        }
    }

    /// A metadata node ended with this error.
    pub(crate) fn metadata_node(why: &RunError) -> Self {
        match why {
            RunError::NotAMember(why) => {
                Self::new(ErrorCode::Unsafe.as_str(), why.to_string(), UNSAFE).hint(why.hint())
            }
            _ => Self::role("metadata-node", why),
        }
    }

    pub(crate) fn report(&self) -> ExitCode {
        // The reader, who stopped reading, knows.
        if self.exit == STDOUT_CLOSED {
            return ExitCode::from(self.exit);
        }
        eprintln!("error[{}]: {}", self.code, self.reason);
        if !self.hint.is_empty() {
            eprintln!("  try: {}", self.hint);
        }
        ExitCode::from(self.exit)
    }
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent errors repeat their cause.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = error.code();
        let reason = match &error {
            ClientError::Cluster(error) => error.reason.clone(),
            other => chain(other),
        };
        let exit = match code {
            ErrorCode::Unreachable | ErrorCode::NoQuorum => UNREACHABLE,
            ErrorCode::Denied => DENIED,
            ErrorCode::Unsafe => UNSAFE,
            _ => FAILED,
        };
        Self::new(code.as_str(), reason, exit).hint(error.hint())
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        ClientError::from(error).into()
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Refused(error) => error.into(),
            JoinError::OtherRole { .. } | JoinError::OtherName(_) => Self::usage(error),
            JoinError::HasIdentity(_) => Self::new("already_exists", error.to_string(), FAILED)
                .hint("remove that folder first, if the identity in it is of no use any more"),
            other => Self::new("local", chain(&other), FAILED),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new("bad_config", chain(&error), BAD_CONFIG)
    }
}

impl From<DevnetError> for Failure {
    fn from(error: DevnetError) -> Self {
        match error {
            DevnetError::Client(error) => error.into(),
            other => Self::new("devnet", chain(&other), FAILED),
        }
    }
}

impl From<SurvivorError> for Failure {
    fn from(error: SurvivorError) -> Self {
        let why = chain(&error);
        match error {
            SurvivorError::Folder(FolderError::Locked(_)) => Self::refused(why)
                .hint("stop the metadata node first; `save --local --from NAME` is for one that runs"),
            SurvivorError::NotInitialised(_) => Self::new(ErrorCode::NotFound.as_str(), why, FAILED)
                .hint("look at `data_dir` in the configuration"),
            SurvivorError::NeverTookPart(_) => {
                Self::refused(why).hint("take a member that has been part of the cluster")
            }
            _ => Self::new("local", why, FAILED).hint(
                "take another member that is left, or a backup: `wmall meta snapshot restore`; with neither, \
                 `wmall meta rebuild`",
            ),
        }
    }
}

impl From<RecoverError> for Failure {
    fn from(error: RecoverError) -> Self {
        let why = chain(&error);
        match error {
            RecoverError::Survivor(error) => error.into(),
            RecoverError::NotAMember { .. } => Self::refused(why).hint(
                "take a member that the others did not let go; if there is none, `wmall meta snapshot save \
                 --local` and `restore` begin again with all that this one has",
            ),
            RecoverError::Alone(_) => Self::refused(why).hint("start it: `wmall metadata-node run`"),
            RecoverError::Exchange { folder, new, .. } => Self::new("local", why, FAILED).hint(format!(
                "{folder} may be a mount, or its file system can't do that: move all that is in it elsewhere, to \
                 be kept, and all that is in {new} into it; then start the node"
            )),
            _ => Self::new("local", why, FAILED).hint("mend that, and run the same again"),
        }
    }
}
