//! A Python program with scapy that answers questions. Tests of several crates include this file.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Has a program answer all questions at once: JSON on its input, and one answer for each question as JSON on its output.
/// `modules` are those that it imports.
pub(crate) fn ask(program: &str, modules: &str, questions: &[Value]) -> Vec<Value> {
    let mut scapy = Command::new(python(modules))
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let question = serde_json::to_vec(questions).expect("JSON");
    scapy.stdin.take().expect("piped").write_all(&question).expect("scapy reads its questions");
    let output = scapy.wait_with_output().expect("Python ends");
    assert!(output.status.success(), "scapy failed; its error is above");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answers.len(), questions.len());
    answers
}

/// The Python that has scapy: the one on the path or the system's own.
fn python(modules: &str) -> &'static str {
    let has_scapy = |python: &&str| {
        let mut probe = Command::new(python);
        probe.args(["-c", &format!("import {modules}")]).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has_scapy);
    found.expect(
        "this test needs scapy as an independent implementation: install python3-scapy and python3-cryptography",
    )
}
