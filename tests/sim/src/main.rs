//! Runs schedules: many from a seed on, or one with its log.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use vipsec_sim::{Deciders, Outcome, Planted, Tally, log, run_planned, run_split, run_with};

/// Simulates appliances under faults, and checks what they promise.
#[derive(Parser)]
struct Args {
    /// The first schedule's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many schedules, with consecutive seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// What kind of schedules.
    #[arg(long, value_enum, default_value_t = Kind::Pair)]
    kind: Kind,
    /// Build a fault in, to see whether it is found.
    #[arg(long, value_enum)]
    planted: Option<Planted>,
    /// Threads that run schedules.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Show what everybody logs, in simulated milliseconds.
    #[arg(long)]
    verbose: bool,
    /// What is shown, as a filter of tracing.
    #[arg(long, default_value = "info")]
    filter: String,
}

/// Kinds of schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A pair under all faults.
    Pair,
    /// Two to five appliances among whom a registry decides.
    Registry,
    /// A pair whose backup is cut off for long, and nothing else.
    Split,
    /// A pair whose VIPs move and whose processes end by order, and nothing goes wrong.
    Planned,
}

impl Kind {
    fn run(self, seed: u64, planted: Option<Planted>) -> Outcome {
        match self {
            Self::Pair => run_with(seed, planted, Deciders::Pair),
            Self::Registry => run_with(seed, planted, Deciders::Registry),
            Self::Split => run_split(seed, planted),
            Self::Planned => run_planned(seed),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Registry => "registry",
            Self::Split => "split",
            Self::Planned => "planned",
        }
    }
}

impl Args {
    /// Runs schedules until none is left; tells of those that break a promise.
    fn work(&self, next: &AtomicU64) -> (Tally, u64) {
        let (mut sum, mut broken) = (Tally::default(), 0);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                return (sum, broken);
            }
            let seed = self.seed.saturating_add(number);
            let outcome = self.kind.run(seed, self.planted);
            sum.add(&outcome.tally);
            if let Some((step, elapsed, violation)) = &outcome.violation {
                broken += 1;
                let is_same = self.verbose || self.kind.run(seed, self.planted) == outcome;
                let replayed = if is_same { "" } else { " (NOT seen again)" };
                println!("seed {seed}, step {step}, {elapsed:?}: {violation}{replayed}");
            }
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.verbose {
        log::show(&args.filter);
    }
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads.max(1)).map(|_| scope.spawn(|| args.work(&next))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic in any schedule")).collect()
    });
    let (mut sum, mut broken) = (Tally::default(), 0);
    for (tally, found) in results {
        sum.add(&tally);
        broken += found;
    }
    println!("{} schedules in {:.1?}, {broken} broken; {sum:?}", args.count, began.elapsed());
    if broken == 0 {
        return ExitCode::SUCCESS;
    }
    println!("to see one: cargo run --release -p vipsec-sim -- --kind {} --verbose --seed SEED", args.kind.name());
    ExitCode::FAILURE
}
