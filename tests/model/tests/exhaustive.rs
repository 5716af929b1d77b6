//! All schedules of a small scope keep every promise; and a rule that is broken is found among them.

use vipsec_model::{Planted, Scope, Subject, check};
use vipsec_takeover::{Member, Pair};

/// Wide enough for one fault on top of another, in any order, and for everything that follows.
const TWO_FAULTS: Scope = Scope { window: 5, faults: 2 };
/// Long enough for a copy to be left behind.
const ONE_FAULT: Scope = Scope { window: 12, faults: 1 };

fn assert_all_is_well<D: Subject>(scope: Scope) -> Vec<&'static str> {
    let verdict = check::<D>(scope, None);
    println!("{scope:?}: {verdict}");
    assert!(verdict.broken.is_empty(), "{verdict}");
    verdict.missing
}

#[test]
fn two_faults_of_a_pair_break_nothing() {
    let missing = assert_all_is_well::<Pair>(TWO_FAULTS);
    assert!(missing.is_empty(), "a check in which that doesn't happen proves little: {missing:?}");
}

#[test]
fn one_fault_of_a_pair_breaks_nothing() {
    assert_all_is_well::<Pair>(ONE_FAULT);
}

#[test]
fn two_faults_with_a_registry_break_nothing() {
    let missing = assert_all_is_well::<Member>(TWO_FAULTS);
    assert!(missing.is_empty(), "a check in which that doesn't happen proves little: {missing:?}");
}

#[test]
fn one_fault_with_a_registry_breaks_nothing() {
    assert_all_is_well::<Member>(ONE_FAULT);
}

/// The broken rule is found: some schedule breaks that promise first.
fn assert_found<D: Subject>(planted: Planted, scope: Scope, promises: &[&str]) {
    let verdict = check::<D>(scope, Some(planted));
    let found = verdict.broken.iter().any(|(promise, _)| promises.contains(promise));
    assert!(found, "{planted:?}: {verdict}");
}

const TRUST: [&str; 2] = ["trusted implies counted", "nothing is resumed that its owner went on without"];

#[test]
fn a_backup_that_trusts_for_ever_is_found() {
    assert_found::<Pair>(Planted::EndlessTrust, ONE_FAULT, &TRUST);
}

#[test]
fn an_owner_that_leaves_its_copy_behind_at_once_is_found() {
    assert_found::<Pair>(Planted::HastyOwner, ONE_FAULT, &TRUST);
}

#[test]
fn workers_without_a_deadline_are_found() {
    assert_found::<Pair>(Planted::NoDeadline, ONE_FAULT, &["one acts, outside of a partition"]);
}

#[test]
fn a_floor_that_went_back_is_found() {
    assert_found::<Pair>(Planted::OldFloor, TWO_FAULTS, &["no appliance uses an epoch twice"]);
}

#[test]
fn a_mark_that_is_sent_too_early_is_found() {
    assert_found::<Pair>(Planted::EarlyMark, TWO_FAULTS, &TRUST);
}

#[test]
fn a_backup_that_is_never_found_again_is_found() {
    assert_found::<Pair>(Planted::EndlessAbsence, ONE_FAULT, &["a backup whose copy counts isn't missing"]);
}

#[test]
fn a_fence_that_does_not_hold_is_found() {
    assert_found::<Pair>(Planted::LeakyFence, ONE_FAULT, &["a deposed owner's write never counts"]);
}

#[test]
fn a_registry_that_compares_nothing_is_found() {
    assert_found::<Member>(Planted::CarelessRegistry, TWO_FAULTS, &TRUST);
}
