//! A simulation is worth what it finds: each rule, once broken, is found.

use vipsec_sim::{Outcome, Planted, Violation, run};

/// The first schedule, of those that `make test` runs, in which a planted fault breaks a promise of the expected kind.
fn first_found(planted: Planted, expected: impl Fn(&Violation) -> bool) -> Outcome {
    let outcomes = (1..=SCHEDULES).map(|seed| run(seed, Some(planted)));
    let found = outcomes.into_iter().find(|outcome| outcome.violation.as_ref().is_some_and(|(.., it)| expected(it)));
    found.unwrap_or_else(|| panic!("{planted:?}: not found in {SCHEDULES} schedules"))
}

/// As many as `tests/schedules.rs` runs.
const SCHEDULES: u64 = 4000;
