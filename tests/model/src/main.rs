//! Looks at all schedules of a scope.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use vipsec_model::{Planted, Scope, Subject, Verdict, check};
use vipsec_takeover::{Member, Pair};

/// Checks the deciders of two appliances in every schedule of a small scope.
#[derive(Parser)]
struct Args {
    /// Looks in which faults may strike.
    #[arg(long, default_value_t = 12)]
    window: u8,
    /// How many do, at most.
    #[arg(long, default_value_t = 2)]
    faults: u8,
    /// A registry decides, instead of the two between themselves.
    #[arg(long)]
    registry: bool,
    /// Break a rule, to see whether it is found.
    #[arg(long, value_enum)]
    planted: Option<Planted>,
}

fn run<D: Subject>(args: &Args) -> Verdict {
    check::<D>(Scope { window: args.window, faults: args.faults }, args.planted)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    let verdict = if args.registry { run::<Member>(&args) } else { run::<Pair>(&args) };
    println!("{verdict}in {:.1?}", began.elapsed());
    if verdict.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
