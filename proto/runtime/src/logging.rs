//! Logs on stderr: for people, or as JSON lines for machines.

mod repeats;

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry};

use repeats::Repeats;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// The `[log]` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// What is shown, as `tracing-subscriber` reads it: `info`, or `wmall_data_node=debug,info`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: "info,openraft=warn".into() }
    }
}

/// Starts logging. A second start, as in a process that runs several nodes, changes nothing.
pub fn init(config: &LogConfig) {
    let filter = EnvFilter::try_from_env("WMALL_LOG")
        .or_else(|_| EnvFilter::try_new(&config.filter))
        .unwrap_or_else(|_| EnvFilter::new("info"))
        .and(Repeats::new(config.format));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let _ = match config.format {
        LogFormat::Pretty => registry().with(lines.with_filter(filter)).try_init(),
        LogFormat::Json => registry().with(lines.json().with_filter(filter)).try_init(),
    };
}
