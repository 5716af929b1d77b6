//! A few thousand schedules, each from its own seed; and that a seed is all it takes to see one again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use vipsec_sim::{Deciders, Outcome, Tally, run, run_planned, run_split, run_with};

const SCHEDULES: u64 = 3000;
const THREADS: usize = 2;

/// Runs the first schedules; none may break a promise.
fn run_all(schedules: u64, deciders: Deciders) -> Tally {
    let next = AtomicU64::new(1);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > schedules {
                return outcomes;
            }
            outcomes.push(run_with(seed, None, deciders));
        }
    };
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic in any schedule")).collect()
    });
    let mut sum = Tally::default();
    let mut broken = String::new();
    for outcome in &outcomes {
        sum.add(&outcome.tally);
        if let Some((step, elapsed, violation)) = &outcome.violation {
            let seed = outcome.seed;
            broken += &format!(
                "{deciders:?}, seed {seed}, step {step}, {elapsed:?}: {violation}\n\
                 \treplay: cargo run -p vipsec-sim -- --seed {seed} --verbose (and --kind registry, if one decides)\n"
            );
        }
    }
    assert!(broken.is_empty(), "\n{broken}");
    sum
}

#[test]
fn no_schedule_of_a_pair_breaks_a_promise() {
    let sum = run_all(SCHEDULES, Deciders::Pair);
    // A simulation in which nothing happens proves nothing.
    assert!(sum.resumed > SCHEDULES / 2 && sum.delivered > 100 * SCHEDULES && sum.excused > 0, "{sum:?}");
    assert!(sum.kept > SCHEDULES / 100, "{sum:?}");
    assert!(sum.handed_over > 10 * SCHEDULES, "{sum:?}");
}

#[test]
fn no_schedule_with_a_registry_breaks_a_promise() {
    let schedules = SCHEDULES / 2;
    let sum = run_all(schedules, Deciders::Registry);
    assert!(sum.resumed > schedules / 3 && sum.delivered > 100 * schedules, "{sum:?}");
    // There is no exception where somebody decides.
    assert_eq!(sum.excused, 0);
}

/// A backup that was cut off itself doesn't depose the one with the traffic.
#[test]
fn when_a_split_heals_the_one_with_the_traffic_stays() {
    for seed in 1..=200 {
        let outcome = run_split(seed, None);
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}

/// What is moved by order, or told to end, hands over: every takeover is from a trusted copy, and no packet is lost.
#[test]
fn planned_moves_and_ends_lose_nothing() {
    let mut sum = Tally::default();
    for seed in 1..=200 {
        let outcome = run_planned(seed);
        assert_eq!(outcome.violation, None, "seed {seed}");
        sum.add(&outcome.tally);
    }
    assert!(sum.resumed > 400 && sum.found_dead == 0, "{sum:?}");
}

#[test]
fn a_schedule_is_a_function_of_its_seed() {
    for seed in 1..=40 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
        let with_registry = || run_with(seed, None, Deciders::Registry);
        assert_eq!(with_registry(), with_registry(), "seed {seed} with a registry");
    }
}
