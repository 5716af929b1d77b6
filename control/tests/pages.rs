//! Pages that say what shows a thing cite code and tests: all of that exists.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The text of every Rust file in a folder and those below, built ones aside.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

/// A name of a test, a module of tests, a file, a folder, or the end of a test's name; whatever else is in backticks is no citation.
fn exists(cited: &str, text: &str) -> bool {
    let ike = root().join("control/ike/src");
    let module = |path: &str| ike.join(path.replace("::", "/")).with_extension("rs").exists();
    let name = cited.rsplit("::").next().unwrap();
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if cited.contains('/') || cited.ends_with(".rs") {
        root().join(cited).exists() || ike.join(cited).exists()
    } else if let Some(end) = name.strip_prefix('…') {
        text.contains(&format!("{end}()"))
    } else if !name.contains('_') || !name.chars().all(is_name) {
        let is_test = text.contains(&format!("fn {name}("));
        !cited.contains("::") || is_test || module(cited) || module(cited.trim_end_matches("::tests"))
    } else {
        text.contains(&format!("fn {name}("))
            || root().join(format!("tests/fuzz/libfuzzer/fuzz_targets/{name}.rs")).exists()
    }
}

#[test]
fn what_the_conformance_page_cites_exists() {
    let page = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let text: String = ["control/ike/src", "control/tests", "dataplane/src"]
        .iter()
        .map(|folder| sources(&root().join(folder)))
        .collect();
    let configuration = fs::read_to_string(root().join("examples/vipsec.toml")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| §"));
    // Only the last column cites.
    let columns: Vec<_> = rows.filter_map(|row| row.trim_end_matches(['|', ' ']).rsplit('|').next()).collect();
    let cited: Vec<&str> = columns.iter().flat_map(|column| column.split('`').skip(1).step_by(2)).collect();
    let missing: Vec<_> =
        cited.iter().filter(|cited| !exists(cited, &text) && !configuration.contains(**cited)).collect();
    assert!(missing.is_empty(), "cited, but not there: {missing:#?}");
    assert!(cited.len() > 100, "{} citations found", cited.len());
}

#[test]
fn what_the_claims_cite_exists() {
    let page = fs::read_to_string(root().join("docs/claims.md")).unwrap();
    let text: String =
        ["control", "dataplane", "shm-store", "tests"].iter().map(|folder| sources(&root().join(folder))).collect();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    let cited: Vec<&str> = rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    let exists = |cited: &&&str| match cited.contains('/') {
        true => root().join(cited).is_file(),
        false => text.contains(&format!("fn {cited}(")),
    };
    let missing: Vec<_> = cited.iter().filter(|cited| !exists(cited)).collect();
    assert!(missing.is_empty(), "cited, but not there: {missing:#?}");
    assert!(
        rows.iter().all(|row| row.rsplit('|').nth(1).is_some_and(|shown| shown.contains('`'))),
        "a claim without a test"
    );
    assert!(rows.len() > 15, "{} rows", rows.len());
}
