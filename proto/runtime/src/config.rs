//! Layered configuration: defaults in the type, then the file, then the environment
//! (`WMALL__SECTION__KEY=value`), then flags, which the command line applies itself.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Variables with this prefix override the file; two underscores separate the levels.
const ENV_PREFIX: &str = "WMALL__";

/// Why a configuration is no good.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or unreadable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be; the text names line and column.
    #[error("{path}, line {line}: {why}")]
    Parse {
        /// Which.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// A variable of the environment does not fit.
    #[error("{variable} in the environment does not fit: {why}")]
    Environment {
        /// Which, or all of them when one can't be told from another.
        variable: String,
        /// Why.
        why: String,
    },
    /// The values do not go together.
    #[error("{path}: {why}")]
    Invalid {
        /// Which file.
        path: String,
        /// What does not go together.
        why: String,
    },
}

/// Loads a file and nothing else, for programs that share their environment with nodes.
pub fn load_file<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    load_with(path, Vec::new())
}

/// Loads a file and lays the environment over it.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let variables = std::env::vars().filter(|(name, _)| name.starts_with(ENV_PREFIX));
    load_with(path, variables.collect())
}

fn load_with<T: DeserializeOwned>(path: &Path, variables: Vec<(String, String)>) -> Result<T, ConfigError> {
    let shown = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
    let parse_error = |error: toml::de::Error| {
        let at = error.span().map_or(0, |s| s.start).min(text.len());
        let line = text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1;
        ConfigError::Parse { path: shown.clone(), line, why: error.message().to_string() }
    };
    // Straight from the text first: only so do errors know their line.
    let typed = toml::from_str::<T>(&text).map_err(parse_error);
    if variables.is_empty() {
        return typed;
    }
    let mut table: Table = toml::from_str(&text).map_err(parse_error)?;
    let names: Vec<String> = variables.iter().map(|(name, _)| name.clone()).collect();
    for (name, value) in variables {
        overlay(&mut table, &name, value)?;
    }
    Value::Table(table).try_into().map_err(|error: toml::de::Error| match typed {
        // What is wrong with the file is said with its line, whatever lies over it.
        Err(error) => error,
        Ok(_) => ConfigError::Environment { variable: names.join(", "), why: error.message().to_string() },
    })
}

fn overlay(table: &mut Table, name: &str, value: String) -> Result<(), ConfigError> {
    let path: Vec<String> = name[ENV_PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
    let Some((key, sections)) = path.split_last() else { return Ok(()) };
    let mut place = table;
    for section in sections {
        let next = place.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        place = next.as_table_mut().ok_or_else(|| ConfigError::Environment {
            variable: name.to_string(),
            why: format!("{section} is no section"),
        })?;
    }
    // A number, a truth value or a list where it reads as one; text otherwise.
    let typed = format!("v = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
    place.insert(key.clone(), typed.unwrap_or(Value::String(value)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        ops: Section,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Section {
        port: u16,
    }

    fn load_text(text: &str, variables: &[(&str, &str)]) -> Result<Sample, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let owned = variables.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        load_with(file.path(), owned.collect())
    }

    const GOOD: &str = "name = \"a\"\n[ops]\nport = 1\n";

    #[test]
    fn an_error_names_its_line() {
        for (text, expected) in [
            ("name = \"a\"\n[ops]\nport = \"x\"\n", 3),
            ("name = \"a\"\n[ops]\nport = 1\nprot = 2\n", 4),
            ("name = \n", 1),
        ] {
            match load_text(text, &[]) {
                Err(ConfigError::Parse { line, .. }) => assert_eq!(line, expected, "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_environment_lies_over_the_file() {
        let sample = load_text(GOOD, &[("WMALL__OPS__PORT", "7"), ("WMALL__NAME", "b")]).unwrap();
        assert_eq!(sample, Sample { name: "b".into(), ops: Section { port: 7 } });
        assert!(matches!(
            load_text(GOOD, &[("WMALL__OPS__PORT", "many")]),
            Err(ConfigError::Environment { .. })
        ));
    }
}
