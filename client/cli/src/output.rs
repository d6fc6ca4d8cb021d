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

/// Prints to stdout as it is. Without a reader any more the command ends here.
fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))
}

/// Prints a line to stdout. Without a reader any more the command ends here.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{text}").map_err(|e| Failure::stdout(&e))
}

/// A table with these columns.
pub(crate) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(columns.iter().map(|c| c.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    lines_of(&table)
}

fn lines_of(table: &Table) -> String {
    table.lines().map(|l| l.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

/// A list of any length, printed page by page: the text is that of the whole, and a page is all that is held.
pub(crate) struct Listing {
    format: Format,
    columns: &'static [&'static str],
    /// Of the columns so far; none before the first page.
    widths: Option<Vec<usize>>,
    any: bool,
}

impl Listing {
    pub(crate) fn new(format: Format, columns: &'static [&'static str]) -> Self {
        Self { format, columns, widths: None, any: false }
    }

    /// Prints a page.
    pub(crate) fn page<T: Serialize>(
        &mut self,
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<(), Failure> {
        text(&self.page_text(items, row)?)
    }

    /// Prints what comes behind the last page.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        text(&self.end_text())
    }

    fn page_text<T: Serialize>(
        &mut self,
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<String, Failure> {
        let failed = |e: &dyn std::error::Error| Failure::local("cannot print the answer", e);
        if items.is_empty() {
            return Ok(String::new());
        }
        let first = !std::mem::replace(&mut self.any, true);
        Ok(match self.format {
            Format::Table => self.rows_text(items.iter().map(row)),
            Format::Json => {
                let page = serde_json::to_string_pretty(items).map_err(|e| failed(&e))?;
                let inner = page.strip_prefix('[').and_then(|p| p.strip_suffix("\n]")).unwrap_or(&page);
                format!("{}{inner}", if first { "[" } else { "," })
            }
            Format::Yaml => serde_yaml_ng::to_string(items).map_err(|e| failed(&e))?,
        })
    }

    /// Rows under the header that went before, each column at least as wide as on the pages before.
    fn rows_text(&mut self, rows: impl Iterator<Item = Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        if self.widths.is_none() {
            table.set_header(self.columns.iter().map(|c| c.to_uppercase()));
        }
        let widths = self.widths.take().unwrap_or_default();
        let padded = |(i, cell): (usize, String)| {
            let width = widths.get(i).copied().unwrap_or(0);
            format!("{cell:<width$}")
        };
        for row in rows {
            table.add_row(row.into_iter().enumerate().map(padded));
        }
        self.widths = Some(table.column_max_content_widths().into_iter().map(usize::from).collect());
        lines_of(&table) + "\n"
    }

    fn end_text(&mut self) -> String {
        match self.format {
            Format::Table if self.any => String::new(),
            Format::Table => self.rows_text(std::iter::empty()),
            Format::Json if self.any => "\n]\n".into(),
            Format::Json | Format::Yaml if !self.any => "[]\n".into(),
            Format::Json | Format::Yaml => String::new(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(item: &[&str; 2]) -> Vec<String> {
        item.iter().map(ToString::to_string).collect()
    }

    fn in_pages(format: Format, pages: &[&[[&str; 2]]]) -> String {
        let mut listing = Listing::new(format, &["one", "two"]);
        let pages: String = pages.iter().map(|p| listing.page_text(p, row).unwrap()).collect();
        pages + &listing.end_text()
    }

    #[test]
    fn pages_make_the_text_of_the_whole() {
        let all = [["a]", "b"], ["longer", "[c"], ["d", "e"]];
        let columns = table(&["one", "two"], all.iter().map(row)) + "\n";
        let json = serde_json::to_string_pretty(&all).unwrap() + "\n";
        let yaml = serde_yaml_ng::to_string(&all).unwrap();
        for (format, whole) in [(Format::Table, columns), (Format::Json, json), (Format::Yaml, yaml)] {
            assert_eq!(in_pages(format, &[&all]), whole);
            assert_eq!(in_pages(format, &[&all[..2], &[], &all[2..]]), whole);
        }
        let header = table(&["one", "two"], []) + "\n";
        for (format, empty) in
            [(Format::Table, header.as_str()), (Format::Json, "[]\n"), (Format::Yaml, "[]\n")]
        {
            assert_eq!(in_pages(format, &[]), empty);
        }
    }
}
