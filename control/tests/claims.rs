//! docs/claims.md names the code that keeps a promise and the tests that show it: all of that exists.

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
