//! Runs schedules: many from a seed on, or one with its log.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use vipsec_sim::{Deciders, Planted, Tally, log, run_split, run_with};

/// Simulates pairs of appliances under faults, and checks what they promise.
#[derive(Parser)]
struct Args {
    /// The first schedule's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many schedules, with consecutive seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Two or three appliances among whom a registry decides, instead of a pair.
    #[arg(long)]
    registry: bool,
    /// A pair whose backup is cut off for long, and nothing else.
    #[arg(long, conflicts_with = "registry")]
    split: bool,
    /// Build a fault in, to see whether it is found.
    #[arg(long, value_enum)]
    planted: Option<Planted>,
    /// Show what everybody logs, in simulated milliseconds.
    #[arg(long)]
    verbose: bool,
    /// What is shown, as a filter of tracing.
    #[arg(long, default_value = "info")]
    filter: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.verbose {
        log::show(&args.filter);
    }
    let began = Instant::now();
    let mut sum = Tally::default();
    let mut broken = 0;
    let deciders = if args.registry { Deciders::Registry } else { Deciders::Pair };
    for seed in args.seed..args.seed.saturating_add(args.count) {
        let outcome = if args.split { run_split(seed, args.planted) } else { run_with(seed, args.planted, deciders) };
        sum.add(&outcome.tally);
        if let Some((step, elapsed, violation)) = outcome.violation {
            broken += 1;
            println!("seed {seed}, step {step}, {elapsed:?}: {violation}");
        }
    }
    println!("{} schedules in {:.1?}, {broken} broken; {sum:?}", args.count, began.elapsed());
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
