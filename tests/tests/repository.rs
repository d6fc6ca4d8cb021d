//! The rules of the house, held against the repository itself.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use wmall_tests::repository;

/// Every permitted edge between the crates of the workspace: who may import whom. Imports go downward only.
const EDGES: &[(&str, &[&str])] = &[
    ("wmall-proto", &[]),
    ("wmall-manifest", &["wmall-proto"]),
    ("wmall-placement", &["wmall-proto"]),
    ("wmall-rbft", &["wmall-proto"]),
    ("wmall-journal", &[]),
    ("wmall-transport", &["wmall-proto"]),
    ("wmall-runtime", &["wmall-proto"]),
    (
        "wmall-metadata-node",
        &[
            "wmall-proto",
            "wmall-manifest",
            "wmall-journal",
            "wmall-transport",
            "wmall-runtime",
            "wmall-placement",
        ],
    ),
    (
        "wmall-data-node",
        &["wmall-proto", "wmall-manifest", "wmall-journal", "wmall-transport", "wmall-runtime"],
    ),
    ("wmall-client", &["wmall-proto", "wmall-manifest", "wmall-transport", "wmall-runtime", "wmall-rbft"]),
    ("wmall-devnet", &["*"]),
    ("wmall-cli", &["*"]),
    ("wmall-tests", &["*"]),
    ("wmall-benches", &["*"]),
];

/// Crates that are functions of values, and what they must not even see.
const PURE: &[&str] = &["wmall-proto", "wmall-manifest", "wmall-placement", "wmall-rbft"];
const IMPURE: &[&str] = &["tokio", "quinn", "sled", "prometheus", "openraft", "rand"];

/// What cargo says of the workspace as built here: a fresh machine has fetched the crates of
/// its own platform and no others, so those of other platforms must not be asked for.
fn metadata() -> Value {
    let version = Command::new(env!("CARGO")).arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Normal dependencies (not for tests, not for builds) of every package, by package id.
fn normal_dependencies(metadata: &Value) -> BTreeMap<String, Vec<String>> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let normal = |dep: &&Value| dep["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null());
    let of = |node: &Value| {
        let deps = node["deps"].as_array().unwrap().iter().filter(normal);
        let ids = deps.map(|d| d["pkg"].as_str().unwrap().to_string()).collect();
        (node["id"].as_str().unwrap().to_string(), ids)
    };
    nodes.iter().map(of).collect()
}

fn names(metadata: &Value) -> BTreeMap<String, String> {
    let packages = metadata["packages"].as_array().unwrap();
    let pair = |p: &Value| (p["id"].as_str().unwrap().to_string(), p["name"].as_str().unwrap().to_string());
    packages.iter().map(pair).collect()
}

#[test]
fn imports_go_downward_only() {
    let metadata = metadata();
    let (names, dependencies) = (names(&metadata), normal_dependencies(&metadata));
    let table: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    for member in metadata["workspace_members"].as_array().unwrap() {
        let id = member.as_str().unwrap();
        let name = names[id].as_str();
        let allowed = table.get(name).unwrap_or_else(|| panic!("{name} is not in the table of edges"));
        for dependency in &dependencies[id] {
            let other = names[dependency].as_str();
            let fine = !other.starts_with("wmall-") || allowed.contains(&other) || allowed.contains(&"*");
            assert!(fine, "{name} must not import {other}");
        }
    }
}

#[test]
fn pure_crates_see_nothing_impure() {
    let metadata = metadata();
    let (names, dependencies) = (names(&metadata), normal_dependencies(&metadata));
    for pure in PURE {
        let start = names.iter().find(|(_, n)| n == pure).map(|(id, _)| id.clone()).unwrap();
        let (mut seen, mut todo) = (BTreeSet::new(), vec![start]);
        while let Some(id) = todo.pop() {
            if seen.insert(id.clone()) {
                let name = names[&id].as_str();
                assert!(!IMPURE.contains(&name), "{pure} depends on {name}");
                todo.extend(dependencies[&id].iter().cloned());
            }
        }
    }
}

fn tracked_files() -> Vec<String> {
    let output = Command::new("git").args(["ls-files"]).current_dir(repository()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_string).collect()
}

#[test]
fn sources_open_with_their_purpose_and_fit_a_reader() {
    for file in tracked_files().iter().filter(|f| f.ends_with(".rs")) {
        let Ok(text) = std::fs::read_to_string(repository().join(file)) else { continue };
        let test_module = file.ends_with("/tests.rs");
        assert!(test_module || text.starts_with("//!"), "{file} does not say what it is for");
        let lines = text.lines().count();
        assert!(lines <= 600, "{file} has {lines} lines; split it");
    }
}

#[test]
fn the_repository_holds_no_bulk_and_no_foreign_paths() {
    for file in tracked_files() {
        let path = repository().join(&file);
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        assert!(meta.len() < 1 << 20, "{file} has {} bytes", meta.len());
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // Put together here, so that this file is not its own finding.
        for bad in [["/ro", "ot/"].concat(), ["/ho", "me/"].concat(), ["BEGIN PRIVATE", " KEY"].concat()] {
            assert!(!text.contains(&bad), "{file} contains {bad}");
        }
    }
}
