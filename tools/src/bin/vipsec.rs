//! `vipsec`, the operator's command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use vipsec_tools::operator::{Arguments, run};

fn main() -> ExitCode {
    run(Arguments::parse(), &mut std::io::stdout().lock(), &mut std::io::stderr().lock()).into()
}
