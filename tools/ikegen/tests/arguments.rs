//! What the program says of arguments that it can't use: the argument, what is wrong with it, and how to go on.

use std::process::{Command, Output};

fn ikegen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vipsec-ikegen"))
        .args(["--gateway=127.0.0.1", "--base=203.0.113.0", "--count=1"])
        .args(arguments)
        .output()
        .expect("vipsec-ikegen starts")
}

fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "there is nothing to report: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_secret_that_is_not_there_is_named() {
    let said = complaint(&ikegen(&["--secret-file=/nonexistent/fleet.psk"]));
    assert!(said.contains("/nonexistent/fleet.psk"), "{said}");
}

#[test]
fn a_proposal_that_nobody_knows_is_named() {
    let said = complaint(&ikegen(&["--secret-file=/dev/null", "--proposals=rot13-md5"]));
    assert!(said.contains("--proposals") && said.contains("rot13"), "{said}");
}
