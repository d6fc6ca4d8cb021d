//! What goes to stdout: a table for people, JSON or YAML for programs, from the same value.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::exit::Failure;

/// How a value is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

impl Format {
    /// Prints a value; the table is made only if it is wanted.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let failed = |e: &dyn std::error::Error| Failure::local("cannot print the answer", e);
        let text = match self {
            Self::Table => table(value),
            Self::Json => serde_json::to_string_pretty(value).map_err(|e| failed(&e))?,
            Self::Yaml => serde_yaml_ng::to_string(value).map_err(|e| failed(&e))?,
        };
        line(text.trim_end())
    }
}

/// Prints a line to stdout. A reader that has gone away is not an error of ours.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::local("cannot write to stdout", &error))
        }
        _ => Ok(()),
    }
}

/// A table with these columns.
pub(crate) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(columns.iter().map(|c| c.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|l| l.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

/// Bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// A time for people and programs: RFC 3339 in UTC.
pub(crate) fn time(ms: u64) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    let seconds = i64::try_from(ms / 1000).unwrap_or(0);
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|t| t.format(format).ok())
        .unwrap_or_else(|| "-".into())
}
